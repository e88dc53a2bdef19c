//! What both servers answer, so that they differ only in what serves it. Used by bin/hyper.rs and bin/axum.rs.
//!
//! One thread, as every peer has one process on one core. The listener takes the port that is the only argument.

use bytes::Bytes;
use serde::Serialize;

pub const TEXT: &str = "text/plain; charset=utf-8";
pub const BINARY: &str = "application/octet-stream";
pub const CHUNKS: usize = 10;

#[derive(Serialize)]
pub struct Message {
    pub message: &'static str,
}

/// Encoded for each request, as the other servers do.
pub fn message() -> Message {
    Message { message: "Hello, World!" }
}

/// The bodies that are the same for all requests; cloning a Bytes counts a reference and copies nothing.
#[derive(Clone)]
pub struct Bodies {
    pub ten_kilobytes: Bytes,
    pub megabyte: Bytes,
    pub chunk: Bytes,
}

impl Bodies {
    pub fn new() -> Self {
        let pattern = b"0123456789abcdef";
        Bodies {
            ten_kilobytes: Bytes::from(pattern.repeat(640)),
            megabyte: Bytes::from(pattern.repeat(65536)),
            chunk: Bytes::from(pattern.repeat(64)),
        }
    }
}

impl Default for Bodies {
    fn default() -> Self {
        Self::new()
    }
}

/// The port to listen on: the first argument.
pub fn port() -> u16 {
    std::env::args().nth(1).and_then(|text| text.parse().ok()).expect("usage: PROGRAM PORT")
}
