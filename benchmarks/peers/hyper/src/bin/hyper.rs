//! hyper 1.x with nothing on top: http1::Builder over a tokio TcpListener, on a runtime of one thread.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{combinators::BoxBody, BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderValue, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use peers::{message, port, Bodies, BINARY, CHUNKS, TEXT};
use tokio::net::TcpListener;

type Body = BoxBody<Bytes, Infallible>;

fn answer(kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

async fn serve(request: Request<Incoming>, bodies: Bodies) -> Result<Response<Body>, hyper::Error> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => answer(TEXT, "Hello, World!"),
        (&Method::GET, "/json") => answer("application/json", serde_json::to_vec(&message()).expect("plain data")),
        (&Method::GET, "/10k") => answer(BINARY, bodies.ten_kilobytes),
        (&Method::GET, "/1m") => answer(BINARY, bodies.megabyte),
        (&Method::GET, "/stream") => {
            let chunk = bodies.chunk;
            let chunks = stream::iter((0..CHUNKS).map(move |_| Ok(Frame::data(chunk.clone()))));
            let mut response = Response::new(BodyExt::boxed(StreamBody::new(chunks)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(BINARY));
            response
        }
        (&Method::POST, "/echo") => answer(BINARY, request.into_body().collect().await?.to_bytes()),
        _ => {
            let mut response = answer(TEXT, "Not Found");
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port())).await?;
    let bodies = Bodies::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let bodies = bodies.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| serve(request, bodies.clone()));
            let _ = http1::Builder::new().pipeline_flush(true).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
