//! The ordered writer against three stores on loopback.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};
use tokio::time::timeout;
use workload::log::{Log, Summary};
use workload::order::{NamedLog, Verdict};
use workload::stats::{Report, Stats};
use workload::{store, writer};

const LIMIT: Duration = Duration::from_secs(20);

struct Stores {
    volumes: Vec<TempDir>,
    addresses: Vec<String>,
}

impl Stores {
    async fn start(counts: [u64; 3]) -> Self {
        let mut stores = Self { volumes: Vec::new(), addresses: Vec::new() };
        for count in counts {
            let volume = tempfile::tempdir().unwrap();
            let mut log = Log::open(volume.path()).unwrap();
            (1..=count).for_each(|number| log.append(number).unwrap());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            stores.addresses.push(listener.local_addr().unwrap().to_string());
            spawn_local(store::serve(listener, log));
            stores.volumes.push(volume);
        }
        stores
    }

    /// What the volumes show; the writer must have stopped.
    fn verdict(&self) -> Verdict {
        let read = |volume: &TempDir| Summary::read(volume.path()).unwrap();
        let named = self.volumes.iter().zip(["a", "b", "c"]);
        Verdict::new(named.map(|(volume, name)| NamedLog { name: name.into(), log: read(volume) }).collect())
    }
}

struct Writer {
    stats: Rc<RefCell<Stats>>,
    task: JoinHandle<std::convert::Infallible>,
}

impl Writer {
    fn start(stores: &Stores) -> Self {
        let stats = Rc::new(RefCell::new(Stats::new(Instant::now())));
        let (addresses, counted) = (stores.addresses.clone(), stats.clone());
        Self { stats, task: spawn_local(async move { writer::write(&addresses, &counted).await }) }
    }

    async fn until(&self, condition: impl Fn(&Report) -> bool) -> Report {
        let wait = async {
            loop {
                let report = self.stats.borrow_mut().report(false, Instant::now());
                if condition(&report) {
                    return report;
                }
                yield_now().await;
            }
        };
        timeout(LIMIT, wait).await.unwrap()
    }

    /// The record that was being written may be on some stores and not on others.
    async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

#[tokio::test]
async fn records_go_to_every_store_in_order() {
    LocalSet::new()
        .run_until(async {
            let stores = Stores::start([0, 0, 0]).await;
            let writer = Writer::start(&stores);
            let report = writer.until(|report| report.last_record >= 50).await;
            assert!(report.longest_append_ms > 0.0 && report.records_per_second > 0.0, "{report:?}");
            writer.stop().await;
            let verdict = stores.verdict();
            assert!(verdict.in_order(), "{verdict:?}");
            assert!(verdict.logs[2].log.records >= 50);
        })
        .await;
}

#[tokio::test]
async fn volumes_read_one_after_the_other_are_found_torn() {
    LocalSet::new()
        .run_until(async {
            let stores = Stores::start([0, 0, 0]).await;
            let writer = Writer::start(&stores);
            writer.until(|report| report.last_record >= 5).await;
            let first = NamedLog { name: "a".into(), log: Summary::read(stores.volumes[0].path()).unwrap() };
            writer.until(|report| report.last_record >= first.log.records + 5).await;
            let last = NamedLog { name: "c".into(), log: Summary::read(stores.volumes[2].path()).unwrap() };
            assert!(!Verdict::new(vec![first, last]).in_order());
        })
        .await;
}

#[tokio::test]
async fn an_interrupted_record_is_completed() {
    LocalSet::new()
        .run_until(async {
            let stores = Stores::start([8, 7, 7]).await;
            let writer = Writer::start(&stores);
            let report = writer.until(|report| report.last_record >= 9).await;
            assert_eq!(report.reconnects, 0, "{report:?}");
            writer.stop().await;
            assert!(stores.verdict().in_order());
        })
        .await;
}

#[tokio::test]
async fn stores_of_different_histories_are_refused() {
    LocalSet::new()
        .run_until(async {
            let stores = Stores::start([9, 3, 3]).await;
            let writer = Writer::start(&stores);
            let report = writer.until(|report| report.last_error.is_some()).await;
            assert!(report.last_error.unwrap().contains("not of one history"));
            assert_eq!(report.last_record, 0);
        })
        .await;
}

#[tokio::test]
async fn a_store_tells_the_longest_append_once() {
    LocalSet::new()
        .run_until(async {
            let stores = Stores::start([0, 0, 0]).await;
            let writer = Writer::start(&stores);
            writer.until(|report| report.last_record >= 5).await;
            writer.stop().await;
            let mut stream = TcpStream::connect(&stores.addresses[0]).await.unwrap();
            let mut longest = async || {
                let mut answer = [0; store::MESSAGE_BYTES];
                stream.write_all(&store::message(store::LONGEST, 0)).await.unwrap();
                stream.read_exact(&mut answer).await.unwrap();
                answer
            };
            assert_ne!(longest().await, store::message(store::DONE, 0));
            // An append that the writer left under way may still be told of.
            timeout(LIMIT, async { while longest().await != store::message(store::DONE, 0) {} }).await.unwrap();
        })
        .await;
}
