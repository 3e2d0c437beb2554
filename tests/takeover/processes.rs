//! Controllers as child processes.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};

use crate::fixture::{DEADLINE, Fixture, connect, free_address};

/// Every controller follows every replication of the API server, so that one test at a time has any.
static TURN: Mutex<()> = Mutex::const_new(());

/// How long the controllers' leases last.
const LEASE: &str = "3s";

/// The controllers of one test.
pub struct Controllers {
    pub client: Client,
    pub system: String,
    pub replicas: Vec<Replica>,
    _turn: MutexGuard<'static, ()>,
}

/// One controller.
pub struct Replica {
    pub name: String,
    pub listen: SocketAddr,
    health: SocketAddr,
    child: Child,
}

impl Controllers {
    /// Starts a controller for each kubeconfig (`None`: that of the test), one after the other, so that the first one leads.
    pub async fn start(kubeconfigs: &[Option<PathBuf>]) -> Self {
        let turn = TURN.lock().await;
        let client = connect().await;
        let mut namespace = Namespace::default();
        namespace.metadata.generate_name = Some("takeover-".to_owned());
        let namespace = Api::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("a namespace");
        let mut controllers = Self { client, system: namespace.name_any(), replicas: Vec::new(), _turn: turn };
        for (index, kubeconfig) in kubeconfigs.iter().enumerate() {
            let replica = Replica::start(&controllers.system, index, kubeconfig.as_deref());
            replica.wait_for("/readyz").await;
            controllers.replicas.push(replica);
            controllers.wait_for_leader(0).await;
        }
        controllers
    }

    /// A namespace whose agents have a session with every controller.
    pub async fn fixture(&self, name: &str) -> Fixture {
        let addresses = self.replicas.iter().map(|replica| replica.listen).collect();
        Fixture::with(self.client.clone(), name, addresses, self.system.clone()).await
    }

    /// Waits until this controller leads, and gives its epoch.
    pub async fn wait_for_leader(&self, index: usize) -> u64 {
        let leads = async {
            loop {
                let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.system);
                let lease = leases.get_opt("stillpoint-controller").await.expect("an answer");
                let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
                if spec.holder_identity.as_ref() == Some(&self.replicas[index].name) {
                    let turn = spec.lease_transitions.expect("a leader counts its turn");
                    return u64::try_from(turn).expect("a positive number");
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(DEADLINE, leads).await.expect("it leads in time")
    }
}

impl Replica {
    fn start(system: &str, index: usize, kubeconfig: Option<&std::path::Path>) -> Self {
        let name = format!("{system}-{index}");
        let (listen, health) = (free_address(), free_address());
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
        command
            .args(["controller", "--lease-duration", LEASE, "--namespace", system, "--pod-name", &name])
            .args(["--listen", &listen.to_string(), "--health", &health.to_string()])
            .env("STILLPOINT_LOG", "info")
            .stderr(File::create(log).expect("a log"));
        if let Some(kubeconfig) = kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        Self { name, listen, health, child: command.spawn().expect("the controller starts") }
    }

    /// Waits until a probe of the kubelet would succeed.
    pub async fn wait_for(&self, path: &str) {
        let ready = async {
            while !self.probe(path).await {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(DEADLINE, ready).await.unwrap_or_else(|_| panic!("{}{path} fails", self.name));
    }

    /// Whether a probe of the kubelet succeeds.
    pub async fn probe(&self, path: &str) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.health).await else { return false };
        let request = format!("GET {path} HTTP/1.1\r\nHost: controller\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let asked = stream.write_all(request.as_bytes()).await;
        asked.is_ok() && stream.read_to_string(&mut answer).await.is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the process is there");
    }

    /// Stops the process, and waits until none of its threads runs any more: the signal takes a moment.
    pub async fn stop(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        let is_stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        let stopped = async {
            while !std::fs::read_dir(&tasks).expect("the process is there").all(|task| {
                let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
                is_stopped(stat.expect("a thread"))
            }) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, stopped).await.expect("it stops in time");
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("a child") {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(DEADLINE, ended).await.expect("it ends in time")
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
