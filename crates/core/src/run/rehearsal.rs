//! What can be known of the making of replicas before anybody is asked: whether quotas have room for all of them, and what the API
//! server says to one of each sort. Pure.

use std::collections::BTreeMap;

use kube::core::ApiResource;

use super::state::{Member, Verdict};
use crate::replica::Kind;
use crate::replica::ask::{Ask, Recipe, RunId};
use stillpoint_api::{ClaimReference, Reason};

/// What a ResourceQuota says of the number of objects of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The name of the quota.
    pub quota: String,
    /// As many there may be.
    pub hard: u64,
    /// As many there are.
    pub used: u64,
}

impl Room {
    /// As many may still be made.
    pub fn left(&self) -> u64 {
        self.hard.saturating_sub(self.used)
    }
}

/// How the API server answered to creations that it was asked not to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rehearsed {
    /// It would take them all, as far as it can say.
    Accepted,
    /// It would refuse one, and says why.
    Refused(String),
    /// It gave no answer that says either.
    Unknown(String),
}

/// What a quota calls the number of objects of a resource.
pub fn counted_as(resource: &ApiResource) -> String {
    format!("count/{}.{}", resource.plural, resource.group)
}

/// Makes sure that the replicas of all members have room in every quota. A creation that is only tried does not count, so that it
/// cannot tell.
///
/// # Errors
/// Which quota has no room.
pub fn check_room(
    kind: &dyn Kind,
    run: &RunId<'_>,
    members: &[Member],
    room: &BTreeMap<String, Room>,
) -> Result<(), Verdict> {
    let mut needed: BTreeMap<String, u64> = BTreeMap::new();
    for Ask::Create { resource, .. } in kind.ask(run, &recipes(members)) {
        *needed.entry(counted_as(&resource)).or_default() += 1;
    }
    let full = needed.iter().filter_map(|(what, needed)| Some((what, needed, room.get(what)?)));
    let Some((what, needed, room)) = full.into_iter().find(|(_, needed, room)| room.left() < **needed) else {
        return Ok(());
    };
    let Room { quota, hard, used } = room;
    Err(Verdict::new(
        Reason::QuotaExceeded,
        format!(
            "ResourceQuota {quota} has no room for the {} of this group: it allows {hard} ({what}), {used} are there, and {needed} more are needed; raise it, or remove what is not needed any more",
            kind.words().many
        ),
    ))
}

/// One creation of each sort: policies look at the class and the labels, which are the same for all members of a class.
pub fn samples(kind: &dyn Kind, run: &RunId<'_>, members: &[Member]) -> Vec<Ask> {
    let mut sorts: Vec<(&ClaimReference, &Recipe)> = Vec::new();
    for (claim, recipe) in recipes(members) {
        if !sorts.iter().any(|(_, known)| *known == recipe) {
            sorts.push((claim, recipe));
        }
    }
    kind.ask(run, &sorts)
}

/// Why a run cannot begin whose replicas the API server would refuse.
pub fn refused(kind: &dyn Kind, sentence: &str) -> Verdict {
    Verdict::new(
        Reason::ReplicaRefused,
        format!("the API server would refuse a {} of this group: {sentence}", kind.words().kind),
    )
}

fn recipes(members: &[Member]) -> Vec<(&ClaimReference, &Recipe)> {
    members.iter().map(|member| (&member.claim, &member.recipe)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::fixtures::request;
    use super::*;
    use crate::replica::KINDS;

    const COUNT: &str = "count/volumesnapshots.snapshot.storage.k8s.io";

    fn members(classes: &[&str]) -> Vec<Member> {
        let member = |(number, class): (usize, &&str)| {
            let claim = ClaimReference { name: format!("claim-{number}"), uid: format!("uid-{number}") };
            let mut member = Member::new(claim, Vec::new(), Vec::new());
            member.recipe = Recipe { class: Some((*class).to_owned()) };
            member
        };
        classes.iter().enumerate().map(member).collect()
    }

    fn check(members: usize, hard: u64, used: u64, what: &str) -> Result<(), Verdict> {
        let room = [(what.to_owned(), Room { quota: "small".to_owned(), hard, used })].into();
        check_room(KINDS[0], &request().run_id(1), &self::members(&vec!["fast"; members]), &room)
    }

    #[test]
    fn a_quota_must_have_room_for_all_members() {
        assert_eq!(check(3, 3, 0, COUNT), Ok(()));
        assert_eq!(check(3, 5, 2, COUNT), Ok(()));
        assert_eq!(check(3, 2, 0, "count/pods"), Ok(()), "not of replicas");
        for (hard, used) in [(2, 0), (5, 3), (0, 0), (1, 7)] {
            let verdict = check(3, hard, used, COUNT).unwrap_err();
            assert_eq!(verdict.reason, Reason::QuotaExceeded);
            assert!(
                verdict.message.contains("ResourceQuota small") && verdict.message.contains("3 more"),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn one_of_each_class_is_tried() {
        let members = members(&["fast", "slow", "fast", "fast", "slow"]);
        let samples = samples(KINDS[0], &request().run_id(1), &members);
        let classes: Vec<_> = samples
            .iter()
            .map(|Ask::Create { object, .. }| object.data["spec"]["volumeSnapshotClassName"].as_str().unwrap())
            .collect();
        assert_eq!(classes, ["fast", "slow"]);
    }
}
