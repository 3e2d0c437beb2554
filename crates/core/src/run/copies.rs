//! A run is its object's UID. An object that was restored from a backup, or written again from a file, is another object: it
//! carries the annotation of the run that it was copied from, and is no run. Pure.

use kube::ResourceExt;
use stillpoint_api::{ConsistencyGroupReplication, Reason, labels};

use super::state::Verdict;

/// The UID that an object was pinned to.
fn pin(object: &ConsistencyGroupReplication) -> Option<&str> {
    object.annotations().get(labels::RUN_UID).map(String::as_str)
}

/// Whether it was copied from an object whose run has begun.
pub fn is_copy(object: &ConsistencyGroupReplication) -> bool {
    pin(object).is_some_and(|pin| Some(pin) != object.metadata.uid.as_deref())
}

/// Whether its status says that it is a copy.
pub fn is_said(object: &ConsistencyGroupReplication) -> bool {
    let conditions = object.status.as_ref().map_or(&[][..], |status| &status.conditions);
    conditions.iter().any(|one| one.type_ == "Ready" && one.reason == Reason::IsCopy)
}

/// What becomes of a copy.
pub fn verdict(object: &ConsistencyGroupReplication) -> Verdict {
    let (name, uid, key) = (object.name_any(), pin(object).unwrap_or_default(), labels::RUN_UID);
    Verdict::new(
        Reason::IsCopy,
        format!(
            "this object is a copy of run {name} with UID {uid}, whose replicas are its own; nothing was done. For another run, create an object without the annotation {key}"
        ),
    )
}

/// The object with its pin; `None`: it has one.
pub fn pinned(object: &ConsistencyGroupReplication) -> Option<Box<ConsistencyGroupReplication>> {
    if pin(object).is_some() {
        return None;
    }
    let mut object = object.clone();
    let uid = object.uid().unwrap_or_default();
    object.annotations_mut().insert(labels::RUN_UID.to_owned(), uid);
    Some(Box::new(object))
}
