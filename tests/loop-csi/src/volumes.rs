//! Makes, restores, removes, mounts and unmounts volumes. Every function here blocks.

use std::path::{Path, PathBuf};

use crate::driver::Driver;
use crate::error::Error;
use crate::filesystem::FsType;
use crate::request::{NewVolume, SnapshotId};
use crate::state::Volume;
use crate::{image, loopdev, mounts};

/// Makes the volume, or finds it as an earlier call made it.
pub fn create(driver: &Driver, wanted: &NewVolume) -> Result<Volume, Error> {
    let store = &driver.store;
    let _volume_guard = store.lock_volume(&wanted.name)?;
    if let Some(volume) = store.volume(&wanted.name)? {
        return match wanted.is_satisfied_by(&volume) {
            true => Ok(volume),
            false => Err(Error::AlreadyExists(format!(
                "a volume {} exists with another size, filesystem or source",
                wanted.name
            ))),
        };
    }
    let capacity_bytes = match &wanted.source {
        None => create_empty(driver, wanted)?,
        Some(source) => restore(driver, wanted, source)?,
    };
    let volume = Volume {
        id: wanted.name.clone(),
        fs_type: wanted.fs_type,
        capacity_bytes,
        source_snapshot: wanted.source.as_ref().map(SnapshotId::to_string),
    };
    store.save_volume(&volume)?;
    tracing::info!(volume = volume.id, fs = volume.fs_type.name(), bytes = capacity_bytes, "volume created");
    Ok(volume)
}

fn create_empty(driver: &Driver, wanted: &NewVolume) -> Result<u64, Error> {
    let size = wanted.size()?;
    let image = driver.store.volume_image(&wanted.name);
    driver.store.prepare_volume(&wanted.name)?;
    image::create(&image, size)?;
    let device = loopdev::attach(&image)?;
    driver.tools.make_filesystem(wanted.fs_type, device.path())?;
    Ok(size)
}

fn restore(driver: &Driver, wanted: &NewVolume, source: &SnapshotId) -> Result<u64, Error> {
    let store = &driver.store;
    if source.node != driver.node {
        return Err(Error::OtherNode(format!("the snapshot {source} can be restored on node {} only", source.node)));
    }
    let _snapshot_guard = store.lock_snapshot(&source.name)?;
    let snapshot =
        store.snapshot(&source.name)?.ok_or_else(|| Error::NotFound(format!("there is no snapshot {source}")))?;
    let size = wanted.restored_size(&snapshot)?;
    let image = store.volume_image(&wanted.name);
    store.prepare_volume(&wanted.name)?;
    image::copy(&store.snapshot_image(&source.name), &image)?;
    if wanted.fs_type.new_identity_command().is_some() {
        let device = loopdev::attach(&image)?;
        driver.tools.give_new_identity(wanted.fs_type, device.path())?;
    }
    Ok(size)
}

/// Removes the volume; that it does not exist is fine.
pub fn delete(driver: &Driver, id: &str) -> Result<(), Error> {
    let store = &driver.store;
    let _guard = store.lock_volume(id)?;
    let image = store.volume_image(id);
    if image.exists() && !loopdev::attached_to(&image)?.is_empty() {
        return Err(Error::Precondition(format!("the volume {id} is still mounted: unstage it first")));
    }
    store.remove_volume(id)?;
    tracing::info!(volume = id, "volume deleted");
    Ok(())
}

/// Mounts the volume's filesystem at `staging`.
pub fn stage(driver: &Driver, id: &str, staging: &Path, fs_type: &str) -> Result<(), Error> {
    let store = &driver.store;
    let _guard = store.lock_volume(id)?;
    let volume = store.volume(id)?.ok_or_else(|| no_such_volume(id))?;
    if !fs_type.is_empty() && FsType::parse(fs_type) != Some(volume.fs_type) {
        return Err(Error::Invalid(format!(
            "the volume {id} holds an {} filesystem, not {fs_type}",
            volume.fs_type.name()
        )));
    }
    let devices = devices(driver, id)?;
    if let Some(mount) = mounts::mount_at(staging)? {
        return match devices.contains(&mount.source) {
            true => Ok(()),
            false => Err(Error::Precondition(format!(
                "{} is mounted at {} already",
                mount.source.display(),
                staging.display()
            ))),
        };
    }
    make_dir(staging)?;
    match devices.first() {
        // Still mounted somewhere out of sight. A second device on the same image would be a second cache of the same
        // blocks, and the end of the filesystem.
        Some(device) => mounts::mount_filesystem(device, staging, volume.fs_type)?,
        None => {
            let device = loopdev::attach(&store.volume_image(id))?;
            mounts::mount_filesystem(device.path(), staging, volume.fs_type)?;
        }
    }
    tracing::info!(volume = id, staging = %staging.display(), "volume staged");
    Ok(())
}

/// Unmounts the volume's filesystem from `staging` and detaches its loop device.
pub fn unstage(driver: &Driver, id: &str, staging: &Path) -> Result<(), Error> {
    let store = &driver.store;
    let _guard = store.lock_volume(id)?;
    mounts::unmount_all(staging)?;
    let image = store.volume_image(id);
    if image.exists() {
        loopdev::detach(&image)?;
    }
    tracing::info!(volume = id, "volume unstaged");
    Ok(())
}

/// Shows the staged volume at a pod's `target` path.
pub fn publish(driver: &Driver, id: &str, staging: &Path, target: &Path, read_only: bool) -> Result<(), Error> {
    let _guard = driver.store.lock_volume(id)?;
    driver.store.volume(id)?.ok_or_else(|| no_such_volume(id))?;
    let devices = devices(driver, id)?;
    let staged = mounts::mount_at(staging)?.is_some_and(|mount| devices.contains(&mount.source));
    if !staged {
        return Err(Error::Precondition(format!("the volume {id} is not staged at {}", staging.display())));
    }
    if let Some(mount) = mounts::mount_at(target)? {
        return match devices.contains(&mount.source) && mount.read_only == read_only {
            true => Ok(()),
            false => Err(Error::AlreadyExists(format!("{} has another mount already", target.display()))),
        };
    }
    make_dir(target)?;
    mounts::bind(staging, target, read_only)?;
    tracing::info!(volume = id, target = %target.display(), read_only, "volume published");
    Ok(())
}

/// Takes the volume away from a pod's `target` path.
pub fn unpublish(driver: &Driver, id: &str, target: &Path) -> Result<(), Error> {
    let _guard = driver.store.lock_volume(id)?;
    mounts::unmount_all(target)?;
    // Never recursively: should something be in there after all, it is not ours.
    match std::fs::remove_dir(target) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(anyhow::Error::new(error).context(format!("removing {}", target.display())).into())
        }
        _ => {
            tracing::info!(volume = id, target = %target.display(), "volume unpublished");
            Ok(())
        }
    }
}

/// Where the volume's filesystem is mounted, if it is. Any of its mounts stands for all.
pub fn mounted_at(driver: &Driver, id: &str) -> anyhow::Result<Option<PathBuf>> {
    let devices = devices(driver, id)?;
    Ok(mounts::table()?.into_iter().find(|mount| devices.contains(&mount.source)).map(|mount| mount.target))
}

fn devices(driver: &Driver, id: &str) -> anyhow::Result<Vec<PathBuf>> {
    loopdev::attached_to(&driver.store.volume_image(id))
}

fn make_dir(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path)
        .map_err(|error| anyhow::Error::new(error).context(format!("creating {}", path.display())).into())
}

fn no_such_volume(id: &str) -> Error {
    Error::NotFound(format!("there is no volume {id} on this node"))
}
