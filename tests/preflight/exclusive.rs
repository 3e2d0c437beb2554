//! Only filesystems that hold the dataset and nothing else may be frozen.

use std::path::Path;

use stillpoint::agent::dataset::{self, exclusive};

use crate::roles::Role;
use crate::volume::{Volume, in_a_pod, overlay, run, scratch_dir, text};

/// The reasons and messages of the refusal of what is mounted at a path; empty when it is fit.
fn refusal(path: &Path) -> String {
    let dataset = dataset::open(path).unwrap_or_else(|blocker| panic!("{}", blocker.message));
    let blockers = exclusive(&dataset).err().unwrap_or_default();
    blockers.iter().map(|blocker| format!("{}: {}\n", blocker.reason, blocker.message)).collect()
}

#[test]
fn a_volume_of_its_own_is_fit() {
    in_a_pod(|| {
        for filesystem in ["ext4", "xfs", "btrfs"] {
            let volume = Volume::new(filesystem);
            let dataset = dataset::open(&volume.path).unwrap();
            assert_eq!(dataset.filesystem, filesystem);
            assert_eq!(refusal(&volume.path), "");
        }
    });
}

#[test]
fn only_a_mount_point_that_can_be_opened_is_a_dataset() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let open = |path: &Path| dataset::open(path).expect_err("it is not a dataset").message;
        std::fs::create_dir(volume.file("dir")).unwrap();
        std::fs::write(volume.file("file"), "").unwrap();
        assert!(open(&volume.file("dir")).contains("not a mount of its own"));
        assert!(open(&volume.file("file")).contains("no directory"));
        assert!(open(&volume.file("missing")).contains("mount the claim"));

        make_private_to_postgresql(&volume.path);
        let drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
        let words = Role::start(&drop, "agent", &[text(&volume.path)]).output();
        assert!(words.contains("blocker NotMounted") && words.contains("DAC_READ_SEARCH"), "{words}");
    });
}

/// The volume's root as PostgreSQL's image leaves it.
fn make_private_to_postgresql(root: &Path) {
    run("chmod", &["0700", text(root)]);
    run("chown", &["999", text(root)]);
}

/// What the documented sidecar's container may do, as setpriv says it.
fn capabilities_of_the_example() -> String {
    let example = include_str!("../../deploy/examples/agent-sidecar.yaml");
    let added = example.split_once("add: [").and_then(|(_, rest)| rest.split_once(']')).expect("capabilities").0;
    let added: Vec<String> = added.split(", ").map(|name| format!("+{}", name.to_lowercase())).collect();
    format!("--bounding-set=-all,{}", added.join(","))
}

#[test]
fn an_agent_as_in_the_examples_opens_a_root_that_is_private_to_its_owner() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        make_private_to_postgresql(&volume.path);
        let words = Role::start(&["setpriv", &capabilities_of_the_example()], "agent", &[text(&volume.path)]).output();
        assert!(!words.contains("blocker"), "{words}");
    });
}

#[test]
fn filesystems_without_freeze_are_refused() {
    in_a_pod(|| {
        let at = scratch_dir("at");
        run("mount", &["-t", "tmpfs", "tmpfs", text(&at)]);
        assert!(refusal(&at).contains("CannotFreeze"), "{}", refusal(&at));
        let layers = ["lower", "upper", "work", "merged"].map(|name| {
            let dir = at.join(name);
            std::fs::create_dir(&dir).unwrap();
            dir
        });
        overlay(&layers);
        assert!(refusal(&layers[3]).contains("CannotFreeze: "), "{}", refusal(&layers[3]));
        run("umount", &[text(&layers[3]), text(&at)]);
    });
}

#[test]
fn an_overlay_with_relative_directories_on_a_volume_is_found() {
    in_a_pod(|| {
        let (volume, other, merged) = (Volume::new("ext4"), Volume::new("xfs"), scratch_dir("merged"));
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir(volume.file(name)).unwrap();
        }
        let script = "cd \"$0\" && mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work \"$1\"";
        run("sh", &["-c", script, text(&volume.path), text(&merged)]);
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(table.contains("upperdir=upper,"), "this kernel no longer shows why paths do not tell: {table}");

        assert!(refusal(&volume.path).starts_with("NotExclusive: "), "{}", refusal(&volume.path));
        assert_eq!(refusal(&other.path), "", "it has another size, so the overlay lies elsewhere");
        run("umount", &[text(&merged)]);
        assert_eq!(refusal(&volume.path), "");
    });
}

#[test]
fn a_process_that_serves_fuse_and_sees_the_volume_is_found() {
    in_a_pod(|| {
        let (volume, at) = (Volume::new("ext4"), scratch_dir("fuse"));
        let elsewhere =
            ["unshare", "--mount", "sh", "-c", "umount \"$1\"; shift; exec \"$@\"", "sh", text(&volume.path)];
        let server = Role::start(&elsewhere, "fuse", &[text(&at)]);
        assert_eq!(refusal(&volume.path), "", "it cannot write there");
        drop(server);

        let server = Role::start(&[], "fuse", &[text(&at)]);
        let words = refusal(&volume.path);
        assert!(words.starts_with("NotExclusive: ") && words.contains(&format!("process {}", server.pid)), "{words}");
        run("umount", &["--lazy", text(&at)]);
    });
}

#[test]
fn a_file_of_the_volume_where_the_kubelet_mounts_its_own_is_no_file_of_the_node() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        std::fs::write(volume.file("hosts"), "").unwrap();
        let script = "mount --bind \"$1/hosts\" /etc/hosts; shift; exec \"$@\"";
        let application = ["unshare", "--mount", "sh", "-c", script, "sh", text(&volume.path)];
        let _application = Role::start(&application, "wait", &[]);
        assert_eq!(refusal(&volume.path), "");
    });
}

/// A loop device that is detached at the end.
struct Attached(String);

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).output();
    }
}

#[test]
fn a_deleted_image_elsewhere_with_a_path_as_on_the_volume_is_not_on_it() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        // Where this mount namespace has the volume, the node has another filesystem.
        let script = "mount -t tmpfs tmpfs \"$1\" && truncate --size 16M \"$1/image\" && losetup --find \"$1/image\" && \
                      rm \"$1/image\"; shift; exec \"$@\"";
        let node = ["unshare", "--mount", "sh", "-c", script, "sh", text(&volume.path)];
        let _node = Role::start(&node, "wait", &[]);
        let backed = |device: &std::fs::DirEntry| {
            let backing = std::fs::read_to_string(device.path().join("loop/backing_file"));
            backing.is_ok_and(|path| path.trim_end() == format!("{}/image (deleted)", text(&volume.path)))
        };
        let device = std::fs::read_dir("/sys/block").unwrap().flatten().find(backed).expect("it is attached");
        let device = Attached(format!("/dev/{}", device.file_name().display()));
        assert_eq!(refusal(&volume.path), "", "by the device and inode of the image");
        // Most agents have no such device file.
        run("mount", &["--bind", "/dev/null", &device.0]);
        assert_eq!(refusal(&volume.path), "", "nobody in view uses the device");
    });
}
