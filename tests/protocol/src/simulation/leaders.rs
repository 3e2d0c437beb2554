//! The controller processes: which one leads and for how long it may be sure of that, and how they are killed and stopped.
//!
//! The lease is kept as `leadership` of the controller keeps it: renewed every [`LEASE_RENEW`], certain for [`LEASE_GIVES_UP`]
//! after the last renewal that succeeded was begun, and free for others when they have seen it unchanged for
//! [`LEASE_DURATION`]. Renewals are no events of their own; they are made up for whenever somebody wants to know.

use std::time::Duration;

use rand::Rng;
use stillpoint_core::limits::SHUTDOWN_TIMEOUT;
use stillpoint_core::run::effect::Input;
use stillpoint_core::run::sweep::Sweep;
use stillpoint_core::run::turns::Turns;

use super::breaks::Break;
use super::world::{Event, Process, ToProcess, World};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// The controller's default `--lease-duration`, and what follows from it.
const LEASE_DURATION: Duration = Duration::from_secs(15);
const LEASE_RENEW: Duration = Duration::from_secs(3);
const LEASE_GIVES_UP: Duration = Duration::from_secs(10);
/// Runs at the same time. There is one replication.
const MAX_RUNS: usize = 1;

/// What a process has while it believes to lead.
#[derive(Clone, Debug)]
pub(super) struct Lead {
    /// The number of its turn.
    pub epoch: u64,
    /// Whose turn it is.
    pub turns: Turns,
    /// What turned up too late.
    pub sweep: Sweep,
    /// When the last renewal that succeeded was begun.
    renewed: Duration,
    /// When the next one is due.
    renewal: Duration,
}

impl World {
    /// Whether nobody else can lead, as far as the process knows: its tenure.
    pub(super) fn leads(&mut self, process: usize) -> bool {
        self.renew(process);
        self.broken == Some(Break::Tenure) || self.is_certain(process)
    }

    fn is_certain(&self, process: usize) -> bool {
        self.processes[process].leading.as_ref().is_some_and(|lead| self.now - lead.renewed < LEASE_GIVES_UP)
    }

    /// Makes up for the renewals of a process until now. To be called before anything that keeps it from renewing begins.
    pub(super) fn renew(&mut self, process: usize) {
        let of = &mut self.processes[process];
        let runs = of.alive && of.held.is_none() && self.leader == Some(process);
        let Some(lead) = of.leading.as_mut().filter(|lead| lead.renewal <= self.now) else { return };
        let ticks = |time: Duration| u32::try_from(time.as_micros() / LEASE_RENEW.as_micros()).unwrap_or(u32::MAX);
        let last = lead.renewal + LEASE_RENEW * ticks(self.now - lead.renewal);
        let away = self.outage_until.saturating_sub(lead.renewal);
        let first = lead.renewal + LEASE_RENEW * ticks(away + LEASE_RENEW - Duration::from_micros(1));
        // One that comes too late is none: the process ends.
        if runs && first <= last && first - lead.renewed < LEASE_GIVES_UP {
            lead.renewed = last;
        }
        lead.renewal = last + LEASE_RENEW;
    }

    /// The API server goes away for a while.
    pub(super) fn begin_outage(&mut self, time: Duration) {
        for process in 0..self.processes.len() {
            self.renew(process);
            self.watch_lease(process, MS);
        }
        self.outage_until = self.now + time;
    }

    /// The process will look whether its lease has lapsed, at most `late` after that.
    fn watch_lease(&mut self, process: usize, late: Duration) {
        let Some(lapse) = self.processes[process].leading.as_ref().map(|lead| lead.renewed + LEASE_GIVES_UP) else {
            return;
        };
        let incarnation = self.processes[process].incarnation;
        let notices = lapse.max(self.now) + self.time(MS / 10, late);
        self.queue.put(notices, Event::Deposed { process, incarnation });
    }

    /// When others take over a lease that is not renewed any more: each looks every [`LEASE_RENEW`].
    fn lease_is_free(&mut self, process: usize) -> Duration {
        let renewed = self.processes[process].leading.as_ref().map_or(self.now, |lead| lead.renewed);
        (renewed + LEASE_DURATION + self.time(MS, 2 * LEASE_RENEW)).max(self.now)
    }

    /// Until when nobody takes over from a leader that is paused.
    fn lease_of(&self, leader: usize) -> Option<Duration> {
        let paused = Some(&self.processes[leader]).filter(|process| process.alive)?;
        paused.leading.as_ref().map(|lead| lead.renewed + LEASE_DURATION)
    }

    /// One process begins to lead, if none does.
    pub(super) fn lead(&mut self) {
        if self.leader.is_some_and(|leader| self.processes[leader].alive && self.processes[leader].held.is_none()) {
            return;
        }
        // Paused: its lease lasts on. What was to lead may have been told so of another one that was killed before.
        if let Some(until) = self.leader.and_then(|leader| self.lease_of(leader)).filter(|until| self.now < *until) {
            let later = until + self.time(MS, LEASE_RENEW);
            return self.queue.put(later, Event::Lead);
        }
        if self.now < self.outage_until {
            let later = self.outage_until + self.time(MS, LEASE_RENEW);
            return self.queue.put(later, Event::Lead);
        }
        let able = |process: &Process| {
            process.alive && process.held.is_none() && !process.stopping && process.leading.is_none()
        };
        let Some(process) = self.processes.iter().position(able) else {
            return self.queue.put(self.now + S, Event::Lead);
        };
        self.leader = Some(process);
        self.epoch += 1;
        let (epoch, now) = (self.epoch, self.now);
        self.note(|| format!("   controller {process} leads, epoch {epoch}"));
        let (turns, sweep) = (Turns::new(MAX_RUNS), Sweep::default());
        let lead = Lead { epoch, turns, sweep, renewed: now, renewal: now + LEASE_RENEW };
        self.processes[process].leading = Some(lead);
        self.object_seen(process, self.store.object.clone());
        for snapshot in self.store.replicas().into_values() {
            self.send_to_process(process, MS, ToProcess::Snapshot(Box::new(snapshot)));
        }
    }

    /// Kills a process; it starts again after `back`.
    pub(super) fn kill_process(&mut self, process: usize, back: Duration) -> bool {
        if !self.processes[process].alive {
            return false;
        }
        self.renew(process);
        let free = self.lease_is_free(process);
        let incarnation = self.processes[process].incarnation + 1;
        self.processes[process] = Process { incarnation, ..Process::default() };
        self.judge.forget_run(process);
        self.end_sessions_of_process(process);
        self.queue.put(self.now + back, Event::StartProcess(process));
        if self.leader == Some(process) {
            self.leader = None;
            if self.processes.len() > 1 {
                self.queue.put(free, Event::Lead);
            }
        }
        true
    }

    pub(super) fn start_process(&mut self, process: usize) {
        if self.processes[process].alive {
            return;
        }
        let started = self.now;
        let starting = &mut self.processes[process];
        starting.alive = true;
        starting.started = started;
        starting.incarnation += 1;
        if self.leader.is_none() {
            // Its own lease of before, or nobody's.
            let soon = self.time(MS, LEASE_RENEW);
            self.queue.put(self.now + soon, Event::Lead);
        }
    }

    /// Stops a process (SIGSTOP). For long, and another one leads.
    pub(super) fn pause_process(&mut self, process: usize) -> bool {
        self.renew(process);
        let paused = &mut self.processes[process];
        if !paused.alive || paused.held.is_some() {
            return false;
        }
        paused.held = Some(Vec::new());
        let incarnation = paused.incarnation;
        let time = self.time(5 * MS, 60 * S);
        self.queue.put(self.now + time, Event::ContinueProcess { process, incarnation });
        self.peers_notice_silence(process, time);
        let free = self.lease_is_free(process);
        if self.leader == Some(process) && self.now + time > free {
            self.queue.put(free, Event::Lead);
        }
        true
    }

    pub(super) fn continue_process(&mut self, process: usize, incarnation: u32) {
        let going = &mut self.processes[process];
        if going.incarnation != incarnation || !going.alive {
            return;
        }
        for event in going.held.take().unwrap_or_default() {
            self.queue.put(self.now, event);
        }
        // A renewal is overdue.
        if let Some(lead) = &mut self.processes[process].leading {
            lead.renewal = self.now;
        }
        // It finds at once that its time has passed, and ends some time later.
        self.watch_lease(process, LEASE_RENEW);
    }

    /// A process whose lease has lapsed ends.
    pub(super) fn depose(&mut self, process: usize, incarnation: u32) {
        if self.processes[process].incarnation != incarnation || self.processes[process].leading.is_none() {
            return;
        }
        self.renew(process);
        if self.processes[process].held.is_none() && !self.is_certain(process) {
            let back = self.time(500 * MS, 5 * S);
            self.kill_process(process, back);
        }
    }

    /// Tells a process to stop (SIGTERM): it gives writes back first.
    pub(super) fn stop_process(&mut self, process: usize) -> bool {
        let stopping = &mut self.processes[process];
        if !stopping.alive || stopping.held.is_some() || stopping.stopping {
            return false;
        }
        stopping.stopping = true;
        if stopping.driven.is_none() {
            self.exit(process);
            return true;
        }
        self.send_to_process(process, SHUTDOWN_TIMEOUT, ToProcess::StopTimeout);
        self.hear(process, Input::Stop);
        true
    }

    /// A process that was told to stop ends, and gives its lease back.
    pub(super) fn exit(&mut self, process: usize) {
        let back = self.time(500 * MS, 10 * S);
        let led = self.leader == Some(process);
        self.kill_process(process, back);
        if led && self.rng.random_bool(0.9) {
            let soon = self.time(MS, LEASE_RENEW);
            self.queue.put(self.now + soon, Event::Lead);
        }
    }
}
