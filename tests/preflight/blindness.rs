//! An agent that cannot see says so, and is not taken for one that sees no locks.

use crate::roles::Role;
use crate::volume::{Volume, in_a_pod, run, text};

const ONLY_TWO: [&str; 2] = ["setpriv", "--bounding-set=-all,+sys_admin,+sys_ptrace"];

#[test]
fn sys_admin_and_sys_ptrace_are_enough_to_see_other_users() {
    const OTHER_USER: [&str; 4] = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups"];
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let file = volume.file("x.db");
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::chown(&file, Some(65532), Some(65532)).unwrap();
        let _innocent = Role::start(&OTHER_USER, "wait", &[]);
        assert_eq!(blockers(&Role::start(&ONLY_TWO, "agent", &[text(&volume.path)]).output()), [""; 0]);

        for role in ["posix-write", "ofd-write", "flock-write", "lease-write"] {
            let holder = Role::start(&OTHER_USER, role, &[text(&file)]);
            let words = Role::start(&ONLY_TWO, "agent", &[text(&volume.path)]).output();
            let [blocker] = blockers(&words)[..] else { panic!("{role}: {words}") };
            assert!(blocker.starts_with(&format!("blocker LockHeld {0} process {0} ", holder.pid)), "{blocker}");
            assert!(blocker.ends_with(text(&file)), "{blocker}");
        }
    });
}

#[test]
fn loop_devices_that_cannot_be_listed_are_not_taken_for_none() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        run("mount", &["-t", "tmpfs", "-o", "mode=000", "tmpfs", "/sys/block"]);
        let words = Role::start(&ONLY_TWO, "agent", &[text(&volume.path)]).output();
        let [blocker] = blockers(&words)[..] else { panic!("{words}") };
        assert!(blocker.starts_with("blocker Blind 0 the agent cannot list the loop devices"), "{blocker}");
    });
}

fn blockers(words: &str) -> Vec<&str> {
    words.lines().filter(|line| line.starts_with("blocker")).collect()
}

#[test]
fn an_agent_that_may_not_freeze_says_which_capability_is_missing() {
    in_a_pod(|| {
        let volume = Volume::new("ext4");
        let path = text(&volume.path);
        let words = Role::start(&["setpriv", "--bounding-set=-sys_admin"], "agent", &[path]).output();
        assert!(
            words.contains("blocker MissingCapability 0 the agent's container lacks the capability SYS_ADMIN"),
            "{words}"
        );
        let words = Role::start(&["unshare", "--user", "--map-root-user"], "agent", &[path]).output();
        assert!(words.contains("blocker MissingCapability 0 the pod runs in a user namespace"), "{words}");
    });
}
