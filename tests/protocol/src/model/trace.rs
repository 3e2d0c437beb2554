//! A way through the states, as sentences.

use stateright::Path;
use stillpoint_core::hold::Command;
use stillpoint_core::wire::agent_message::Report;

use super::Group;
use super::state::{Leads, Order, Replica, State};
use super::steps::{Fault, Step};
use crate::node::{Owner, Timer};

impl Group {
    /// Tells what happened, one line for every step. Members keep their numbers, although the states on the way do not.
    pub fn tell_path(&self, path: Path<State, Step>) -> Vec<String> {
        let mut names: Vec<usize> = (1..=self.bounds.members).collect();
        let mut lines = Vec::new();
        for (state, step) in path.into_vec() {
            let Some(step) = step else { continue };
            let text = Teller { group: self, state: &state, names: &names }.step(step);
            let mut after = state;
            self.apply(&mut after, step);
            lines.push(format!("{:>3}. {text:<84} {}", lines.len() + 1, self.situation(&after, &names)));
            let order: Order = self.representative(&after).1;
            names = order.of(names.len()).map(|from| names[from]).collect();
        }
        lines
    }

    /// Members in the order of their names: what is frozen, and the replicas; then the leaders' stages and the stored phase.
    fn situation(&self, state: &State, names: &[usize]) -> String {
        let mut members: Vec<(usize, String)> = Vec::new();
        for (member, name) in names.iter().enumerate() {
            let frozen = match self.members.view(state.nodes[member]).node.frozen() {
                Some(Owner::Us) => 'F',
                Some(Owner::Other) => 'O',
                None => '-',
            };
            let replica = match state.replicas[member] {
                Replica::Nothing => '-',
                Replica::Made => 'm',
                Replica::Cut { inside: true } => 'C',
                Replica::Usable { inside: true } => 'U',
                Replica::Cut { inside: false } => 'c',
                Replica::Usable { inside: false } => 'u',
            };
            members.push((*name, format!("{frozen}{replica}")));
        }
        members.sort();
        let members: Vec<String> = members.into_iter().map(|(_, member)| member).collect();
        let leaders = state.leaders[..self.bounds.leaders].iter().map(|leads| match leads {
            Leads::Later => "later".to_owned(),
            Leads::Dead => "dead".to_owned(),
            Leads::Idle => "idle".to_owned(),
            Leads::Run(run) => self.leaders.view(*run).stage.clone(),
        });
        let leaders: Vec<String> = leaders.collect();
        let stored = self.phase(state).map_or("none".to_owned(), |phase| format!("{phase:?}"));
        format!("[{}] {} stored: {stored}", members.join(" "), leaders.join(", "))
    }
}

/// Words for what happens in a state.
struct Teller<'a> {
    group: &'a Group,
    state: &'a State,
    names: &'a [usize],
}

fn leader(leader: usize) -> String {
    format!("leader {}", leader + 1)
}

impl Teller<'_> {
    fn name(&self, member: usize) -> String {
        format!("member {}", self.names[member])
    }

    fn command(&self, from: usize, to: usize, place: usize) -> String {
        let message = self.state.links[from][to].down.get(place).map(|message| self.group.members.command(message));
        message.map_or_else(String::new, |message| match &*message {
            Command::Prepare(..) => "Prepare".to_owned(),
            Command::Suspend(_, round) => format!("Suspend (round {round})"),
            Command::Release(_) => "Release".to_owned(),
        })
    }

    fn deadline(&self, member: usize, timer: Timer, late: bool) -> String {
        let whose = match timer {
            Timer::Agent => "the agent's deadline",
            Timer::Guardian(_) => "the guardian's deadline",
        };
        format!("{}: {whose} comes{}", self.name(member), if late { ", long after it was due" } else { "" })
    }

    fn step(&self, step: Step) -> String {
        match step {
            Step::Command(from, to) => {
                format!("{}'s agent gets {} from {}", self.name(to), self.command(from, to, 0), leader(from))
            }
            Step::Report(to, from) => {
                let report = self.state.links[to][from].up.get(0).map(|report| self.group.members.report(report));
                let report = report.map_or_else(String::new, |report| said(&report));
                format!("{} hears {report} from {}", leader(to), self.name(from))
            }
            Step::AgentSees(of, member) => {
                format!("{}'s agent sees its session with {} end", self.name(member), leader(of))
            }
            Step::LeaderSees(of, member) => format!("{} sees its session with {} end", leader(of), self.name(member)),
            Step::Connect(to, member) => format!("{}'s agent connects to {}", self.name(member), leader(to)),
            Step::Work(member, work) => {
                format!("{}: {}", self.name(member), self.group.members.view(self.state.nodes[member]).node.tell(work))
            }
            Step::Create(from, member) => {
                format!("the API server gets {}'s creation of the replica of {}", leader(from), self.name(member))
            }
            Step::Cut(member) => format!("the replica of {} is cut", self.name(member)),
            Step::Usable => "all replicas become ready to use".to_owned(),
            Step::Delete(of) => format!("all replicas are deleted, as {} asked", leader(of)),
            Step::Recheck(of) => format!("{} gets its new list of the pods", leader(of)),
            Step::Write(of) => format!("a status of {} arrives at the API server", leader(of)),
            Step::Sweep(member) => format!("the late replica of {} is deleted", self.name(member)),
            Step::SweepOld(member) => {
                format!("the late replica of {} of the attempt before is deleted", self.name(member))
            }
            Step::Collect(member) => format!("the garbage collector deletes the replicas of {}", self.name(member)),
            Step::Retry(of) => format!("{} begins another attempt", leader(of)),
            Step::DeleteObject => "somebody deletes the object".to_owned(),
            Step::LeaderSeesDeletion(of) => format!("{} sees that the object is being deleted", leader(of)),
            Step::Goodbye(of) => format!("{} takes up the object that is being deleted", leader(of)),
            Step::Remove(of) => format!("all replicas are removed before the object goes, as {} asked", leader(of)),
            Step::Unguard(of) => format!("{} takes the finalizer off", leader(of)),
            Step::Lead(next) => format!("{} begins", leader(next)),
            Step::RestartAgent(member) => format!("{}'s agent starts again", self.name(member)),
            Step::RestartGuardian(member) => format!("{}'s guardian starts again", self.name(member)),
            Step::Unlock(member) => format!("{}'s application drops its lock", self.name(member)),
            Step::Deadline(member, timer, late) => self.deadline(member, timer, late),
            Step::LeaderWakes(of) => format!("a deadline of {} comes", leader(of)),
            Step::Fault(fault) => format!("FAULT: {}", self.fault(fault)),
        }
    }

    fn fault(&self, fault: Fault) -> String {
        match fault {
            Fault::KillAgent(member) => format!("{}'s agent is killed", self.name(member)),
            Fault::KillPod(member) => format!("{}'s agent and freezer are killed", self.name(member)),
            Fault::KillFreezer(member) => format!("{}'s freezer is killed", self.name(member)),
            Fault::KillGuardian(member) => format!("{}'s guardian is killed", self.name(member)),
            Fault::Thaw(member) => format!("somebody else thaws {}", self.name(member)),
            Fault::Freeze(member) => format!("somebody else freezes {}", self.name(member)),
            Fault::Lock(member) => format!("{}'s application takes a lock", self.name(member)),
            Fault::Break(of, member) => format!("the session of {} and {} breaks", leader(of), self.name(member)),
            Fault::Repeat(from, to) => {
                format!(
                    "{}'s agent gets {} from {}, for the first time",
                    self.name(to),
                    self.command(from, to, 0),
                    leader(from)
                )
            }
            Fault::Overtake(from, to) => {
                format!(
                    "{}'s agent gets {} from {} before its turn",
                    self.name(to),
                    self.command(from, to, 1),
                    leader(from)
                )
            }
            Fault::Crash(of) => format!("{} dies", leader(of)),
            Fault::TakeOver(next) => format!("{} begins although another believes that it leads", leader(next)),
            Fault::RefuseCreation(of, member) => {
                format!("the creation of the replica of {} by {} is refused", self.name(member), leader(of))
            }
            Fault::LoseAnswer(of, member) => {
                format!("the replica of {} is created; the answer to {} is lost", self.name(member), leader(of))
            }
            Fault::Early(member, timer, late) => self.deadline(member, timer, late),
            Fault::EarlyWake(of) => format!("a deadline of {} comes", leader(of)),
        }
    }
}

fn said(report: &Report) -> String {
    match report {
        Report::Hello(_) => "Hello".to_owned(),
        Report::Waiting(_) => "Waiting".to_owned(),
        Report::Prepared(_) => "Prepared".to_owned(),
        Report::Ready(ready) => format!("Ready (round {})", ready.round),
        Report::Pending(_) => "Pending".to_owned(),
        Report::NotReady(_) => "NotReady".to_owned(),
        Report::Released(released) => format!("Released ({})", if released.unbroken { "unbroken" } else { "broken" }),
    }
}
