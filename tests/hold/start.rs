//! A pod starts with its agent where nobody runs Stillpoint, and the agent joins when somebody does.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Pid;

use crate::controller::Controller;
use crate::scene::{Running, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_waits_for_the_ca_and_joins_by_itself() {
    let directory = std::env::temp_dir().join(format!("stillpoint-start-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let mut controller = Controller::start(&directory).await;
    let published = fs::read(&controller.ca_file).unwrap();
    fs::remove_file(&controller.ca_file).unwrap();
    let mut agent = start(&controller, &directory);
    let said = || fs::read_to_string(directory.join("log")).unwrap();
    until("the agent says what it waits for", || said().contains("ca.crt is not there"));
    assert!(said().contains("stillpoint.io/agents=enabled"), "{}", said());
    assert!(agent.started.try_wait().unwrap().is_none(), "it runs, and so does its pod");

    fs::write(&controller.ca_file, published).unwrap();
    let _joined = controller.session().await;
    drop(agent);
    fs::remove_dir_all(directory).unwrap();
}

/// An agent that writes its log into the directory.
fn start(controller: &Controller, directory: &Path) -> Running {
    let log = File::create(directory.join("log")).unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
    process.args(["agent", "--controller", &controller.address]);
    process.arg("--ca-file").arg(&controller.ca_file);
    process.arg("--token-file").arg(&controller.token_file);
    process.arg("--record-dir").arg(directory.join("records"));
    let started = process.stdin(Stdio::null()).stderr(log).spawn().unwrap();
    Running { pid: Pid::from_child(&started), started }
}
