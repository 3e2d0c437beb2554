//! Every member holds, and replicas are asked for.

use std::collections::BTreeSet;

use stillpoint_api::{Phase, Reason, ReplicaStatus};

use super::super::observed::Observed;
use super::super::plan::{Draft, Step};
use super::super::replicas::is_cut;
use super::super::state::{Stage, Verdict};
use crate::replica::ask::{Ask, NotMade};
use crate::replica::seen::ObjectName;

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
        let asks = self.asks(|_| true);
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
        let refused = self.look_at_replicas();
        if let Some(verdict) = refused.or_else(|| self.find_old_cut()).or_else(|| self.find_deleted()) {
            return self.abandon(verdict);
        }
        if self.cut_deadline().is_some_and(|end| end <= self.now.monotonic) {
            return self.abandon(self.late());
        }
        if !self.run.members.iter().all(is_cut) {
            self.ask_again();
            return false;
        }
        self.run.cut_confirmed = Some(self.now);
        self.begin_release()
    }

    /// Asks again, after growing pauses, for what may not have been made because of a trouble of the API server.
    fn ask_again(&mut self) {
        let Observed { unmade, replicas, open_creations, .. } = self.observed;
        let open = unmade.iter().filter(|(_, why)| matches!(why, NotMade::Unknown(_))).map(|(name, _)| name);
        let open: BTreeSet<_> =
            open.filter(|name| !replicas.contains_key(*name) && !open_creations.contains(*name)).collect();
        if open.is_empty() {
            self.run.ask_again_at = None;
            return;
        }
        match self.run.ask_again_at {
            None => self.run.ask_again_at = Some(self.now.monotonic + self.run.ask_pauses.take()),
            Some(at) if self.now.monotonic < at => {}
            Some(_) => {
                self.run.ask_again_at = None;
                let again = self.asks(|name| open.contains(name));
                self.steps.push(Step::Ask(again));
            }
        }
    }

    /// Requests for the replicas whose names are so.
    fn asks(&self, of: impl Fn(&ObjectName) -> bool) -> Vec<Ask> {
        let Some(kind) = self.request.kind else { return Vec::new() };
        let members: Vec<_> = self.run.members.iter().map(|member| (&member.claim, &member.recipe)).collect();
        let mut asks = kind.ask(&self.run_id(), &members);
        asks.retain(|ask| of(&ask.name()));
        asks
    }

    fn find_deleted(&self) -> Option<Verdict> {
        let gone = self.observed.vanished.first()?;
        let message = format!("{} {} was deleted while the members were suspended for it", gone.kind, gone.name);
        Some(Verdict::new(Reason::ReplicaDeleted, message))
    }

    /// Why the time for the cuts is over. Slow, in trouble, and not even begun are three things: only who is slow is helped by
    /// a longer hold.
    fn late(&self) -> Verdict {
        let words = self.words();
        let late: Vec<_> = self.run.members.iter().filter(|member| !is_cut(member)).collect();
        let first = late.first().map_or_else(|| "none".to_owned(), |member| self.replica_name(member));
        let (late, all) = (late.len(), self.run.members.len());
        let what = format!("{late} of {all} {} {} within holdTimeout", words.many, words.uncut);
        let (reason, message) = if let Some(trouble) = &self.run.replica_trouble {
            (Reason::SnapshotFailed, format!("{what}; the last trouble: {trouble}"))
        } else if self.judged().values().all(|replica| !replica.noticed) {
            let message = format!(
                "{what} (first: {first}), and nobody took notice of any of them: their status is empty. {} A longer holdTimeout does not help, and the run is not tried again by itself",
                words.unnoticed
            );
            (Reason::ReplicaNotNoticed, message)
        } else {
            (Reason::CutTimeout, format!("{what} (first: {first}); see their events, or raise holdTimeout"))
        };
        Verdict::new(reason, message)
    }
}
