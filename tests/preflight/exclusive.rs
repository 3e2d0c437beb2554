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
