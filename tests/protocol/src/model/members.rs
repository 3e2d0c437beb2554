//! The members' node sides, as the model checker steps them.
//!
//! Nodes are told nothing of who they are (every member is called the same), so that nodes in the same situation are equal.
//! That is sound because the hold only repeats these names.

use std::time::{Duration, Instant};

use stillpoint_core::hold::{Command, Event, Outcome};
use stillpoint_core::limits::LOCK_POLL;
use stillpoint_core::wire;
use stillpoint_core::wire::agent_message::Report;

use super::Without;
use super::pool::{Id, Memo, Pool};
use crate::node::{Attempt, Held, Node, Owner, Timer, Work};

/// Longer than every limit.
const LATE: Duration = Duration::from_secs(365 * 86_400);

/// What happens to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A command arrives through the session with this leader.
    Command(u8, Id),
    /// The session with this leader is seen to have ended.
    SessionLost(u8),
    /// A piece of work completes.
    Work(Work),
    /// A deadline comes; late: long after everything else that runs.
    Timer(Timer, bool),
    /// The agent dies, and its freezer sees that.
    KillAgent,
    /// The agent and its freezer die at once.
    KillPod,
    /// The freezer dies.
    KillFreezer,
    /// The guardian dies.
    KillGuardian,
    /// The agent starts again.
    RestartAgent,
    /// The guardian starts again.
    RestartGuardian,
    /// Somebody else thaws.
    Thaw,
    /// Somebody else freezes.
    Freeze,
    /// The application takes a lock.
    Lock,
    /// The application drops its lock.
    Unlock,
}

/// A node, and what is asked of it again and again.
pub struct View {
    /// The node.
    pub node: Node,
    /// What can complete.
    pub pending: Vec<Work>,
    /// Which deadlines run; whether it makes a difference to be late.
    pub timers: Vec<(Timer, bool)>,
    /// Somebody will thaw, or nothing is frozen by us.
    pub certain: bool,
    /// Nobody lives who will thaw, and an agent that starts anew will.
    pub on_record: bool,
    /// Frozen by us.
    pub frozen: bool,
    /// Frozen by us, and the agent that lives now is at work.
    pub suspends: bool,
    /// Anybody's freeze stands.
    pub any_frozen: bool,
    /// Ready was said, and the freeze has stood since.
    pub held: Option<Held>,
    /// Nothing is going on here any more.
    pub at_rest: bool,
}

/// What came of an input.
pub struct Effect {
    /// The node after it.
    pub node: Id,
    /// Reports, and to which leader.
    pub reports: Vec<(u8, Id)>,
}

/// All nodes, commands and reports that were met.
pub struct Members {
    now: Instant,
    without: Option<Without>,
    nodes: Pool<String, View>,
    commands: Pool<Command, Command>,
    reports: Pool<Report, Report>,
    effects: Memo<(Id, Input), Effect>,
}

impl Members {
    /// None yet.
    pub fn new(without: Option<Without>) -> Self {
        let (nodes, commands, reports) = (Pool::new(), Pool::new(), Pool::new());
        Self { now: Instant::now(), without, nodes, commands, reports, effects: Memo::new() }
    }

    /// A node that was asked nothing yet.
    pub fn fresh(&self, ceiling: Duration) -> Id {
        self.node(Node::new(ceiling))
    }

    /// A node.
    pub fn view(&self, id: Id) -> std::sync::Arc<View> {
        self.nodes.get(id)
    }

    /// A command.
    pub fn command(&self, id: Id) -> std::sync::Arc<Command> {
        self.commands.get(id)
    }

    /// A report.
    pub fn report(&self, id: Id) -> std::sync::Arc<Report> {
        self.reports.get(id)
    }

    /// The number of a command.
    pub fn intern_command(&self, command: Command) -> Id {
        self.commands.intern(command.clone(), || command)
    }

    /// The number of a report.
    pub fn intern_report(&self, report: Report) -> Id {
        self.reports.intern(report.clone(), || report)
    }

    /// How many different nodes were met.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Lets something happen to a node.
    pub fn step(&self, node: Id, input: Input) -> std::sync::Arc<Effect> {
        self.effects.get(&(node, input), || self.compute(node, input))
    }

    fn compute(&self, id: Id, input: Input) -> Effect {
        let mut node = self.nodes.get(id).node.clone();
        let now = self.now;
        let mut reports = match input {
            Input::Command(leader, command) => {
                let command = (*self.commands.get(command)).clone();
                node.handle(Event::Command(leader.into(), command), now)
            }
            Input::SessionLost(leader) => node.handle(Event::SessionLost(leader.into()), now),
            Input::Work(work) => node.complete(work, now),
            Input::Timer(timer, late) => {
                let due = node.timers().iter().find(|(running, _)| *running == timer).map(|(_, due)| *due);
                match due {
                    Some(due) => node.fire(timer, if late { due + LATE } else { due }),
                    None => Vec::new(),
                }
            }
            Input::KillAgent => quietly(|| node.kill_agent()),
            Input::KillPod => quietly(|| {
                node.kill_freezer();
                node.kill_agent();
            }),
            Input::KillFreezer => quietly(|| node.kill_freezer()),
            Input::KillGuardian => quietly(|| node.kill_guardian()),
            Input::RestartAgent => quietly(|| node.restart_agent()),
            Input::RestartGuardian => quietly(|| node.restart_guardian()),
            Input::Thaw => quietly(|| node.third_party_thaw()),
            Input::Freeze => quietly(|| node.third_party_freeze()),
            Input::Lock => quietly(|| node.lock()),
            Input::Unlock => quietly(|| node.unlock()),
        };
        if self.without == Some(Without::AcknowledgedGuardian) {
            while let Some(ticket) = node.intercept_arm() {
                reports.extend(node.handle(Event::Done(ticket, Outcome::Armed), now));
            }
        }
        let reports = reports
            .into_iter()
            .map(|(session, report)| (u8::try_from(session).unwrap_or_default(), self.intern_report(plain(report))));
        Effect { reports: reports.collect(), node: self.node(node) }
    }

    fn node(&self, node: Node) -> Id {
        self.nodes.intern(node.essence(), || {
            let pause = self.now + LOCK_POLL;
            let timers = node.timers().into_iter().map(|(timer, due)| (timer, timer == Timer::Agent && due == pause));
            View {
                pending: node.pending(),
                timers: timers.collect(),
                certain: node.thaw_is_certain(),
                on_record: !node.thaw_is_certain() && node.is_on_record(),
                frozen: node.frozen() == Some(Owner::Us),
                suspends: node.frozen() == Some(Owner::Us) && node.agent_alive() && !node.is_idle(),
                any_frozen: node.frozen().is_some(),
                held: node.witness().held.clone(),
                at_rest: (!node.agent_alive() || node.is_idle()) && node.pending().is_empty(),
                node,
            }
        })
    }
}

fn quietly(change: impl FnOnce()) -> crate::node::Reports {
    change();
    Vec::new()
}

/// A report without what no decision reads: texts, and how long something took.
fn plain(mut report: Report) -> Report {
    let bare = |blockers: &mut Vec<wire::Blocker>| blockers.clear();
    match &mut report {
        Report::Waiting(it) => bare(&mut it.blockers),
        Report::Pending(it) => {
            bare(&mut it.blockers);
            it.suspended_us = 0;
        }
        Report::NotReady(it) => {
            bare(&mut it.blockers);
            it.suspended_us = 0;
        }
        Report::Released(it) => {
            it.reason.clear();
            it.suspended_us = 0;
        }
        Report::Ready(it) => it.suspended_us = 0,
        Report::Hello(_) | Report::Prepared(_) => {}
    }
    report
}

/// The attempt of a report.
pub fn attempt_of(report: &mut Report) -> Option<&mut wire::Attempt> {
    match report {
        Report::Hello(_) => None,
        Report::Waiting(it) => it.attempt.as_mut(),
        Report::Prepared(it) => it.attempt.as_mut(),
        Report::Ready(it) => it.attempt.as_mut(),
        Report::Pending(it) => it.attempt.as_mut(),
        Report::NotReady(it) => it.attempt.as_mut(),
        Report::Released(it) => it.attempt.as_mut(),
    }
}

/// Whether a hold belongs to this attempt.
pub fn is_of(held: &Held, epoch: u64, number: u32, round: u32) -> bool {
    let Attempt { epoch: of, number: numbered, .. } = &held.attempt;
    (*of, *numbered, held.round) == (epoch, number, round)
}
