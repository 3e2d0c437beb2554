//! What several tests of a run begin with.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::core::{ApiResource, DynamicObject};
use serde_json::json;

use super::state::{Member, Request};
use crate::replica::KINDS;
use crate::replica::ask::RunId;
use crate::replica::seen::{Facts, ObjectName};
use crate::replica::wishes::Wishes;
use stillpoint_api::snapshot::{DEFAULT_CLASS_ANNOTATION, VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotStatus};
use stillpoint_api::{ClaimReference, DeletionPolicy, Mode};

/// A request with the API's default timeouts, without another attempt.
pub fn request() -> Request {
    Request {
        name: "nightly".into(),
        namespace: "shop".into(),
        uid: "uid".into(),
        generation: Some(1),
        mode: Mode::Replicate,
        kind: Some(KINDS[0]),
        wishes: Wishes::default(),
        prepare_timeout: Duration::from_secs(30),
        hold_timeout: Duration::from_secs(10),
        deletion_policy: DeletionPolicy::Delete,
        retry: None,
        owner: None,
        epoch: 1,
    }
}

/// The snapshot of a member in its first attempt, as what is observed names it.
pub fn replica(member: &Member) -> ObjectName {
    let name = request().run_id(1).replica_name(&member.claim);
    ObjectName { kind: VolumeSnapshot::kind(&()).into_owned(), name }
}

/// A snapshot with this status, as a run has made it that asked at the beginning of time.
pub fn snapshot(status: Option<&VolumeSnapshotStatus>) -> DynamicObject {
    let request = request();
    let run = RunId { asked_at: Some(Timestamp::UNIX_EPOCH), ..request.run_id(1) };
    let metadata = run.metadata_of_member(&ClaimReference { name: String::new(), uid: String::new() });
    let object = DynamicObject::new("", &ApiResource::erase::<VolumeSnapshot>(&())).data(json!({"status": status}));
    DynamicObject { metadata, ..object }
}

/// What is read of a cluster with these snapshot classes: name, driver, whether it is the default.
pub fn classes(classes: &[(&str, &str, bool)]) -> Facts {
    let resource = ApiResource::erase::<VolumeSnapshotClass>(&());
    let class = |(name, driver, default): &(&str, &str, bool)| {
        let mut class = DynamicObject::new(name, &resource).data(json!({"driver": driver}));
        class.metadata.annotations = Some([(DEFAULT_CLASS_ANNOTATION.into(), default.to_string())].into());
        class
    };
    Facts { read: [(resource.kind.clone(), classes.iter().map(class).collect())].into() }
}
