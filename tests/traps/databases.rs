//! Real databases, and what their locks say of them: nothing, or always the same.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use stillpoint_api::Consistency;
use stillpoint_core::wire::agent_message::Report;

use crate::roles::{until, waits_for_a_thaw};
use crate::scene::{HOLD, Scene, on_a_node};
use crate::volume::{Volume, run, scratch_dir, text};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server of somebody else's, ended with the test.
struct Server(Child);

impl Server {
    /// Starts it; its log goes to `log`.
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = std::fs::File::create(log).unwrap();
        let command = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().expect("the server is installed (Debian: etcd-server, postgresql)"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory on a volume that belongs to a user, as databases want theirs.
fn data_of(uid: u32, gid: u32, volume: &Volume) -> PathBuf {
    let data = volume.file("data");
    std::fs::create_dir(&data).unwrap();
    chown(&data, Some(uid), Some(gid)).unwrap();
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    data
}

#[test]
#[ignore = "needs root, loop devices and etcd"]
fn trap_12_etcd_is_always_locked_and_is_named_once() {
    on_a_node(async || {
        let mut scene = Scene::new("ext4").await;
        let data = data_of(65532, 65532, &scene.volume);
        // A network of its own, because its ports are always the same.
        let script =
            "ip link set lo up && exec setpriv --reuid 65532 --regid 65532 --clear-groups etcd --data-dir \"$0\"";
        let mut command = Command::new("unshare");
        let command = command.args(["--net", "sh", "-c", script, text(&data)]);
        let etcd = Server::start(command, &scratch_dir("etcd").join("log"));
        until("etcd has its locks", || {
            let table = std::fs::read_to_string("/proc/locks").unwrap();
            ["OFDLCK", "FLOCK"].iter().all(|kind| table.lines().any(|line| locks(line, kind, &data)))
        });

        let path = scene.volume.path.clone();
        let mut report = scene.prepare_at(&path, Duration::from_millis(500), HOLD).await;
        while let Report::Waiting(_) = report {
            report = scene.session.hear().await;
        }
        let refused = crate::scene::refusal(report);
        let [blocker] = &refused.blockers[..] else { panic!("one blocker for one application: {refused:#?}") };
        assert_eq!((blocker.process.as_str(), blocker.pid), ("etcd", etcd.0.id().cast_signed()));
        let lock = blocker.lock.as_ref().map(|lock| (lock.kind.as_str(), lock.mode.as_str()));
        assert_eq!((lock, blocker.path.as_str()), (Some(("FLOCK", "WRITE")), "data/member/snap/db"));
        assert!(blocker.message.contains("snap/db, and ") && blocker.message.contains(" more lock"), "{blocker:?}");
        assert!(blocker.seen_us > 100_000, "it was seen look after look: {blocker:?}");
        assert!(refused.retryable && !scene.is_frozen(), "{refused:?}");
    });
}

/// Whether a line of /proc/locks is a lock for writing of this kind below a directory.
fn locks(line: &str, kind: &str, directory: &Path) -> bool {
    let inode = line.split_ascii_whitespace().find_map(|field| field.splitn(3, ':').nth(2));
    let files = ["member/wal", "member/snap"].map(|name| std::fs::read_dir(directory.join(name)));
    let mut files = files.into_iter().flatten().flatten().flatten();
    let on = |file: std::fs::DirEntry| inode == Some(&rustix::fs::stat(file.path()).unwrap().st_ino.to_string());
    line.contains(kind) && line.contains("WRITE") && files.any(on)
}

/// A session of psql.
struct Psql {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Psql {
    fn connect(socket: &Path) -> Self {
        let mut command = Command::new("psql");
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--host", text(socket)]);
        command.args(["--username", "postgres", "--set", "ON_ERROR_STOP=1", "postgres"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let output: BufReader<ChildStdout> = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { input: child.stdin.take().unwrap(), child, lines }
    }

    fn say(&mut self, statement: &str) {
        writeln!(self.input, "{statement}").unwrap();
    }

    /// The next line of output.
    fn hear(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("psql answers")
    }

    fn ask(&mut self, statement: &str) -> String {
        self.say(statement);
        self.hear()
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// PostgreSQL on a volume, reached by a Unix socket only.
struct Postgres {
    socket: PathBuf,
    _server: Server,
}

impl Postgres {
    fn start(volume: &Volume) -> Self {
        let user = |kind| run("id", &[kind, "postgres"]).parse().unwrap();
        let (uid, gid) = (user("--user"), user("--group"));
        let data = data_of(uid, gid, volume);
        let socket = scratch_dir("postgres");
        chown(&socket, Some(uid), Some(gid)).unwrap();
        let newest = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed (Debian: postgresql)");
        let newest = newest.map(|version| version.unwrap().path()).max().unwrap();
        let programs = newest.join("bin");
        let as_user = |name: &str| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(programs.join(name));
            command.arg("-D").arg(&data).current_dir(&socket).env("LC_ALL", "C");
            command
        };
        let made = as_user("initdb").args(["--no-sync", "--auth=trust"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let settings = [format!("unix_socket_directories={}", text(&socket)), "listen_addresses=".to_owned()];
        let mut command = as_user("postgres");
        for setting in &settings {
            command.args(["-c", setting]);
        }
        let server = Server::start(&mut command, &socket.join("log"));
        let is_ready = || Command::new("pg_isready").args(["--quiet", "--host", text(&socket)]).status();
        until("PostgreSQL is ready", || is_ready().is_ok_and(|status| status.success()));
        Self { socket, _server: server }
    }
}

#[test]
#[ignore = "needs root, loop devices and PostgreSQL"]
fn trap_12_postgres_in_mid_transaction_is_ready_and_commits_after_the_release() {
    on_a_node(async || {
        let mut scene = Scene::new("ext4").await;
        let postgres = Postgres::start(&scene.volume);
        let mut client = Psql::connect(&postgres.socket);
        let backend: i32 = client.ask("select pg_backend_pid();").parse().unwrap();
        assert_eq!(client.ask("create table orders (n int); begin; insert into orders values (1) returning n;"), "1");

        // In mid-transaction there is no lock: what is cut is as after a power failure, and no more is ever promised.
        scene.hold(HOLD).await;
        client.say("commit; select 'committed';");
        until("the commit waits", || waits_for_a_thaw(backend));
        assert_eq!(client.lines.try_recv(), Err(TryRecvError::Empty), "committed while suspended");
        scene.unbroken().await;
        assert_eq!(client.hear(), "committed");
        assert_eq!(Psql::connect(&postgres.socket).ask("select count(*) from orders;"), "1");
    });
}

#[test]
fn trap_12_no_status_promises_more_than_a_crash_leaves() {
    let schema = schemars::schema_for!(Consistency);
    let words: Vec<&str> = schema
        .get("oneOf")
        .and_then(|kinds| kinds.as_array())
        .expect("an enum")
        .iter()
        .map(|kind| kind["const"].as_str().expect("a word"))
        .collect();
    assert_eq!(words, ["Crash"]);
}
