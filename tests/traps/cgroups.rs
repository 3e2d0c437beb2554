//! A frozen cgroup stops processes, whoever they are and whatever they owe.

use std::time::{Duration, Instant};

use stillpoint_core::limits::GUARDIAN_GRACE;

use crate::roles::{FakeContainer, Role, until};
use crate::scene::{HOLD, SLACK, Scene, on_a_node};
use crate::volume::scratch_dir;

#[test]
#[ignore = "needs root and loop devices"]
fn trap_10_an_agent_in_a_frozen_cgroup_is_replaced_by_the_guardian_outside_it() {
    on_a_node(async || {
        let limit = Duration::from_secs(1);
        let container = FakeContainer::new(scratch_dir("cgroup"));
        let mut scene = Scene::new("ext4").await;
        container.add(scene.agent.pid.as_raw_nonzero().get());
        let mut writer = Role::hand(&scene.volume.file("x"));
        scene.prepared(limit).await;
        scene.suspended().await;
        let begun = Instant::now();
        container.freeze(true);
        until("agent and freezer are stopped", || container.is_frozen());
        assert!(scene.is_frozen(), "the hold has lasted {:?}", begun.elapsed());
        writer.tell("write record");
        writer.done();
        let took = begun.elapsed();
        println!("limit {limit:?}: writes went on after {took:?}");
        assert!(took < limit + GUARDIAN_GRACE + SLACK, "{took:?}");
        container.freeze(false);
        assert!(!scene.release().await.unbroken);
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_10_a_writer_that_waits_for_the_thaw_gets_it_though_its_cgroup_was_frozen() {
    on_a_node(async || {
        for filesystem in crate::volume::FILESYSTEMS {
            let container = FakeContainer::new(scratch_dir("cgroup"));
            let mut scene = Scene::new(filesystem).await;
            let mut writer = Role::hand(&scene.volume.file("x"));
            container.add(writer.pid);
            scene.hold(HOLD).await;
            writer.tell("write record");
            until("the write waits", || writer.waits_for_a_thaw());
            container.freeze(true);
            assert!(!container.is_frozen(), "a cgroup is not frozen while a process waits uninterruptibly");
            scene.unbroken().await;
            until("the writer is out of the kernel, and stopped", || container.is_frozen());
            assert_eq!(std::fs::read_to_string(scene.volume.file("x.new")).unwrap(), "record");
            container.freeze(false);
            writer.done();
        }
    });
}
