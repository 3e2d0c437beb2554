//! Agents that are started again after everybody who could have given writes back was killed.

use std::fs;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::Signal;
use stillpoint::agent::Reach;
use stillpoint::agent::procfs::Device;
use stillpoint::agent::record::{Process, Record};
use stillpoint::fsfreeze;
use stillpoint::note::boot_id;
use stillpoint::undo::Undo;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command;
use stillpoint_core::wire::{NotReady, Suspend};

use crate::scene::{HOLD, Scene, attempt, is_freezing, kill_at_once, until};
use crate::stuck::StuckWrite;
use crate::volume::Volume;

fn records(scene: &Scene) -> Vec<String> {
    let entries = fs::read_dir(&scene.volume.records).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What the guardian owes.
fn notes(scene: &Scene) -> usize {
    fs::read_dir(scene.volume.directory.join("owed")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_restarted_agent_thaws_what_it_had_recorded_and_nothing_else() {
    let mut scene = Scene::new("ext4").await;
    let other = Volume::new("ext4");
    scene.hold(HOLD).await;
    assert_eq!(records(&scene), ["claim"]);
    fsfreeze::freeze(other.root()).unwrap();
    kill_at_once(&[scene.guardian().pid, scene.agent.freezer().unwrap(), scene.agent.pid]);
    assert!(scene.volume.is_frozen(), "nobody is left to thaw");
    scene.restart_agent().await;
    println!("everybody killed, the agent restarted: writes went on after {:?}", scene.writer.goes_on());
    until("the record is gone", || records(&scene).is_empty());
    assert!(other.is_frozen(), "what was frozen by somebody else stays frozen");
    fsfreeze::thaw(other.root()).unwrap();
    scene.restart_guardian();
    scene.hold(HOLD).await;
    assert!(scene.release().await.unbroken);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_new_guardian_thaws_what_the_last_one_owed_as_soon_as_a_pod_shows_it() {
    let mut scene = Scene::new("ext4").await;
    let other = Volume::new("ext4");
    scene.hold(HOLD).await;
    assert_eq!(notes(&scene), 1);
    fsfreeze::freeze(other.root()).unwrap();
    let freezer = scene.agent.freezer().unwrap();
    kill_at_once(&[scene.guardian().pid, freezer, scene.agent.pid, scene.pod.pause_process]);
    scene.restart_guardian();
    assert!(scene.volume.is_frozen(), "the new guardian has no descriptor of it");
    scene.replace_pod().await;
    println!("a whole pod and the guardian killed, both replaced: writes went on after {:?}", scene.writer.goes_on());
    until("the note is gone", || notes(&scene) == 0);
    assert!(!scene.volume.is_frozen());
    assert!(other.is_frozen(), "the agent shows it too, but no guardian owed it");
    fsfreeze::thaw(other.root()).unwrap();
    scene.hold(HOLD).await;
    assert!(scene.release().await.unbroken);
    until("what is over leaves no note", || notes(&scene) == 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_guardian_that_cannot_note_what_it_owes_promises_nothing() {
    let mut scene = Scene::new("ext4").await;
    assert!(matches!(scene.prepare(HOLD).await, Report::Prepared(_)));
    fs::remove_dir(scene.volume.directory.join("owed")).unwrap();
    let Report::NotReady(NotReady { blockers, .. }) = scene.suspend(1).await else { panic!("suspended") };
    assert_eq!(blockers[0].reason, "NoGuardian");
    assert!(!scene.volume.is_frozen());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_restarted_agent_waits_for_a_freeze_that_is_still_pending() {
    let mut scene = Scene::new("ext4").await;
    assert!(matches!(scene.prepare(HOLD).await, Report::Prepared(_)));
    let stuck = StuckWrite::new(&scene.volume.mount);
    scene.session.say(Command::Suspend(Suspend { attempt: Some(attempt()), round: 1 })).await;
    until("the freeze is recorded", || records(&scene) == ["claim"]);
    until("the freezer is stuck in the kernel", || scene.agent.freezer().is_some_and(is_freezing));
    let freezer = scene.agent.freezer().unwrap();
    kill_at_once(&[scene.guardian().pid, scene.agent.pid]);
    scene.restart_agent().await;
    // A member that is being recovered is not prepared.
    let Report::NotReady(NotReady { blockers, .. }) = scene.prepare(HOLD).await else { panic!("prepared") };
    assert!(matches!(blockers[0].reason.as_str(), "Stuck" | "TooSlow"), "{blockers:?}");
    assert!(is_freezing(freezer) && records(&scene) == ["claim"]);
    stuck.finish();
    println!("the stuck write ended: writes went on after {:?}", scene.writer.goes_on());
    until("the record is gone", || records(&scene).is_empty());
    assert!(!scene.volume.is_frozen());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn a_void_record_and_garbage_thaw_nothing() {
    let mut scene = Scene::new("ext4").await;
    let volume = &scene.volume;
    scene.agent.signal(Signal::KILL);
    until("the agent has ended", || scene.agent.ended());
    let table = fs::read("/proc/self/mountinfo").unwrap();
    let mounts = stillpoint::agent::procfs::mountinfo::parse(&table).unwrap();
    let device = mounts.iter().find(|mount| mount.mount_point == volume.mount).unwrap().device;
    let record = |name: &str, boot_id: &str, device: Device| {
        let (claim_uid, mount_path) = (name.to_owned(), volume.mount.clone());
        let freezer = Process { pid: i32::MAX, started: 0 };
        let record = Record {
            claim: "orders".to_owned(),
            claim_uid,
            mount_path,
            device,
            reach: Reach::Pod,
            boot_id: boot_id.to_owned(),
            freezer,
            undo: Some(Undo::Thaw),
            owed: None,
        };
        fs::write(volume.records.join(name), serde_json::to_vec(&record).unwrap()).unwrap();
    };
    let boot = boot_id().unwrap();
    record("another-boot", "another", device);
    record("another-device", &boot, Device { minor: device.minor + 1, ..device });
    fs::write(volume.records.join("garbage"), b"{").unwrap();
    fsfreeze::freeze(volume.root()).unwrap();
    scene.restart_agent().await;
    until("void records are gone", || records(&scene) == ["garbage"]);
    assert!(scene.volume.is_frozen(), "nothing named it");
    // The same once more, but valid: this is what was not there.
    scene.agent.signal(Signal::KILL);
    until("the agent has ended", || scene.agent.ended());
    let volume = &scene.volume;
    let valid = Record {
        claim: "orders".to_owned(),
        claim_uid: "valid".to_owned(),
        mount_path: volume.mount.clone(),
        device,
        reach: Reach::Pod,
        boot_id: boot,
        freezer: Process { pid: i32::MAX, started: 0 },
        undo: Some(Undo::Thaw),
        owed: None,
    };
    fs::write(volume.records.join("valid"), serde_json::to_vec(&valid).unwrap()).unwrap();
    scene.restart_agent().await;
    scene.writer.goes_on();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn without_a_place_for_the_record_nothing_is_frozen() {
    for (place, why) in [("mount/records", "lies on the volume"), ("image", "Not a directory")] {
        let mut scene = Scene::recording_to("ext4", Path::new(place)).await;
        let Report::NotReady(NotReady { blockers, .. }) = scene.prepare(HOLD).await else { panic!("prepared") };
        println!("{}", blockers[0].message);
        assert_eq!(blockers[0].reason, "NotRecorded");
        assert!(blockers[0].message.contains(why), "{blockers:?}");
    }
    // It goes away after the preflight.
    let mut scene = Scene::new("ext4").await;
    assert!(matches!(scene.prepare(HOLD).await, Report::Prepared(_)));
    fs::remove_dir(&scene.volume.records).unwrap();
    let Report::NotReady(NotReady { blockers, retryable, .. }) = scene.suspend(1).await else { panic!("suspended") };
    assert_eq!((blockers[0].reason.as_str(), retryable), ("NotRecorded", false));
    assert_eq!(fsfreeze::thaw(scene.volume.root()), Err(Errno::INVAL));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and loop devices"]
async fn no_record_outlives_its_round() {
    let mut scene = Scene::new("ext4").await;
    assert!(matches!(scene.prepare(HOLD).await, Report::Prepared(_)));
    assert!(records(&scene).is_empty());
    fsfreeze::freeze(scene.volume.root()).unwrap();
    assert!(matches!(scene.suspend(1).await, Report::NotReady(_)));
    until("a refused round leaves none", || records(&scene).is_empty());
    fsfreeze::thaw(scene.volume.root()).unwrap();
    assert!(matches!(scene.suspend(2).await, Report::Ready(_)));
    assert_eq!(records(&scene), ["claim"]);
    scene.agent.signal(Signal::TERM);
    until("the agent has ended", || scene.agent.ended());
    assert!(records(&scene).is_empty(), "an agent that was told to stop leaves none");
}
