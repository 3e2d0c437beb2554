//! Writers that wait for the thaw, and what becomes of their writes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::roles::{Role, until, waits_for_a_thaw};
use crate::scene::{HOLD, SLACK, Scene, on_a_node};
use crate::volume::{FILESYSTEMS, run, scratch_dir, text};

#[test]
#[ignore = "needs root and loop devices"]
fn trap_13_a_clone_waits_for_the_thaw_and_does_not_put_it_off() {
    on_a_node(async || {
        for filesystem in ["xfs", "btrfs"] {
            let limit = Duration::from_secs(1);
            let mut scene = Scene::new(filesystem).await;
            let mut writer = Role::hand(&scene.volume.file("x"));
            writer.tell("write record");
            writer.done();
            scene.hold(limit).await;
            let begun = Instant::now();
            writer.tell("clone");
            until("the clone waits", || writer.waits_for_a_thaw());
            writer.done();
            let took = begun.elapsed();
            assert!(took < limit + SLACK, "{filesystem}: {took:?}");
            scene.broken("hold limit").await;
            assert_eq!(std::fs::read_to_string(scene.volume.file("x.copy")).unwrap(), "record", "{filesystem}");
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_13_a_btrfs_snapshot_waits_for_the_thaw_and_does_not_put_it_off() {
    on_a_node(async || {
        let limit = Duration::from_secs(1);
        let mut scene = Scene::new("btrfs").await;
        scene.hold(limit).await;
        let begun = Instant::now();
        let (from, to) = (scene.volume.path.clone(), scene.volume.file("snapshot"));
        let mut command = Command::new("btrfs");
        let command = command.args(["subvolume", "snapshot", text(&from), text(&to)]).stdout(Stdio::null());
        let mut snapshot = command.spawn().unwrap();
        let pid = snapshot.id().cast_signed();
        until("the snapshot waits", || waits_for_a_thaw(pid));
        assert!(snapshot.wait().unwrap().success());
        let took = begun.elapsed();
        assert!(took < limit + SLACK, "{took:?}");
        scene.broken("hold limit").await;
        assert!(to.is_dir());
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_15_a_write_that_its_client_gave_up_lands_after_the_release_and_not_in_the_cut() {
    on_a_node(async || {
        for filesystem in FILESYSTEMS {
            let mut scene = Scene::new(filesystem).await;
            let mut client = Role::hand(&scene.volume.file("record"));
            client.tell("write paid");
            client.done();
            scene.hold(HOLD).await;
            client.tell("rename");
            until("the client waits", || client.waits_for_a_thaw());
            client.kill();
            until("the client is told to end", || is_killed(client.pid));
            assert!(client.waits_for_a_thaw(), "nothing ends a process that waits for a thaw");
            let cut = cut(&scene.volume.image);
            assert_eq!(files(&scene.volume.path), ["record.copy", "record.new"], "{filesystem}: suspended");
            scene.unbroken().await;
            until("the dead client's rename has landed", || scene.volume.file("record").exists());
            assert_eq!(std::fs::read_to_string(scene.volume.file("record")).unwrap(), "paid", "{filesystem}");

            let at = scratch_dir("cut");
            // An xfs has the same UUID as its copy, which may not be mounted beside it otherwise.
            let options = if filesystem == "xfs" { "loop,ro,nouuid,norecovery" } else { "loop,ro" };
            if filesystem == "btrfs" {
                run("btrfstune", &["-f", "-m", text(&cut)]);
            }
            run("mount", &["-o", options, text(&cut), text(&at)]);
            assert_eq!(files(&at), ["record.copy", "record.new"], "{filesystem}: the cut");
            assert_eq!(std::fs::read_to_string(at.join("record.new")).unwrap(), "paid", "{filesystem}");
            run("umount", &[text(&at)]);
        }
    });
}

/// A copy of an image, as it is on the disk now.
fn cut(image: &Path) -> PathBuf {
    let copy = image.with_extension("cut");
    run("cp", &["--sparse=always", text(image), text(&copy)]);
    copy
}

fn files(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "lost+found").collect();
    names.sort();
    names
}

/// Whether SIGKILL waits for the process (proc_pid_status(5)).
fn is_killed(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status.lines().filter_map(|line| line.strip_prefix("ShdPnd:").or(line.strip_prefix("SigPnd:")));
    pending.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & (1 << 8) != 0)
}
