//! A storage pod without a kubelet: a pid namespace whose first process writes to the volume, with a real agent of
//! every version beside it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;

use super::memory::children;
use super::system::own_program;

/// Pause between two writes. Thirty writers without one would measure the scheduler of a small machine.
const PAUSE: Duration = Duration::from_millis(1);
/// Bytes of one write.
const RECORD: usize = 256;
/// The writer begins anew at this size of its file.
const FILE_BYTES: u64 = 16 << 20;

/// A running pod. It ends when this is dropped, and by itself when the benchmark is gone.
pub struct Pod {
    unshare: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Pod {
    /// Starts a writer on `mount` and agents of these commands, and returns when the writer has begun.
    ///
    /// # Errors
    /// Without root or util-linux, or the volume takes no writes.
    pub fn start(mount: &Path, agents: &[Vec<String>]) -> Result<Self> {
        let agents: Vec<String> = agents.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let mut unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(own_program()?)
            .arg("pod")
            .arg(mount)
            .args(agents)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare cannot be run; it is part of util-linux")?;
        let questions = unshare.stdin.take().context("its standard input is a pipe")?;
        let answers = BufReader::new(unshare.stdout.take().context("its standard output is a pipe")?);
        let mut pod = Self { unshare, questions, answers };
        pod.longest_write()?;
        Ok(pod)
    }

    /// The longest write since this was last asked. Waits until the writer has written again.
    ///
    /// # Errors
    /// The pod has ended.
    pub fn longest_write(&mut self) -> Result<Duration> {
        self.questions.write_all(b"\n").context("the pod has ended")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        ensure!(!answer.is_empty(), "the pod has ended");
        Ok(Duration::from_nanos(answer.trim().parse()?))
    }

    /// The agents' processes, all that the first process starts, in the order of their commands.
    pub fn agents(&self) -> Vec<Pid> {
        children(Pid::from_child(&self.unshare)).first().map(|first| children(*first)).unwrap_or_default()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// The life of the pod's first process: starts the agents (each a command as a list in JSON), writes, and answers every line with the longest write since the
/// last one, in nanoseconds. Ends, and with it the whole pod, when nobody can ask any more.
///
/// # Errors
/// An agent cannot be started, or the volume takes no writes.
pub fn run(mount: &Path, agents: &[String]) -> Result<()> {
    let file = File::create(mount.join("written"))?;
    let _agents = agents.iter().map(|command| start_agent(command)).collect::<Result<Vec<_>>>()?;
    let (written, longest) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Err(error) = write(&file, &written, &longest) {
                eprintln!("the writer on {} failed: {error}", mount.display());
                std::process::exit(1);
            }
        });
        for _ in io::stdin().lines().map_while(Result::ok) {
            // Two: one may have been under way, and its time is not counted yet.
            let enough = written.load(Ordering::Acquire) + 2;
            while written.load(Ordering::Acquire) < enough {
                std::thread::sleep(PAUSE);
            }
            println!("{}", longest.swap(0, Ordering::AcqRel));
        }
        std::process::exit(0)
    })
}

fn start_agent(command: &str) -> Result<Child> {
    let command: Vec<String> = serde_json::from_str(command)?;
    let (program, arguments) = command.split_first().context("the agent's command is missing")?;
    let started = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    started.with_context(|| format!("{program} cannot be run"))
}

fn write(file: &File, written: &AtomicU64, longest: &AtomicU64) -> io::Result<()> {
    let mut offset = 0;
    loop {
        let began = Instant::now();
        file.write_all_at(&[b'x'; RECORD], offset)?;
        longest.fetch_max(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::AcqRel);
        written.fetch_add(1, Ordering::Release);
        offset += RECORD as u64;
        if offset >= FILE_BYTES {
            file.set_len(0)?;
            offset = 0;
        }
        std::thread::sleep(PAUSE);
    }
}
