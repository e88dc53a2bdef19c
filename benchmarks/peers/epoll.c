/* The floor: a bare epoll server in C on our own parser and writer; no Python, no timers, no limits but a head's.
 *
 * Room:    a peer of the benchmarks. Built on demand by ../build.py together with csrc/, outside the tree.
 * Called:  by ../servers.py as `epoll PORT`. Calls csrc/request.c and csrc/response.c.
 * Rules:   as much of RFC 9112 as the cases need: keep-alive, pipelining, Connection: close, Content-Length bodies.
 */

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "request.h"
#include "response.h"
#include "scan.h"

enum { EVENTS = 128, BUFFER = 1 << 18, FIELDS = 100, PIECE = 1024, CHUNKS = 10, ANSWER = (1 << 20) + 1024 };

typedef struct {
  int fd;
  bool close;      /* once what is owed was written */
  uint8_t *in;     /* input that is not yet a whole request */
  size_t in_len;
  uint8_t *out;    /* what the socket did not take */
  size_t out_len, out_at;
} client;

static const fs_limits limits = FS_LIMITS_DEFAULT;
static int epoll_fd;
static uint8_t reading[BUFFER];
static uint8_t megabyte[1 << 20];
static uint8_t writing[2 * ANSWER];
static char date[64];

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void end(client *c) {
  close(c->fd);
  free(c->in);
  free(c->out);
  free(c);
}

/* The Date field, made once a second. */
static void tell_time(void) {
  static time_t made;
  time_t now = time(NULL);
  struct tm parts;
  if (now == made) return;
  made = now;
  strftime(date, sizeof date, "date: %a, %d %b %Y %H:%M:%S GMT\r\n", gmtime_r(&now, &parts));
}

static void head(fs_out *out, unsigned status, const char *kind, const char *framing) {
  fs_response_status_line(out, status, NULL, 0);
  fs_response_raw(out, date, strlen(date));
  fs_response_raw(out, kind, strlen(kind));
  if (framing) fs_response_raw(out, framing, strlen(framing));
}

static void whole(fs_out *out, unsigned status, const char *kind, const void *body, size_t len, bool close) {
  head(out, status, kind, close ? "connection: close\r\n" : NULL);
  fs_response_content_length(out, len);
  fs_response_raw(out, "\r\n", 2);
  fs_response_raw(out, body, len);
}

#define TEXT "content-type: text/plain; charset=utf-8\r\n"
#define BINARY "content-type: application/octet-stream\r\n"

static bool is(const uint8_t *data, fs_span span, const char *text) {
  return span.len == strlen(text) && memcmp(data + span.off, text, span.len) == 0;
}

static void answer(fs_out *out, const uint8_t *data, const fs_request_head *request) {
  bool close = !request->keep_alive;
  if (request->method_id == FS_METHOD_POST && is(data, request->target, "/echo")) {
    whole(out, 200, BINARY, data + request->end, request->content_length, close);
  } else if (is(data, request->target, "/")) {
    whole(out, 200, TEXT, "Hello, World!", 13, close);
  } else if (is(data, request->target, "/json")) {
    char body[64];
    int len = snprintf(body, sizeof body, "{\"message\":\"%s\"}", "Hello, World!");
    whole(out, 200, "content-type: application/json\r\n", body, (size_t)len, close);
  } else if (is(data, request->target, "/10k")) {
    whole(out, 200, BINARY, megabyte, 10240, close);
  } else if (is(data, request->target, "/1m")) {
    whole(out, 200, BINARY, megabyte, sizeof megabyte, close);
  } else if (is(data, request->target, "/stream")) {
    head(out, 200, BINARY, "transfer-encoding: chunked\r\n\r\n");
    for (int i = 0; i < CHUNKS; i++) fs_response_chunk(out, megabyte, PIECE);
    fs_response_raw(out, FS_LAST_CHUNK, 5);
  } else {
    whole(out, 404, TEXT, "Not Found", 9, close);
  }
}

/* False: the connection is gone. */
static bool push(client *c, const uint8_t *data, size_t len) {
  ssize_t sent = send(c->fd, data, len, MSG_NOSIGNAL);
  if (sent < 0 && errno != EAGAIN) return false;
  if (sent < 0) sent = 0;
  if ((size_t)sent == len) return !c->close;
  if (c->out != NULL && data != c->out) return false; /* more requests than answers taken: not one of the cases */
  if (c->out == NULL) {
    c->out_len = len - (size_t)sent;
    c->out_at = 0;
    c->out = malloc(c->out_len);
    memcpy(c->out, data + sent, c->out_len);
    struct epoll_event want = {.events = EPOLLOUT, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &want);
  }
  return true;
}

static bool write_on(client *c) {
  ssize_t sent = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);
  if (sent < 0) return errno == EAGAIN;
  c->out_at += (size_t)sent;
  if (c->out_at < c->out_len) return true;
  free(c->out);
  c->out = NULL;
  struct epoll_event want = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &want);
  return !c->close;
}

static bool serve(client *c) {
  fs_field fields[FIELDS];
  uint8_t *data = reading;
  ssize_t got = recv(c->fd, reading + c->in_len, BUFFER - c->in_len, 0);
  if (got <= 0) return got < 0 && errno == EAGAIN;
  if (c->in_len) memcpy(reading, c->in, c->in_len); /* what had come before stands before what came now */
  size_t len = c->in_len + (size_t)got, at = 0;
  c->in_len = 0;
  fs_out out = {writing, 0, sizeof writing};
  while (at < len && !c->close) {
    fs_request_head request;
    fs_request_head_init(&request);
    int found = fs_request_head_parse(&request, data + at, len - at, fields, &limits);
    if (found < 0) return false;
    if (found == FS_MORE || request.end + request.content_length > len - at) break;
    if (out.cap - out.len < ANSWER) { /* the next answer might not find room */
      if (!push(c, writing, out.len)) return false;
      out.len = 0;
    }
    answer(&out, data + at, &request);
    c->close = !request.keep_alive;
    at += request.end + request.content_length;
  }
  if (at < len && !c->close) {
    c->in = realloc(c->in, BUFFER); /* kept for the next large body, as every server here keeps something */
    memcpy(c->in, data + at, len - at);
    c->in_len = len - at;
    if (c->in_len == BUFFER) return false;
  } else {
    free(c->in);
    c->in = NULL;
  }
  return out.len == 0 || push(c, writing, out.len);
}

int main(int argc, char **argv) {
  struct epoll_event events[EVENTS], want = {.events = EPOLLIN};
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (argc != 2) return fprintf(stderr, "usage: epoll PORT\n"), 2;
  for (size_t i = 0; i < sizeof megabyte; i++) megabyte[i] = (uint8_t)"0123456789abcdef"[i % 16];
  fs_scan_choose(NULL);
  address.sin_port = htons((uint16_t)atoi(argv[1]));
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 2048)) fail("listen");
  epoll_fd = epoll_create1(0);
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &want);
  for (;;) {
    int ready = epoll_wait(epoll_fd, events, EVENTS, -1);
    tell_time();
    for (int i = 0; i < ready; i++) {
      client *c = events[i].data.ptr;
      if (c != NULL) {
        if (!(events[i].events & EPOLLOUT ? write_on(c) : serve(c))) end(c);
        continue;
      }
      int fd;
      while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c = calloc(1, sizeof *c);
        c->fd = fd;
        struct epoll_event in = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &in);
      }
    }
  }
}
