//! The ordered writer: record n on the first store, then on the second, and so on, each on disk before the next.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::http::{self, Answer};
use crate::limits::{APPEND_TIMEOUT, CONNECT_TIMEOUT, MAX_STORES, RECONNECT_PAUSE};
use crate::shutdown;
use crate::stats::Stats;
use crate::store::{APPEND, DONE, MESSAGE_BYTES, STAT, message};

/// Write numbered records to several stores, one after the other, as fast as they go.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The stores in the order of writing, as HOST:PORT.
    #[arg(long, value_delimiter = ',', required = true, num_args = 1..=MAX_STORES)]
    stores: Vec<String>,
    /// Address of the statistics: GET /stats, and POST /stats/reset to read them and begin counting anew.
    #[arg(long, default_value = "0.0.0.0:7001")]
    listen: SocketAddr,
}

/// Writes until SIGTERM.
///
/// # Errors
/// The address of the statistics cannot be used.
pub async fn run(args: Args) -> Result<()> {
    let shutdown = shutdown::listen()?;
    let stats = Rc::new(RefCell::new(Stats::new(Instant::now())));
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let served = stats.clone();
    tokio::select! {
        never = write(&args.stores, &stats) => match never {},
        ended = http::serve(listener, move |request| answer(request, &served)) => ended,
        () = shutdown => Ok(()),
    }
}

fn answer(request: &str, stats: &RefCell<Stats>) -> Answer {
    let reset = match request {
        "GET /stats" => false,
        "POST /stats/reset" => true,
        _ => return (404, r#"{"error":"try GET /stats or POST /stats/reset"}"#.into()),
    };
    let report = stats.borrow_mut().report(reset, Instant::now());
    match serde_json::to_string(&report) {
        Ok(body) => (200, body),
        Err(error) => (500, format!(r#"{{"error":"{error}"}}"#)),
    }
}

/// Writes for ever. A lost store is only waited for.
pub async fn write(stores: &[String], stats: &RefCell<Stats>) -> std::convert::Infallible {
    loop {
        if let Err(error) = write_until_lost(stores, stats).await {
            eprintln!("{error:#}; connecting again");
            stats.borrow_mut().disconnected(format!("{error:#}"), Instant::now());
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn write_until_lost(stores: &[String], stats: &RefCell<Stats>) -> Result<()> {
    let mut connections = Vec::with_capacity(stores.len());
    for store in stores {
        connections.push(Connection::open(store).await?);
    }
    let mut number = 1 + first_incomplete(&mut connections).await?;
    loop {
        for connection in &mut connections {
            stats.borrow_mut().append_begins(&connection.store, Instant::now());
            connection.append(number).await?;
            stats.borrow_mut().append_ends(Instant::now());
        }
        stats.borrow_mut().record_complete(number);
        number += 1;
    }
}

/// The last record that every store has. A store that is one ahead got the next record before the writer was interrupted,
/// and gets it again, which changes nothing.
async fn first_incomplete(connections: &mut [Connection]) -> Result<u64> {
    let mut lasts = Vec::with_capacity(connections.len());
    for connection in connections {
        lasts.push(connection.ask(STAT, 0).await?);
    }
    let least = lasts.iter().min().copied().unwrap_or(0);
    ensure!(
        lasts.iter().all(|last| *last <= least + 1),
        "the stores end at records {lasts:?}: they are not of one history; start with empty volumes"
    );
    Ok(least)
}

struct Connection {
    store: String,
    stream: TcpStream,
}

impl Connection {
    async fn open(store: &str) -> Result<Self> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(store)).await;
        let stream = stream.with_context(|| format!("{store} does not accept a connection"))?;
        let stream = stream.with_context(|| format!("cannot connect to {store}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { store: store.into(), stream })
    }

    async fn append(&mut self, number: u64) -> Result<()> {
        let last = self.ask(APPEND, number).await?;
        ensure!(last == number, "{} ends at record {last} after record {number} was appended", self.store);
        Ok(())
    }

    async fn ask(&mut self, operation: u8, number: u64) -> Result<u64> {
        let exchange = async {
            let mut answer = [0; MESSAGE_BYTES];
            self.stream.write_all(&message(operation, number)).await?;
            self.stream.read_exact(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = timeout(APPEND_TIMEOUT, exchange).await;
        let answer = answer.with_context(|| format!("{} has not answered for {APPEND_TIMEOUT:?}", self.store))?;
        let [status, last @ ..] = answer.with_context(|| format!("{} hung up", self.store))?;
        let last = u64::from_le_bytes(last);
        if status != DONE {
            bail!("{} refused record {number}; its last is {last}", self.store);
        }
        Ok(last)
    }
}
