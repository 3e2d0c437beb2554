//! An agent of a node finds a volume where the kubelet has mounted it, whatever a pod does.

use std::path::{Path, PathBuf};

use stillpoint::agent::dataset::{self, exclusive};
use stillpoint_core::wire::{Blocker, KubeletVolume, Prepare};

use crate::volume::{Volume, in_a_pod, run, scratch_dir, text};

/// Where the kubelet mounts the volume `pv` for a pod.
fn place(kubelet: &Path, pod: &str) -> PathBuf {
    let place = kubelet.join("pods").join(pod).join("volumes/kubernetes.io~csi/pv/mount");
    std::fs::create_dir_all(&place).unwrap();
    place
}

fn mount(what: &Path, place: &Path) {
    run("mount", &["--bind", text(what), text(place)]);
}

fn find(pods: &[&str]) -> Result<dataset::Dataset, Box<Blocker>> {
    let pod_uids = pods.iter().map(|pod| (*pod).to_owned()).collect();
    let kubelet_volume = Some(KubeletVolume { name: "pv".to_owned(), pod_uids });
    dataset::find(&Prepare { kubelet_volume, ..Prepare::default() }).map_err(Box::new)
}

#[test]
fn a_volume_is_found_where_the_kubelet_mounts_it_for_every_pod() {
    in_a_pod(|| {
        let (volume, kubelet) = (Volume::new("ext4"), scratch_dir("kubelet"));
        for pod in ["one", "two"] {
            mount(&volume.path, &place(&kubelet, pod));
        }
        let own = dataset::open(&volume.path).unwrap();
        let found = find(&["one", "two"]).unwrap();
        assert_eq!((found.device, found.mount_root.as_path()), (own.device, Path::new("/")));
        assert!(exclusive(&found).is_ok());
        let message = find(&["one", "three"]).expect_err("it is not mounted for that one").message;
        assert!(message.contains("three"), "{message}");
    });
}

#[test]
fn a_volume_that_is_another_one_for_another_pod_is_refused() {
    in_a_pod(|| {
        let (volume, other, kubelet) = (Volume::new("ext4"), Volume::new("ext4"), scratch_dir("kubelet"));
        mount(&volume.path, &place(&kubelet, "one"));
        mount(&other.path, &place(&kubelet, "two"));
        assert_eq!(find(&["one", "two"]).expect_err("two filesystems").reason, "NotExclusive");
        // What is mounted over another is what counts.
        mount(&other.path, &place(&kubelet, "one"));
        let found = find(&["one"]).unwrap();
        assert_eq!(found.device, dataset::open(&other.path).unwrap().device);
    });
}

#[test]
fn a_directory_of_a_shared_filesystem_is_not_suspended() {
    in_a_pod(|| {
        let (volume, kubelet) = (Volume::new("ext4"), scratch_dir("kubelet"));
        std::fs::create_dir(volume.file("claim")).unwrap();
        mount(&volume.file("claim"), &place(&kubelet, "one"));
        let blockers = exclusive(&find(&["one"]).unwrap()).expect_err("it is shared");
        assert!(blockers.iter().any(|blocker| blocker.reason == "NotExclusive"), "{blockers:?}");
    });
}

#[test]
fn a_link_in_the_place_of_a_volume_leads_nowhere() {
    in_a_pod(|| {
        let (volume, kubelet) = (Volume::new("ext4"), scratch_dir("kubelet"));
        let place = place(&kubelet, "one");
        std::fs::remove_dir(&place).unwrap();
        std::os::unix::fs::symlink(&volume.path, &place).unwrap();
        assert_eq!(find(&["one"]).expect_err("nothing is mounted there").reason, "NotMounted");
    });
}

/// The kubelet may have a mount namespace of its own; one of a container is nobody's word.
#[test]
fn mounts_that_only_another_process_of_the_node_sees_are_found() {
    in_a_pod(|| {
        let (volume, kubelet) = (Volume::new("ext4"), scratch_dir("kubelet"));
        let place = place(&kubelet, "one");
        let script = format!("mount --bind {} {} && echo mounted && cat", text(&volume.path), text(&place));
        let mut private = std::process::Command::new("unshare");
        private.args(["--mount", "sh", "-c", &script]).stdin(std::process::Stdio::piped());
        let mut private = private.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut said = [0; 7];
        std::io::Read::read_exact(private.stdout.as_mut().unwrap(), &mut said).unwrap();
        let found = find(&["one"]).unwrap();
        assert_eq!(found.device, dataset::open(&volume.path).unwrap().device);
        drop(private.stdin.take());
        private.wait().unwrap();
    });
}
