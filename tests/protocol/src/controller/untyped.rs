//! Snapshots as the planner sees objects of any kind, and back.

use kube::Resource;
use kube::core::{ApiResource, DynamicObject};
use serde_json::json;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_core::replica::ask::{Ask, Remove};
use stillpoint_core::replica::seen::ObjectName;

/// By what the planner knows a snapshot.
pub fn name(name: &str) -> ObjectName {
    ObjectName { kind: VolumeSnapshot::kind(&()).into_owned(), name: name.to_owned() }
}

/// A snapshot as the planner sees it.
pub fn object(snapshot: &VolumeSnapshot) -> DynamicObject {
    let data = json!({"spec": snapshot.spec, "status": snapshot.status});
    let object = DynamicObject::new("", &ApiResource::erase::<VolumeSnapshot>(&())).data(data);
    DynamicObject { metadata: snapshot.metadata.clone(), ..object }
}

/// The snapshots that are asked for. What is no snapshot is left out.
pub fn snapshots(asks: Vec<Ask>) -> Vec<VolumeSnapshot> {
    let snapshot = |ask| match ask {
        Ask::Create { object, .. } => object.try_parse().ok(),
    };
    asks.into_iter().filter_map(snapshot).collect()
}

/// The names of what is to be removed.
pub fn names(removes: Vec<Remove>) -> Vec<String> {
    removes.into_iter().flat_map(|remove| remove.names).collect()
}
