//! The stages from the cut to the end: what is made, and how it is proven. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::disturbances::another_pod;
use super::plan::{Draft, Step};
use super::state::{Member, Moment, Stage, Verdict};
use crate::limits::{READY_TO_USE_TIMEOUT, RELEASE_TIMEOUT};
use crate::replica::csi::{Cut, SnapshotRequest, judge, snapshot};
use stillpoint_api::{DeletionPolicy, Mode, Phase, ReplicaStatus};

impl Draft<'_> {
    /// Asks for all replicas at once. Only called when every member holds.
    pub fn begin_cut(&mut self) -> bool {
        // What was there before the hold shows another moment, whoever made it: it must never pass for this cut.
        let early = self.run.members.iter().find(|member| self.observed.replicas.contains_key(&member.replica_name));
        if let Some(member) = early {
            let message = format!(
                "VolumeSnapshot {} was there before the hold, so it cannot show this cut; it is deleted, and another ConsistencyGroupReplication can be created",
                member.replica_name
            );
            return self.abandon(Verdict::new("ReplicaExists", message));
        }
        self.run.cut_requested = Some(self.now);
        self.run.stage = Stage::Cutting;
        self.enter(Phase::Replicating);
        let owner = match self.request.deletion_policy {
            DeletionPolicy::Delete => self.request.owner.clone(),
            DeletionPolicy::Retain => None,
        };
        let snapshots = self.run.members.iter().map(|member| {
            snapshot(&SnapshotRequest {
                replication: &self.request.name,
                replication_uid: &self.request.uid,
                namespace: &self.request.namespace,
                attempt: self.run.attempt,
                claim: &member.claim.name,
                claim_uid: &member.claim.uid,
                class: member.class.as_deref(),
                owner: owner.clone(),
            })
        });
        self.steps.push(Step::Cut(snapshots.collect()));
        for member in &mut self.run.members {
            member.requested = Some(self.now);
            member.replica = Some(ReplicaStatus {
                volume_snapshot_name: member.replica_name.clone(),
                requested_at: Some(self.now.micro_time()),
                ..ReplicaStatus::default()
            });
        }
        true
    }

    /// Waits for the cuts, not for more: what the storage system still does afterwards needs no hold.
    pub fn cutting(&mut self) -> bool {
        if let Some(verdict) = self.look_at_replicas() {
            return self.abandon(verdict);
        }
        if self.cut_deadline().is_some_and(|end| end <= self.now.monotonic) {
            let late =
                self.run.members.iter().filter(|member| !is_cut(member)).map(|member| member.replica_name.as_str());
            let late: Vec<&str> = late.collect();
            let message = format!(
                "{} of {} VolumeSnapshots had no creationTime within holdTimeout (first: {}); see their events, or raise holdTimeout",
                late.len(),
                self.run.members.len(),
                late.first().unwrap_or(&"none")
            );
            return self.abandon(Verdict::new("CutTimeout", message));
        }
        if !self.run.members.iter().all(is_cut) {
            return false;
        }
        self.run.cut_confirmed = Some(self.now);
        self.begin_release()
    }

    /// Tells everybody to release. What follows is the proof.
    pub fn begin_release(&mut self) -> bool {
        self.run.stage = Stage::Releasing { since: self.now };
        self.release_all();
        self.steps.push(Step::RecheckPods);
        true
    }

    /// Done is proven: every member must answer that it held from ready to release.
    pub fn releasing(&mut self, since: Moment) -> bool {
        if let Some(verdict) = self.run.members.iter().find_map(|member| self.broken(member, since)) {
            return self.abandon(verdict);
        }
        if self.run.members.iter().any(Member::owes_release) || !self.observed.rechecked {
            return false;
        }
        self.run.proven = true;
        let ends = self.run.members.iter().filter_map(|member| Some(member.released.as_ref()?.at));
        self.run.hold_ended = ends.max_by_key(|at| at.monotonic).or(Some(self.now));
        match self.request.mode {
            Mode::Check => self.finish(Phase::Done),
            Mode::Replicate => {
                self.run.stage = Stage::AwaitingUsable { since: self.now };
                true
            }
        }
    }

    /// Why this member's release does not prove the hold, if it does not.
    fn broken(&self, member: &Member, since: Moment) -> Option<Verdict> {
        let claim = &member.claim.name;
        let broken = |message| Some(Verdict::new("HoldBroken", message));
        if let Some(verdict) = another_pod(self, member).filter(|_| self.observed.rechecked) {
            return Some(verdict);
        }
        match (&member.pod, &member.released) {
            (None, _) => None,
            (Some(_), Some(released)) if released.unbroken => None,
            (Some(pod), Some(released)) => broken(format!(
                "the agent of pod {} did not hold PersistentVolumeClaim {claim} until the release: {}",
                pod.name, released.reason
            )),
            (Some(pod), None) if self.was_lost(member) => broken(format!(
                "the agent of pod {} was lost before it could say that it held PersistentVolumeClaim {claim} until the release",
                pod.name
            )),
            (Some(pod), None) if self.now.since(&since) >= RELEASE_TIMEOUT => broken(format!(
                "the agent of pod {} did not say within {RELEASE_TIMEOUT:?} that it held PersistentVolumeClaim {claim} until the release",
                pod.name
            )),
            (Some(_), None) => None,
        }
    }

    /// Outside the hold, nobody waits: replicas may take long to become usable.
    pub fn awaiting_usable(&mut self, since: Moment) -> bool {
        self.run.replica_trouble = self.look_at_replicas().map(|verdict| verdict.message);
        let missing = self
            .run
            .members
            .iter()
            .find(|member| self.observed.watching && !self.observed.replicas.contains_key(&member.replica_name));
        if let Some(member) = missing {
            let message = format!("VolumeSnapshot {} was deleted before it could be used", member.replica_name);
            return self.abandon(Verdict::new("ReplicaDeleted", message));
        }
        let usable = |member: &Member| member.replica.as_ref().is_some_and(|replica| replica.ready_to_use);
        let Some(waiting) = self.run.members.iter().find(|member| !usable(member)) else {
            return self.finish(Phase::Done);
        };
        if self.now.since(&since) < READY_TO_USE_TIMEOUT {
            return false;
        }
        let trouble = self.run.replica_trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
        let message = format!(
            "VolumeSnapshot {} was not readyToUse within {READY_TO_USE_TIMEOUT:?}{trouble}",
            waiting.replica_name
        );
        self.abandon(Verdict::new("ReplicaNotUsable", message))
    }

    /// Takes the state of the snapshots into the members' records, and gives the first error.
    fn look_at_replicas(&mut self) -> Option<Verdict> {
        let mut verdict = None;
        for member in &mut self.run.members {
            let name = &member.replica_name;
            let failed = |message: &str| {
                Verdict::new(
                    "SnapshotFailed",
                    format!("VolumeSnapshot {name} of PersistentVolumeClaim {} failed: {message}", member.claim.name),
                )
            };
            if let Some(message) = self.observed.refused_replicas.get(name) {
                verdict = verdict.or(Some(failed(message)));
            }
            let (Some(snapshot), Some(replica)) = (self.observed.replicas.get(name), &mut member.replica) else {
                continue;
            };
            match judge(snapshot) {
                Cut::Pending => {}
                Cut::Error(message) => verdict = verdict.or(Some(failed(&message))),
                cut @ (Cut::Taken { creation_time } | Cut::Usable { creation_time }) => {
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
}

fn is_cut(member: &Member) -> bool {
    member.replica.as_ref().is_some_and(|replica| replica.cut_at.is_some())
}
