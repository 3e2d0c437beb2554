//! The store: one log on one volume, served over TCP.
//!
//! A request is an operation byte and a record number (8 bytes, little-endian); the answer is a status byte and the number
//! of the last record on disk. An append is answered only when its record is on disk. [`LONGEST`] alone is answered with a time
//! instead of a record, and does not wait for an append that is stuck.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};

use crate::limits::MAX_CONNECTIONS;
use crate::log::Log;
use crate::shutdown;
use crate::stats::Stats;

/// Append the record with this number.
pub const APPEND: u8 = b'A';
/// Only say which record is the last; the number is ignored.
pub const STAT: u8 = b'S';
/// The longest that one append took on this store's disk since it was last asked, in microseconds, the running one included.
pub const LONGEST: u8 = b'L';
/// The answer: done.
pub const DONE: u8 = 0;
/// The answer: refused, nothing was appended.
pub const REFUSED: u8 = 1;
/// Bytes of a request and of an answer.
pub const MESSAGE_BYTES: usize = 9;

/// Keep an append-only log on a volume and append to it what the writer sends.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the volume is mounted.
    #[arg(long, value_name = "DIRECTORY")]
    dir: PathBuf,
    /// Address to serve on.
    #[arg(long, default_value = "0.0.0.0:7000")]
    listen: SocketAddr,
}

/// Serves until SIGTERM.
///
/// # Errors
/// The log cannot be opened or the address cannot be used.
pub async fn run(args: Args) -> Result<()> {
    let shutdown = shutdown::listen()?;
    let log = Log::open(&args.dir)?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    println!("{} holds {} records, served on {}", args.dir.display(), log.last(), listener.local_addr()?);
    tokio::select! {
        ended = serve(listener, log) => ended,
        () = shutdown => Ok(()),
    }
}

/// Serves a log until the listener fails. Dropped, it ends its connections.
///
/// # Errors
/// The listener cannot accept any more.
pub async fn serve(listener: TcpListener, log: Log) -> Result<()> {
    let store = Arc::new(Store { log: Mutex::new(log), stats: Mutex::new(Stats::new(Instant::now())) });
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, peer) = accepted.context("cannot accept connections")?;
                if conversations.len() < MAX_CONNECTIONS {
                    conversations.spawn(converse(stream, store.clone()));
                } else {
                    eprintln!("{peer} refused: {MAX_CONNECTIONS} connections are open");
                }
            }
            Some(ended) = conversations.join_next() => {
                if let Ok(Err(error)) = ended {
                    eprintln!("a connection ended: {error}");
                }
            }
        }
    }
}

/// The log, and how long its appends took. The second is never locked while the disk is waited for.
struct Store {
    log: Mutex<Log>,
    stats: Mutex<Stats>,
}

async fn converse(mut stream: TcpStream, store: Arc<Store>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; MESSAGE_BYTES];
    while let Some(request) = next(&mut stream, &mut request).await? {
        let store = store.clone();
        // The disk may stall for as long as writes are suspended; other connections go on.
        let answer = spawn_blocking(move || handle(request, &store)).await.map_err(std::io::Error::other)?;
        stream.write_all(&answer).await?;
    }
    Ok(())
}

/// The next request; `None` when the peer has hung up.
async fn next(
    stream: &mut TcpStream,
    buffer: &mut [u8; MESSAGE_BYTES],
) -> std::io::Result<Option<[u8; MESSAGE_BYTES]>> {
    match stream.read_exact(buffer).await {
        Ok(_) => Ok(Some(*buffer)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn handle(request: [u8; MESSAGE_BYTES], store: &Store) -> [u8; MESSAGE_BYTES] {
    let [operation, number @ ..] = request;
    if operation == LONGEST {
        let report = lock(&store.stats).report(true, Instant::now());
        return message(DONE, (report.longest_append_ms * 1e3) as u64);
    }
    let mut log = lock(&store.log);
    let done = match operation {
        APPEND => append(&mut log, &store.stats, u64::from_le_bytes(number)),
        STAT => true,
        _ => false,
    };
    message(if done { DONE } else { REFUSED }, log.last())
}

fn append(log: &mut Log, stats: &Mutex<Stats>, number: u64) -> bool {
    lock(stats).append_begins("", Instant::now());
    let appended = log.append(number).inspect_err(|error| eprintln!("{error}"));
    lock(stats).append_ends(Instant::now());
    appended.is_ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request or an answer: a byte and a number.
pub fn message(byte: u8, number: u64) -> [u8; MESSAGE_BYTES] {
    let mut message = [byte; MESSAGE_BYTES];
    message[1..].copy_from_slice(&number.to_le_bytes());
    message
}
