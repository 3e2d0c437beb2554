#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;
use crate::run::fixtures::request;
use stillpoint_api::DeletionPolicy;

#[test]
fn the_replication_owns_what_is_to_go_with_it() {
    let owner = OwnerReference { name: "nightly".into(), ..OwnerReference::default() };
    for (policy, owners) in [(DeletionPolicy::Delete, Some(vec![owner.clone()])), (DeletionPolicy::Retain, None)] {
        let mut request = request();
        (request.owner, request.deletion_policy) = (Some(owner.clone()), policy);
        assert_eq!(request.run_id(1).metadata("x".into()).owner_references, owners, "{policy:?}");
    }
}

#[test]
fn what_a_spec_asks_for_stands_beside_what_is_stillpoints() {
    let mut request = request();
    let one = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    request.wishes.labels = [one("team", "shop"), one(labels::ATTEMPT, "99")].into();
    request.wishes.annotations = [one("note", "nightly")].into();
    let claim = ClaimReference { name: "orders".into(), uid: "c1".into() };
    let made = request.run_id(1).metadata_of_member(&claim);
    let labels = made.labels.unwrap();
    assert_eq!((&*labels["team"], &*labels[labels::ATTEMPT], &*labels[labels::REPLICATION]), ("shop", "1", "nightly"));
    let annotations = made.annotations.unwrap();
    assert_eq!((&*annotations["note"], &*annotations[labels::CLAIM]), ("nightly", "orders"));
}

#[test]
fn only_what_asking_again_cannot_change_is_a_refusal() {
    let refused = |code| matches!(NotMade::answered(code, "why"), NotMade::Refused(_));
    for code in [400, 403, 404, 405, 413, 422] {
        assert!(refused(code), "{code}");
    }
    for code in [401, 408, 409, 429, 500, 502, 503, 504, 0] {
        assert!(!refused(code), "{code}");
    }
}

proptest! {
    #[test]
    fn names_are_legal_and_stable(replication in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", claim in "[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", attempt: u32) {
        let name = replica_name(&replication, "uid", attempt, &claim, "claim-uid");
        prop_assert!(name.len() <= MAX_NAME);
        prop_assert!(name.ends_with(|c: char| c.is_ascii_alphanumeric()));
        prop_assert_eq!(&name, &replica_name(&replication, "uid", attempt, &claim, "claim-uid"));
        prop_assert_ne!(&name, &replica_name(&replication, "uid", attempt, &claim, "another"));
        prop_assert_ne!(&name, &replica_name(&replication, "another", attempt, &claim, "claim-uid"));
    }
}

#[test]
fn a_replica_is_known_by_its_name() {
    let name = replica_name("nightly", "uid", 1, "my-data", "claim");
    for (claim, is) in [("my-data", true), ("data", true), ("other", false), ("", false)] {
        assert_eq!(may_be_replica_of(&name, claim), is, "{claim} of {name}");
    }
    for foreign in ["", "-", "my-data", "nightly-my-data-2026", "nightly-my-data-00000000000g"] {
        assert!(!may_be_replica_of(foreign, "my-data"), "{foreign}");
    }
}
