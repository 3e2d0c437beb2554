//! What can go wrong under a run, as small named checks in the order in which they are told. Pure.

use super::assignments::Mount;
use super::plan::Draft;
use super::state::{Command, Member, Stage, Verdict};
use stillpoint_api::Reason;

type Check = fn(&Draft<'_>, &Member) -> Option<Verdict>;

/// While agents look: the members must stay who they are.
const MEMBERSHIP: [Check; 2] = [claim_gone, pod_changed];
/// While anybody may be suspended: each member must also be heard, and hold.
const HOLDING: [Check; 4] = [claim_gone, pod_changed, session_lost, hold_lapsed];

impl Draft<'_> {
    /// Ends what cannot go on: the object is being deleted, the controller cannot follow, or something went wrong under it.
    pub fn interrupted(&mut self) -> bool {
        if matches!(self.run.stage, Stage::Abandoning { .. } | Stage::Listening | Stage::Ended) {
            return false;
        }
        if self.observed.deleted {
            return self.abandon(Verdict::new(
                Reason::Deleted,
                "the ConsistencyGroupReplication was deleted before it was done",
            ));
        }
        if let (Some(why), true) = (&self.observed.cut_off, self.run.stage.needs_agents()) {
            let verdict = Verdict::new(Reason::ControllerInterrupted, why.clone());
            return self.abandon(verdict);
        }
        match self.disturbance() {
            Some(verdict) => self.abandon(verdict),
            None => false,
        }
    }

    /// The first thing that went wrong, if the run is at a stage where it matters.
    pub fn disturbance(&self) -> Option<Verdict> {
        let checks: &[Check] = match self.run.stage {
            Stage::Declaring | Stage::Preparing | Stage::Pausing { .. } => &MEMBERSHIP,
            Stage::Suspending | Stage::Cutting => &HOLDING,
            // A release is judged by its answers.
            Stage::Releasing { .. } | Stage::AwaitingUsable { .. } => &[],
            Stage::Abandoning { .. } | Stage::Listening | Stage::Ended => &[],
        };
        if !self.observed.watching {
            return None;
        }
        checks.iter().find_map(|check| self.run.members.iter().find_map(|member| check(self, member)))
    }
}

fn claim_gone(draft: &Draft<'_>, member: &Member) -> Option<Verdict> {
    let name = &member.claim.name;
    match draft.observed.claims.get(&member.claim.uid) {
        Some(claim) if !claim.deleting => None,
        _ => {
            Some(Verdict::new(Reason::ClaimDeleted, format!("PersistentVolumeClaim {name} was deleted during the run")))
        }
    }
}

/// The pods that mount a member must stay the only ones, and a member that nobody mounted must stay so.
fn pod_changed(draft: &Draft<'_>, member: &Member) -> Option<Verdict> {
    let gone = member.mounts.iter().find(|own| !draft.observed.pods.contains_key(&own.uid)).map(|own| {
        let message = format!(
            "pod {}, which mounts PersistentVolumeClaim {}, was deleted, replaced or finished during the run",
            own.name, member.claim.name
        );
        Verdict::new(Reason::PodChanged, message)
    });
    gone.or_else(|| another_pod(draft, member))
}

/// A pod that mounts the member and did not when the run began. Its writes are nobody's to hold.
pub(super) fn another_pod(draft: &Draft<'_>, member: &Member) -> Option<Verdict> {
    let name = &member.claim.name;
    let is_own = |uid: &str| member.mounts.iter().any(|own: &Mount| own.uid == uid);
    let other = draft.mounting(name).find(|pod| !is_own(&pod.uid))?;
    Some(match member.mounts.first() {
        None => Verdict::new(
            Reason::MountedMeanwhile,
            format!("pod {} began to mount PersistentVolumeClaim {name} during the run", other.name),
        ),
        Some(_) => Verdict::new(
            Reason::MountedByMorePods,
            format!("pod {} began to mount PersistentVolumeClaim {name} too", other.name),
        ),
    })
}

fn session_lost(draft: &Draft<'_>, member: &Member) -> Option<Verdict> {
    let mut suspended = member.assignments.iter().filter(|one| one.asked == Some(Command::Suspend));
    let lost = suspended.find(|one| draft.was_lost(member, one))?;
    let message = format!(
        "{} was lost after it was told to suspend writes to PersistentVolumeClaim {}",
        lost.agent, member.claim.name
    );
    Some(Verdict::new(Reason::AgentLost, message))
}

fn hold_lapsed(_: &Draft<'_>, member: &Member) -> Option<Verdict> {
    let mut suspended = member.assignments.iter().filter(|one| one.asked == Some(Command::Suspend));
    let released = suspended.find_map(|one| one.released.as_ref())?;
    let reason = &released.reason;
    let message = format!("PersistentVolumeClaim {} did not stay suspended: {reason}", member.claim.name);
    Some(Verdict::new(Reason::HoldBroken, message))
}
