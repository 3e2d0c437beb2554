//! The processes under test besides the agents: one controller and one guardian.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::version::Version;
use crate::limits::CONTROLLER;

/// Where a controller keeps its CA and its Lease.
pub const NAMESPACE: &str = "stillpoint-system";
/// The certificate is for the name of the Service, so the Service is called as the machine is.
pub const HOST: &str = "localhost";
/// Pause between two looks at whether a controller takes connections.
const LOOK: Duration = Duration::from_millis(20);
/// How long a process may take to end in order. A controller that is killed would keep its Lease, and the next one wait for it.
const ENDING: Duration = Duration::from_secs(10);

/// The file of this very program.
///
/// # Errors
/// /proc is not mounted.
pub fn own_program() -> Result<PathBuf> {
    env::current_exe().context("this program has no path")
}

/// A process that is told to end, and at last killed, when this is dropped.
pub struct Process(Child);

impl Process {
    /// Its id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn start(version: &Version, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(&version.program);
        let child = command.args(arguments).env("KUBECONFIG", &version.kubeconfig).stdin(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("{} cannot be run", version.program.display()))?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill_process(self.pid(), Signal::TERM);
        let told = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && told.elapsed() < ENDING {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Controller and guardian, and where agents find them.
pub struct System {
    /// `stillpoint controller`.
    pub controller: Process,
    /// `stillpoint guardian`.
    pub guardian: Process,
    program: PathBuf,
    directory: PathBuf,
    /// Of the controller's sessions, on the loopback device.
    pub port: u16,
}

impl System {
    /// Starts both. Files that they and agents need go into `directory`, which is made.
    ///
    /// # Errors
    /// The program cannot be run, or the directory cannot be made.
    pub fn start(version: &Version, directory: &Path) -> Result<Self> {
        fs::create_dir(directory)?;
        let (sessions, health) = (free_port()?, free_port()?);
        let listen = [format!("127.0.0.1:{sessions}"), format!("127.0.0.1:{health}")];
        let arguments = ["controller", "--listen", &listen[0], "--health", &listen[1], "--namespace", NAMESPACE];
        let controller =
            Process::start(version, &[&arguments[..], &["--pod-name", "hold-bench", "--service", HOST]].concat())?;
        let socket = directory.join("guardian.sock");
        let guardian = Process::start(version, &["guardian", "--socket", text(&socket)?])?;
        Ok(Self { controller, guardian, program: version.program.clone(), directory: directory.into(), port: sessions })
    }

    /// Returns when the controller takes connections.
    ///
    /// # Errors
    /// It does not within [`CONTROLLER`].
    pub async fn listening(&self) -> Result<()> {
        let listens = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(CONTROLLER, listens).await.context("the controller takes no connections")
    }

    /// The command of an agent that proves itself with this token.
    ///
    /// # Errors
    /// The files for it cannot be written.
    pub fn agent(&self, name: &str, ca: &str, token: &str) -> Result<Vec<String>> {
        let (ca_file, token_file) = (self.directory.join("ca.crt"), self.directory.join(format!("{name}.token")));
        fs::write(&ca_file, ca)?;
        fs::write(&token_file, token)?;
        let (guardian, records) =
            (self.directory.join("guardian.sock"), self.directory.join(format!("{name}.records")));
        let address = format!("{HOST}:{}", self.port);
        let command = [
            text(&self.program)?,
            "agent",
            "--controller",
            &address,
            "--ca-file",
            text(&ca_file)?,
            "--token-file",
            text(&token_file)?,
            "--guardian",
            text(&guardian)?,
            "--record-dir",
            text(&records)?,
        ];
        Ok(command.map(String::from).to_vec())
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
