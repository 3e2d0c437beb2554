#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::*;
use stillpoint_api::snapshot::{VolumeSnapshotError, VolumeSnapshotStatus};

fn with_status(status: Option<VolumeSnapshotStatus>) -> VolumeSnapshot {
    VolumeSnapshot {
        metadata: ObjectMeta::default(),
        spec: VolumeSnapshotSpec { volume_snapshot_class_name: None, source: VolumeSnapshotSource::default() },
        status,
    }
}

#[test]
fn a_snapshot_is_judged_by_its_status() {
    let at = Timestamp::UNIX_EPOCH;
    let time = Some(Time(at));
    let error = Some(VolumeSnapshotError { message: Some("quota".into()) });
    let status = |creation_time: &Option<Time>, ready_to_use, error: &Option<VolumeSnapshotError>| {
        Some(VolumeSnapshotStatus {
            creation_time: creation_time.clone(),
            ready_to_use,
            error: error.clone(),
            bound_volume_snapshot_content_name: None,
        })
    };
    let table = [
        ("no status", None, Cut::Pending),
        ("empty status", status(&None, None, &None), Cut::Pending),
        ("not cut, not ready", status(&None, Some(false), &None), Cut::Pending),
        ("cut", status(&time, Some(false), &None), Cut::Taken { creation_time: at }),
        ("ready", status(&time, Some(true), &None), Cut::Usable { creation_time: at }),
        ("error", status(&None, Some(false), &error), Cut::Error("quota".into())),
        ("cut, then error", status(&time, Some(false), &error), Cut::Error("quota".into())),
        ("ready with an old error", status(&time, Some(true), &error), Cut::Usable { creation_time: at }),
        (
            "error without words",
            status(&None, None, &Some(VolumeSnapshotError::default())),
            Cut::Error("the driver gave no message".into()),
        ),
    ];
    for (what, status, expected) in table {
        assert_eq!(judge(&with_status(status)), expected, "{what}");
    }
}

#[test]
fn a_class_is_the_one_asked_for_or_the_only_default() {
    let class = |name: &str, driver: &str, default| Class { name: name.into(), driver: driver.into(), default };
    let classes = [class("a", "one", true), class("b", "one", false), class("c", "two", true), class("d", "two", true)];
    let reason = |asked, driver| choose_class(asked, driver, &classes).map_err(|error| error.reason());
    assert_eq!(reason(Some("b"), "one"), Ok("b".into()));
    assert_eq!(reason(Some("x"), "one"), Err("SnapshotClassNotFound"));
    assert_eq!(reason(Some("a"), "two"), Err("SnapshotClassDriverMismatch"));
    assert_eq!(reason(None, "one"), Ok("a".into()));
    assert_eq!(reason(None, "two"), Err("NoDefaultSnapshotClass"), "two defaults are none");
    assert_eq!(reason(None, "three"), Err("NoDefaultSnapshotClass"));
}

#[test]
fn a_snapshot_leads_back_to_its_run() {
    let made = snapshot(&SnapshotRequest {
        replication: "nightly",
        replication_uid: "u1",
        namespace: "shop",
        attempt: 2,
        claim: "orders",
        claim_uid: "c1",
        class: Some("fast"),
        owner: None,
    });
    let labels = made.metadata.labels.unwrap();
    assert_eq!(labels[labels::REPLICATION], "nightly");
    assert_eq!(labels[labels::REPLICATION_UID], "u1");
    assert_eq!(labels[labels::ATTEMPT], "2");
    let annotations = made.metadata.annotations.unwrap();
    assert_eq!((&*annotations[labels::CLAIM], &*annotations[labels::CLAIM_UID]), ("orders", "c1"));
    assert_eq!(made.metadata.owner_references, None);
    assert_eq!(made.spec.source.persistent_volume_claim_name.as_deref(), Some("orders"));
}

proptest! {
    #[test]
    fn names_are_legal_and_stable(replication in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", claim in "[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", attempt: u32) {
        let name = snapshot_name(&replication, "uid", attempt, &claim, "claim-uid");
        prop_assert!(name.len() <= MAX_NAME);
        prop_assert!(name.ends_with(|c: char| c.is_ascii_alphanumeric()));
        prop_assert_eq!(&name, &snapshot_name(&replication, "uid", attempt, &claim, "claim-uid"));
        prop_assert_ne!(&name, &snapshot_name(&replication, "uid", attempt, &claim, "another"));
        prop_assert_ne!(&name, &snapshot_name(&replication, "another", attempt, &claim, "claim-uid"));
    }
}
