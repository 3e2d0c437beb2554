//! Runs the driver's binary as a cluster's node would, and calls it as the kubelet and the sidecars would.
//!
//! Everything is mounted in a mount namespace of the test's own thread, which takes its mounts and, by autoclear, its
//! loop devices with it.

use std::collections::HashMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use loop_csi::csi::controller_client::ControllerClient;
use loop_csi::csi::identity_client::IdentityClient;
use loop_csi::csi::node_client::NodeClient;
use loop_csi::csi::volume_capability::access_mode::Mode;
use loop_csi::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use loop_csi::csi::volume_content_source::{SnapshotSource, Type};
use loop_csi::csi::{self, VolumeCapability};
use loop_csi::filesystem::FsType;
use loop_csi::{loopdev, mounts};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

pub const NODE: &str = "n1";
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A driver of the test's own, and a client of it.
pub struct Rig {
    pub dir: TempDir,
    pub driver: Child,
    runtime: Runtime,
    channel: Channel,
}

impl Rig {
    pub fn start() -> Rig {
        enter_private_mounts();
        for tool in ["mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "btrfstune", "fsfreeze"] {
            let found = ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(tool).exists());
            assert!(found, "{tool} is missing: install e2fsprogs, xfsprogs, btrfs-progs and util-linux");
        }
        let dir = tempfile::tempdir().unwrap();
        let driver = start_driver(dir.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(async { connect(dir.path().join("csi.sock")) });
        Rig { dir, driver, runtime, channel }
    }

    /// Ends the driver with SIGKILL and starts it again.
    pub fn restart(&mut self) {
        self.driver.kill().unwrap();
        self.driver.wait().unwrap();
        fs::remove_file(self.path("csi.sock")).unwrap();
        self.driver = start_driver(self.dir.path());
        self.channel = self.runtime.block_on(async { connect(self.dir.path().join("csi.sock")) });
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(DEADLINE, call).await });
        answer.expect("the driver did not answer").map(Response::into_inner)
    }

    pub fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel.clone())
    }

    pub fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone())
    }

    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    pub fn channel_to(&self, socket: PathBuf) -> Channel {
        self.runtime.block_on(async { connect(socket) })
    }

    pub fn create_volume(&self, name: &str, fs: FsType, snapshot_id: Option<&str>) -> Result<csi::Volume, Status> {
        let request = csi::CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(csi::CapacityRange { required_bytes: 64 << 20, limit_bytes: 0 }),
            volume_capabilities: vec![capability(fs)],
            volume_content_source: snapshot_id.map(|id| csi::VolumeContentSource {
                r#type: Some(Type::Snapshot(SnapshotSource { snapshot_id: id.into() })),
            }),
            ..Default::default()
        };
        Ok(self.call(self.controller().create_volume(request))?.volume.unwrap())
    }

    pub fn delete_volume(&self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteVolumeRequest { volume_id: id.into() };
        self.call(self.controller().delete_volume(request)).map(drop)
    }

    pub fn create_snapshot(&self, name: &str, volume: &str, faults: &[(&str, &str)]) -> Result<csi::Snapshot, Status> {
        let parameters: HashMap<_, _> =
            faults.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let request = csi::CreateSnapshotRequest { source_volume_id: volume.into(), name: name.into(), parameters };
        Ok(self.call(self.controller().create_snapshot(request))?.snapshot.unwrap())
    }

    pub fn delete_snapshot(&self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteSnapshotRequest { snapshot_id: id.into() };
        self.call(self.controller().delete_snapshot(request)).map(drop)
    }

    /// Stages and publishes the volume, and says where its files are.
    pub fn mount(&self, id: &str, fs: FsType) -> PathBuf {
        self.stage(id, fs).unwrap();
        self.publish(id, fs, "pod", false).unwrap()
    }

    /// Unpublishes and unstages the volume, and checks that no loop device is left.
    pub fn unmount(&self, id: &str) {
        self.unpublish(id, "pod").unwrap();
        self.unstage(id).unwrap();
        assert!(loopdev::attached_to(&self.image(id)).unwrap().is_empty(), "a loop device is left");
    }

    pub fn stage(&self, id: &str, fs: FsType) -> Result<(), Status> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: id.into(),
            staging_target_path: self.staging(id),
            volume_capability: Some(capability(fs)),
        };
        self.call(self.node().node_stage_volume(request)).map(drop)
    }

    pub fn publish(&self, id: &str, fs: FsType, pod: &str, readonly: bool) -> Result<PathBuf, Status> {
        let target = self.path(&format!("{pod}-{id}"));
        let request = csi::NodePublishVolumeRequest {
            volume_id: id.into(),
            staging_target_path: self.staging(id),
            target_path: target.to_str().unwrap().into(),
            volume_capability: Some(capability(fs)),
            readonly,
        };
        self.call(self.node().node_publish_volume(request)).map(|_| target)
    }

    pub fn unpublish(&self, id: &str, pod: &str) -> Result<(), Status> {
        let target_path = self.path(&format!("{pod}-{id}")).to_str().unwrap().to_owned();
        let request = csi::NodeUnpublishVolumeRequest { volume_id: id.into(), target_path };
        self.call(self.node().node_unpublish_volume(request)).map(drop)
    }

    pub fn unstage(&self, id: &str) -> Result<(), Status> {
        let request = csi::NodeUnstageVolumeRequest { volume_id: id.into(), staging_target_path: self.staging(id) };
        self.call(self.node().node_unstage_volume(request)).map(drop)
    }

    pub fn staging(&self, id: &str) -> String {
        self.path(&format!("staging/{id}")).to_str().unwrap().to_owned()
    }

    pub fn image(&self, volume: &str) -> PathBuf {
        self.path("data").join(NODE).join("volumes").join(volume).join("image")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Only a failed test leaves mounts; they would keep the folder from being removed.
        for mount in mounts::table().unwrap_or_default().iter().rev() {
            if mount.target.starts_with(self.dir.path()) {
                let _ = rustix::mount::unmount(&mount.target, UnmountFlags::DETACH);
            }
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Gives the calling thread, and the processes it starts, a mount namespace of their own.
pub fn enter_private_mounts() {
    // SAFETY: only this thread's view of the mounts changes; no descriptors or memory are unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .expect("these tests mount filesystems: run them as root");
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

fn start_driver(dir: &Path) -> Child {
    let argument = |name: &str, file: &str| format!("--{name}={}", dir.join(file).display());
    let driver = Command::new(env!("CARGO_BIN_EXE_loop-csi"))
        .args(["serve", "--node", NODE])
        .args([
            argument("data-dir", "data"),
            argument("csi-socket", "csi.sock"),
            argument("registration-dir", "registry"),
        ])
        .spawn()
        .unwrap();
    wait_until("the driver listens", || dir.join("csi.sock").exists());
    driver
}

fn connect(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

pub fn capability(fs: FsType) -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume { fs_type: fs.name().into(), mount_flags: vec![] })),
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
    }
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Arms a thaw of `mount` that needs nothing of the test, then freezes it.
pub fn freeze_with_thaw_armed(mount: &Path) -> ArmedThaw {
    let script = "sleep 20; fsfreeze --unfreeze .";
    let process = Command::new("sh").args(["-c", script]).current_dir(mount).process_group(0).spawn().unwrap();
    assert!(fsfreeze("--freeze", mount), "cannot freeze {}", mount.display());
    ArmedThaw { process, mount: mount.to_owned() }
}

pub struct ArmedThaw {
    process: Child,
    mount: PathBuf,
}

impl ArmedThaw {
    /// Thaws, and says whether the filesystem was frozen.
    pub fn thaw(mut self) -> bool {
        let was_frozen = fsfreeze("--unfreeze", &self.mount);
        // The whole group: a sleep that outlives its shell would keep the volume busy.
        let group = Pid::from_child(&self.process);
        rustix::process::kill_process_group(group, Signal::KILL).unwrap();
        self.process.wait().unwrap();
        was_frozen
    }
}

pub fn fsfreeze(what: &str, mount: &Path) -> bool {
    Command::new("fsfreeze").arg(what).arg(mount).status().unwrap().success()
}

/// Writes numbered records to two files in turn, never flushing, until told to stop.
pub fn write_in_turn(dir: &Path, stop: &std::sync::atomic::AtomicBool) {
    let mut files = ["a", "b"].map(|name| fs::File::create(dir.join(name)).unwrap());
    for record in 0_u64.. {
        for file in &mut files {
            // A bounded file: the volume must not fill up however long the test takes.
            file.seek(SeekFrom::Start(record % 1000 * 4096)).unwrap();
            file.write_all(&record.to_le_bytes().repeat(512)).unwrap();
        }
        if stop.load(std::sync::atomic::Ordering::SeqCst) {
            return;
        }
    }
}

/// The newest record of each file that [`write_in_turn`] wrote.
pub fn newest_records(dir: &Path) -> [u64; 2] {
    ["a", "b"].map(|name| {
        let bytes = fs::read(dir.join(name)).unwrap();
        let records = bytes.chunks(4096).map(|block| {
            let numbers: Vec<_> = block.chunks(8).map(|n| u64::from_le_bytes(n.try_into().unwrap())).collect();
            assert!(numbers.iter().all(|n| *n == numbers[0]), "file {name} has a torn record");
            numbers[0]
        });
        records.max().expect("the file is empty")
    })
}
