//! Takes and removes snapshots. Every function here blocks.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::driver::Driver;
use crate::error::Error;
use crate::state::{Snapshot, Volume};
use crate::suspend::{self, Outcome};
use crate::{image, volumes};

/// Takes a snapshot, or finds it as an earlier call took it.
pub fn create(driver: &Driver, name: &str, source_volume_id: &str) -> Result<Snapshot, Error> {
    let store = &driver.store;
    let _volume_guard = store.lock_volume(source_volume_id)?;
    let _snapshot_guard = store.lock_snapshot(name)?;
    if let Some(snapshot) = store.snapshot(name)? {
        return match snapshot.source_volume_id == source_volume_id {
            true => Ok(snapshot),
            false => Err(Error::AlreadyExists(format!(
                "a snapshot {name} of the volume {} exists",
                snapshot.source_volume_id
            ))),
        };
    }
    let volume = store
        .volume(source_volume_id)?
        .ok_or_else(|| Error::NotFound(format!("there is no volume {source_volume_id} on this node")))?;
    store.prepare_snapshot(name)?;
    let created = copy_one_instant(driver, &volume, name)?;
    let snapshot = Snapshot {
        name: name.to_owned(),
        source_volume_id: volume.id,
        fs_type: volume.fs_type,
        size_bytes: volume.capacity_bytes,
        created_unix_nanos: unix_nanos(created),
    };
    store.save_snapshot(&snapshot)?;
    Ok(snapshot)
}

/// Removes the snapshot; that it does not exist is fine.
pub fn delete(driver: &Driver, name: &str) -> Result<(), Error> {
    let _guard = driver.store.lock_snapshot(name)?;
    driver.store.remove_snapshot(name)?;
    tracing::info!(snapshot = name, "snapshot deleted");
    Ok(())
}

/// Copies the volume's image as it is at one instant, and says when the copy began.
fn copy_one_instant(driver: &Driver, volume: &Volume, snapshot: &str) -> Result<SystemTime, Error> {
    let Some(mount) = volumes::mounted_at(driver, &volume.id)? else {
        return Ok(copy(driver, volume, snapshot, "not mounted")?);
    };
    driver.store.note_suspending(&volume.id)?;
    let copied = match suspend::suspend(&mount) {
        Ok(Outcome::Held(hold)) => copy_held(driver, volume, snapshot, hold),
        Ok(Outcome::HeldByAnother) => {
            let copied = copy(driver, volume, snapshot, "suspended by another");
            // If that hold has ended, it may have ended while the image was read: copy again, under a hold of our own.
            match suspend::suspend(&mount) {
                Ok(Outcome::Held(hold)) => copy_held(driver, volume, snapshot, hold),
                Ok(Outcome::HeldByAnother) => copied,
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    };
    driver.store.clear_suspending(&volume.id)?;
    Ok(copied?)
}

fn copy_held(driver: &Driver, volume: &Volume, snapshot: &str, hold: suspend::Hold) -> Result<SystemTime> {
    let began = copy(driver, volume, snapshot, "suspended by this driver")?;
    hold.release()?;
    Ok(began)
}

fn copy(driver: &Driver, volume: &Volume, snapshot: &str, writes: &str) -> Result<SystemTime> {
    let began = SystemTime::now();
    let method = image::copy(&driver.store.volume_image(&volume.id), &driver.store.snapshot_image(snapshot))?;
    let took = began.elapsed().unwrap_or_default();
    tracing::info!(volume = volume.id, snapshot, writes, ?method, ?took, "image copied");
    Ok(began)
}

/// Resumes what an earlier run of the driver suspended and did not live to resume: the holding process normally
/// outlives the driver, but not the container.
pub fn resume_abandoned(driver: &Driver) -> Result<()> {
    for id in driver.store.suspending()? {
        if let Some(mount) = volumes::mounted_at(driver, &id)? {
            suspend::resume_abandoned(&mount).with_context(|| format!("volume {id}"))?;
            tracing::warn!(volume = id, "an earlier run ended while it copied this volume; its writes are resumed");
        }
        driver.store.clear_suspending(&id)?;
    }
    Ok(())
}

fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
