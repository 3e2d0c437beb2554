//! Snapshots as the planner sees objects of any kind, and back.

use std::collections::BTreeMap;

use kube::Resource;
use kube::core::{ApiResource, DynamicObject};
use serde_json::json;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_core::replica::ask::Ask;
use stillpoint_core::replica::seen::ObjectName;

/// By what the planner knows a snapshot.
pub fn object_name(name: &str) -> ObjectName {
    ObjectName { kind: VolumeSnapshot::kind(&()).into_owned(), name: name.to_owned() }
}

/// A snapshot as the planner sees it.
pub fn object(snapshot: &VolumeSnapshot) -> DynamicObject {
    let data = json!({"spec": snapshot.spec, "status": snapshot.status});
    let object = DynamicObject::new("", &ApiResource::erase::<VolumeSnapshot>(&())).data(data);
    DynamicObject { metadata: snapshot.metadata.clone(), ..object }
}

/// Snapshots as the planner sees them.
pub fn objects(snapshots: &BTreeMap<String, VolumeSnapshot>) -> BTreeMap<ObjectName, DynamicObject> {
    snapshots.iter().map(|(name, snapshot)| (object_name(name), object(snapshot))).collect()
}

/// The snapshots that are asked for. What is no snapshot is left out.
pub fn snapshots(asks: Vec<Ask>) -> Vec<VolumeSnapshot> {
    let snapshot = |ask| match ask {
        Ask::Create { object, .. } => object.try_parse().ok(),
    };
    asks.into_iter().filter_map(snapshot).collect()
}
