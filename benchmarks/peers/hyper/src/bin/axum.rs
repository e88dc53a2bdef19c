//! axum on hyper 1.x, as its documentation starts it: a Router and axum::serve, on a runtime of one thread.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use futures_util::stream;
use peers::{message, port, Bodies, BINARY, CHUNKS};
use tokio::net::TcpListener;

async fn streamed(State(bodies): State<Bodies>) -> impl IntoResponse {
    let chunk = bodies.chunk;
    let chunks = stream::iter((0..CHUNKS).map(move |_| Ok::<_, Infallible>(chunk.clone())));
    ([(CONTENT_TYPE, BINARY)], Body::from_stream(chunks))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/", get(|| async { "Hello, World!" }))
        .route("/json", get(|| async { Json(message()) }))
        .route("/10k", get(|State(bodies): State<Bodies>| async move { bodies.ten_kilobytes }))
        .route("/1m", get(|State(bodies): State<Bodies>| async move { bodies.megabyte }))
        .route("/stream", get(streamed))
        .route("/echo", post(|body: Bytes| async move { body }))
        .layer(DefaultBodyLimit::disable())
        .with_state(Bodies::new());
    let listener = TcpListener::bind(("127.0.0.1", port())).await?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await
}
