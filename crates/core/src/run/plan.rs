//! The planner: from what was asked for, what the run knows and what is observed, to the next steps and the status.
//!
//! Pure: no IO, no clock. It is run again after every observation and says what is to be done now; run twice with the same
//! observations it asks for nothing twice. Each stage has a function that reads top to bottom:
//!
//! ```text
//! Declaring → Preparing → Suspending → Cutting → Releasing → AwaitingUsable → Ended (Done)
//!                 ▲            │        (Check: Suspending → Releasing → Ended)
//!                 └─ Pausing ◀─┘
//! any of them → Abandoning → Ended (Aborted, or Failed once replicas were asked for; Pending, if it is aborted and another
//!                    │    ▲          attempt follows)
//!                    └─ Listening (the same ends; it is not known yet whether all writes go on)
//! ```

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::agents::AssignmentKey;
use super::answers;
use super::assignments::Assignment;
use super::facts::PodFacts;
use super::happened::Happened;
use super::observed::{AnswerContent, Observed};
use super::report;
use super::state::{Command, Member, Moment, Ready, Refused, Released, Request, Run, Stage, note_phase};
use crate::limits::{RELEASE_MARGIN, RELEASE_TIMEOUT};
use crate::replica::ask::{Ask, Mark, Remove};
use crate::wire::ControllerMessage;
use stillpoint_api::{MemberState, Method, Phase, Reason, ReplicationStatus};

/// Something to do.
#[derive(Clone, Debug)]
pub enum Step {
    /// Queue a command for an agent.
    Send {
        /// The agent, and the member that it is about.
        to: AssignmentKey,
        /// Which command it is.
        command: Command,
        /// The command.
        message: Box<ControllerMessage>,
    },
    /// Ask for these, all at once.
    Ask(Vec<Ask>),
    /// Remove every replica of this attempt and of those before it.
    Remove(Vec<Remove>),
    /// Write these onto replicas.
    Mark(Vec<Mark>),
    /// List the pods anew: nobody may have begun to mount a member meanwhile, and a watch may have missed it.
    RecheckPods,
}

/// What to do, and what to tell.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The run after this.
    pub run: Run,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The statuses to write, in order: one for every phase that began, and the newest.
    pub statuses: Vec<ReplicationStatus>,
    /// What happened, in order.
    pub happened: Vec<Happened>,
    /// When, on the monotonic clock, to plan again even if nothing is observed.
    pub wake_at: Option<Duration>,
}

/// Plans the next steps.
pub fn plan(request: &Request, run: &Run, observed: &Observed, now: Moment) -> Plan {
    let mut draft = Draft {
        request,
        observed,
        now,
        run: run.clone(),
        steps: Vec::new(),
        sent: BTreeSet::new(),
        statuses: Vec::new(),
        happened: Vec::new(),
        mounting: OnceCell::new(),
    };
    draft.absorb_answers();
    // One observation may complete several stages. Every stage leads to a later one, except that a round may begin again,
    // which needs a later moment; so this ends.
    while draft.advance() {}
    draft.show();
    draft.tell_shown();
    let wake_at = draft.wake_at();
    let Draft { run, steps, statuses, happened, .. } = draft;
    Plan { run, steps, statuses, happened, wake_at }
}

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub request: &'a Request,
    pub observed: &'a Observed,
    pub now: Moment,
    pub run: Run,
    pub steps: Vec<Step>,
    /// To whom a step of this plan sends.
    sent: BTreeSet<AssignmentKey>,
    statuses: Vec<ReplicationStatus>,
    happened: Vec<Happened>,
    /// The pods that mount a member, by the name of its claim. Made when it is first asked for, so that a plan takes time in
    /// proportion to members and pods, not to one times the other.
    mounting: OnceCell<HashMap<&'a str, Vec<&'a PodFacts>>>,
}

impl<'a> Draft<'a> {
    /// Moves on if it can; says whether it did.
    fn advance(&mut self) -> bool {
        let before = self.run.stage.name();
        let advanced = self.interrupted() || self.step();
        let stage = self.run.stage.name();
        if stage != before {
            self.happened.push(Happened::Stage { attempt: self.run.attempt, round: self.run.round, stage });
        }
        advanced
    }

    fn step(&mut self) -> bool {
        match self.run.stage.clone() {
            Stage::Declaring => self.declaring(),
            Stage::Preparing => self.preparing(),
            Stage::Suspending => self.suspending(),
            Stage::Pausing { since, pause } => self.pausing(since, pause),
            Stage::Cutting => self.cutting(),
            Stage::Releasing { since } => self.releasing(since),
            Stage::AwaitingUsable { since } => self.awaiting_usable(since),
            Stage::Abandoning { since, clean_up } => self.abandoning(since, clean_up),
            Stage::Listening => self.listening(),
            Stage::Ended => false,
        }
    }

    /// Takes the newest answers into the assignments' records. Taking the same answer again changes nothing. Once the cut is proven,
    /// nothing that an agent says changes it: the first answer to Release is the proof, and a later one is about nothing.
    fn absorb_answers(&mut self) {
        if !self.run.stage.hears_agents() {
            return;
        }
        for member in &mut self.run.members {
            for one in &mut member.assignments {
                let key = AssignmentKey::new(&member.claim.uid, one.agent.key());
                if let Some(answer) = self.observed.answers.get(&key) {
                    absorb(one, &answer.content, answer.at, self.run.round, self.request.hold_timeout);
                }
            }
        }
        self.run.note_suspensions();
    }

    /// Begins a phase, and shows it: a status of its own, however short the phase is.
    pub fn enter(&mut self, phase: Phase) {
        let phases = &mut self.run.phases;
        if phases.last().map(|entry| entry.phase) == Some(phase) {
            return;
        }
        note_phase(phases, phase, self.now);
        self.show();
        self.tell_shown();
    }

    /// Says what the newest status shows for the first time.
    fn tell_shown(&mut self) {
        self.happened.extend(self.run.news());
        if self.run.told.begins(self.run.phase(), self.run.attempt) {
            self.happened.extend(self.statuses.last().and_then(Happened::began));
            self.happened.extend(self.statuses.last().and_then(|status| Happened::left(&status.conditions)));
        }
    }

    /// Ends the attempt.
    pub fn finish(&mut self, phase: Phase) -> bool {
        self.run.stage = Stage::Ended;
        self.enter(phase);
        true
    }

    /// Renders the status and puts it last, unless it says what the last one says.
    fn show(&mut self) {
        let status = report::render(self.request, &self.run, self.observed, self.now);
        self.run.conditions.clone_from(&status.conditions);
        if self.statuses.last() != Some(&status) {
            self.statuses.push(status);
        }
    }

    /// Sends a command to every agent of whom this holds.
    pub fn send(&mut self, command: Command, to: impl Fn(&Self, &Member, &Assignment) -> bool) {
        for member in 0..self.run.members.len() {
            for one in 0..self.run.members[member].assignments.len() {
                let own = &self.run.members[member];
                if to(self, own, &own.assignments[one]) {
                    self.send_to(member, one, command);
                }
            }
        }
    }

    fn send_to(&mut self, member: usize, one: usize, command: Command) {
        let own = &self.run.members[member];
        let agent = &own.assignments[one].agent;
        let containers = agent.watched_containers(&self.observed.pods);
        let pods = &self.observed.pods;
        let message = answers::command(self.request, &self.run, own, agent, pods, command, self.now);
        let to = own.key_of(agent);
        self.sent.insert(to.clone());
        self.steps.push(Step::Send { to, command, message: message.into() });
        let one = &mut self.run.members[member].assignments[one];
        one.asked = Some(command);
        one.state = match command {
            Command::Prepare => MemberState::Preparing,
            Command::Suspend => MemberState::Suspending,
            // What stood in its way, and what it has said of its hold, stays in view.
            Command::Release => match one.state {
                state @ (MemberState::NotReady | MemberState::Broken | MemberState::Released | MemberState::Silent) => {
                    state
                }
                _ => MemberState::Releasing,
            },
        };
        match command {
            Command::Prepare => {
                one.asked_containers = containers;
                one.refused = None;
            }
            Command::Suspend => {
                one.told_to_suspend = Some(self.now);
                one.suspended_for = None;
            }
            Command::Release => {}
        }
    }

    /// Tells everybody to release who was asked for something and was not told yet, also those who say that they let go by
    /// themselves: a release does no harm, and a missing one may.
    pub fn release_all(&mut self) {
        self.send(Command::Release, |_, _, one| one.asked.is_some_and(|asked| asked != Command::Release));
    }

    /// Sends Release again to those who came back: whatever they still hold, they must hear it.
    pub fn release_returned(&mut self) {
        self.send(Command::Release, |draft, member, one| {
            one.owes_release() && draft.was_lost(member, one) && draft.is_connected(one)
        });
    }

    /// Whether the session of the agent was lost since the last command about this member. A command of this very plan is not
    /// on its way yet.
    pub fn was_lost(&self, member: &Member, one: &Assignment) -> bool {
        if self.observed.lost.is_empty() {
            return false;
        }
        let key = member.key_of(&one.agent);
        self.observed.lost.contains(&key) && !self.sent.contains(&key)
    }

    /// Whether the agent can be commanded.
    pub fn is_connected(&self, one: &Assignment) -> bool {
        self.observed.connected.contains(&one.agent.key())
    }

    /// The pods that mount a member, by the name of its claim.
    pub fn mounting(&self, claim: &str) -> impl Iterator<Item = &'a PodFacts> {
        let mounting = self.mounting.get_or_init(|| {
            let members: HashSet<&str> = self.run.members.iter().map(|member| member.claim.name.as_str()).collect();
            let mut mounting: HashMap<&str, Vec<&PodFacts>> = HashMap::new();
            for pod in self.observed.pods.values() {
                for claim in pod.claims.iter().filter(|claim| members.contains(claim.as_str())) {
                    mounting.entry(claim).or_default().push(pod);
                }
            }
            mounting
        });
        mounting.get(claim).into_iter().flatten().copied()
    }

    /// When cuts must be given up so that the release comes before the first agent's own limit.
    pub fn cut_deadline(&self) -> Option<Duration> {
        let began = self.run.hold_began?.monotonic;
        let hold = self.request.hold_timeout;
        let limits = self.run.assignments().filter_map(|(_, one)| Some(one.ready?.lease_end));
        let limit = limits.min().unwrap_or(began + hold);
        // Of a very short hold the margin takes a quarter, not all.
        Some(limit.saturating_sub(RELEASE_MARGIN.min(hold / 4)))
    }

    fn wake_at(&self) -> Option<Duration> {
        match &self.run.stage {
            Stage::Declaring | Stage::Ended => None,
            Stage::Listening => self.listens_until(),
            Stage::Preparing => self.run.prepare_deadline,
            Stage::Suspending => [self.run.prepare_deadline, self.cut_deadline()].into_iter().flatten().min(),
            Stage::Pausing { since, pause } => {
                // When the pause is over, only answers can be missing.
                let next = Some(self.next_round_at(*since, *pause)).filter(|at| self.now.monotonic < *at);
                [next, self.run.prepare_deadline].into_iter().flatten().min()
            }
            Stage::Cutting => [self.run.ask_again_at, self.cut_deadline()].into_iter().flatten().min(),
            // Then only the API server can be missing, and it is heard of by itself.
            Stage::AwaitingUsable { since } => {
                let limit = since.monotonic + self.request.wishes.ready_timeout?;
                (self.now.monotonic < limit).then_some(limit)
            }
            Stage::Releasing { since } => Some(since.monotonic + RELEASE_TIMEOUT).filter(|at| self.now.monotonic < *at),
            Stage::Abandoning { since, .. } => Some(self.released_by(*since)).filter(|at| self.now.monotonic < *at),
        }
    }
}

/// One answer into the record of one assignment. An answer that does not fit the last command says nothing.
fn absorb(one: &mut Assignment, content: &AnswerContent, at: Moment, round: u32, hold_timeout: Duration) {
    let Some(asked) = one.asked else { return };
    match (asked, content) {
        (Command::Prepare, AnswerContent::Waiting { blockers, more }) => {
            one.state = MemberState::NotReady;
            one.blockers.clone_from(blockers);
            one.more_blockers = *more;
        }
        (Command::Prepare, AnswerContent::Prepared { protection }) => {
            one.state = MemberState::Prepared;
            one.method = Some(Method::FilesystemFreeze);
            one.protection = *protection;
            one.blockers.clear();
            one.more_blockers = 0;
        }
        (Command::Suspend, AnswerContent::Ready { round: answered, suspended }) if *answered == round => {
            one.state = MemberState::Ready;
            let lease_end = (at.monotonic + hold_timeout).saturating_sub(*suspended);
            one.ready = Some(Ready { at, lease_end });
            one.flapping.clear();
        }
        // The state stays what it is: nobody knows yet whether writes are suspended.
        (Command::Suspend | Command::Release, AnswerContent::Pending { round: answered, blockers })
            if *answered == round =>
        {
            one.was_slow = true;
            one.blockers.clone_from(blockers);
            one.more_blockers = 0;
        }
        (_, AnswerContent::NotReady { round: answered, retryable, blockers, more, suspended }) => {
            let expected = match asked {
                Command::Prepare => *answered == 0,
                // Sent before the agent heard of the release: still worth showing.
                Command::Suspend | Command::Release => *answered == round,
            };
            if !expected {
                return;
            }
            one.state = MemberState::NotReady;
            one.refused = Some(if *retryable { Refused::ForNow } else { Refused::ForGood });
            one.blockers.clone_from(blockers);
            one.more_blockers = *more;
            one.suspended_for = Some(*suspended).filter(|time| !time.is_zero()).or(one.suspended_for);
            one.was_slow |= blockers.iter().any(|blocker| blocker.reason == Reason::SuspensionPending.as_str());
        }
        (Command::Suspend | Command::Release, AnswerContent::Released { unbroken, reason, suspended }) => {
            one.released = Some(Released { at, unbroken: *unbroken, reason: reason.clone() });
            // Of what was never suspended there is no time to tell.
            one.suspended_for = one.suspended_for.max(Some(*suspended).filter(|time| !time.is_zero()));
            let held = one.ready.is_none() || *unbroken;
            one.state = match one.state {
                MemberState::NotReady => MemberState::NotReady,
                // It was told of as silent.
                MemberState::Silent if !one.blockers.is_empty() => MemberState::NotReady,
                _ if held => MemberState::Released,
                _ => MemberState::Broken,
            };
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "plan_tests/mod.rs"]
mod tests;
