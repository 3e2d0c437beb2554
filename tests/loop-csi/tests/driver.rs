//! The driver's whole life over its sockets, with real filesystems on real loop devices. Needs root.

mod harness;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{
    NODE, Rig, enter_private_mounts, freeze_with_thaw_armed, fsfreeze, newest_records, wait_until, write_in_turn,
};
use loop_csi::csi::{self, volume_usage::Unit};
use loop_csi::filesystem::FsType;
use loop_csi::identity::{DRIVER_NAME, TOPOLOGY_KEY};
use loop_csi::image::CopyMethod;
use loop_csi::pluginregistration::registration_client::RegistrationClient;
use loop_csi::pluginregistration::{InfoRequest, RegistrationStatus};
use loop_csi::tools::Tools;
use loop_csi::{image, loopdev, mounts, registration};
use rustix::fs::{CWD, FileType, mknodat};
use rustix::mount::{MountFlags, mount};
use tonic::Code;

/// Snapshots a volume while it is written to, restores it beside the running source, and takes everything away again.
fn live_a_whole_life(fs: FsType) {
    let rig = Rig::start();
    let volume = rig.create_volume("v1", fs, None).unwrap();
    assert_eq!(volume.capacity_bytes as u64, fs.smallest().max(64 << 20));
    assert_eq!(volume.accessible_topology[0].segments[TOPOLOGY_KEY], NODE);
    let files = rig.mount("v1", fs);

    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (files, stop) = (files.clone(), stop.clone());
        move || write_in_turn(&files, &stop)
    });
    wait_until("the writer writes", || files.join("b").metadata().is_ok_and(|file| file.len() > 100 * 4096));
    let snapshot = rig.create_snapshot("s1", "v1", &[]).unwrap();
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    assert!(snapshot.ready_to_use);
    assert_eq!(snapshot.size_bytes, volume.capacity_bytes);

    rig.create_volume("v2", fs, Some(&snapshot.snapshot_id)).unwrap();
    let restored = rig.mount("v2", fs);
    let [a, b] = newest_records(&restored);
    assert!(a - b <= 1, "the snapshot shows file a at record {a} and file b at {b}: more than one instant");
    fs::write(restored.join("new"), "writable").unwrap();

    for id in ["v1", "v2"] {
        rig.unmount(id);
        rig.delete_volume(id).unwrap();
        rig.delete_volume(id).unwrap();
    }
    rig.delete_snapshot(&snapshot.snapshot_id).unwrap();
    rig.delete_snapshot(&snapshot.snapshot_id).unwrap();
    for kind in ["volumes", "snapshots"] {
        assert_eq!(fs::read_dir(rig.path("data").join(NODE).join(kind)).unwrap().count(), 0, "{kind} are left");
    }
}

#[test]
fn ext4_lives_a_whole_life() {
    live_a_whole_life(FsType::Ext4);
}

#[test]
fn a_loop_device_that_the_nodes_dev_lacks_is_made() {
    enter_private_mounts();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    // As in a container that is older than every loop device.
    let control = fs::metadata("/dev/loop-control").unwrap().rdev();
    mount("none", "/dev", "tmpfs", MountFlags::empty(), None).unwrap();
    mknodat(CWD, "/dev/loop-control", FileType::CharacterDevice, 0o600.into(), control).unwrap();

    let device = loopdev::attach(&image).unwrap();
    assert_eq!(loopdev::attached_to(&image).unwrap(), [device.path()]);
}

#[test]
fn xfs_lives_a_whole_life() {
    live_a_whole_life(FsType::Xfs);
}

#[test]
fn btrfs_lives_a_whole_life() {
    live_a_whole_life(FsType::Btrfs);
}

/// Newer kernels mount two btrfs filesystems with one fsid, so that the mount alone proves nothing.
#[test]
fn a_restored_btrfs_has_an_identity_of_its_own() {
    let rig = Rig::start();
    rig.create_volume("v1", FsType::Btrfs, None).unwrap();
    let snapshot = rig.create_snapshot("s1", "v1", &[]).unwrap();
    rig.create_volume("v2", FsType::Btrfs, Some(&snapshot.snapshot_id)).unwrap();
    // The first superblock is at 64 KiB, and its fsid follows a checksum of 32 bytes.
    let fsid = |id| {
        let mut fsid = [0; 16];
        fs::File::open(rig.image(id)).unwrap().read_exact_at(&mut fsid, (64 << 10) + 32).unwrap();
        fsid
    };
    assert_ne!(fsid("v1"), [0; 16]);
    assert_ne!(fsid("v1"), fsid("v2"));
}

#[test]
fn anothers_hold_is_used_and_left_alone() {
    for fs in FsType::ALL {
        let rig = Rig::start();
        rig.create_volume("v1", fs, None).unwrap();
        let files = rig.mount("v1", fs);
        fs::write(files.join("file"), "before the hold").unwrap();

        let hold = freeze_with_thaw_armed(&files);
        let snapshot = rig.create_snapshot("s1", "v1", &[]);
        assert!(hold.thaw(), "{}: the driver resumed what another had suspended", fs.name());

        rig.create_volume("v2", fs, Some(&snapshot.unwrap().snapshot_id)).unwrap();
        let restored = rig.mount("v2", fs);
        assert_eq!(fs::read_to_string(restored.join("file")).unwrap(), "before the hold");
        rig.unmount("v2");
        rig.unmount("v1");
    }
}

#[test]
fn repeated_calls_find_what_the_first_made() {
    let rig = Rig::start();
    let first = rig.create_volume("v1", FsType::Ext4, None).unwrap();
    assert_eq!(rig.create_volume("v1", FsType::Ext4, None).unwrap(), first);
    assert_eq!(rig.create_volume("v1", FsType::Xfs, None).unwrap_err().code(), Code::AlreadyExists);
    rig.create_volume("v2", FsType::Ext4, None).unwrap();

    let snapshot = rig.create_snapshot("s1", "v1", &[]).unwrap();
    assert_eq!(rig.create_snapshot("s1", "v1", &[]).unwrap(), snapshot);
    assert_eq!(rig.create_snapshot("s1", "v2", &[]).unwrap_err().code(), Code::AlreadyExists);

    let files = rig.mount("v1", FsType::Ext4);
    fs::write(files.join("file"), "kept").unwrap();
    assert_eq!(rig.mount("v1", FsType::Ext4), files);
    assert_eq!(rig.publish("v1", FsType::Ext4, "pod", true).unwrap_err().code(), Code::AlreadyExists);
    rig.unmount("v1");
    rig.unmount("v1");
    assert_eq!(fs::read_to_string(rig.mount("v1", FsType::Ext4).join("file")).unwrap(), "kept");
    rig.unmount("v1");
}

#[test]
fn what_cannot_be_done_is_refused_with_the_right_code() {
    let rig = Rig::start();
    let ext4 = FsType::Ext4;
    assert_eq!(rig.create_snapshot("s1", "v1", &[]).unwrap_err().code(), Code::NotFound);
    assert_eq!(rig.stage("v1", ext4).unwrap_err().code(), Code::NotFound);
    assert_eq!(rig.create_volume("v1", ext4, Some("n2/s1")).unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(rig.create_volume("v1", ext4, Some("n1/s1")).unwrap_err().code(), Code::NotFound);
    assert_eq!(rig.create_volume("../v1", ext4, None).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(rig.delete_snapshot("n2/s1").unwrap_err().code(), Code::FailedPrecondition);

    rig.create_volume("v1", ext4, None).unwrap();
    assert_eq!(rig.publish("v1", ext4, "pod", false).unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(rig.stage("v1", FsType::Xfs).unwrap_err().code(), Code::InvalidArgument);
    let snapshot = rig.create_snapshot("s1", "v1", &[]).unwrap();
    let other_fs = rig.create_volume("v2", FsType::Xfs, Some(&snapshot.snapshot_id)).unwrap_err();
    assert_eq!(other_fs.code(), Code::InvalidArgument);
    rig.mount("v1", ext4);
    assert_eq!(rig.delete_volume("v1").unwrap_err().code(), Code::FailedPrecondition);
    rig.unmount("v1");
}

#[test]
fn a_read_only_mount_is_read_only_and_the_other_is_not() {
    let rig = Rig::start();
    rig.create_volume("v1", FsType::Ext4, None).unwrap();
    let files = rig.mount("v1", FsType::Ext4);
    let read_only = rig.publish("v1", FsType::Ext4, "reader", true).unwrap();
    assert!(fs::write(read_only.join("file"), "x").is_err());
    fs::write(files.join("file"), "x").unwrap();
    assert_eq!(fs::read_to_string(read_only.join("file")).unwrap(), "x");
    rig.unpublish("v1", "reader").unwrap();
    rig.unmount("v1");
}

#[test]
fn a_volume_mounted_out_of_sight_gets_no_second_loop_device() {
    let rig = Rig::start();
    rig.create_volume("v1", FsType::Ext4, None).unwrap();
    let files = rig.mount("v1", FsType::Ext4);
    // Another mount namespace, with copies of all mounts, that lasts until its standard input closes.
    let mut elsewhere = Command::new("unshare")
        .args(["--mount", "sh", "-c", "echo ready; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    elsewhere.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();

    rig.unpublish("v1", "pod").unwrap();
    assert_eq!(rig.unstage("v1").unwrap_err().code(), Code::Internal);
    assert_eq!(rig.mount("v1", FsType::Ext4), files);
    assert_eq!(loopdev::attached_to(&rig.image("v1")).unwrap().len(), 1);

    drop(elsewhere.stdin.take());
    elsewhere.wait().unwrap();
    rig.unmount("v1");
}

#[test]
fn usage_is_told_of_what_is_mounted() {
    let rig = Rig::start();
    rig.create_volume("v1", FsType::Ext4, None).unwrap();
    let files = rig.mount("v1", FsType::Ext4);
    let stats = |path: String| {
        let request = csi::NodeGetVolumeStatsRequest { volume_id: "v1".into(), volume_path: path };
        rig.call(rig.node().node_get_volume_stats(request))
    };
    let usage = stats(files.to_str().unwrap().into()).unwrap().usage;
    assert_eq!(usage.iter().map(|usage| usage.unit()).collect::<Vec<_>>(), [Unit::Bytes, Unit::Inodes]);
    assert!(usage[0].total > 32 << 20 && usage[0].total <= 64 << 20, "{usage:?}");
    assert_eq!(stats(String::new()).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(stats(rig.path("none").to_str().unwrap().into()).unwrap_err().code(), Code::NotFound);
    rig.unmount("v1");
}

#[test]
fn faults_strike_as_asked() {
    let rig = Rig::start();
    rig.create_volume("v1", FsType::Ext4, None).unwrap();

    let failed = rig.create_snapshot("s1", "v1", &[("fail", "the array is on fire")]).unwrap_err();
    assert_eq!((failed.code(), failed.message()), (Code::Internal, "the array is on fire"));

    let began = Instant::now();
    rig.create_snapshot("s1", "v1", &[("delay", "300ms")]).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300));

    let hang = csi::CreateSnapshotRequest {
        source_volume_id: "v1".into(),
        name: "s2".into(),
        parameters: [("hang".to_owned(), "true".to_owned())].into(),
    };
    let mut request = tonic::Request::new(hang);
    request.set_timeout(Duration::from_millis(300));
    let hung = rig.call(rig.controller().create_snapshot(request)).unwrap_err();
    assert!(matches!(hung.code(), Code::Cancelled | Code::DeadlineExceeded), "{hung:?}");
    // Nothing of the call that never answered is in the way of the next.
    rig.create_snapshot("s2", "v1", &[]).unwrap();

    assert_eq!(rig.create_snapshot("s3", "v1", &[("dealy", "3s")]).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn the_driver_says_who_it_is() {
    let mut rig = Rig::start();
    let info = rig.call(rig.identity().get_plugin_info(csi::GetPluginInfoRequest {})).unwrap();
    assert_eq!(info.name, DRIVER_NAME);
    let node = rig.call(rig.node().node_get_info(csi::NodeGetInfoRequest {})).unwrap();
    assert_eq!(node.node_id, NODE);
    assert_eq!(node.accessible_topology.unwrap().segments[TOPOLOGY_KEY], NODE);

    let mut kubelet = RegistrationClient::new(rig.channel_to(registration::socket(&rig.path("registry"))));
    let plugin = rig.call(kubelet.get_info(InfoRequest {})).unwrap();
    assert_eq!((plugin.r#type.as_str(), plugin.name.as_str()), ("CSIPlugin", DRIVER_NAME));
    assert_eq!(plugin.endpoint, rig.path("csi.sock").to_str().unwrap());

    let refusal = RegistrationStatus { plugin_registered: false, error: "no room".into() };
    // The driver ends over it, perhaps before it has answered.
    let _ = rig.call(kubelet.notify_registration_status(refusal));
    assert!(!rig.driver.wait().unwrap().success());
    assert!(!rig.path("csi.sock").exists());
}

/// A mounted volume of a driver, and a holding process that suspended it.
fn start_holder(rig: &Rig, limit_ms: u64) -> (std::process::Child, UnixStream) {
    rig.create_volume("v1", FsType::Ext4, None).unwrap();
    let files = rig.mount("v1", FsType::Ext4);
    let (mut socket, holders_end) = UnixStream::pair().unwrap();
    let holder = Command::new(env!("CARGO_BIN_EXE_loop-csi"))
        .args(["hold-suspended", &limit_ms.to_string()])
        .stdin(OwnedFd::from(holders_end))
        .stdout(OwnedFd::from(fs::File::open(files).unwrap()))
        .spawn()
        .unwrap();
    let mut first = [0];
    socket.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"S");
    (holder, socket)
}

#[test]
fn a_hold_ends_when_the_driver_does() {
    let rig = Rig::start();
    let (mut holder, socket) = start_holder(&rig, 20_000);
    assert!(!fsfreeze("--freeze", rig.staging("v1").as_ref()), "the volume is not suspended");
    drop(socket);
    assert!(!holder.wait().unwrap().success());
    assert!(is_resumed(&rig), "the volume is still suspended");
    rig.unmount("v1");
}

#[test]
fn a_hold_ends_at_its_limit_though_the_driver_is_silent() {
    let rig = Rig::start();
    let (mut holder, _socket) = start_holder(&rig, 300);
    assert!(!holder.wait().unwrap().success());
    assert!(is_resumed(&rig), "the volume is still suspended");
    rig.unmount("v1");
}

#[test]
fn a_hold_that_another_ended_is_void() {
    let rig = Rig::start();
    let (mut holder, mut socket) = start_holder(&rig, 20_000);
    assert!(fsfreeze("--unfreeze", rig.staging("v1").as_ref()));
    socket.write_all(b"R").unwrap();
    let mut answer = [0];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"V");
    assert!(holder.wait().unwrap().success());
    rig.unmount("v1");
}

#[test]
fn a_disk_with_reflinks_copies_by_reflink() {
    enter_private_mounts();
    let dir = tempfile::tempdir().unwrap();
    let (disk, mount) = (dir.path().join("disk"), dir.path().join("mount"));
    image::create(&disk, FsType::Xfs.smallest()).unwrap();
    fs::create_dir(&mount).unwrap();
    let device = loopdev::attach(&disk).unwrap();
    Tools::new("/").make_filesystem(FsType::Xfs, device.path()).unwrap();
    mounts::mount_filesystem(device.path(), &mount, FsType::Xfs).unwrap();
    fs::write(mount.join("source"), "one block shared by two files").unwrap();

    let method = image::copy(&mount.join("source"), &mount.join("target")).unwrap();
    let copied = fs::read_to_string(mount.join("target")).unwrap();

    drop(device);
    mounts::unmount_all(&mount).unwrap();
    loopdev::detach(&disk).unwrap();
    assert_eq!((method, copied.as_str()), (CopyMethod::Reflink, "one block shared by two files"));
}

#[test]
fn a_new_driver_resumes_what_the_old_one_left_suspended() {
    let mut rig = Rig::start();
    rig.create_volume("v1", FsType::Ext4, None).unwrap();
    let files = rig.mount("v1", FsType::Ext4);
    let note = rig.image("v1").with_file_name("suspending");
    fs::write(&note, "").unwrap();
    let hold = freeze_with_thaw_armed(&files);
    rig.restart();
    assert!(!hold.thaw(), "the volume was still suspended");
    assert!(!note.exists());
    rig.unmount("v1");
}

/// Thawing what is not frozen is refused.
fn is_resumed(rig: &Rig) -> bool {
    !fsfreeze("--unfreeze", rig.staging("v1").as_ref())
}
