//! What a starting agent does for the guardian: it shows it all that may have been left suspended.
//!
//! A guardian that was killed together with a whole pod knows by its [ledger](crate::guardian::ledger) what it owes, and
//! has no descriptor to do it with. The next pod that mounts the volume on this node has one.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::Reach;
use super::method::METHODS;
use crate::guardian::client;
use stillpoint_core::limits::{OFFER_RETRY, OFFER_TIMEOUT};

/// Stack of the thread: it opens and sends, and logs.
const STACK: usize = 256 * 1024;

/// Shows the guardian all that earlier agents of this pod, or node, may have left suspended, on a thread that may hang with the storage.
pub fn begin(guardian: PathBuf, reach: Reach) {
    let started =
        std::thread::Builder::new().name("offer".to_owned()).stack_size(STACK).spawn(move || offer(&guardian, reach));
    if let Err(error) = started {
        tracing::error!(%error, "cannot start the thread that shows the guardian what it may owe");
    }
}

fn offer(guardian: &Path, reach: Reach) {
    let begun = Instant::now();
    let left =
        METHODS.iter().flat_map(|method| method.may_be_left(reach).into_iter().map(|left| (method.undo(), left)));
    for (undo, left) in left {
        loop {
            let label = format!("{} of an agent that starts", left.what);
            let Ok(own) = pidfd_open(getpid(), PidfdFlags::empty()) else { return };
            match client::show(guardian, &label, undo, &left.handle, &own) {
                Ok(()) => break,
                // The guardian may be starting too.
                Err(_) if begun.elapsed() < OFFER_TIMEOUT => std::thread::sleep(OFFER_RETRY),
                Err(why) => {
                    return tracing::warn!(why, "no guardian has seen what it may owe for the volumes of this pod");
                }
            }
        }
    }
}
