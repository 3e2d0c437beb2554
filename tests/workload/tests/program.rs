//! The program as a container runs it: a store that is lost and comes back, the check, the locks, SIGTERM.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use workload::log::{FILE_NAME, Log};
use workload::record;
use workload::stats::Stats;
use workload::writer;

const PROGRAM: &str = env!("CARGO_BIN_EXE_stillpoint-workload");
const LIMIT: Duration = Duration::from_secs(20);

/// A running role; killed when dropped.
struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM).args(args).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().into()
    }

    /// What stands behind the last space of the first line: the address.
    fn address(&mut self) -> String {
        self.line().rsplit_once(' ').unwrap().1.into()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn store(volume: &Path, listen: &str) -> Running {
    Running::start(&["store", "--dir", volume.to_str().unwrap(), "--listen", listen])
}

#[tokio::test(flavor = "current_thread")]
async fn a_lost_store_is_waited_for_and_the_records_go_on() {
    let volumes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut first = store(volumes[0].path(), "127.0.0.1:0");
    let mut second = store(volumes[1].path(), "127.0.0.1:0");
    let addresses = [first.address(), second.address()];
    let stats = RefCell::new(Stats::new(Instant::now()));
    let last = || stats.borrow_mut().report(false, Instant::now()).last_record;
    let wait = async |condition: &dyn Fn() -> bool| {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let script = async {
        wait(&|| last() >= 5).await;
        second.kill();
        wait(&|| stats.borrow_mut().report(false, Instant::now()).reconnects > 0).await;
        let before = last();
        let again = store(volumes[1].path(), &addresses[1]);
        wait(&|| last() >= before + 5).await;
        again
    };
    tokio::select! {
        never = writer::write(&addresses, &stats) => match never {},
        done = timeout(LIMIT, script) => drop(done.unwrap()),
    }
    drop(first);
    let output = check(&[("a", volumes[0].path()), ("b", volumes[1].path())], &[]);
    assert!(output.status.success(), "{output:?}");
}

fn check(volumes: &[(&str, &Path)], more: &[&str]) -> Output {
    let volumes: Vec<String> = volumes.iter().map(|(name, path)| format!("{name}={}", path.display())).collect();
    Command::new(PROGRAM).args(["check", "--volumes", &volumes.join(",")]).args(more).output().unwrap()
}

#[test]
fn the_check_tells_a_torn_group_and_writes_the_report() {
    let volumes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (volume, count) in volumes.iter().zip([3, 5]) {
        let mut log = Log::open(volume.path()).unwrap();
        (1..=count).for_each(|number| log.append(number).unwrap());
    }
    let named = [("a", volumes[0].path()), ("b", volumes[1].path())];
    let torn = check(&named, &[]);
    assert!(!torn.status.success());
    let verdict: workload::order::Verdict = serde_json::from_slice(&torn.stdout).unwrap();
    assert_eq!((verdict.violations.len(), verdict.logs[1].log.records), (1, 5));

    let report = volumes[0].path().join("report");
    let dump = check(&named, &["--dump", "--report", report.to_str().unwrap()]);
    assert!(dump.status.success());
    let expected = r#"[{"name":"a","records":3},{"name":"b","records":5}]"#;
    assert_eq!(String::from_utf8(dump.stdout).unwrap().trim(), expected);
    assert_eq!(std::fs::read_to_string(report).unwrap(), expected);
    assert!(!check(&[("a", Path::new("/nonexistent"))], &[]).status.success());
}

#[test]
fn the_check_changes_nothing() {
    let volume = tempfile::tempdir().unwrap();
    let content = [&record::encode(1)[..], &record::encode(2)[..7]].concat();
    std::fs::write(volume.path().join(FILE_NAME), &content).unwrap();
    assert!(check(&[("a", volume.path())], &[]).status.success());
    assert_eq!(std::fs::read(volume.path().join(FILE_NAME)).unwrap(), content);
}

#[test]
fn sigterm_ends_a_role_at_once() {
    let volume = tempfile::tempdir().unwrap();
    let mut running = store(volume.path(), "127.0.0.1:0");
    running.line();
    let pid = running.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = running.child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}

/// The lines of /proc/locks about a file.
fn locks_on(file: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let inode = format!(":{} ", std::fs::metadata(file).unwrap().ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    locks.lines().filter(|line| line.contains(&inode)).map(Into::into).collect()
}

fn lock(file: &Path, more: &[&str]) -> Running {
    Running::start(&[&["lock", "--listen", "127.0.0.1:0", "--file", file.to_str().unwrap()], more].concat())
}

#[test]
fn every_kind_of_lock_is_held_as_the_kernel_shows_it() {
    let volume = tempfile::tempdir().unwrap();
    let expected = [
        (&["--type", "posix", "--range", "0-99"][..], "POSIX", "0 99"),
        (&["--type", "ofd", "--range", "5-5"], "OFDLCK", "5 5"),
        (&["--type", "flock"], "FLOCK", "0 EOF"),
        (&["--type", "ofd", "--inherit"], "OFDLCK", "0 EOF"),
        (&["--type", "flock", "--inherit"], "FLOCK", "0 EOF"),
    ];
    for (args, kind, range) in expected {
        let file = volume.path().join("held");
        let mut running = lock(&file, args);
        let address = running.address();
        let found = locks_on(&file);
        assert_eq!(found.len(), 1, "{args:?}: {found:?}");
        assert!(found[0].contains(kind) && found[0].contains("WRITE") && found[0].ends_with(range), "{found:?}");
        let own_pid = found[0].contains(&format!(" {} ", running.child.id()));
        assert_eq!(own_pid, kind != "OFDLCK" && !args.contains(&"--inherit"), "{args:?}: {found:?}");
        assert_eq!(ask(&address, "GET /"), r#"{"locked":true}"#);
        assert_eq!(ask(&address, "POST /unlock"), r#"{"locked":false}"#);
        assert_eq!(locks_on(&file), Vec::<String>::new(), "{args:?}");
        ask(&address, "POST /lock");
        assert_eq!(locks_on(&file).len(), 1, "{args:?}");
        running.kill();
        assert_eq!(locks_on(&file), Vec::<String>::new(), "{args:?}");
    }
}

#[test]
fn on_request_the_lock_is_taken_later() {
    let volume = tempfile::tempdir().unwrap();
    let file = volume.path().join("held");
    let mut running = lock(&file, &["--on-request"]);
    let address = running.address();
    assert_eq!(locks_on(&file), Vec::<String>::new());
    assert_eq!(ask(&address, "POST /lock"), r#"{"locked":true}"#);
    assert_eq!(locks_on(&file).len(), 1);
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.rsplit_once("\r\n").unwrap().1.into()
}

#[test]
fn a_lock_that_somebody_holds_is_an_error() {
    let volume = tempfile::tempdir().unwrap();
    let file = volume.path().join("held");
    let mut holder = lock(&file, &["--type", "flock"]);
    holder.line();
    let second =
        Command::new(PROGRAM).args(["lock", "--type", "flock", "--file", file.to_str().unwrap()]).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("cannot lock"));
}

#[test]
fn impossible_combinations_are_refused() {
    for args in [&["--type", "posix", "--inherit"][..], &["--type", "flock", "--range", "0-9"], &["--range", "9-0"]] {
        let output = Command::new(PROGRAM).args(["lock", "--file", "/nonexistent/x"]).args(args).output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("cannot open"), "{args:?}");
    }
}
