//! Asking the application's pods from this machine, without the API server, which may be what is broken.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use workload::store::{DONE, LONGEST, MESSAGE_BYTES, message};

use super::limits::QUESTION;
use crate::manifests::STORE_PORT;

/// The longest that one append took on a store's own disk since this was last asked, by the store's monotonic clock. An append
/// that still waits counts too.
///
/// # Errors
/// The store does not answer.
pub async fn longest_append(store: IpAddr) -> Result<Duration> {
    let exchange = async {
        let mut stream = TcpStream::connect((store, STORE_PORT)).await?;
        let mut answer = [0; MESSAGE_BYTES];
        stream.write_all(&message(LONGEST, 0)).await?;
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let [status, microseconds @ ..] =
        timeout(QUESTION, exchange).await.with_context(|| format!("the store at {store} does not answer"))??;
    ensure!(status == DONE, "the store at {store} does not know how long its appends take");
    Ok(Duration::from_micros(u64::from_le_bytes(microseconds)))
}

/// One request to a pod that speaks HTTP and JSON.
///
/// # Errors
/// It does not answer, or not with success.
pub async fn http<T: DeserializeOwned>(address: SocketAddr, method: &str, path: &str) -> Result<T> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(QUESTION, exchange).await.with_context(|| format!("{address} does not answer"))??;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{address} answered {answer:?}"))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("{address} answered {head:?} {body:?}");
    }
    serde_json::from_str(body).with_context(|| format!("{address} answered {body:?}"))
}
