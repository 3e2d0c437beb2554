//! Processes that are killed or stopped in the middle of a hold: whoever it is, writes go on within the limit.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use stillpoint_core::limits::{GUARDIAN_GRACE, THAW_RETRY};
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command;
use stillpoint_core::wire::{NotReady, Prepared, Protection, Suspend};

use crate::scene::{HOLD, Scene, attempt, is_freezing, kill_at_once, stop, until};
use crate::stuck::StuckWrite;

const SHORT: Duration = Duration::from_secs(1);
/// Whoever sees the death of another acts at once, and not at the limit.
const AT_ONCE: Duration = Duration::ZERO;

/// Whether a process has anything of the volume open.
fn holds_on(process: Pid, scene: &Scene) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).unwrap();
    let mut links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.any(|link| link.starts_with(&scene.volume.mount))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_killed_agent_is_replaced_by_its_freezer() {
    let mut scene = Scene::new("ext4").await;
    scene.hold(HOLD).await;
    // Nobody but the freezer is left.
    stop(scene.guardian().pid);
    scene.agent.signal(Signal::KILL);
    println!("agent killed, guardian stopped: writes went on after {:?}", scene.given_back(AT_ONCE));
    // The guardian comes late, finds nothing frozen, and lets go.
    scene.guardian().signal(Signal::CONT);
    until("the guardian lets go", || !holds_on(scene.guardian().pid, &scene));
    scene.restart_agent().await;
    scene.hold(HOLD).await;
    assert!(scene.release().await.unbroken);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_killed_agent_and_freezer_are_replaced_by_the_guardian() {
    let mut scene = Scene::new("ext4").await;
    scene.hold(HOLD).await;
    kill_at_once(&[scene.agent.freezer().unwrap(), scene.agent.pid]);
    println!("agent and freezer killed: writes went on after {:?}", scene.given_back(AT_ONCE));
    scene.restart_agent().await;
    scene.hold(HOLD).await;
    assert!(scene.release().await.unbroken);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_killed_pod_is_replaced_by_the_guardian() {
    let mut scene = Scene::new("xfs").await;
    scene.hold(HOLD).await;
    stop(scene.agent.freezer().unwrap());
    kill_process(scene.pod.pause_process, Signal::KILL).unwrap();
    println!("pod killed: writes went on after {:?}", scene.given_back(AT_ONCE));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_stopped_agent_is_overruled_at_its_deadline() {
    let mut scene = Scene::new("xfs").await;
    scene.hold(SHORT).await;
    stop(scene.agent.pid);
    let took = scene.given_back(SHORT);
    println!("agent stopped, limit {SHORT:?}: writes went on after {took:?}");
    assert!(took > SHORT / 2);
    scene.agent.signal(Signal::CONT);
    scene.broken("").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_stopped_agent_and_freezer_are_overruled_at_the_deadline() {
    let mut scene = Scene::new("ext4").await;
    scene.hold(SHORT).await;
    stop(scene.agent.pid);
    let freezer = scene.agent.freezer().unwrap();
    stop(freezer);
    println!("agent and freezer stopped, limit {SHORT:?}: writes went on after {:?}", scene.given_back(SHORT));
    // The guardian, in another pid namespace or not, has let go: nothing can freeze any more that it owes a thaw for.
    until("the guardian lets go", || !holds_on(scene.guardian().pid, &scene));
    scene.agent.signal(Signal::CONT);
    scene.broken("").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn without_its_guardian_the_agent_resumes_at_once() {
    let mut scene = Scene::new("ext4").await;
    scene.hold(HOLD).await;
    drop(scene.guardian.take());
    println!("guardian killed: writes went on after {:?}", scene.given_back(AT_ONCE));
    scene.broken("guardian").await;
    let Report::NotReady(NotReady { blockers, .. }) = scene.prepare(HOLD).await else { panic!("prepared") };
    assert_eq!(blockers[0].reason, "NoGuardian");
    println!("{}", blockers[0].message);
    // A new guardian takes the place of the dead one's socket, and the agent finds it.
    scene.restart_guardian();
    scene.hold(HOLD).await;
    assert!(scene.release().await.unbroken);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn without_a_guardian_nothing_is_frozen() {
    let mut scene = Scene::begin("ext4", false).await;
    let Report::NotReady(NotReady { blockers, .. }) = scene.prepare(HOLD).await else { panic!("prepared") };
    assert_eq!(blockers[0].reason, "NoGuardian");
    let Report::NotReady(NotReady { blockers, .. }) = scene.suspend(1).await else { panic!("suspended") };
    assert_eq!(blockers[0].reason, "NotPrepared");
    assert!(!scene.volume.is_frozen());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_guardian_that_is_told_to_stop_still_gives_back_what_it_promised() {
    let mut scene = Scene::new("ext4").await;
    scene.hold(HOLD).await;
    let (freezer, agent) = (scene.agent.freezer().unwrap(), scene.agent.pid);
    // Else the agent would thaw when the guardian ends.
    stop(agent);
    stop(freezer);
    scene.guardian().signal(Signal::TERM);
    until("the guardian takes nobody new", || !scene.socket().exists());
    let begun = Instant::now();
    until("it could have ended", || scene.guardian().ended() || begun.elapsed() > THAW_RETRY * 4);
    assert!(!scene.guardian().ended() && scene.volume.is_frozen());
    kill_at_once(&[freezer, agent]);
    println!("guardian told to stop, agent killed: writes went on after {:?}", scene.given_back(AT_ONCE));
    assert!(scene.guardian.take().unwrap().started.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn without_its_freezer_the_agent_thaws_itself() {
    let mut scene = Scene::new("ext4").await;
    scene.hold(HOLD).await;
    kill_process(scene.agent.freezer().unwrap(), Signal::KILL).unwrap();
    println!("freezer killed: writes went on after {:?}", scene.given_back(AT_ONCE));
    scene.broken("freezer").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn the_agent_passes_on_what_its_guardian_outlives() {
    let mut scene = Scene::new("ext4").await;
    let protection = |report| match report {
        Report::Prepared(Prepared { protection, .. }) => Protection::try_from(protection).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(protection(scene.prepare(HOLD).await), Protection::NodeGuardian);
    scene.release().await;
    scene.move_guardian_into_pod();
    assert_eq!(protection(scene.prepare(HOLD).await), Protection::PodGuardian);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_guardian_in_the_pod_replaces_the_agents_container() {
    let mut scene = Scene::new("ext4").await;
    scene.move_guardian_into_pod();
    scene.hold(HOLD).await;
    kill_at_once(&[scene.agent.freezer().unwrap(), scene.agent.pid]);
    println!("agent and freezer killed, guardian in the pod: writes went on after {:?}", scene.given_back(AT_ONCE));
    scene.restart_agent().await;
    scene.hold(SHORT).await;
    stop(scene.agent.pid);
    println!("agent stopped, guardian in the pod: writes went on after {:?}", scene.given_back(SHORT));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_guardian_that_cannot_kill_the_freezer_still_thaws() {
    let mut scene = Scene::new("ext4").await;
    let _pod = scene.move_guardian_into_another_pod();
    scene.hold(SHORT).await;
    stop(scene.agent.pid);
    println!("agent stopped, guardian in another pod: writes went on after {:?}", scene.given_back(SHORT));
    scene.agent.signal(Signal::CONT);
    scene.broken("").await;
    // The freeze is still pending when the deadline has passed, and nobody can end it.
    assert!(matches!(scene.prepare(SHORT).await, Report::Prepared(_)));
    let stuck = StuckWrite::new(&scene.volume.mount);
    scene.session.say(Command::Suspend(Suspend { attempt: Some(attempt()), round: 1 })).await;
    until("the freeze is recorded", || fs::read_dir(&scene.volume.records).unwrap().count() == 1);
    let freezer = scene.agent.freezer().unwrap();
    until("the freezer is stuck in the kernel", || is_freezing(freezer));
    stop(scene.agent.pid);
    let begun = Instant::now();
    until("the deadline has passed", || begun.elapsed() > SHORT + GUARDIAN_GRACE);
    assert!(is_freezing(freezer));
    stuck.finish();
    println!("the stuck write ended: writes went on after {:?}", scene.given_back(AT_ONCE));
    scene.agent.signal(Signal::CONT);
}

#[test]
#[ignore = "needs root"]
fn a_guardian_without_the_capability_to_thaw_does_not_start() {
    let socket = std::env::temp_dir().join(format!("stillpoint-powerless-{}.sock", std::process::id()));
    let mut setpriv = std::process::Command::new("setpriv");
    setpriv.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", env!("CARGO_BIN_EXE_stillpoint"), "guardian"]);
    let mut guardian = setpriv.arg("--socket").arg(&socket).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while guardian.try_wait().unwrap().is_none() && begun.elapsed() < HOLD {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = guardian.kill();
    let output = guardian.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && words.contains("SYS_ADMIN"), "{words}");
    assert!(!socket.exists());
}
