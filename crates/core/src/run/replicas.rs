//! What is known of the replicas, taken into the members. Pure; the kind of replica says what it means.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::plan::Draft;
use super::state::{Member, Verdict};
use crate::replica::Words;
use crate::replica::ask::Remove;
use crate::replica::seen::{Cut, Judged, Seen};
use stillpoint_api::ClaimReference;

impl Draft<'_> {
    /// What the kind says of each member's replica, by the UID of its claim.
    pub fn judged(&self) -> BTreeMap<String, Judged> {
        let Some(kind) = self.request.kind else { return BTreeMap::new() };
        let seen = Seen { objects: &self.observed.replicas, refused: &self.observed.refused_replicas };
        kind.judge(&self.request.run_id(self.run.attempt), &self.claims(), &seen)
    }

    /// How the kind is spoken of.
    pub fn words(&self) -> Words {
        self.request.kind.map(|kind| kind.words()).unwrap_or_default()
    }

    /// Everything that this attempt, and those before it, may have made.
    pub fn all_replicas(&self) -> Vec<Remove> {
        let run = self.request.run_id(self.run.attempt);
        self.request.kind.map(|kind| kind.remove(&run, &self.claims())).unwrap_or_default()
    }

    /// The first member's replica of which this is so.
    pub fn find_replica(&self, is_so: impl Fn(&Judged) -> bool) -> Option<Judged> {
        let mut judged = self.judged();
        self.run.members.iter().filter_map(|member| judged.remove(&member.claim.uid)).find(is_so)
    }

    /// The name of a member's replica, as far as it is known.
    pub fn replica_name(&self, member: &Member) -> String {
        self.judged().remove(&member.claim.uid).map(|replica| replica.name).unwrap_or_default()
    }

    /// Takes the state of the replicas into the members' records, and gives the first trouble.
    pub fn look_at_replicas(&mut self) -> Option<Verdict> {
        let mut judged = self.judged();
        let kind = self.words().kind;
        let mut verdict = None;
        for member in &mut self.run.members {
            let Some(Judged { name, refused, cut }) = judged.remove(&member.claim.uid) else { continue };
            verdict = verdict.or(refused);
            let Some(replica) = &mut member.replica else { continue };
            if replica.name.is_empty() {
                // Not known before, or stored by a version that called it otherwise.
                (replica.kind, replica.name) = (kind.to_owned(), name);
            }
            let Some(cut) = cut else { continue };
            match cut {
                Cut::Pending => {}
                Cut::Trouble(trouble) => verdict = verdict.or(Some(trouble)),
                Cut::Taken { creation_time } | Cut::Usable { creation_time } => {
                    replica.creation_time = Some(MicroTime(creation_time));
                    replica.ready_to_use = matches!(cut, Cut::Usable { .. });
                    if replica.cut_at.is_none() {
                        replica.cut_at = Some(self.now.micro_time());
                        replica.cut_took = member.requested.map(|requested| self.now.since(&requested).into());
                    }
                }
            }
        }
        verdict
    }

    fn claims(&self) -> Vec<&ClaimReference> {
        self.run.members.iter().map(|member| &member.claim).collect()
    }
}

/// Whether its replica shows a moment already.
pub(super) fn is_cut(member: &Member) -> bool {
    member.replica.as_ref().is_some_and(|replica| replica.cut_at.is_some())
}
