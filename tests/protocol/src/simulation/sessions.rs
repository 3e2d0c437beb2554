//! Sessions between agents and controller processes. Each keeps the order of its messages; what is under way when it ends is
//! lost; each side notices the end in its own time.

use std::time::Duration;

use rand::Rng;
use stillpoint_core::hold::{Command, Event as HoldEvent};
use stillpoint_core::limits::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, SESSION_RETRY_MAX, SESSION_RETRY_MIN};
use stillpoint_core::run::agents::AgentKey;
use stillpoint_core::run::effect::Input;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command as WireCommand;
use stillpoint_core::wire::{self, ControllerMessage};

use super::breaks::Break;
use super::faults::Fault;
use super::telling;
use super::world::{Event, Link, World};
use crate::cluster::member_of;

const MS: Duration = Duration::from_millis(1);
/// How long a side can take at most to notice that its peer is gone.
const SILENCE: Duration =
    Duration::from_millis((KEEPALIVE_INTERVAL.as_millis() + KEEPALIVE_TIMEOUT.as_millis()) as u64);

impl World {
    /// An agent tries to open a session; it tries again for as long as it lives.
    pub(super) fn open_session(&mut self, pod: usize, process: usize) {
        if !self.pods[pod].alive || !self.pods[pod].agent || self.has_session(pod, process) {
            return;
        }
        let to = &self.processes[process];
        // To open one, the controller asks the API server about the agent's token.
        let able = to.alive && to.held.is_none() && !to.stopping && self.now >= self.outage_until;
        if !able || self.pods[pod].stopped {
            return self.reopen(pod, process);
        }
        self.last_link += 1;
        let (id, pod_uid) = (self.last_link, self.pod_uid(pod));
        let link = Link {
            pod,
            pod_uid: pod_uid.clone(),
            pod_incarnation: self.pods[pod].incarnation,
            process,
            incarnation: self.processes[process].incarnation,
            up: true,
            agent_open: true,
            commands_until: self.now,
            reports_until: self.now,
        };
        self.links.insert(id, link);
        if let Some(old) = self.processes[process].registry.get(&pod_uid).copied() {
            self.controller_loses(old);
        }
        self.processes[process].registry.insert(pod_uid.clone(), id);
        self.hear_of_agent(process, &pod_uid, Input::Connected(AgentKey::of_pod(&pod_uid)));
    }

    fn has_session(&self, pod: usize, process: usize) -> bool {
        let open = |link: &Link| link.agent_open && link.pod == pod && link.process == process;
        self.links.values().any(open)
    }

    fn reopen(&mut self, pod: usize, process: usize) {
        let pause = self.time(SESSION_RETRY_MIN, SESSION_RETRY_MAX);
        self.queue.put(self.now + pause, Event::OpenSession { pod, process });
    }

    /// A controller sends a command through the session that its registry has.
    pub(super) fn send_command(&mut self, process: usize, pod_uid: &str, message: ControllerMessage) {
        let Some(id) = self.processes[process].registry.get(pod_uid).copied() else { return };
        let Some(command) = understand(message.clone()) else { return };
        if self.broken == Some(Break::Release) && self.judge.is_unanswered_release(process, &command) {
            return;
        }
        self.judge.sent(process, id, &command);
        let latency = self.latency(80, 2_000);
        let twice = self.strikes(Fault::CommandTwice);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.commands_until = link.commands_until.max(self.now + latency);
        let at = link.commands_until;
        for _ in 0..=usize::from(twice) {
            self.queue.put(at, Event::Command { link: id, message: Box::new(message.clone()) });
        }
    }

    pub(super) fn command_arrives(&mut self, id: u64, message: ControllerMessage) {
        let Some(link) = self.links.get(&id) else { return };
        let there = link.up && link.agent_open && link.pod_incarnation == self.pods[link.pod].incarnation;
        let Some(mut command) = understand(message).filter(|_| there) else { return };
        let Some(member) = member_of(&command.attempt().member) else { return };
        if self.members[member].pod != Some(link.pod) {
            return;
        }
        let stale = self.judge.arrives(member, &command);
        if self.broken == Some(Break::Epoch) {
            set_epoch(&mut command, self.judge.highest(member));
        }
        self.fire_due(member);
        let before = stale.then(|| self.members[member].node.clone());
        let what = telling::command(&command);
        self.tell_agent(member, HoldEvent::Command(id, command));
        if before.is_some_and(|before| before != self.members[member].node) && !self.is_agent_stopped(member) {
            self.violate("an older leader commands nothing", format!("member {member} obeyed {what}"));
        }
    }

    /// An agent reports.
    pub(super) fn send_report(&mut self, id: u64, report: Report) {
        let latency = self.latency(80, 2_000);
        let Some(link) = self.links.get_mut(&id).filter(|link| link.agent_open) else { return };
        link.reports_until = link.reports_until.max(self.now + latency);
        let at = link.reports_until;
        self.queue.put(at, Event::Report { link: id, report: Box::new(report) });
    }

    pub(super) fn report_arrives(&mut self, id: u64, mut report: Report) {
        let Some(link) = self.links.get(&id) else { return };
        let (process, pod_uid) = (link.process, link.pod_uid.clone());
        let to = &mut self.processes[process];
        if !link.up || !to.alive || to.incarnation != link.incarnation || to.registry.get(&pod_uid) != Some(&id) {
            return;
        }
        if let Some(held) = &mut to.held {
            return held.push(Event::Report { link: id, report: Box::new(report) });
        }
        if let Some(epoch) = to.leading.as_ref().map(|lead| lead.epoch) {
            self.judge.heard(process, epoch, &report);
        }
        match (&mut report, self.broken) {
            (Report::NotReady(refused), Some(Break::Ready)) if refused.round > 0 => {
                report = Report::Ready(wire::Ready {
                    attempt: refused.attempt.clone(),
                    round: refused.round,
                    suspended_us: 0,
                });
            }
            (Report::Released(released), Some(Break::Vote)) => released.unbroken = true,
            _ => {}
        }
        self.hear_of_agent(process, &pod_uid, Input::Report(AgentKey::of_pod(&pod_uid), report));
    }

    /// The network cuts one session.
    pub(super) fn cut_any_session(&mut self) -> bool {
        let up: Vec<u64> = self.links.iter().filter(|(_, link)| link.up).map(|(id, _)| *id).collect();
        if up.is_empty() {
            return false;
        }
        let id = up[self.rng.random_range(0..up.len())];
        if let Some(link) = self.links.get_mut(&id) {
            link.up = false;
        }
        let (agent, controller) = (self.time(MS, SILENCE), self.time(MS, SILENCE));
        self.queue.put(self.now + agent, Event::AgentNotices(id));
        self.queue.put(self.now + controller, Event::ControllerNotices(id));
        true
    }

    pub(super) fn agent_notices(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.agent_open) else { return };
        (link.agent_open, link.up) = (false, false);
        let (pod, process) = (link.pod, link.process);
        let alive = link.pod_incarnation == self.pods[pod].incarnation;
        let soon = self.time(MS / 10, SILENCE);
        self.queue.put(self.now + soon, Event::ControllerNotices(id));
        if !alive {
            return;
        }
        for member in 0..self.members.len() {
            if self.members[member].pod == Some(pod) {
                self.tell_agent(member, HoldEvent::SessionLost(id));
            }
        }
        self.reopen(pod, process);
    }

    pub(super) fn controller_notices(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.up = false;
        let process = link.process;
        if let Some(held) = &mut self.processes[process].held {
            return held.push(Event::ControllerNotices(id));
        }
        if self.links[&id].agent_open {
            let soon = self.time(MS / 10, SILENCE);
            self.queue.put(self.now + soon, Event::AgentNotices(id));
        }
        self.controller_loses(id);
    }

    /// The registry of a process drops a session, and its run hears of it.
    fn controller_loses(&mut self, id: u64) {
        let Some(link) = self.links.get(&id) else { return };
        let (process, incarnation, pod_uid) = (link.process, link.incarnation, link.pod_uid.clone());
        let to = &mut self.processes[process];
        if to.incarnation != incarnation || to.registry.get(&pod_uid) != Some(&id) {
            return;
        }
        to.registry.remove(&pod_uid);
        self.hear_of_agent(process, &pod_uid, Input::Lost(AgentKey::of_pod(&pod_uid)));
    }

    /// The network keeps what one session carries back for a while, shorter than either side would call it dead.
    pub(super) fn stall_any_session(&mut self) -> bool {
        let up: Vec<u64> = self.links.iter().filter(|(_, link)| link.up).map(|(id, _)| *id).collect();
        if up.is_empty() {
            return false;
        }
        let id = up[self.rng.random_range(0..up.len())];
        let until = self.now + self.time(50 * MS, SILENCE);
        if let Some(link) = self.links.get_mut(&id) {
            link.commands_until = link.commands_until.max(until);
            link.reports_until = link.reports_until.max(until);
        }
        true
    }

    /// A process ends, and with it its sessions. What it has sent arrives before the end is noticed.
    pub(super) fn end_sessions_of_process(&mut self, process: usize) {
        let open = |link: &&Link| link.process == process && link.agent_open;
        let ended: Vec<(u64, Duration)> =
            self.links.iter().filter(|(_, link)| open(link)).map(|(id, link)| (*id, link.commands_until)).collect();
        for (id, sent) in ended {
            let notices = self.now + self.time(MS / 10, SILENCE);
            self.queue.put(notices.max(sent), Event::AgentNotices(id));
        }
    }

    /// An agent ends, and with it its sessions.
    pub(super) fn end_sessions_of_agent(&mut self, pod: usize) {
        let ended: Vec<u64> =
            self.links.iter().filter(|(_, link)| link.pod == pod && link.agent_open).map(|(id, _)| *id).collect();
        for id in ended {
            if let Some(link) = self.links.get_mut(&id) {
                (link.up, link.agent_open) = (false, false);
            }
            let notices = self.time(MS / 10, SILENCE);
            self.queue.put(self.now + notices, Event::ControllerNotices(id));
        }
    }

    /// A stopped process answers no keep-alive.
    pub(super) fn peers_notice_silence(&mut self, process: usize, time: Duration) {
        let open: Vec<u64> =
            self.links.iter().filter(|(_, link)| link.process == process && link.up).map(|(id, _)| *id).collect();
        for id in open {
            let notices = self.time(KEEPALIVE_TIMEOUT, SILENCE);
            if time > notices {
                self.queue.put(self.now + notices, Event::AgentNotices(id));
            }
        }
    }

    /// A stopped agent answers no keep-alive either.
    pub(super) fn controllers_notice_silence(&mut self, pod: usize, time: Duration) {
        let open: Vec<u64> =
            self.links.iter().filter(|(_, link)| link.pod == pod && link.up).map(|(id, _)| *id).collect();
        for id in open {
            let notices = self.time(KEEPALIVE_TIMEOUT, SILENCE);
            if time > notices {
                self.queue.put(self.now + notices, Event::ControllerNotices(id));
            }
        }
    }
}

/// A message as the agent's session understands it.
pub(super) fn understand(message: ControllerMessage) -> Option<Command> {
    Some(match message.command? {
        WireCommand::Prepare(prepare) => Command::Prepare(prepare.attempt.clone()?, Box::new(prepare)),
        WireCommand::Suspend(suspend) => Command::Suspend(suspend.attempt?, suspend.round),
        WireCommand::Release(release) => Command::Release(release.attempt?),
    })
}

fn set_epoch(command: &mut Command, epoch: u64) {
    match command {
        Command::Prepare(attempt, _) | Command::Suspend(attempt, _) | Command::Release(attempt) => {
            attempt.epoch = attempt.epoch.max(epoch);
        }
    }
}
