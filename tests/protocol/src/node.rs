//! The node side of one member as plain data: the production [`Hold`], and around it what it acts on: a freezer process, the
//! production [`Watch`] of the guardian, a filesystem.
//!
//! This is what `agent/member.rs`, `agent/freezer.rs`, `guardian/guard.rs` and `fsfreeze.rs` do, without threads, sockets and
//! ioctls: whatever takes time there is a piece of outstanding [`Work`] here, and the caller says which one completes next. The
//! clock is passed in.
//!
//! Three things are one step here that are two in production, because nothing can come between them that would not have the
//! same effect before or after: a freezer carries out an order and the agent reads the answer; the guardian hears `Arm` and
//! the agent reads `Armed`; a thaw from outside tries, and sees whether the freezer is gone.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use stillpoint::agent::blocker::blocker;
use stillpoint::agent::hold::{Action, Equipped, Event, Hold, Outcome, Session, Ticket, no_guardian};
use stillpoint::agent::locks::Look;
use stillpoint::guardian::watch::{self, Watch};
use stillpoint::wire::Protection;
use stillpoint::wire::agent_message::Report;

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
    /// The agent is stopped (SIGSTOP); this is what it will hear when it goes on.
    stopped: Option<Vec<Event>>,
    /// What is about to be frozen is written down, where the next agent finds it.
    recorded: bool,
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
    /// In the middle of a warming.
    warming: bool,
    /// What `run()` remembers: a freeze of its own stands.
    frozen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Order {
    Flush,
    Warm,
    Freeze,
    Thaw,
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
            stopped: None,
            recorded: false,
            locked: false,
            frozen: None,
            witness: Witness::default(),
        }
    }

    /// What tells this node from another in all that it will ever do.
    ///
    /// Of tickets, all that counts is whether one is the newest, which alone can be awaited; their numbers only rise. Without
    /// this a node that looks for a lock again and again would never be the same.
    pub fn essence(&self) -> String {
        let mut node = self.clone();
        let hold = node.hold.take().map(|hold| format!("{hold:?}")).unwrap_or_default();
        let number = |name: &str| -> Option<(usize, usize, Ticket)> {
            let start = hold.find(name)? + name.len();
            let end = start + hold[start..].find(|c: char| !c.is_ascii_digit())?;
            Some((start, end, hold[start..end].parse().ok()?))
        };
        let last = number("last_ticket: ").map_or(0, |(_, _, last)| last);
        let stale = |ticket: &mut Ticket| *ticket = Ticket::from(*ticket != last);
        let wanted = node.threads.contains(&Thread::Preflight(node.preflight));
        node.preflight = Ticket::from(wanted);
        for thread in &mut node.threads {
            match thread {
                Thread::Preflight(ticket) | Thread::Look(ticket) | Thread::Record(ticket) | Thread::Settle(ticket) => {
                    stale(ticket);
                }
                Thread::Recover => {}
            }
        }
        for equipment in node.equipment.iter_mut().chain(&mut node.old) {
            equipment.freezer.orders.iter_mut().for_each(|(_, ticket)| stale(ticket));
            for request in &mut equipment.guard.requests {
                if let Request::Arm(ticket, _) = request {
                    stale(ticket);
                }
            }
        }
        let mut hold = hold.clone();
        for name in ["awaited: Some(", "last_ticket: "] {
            // The later one first, so that the other stays where it was found.
            if let Some((start, end, ticket)) = number(name) {
                hold.replace_range(start..end, &(last - ticket).to_string());
            }
        }
        format!("{hold} {node:?}")
    }

    /// Takes an event of the agent: a command, a lost session, a shutdown. A dead agent takes none.
    pub fn handle(&mut self, event: Event, now: Instant) -> Reports {
        let Some(hold) = &mut self.hold else { return Reports::new() };
        if let Some(waiting) = &mut self.stopped {
            waiting.push(event);
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
            Action::Record(ticket) => self.threads.push(Thread::Record(ticket)),
            Action::Forget => self.recorded = false,
            Action::Flush(ticket) => self.order(Order::Flush, ticket),
            Action::Warm(ticket) => self.order(Order::Warm, ticket),
            Action::Freeze(ticket) => self.order(Order::Freeze, ticket),
            Action::Thaw(ticket) => self.order(Order::Thaw, ticket),
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
            Report::Hello(_) | Report::Waiting(_) | Report::Prepared(_) | Report::NotReady(_) | Report::Released(_) => {
            }
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
            if freezer.orders.is_empty() && !freezer.frozen && !freezer.warming {
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

    /// What could complete now, in a fixed order.
    pub fn pending(&self) -> Vec<Work> {
        let mut work = Vec::new();
        for thread in &self.threads {
            match thread {
                // It waits for a recovery that is under way.
                Thread::Preflight(_) if self.threads.contains(&Thread::Recover) => {}
                Thread::Preflight(ticket) => work.push(Work::Preflight(*ticket)),
                Thread::Record(ticket) => work.push(Work::Record(*ticket)),
                Thread::Recover if self.frozen.is_none() && self.freezer_remains() => {}
                Thread::Recover => work.push(Work::Recover),
                Thread::Look(ticket) => work.push(Work::Look(*ticket)),
                Thread::Settle(ticket) => {
                    let gone = self.equipment.as_ref().is_none_or(|held| held.freezer.process == Process::Gone);
                    if self.frozen.is_some() || gone {
                        work.push(Work::Settle(*ticket));
                    }
                }
            }
        }
        for (place, equipment) in self.places() {
            let freezer = &equipment.freezer;
            match freezer.process {
                Process::Alive if !freezer.orders.is_empty() || !freezer.heard => work.push(Work::Freezer(place)),
                Process::Dying => work.extend([Work::Freezer(place), Work::FreezerDies(place)]),
                Process::Alive | Process::Gone => {}
            }
            let guard = &equipment.guard;
            match guard.stage {
                Guarding::Watching(_) if !guard.requests.is_empty() || !guard.heard => {
                    work.push(Work::Guardian(place));
                }
                Guarding::Thawing if self.frozen.is_some() || freezer.process == Process::Gone => {
                    work.push(Work::GuardianThaws(place));
                }
                Guarding::Watching(_) | Guarding::Thawing | Guarding::Gone => {}
            }
        }
        if let Some(equipment) = &self.equipment {
            if equipment.freezer.process == Process::Gone && !equipment.freezer_lost {
                work.push(Work::FreezerGone);
            }
            if !matches!(equipment.guard.stage, Guarding::Watching(_)) && !equipment.guardian_lost {
                work.push(Work::GuardianGone);
            }
        }
        work
    }

    /// What a piece of work is, as a phrase.
    pub fn tell(&self, work: Work) -> String {
        let equipment = |place| self.places().find(|(at, _)| *at == place).map(|(_, equipment)| equipment);
        let old = |place| if place == Place::Current { "the" } else { "an old" };
        match work {
            Work::Preflight(_) => "the preflight comes back".to_owned(),
            Work::Look(_) => "the look for locks comes back".to_owned(),
            Work::Record(_) => "what is about to be frozen is written down".to_owned(),
            Work::Settle(_) => "the agent's thaw from outside settles".to_owned(),
            Work::Recover => "the restarted agent has given back what the record names".to_owned(),
            Work::Freezer(place) => {
                let freezer = equipment(place).map(|equipment| &equipment.freezer);
                let order = freezer.and_then(|freezer| freezer.orders.first());
                let does = match order {
                    Some((Order::Flush, _)) => "flushes",
                    Some((Order::Warm, _)) if freezer.is_some_and(|freezer| freezer.warming) => "thaws after warming",
                    Some((Order::Warm, _)) => "freezes for warming",
                    Some((Order::Freeze, _)) => "freezes",
                    Some((Order::Thaw, _)) => "thaws",
                    None => "sees that its agent is gone, and ends",
                };
                format!("{} freezer {does}", old(place))
            }
            Work::FreezerDies(place) => format!("{} freezer ends before its order has begun", old(place)),
            Work::FreezerGone => "the agent sees that its freezer is gone".to_owned(),
            Work::Guardian(place) => {
                let request = equipment(place).and_then(|equipment| equipment.guard.requests.first());
                match request {
                    Some(Request::Arm(..)) => "the guardian is armed, and the agent hears it".to_owned(),
                    Some(Request::Disarm) => "the guardian is disarmed".to_owned(),
                    None => "the guardian sees that its agent is gone".to_owned(),
                }
            }
            Work::GuardianThaws(_) => "the guardian's thaw settles".to_owned(),
            Work::GuardianGone => "the agent sees that its guardian is gone".to_owned(),
        }
    }

    /// Completes a piece of work that is [`Self::pending`]; any other does nothing.
    pub fn complete(&mut self, work: Work, now: Instant) -> Reports {
        let event = match work {
            Work::Preflight(ticket) => self.preflighted(ticket),
            Work::Look(ticket) => self.looked(ticket),
            Work::Record(ticket) => self.recorded(ticket),
            Work::Settle(ticket) => self.settled(ticket),
            Work::Recover => {
                self.recover();
                None
            }
            Work::Freezer(place) => self.freezer_works(place),
            Work::FreezerDies(place) => self.freezer_dies(place),
            Work::FreezerGone => self.equipment.as_mut().map(|equipment| {
                equipment.freezer_lost = true;
                Event::FreezerLost
            }),
            Work::Guardian(place) => self.guardian_hears(place, now),
            Work::GuardianThaws(place) => self.guardian_thaws(place),
            Work::GuardianGone => self.equipment.as_mut().map(|equipment| {
                equipment.guardian_lost = true;
                Event::GuardianLost
            }),
        };
        let reports = event.map(|event| self.handle(event, now)).unwrap_or_default();
        self.sweep();
        reports
    }

    /// Lets a piece of work that is [`Self::pending`] fail: the preflight refuses, the look sees nothing, the kernel answers an
    /// I/O error to the freezer's order and does nothing. What cannot fail completes.
    pub fn fail(&mut self, work: Work, now: Instant) -> Reports {
        let blind = || vec![blocker("Blind", "the agent cannot see")];
        let event = match work {
            Work::Preflight(ticket) if self.came_back(Thread::Preflight(ticket)) => {
                Event::Done(ticket, Outcome::Preflighted(Err(blind())))
            }
            Work::Look(ticket) if self.came_back(Thread::Look(ticket)) => {
                Event::Done(ticket, Outcome::Looked(Look { blockers: blind(), more_blockers: 0 }))
            }
            Work::Record(ticket) if self.came_back(Thread::Record(ticket)) => {
                Event::Done(ticket, Outcome::Recorded(Err("no space is left".to_owned())))
            }
            Work::Freezer(Place::Current) => match self.order_fails() {
                Some(event) => event,
                None => return self.complete(work, now),
            },
            _ => return self.complete(work, now),
        };
        let reports = self.handle(event, now);
        self.sweep();
        reports
    }

    /// The kernel refuses the order that is next at the freezer, if it is one that can be refused.
    fn order_fails(&mut self) -> Option<Event> {
        let freezer = &mut self.equipment.as_mut()?.freezer;
        if freezer.process != Process::Alive || freezer.warming || freezer.orders.is_empty() {
            return None;
        }
        let (order, ticket) = freezer.orders.remove(0);
        let refused = Err(Errno::IO);
        let outcome = match order {
            Order::Flush => Outcome::Flushed(refused),
            Order::Warm => Outcome::Warmed(refused),
            Order::Freeze => Outcome::Frozen(refused),
            Order::Thaw => Outcome::Thawed(refused),
        };
        Some(Event::Done(ticket, outcome))
    }

    /// The deadlines that run.
    pub fn timers(&self) -> Vec<(Timer, Instant)> {
        let agent = self.hold.as_ref().and_then(Hold::poll_timeout).map(|due| (Timer::Agent, due));
        let guardians = self.places().filter_map(|(place, equipment)| match &equipment.guard.stage {
            Guarding::Watching(watch) => watch.poll_timeout().map(|due| (Timer::Guardian(place), due)),
            Guarding::Thawing | Guarding::Gone => None,
        });
        agent.into_iter().chain(guardians).collect()
    }

    /// A deadline has come.
    pub fn fire(&mut self, timer: Timer, now: Instant) -> Reports {
        match timer {
            Timer::Agent => self.handle(Event::Timeout, now),
            Timer::Guardian(place) => {
                if let Some(equipment) = self.at(place) {
                    equipment.guard.hear(watch::Event::Timeout, now);
                }
                Reports::new()
            }
        }
    }

    /// The agent dies; its sockets close. Its sessions are the caller's to end. A freezer that outlives it sees that.
    pub fn kill_agent(&mut self) {
        self.hold = None;
        self.stopped = None;
        self.preflight = 0;
        self.threads.clear();
        if let Some(equipment) = self.equipment.take() {
            self.retire(equipment);
        }
        self.sweep();
    }

    /// The agent starts anew. It remembers nothing but the record, and gives back what that names.
    pub fn restart_agent(&mut self) {
        if self.hold.is_none() {
            self.hold = Some(Hold::new(self.ceiling));
            self.threads.extend(self.recorded.then_some(Thread::Recover));
        }
    }

    /// The agent is stopped (SIGSTOP): it hears nothing until it goes on. Its freezer and its guardian are other processes. The
    /// caller completes no thread of it and fires no deadline of it meanwhile.
    pub fn stop_agent(&mut self) {
        self.stopped.get_or_insert_default();
    }

    /// The agent goes on (SIGCONT), and hears what came meanwhile.
    pub fn continue_agent(&mut self, now: Instant) -> Reports {
        let waiting = self.stopped.take().unwrap_or_default();
        waiting.into_iter().flat_map(|event| self.handle(event, now)).collect()
    }

    /// Every freezer is killed, as when the memory runs out or the pod is killed.
    pub fn kill_freezer(&mut self) {
        for equipment in self.equipment.iter_mut().chain(&mut self.old) {
            equipment.freezer.kill();
        }
        self.sweep();
    }

    /// The guardian dies, and with it all that it had promised.
    pub fn kill_guardian(&mut self) {
        self.guardian_alive = false;
        for equipment in self.equipment.iter_mut().chain(&mut self.old) {
            equipment.guard.stage = Guarding::Gone;
            equipment.guard.requests.clear();
        }
        self.sweep();
    }

    /// A guardian starts; it knows nothing of the one before.
    pub fn restart_guardian(&mut self) {
        self.guardian_alive = true;
    }

    /// Whether the guardian refuses whoever comes anew. It goes on guarding those that it guards.
    pub fn refuse_at_guardian(&mut self, refuse: bool) {
        self.guardian_full = refuse;
    }

    /// Somebody else thaws.
    pub fn third_party_thaw(&mut self) {
        let _ = self.thaw(false);
    }

    /// Somebody else freezes.
    pub fn third_party_freeze(&mut self) {
        let _ = self.freeze(Owner::Other);
    }

    /// The application takes a lock.
    pub fn lock(&mut self) {
        self.locked = true;
    }

    /// The application drops its lock.
    pub fn unlock(&mut self) {
        self.locked = false;
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
            let own = freezer.process == Process::Alive && (freezer.warming || (freezer.frozen && !freezer.heard));
            guard.owes() || own
        });
        self.frozen != Some(Owner::Us) || agent || others
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
        matches!(order, Some((Order::Warm | Order::Freeze, _)))
    }

    /// Takes a request to arm off the wire before the guardian reads it: a lost acknowledgement's opposite, for showing what
    /// happens if an agent does not wait for the guardian.
    pub fn intercept_arm(&mut self) -> Option<Ticket> {
        let guard = &mut self.equipment.as_mut()?.guard;
        let at = guard.requests.iter().position(|request| matches!(request, Request::Arm(..)))?;
        match guard.requests.remove(at) {
            Request::Arm(ticket, _) => Some(ticket),
            Request::Disarm => None,
        }
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

    fn came_back(&mut self, thread: Thread) -> bool {
        let index = self.threads.iter().position(|other| *other == thread);
        index.map(|index| self.threads.remove(index)).is_some()
    }

    fn preflighted(&mut self, ticket: Ticket) -> Option<Event> {
        if !self.came_back(Thread::Preflight(ticket)) {
            return None;
        }
        let outcome = if self.guardian_alive && !self.guardian_full {
            if ticket == self.preflight {
                self.equipment = Some(Equipment::new());
            }
            Ok(Equipped { filesystem: "ext4".to_owned(), protection: Protection::NodeGuardian })
        } else {
            Err(vec![no_guardian("nobody listens on its socket")])
        };
        Some(Event::Done(ticket, Outcome::Preflighted(outcome)))
    }

    fn looked(&mut self, ticket: Ticket) -> Option<Event> {
        if !self.came_back(Thread::Look(ticket)) {
            return None;
        }
        let blockers = if self.locked { vec![blocker("WriteLock", "a process holds a lock")] } else { Vec::new() };
        Some(Event::Done(ticket, Outcome::Looked(Look { blockers, more_blockers: 0 })))
    }

    fn recorded(&mut self, ticket: Ticket) -> Option<Event> {
        if !self.came_back(Thread::Record(ticket)) {
            return None;
        }
        self.recorded = true;
        Some(Event::Done(ticket, Outcome::Recorded(Ok(()))))
    }

    /// One turn of `thaw_until_settled` in a recovery.
    fn recover(&mut self) {
        if self.thaw(false).is_ok() || !self.freezer_remains() {
            self.came_back(Thread::Recover);
            self.recorded = false;
        }
    }

    /// Whether a freezer of an earlier agent has not ended.
    fn freezer_remains(&self) -> bool {
        self.old.iter().any(|old| old.freezer.process != Process::Gone)
    }

    /// One turn of `thaw_until_settled` in the agent.
    fn settled(&mut self, ticket: Ticket) -> Option<Event> {
        let gone = self.equipment.as_ref().is_none_or(|held| held.freezer.process == Process::Gone);
        if !self.threads.contains(&Thread::Settle(ticket)) || (self.thaw(false).is_err() && !gone) {
            return None;
        }
        self.came_back(Thread::Settle(ticket));
        Some(Event::Done(ticket, Outcome::Settled))
    }

    fn freezer_works(&mut self, place: Place) -> Option<Event> {
        let mut freezer = self.at(place)?.freezer.clone();
        let event = self.freezer_turn(&mut freezer);
        self.at(place)?.freezer = freezer;
        event
    }

    /// One turn of the loop in `freezer::run`; a warming takes two.
    fn freezer_turn(&mut self, freezer: &mut Freezer) -> Option<Event> {
        if freezer.process == Process::Gone {
            return None;
        }
        let Some((order, ticket)) = freezer.orders.first().copied() else {
            if freezer.process == Process::Dying || !freezer.heard {
                self.freezer_ends(freezer);
            }
            return None;
        };
        let outcome = match order {
            Order::Flush => Outcome::Flushed(Ok(())),
            Order::Warm if !freezer.warming => match self.freeze(Owner::Us) {
                Ok(()) => {
                    freezer.warming = true;
                    if freezer.process == Process::Dying {
                        self.freezer_ends(freezer);
                    }
                    return None;
                }
                refused @ Err(_) => Outcome::Warmed(refused),
            },
            Order::Warm => {
                freezer.warming = false;
                Outcome::Warmed(self.thaw(false))
            }
            Order::Freeze => {
                let result = self.freeze(Owner::Us);
                freezer.frozen |= result.is_ok();
                Outcome::Frozen(result)
            }
            Order::Thaw => {
                let result = self.thaw(freezer.heard);
                freezer.frozen = false;
                Outcome::Thawed(result)
            }
        };
        freezer.orders.remove(0);
        if freezer.process == Process::Dying || !freezer.heard {
            // Killed, or the answer cannot be sent.
            self.freezer_ends(freezer);
            return None;
        }
        Some(Event::Done(ticket, outcome))
    }

    fn freezer_ends(&mut self, freezer: &mut Freezer) {
        if freezer.process == Process::Alive && freezer.frozen {
            let _ = self.thaw(false);
        }
        *freezer = Freezer { process: Process::Gone, orders: Vec::new(), warming: false, frozen: false, ..*freezer };
    }

    fn freezer_dies(&mut self, place: Place) -> Option<Event> {
        let mut freezer = self.at(place)?.freezer.clone();
        if freezer.process == Process::Dying {
            self.freezer_ends(&mut freezer);
        }
        self.at(place)?.freezer = freezer;
        None
    }

    /// One turn of the loop in `guard::watch`.
    fn guardian_hears(&mut self, place: Place, now: Instant) -> Option<Event> {
        let guard = &mut self.at(place)?.guard;
        let event = match guard.requests.first().copied() {
            Some(Request::Arm(ticket, limit)) => watch::Event::Arm { ticket, limit },
            Some(Request::Disarm) => watch::Event::Disarm,
            None if guard.heard => return None,
            None => watch::Event::Closed,
        };
        guard.requests.drain(..guard.requests.len().min(1));
        let promised = guard.hear(event, now).filter(|_| guard.heard);
        promised.map(|ticket| Event::Done(ticket, Outcome::Armed))
    }

    /// One turn of `thaw_until_settled` in the guardian, which cannot kill: it is in another pod.
    fn guardian_thaws(&mut self, place: Place) -> Option<Event> {
        let equipment = self.at(place)?;
        let gone = equipment.freezer.process == Process::Gone;
        if equipment.guard.stage != Guarding::Thawing || (self.thaw(false).is_err() && !gone) {
            return None;
        }
        self.at(place)?.guard.stage = Guarding::Gone;
        None
    }

    fn freeze(&mut self, owner: Owner) -> Result<(), Errno> {
        if self.frozen.is_some() {
            return Err(Errno::BUSY);
        }
        self.frozen = Some(owner);
        Ok(())
    }

    /// FITHAW. A planned one is ordered by the agent and ends a hold as it should.
    fn thaw(&mut self, planned: bool) -> Result<(), Errno> {
        self.frozen.take().ok_or(Errno::INVAL)?;
        let held = self.witness.held.take();
        if planned {
            self.witness.lasted = held;
        }
        Ok(())
    }
}

impl Equipment {
    fn new() -> Self {
        Self {
            freezer: Freezer {
                process: Process::Alive,
                orders: Vec::new(),
                heard: true,
                warming: false,
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
    fn hear(&mut self, event: watch::Event, now: Instant) -> Option<Ticket> {
        let Guarding::Watching(watch) = &mut self.stage else { return None };
        match watch.handle(event, now) {
            watch::Step::Wait => None,
            watch::Step::Promise { ticket } => Some(ticket),
            watch::Step::Thaw(_) => {
                self.stage = Guarding::Thawing;
                self.requests.clear();
                None
            }
            watch::Step::Leave => {
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

fn attempt_of(attempt: Option<&stillpoint::wire::Attempt>) -> Option<Attempt> {
    attempt.map(|attempt| Attempt {
        epoch: attempt.epoch,
        replication_uid: attempt.replication_uid.clone(),
        number: attempt.number,
    })
}
