//! The judge: it sees everything, decides nothing, and says which promise was broken.
//!
//! | | what is judged |
//! |---|---|
//! | P1 | when snapshots are asked for, the last thing that every mounted member said to this leader in this round is Ready |
//! | P2 | when a run has ended, every agent that it asked and that is connected was told to release; at the end nothing is held |
//! | P3 | a freeze of ours lasts from its completion in the kernel at most the hold limit, [`GUARDIAN_GRACE`] and one [`THAW_RETRY`] while the guardian guards it all along, else the hold limit, [`THAW_TIMEOUT`] and one [`THAW_RETRY`]; and at every moment somebody will thaw it by himself |
//! | P4 | where a status says that a cut is proven, all cuts lie in one moment in which every mounted member was frozen by us, and no cut holds a write without an earlier one of the application |
//! | P8 | at the end there are no replicas but those of a run that is done, and the finalizer is gone with its object, or when nothing is to be cleaned up |
//! | truth | where a status that ends a run says that writes go on, nothing is frozen by us |
//! | | an older leader moves no agent; it asks for nothing that suspends or cuts once another one leads; and it writes no status over that of a newer one |
//! | | a final phase is never left; an attempt begins when the one before it has ended and its cool-down is over, and there are no more of them than asked for; the replicas of a run that is done are not deleted |
//! | | every run ends, and where nothing goes wrong it is done |

use std::collections::BTreeMap;
use std::time::Duration;

use stillpoint_api::{DeletionPolicy, MemberState, Mode, Phase, ReplicationStatus};
use stillpoint_core::hold::Command;
use stillpoint_core::limits::{GUARDIAN_GRACE, THAW_RETRY, THAW_TIMEOUT};
use stillpoint_core::run::stub::Stub;
use stillpoint_core::wire::agent_message::Report;

use super::Ending;
use super::application::{Content, is_torn};
use super::world::{Process, World};
use crate::cluster::{is_deleting, member_of};
use crate::node::Owner;

/// What timers and threads may be late, beside what the limits say.
const SLACK: Duration = Duration::from_millis(25);

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub promise: &'static str,
    /// How.
    pub what: String,
    /// When, in virtual time.
    pub at: Duration,
}

/// A cut as the storage system took it.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// Of which member.
    pub member: usize,
    /// What it holds.
    pub content: Content,
    /// When it was taken.
    at: Duration,
    /// Since when, and in which freeze of ours, the member was frozen.
    freeze: Option<usize>,
}

/// One freeze of ours.
#[derive(Clone, Copy, Debug)]
struct Freeze {
    since: Duration,
    until: Option<Duration>,
    /// A working guardian had a deadline all along.
    guarded: bool,
}

/// What one controller process asked and heard in its run.
#[derive(Clone, Debug, Default)]
struct Ledger {
    /// The last command to each member, and through which session.
    asked: BTreeMap<usize, (Asked, u64)>,
    /// The last report of each member since then.
    heard: BTreeMap<usize, Said>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Prepare,
    Suspend,
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Ready { round: u32 },
    Else,
}

/// The judge.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    pub violation: Option<Violation>,
    /// By the name of the snapshot.
    pub cuts: BTreeMap<String, Cut>,
    /// How the run ended.
    pub ending: Option<Ending>,
    /// The longest freeze of ours.
    pub longest: Duration,
    /// Somebody deleted a replica.
    pub meddled: bool,
    /// Since when a pod that is none of the group's writes to a member.
    pub strangers: Vec<Option<Duration>>,
    freezes: Vec<Vec<Freeze>>,
    ledgers: BTreeMap<usize, Ledger>,
    /// The highest epoch that each agent has heard.
    highest: Vec<u64>,
    limit: Duration,
    /// When the end of a cool-down was stored first, and how far the wall clock was off then.
    cooling: Option<(Duration, i64)>,
}

impl Judge {
    /// A judge of so many members, whose hold limit is `limit`.
    pub fn new(members: usize, limit: Duration) -> Self {
        Self {
            violation: None,
            cuts: BTreeMap::new(),
            ending: None,
            longest: Duration::ZERO,
            meddled: false,
            strangers: vec![None; members],
            freezes: vec![Vec::new(); members],
            ledgers: BTreeMap::new(),
            highest: vec![0; members],
            limit,
            cooling: None,
        }
    }

    /// A process begins a run.
    pub fn begin_run(&mut self, process: usize) {
        self.ledgers.insert(process, Ledger::default());
    }

    /// A process has ended.
    pub fn forget_run(&mut self, process: usize) {
        self.ledgers.remove(&process);
    }

    /// An agent has ended, and with it what it had heard.
    pub fn forget_agent(&mut self, member: usize) {
        self.highest[member] = 0;
    }

    /// A process sends a command through a session.
    pub fn sent(&mut self, process: usize, link: u64, command: &Command) {
        let Some(member) = member_of(&command.attempt().member) else { return };
        let asked = match command {
            Command::Prepare(..) => Asked::Prepare,
            Command::Suspend(..) => Asked::Suspend,
            Command::Release(_) => Asked::Release,
        };
        let ledger = self.ledgers.entry(process).or_default();
        ledger.asked.insert(member, (asked, link));
        ledger.heard.remove(&member);
    }

    /// Whether this is a release for a member that has said nothing since it was asked.
    pub fn is_unanswered_release(&self, process: usize, command: &Command) -> bool {
        let Command::Release(attempt) = command else { return false };
        let member = member_of(&attempt.member);
        let heard = |ledger: &Ledger| member.is_some_and(|member| ledger.heard.contains_key(&member));
        !self.ledgers.get(&process).is_some_and(heard)
    }

    /// A report of an agent reaches a process that leads in this epoch.
    pub fn heard(&mut self, process: usize, epoch: u64, report: &Report) {
        let (attempt, said) = match report {
            Report::Ready(ready) => (&ready.attempt, Said::Ready { round: ready.round }),
            Report::Pending(pending) => (&pending.attempt, Said::Else),
            Report::NotReady(refused) => (&refused.attempt, Said::Else),
            Report::Released(released) => (&released.attempt, Said::Else),
            Report::Prepared(prepared) => (&prepared.attempt, Said::Else),
            Report::Waiting(waiting) => (&waiting.attempt, Said::Else),
            Report::Hello(_) => return,
        };
        let Some(attempt) = attempt.as_ref().filter(|attempt| attempt.epoch == epoch) else { return };
        if let Some(member) = member_of(&attempt.member) {
            self.ledgers.entry(process).or_default().heard.insert(member, said);
        }
    }

    /// A command arrives at an agent: whether it is of an older leader than one that this agent has heard.
    pub fn arrives(&mut self, member: usize, command: &Command) -> bool {
        let epoch = command.attempt().epoch;
        let stale = epoch < self.highest[member];
        self.highest[member] = self.highest[member].max(epoch);
        stale
    }

    /// The highest epoch that an agent has heard.
    pub fn highest(&self, member: usize) -> u64 {
        self.highest[member]
    }
}

impl World {
    /// After every step.
    pub(super) fn judge_step(&mut self) {
        for member in 0..self.members.len() {
            let ours = self.members[member].node.frozen() == Some(Owner::Us);
            let guarded = self.members[member].node.is_guarded() && !self.is_guardian_stopped(member);
            let now = self.now;
            let open = self.judge.freezes[member].last_mut().filter(|freeze| freeze.until.is_none());
            let freeze = match (ours, open) {
                (false, None) => continue,
                (true, None) => {
                    self.judge.freezes[member].push(Freeze { since: now, until: None, guarded });
                    continue;
                }
                (true, Some(freeze)) => {
                    freeze.guarded &= guarded;
                    *freeze
                }
                (false, Some(freeze)) => {
                    freeze.until = Some(now);
                    *freeze
                }
            };
            self.judge_freeze(member, freeze, ours);
        }
    }

    fn judge_freeze(&mut self, member: usize, freeze: Freeze, stands: bool) {
        let lasted = self.now - freeze.since;
        self.judge.longest = self.judge.longest.max(lasted);
        let beyond = if freeze.guarded { GUARDIAN_GRACE } else { THAW_TIMEOUT };
        let bound = self.judge.limit + beyond + THAW_RETRY + SLACK;
        if lasted > bound {
            self.violate("P3", format!("member {member} is frozen for {lasted:?}, and {bound:?} is the bound"));
        } else if stands && !self.members[member].node.thaw_is_certain() {
            self.violate("P3", format!("member {member} is frozen, and nobody is left who would thaw it"));
        }
    }

    /// The storage system takes a cut.
    pub(super) fn judge_cut(&mut self, name: &str, member: usize) {
        let freezes = &self.judge.freezes[member];
        let freeze = freezes.last().filter(|freeze| freeze.until.is_none()).map(|_| freezes.len() - 1);
        let content = self.application.content(member);
        let taken = Cut { member, content, at: self.now, freeze };
        self.note(|| format!("   {name} is cut: {content:?}"));
        self.judge.cuts.insert(name.to_owned(), taken);
    }

    /// A controller asks for the snapshots.
    pub(super) fn judge_request_to_cut(&mut self, process: usize) {
        let driven = self.processes[process].driven.as_ref();
        let Some(run) = driven.and_then(|driven| driven.driver.attempt()) else { return };
        let round = run.run.round;
        let ledger = self.judge.ledgers.get(&process);
        let is_ready = |member: usize| {
            let heard = ledger.and_then(|ledger| ledger.heard.get(&member));
            heard == Some(&Said::Ready { round })
        };
        let mounted = run.run.members.iter().filter(|member| !member.mounts.is_empty());
        let early = mounted.filter_map(|member| member_of(&member.claim.uid)).find(|member| !is_ready(*member));
        if let Some(member) = early {
            self.violate(
                "P1",
                format!("snapshots are asked for, and member {member} has not said Ready in round {round}"),
            );
        }
    }

    /// A controller's run has come to its end.
    pub(super) fn judge_end_of_run(&mut self, process: usize) {
        let Some(ledger) = self.judge.ledgers.get(&process) else { return };
        let registry = &self.processes[process].registry;
        let is_open = |link: u64| registry.values().any(|open| *open == link);
        let kept = ledger.asked.iter().find(|(_, (asked, link))| *asked != Asked::Release && is_open(*link));
        if let Some((member, (asked, _))) = kept {
            let what = format!("the run has ended, and the last that member {member} was told is {asked:?}");
            self.violate("P2", what);
        }
    }

    /// A status is stored.
    pub(super) fn judge_status(
        &mut self,
        process: usize,
        before: Option<&ReplicationStatus>,
        status: &ReplicationStatus,
    ) {
        let was = before.and_then(|before| before.phase);
        self.note(|| format!("   controller {process} stores {:?} {}", status.phase, reason(status)));
        if let Some(before) = before {
            self.judge_order(before, status);
        }
        if status.attempt > self.setting.spec.retry.map_or(1, |retry| retry.attempts()) {
            self.violate("attempts", format!("attempt {} is one too many", status.attempt));
        }
        if before.is_none_or(|before| before.next_attempt_at != status.next_attempt_at) {
            self.judge.cooling = Some((self.now, self.wall_offset));
        }
        if status.consistency.is_some() && before.is_none_or(|before| before.consistency.is_none()) {
            self.judge_proof(status);
        }
        if status.phase == Some(Phase::Done) && was != Some(Phase::Done) {
            if self.setting.spec.mode == Mode::Check {
                self.judge_check(status);
            } else {
                self.judge_proof(status);
            }
        }
        if status.phase.is_some_and(Phase::is_final) {
            self.judge_truth(status);
            let mode = self.setting.spec.mode;
            self.judge.ending = Some(Ending { mode, phase: status.phase, reason: reason(status) });
        }
    }

    /// A status that ends a run says that writes go on: nobody will suspend them any more.
    fn judge_truth(&mut self, status: &ReplicationStatus) {
        let condition = status.conditions.iter().find(|condition| condition.type_ == "WritesSuspended");
        if condition.is_none_or(|condition| condition.status != "False") {
            return;
        }
        let frozen = |member: &usize| self.members[*member].node.frozen() == Some(Owner::Us);
        if let Some(member) = (0..self.members.len()).find(frozen) {
            self.violate("truth", format!("the status says that writes go on, and member {member} is frozen"));
        }
    }

    /// One status after another.
    fn judge_order(&mut self, before: &ReplicationStatus, status: &ReplicationStatus) {
        let (was, is) = (before.phase, status.phase);
        if before.leader_epoch > status.leader_epoch {
            let what = format!("epoch {} writes over epoch {}", status.leader_epoch, before.leader_epoch);
            self.violate("an older leader stores nothing", what);
        }
        let works = |process: &Process| {
            let attempt = process.driven.as_ref().and_then(|driven| driven.driver.attempt());
            let attempt = attempt.filter(|attempt| attempt.writer.object().status.is_some());
            attempt.map_or(0, |attempt| attempt.request.epoch)
        };
        let newest = self.processes.iter().map(works).max().unwrap_or_default();
        if newest > status.leader_epoch {
            let what = format!("epoch {} writes, and epoch {newest} works on what was there", status.leader_epoch);
            self.violate("an older leader stores nothing", what);
        }
        if was.is_some_and(Phase::is_final) && (was != is || before.attempt != status.attempt) {
            self.violate("final phase", format!("{was:?} is left for {is:?}"));
        }
        let waited = was == Some(Phase::Pending) && before.attempt > 0;
        // Of one that is deleted meanwhile the conditions say what is left.
        let (leader_epoch, conditions) = (status.leader_epoch, status.conditions.clone());
        let claimed = ReplicationStatus { leader_epoch, conditions, ..before.clone() };
        if waited && before.attempt == status.attempt && claimed != *status {
            self.violate("attempts", format!("attempt {} has ended, and is taken up again", before.attempt));
        }
        if status.attempt > before.attempt && matches!(was, Some(Phase::Checking | Phase::Ready | Phase::Replicating)) {
            let what = format!("attempt {} begins, and attempt {} is {was:?}", status.attempt, before.attempt);
            self.violate("one attempt after the other", what);
        }
        let begins = waited && status.attempt > before.attempt && is.is_some_and(|phase| !phase.is_final());
        let (Some((since, offset)), true) = (self.judge.cooling, begins) else { return };
        let early = before.next_attempt_at.as_ref().is_some_and(|at| self.moment(0).wall < at.0);
        let pause = self.setting.spec.retry.unwrap_or_default().pause();
        if early && offset == self.wall_offset && self.now - since < pause {
            self.violate(
                "cool-down",
                format!("attempt {} begins {:?} after the last", status.attempt, self.now - since),
            );
        }
    }

    /// A controller does something that only a leader may.
    pub(super) fn judge_action(&mut self, process: usize, what: &str) {
        let epoch = self.processes[process].leading.as_ref().map_or(0, |lead| lead.epoch);
        if epoch < self.epoch {
            let what = format!("{what} in epoch {epoch}, and in epoch {} another one leads", self.epoch);
            self.violate("an older leader asks for nothing", what);
        }
    }

    /// A controller waits for a time.
    pub(super) fn judge_wake(&mut self, process: usize, wake: Option<Duration>, now: Duration) {
        if let Some(wake) = wake.filter(|wake| *wake <= now) {
            self.violate("no busy loop", format!("controller {process} waits for {wake:?}, and it is {now:?}"));
        }
    }

    /// A controller deletes a replica.
    pub(super) fn judge_deletion(&mut self, name: &str) {
        let Some(object) = &self.store.object else { return };
        let Some(status) = object.status.as_ref().filter(|status| status.phase == Some(Phase::Done)) else { return };
        let goes = is_deleting(object) && object.spec.deletion_policy == DeletionPolicy::Delete;
        if !goes && self.store.snapshots.contains_key(name) && is_replica_of(status, name) {
            self.violate("what is done stays", format!("the run is done, and {name} is deleted"));
        }
    }

    /// A status says that the cut is proven.
    fn judge_proof(&mut self, status: &ReplicationStatus) {
        let mut cuts = Vec::new();
        for member in &status.members {
            let name = member.replica.as_ref().map_or("", |replica| &replica.name);
            match self.judge.cuts.get(name) {
                Some(cut) => cuts.push((cut.clone(), member.state != MemberState::Unmounted)),
                None => {
                    let claim = &member.persistent_volume_claim.name;
                    return self.violate("P4", format!("the cut is said to be proven, and {claim} was never cut"));
                }
            }
        }
        let contents: Vec<Content> = cuts.iter().map(|(cut, _)| cut.content).collect();
        if is_torn(&contents) {
            return self.violate("P4", format!("the cut is said to be proven, and it is torn: {contents:?}"));
        }
        let Some(first) = cuts.iter().map(|(cut, _)| cut.at).min() else { return };
        let last = cuts.iter().map(|(cut, _)| cut.at).max().unwrap_or(first);
        for (cut, mounted) in cuts {
            let freeze = cut.freeze.and_then(|freeze| self.judge.freezes[cut.member].get(freeze).copied());
            let around = |freeze: Freeze| freeze.since <= first && freeze.until.is_none_or(|until| last <= until);
            let stranger = self.judge.strangers[cut.member].filter(|since| !mounted && *since <= last);
            if let Some(since) = stranger {
                let member = cut.member;
                let what = format!("the cut is said to be proven, and member {member} is written to since {since:?}");
                return self.violate("P4", what);
            }
            if mounted && !freeze.is_some_and(around) {
                let what = format!(
                    "the cut is said to be proven, and member {} was not frozen from the first cut to the last: {freeze:?}",
                    cut.member
                );
                return self.violate("P4", what);
            }
        }
    }

    /// A check is done: all members were suspended at one moment.
    fn judge_check(&mut self, status: &ReplicationStatus) {
        let mounted = status.members.iter().filter(|member| member.state != MemberState::Unmounted);
        let mounted: Vec<usize> = mounted.filter_map(|member| member_of(&member.persistent_volume_claim.uid)).collect();
        let freezes = &self.judge.freezes;
        let frozen_at = |member: usize, at: Duration| {
            freezes[member].iter().any(|freeze| freeze.since <= at && freeze.until.is_none_or(|until| at < until))
        };
        let mut moments = mounted.iter().flat_map(|member| freezes[*member].iter().map(|freeze| freeze.since));
        let together = moments.any(|at| mounted.iter().all(|member| frozen_at(*member, at)));
        if !together && !mounted.is_empty() {
            self.violate("P4", "the check is done, and at no moment all members were suspended".to_owned());
        }
    }

    /// Nothing more will happen by itself, and nobody has deleted the object at the end yet.
    pub(super) fn judge_rest(&mut self) {
        let Some(object) = self.store.object.clone() else { return };
        let status = object.status.clone().unwrap_or_default();
        if is_deleting(&object) {
            return self.violate("P8", "the object is being deleted, and nobody takes the finalizer off".to_owned());
        }
        if status.phase.is_some_and(Phase::is_final) && Stub::of(&object).needs_work() {
            return self.violate("P8", "the run has ended, and nobody takes the finalizer off".to_owned());
        }
        let Some(phase) = status.phase.filter(|phase| phase.is_final()) else {
            return self
                .violate("every run ends", format!("nothing happens any more, and the phase is {:?}", status.phase));
        };
        if phase != Phase::Done && self.setting.is_calm() {
            return self.violate("calm", format!("nothing went wrong, and the run is {phase:?}: {}", reason(&status)));
        }
        let replicas = self.store.replicas();
        if phase == Phase::Done && object.spec.mode == Mode::Replicate && !self.judge.meddled {
            let usable = |name: &str| {
                let status = replicas.get(name).and_then(|snapshot| snapshot.status.as_ref());
                status.is_some_and(|status| status.ready_to_use == Some(true))
            };
            let names = status.members.iter().filter_map(|member| member.replica.as_ref());
            let missing = names.map(|replica| &replica.name).find(|name| !usable(name));
            if let Some(name) = missing.cloned() {
                self.violate("P4", format!("the run is done, and {name} cannot be used"));
            }
        }
        let kept = |name: &str| phase == Phase::Done && is_replica_of(&status, name);
        let names: Vec<&String> = replicas.keys().filter(|name| !kept(name)).collect();
        if !names.is_empty() {
            self.violate("P8", format!("the run is {phase:?}, and there are replicas: {names:?}"));
        }
        self.judge_nodes();
    }

    /// The very end.
    pub(super) fn judge_end(&mut self) {
        if let Some(object) = &self.store.object {
            let what = format!("the object was deleted, and it is there: {:?}", object.metadata.finalizers);
            return self.violate("P8", what);
        }
        let done = self.judge.ending.as_ref().is_some_and(|ending| ending.phase == Some(Phase::Done));
        let kept = done && self.setting.spec.deletion_policy == DeletionPolicy::Retain;
        let replicas = self.store.replicas();
        if !kept && !replicas.is_empty() {
            let names: Vec<&String> = replicas.keys().collect();
            self.violate("P8", format!("the object is gone, and its replicas are there: {names:?}"));
        }
        self.judge_nodes();
    }

    fn judge_nodes(&mut self) {
        for member in 0..self.members.len() {
            let node = &self.members[member].node;
            let frozen = node.frozen() == Some(Owner::Us);
            let held = node.agent_alive() && !node.is_idle();
            if frozen || held {
                let what = format!(
                    "nothing happens any more, and member {member} is {}",
                    if frozen { "frozen" } else { "held" }
                );
                return self.violate("P2", what);
            }
        }
    }
}

fn is_replica_of(status: &ReplicationStatus, name: &str) -> bool {
    let replicas = status.members.iter().filter_map(|member| member.replica.as_ref());
    replicas.into_iter().any(|replica| replica.name == name)
}

fn reason(status: &ReplicationStatus) -> String {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    ready.map_or_else(|| "Refused".to_owned(), |ready| ready.reason.clone())
}
