//! What is known of the replicas, taken into the members. Pure; the kind of replica says what it means.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::plan::Draft;
use super::state::{Member, Verdict};
use crate::limits::CREATION_TIME_TOLERANCE;
use crate::replica::Words;
use crate::replica::ask::{Remove, RunId};
use crate::replica::seen::{Cut, Judged, Seen};
use stillpoint_api::{ClaimReference, Reason, ReplicaStatus};

impl Draft<'_> {
    /// What the kind says of each member's replica, by the UID of its claim.
    pub fn judged(&self) -> BTreeMap<String, Judged> {
        let Some(kind) = self.request.kind else { return BTreeMap::new() };
        let seen = Seen { objects: &self.observed.replicas, unmade: &self.observed.unmade };
        kind.judge(&self.run_id(), &self.claims(), &seen)
    }

    /// What the replicas of this attempt are named and marked by. Until the cut is proven, by the time of the request too: an
    /// object that does not say it is not of this cut.
    pub fn run_id(&self) -> RunId<'_> {
        let asked_at = self.run.cut_requested.filter(|_| !self.run.proven).map(|at| at.wall);
        RunId { asked_at, ..self.request.run_id(self.run.attempt) }
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

    /// Takes the state of the replicas into the members' records, and gives the first refusal. The first trouble is noted: it is
    /// shown, and may mend itself.
    pub fn look_at_replicas(&mut self) -> Option<Verdict> {
        let mut judged = self.judged();
        let kind = self.words().kind;
        let mut verdict = None;
        self.run.replica_trouble = None;
        for member in &mut self.run.members {
            let Some(Judged { name, refused, trouble, cut, .. }) = judged.remove(&member.claim.uid) else { continue };
            verdict = verdict.or(refused);
            if self.run.replica_trouble.is_none() {
                self.run.replica_trouble = trouble.map(|trouble| trouble.message);
            }
            let Some(replica) = &mut member.replica else { continue };
            if replica.name.is_empty() {
                // Not known before, or stored by a version that called it otherwise.
                (replica.kind, replica.name) = (kind.to_owned(), name);
            }
            let Some((cut, creation_time)) = cut.and_then(|cut| Some((cut, cut.taken_at()?))) else { continue };
            replica.creation_time = Some(MicroTime(creation_time));
            replica.ready_to_use = matches!(cut, Cut::Usable { .. });
            if replica.cut_at.is_none() {
                replica.cut_at = Some(self.now.micro_time());
                replica.cut_took = member.requested.map(|requested| self.now.since(&requested).into());
            }
        }
        verdict
    }

    /// Why a cut cannot be that of this hold although it is told of: it says that it was taken long before it was asked for.
    pub fn find_old_cut(&self) -> Option<Verdict> {
        let asked = self.run.cut_requested?.wall;
        let old = |replica: &ReplicaStatus| {
            let taken = replica.creation_time.as_ref()?.0;
            (asked.duration_since(taken) > CREATION_TIME_TOLERANCE.try_into().ok()?).then_some(taken)
        };
        let mut members = self.run.members.iter();
        let (member, name, taken) = members.find_map(|member| {
            let replica = member.replica.as_ref()?;
            Some((member, &replica.name, old(replica)?))
        })?;
        let message = format!(
            "{} {name} of PersistentVolumeClaim {} says that it was cut at {taken:.0}, and it was asked for at {asked:.0}: a cut from before the hold does not belong to this group. If the driver hands out older snapshots for a while (such as IBM Storage Scale within its snapWindow), turn that off; if the storage system's clock is wrong by more than {CREATION_TIME_TOLERANCE:?}, set it",
            self.words().kind,
            member.claim.name
        );
        Some(Verdict::new(Reason::ReplicaTooOld, message))
    }

    fn claims(&self) -> Vec<&ClaimReference> {
        self.run.members.iter().map(|member| &member.claim).collect()
    }
}

/// Whether its replica can be restored from.
pub(super) fn is_usable(member: &Member) -> bool {
    member.replica.as_ref().is_some_and(|replica| replica.ready_to_use)
}

/// Whether its replica shows a moment already.
pub(super) fn is_cut(member: &Member) -> bool {
    member.replica.as_ref().is_some_and(|replica| replica.cut_at.is_some())
}
