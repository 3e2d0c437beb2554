//! Only filesystems that hold the dataset and nothing else may be frozen.

use std::path::{Path, PathBuf};

use stillpoint::agent::dataset::{self, exclusive};
use stillpoint::agent::procfs::{Device, mountinfo};

use crate::roles::Role;
use crate::volume::{Volume, in_a_pod, run, scratch_dir, text};

/// The reasons and messages of the refusal of what is mounted at a path; empty when it is fit.
fn refusal(path: &Path) -> String {
    let dataset = dataset::open(path).unwrap_or_else(|blocker| panic!("{}", blocker.message));
    let blockers = exclusive(&dataset).err().unwrap_or_default();
    blockers.iter().map(|blocker| format!("{}: {}\n", blocker.reason, blocker.message)).collect()
}

fn bind(from: &Path, to: &Path) {
    run("mount", &["--bind", text(from), text(to)]);
}

#[test]
fn a_volume_of_its_own_is_fit() {
    in_a_pod(|| {
        for filesystem in ["ext4", "xfs", "btrfs"] {
            let volume = Volume::new(filesystem);
            let dataset = dataset::open(&volume.path).unwrap();
            assert_eq!(dataset.filesystem, filesystem);
            assert_eq!(refusal(&volume.path), "");

            // A container that mounts a part of the same claim with subPath.
            let (part, at) = (volume.file("part"), scratch_dir("sub-path"));
            std::fs::create_dir(&part).unwrap();
            bind(&part, &at);
            assert_eq!(refusal(&volume.path), "", "{filesystem}");
            assert!(refusal(&at).contains("NotExclusive"), "{filesystem}: {}", refusal(&at));
            run("umount", &[text(&at)]);
        }
    });
}

#[test]
fn the_device_of_a_btrfs_is_the_one_of_its_mounts() {
    in_a_pod(|| {
        let volume = Volume::new("btrfs");
        let subvolume = volume.file("vol");
        run("btrfs", &["subvolume", "create", text(&subvolume)]);
        let at = scratch_dir("at");
        bind(&subvolume, &at);
        let mounts = mountinfo::parse(&std::fs::read("/proc/thread-self/mountinfo").unwrap()).unwrap();
        let listed = mounts.iter().find(|mount| mount.mount_point == at).unwrap().device;
        assert_eq!(dataset::open(&at).unwrap().device, listed);

        let by_stat = rustix::fs::stat(&at).unwrap().st_dev;
        let by_stat = Device { major: rustix::fs::major(by_stat), minor: rustix::fs::minor(by_stat) };
        assert_ne!(by_stat, listed, "this kernel no longer shows why stat(2) is not to be asked");
        assert!(refusal(&at).contains("NotExclusive"), "a subvolume shares its filesystem");
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

        // As an agent with all capabilities dropped but its two meets a directory of PostgreSQL's user.
        run("chmod", &["0700", text(&volume.path)]);
        run("chown", &["999", text(&volume.path)]);
        let drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
        let words = Role::start(&drop, "agent", &[text(&volume.path)]).output();
        assert!(words.contains("blocker NotMounted") && words.contains("fsGroup"), "{words}");
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
fn a_volume_below_an_overlay_is_refused() {
    in_a_pod(|| {
        let (volume, other) = (Volume::new("ext4"), Volume::new("ext4"));
        let dir = |volume: &Volume, name| {
            std::fs::create_dir(volume.file(name)).unwrap();
            volume.file(name)
        };
        let layers = [dir(&other, "lower"), dir(&volume, "upper, 1"), dir(&volume, "work"), scratch_dir("merged")];
        overlay(&layers);
        assert!(refusal(&volume.path).contains("NotExclusive"), "{}", refusal(&volume.path));
        assert!(refusal(&volume.path).contains("an overlay filesystem writes to"), "{}", refusal(&volume.path));
        assert_eq!(refusal(&other.path), "", "a lower layer is only read");
        run("umount", &[text(&layers[3])]);
        assert_eq!(refusal(&volume.path), "");
    });
}

fn overlay(layers: &[PathBuf; 4]) {
    let [lower, upper, work, merged] = layers.each_ref().map(|path| text(path).replace(',', "\\,"));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    run("mount", &["-t", "overlay", "overlay", "-o", &options, &merged]);
}

#[test]
fn a_volume_with_the_image_of_a_loop_device_is_refused() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let (image, at) = (volume.file("image"), scratch_dir("inner"));
        std::fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).unwrap();
        run("mkfs.ext4", &["-q", text(&image)]);
        run("mount", &["-o", "loop", text(&image), text(&at)]);
        assert!(refusal(&volume.path).contains("NotExclusive"), "{}", refusal(&volume.path));
        assert_eq!(refusal(&at), "", "what is in the image is a filesystem of its own");
        std::fs::remove_file(&image).unwrap();
        assert!(refusal(&volume.path).contains("NotExclusive"), "a deleted image is still in use");
        run("umount", &[text(&at)]);
        assert_eq!(refusal(&volume.path), "");
    });
}

#[test]
fn a_filesystem_of_the_node_is_refused() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let hosts = volume.file("hosts");
        std::fs::write(&hosts, "").unwrap();
        bind(&hosts, Path::new("/etc/hosts"));
        assert!(refusal(&volume.path).contains("it belongs to the node"), "{}", refusal(&volume.path));
        run("umount", &["/etc/hosts"]);

        let config = volume.file("pods/1/volumes/kubernetes.io~configmap/ca");
        std::fs::create_dir_all(&config).unwrap();
        let at = scratch_dir("config");
        bind(&config, &at);
        assert!(refusal(&volume.path).contains("it belongs to the node"), "{}", refusal(&volume.path));
        run("umount", &[text(&at)]);
        assert!(refusal(Path::new("/")).contains("it belongs to the node"), "{}", refusal(Path::new("/")));
    });
}
