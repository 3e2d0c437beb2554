//! Just enough HTTP/1.1 for a probe and for one JSON document.

use std::rc::Rc;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::limits::{HTTP_TIMEOUT, MAX_HTTP_REQUEST};

/// Status code and JSON body.
pub type Answer = (u16, String);

/// Answers every request with what `answer` makes of its method and target, such as `GET /stats`, until the listener fails.
/// Bodies are not read. Needs a `LocalSet`.
///
/// # Errors
/// The listener cannot accept any more.
pub async fn serve(listener: TcpListener, answer: impl Fn(&str) -> Answer + 'static) -> Result<()> {
    let answer = Rc::new(answer);
    loop {
        let (stream, _) = listener.accept().await?;
        let answer = answer.clone();
        spawn_local(async move {
            // A client that went away needs no answer.
            let _ = timeout(HTTP_TIMEOUT, respond(stream, &*answer)).await;
        });
    }
}

async fn respond(mut stream: TcpStream, answer: &impl Fn(&str) -> Answer) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= MAX_HTTP_REQUEST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&request);
    let (target, _version) = head.lines().next().and_then(|line| line.rsplit_once(' ')).unwrap_or_default();
    let (status, body) = answer(target);
    let head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        if status < 400 { "OK" } else { "No" },
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
