#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::run::fixtures::{self, request, snapshot as with_status};
use stillpoint_api::labels;
use stillpoint_api::snapshot::VolumeSnapshotError;

fn orders() -> ClaimReference {
    ClaimReference { name: "orders".into(), uid: "c1".into() }
}

fn name_of_orders() -> ObjectName {
    ObjectName { kind: "VolumeSnapshot".into(), name: request().run_id(1).replica_name(&orders()) }
}

/// What is known when this is seen of the snapshot of `orders`.
fn judged(snapshot: Option<DynamicObject>, refused: Option<&str>) -> Judged {
    let objects = snapshot.into_iter().map(|snapshot| (name_of_orders(), snapshot)).collect();
    let refused = refused.into_iter().map(|why| (name_of_orders(), why.to_owned())).collect();
    let seen = Seen { objects: &objects, refused: &refused };
    VolumeSnapshots.judge(&request().run_id(1), &[&orders()], &seen).remove("c1").unwrap()
}

fn failed(message: &str) -> Verdict {
    let name = name_of_orders().name;
    let sentence = format!("VolumeSnapshot {name} of PersistentVolumeClaim orders failed: {message}");
    Verdict::new(Reason::SnapshotFailed, sentence)
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
        ("error", status(&None, Some(false), &error), Cut::Trouble(failed("quota"))),
        ("cut, then error", status(&time, Some(false), &error), Cut::Trouble(failed("quota"))),
        ("ready with an old error", status(&time, Some(true), &error), Cut::Usable { creation_time: at }),
        (
            "error without words",
            status(&None, None, &Some(VolumeSnapshotError::default())),
            Cut::Trouble(failed("the driver gave no message")),
        ),
    ];
    for (what, status, expected) in table {
        assert_eq!(judged(Some(with_status(status.as_ref())), None).cut, Some(expected), "{what}");
    }
    let mut strange = with_status(None);
    strange.data["status"] = json!({"readyToUse": "maybe"});
    assert!(matches!(judged(Some(strange), None).cut, Some(Cut::Trouble(_))), "what cannot be read is no cut");
}

#[test]
fn what_is_refused_may_be_there_nevertheless() {
    let nothing = judged(None, None);
    assert_eq!(nothing, Judged { name: name_of_orders().name, refused: None, cut: None });
    let refused = judged(None, Some("quota"));
    assert_eq!((refused.refused, refused.cut), (Some(failed("quota")), None));
    let unheard = judged(Some(with_status(None)), Some("no answer"));
    assert_eq!((unheard.refused, unheard.cut), (Some(failed("no answer")), Some(Cut::Pending)));
}

#[test]
fn a_class_is_the_one_asked_for_or_the_only_default() {
    let facts = fixtures::classes(&[("a", "one", true), ("b", "one", false), ("c", "two", true), ("d", "two", true)]);
    let classes = classes(&facts).unwrap();
    let reason = |asked, driver| choose_class(asked, driver, &classes).map_err(|error| error.reason());
    assert_eq!(reason(Some("b"), "one"), Ok("b".into()));
    assert_eq!(reason(Some("x"), "one"), Err(Reason::SnapshotClassNotFound));
    assert_eq!(reason(Some("a"), "two"), Err(Reason::SnapshotClassDriverMismatch));
    assert_eq!(reason(None, "one"), Ok("a".into()));
    assert_eq!(reason(None, "two"), Err(Reason::NoDefaultSnapshotClass), "two defaults are none");
    assert_eq!(reason(None, "three"), Err(Reason::NoDefaultSnapshotClass));
}

#[test]
fn a_snapshot_leads_back_to_its_run() {
    let recipe = Recipe { class: Some("fast".into()) };
    let request = request();
    let run = RunId { uid: "u1", ..request.run_id(2) };
    let asks = VolumeSnapshots.ask(&run, &[(&orders(), &recipe)]);
    let [Ask::Create { resource, object: made }] = asks.as_slice() else { panic!("one request for one member") };
    assert_eq!((&*resource.plural, made.types.as_ref().unwrap().kind.as_str()), ("volumesnapshots", "VolumeSnapshot"));
    let made: VolumeSnapshot = made.as_ref().clone().try_parse().unwrap();
    assert_eq!(made.spec.volume_snapshot_class_name.as_deref(), Some("fast"));
    let labels = made.metadata.labels.unwrap();
    assert_eq!(labels[labels::REPLICATION], "nightly");
    assert_eq!(labels[labels::REPLICATION_UID], "u1");
    assert_eq!(labels[labels::ATTEMPT], "2");
    let annotations = made.metadata.annotations.unwrap();
    assert_eq!((&*annotations[labels::CLAIM], &*annotations[labels::CLAIM_UID]), ("orders", "c1"));
    assert_eq!(made.metadata.owner_references, None);
    assert_eq!(made.spec.source.persistent_volume_claim_name.as_deref(), Some("orders"));
}

#[test]
fn what_is_removed_has_the_names_that_were_asked_for() {
    let request = request();
    let run = request.run_id(1);
    let ask = VolumeSnapshots.ask(&run, &[(&orders(), &Recipe::default())]).remove(0);
    let remove = VolumeSnapshots.remove(&run, &[&orders()]).remove(0);
    assert_eq!(ask.name(), name_of_orders());
    assert_eq!((remove.resource.kind, remove.names), (ask.name().kind, vec![ask.name().name]));
    assert_eq!(remove.selector, format!("{}=uid", labels::REPLICATION_UID));
}
