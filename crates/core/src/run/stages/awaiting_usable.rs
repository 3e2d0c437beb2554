//! The cut is proven; replicas become usable, and writes go on.

use stillpoint_api::Phase;

use super::super::plan::Draft;
use super::super::state::{Member, Moment, Verdict};
use crate::limits::READY_TO_USE_TIMEOUT;

impl Draft<'_> {
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
}
