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
