//! The node side of one member as plain data: the production [`Hold`], and around it what it acts on: a freezer process, the
//! production [`Watch`] of the guardian, a filesystem.
//!
//! This is what `agent/member.rs`, `agent/freezer.rs`, `guardian/guard.rs` and `undo.rs` do, without threads, sockets and
//! ioctls: whatever takes time there is a piece of outstanding [`Work`] here, and the caller says which one completes next. The
//! clock is passed in.
//!
//! Three things are one step here that are two in production, because nothing can come between them that would not have the
//! same effect before or after: a freezer carries out an order and the agent reads the answer; the guardian hears `Arm` and
//! the agent reads `Armed`; a thaw from outside tries, and sees whether the freezer is gone.

mod faults;
mod telling;
mod work;

use std::time::{Duration, Instant};

use stillpoint_core::hold::guard::{self, Watch};
use stillpoint_core::hold::{Act, Action, Command, Event, Hold, Plan, Refused, Session, Ticket, WasSuspended};
use stillpoint_core::wire;
use stillpoint_core::wire::agent_message::Report;

/// What `agent/method/filesystem_freeze.rs` does.
const PLAN: Plan = Plan::of(&[Act::Flush, Act::Look, Act::Record, Act::Flush, Act::Arm, Act::Suspend, Act::Look]);

/// One member's node side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// The production state machine; `None` while the agent is dead.
    hold: Option<Hold>,
    ceiling: Duration,
    /// The preflight whose equipment is wanted.
    preflight: Ticket,
    /// Threads of the agent that have not come back.
    threads: Vec<Thread>,
    /// What the agent holds.
    equipment: Option<Equipment>,
    /// What earlier agents and attempts let go of and what has not ended yet, oldest first.
    old: Vec<Equipment>,
    guardian_alive: bool,
    /// A guardian lives and refuses whoever comes anew.
    guardian_full: bool,
    /// Releases that wait until a restarted agent has given back what the record named; the last one of each session.
    put_off: Vec<(Session, Command)>,
    /// The agent is stopped (SIGSTOP); this is what it will hear when it goes on.
    stopped: Option<Vec<Event>>,
    /// What is about to be frozen is written down, where the next agent finds it.
    recorded: bool,
    /// Its members' applications are quiesced before writes are suspended.
    quiesces: bool,
    /// The application was asked to quiesce, and has not gone on since.
    quiesced: bool,
    locked: bool,
    /// Whose freeze stands.
    frozen: Option<Owner>,
    witness: Witness,
}

/// Who froze.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A freezer of this member, dead or alive.
    Us,
    /// Somebody who is no part of this.
    Other,
}

/// What really happened, told by the kernel's side and not by the agent. Nothing that is checked reads it to decide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Witness {
    /// The last round that Ready was said for.
    pub ready: Option<Held>,
    /// Ready was said for this round, and the freeze that it was said for still stands.
    pub held: Option<Held>,
    /// The last planned thaw ended this hold, which had stood without a break until then.
    pub lasted: Option<Held>,
    /// The agent said that this attempt was unbroken although it was not.
    pub lied: Option<Attempt>,
}

/// One attempt, as the agent was commanded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// The leader's epoch.
    pub epoch: u64,
    /// The replication.
    pub replication_uid: String,
    /// The attempt's number.
    pub number: u32,
}

/// One round of an attempt in which Ready was said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// The attempt.
    pub attempt: Attempt,
    /// The round.
    pub round: u32,
}

/// A thread of the agent that may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Thread {
    Preflight(Ticket),
    Look(Ticket),
    Record(Ticket),
    Settle(Ticket),
    Quiesce(Ticket),
    Unquiesce(Ticket),
    /// A restarted agent gives back what the record names.
    Recover,
}

/// What a preflight brings: a freezer process, and a guardian that watches it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Equipment {
    freezer: Freezer,
    freezer_lost: bool,
    guard: Guard,
    guardian_lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Process {
    Alive,
    /// Killed; an ioctl that had begun still completes.
    Dying,
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Freezer {
    process: Process,
    orders: Vec<(Order, Ticket)>,
    /// The agent's end of the socket is open.
    heard: bool,
    /// How far a suspension has come.
    warming: Warming,
    /// What `run()` remembers: a freeze of its own stands.
    frozen: bool,
}

/// How far a suspension has come: it freezes, thaws, and freezes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Warming {
    /// Not begun, or over.
    Not,
    Frozen,
    /// Thawed again.
    Warm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Order {
    Flush,
    Suspend,
    Resume,
}

/// One connection at the guardian.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Guard {
    stage: Guarding,
    /// What the agent has sent and the guardian has not read.
    requests: Vec<Request>,
    /// The agent's end is open.
    heard: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Guarding {
    /// With the production state machine.
    Watching(Watch),
    Thawing,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Request {
    Arm(Ticket, Duration),
    Disarm,
}

/// Which equipment is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// What the agent holds now.
    Current,
    /// What was let go of, oldest first.
    Old(usize),
}

/// What could complete now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// The preflight comes back, with equipment if a guardian lives.
    Preflight(Ticket),
    /// The look for locks comes back.
    Look(Ticket),
    /// The record is written.
    Record(Ticket),
    /// The application is quiesced.
    Quiesce(Ticket),
    /// The application goes on.
    Unquiesce(Ticket),
    /// The agent's thaw from outside has settled.
    Settle(Ticket),
    /// A restarted agent has given back what the record named.
    Recover,
    /// A freezer carries out its next order, or sees that its agent is gone, thaws and ends.
    Freezer(Place),
    /// A killed freezer ends before its order has begun.
    FreezerDies(Place),
    /// The agent sees that its freezer is gone.
    FreezerGone,
    /// The guardian reads what the agent sent, or sees that the agent is gone.
    Guardian(Place),
    /// The guardian's thaw settles.
    GuardianThaws(Place),
    /// The agent sees that its guardian is gone.
    GuardianGone,
}

/// A deadline that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The hold's ([`Hold::poll_timeout`]).
    Agent,
    /// The guardian's.
    Guardian(Place),
}

/// Reports that the agent sends, and through which session.
pub type Reports = Vec<(Session, Report)>;

impl Node {
    /// A node whose agent and guardian live and were asked nothing yet. `ceiling` is the agent's `--max-hold`.
    pub fn new(ceiling: Duration) -> Self {
        Self {
            hold: Some(Hold::new(ceiling)),
            ceiling,
            preflight: 0,
            threads: Vec::new(),
            equipment: None,
            old: Vec::new(),
            guardian_alive: true,
            guardian_full: false,
            put_off: Vec::new(),
            stopped: None,
            recorded: false,
            quiesces: false,
            quiesced: false,
            locked: false,
            frozen: None,
            witness: Witness::default(),
        }
    }

    /// The same with an application that is quiesced, by a quiescer that follows a script: it answers when the caller says so.
    #[must_use]
    pub fn with_quiescer(self) -> Self {
        Self { quiesces: true, ..self }
    }

    /// Whether the application was asked to quiesce, and has not gone on since.
    pub fn is_quiesced(&self) -> bool {
        self.quiesced
    }

    /// Takes an event of the agent: a command, a lost session, a shutdown. A dead agent takes none.
    pub fn handle(&mut self, event: Event, now: Instant) -> Reports {
        let Some(hold) = &mut self.hold else { return Reports::new() };
        if let Some(waiting) = &mut self.stopped {
            waiting.push(event);
            return Reports::new();
        }
        if let Event::Command(session, command @ Command::Release(_)) = &event
            && self.threads.contains(&Thread::Recover)
        {
            self.put_off.retain(|(other, _)| other != session);
            self.put_off.push((*session, command.clone()));
            return Reports::new();
        }
        let actions = hold.handle(event, now);
        let mut reports = Reports::new();
        for action in actions {
            self.act(action, &mut reports);
        }
        self.sweep();
        reports
    }

    fn act(&mut self, action: Action, reports: &mut Reports) {
        match action {
            Action::Preflight(ticket, _) => {
                self.preflight = ticket;
                self.threads.push(Thread::Preflight(ticket));
            }
            Action::Look(ticket, _) => {
                if self.equipment.is_some() {
                    self.threads.push(Thread::Look(ticket));
                }
            }
            Action::Record(ticket, _) => self.threads.push(Thread::Record(ticket)),
            Action::Quiesce(ticket) => {
                self.quiesced = true;
                self.threads.push(Thread::Quiesce(ticket));
            }
            Action::Unquiesce(ticket) => {
                self.threads.retain(|thread| !matches!(thread, Thread::Quiesce(_)));
                self.threads.push(Thread::Unquiesce(ticket));
            }
            Action::Forget => self.recorded = false,
            Action::Flush(ticket) => self.order(Order::Flush, ticket),
            Action::Suspend(ticket, _) => self.order(Order::Suspend, ticket),
            Action::Resume(ticket) => self.order(Order::Resume, ticket),
            Action::Settle(ticket) => {
                if let Some(equipment) = &mut self.equipment {
                    equipment.freezer.kill();
                    self.threads.push(Thread::Settle(ticket));
                }
            }
            Action::Arm(ticket, limit) => {
                if let Some(equipment) = &mut self.equipment {
                    equipment.guard.request(Request::Arm(ticket, limit));
                }
            }
            Action::Disarm => {
                if let Some(equipment) = &mut self.equipment {
                    equipment.guard.request(Request::Disarm);
                }
            }
            Action::Close => {
                let goes_on = self.threads.iter().any(|thread| matches!(thread, Thread::Unquiesce(_)));
                assert!(!self.quiesced || goes_on, "let go of while its application is quiesced");
                self.preflight = 0;
                if let Some(mut equipment) = self.equipment.take() {
                    equipment.guard.request(Request::Disarm);
                    self.retire(equipment);
                }
            }
            Action::Report(session, report) => {
                self.note(&report);
                reports.push((session, report));
            }
        }
    }

    fn order(&mut self, order: Order, ticket: Ticket) {
        if let Some(equipment) = &mut self.equipment
            && equipment.freezer.process == Process::Alive
        {
            equipment.freezer.orders.push((order, ticket));
        }
    }

    /// Holds what the agent says against what the kernel did.
    fn note(&mut self, report: &Report) {
        match report {
            Report::Ready(ready) => {
                let held = attempt_of(ready.attempt.as_ref()).map(|attempt| Held { attempt, round: ready.round });
                self.witness.ready.clone_from(&held);
                if self.witness.held.is_none() || self.witness.held.as_ref().map(|held| held.round) != Some(ready.round)
                {
                    self.witness.lasted = None;
                }
                self.witness.held = held.filter(|_| self.frozen == Some(Owner::Us));
            }
            Report::Released(released) if released.unbroken => {
                let said = attempt_of(released.attempt.as_ref());
                let lasted = self.witness.lasted.as_ref().map(|held| &held.attempt);
                // A new leader's epoch in the question does not make it another hold.
                let same = said.as_ref().zip(lasted).is_some_and(|(said, lasted)| {
                    said.replication_uid == lasted.replication_uid && said.number == lasted.number
                });
                if !same {
                    self.witness.lied = said;
                }
            }
            Report::Hello(_)
            | Report::Waiting(_)
            | Report::Prepared(_)
            | Report::Pending(_)
            | Report::NotReady(_)
            | Report::Released(_) => {}
        }
    }

    /// Lets go of equipment: its freezer and its guardian see the end of their sockets.
    fn retire(&mut self, mut equipment: Equipment) {
        equipment.freezer.heard = false;
        equipment.guard.heard = false;
        self.old.push(equipment);
    }

    /// Forgets what can have no effect any more. A freezer that has nothing to do and nothing to thaw ends without one.
    fn sweep(&mut self) {
        for equipment in &mut self.old {
            let freezer = &mut equipment.freezer;
            if freezer.orders.is_empty() && !freezer.frozen && freezer.warming == Warming::Not {
                freezer.process = Process::Gone;
            }
            let guard = &mut equipment.guard;
            let arms = guard.requests.iter().any(|request| matches!(request, Request::Arm(..)));
            if matches!(&guard.stage, Guarding::Watching(watch) if !watch.owes()) && !arms {
                guard.stage = Guarding::Gone;
            }
        }
        self.old.retain(|old| old.freezer.process != Process::Gone || old.guard.stage != Guarding::Gone);
    }

    /// Whether the agent lives.
    pub fn agent_alive(&self) -> bool {
        self.hold.is_some()
    }

    /// Whether the agent lives and has nothing going on.
    pub fn is_idle(&self) -> bool {
        self.hold.as_ref().is_some_and(Hold::is_idle)
    }

    /// Whether the guardian lives.
    pub fn guardian_alive(&self) -> bool {
        self.guardian_alive
    }

    /// Whether a freezer lives.
    pub fn freezer_alive(&self) -> bool {
        self.places().any(|(_, equipment)| equipment.freezer.process == Process::Alive)
    }

    /// Whether the application holds a lock.
    pub fn locked(&self) -> bool {
        self.locked
    }

    /// Whose freeze stands.
    pub fn frozen(&self) -> Option<Owner> {
        self.frozen
    }

    /// What really happened.
    pub fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Whether nothing is frozen by us, or somebody lives who will thaw without being asked: an agent with a deadline or a thaw
    /// under way, a guardian with a deadline or a thaw under way, or a freezer that finds its agent gone.
    pub fn thaw_is_certain(&self) -> bool {
        let agent = self.hold.as_ref().is_some_and(|hold| hold.poll_timeout().is_some())
            || self.threads.iter().any(|thread| matches!(thread, Thread::Settle(_) | Thread::Recover));
        let others = self.places().any(|(_, Equipment { freezer, guard, .. })| {
            let own = freezer.process == Process::Alive
                && (freezer.warming == Warming::Frozen || (freezer.frozen && !freezer.heard));
            guard.owes() || own
        });
        self.frozen != Some(Owner::Us) || agent || others
    }

    /// Whether what is frozen by us is on record while its agent is dead: the agent that starts next gives it back.
    pub fn is_on_record(&self) -> bool {
        self.recorded && self.hold.is_none()
    }

    /// Whether somebody beside the agent and its freezer will thaw: a guardian with a deadline or a thaw under way.
    pub fn is_guarded(&self) -> bool {
        self.places().any(|(_, equipment)| equipment.guard.owes())
    }

    /// Whether nothing of ours is frozen, and no freezer is about to freeze.
    pub fn is_at_rest(&self) -> bool {
        self.frozen != Some(Owner::Us) && !self.places().any(|(place, _)| self.is_freezing(place))
    }

    /// Whether the next order of this freezer freezes.
    pub fn is_freezing(&self, place: Place) -> bool {
        let equipment = match place {
            Place::Current => self.equipment.as_ref(),
            Place::Old(index) => self.old.get(index),
        };
        let order = equipment.and_then(|equipment| equipment.freezer.orders.first());
        matches!(order, Some((Order::Suspend, _)))
    }

    fn places(&self) -> impl Iterator<Item = (Place, &Equipment)> {
        let current = self.equipment.iter().map(|equipment| (Place::Current, equipment));
        current.chain(self.old.iter().enumerate().map(|(index, equipment)| (Place::Old(index), equipment)))
    }

    fn at(&mut self, place: Place) -> Option<&mut Equipment> {
        match place {
            Place::Current => self.equipment.as_mut(),
            Place::Old(index) => self.old.get_mut(index),
        }
    }

    fn freeze(&mut self, owner: Owner) -> Result<(), Refused> {
        if self.frozen.is_some() {
            return Err(refused("AlreadyFrozen", true));
        }
        self.frozen = Some(owner);
        Ok(())
    }

    /// FITHAW. A planned one is ordered by the agent and ends a hold as it should.
    fn thaw(&mut self, planned: bool) -> WasSuspended {
        if self.frozen.take().is_none() {
            return WasSuspended::No;
        }
        let held = self.witness.held.take();
        if planned {
            self.witness.lasted = held;
        }
        WasSuspended::Yes
    }
}

impl Equipment {
    fn new() -> Self {
        Self {
            freezer: Freezer {
                process: Process::Alive,
                orders: Vec::new(),
                heard: true,
                warming: Warming::Not,
                frozen: false,
            },
            freezer_lost: false,
            guard: Guard { stage: Guarding::Watching(Watch::default()), requests: Vec::new(), heard: true },
            guardian_lost: false,
        }
    }
}

impl Freezer {
    /// SIGKILL. Orders that were not begun are not; the first may have been.
    fn kill(&mut self) {
        if self.process != Process::Alive {
            return;
        }
        self.orders.truncate(1);
        self.frozen = false;
        self.process = if self.orders.is_empty() { Process::Gone } else { Process::Dying };
    }
}

impl Guard {
    fn request(&mut self, request: Request) {
        if matches!(self.stage, Guarding::Watching(_)) && self.heard {
            self.requests.push(request);
        }
    }

    /// What the guardian does with an event; gives the ticket of a promise. Where a thaw is owed, the agent's end is closed first,
    /// and nothing is read any more.
    fn hear(&mut self, event: guard::Event, now: Instant) -> Option<Ticket> {
        let Guarding::Watching(watch) = &mut self.stage else { return None };
        match watch.handle(event, now) {
            guard::Step::Wait => None,
            guard::Step::Promise { ticket } => Some(ticket),
            guard::Step::Thaw(_) => {
                self.stage = Guarding::Thawing;
                self.requests.clear();
                None
            }
            guard::Step::Leave => {
                self.stage = Guarding::Gone;
                None
            }
        }
    }

    /// Whether a thaw is owed, now or at the deadline.
    fn owes(&self) -> bool {
        match &self.stage {
            Guarding::Watching(watch) => watch.owes(),
            Guarding::Thawing => true,
            Guarding::Gone => false,
        }
    }
}

fn refused(reason: &str, retryable: bool) -> Refused {
    let blocker = wire::Blocker { reason: reason.to_owned(), ..wire::Blocker::default() };
    Refused::new(blocker, retryable)
}

fn attempt_of(attempt: Option<&stillpoint_core::wire::Attempt>) -> Option<Attempt> {
    attempt.map(|attempt| Attempt {
        epoch: attempt.epoch,
        replication_uid: attempt.replication_uid.clone(),
        number: attempt.number,
    })
}
