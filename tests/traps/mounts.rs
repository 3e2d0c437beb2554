//! A freeze belongs to the filesystem, not to a mount: what happens to mounts must not keep writes from coming back.

use std::process::Command;

use rustix::process::{Signal, kill_process};

use crate::roles::{Role, until};
use crate::scene::{HOLD, IN_ITS_POD, Scene, on_a_node};
use crate::volume::{FILESYSTEMS, Volume, run, scratch_dir, text};

/// The loop device below a volume.
fn device(volume: &Volume) -> String {
    run("losetup", &["--noheadings", "--output", "NAME", "--associated", text(&volume.image)])
}

fn unmounts(volume: &Volume) -> bool {
    Command::new("umount").arg(&volume.path).output().unwrap().status.success()
}

/// Mounts the volume at another place, and begins a write there that waits for the thaw.
fn write_at_a_new_mount(volume: &Volume) -> Role {
    let at = scratch_dir("again");
    run("mount", &[&device(volume), text(&at)]);
    // The file was made before the freeze: making it would wait.
    let mut writer = Role::start(&[], "hand", &[text(&at.join("x"))]);
    writer.tell("write record");
    until("the new mount is frozen too", || writer.waits_for_a_thaw());
    writer
}

/// Makes what a hand on `x` needs, so that it can begin on a frozen filesystem.
fn make_files(volume: &Volume) {
    drop(Role::hand(&volume.file("x")));
}

/// Unmounts the volume everywhere, mounts it afresh and writes.
fn is_whole_and_writable(volume: &Volume) {
    let device = device(volume);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    for mount in mounts.lines().filter(|line| line.starts_with(&format!("{device} "))) {
        run("umount", &[mount.split(' ').nth(1).unwrap()]);
    }
    let image = text(&volume.image);
    until("the device is let go", || run("losetup", &["--associated", image]).is_empty());
    run("mount", &["-o", "loop", image, text(&volume.path)]);
    let mut writer = Role::hand(&volume.file("y"));
    writer.tell("write record");
    writer.done();
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_03_a_volume_unmounted_and_mounted_again_while_frozen_is_thawed_by_its_hold() {
    on_a_node(async || {
        for filesystem in FILESYSTEMS {
            // The pod has mounts of its own, so the node can unmount.
            let mut scene = Scene::with_agent(filesystem, &IN_ITS_POD).await;
            make_files(&scene.volume);
            scene.hold(HOLD).await;
            assert!(unmounts(&scene.volume), "{filesystem}: umount succeeds on the node");
            let mut writer = write_at_a_new_mount(&scene.volume);
            let released = scene.release().await;
            assert!(released.unbroken, "{filesystem}: {released:?}");
            writer.done();
            drop(writer);
            scene.agent.kill_pod();
            is_whole_and_writable(&scene.volume);
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_03_a_held_volume_is_busy_and_after_a_lazy_unmount_its_hold_is_whole() {
    on_a_node(async || {
        for filesystem in FILESYSTEMS {
            let mut scene = Scene::new(filesystem).await;
            make_files(&scene.volume);
            scene.hold(HOLD).await;
            assert!(!unmounts(&scene.volume), "{filesystem}: a pinned volume was unmounted");
            run("umount", &["--lazy", text(&scene.volume.path)]);
            assert!(!scene.volume.file("x.new").exists(), "the path now names the filesystem below");
            let mut writer = write_at_a_new_mount(&scene.volume);
            let released = scene.release().await;
            assert!(released.unbroken, "{filesystem}: {released:?}");
            writer.done();
            drop(writer);
            is_whole_and_writable(&scene.volume);
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_03_the_guardian_thaws_a_volume_that_nobody_has_mounted_any_more() {
    on_a_node(async || {
        for filesystem in FILESYSTEMS {
            let mut scene = Scene::with_agent(filesystem, &IN_ITS_POD).await;
            make_files(&scene.volume);
            scene.hold(HOLD).await;
            run("umount", &["--lazy", text(&scene.volume.path)]);
            // So that it cannot thaw; its mounts end with its pod.
            kill_process(scene.agent.freezer().unwrap(), Signal::STOP).unwrap();
            scene.agent.kill_pod();
            is_whole_and_writable(&scene.volume);
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_03_a_hold_outlives_a_remount() {
    on_a_node(async || {
        for filesystem in FILESYSTEMS {
            let mut scene = Scene::new(filesystem).await;
            let mut writer = Role::hand(&scene.volume.file("x"));
            scene.hold(HOLD).await;
            let mut remount = Command::new("mount");
            let remount = remount.args(["-o", "remount,ro", text(&scene.volume.path)]).output().unwrap();
            assert!(!remount.status.success(), "{filesystem}: a frozen filesystem was remounted");
            scene.unbroken().await;
            writer.tell("write record");
            writer.done();
        }
    });
}
