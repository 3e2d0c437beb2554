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
fn judged(snapshot: Option<DynamicObject>, unmade: Option<NotMade>) -> Judged {
    let request = request();
    judged_by(&request.run_id(1), snapshot, unmade)
}

fn judged_by(run: &RunId<'_>, snapshot: Option<DynamicObject>, unmade: Option<NotMade>) -> Judged {
    let objects = snapshot.into_iter().map(|snapshot| (name_of_orders(), snapshot)).collect();
    let unmade = unmade.into_iter().map(|why| (name_of_orders(), why)).collect();
    let seen = Seen { objects: &objects, unmade: &unmade };
    VolumeSnapshots.judge(run, &[&orders()], &seen).remove("c1").unwrap()
}

fn says(what: &str, message: &str) -> Option<Verdict> {
    let name = name_of_orders().name;
    let sentence = format!("VolumeSnapshot {name} of PersistentVolumeClaim orders {what}: {message}");
    Some(Verdict::new(Reason::SnapshotFailed, sentence))
}

fn error(message: &str) -> Option<Verdict> {
    says("reports an error", message)
}

#[test]
fn a_snapshot_is_judged_by_its_status() {
    let at = Timestamp::UNIX_EPOCH;
    let time = Some(Time(at));
    let quota = Some(VolumeSnapshotError { message: Some("quota".into()) });
    let status = |creation_time: &Option<Time>, ready_to_use, error: &Option<VolumeSnapshotError>| {
        Some(VolumeSnapshotStatus {
            creation_time: creation_time.clone(),
            ready_to_use,
            error: error.clone(),
            bound_volume_snapshot_content_name: None,
        })
    };
    let (cut, ready) = (Cut::Taken { creation_time: at }, Cut::Usable { creation_time: at });
    let table = [
        ("no status", None, Cut::Pending, None),
        ("empty status", status(&None, None, &None), Cut::Pending, None),
        ("not cut, not ready", status(&None, Some(false), &None), Cut::Pending, None),
        ("cut", status(&time, Some(false), &None), cut, None),
        ("ready", status(&time, Some(true), &None), ready, None),
        ("ready, and nobody knows what it shows", status(&None, Some(true), &None), Cut::Pending, None),
        ("error", status(&None, Some(false), &quota), Cut::Pending, error("quota")),
        ("cut, then error", status(&time, Some(false), &quota), cut, error("quota")),
        ("ready with an old error", status(&time, Some(true), &quota), ready, None),
        (
            "error without words",
            status(&None, None, &Some(VolumeSnapshotError::default())),
            Cut::Pending,
            error("the driver gave no message"),
        ),
    ];
    for (what, status, cut, trouble) in table {
        let judged = judged(Some(with_status(status.as_ref())), None);
        assert_eq!((judged.cut, judged.trouble, judged.refused), (Some(cut), trouble, None), "{what}");
    }
    let mut strange = with_status(None);
    strange.data["status"] = json!({"readyToUse": "maybe"});
    let strange = judged(Some(strange), None);
    assert_eq!((strange.cut, strange.trouble.is_some()), (Some(Cut::Pending), true), "what cannot be read is no cut");
}

#[test]
fn whoever_makes_snapshots_takes_notice_by_a_finalizer_or_a_status() {
    let noticed = |snapshot| judged(Some(snapshot), None).noticed;
    assert!(!noticed(with_status(None)));
    assert!(!judged(None, None).noticed);
    let mut empty = with_status(None);
    empty.data["status"] = json!({});
    assert!(!noticed(empty));
    assert!(noticed(with_status(Some(&VolumeSnapshotStatus { ready_to_use: Some(false), ..Default::default() }))));
    let mut protected = with_status(None);
    protected.metadata.finalizers =
        Some(vec!["snapshot.storage.kubernetes.io/volumesnapshot-bound-protection".to_owned()]);
    assert!(noticed(protected));
}

#[test]
fn a_snapshot_that_was_not_asked_for_now_is_not_the_cut() {
    let request = request();
    let usable = || {
        let time = Some(Time(Timestamp::UNIX_EPOCH));
        with_status(Some(&VolumeSnapshotStatus { creation_time: time, ready_to_use: Some(true), ..Default::default() }))
    };
    let now = RunId { asked_at: Some(Timestamp::UNIX_EPOCH), ..request.run_id(1) };
    let later = RunId { asked_at: Some(Timestamp::from_microsecond(1).unwrap()), ..now };
    let mut unlabelled = usable();
    unlabelled.metadata.labels = None;
    let refused = |run, snapshot| judged_by(run, Some(snapshot), None).refused.is_some();
    assert!(!refused(&now, usable()));
    assert!(refused(&later, usable()));
    assert!(refused(&now, unlabelled));
    assert!(!refused(&request.run_id(1), usable()), "once the cut is proven that is not asked any more");
}

#[test]
fn what_is_refused_may_be_there_nevertheless() {
    let nothing = Judged { name: name_of_orders().name, refused: None, trouble: None, cut: None, noticed: false };
    assert_eq!(judged(None, None), nothing);
    let refused = judged(None, Some(NotMade::Refused("quota".into())));
    assert_eq!(refused, Judged { refused: says("was refused", "quota"), ..nothing.clone() });
    let unheard = || Some(NotMade::Unknown("no answer".into()));
    let trouble = says("could not be asked for, and it is tried again", "no answer");
    assert_eq!(judged(None, unheard()), Judged { trouble, ..nothing });
    let there = judged(Some(with_status(None)), unheard());
    assert_eq!((there.trouble, there.cut), (None, Some(Cut::Pending)), "it was made nevertheless");
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

#[test]
fn a_snapshot_is_being_made_from_its_first_finalizer_to_its_second_one() {
    let not_begun = Making::NotBegun(Some("7".to_owned()));
    let time = "2026-01-01T00:00:00Z";
    for (finalizers, status, deleted, expected) in [
        (json!(null), json!(null), false, not_begun.clone()),
        (json!(["example.com/keep"]), json!(null), false, not_begun),
        (json!([AS_SOURCE]), json!(null), false, Making::UnderWay),
        (json!([AS_SOURCE]), json!({"boundVolumeSnapshotContentName": "content"}), false, Making::UnderWay),
        (json!([AS_SOURCE]), json!({"error": {"message": "busy"}}), false, Making::UnderWay),
        (json!([AS_SOURCE, BOUND]), json!({"boundVolumeSnapshotContentName": "content"}), false, Making::Settled),
        // Of a class that retains what is behind its snapshots.
        (json!([AS_SOURCE]), json!({"creationTime": time}), false, Making::Settled),
        (json!([AS_SOURCE]), json!(null), true, Making::Settled),
    ] {
        let metadata = json!({"name": "one", "resourceVersion": "7", "finalizers": finalizers,
            "deletionTimestamp": if deleted { json!(time) } else { json!(null) }});
        let object = json!({"apiVersion": "v1", "kind": "Any", "metadata": metadata, "status": status});
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        assert_eq!(VolumeSnapshots.making(&object), expected, "{finalizers} {status} {deleted}");
    }
}
