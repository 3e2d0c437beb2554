//! Every member holds, and replicas are asked for.

use stillpoint_api::{DeletionPolicy, Phase, ReplicaStatus};

use super::super::plan::{Draft, Step};
use super::super::replicas::is_cut;
use super::super::state::{Stage, Verdict};
use crate::replica::csi::{SnapshotRequest, snapshot};

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
}
