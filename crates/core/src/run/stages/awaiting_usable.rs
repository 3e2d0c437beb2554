//! The cut is proven; replicas become usable, and writes go on.

use stillpoint_api::{Phase, Reason};

use super::super::plan::Draft;
use super::super::replicas::is_usable;
use super::super::state::{Moment, Verdict};

impl Draft<'_> {
    /// Outside the hold, nobody waits: replicas may take as long as they need to become usable, unless the spec sets a limit.
    pub fn awaiting_usable(&mut self, since: Moment) -> bool {
        // A refusal is about the request, and the cut is there: it is proven.
        drop(self.look_at_replicas());
        let missing = self.find_replica(|replica| replica.cut.is_none()).filter(|_| self.observed.watching);
        if let Some(missing) = missing {
            let message = format!("{} {} was deleted before it could be used", self.words().kind, missing.name);
            return self.abandon(Verdict::new(Reason::ReplicaDeleted, message));
        }
        self.mark_proven();
        let Some(waiting) = self.run.members.iter().find(|member| !is_usable(member)) else {
            return self.observed.marked.is_some() && self.finish(Phase::Done);
        };
        let Some(limit) = self.request.wishes.ready_timeout.filter(|limit| self.now.since(&since) >= *limit) else {
            return false;
        };
        let trouble = self.run.replica_trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
        let message = format!(
            "{} {} {} within readyTimeout ({limit:?}){trouble}",
            self.words().kind,
            self.replica_name(waiting),
            self.words().unusable
        );
        self.abandon(Verdict::new(Reason::ReplicaNotUsable, message))
    }
}
