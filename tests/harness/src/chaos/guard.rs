//! The guard undoes faults, whatever becomes of the program that makes them.
//!
//! It is a process of its own, started before the first fault and in a process group of its own, so that an interrupt at the
//! terminal does not reach it. A fault is announced to it before it is made. It undoes the fault when it is told to, when the
//! fault's time is over, and when its input ends, which is what happens however the other program dies.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::limits::UNDO;
use crate::processes::Process;

/// The word by which this program becomes a guard.
pub const COMMAND: &str = "guard";
/// How long the guard sleeps when nothing is armed.
const IDLE: Duration = Duration::from_secs(3_600);

/// What undoes a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undo {
    /// Lets a stopped process go on. One that is gone needs nothing.
    Resume(Process),
    /// Runs programs, each given as its words, all of them even if one fails.
    Run(Vec<Vec<String>>),
}

impl Undo {
    fn carry_out(&self) -> Result<()> {
        match self {
            // Killed or ended meanwhile: nothing is left that could be stopped.
            Self::Resume(process) => {
                let _ = process.resume();
                Ok(())
            }
            Self::Run(programs) => {
                let failed: Vec<String> =
                    programs.iter().filter_map(|words| run(words).err()).map(|error| format!("{error:#}")).collect();
                ensure!(failed.is_empty(), "{}", failed.join("; "));
                Ok(())
            }
        }
    }
}

/// Runs a program to its end.
///
/// # Errors
/// It cannot be started, or fails; its own words are in the error.
pub fn run(words: &[String]) -> Result<()> {
    let [program, arguments @ ..] = words else { bail!("no program") };
    let mut command = std::process::Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {}", words.join(" "), said.trim());
    Ok(())
}

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Undo this after `within`, unless you are told to before.
    Arm { id: u64, within: Duration, undo: Undo },
    /// Undo it now.
    Undo { id: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    error: Option<String>,
}

/// Is the guard: reads requests until the input ends, then undoes what is left.
///
/// # Errors
/// Nobody reads the answers any more; everything is undone by then.
pub fn serve() -> Result<()> {
    let (requests, incoming) = channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if requests.send(serde_json::from_str(&line)).is_err() {
                break;
            }
        }
    });
    let mut armed = BTreeMap::new();
    let served = answer_all(&incoming, &mut armed);
    let left = armed.into_values().map(|(_, undo): (Instant, Undo)| undo.carry_out());
    let undone: Vec<Result<()>> = left.collect();
    undone.into_iter().collect::<Result<()>>().and(served)
}

fn answer_all(
    incoming: &Receiver<serde_json::Result<Request>>,
    armed: &mut BTreeMap<u64, (Instant, Undo)>,
) -> Result<()> {
    loop {
        let due = armed.values().map(|(due, _)| *due).min();
        let wait = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
        let result = match incoming.recv_timeout(wait) {
            Ok(Ok(Request::Arm { id, within, undo })) => {
                armed.insert(id, (Instant::now() + within, undo));
                Ok(())
            }
            Ok(Ok(Request::Undo { id })) => match armed.remove(&id) {
                Some((_, undo)) => undo.carry_out(),
                None => Err(anyhow::anyhow!("the fault lasted so long that the guard undid it by itself")),
            },
            Ok(Err(error)) => Err(error.into()),
            Err(RecvTimeoutError::Timeout) => {
                let now = Instant::now();
                let expired: Vec<u64> = armed.iter().filter(|(_, (due, _))| *due <= now).map(|(id, _)| *id).collect();
                for (_, undo) in expired.iter().filter_map(|id| armed.remove(id)) {
                    if let Err(error) = undo.carry_out() {
                        eprintln!("guard: {error:#}");
                    }
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let answer = Answer { error: result.err().map(|error| format!("{error:#}")) };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
        out.flush()?;
    }
}

/// The guard, as the program that makes faults sees it. Dropped, it undoes everything.
pub struct Guard {
    child: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    last: u64,
}

/// A fault that the guard knows how to undo.
#[must_use = "the fault lasts until it is undone"]
pub struct Armed(u64);

impl Guard {
    /// Starts this program once more, as a guard.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(COMMAND).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the guard")?;
        let requests = child.stdin.take().context("the guard has no input")?;
        let answers = BufReader::new(child.stdout.take().context("the guard has no output")?).lines();
        Ok(Self { child, requests, answers, last: 0 })
    }

    /// Announces a fault, before it is made. It is undone after `within`, if not before.
    ///
    /// # Errors
    /// The guard is gone: the fault must not be made.
    pub async fn arm(&mut self, undo: Undo, within: Duration) -> Result<Armed> {
        self.last += 1;
        self.ask(&Request::Arm { id: self.last, within, undo }).await?;
        Ok(Armed(self.last))
    }

    /// Undoes a fault now.
    ///
    /// # Errors
    /// It cannot be undone, or its time was over.
    pub async fn undo(&mut self, armed: Armed) -> Result<()> {
        self.ask(&Request::Undo { id: armed.0 }).await
    }

    /// Ends the guard.
    ///
    /// # Errors
    /// Something was left to undo and could not be undone.
    pub async fn end(self) -> Result<()> {
        let Self { mut child, requests, .. } = self;
        drop(requests);
        let ended = timeout(UNDO, child.wait()).await.context("the guard does not end")??;
        ensure!(ended.success(), "the guard ended with {ended}");
        Ok(())
    }

    async fn ask(&mut self, request: &Request) -> Result<()> {
        let exchange = async {
            let line = format!("{}\n", serde_json::to_string(request)?);
            self.requests.write_all(line.as_bytes()).await?;
            self.answers.next_line().await?.context("the guard is gone")
        };
        let line = timeout(UNDO, exchange).await.context("the guard does not answer")??;
        match serde_json::from_str::<Answer>(&line)?.error {
            Some(error) => bail!(error),
            None => Ok(()),
        }
    }
}
