//! What a run knows: the request, the members, and how far the attempt is. Plain data; nothing here acts or reads a clock.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use super::agents::AgentRef;
use super::assignments::{Assignment, Mount, Standing};
use super::happened::{Happened, Told};
use crate::limits::{MAX_BLOCKERS, MAX_MESSAGE_CHARS, MAX_PHASES, ROUND_PAUSE_MAX, ROUND_PAUSE_MIN};
use crate::pauses::Pauses;
use crate::replica::Kind;
use crate::replica::ask::{Recipe, RunId};
use crate::replica::wishes::Wishes;
use crate::text::printable;
use stillpoint_api::{
    Blocker, ClaimReference, DeletionPolicy, LongestSuspension, MemberState, Mode, Phase, PhaseEntry, Reason,
    ReplicaStatus, ReplicationStatus, Retry,
};

/// One moment on both clocks. Deadlines count on the monotonic one; people read the other one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Since a fixed point in the life of this process; never goes back.
    pub monotonic: Duration,
    /// The controller's wall clock.
    pub wall: Timestamp,
}

impl Moment {
    /// The time from `earlier` to this moment.
    pub fn since(&self, earlier: &Self) -> Duration {
        self.monotonic.saturating_sub(earlier.monotonic)
    }

    /// As a status shows it.
    pub fn micro_time(&self) -> MicroTime {
        MicroTime(self.wall)
    }
}

/// What was asked for; does not change during a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Name of the replication.
    pub name: String,
    /// Its namespace, which is that of every member.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// Whether replicas are made.
    pub mode: Mode,
    /// Of which kind they are; `None`: of none that this version knows.
    pub kind: Option<&'static dyn Kind>,
    /// What is asked for of every replica.
    pub wishes: Wishes,
    /// A member's time to become ready.
    pub prepare_timeout: Duration,
    /// The longest that an agent may hold.
    pub hold_timeout: Duration,
    /// What becomes of the replicas when the object goes.
    pub deletion_policy: DeletionPolicy,
    /// Whether an attempt that did not end well is followed by another one.
    pub retry: Option<Retry>,
    /// The replication as the owner of its replicas.
    pub owner: Option<OwnerReference>,
    /// Rises with every new leader among the controllers.
    pub epoch: u64,
}

impl Request {
    /// What the replicas of an attempt are named and marked by.
    pub fn run_id(&self, attempt: u32) -> RunId<'_> {
        RunId {
            replication: &self.name,
            uid: &self.uid,
            namespace: &self.namespace,
            attempt,
            owner: match self.deletion_policy {
                DeletionPolicy::Delete => self.owner.as_ref(),
                DeletionPolicy::Retain => None,
            },
            asked_at: None,
            wishes: Some(&self.wishes),
        }
    }

    /// How many attempts there may be.
    pub fn attempts(&self) -> u32 {
        self.retry.map_or(1, |retry| retry.attempts())
    }

    /// When the attempt after this one, which has ended now, begins; `None`: there is none.
    pub fn next_attempt(&self, attempt: u32, now: Moment) -> Option<Timestamp> {
        let retry = self.retry.filter(|retry| attempt < retry.attempts())?;
        now.wall.checked_add(retry.pause()).ok()
    }
}

/// A command to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Look and get ready; writes go on.
    Prepare,
    /// Suspend and hold.
    Suspend,
    /// Resume.
    Release,
}

/// How a release ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Released {
    /// When the controller learnt it.
    pub at: Moment,
    /// Held from ready to release.
    pub unbroken: bool,
    /// Why not.
    pub reason: String,
}

/// When a member became ready.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ready {
    /// When the controller learnt it.
    pub at: Moment,
    /// When, on the monotonic clock, its agent may give up the hold.
    pub lease_end: Duration,
}

/// One member and what has become of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The claim, pinned to its UID.
    pub claim: ClaimReference,
    /// The PersistentVolume.
    pub volume: String,
    /// Its CSI driver; empty when it has none.
    pub driver: String,
    /// How its replica will be made.
    pub recipe: Recipe,
    /// The pods that mount it: who writes.
    pub mounts: Vec<Mount>,
    /// The agents that are responsible for it: whom to ask, and how far each of them is.
    pub assignments: Vec<Assignment>,
    /// What is shown of a member that nobody is asked about, other than that nobody mounts it: why it was refused, or what an
    /// earlier controller knew of it.
    pub unassigned: Option<Standing>,
    /// Its replica, once it was asked for.
    pub replica: Option<ReplicaStatus>,
    /// When its replica was asked for.
    pub requested: Option<Moment>,
}

/// An agent's refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Asking again may help.
    ForNow,
    /// Asking again cannot help.
    ForGood,
}

impl Member {
    /// A member that nothing was asked of yet: what these pods mount and these agents are responsible for.
    pub fn new(claim: ClaimReference, mounts: Vec<Mount>, agents: Vec<AgentRef>) -> Self {
        Self {
            claim,
            volume: String::new(),
            driver: String::new(),
            recipe: Recipe::default(),
            mounts,
            assignments: agents.into_iter().map(Assignment::new).collect(),
            unassigned: None,
            replica: None,
            requested: None,
        }
    }

    /// A member that cannot be part of any attempt.
    pub fn refused(claim: ClaimReference, verdict: &Verdict) -> Self {
        let blocker = Blocker {
            reason: verdict.reason.clone(),
            message: printable(&verdict.message, MAX_MESSAGE_CHARS),
            ..Blocker::default()
        };
        let standing = Standing { blockers: vec![blocker], ..Standing::new(MemberState::NotReady) };
        Self { unassigned: Some(standing), ..Self::new(claim, Vec::new(), Vec::new()) }
    }
}

/// Why a run ended as it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// A CamelCase word for programs.
    pub reason: String,
    /// A sentence for people: what is wrong, where, and what to do.
    pub message: String,
}

impl Verdict {
    /// A verdict.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    /// A verdict for a reason that was given before, perhaps by an agent of another version.
    pub fn again(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// What the run is at. Finer than the phase that users see.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// The intent is being written to the status; no agent has heard of it.
    Declaring,
    /// Agents look; writes go on.
    Preparing,
    /// Agents suspend; those that are ready hold.
    Suspending,
    /// A member was not ready: everything was released, and after a pause it is tried again.
    Pausing {
        /// Since when.
        since: Moment,
        /// How long at least, however short the round was.
        pause: Duration,
    },
    /// All hold; replicas are being cut.
    Cutting,
    /// All were told to release; the proof is being collected.
    Releasing {
        /// Since when.
        since: Moment,
    },
    /// The cut is proven; replicas become usable outside the hold.
    AwaitingUsable {
        /// Since when.
        since: Moment,
    },
    /// Everything is given back and removed.
    Abandoning {
        /// Since when.
        since: Moment,
        /// Whether replicas are to be removed.
        clean_up: CleanUp,
    },
    /// The attempt has ended, and it is not known yet of every member that its writes go on.
    Listening,
    /// The attempt is over. The run is too, unless [`Run::next_attempt`] says when the next one begins.
    Ended,
}

impl Stage {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Declaring => "Declaring",
            Self::Preparing => "Preparing",
            Self::Suspending => "Suspending",
            Self::Pausing { .. } => "Pausing",
            Self::Cutting => "Cutting",
            Self::Releasing { .. } => "Releasing",
            Self::AwaitingUsable { .. } => "AwaitingUsable",
            Self::Abandoning { .. } => "Abandoning",
            Self::Listening => "Listening",
            Self::Ended => "Ended",
        }
    }

    /// Whether agents may hold, or still owe a proof.
    pub fn needs_agents(&self) -> bool {
        match self {
            Self::Declaring | Self::Preparing | Self::Suspending | Self::Pausing { .. } => true,
            Self::Cutting | Self::Releasing { .. } | Self::Abandoning { .. } => true,
            Self::AwaitingUsable { .. } | Self::Listening | Self::Ended => false,
        }
    }

    /// Whether what agents say is taken note of.
    pub fn hears_agents(&self) -> bool {
        self.needs_agents() || *self == Self::Listening
    }
}

/// Whether an end without a group has replicas to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanUp {
    /// None was asked for.
    NotNeeded,
    /// Some may exist; the deletion is not begun.
    Needed,
    /// They are being deleted.
    Begun,
}

/// The state of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// The round of Suspend, from 1.
    pub round: u32,
    /// The pauses between rounds.
    pub pauses: Pauses,
    /// When the time to become ready is over, on the monotonic clock. Set when the intent is recorded.
    pub prepare_deadline: Option<Duration>,
    /// What it is at.
    pub stage: Stage,
    /// The members.
    pub members: Vec<Member>,
    /// The phases so far.
    pub phases: Vec<PhaseEntry>,
    /// The first member was ready in this round.
    pub hold_began: Option<Moment>,
    /// The last member had resumed.
    pub hold_ended: Option<Moment>,
    /// The replicas were asked for. Once set, an end that is not `Done` is `Failed`.
    pub cut_requested: Option<Moment>,
    /// The last cut was confirmed.
    pub cut_confirmed: Option<Moment>,
    /// Every member has proven that it held.
    pub proven: bool,
    /// What was last said to be wrong with a replica, by the storage system or by the API server. It may mend itself.
    pub replica_trouble: Option<String>,
    /// When, on the monotonic clock, replicas that may not have been made are asked for again.
    pub ask_again_at: Option<Duration>,
    /// The pauses before they are.
    pub ask_pauses: Pauses,
    /// The proof is being written onto the replicas.
    pub marking: bool,
    /// Why it ends as it does, when it does not end well.
    pub verdict: Option<Verdict>,
    /// It has ended, and what was asked for or found of replicas was void and is removed.
    pub cut_void: bool,
    /// When another attempt begins after this one, which was aborted, or failed and left nothing.
    pub next_attempt: Option<Timestamp>,
    /// Why there is no other attempt although `spec.retry` allows one.
    pub not_retried: Option<String>,
    /// The longest suspension of all attempts.
    pub longest: Option<LongestSuspension>,
    /// The conditions as last rendered, for the times of their transitions.
    pub conditions: Vec<Condition>,
    /// Which blockers have been told of.
    pub told: Told,
}

impl Run {
    /// An attempt whose members are resolved and of whom nothing was asked. `before` is the status of the time when it
    /// waited: for its first turn, or after the attempt before this one.
    pub fn new(members: Vec<Member>, before: ReplicationStatus, now: Moment) -> Self {
        let told = Told::by(&before);
        let mut phases = before.phases;
        note_phase(&mut phases, Phase::Checking, now);
        Self {
            attempt: before.attempt.saturating_add(1),
            round: 1,
            pauses: Pauses::between(ROUND_PAUSE_MIN, ROUND_PAUSE_MAX),
            prepare_deadline: None,
            stage: Stage::Declaring,
            members,
            phases,
            hold_began: None,
            hold_ended: None,
            cut_requested: None,
            cut_confirmed: None,
            proven: false,
            replica_trouble: None,
            ask_again_at: None,
            ask_pauses: Pauses::default(),
            marking: false,
            verdict: None,
            cut_void: false,
            next_attempt: None,
            not_retried: None,
            longest: before.longest_suspension,
            conditions: before.conditions,
            told,
        }
    }

    /// An attempt that cannot begin. Nothing was asked of anybody.
    pub fn refused(
        request: &Request,
        members: Vec<Member>,
        verdict: Verdict,
        before: ReplicationStatus,
        now: Moment,
    ) -> Self {
        let phases = before.phases.clone();
        let mut run = Self { phases, stage: Stage::Ended, verdict: Some(verdict), ..Self::new(members, before, now) };
        run.next_attempt = request.next_attempt(run.attempt, now);
        let phase = if run.next_attempt.is_some() { Phase::Pending } else { Phase::Aborted };
        if run.phases.last().map(|entry| entry.phase) != Some(phase) {
            note_phase(&mut run.phases, phase, now);
        }
        run
    }

    /// What stands in the way and was not told of yet.
    pub fn news(&mut self) -> Vec<Happened> {
        let (attempt, phase) = (self.attempt, self.phase());
        let Self { members, told, .. } = self;
        let mut news = Vec::new();
        for member in members {
            let blockers: Vec<Blocker> = member.blockers().take(MAX_BLOCKERS).collect();
            for blocker in told.news(&member.claim, &blockers) {
                news.push(Happened::Blocked { attempt, phase, claim: member.claim.clone(), blocker: blocker.into() });
            }
        }
        news
    }

    /// The phase that users see.
    pub fn phase(&self) -> Phase {
        self.phases.last().map_or(Phase::Pending, |entry| entry.phase)
    }

    /// Takes note of the longest suspension that agents have told of, if it is longer than that of every round before.
    pub fn note_suspensions(&mut self) {
        let told = self.assignments().filter_map(|(member, one)| Some((one.suspended_for?, &member.claim.name)));
        // Of equal ones the first.
        let Some((lasted, claim)) = told.reduce(|longest, next| if next.0 > longest.0 { next } else { longest }) else {
            return;
        };
        let longest = self.longest.as_ref().and_then(|longest| longest.duration).map_or(Duration::ZERO, Into::into);
        if lasted > longest {
            self.longest = Some(LongestSuspension {
                persistent_volume_claim: claim.clone(),
                attempt: self.attempt,
                duration: Some(lasted.into()),
            });
        }
    }

    /// Whether replicas were asked for.
    pub fn replicas_requested(&self) -> bool {
        self.cut_requested.is_some()
    }
}

/// Puts a phase that begins now behind those before it. Of more than [`MAX_PHASES`] the oldest goes.
pub fn note_phase(phases: &mut Vec<PhaseEntry>, phase: Phase, now: Moment) {
    if phases.len() >= MAX_PHASES {
        phases.remove(0);
    }
    phases.push(PhaseEntry { phase, started_at: now.micro_time() });
}
