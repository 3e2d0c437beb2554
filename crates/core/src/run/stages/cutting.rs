//! Every member holds, and replicas are asked for.

use stillpoint_api::{Phase, Reason, ReplicaStatus};

use super::super::plan::{Draft, Step};
use super::super::replicas::is_cut;
use super::super::state::{Stage, Verdict};

impl Draft<'_> {
    /// Asks for all replicas at once. Only called when every member holds.
    pub fn begin_cut(&mut self) -> bool {
        // Nobody gets here without a kind: membership refuses that.
        let Some(kind) = self.request.kind else { return self.begin_release() };
        let words = kind.words();
        // What was there before the hold shows another moment, whoever made it: it must never pass for this cut.
        if let Some(early) = self.find_replica(|replica| replica.cut.is_some()) {
            let message = format!(
                "{} {} was there before the hold, so it cannot show this cut; it is deleted, and another ConsistencyGroupReplication can be created",
                words.kind, early.name
            );
            return self.abandon(Verdict::new(Reason::ReplicaExists, message));
        }
        self.run.cut_requested = Some(self.now);
        self.run.stage = Stage::Cutting;
        self.enter(Phase::Replicating);
        let mut judged = self.judged();
        let members: Vec<_> = self.run.members.iter().map(|member| (&member.claim, &member.recipe)).collect();
        let asks = kind.ask(&self.request.run_id(self.run.attempt), &members);
        self.steps.push(Step::Ask(asks));
        for member in &mut self.run.members {
            member.requested = Some(self.now);
            member.replica = Some(ReplicaStatus {
                kind: words.kind.to_owned(),
                name: judged.remove(&member.claim.uid).map(|replica| replica.name).unwrap_or_default(),
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
            let late: Vec<_> = self.run.members.iter().filter(|member| !is_cut(member)).collect();
            let message = format!(
                "{} of {} {} {} within holdTimeout (first: {}); see their events, or raise holdTimeout",
                late.len(),
                self.run.members.len(),
                self.words().many,
                self.words().uncut,
                late.first().map_or_else(|| "none".to_owned(), |member| self.replica_name(member))
            );
            return self.abandon(Verdict::new(Reason::CutTimeout, message));
        }
        if !self.run.members.iter().all(is_cut) {
            return false;
        }
        self.run.cut_confirmed = Some(self.now);
        self.begin_release()
    }
}
