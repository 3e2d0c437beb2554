//! What the storage system says of the replicas, taken into the members. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::plan::Draft;
use super::state::{Member, Verdict};
use crate::replica::csi::{Cut, judge};

impl Draft<'_> {
    /// Takes the state of the snapshots into the members' records, and gives the first error.
    pub fn look_at_replicas(&mut self) -> Option<Verdict> {
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

/// Whether its replica shows a moment already.
pub(super) fn is_cut(member: &Member) -> bool {
    member.replica.as_ref().is_some_and(|replica| replica.cut_at.is_some())
}
