//! Others freeze and thaw too.

use rustix::io::Errno;
use rustix::process::Signal;
use stillpoint::fsfreeze;

use crate::roles::{Role, until};
use crate::scene::{HOLD, Scene, on_a_node, words};
use crate::volume::{FILESYSTEMS, run, text};

#[test]
#[ignore = "needs root and loop devices"]
fn trap_04_a_foreign_freeze_is_a_blocker_and_outlives_all_of_ours() {
    on_a_node(async || {
        for filesystem in FILESYSTEMS {
            let mut scene = Scene::new(filesystem).await;
            scene.prepared(HOLD).await;
            run("fsfreeze", &["--freeze", text(&scene.volume.path)]);
            scene.begin_to_suspend().await;
            let refused = scene.refused().await;
            assert!(words(&refused.blockers).starts_with("AlreadyFrozen: somebody else has frozen"), "{refused:?}");
            assert!(refused.retryable, "its owner may thaw it");
            let released = scene.release().await;
            assert!(!released.unbroken, "{released:?}");

            // Prepared again, and then killed: neither the freezer nor the guardian thaws.
            scene.prepared(HOLD).await;
            let freezer = scene.agent.freezer().unwrap();
            scene.agent.signal(Signal::KILL);
            until("the freezer is gone", || rustix::process::test_kill_process(freezer).is_err());
            scene.guardian.signal(Signal::TERM);
            until("the guardian is gone", || scene.guardian.has_ended());
            fsfreeze::thaw(scene.volume.root()).expect("somebody thawed what was not theirs");
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_04_a_foreign_thaw_voids_the_cut() {
    on_a_node(async || {
        for filesystem in FILESYSTEMS {
            let mut scene = Scene::new(filesystem).await;
            let mut writer = Role::hand(&scene.volume.file("x"));
            scene.hold(HOLD).await;
            writer.tell("write record");
            until("the write waits", || writer.waits_for_a_thaw());
            run("fsfreeze", &["--unfreeze", text(&scene.volume.path)]);
            // A cut made from here on would have a write that others have not.
            writer.done();
            scene.broken("somebody else thawed").await;
            assert_eq!(fsfreeze::thaw(scene.volume.root()), Err(Errno::INVAL));
        }
    });
}
