//! The cut is proven; replicas become usable, and writes go on.

use stillpoint_api::{Phase, Reason};

use super::super::plan::Draft;
use super::super::state::{Member, Moment, Verdict};
use crate::limits::READY_TO_USE_TIMEOUT;

impl Draft<'_> {
    /// Outside the hold, nobody waits: replicas may take long to become usable.
    pub fn awaiting_usable(&mut self, since: Moment) -> bool {
        self.run.replica_trouble = self.look_at_replicas().map(|verdict| verdict.message);
        let missing = self.find_replica(|replica| replica.cut.is_none()).filter(|_| self.observed.watching);
        if let Some(missing) = missing {
            let message = format!("{} {} was deleted before it could be used", self.words().kind, missing.name);
            return self.abandon(Verdict::new(Reason::ReplicaDeleted, message));
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
            "{} {} {} within {READY_TO_USE_TIMEOUT:?}{trouble}",
            self.words().kind,
            self.replica_name(waiting),
            self.words().unusable
        );
        self.abandon(Verdict::new(Reason::ReplicaNotUsable, message))
    }
}
