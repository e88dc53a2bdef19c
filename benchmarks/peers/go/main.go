// Go's net/http as a peer: the standard library's server and ServeMux, one processor (GOMAXPROCS=1).
// The port is the only argument. Built on demand by ../../build.py, outside the tree.
package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
)

const (
	text   = "text/plain; charset=utf-8"
	binary = "application/octet-stream"
)

func answer(w http.ResponseWriter, kind string, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

func fixed(kind string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { answer(w, kind, body) }
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: PROGRAM PORT")
	}
	pattern := []byte("0123456789abcdef")
	chunk := bytes.Repeat(pattern, 64)
	hello := fixed(text, []byte("Hello, World!"))
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		hello(w, r)
	})
	mux.HandleFunc("/json", func(w http.ResponseWriter, r *http.Request) {
		body, _ := json.Marshal(map[string]string{"message": "Hello, World!"})
		answer(w, "application/json", body)
	})
	mux.HandleFunc("/10k", fixed(binary, bytes.Repeat(pattern, 640)))
	mux.HandleFunc("/1m", fixed(binary, bytes.Repeat(pattern, 65536)))
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, binary, body)
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", binary)
		for i := 0; i < 10; i++ {
			w.Write(chunk)
			w.(http.Flusher).Flush()
		}
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], mux))
}
