//! Filesystems that are more than the volume: the agent refuses to suspend them.

use std::path::{Path, PathBuf};

use stillpoint_core::wire::agent_message::Report;

use crate::scene::{HOLD, Scene, on_a_node, refusal, words};
use crate::volume::{FILESYSTEMS, Volume, bind, overlay, run, scratch_dir, text};

/// Asserts that the agent refuses to prepare what is mounted at `path`, for good and in these words.
async fn refuses(scene: &mut Scene, path: &Path, why: &str) {
    let refused = refusal(scene.prepare_at(path, HOLD, HOLD).await);
    let words = words(&refused.blockers);
    assert!(words.starts_with("NotExclusive: ") && words.contains(why), "{words}");
    assert!(!refused.retryable, "{refused:?}");
}

/// Asserts that the agent prepares what is mounted at `path`.
async fn accepts(scene: &mut Scene, path: &Path) {
    let report = scene.prepare_at(path, HOLD, HOLD).await;
    assert!(matches!(report, Report::Prepared(_)), "{report:?}");
}

fn directory(volume: &Volume, name: &str) -> PathBuf {
    let directory = volume.file(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_11_a_sub_path_is_refused_and_the_volume_around_it_is_not() {
    on_a_node(async || {
        for filesystem in FILESYSTEMS {
            let mut scene = Scene::new(filesystem).await;
            let at = scratch_dir("sub-path");
            bind(&directory(&scene.volume, "part"), &at);
            refuses(&mut scene, &at, "is only the directory \"/part\" of its filesystem").await;
            scene.hold(HOLD).await;
            scene.unbroken().await;
        }
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_11_a_volume_below_an_overlay_is_refused() {
    on_a_node(async || {
        let mut scene = Scene::new("ext4").await;
        let (volume, other) = (scene.volume.path.clone(), Volume::new("ext4"));
        let [upper, work] = ["upper, 1", "work"].map(|name| directory(&scene.volume, name));
        let layers = [directory(&other, "lower"), upper, work, scratch_dir("merged")];
        overlay(&layers);
        refuses(&mut scene, &volume, "a directory that an overlay filesystem writes to, lies on").await;
        // A lower layer is only read.
        accepts(&mut scene, &other.path).await;
        run("umount", &[text(&layers[3])]);
        accepts(&mut scene, &volume).await;
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_11_a_volume_with_the_image_of_a_loop_device_is_refused() {
    on_a_node(async || {
        let mut scene = Scene::new("ext4").await;
        let volume = scene.volume.path.clone();
        let (image, at) = (scene.volume.file("image"), scratch_dir("inner"));
        std::fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).unwrap();
        run("mkfs.ext4", &["-q", text(&image)]);
        run("mount", &["-o", "loop", text(&image), text(&at)]);
        refuses(&mut scene, &volume, "the image file of a loop device, lies on").await;
        // What is in the image is a filesystem of its own.
        accepts(&mut scene, &at).await;
        std::fs::remove_file(&image).unwrap();
        refuses(&mut scene, &volume, "(deleted)\", the image file of a loop device, lies on").await;
    });
}

#[test]
#[ignore = "needs root and loop devices"]
fn trap_11_a_filesystem_of_the_node_is_refused() {
    on_a_node(async || {
        let mut scene = Scene::new("ext4").await;
        let volume = scene.volume.path.clone();
        let hosts = scene.volume.file("hosts");
        std::fs::write(&hosts, "").unwrap();
        bind(&hosts, Path::new("/etc/hosts"));
        refuses(&mut scene, &volume, "at \"/etc/hosts\" in a container of the pod, so it belongs to the node").await;
        run("umount", &["/etc/hosts"]);

        let at = scratch_dir("config");
        bind(&directory(&scene.volume, "pods/1/volumes/kubernetes.io~configmap/ca"), &at);
        refuses(&mut scene, &volume, "it belongs to the node").await;
        run("umount", &[text(&at)]);
        accepts(&mut scene, &volume).await;
        refuses(&mut scene, Path::new("/"), "it belongs to the node").await;
    });
}
