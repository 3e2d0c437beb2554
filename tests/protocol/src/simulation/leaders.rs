//! The controller processes: which one leads, what reaches it, and what its run, its goodbye and its sweeper do.

use std::time::Duration;

use rand::Rng;
use stillpoint_api::Phase;
use stillpoint_core::limits::{API_RETRY_MAX, API_RETRY_MIN, SHUTDOWN_TIMEOUT};
use stillpoint_core::run::state::Stage;

use super::api::{Purpose, Request};
use super::breaks::Break;
use super::world::{Event, Process, ToProcess, World};
use crate::controller::{
    Changed, Controller, Event as Heard, Goodbye, Object, Output, Sweeper, Unanswered, is_refused, refusal,
};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// The controller's default `--lease-duration`, and how often it renews such a lease.
const LEASE_DURATION: Duration = Duration::from_secs(15);
const LEASE_RENEW: Duration = Duration::from_secs(3);

impl World {
    /// Something will reach the process, if it is still the same one then.
    pub(super) fn send_to_process(&mut self, process: usize, after: Duration, what: ToProcess) {
        let incarnation = self.processes[process].incarnation;
        self.queue.put(self.now + after, Event::Process { process, incarnation, what });
    }

    /// Whether an event reaches its process now. A stopped one takes it when it goes on.
    pub(super) fn reaches(&mut self, process: usize, incarnation: u32, what: &ToProcess) -> bool {
        let to = &mut self.processes[process];
        if !to.alive || to.incarnation != incarnation {
            return false;
        }
        if let Some(held) = &mut to.held {
            held.push(Event::Process { process, incarnation, what: what.clone() });
            return false;
        }
        true
    }

    pub(super) fn at_process(&mut self, process: usize, what: ToProcess) {
        match what {
            ToProcess::Run(run, event) => {
                if self.processes[process].run_number == run {
                    self.hear(process, *event);
                }
            }
            ToProcess::Wake => {
                // A wake that was put off is still queued for its old time.
                if self.processes[process].wake.is_some_and(|at| at <= self.now) {
                    self.processes[process].wake = None;
                    self.turn(process);
                }
            }
            ToProcess::Begin => self.begin_work(process),
            ToProcess::Begun(read) => self.begun(process, read.map(|object| object.map(|object| *object))),
            ToProcess::Object(object) => self.object_seen(process, object.map(|object| *object)),
            ToProcess::Snapshot(name) => {
                let stored = self.store.object.clone();
                let outputs = self.processes[process].sweeper.snapshot(&name, stored.as_ref());
                for output in outputs {
                    self.carry_out(process, output, Purpose::Sweep);
                }
            }
            ToProcess::Listed(deletion, listed) => self.listed(process, deletion, listed),
            ToProcess::Deleted(deletion, name, result) => self.one_deleted(process, deletion, name, result),
            ToProcess::DeleteAgain(deletion) => self.delete_again(process, deletion),
            ToProcess::PodsAgain(run) => {
                let pause = self.time(API_RETRY_MIN, API_RETRY_MAX);
                if self.processes[process].run.is_some() && self.processes[process].run_number == run {
                    self.queue.put(
                        self.now + pause,
                        Event::Request {
                            process,
                            incarnation: self.processes[process].incarnation,
                            request: Request::Pods { run },
                            fate: super::api::Fate::Answered,
                        },
                    );
                }
            }
            ToProcess::GoodbyeBegins(read) => self.goodbye_begins(process, read.map(|object| object.map(|it| *it))),
            ToProcess::GoodbyeRead(read) => {
                let Some(goodbye) = &mut self.processes[process].goodbye else { return };
                let next = goodbye.read(read.as_ref().map(Option::as_deref).map_err(|error| *error));
                self.goodbye_goes_on(process, next);
            }
            ToProcess::Unfinalized(result) => {
                let Some(goodbye) = &mut self.processes[process].goodbye else { return };
                let next = goodbye.patched(result);
                self.goodbye_goes_on(process, next);
            }
            ToProcess::StopTimeout => self.exit(process),
        }
    }

    /// An event for the run, and then its turn.
    pub(super) fn hear(&mut self, process: usize, event: Heard) {
        let now = self.moment(process);
        let Some(run) = &mut self.processes[process].run else { return };
        run.hear(event, now);
        self.turn(process);
    }

    fn turn(&mut self, process: usize) {
        let now = self.moment(process);
        let Some(run) = &mut self.processes[process].run else { return };
        let stage = run.run.stage.clone();
        let outputs = run.turn(now);
        let (after, over, wake) = (run.run.stage.clone(), run.is_over(), run.wake_at());
        if after != stage {
            self.note(|| format!("   controller {process}: {after:?}"));
        }
        let number = self.processes[process].run_number;
        for output in outputs {
            self.carry_out(process, output, Purpose::Run(number));
        }
        if after == Stage::Ended && stage != Stage::Ended {
            self.judge_end_of_run(process);
        }
        if over {
            return self.run_is_over(process);
        }
        if let Some(wake) = wake.filter(|wake| *wake <= now.monotonic) {
            self.violate(
                "no busy loop",
                format!("controller {process} waits for {wake:?}, and it is {:?}", now.monotonic),
            );
        }
        self.schedule_wake(process, wake);
    }

    /// Queues the run's timer, unless it is.
    fn schedule_wake(&mut self, process: usize, wake: Option<Duration>) {
        let to = &mut self.processes[process];
        let Some(due) = wake.map(|wake| to.started + wake) else {
            to.wake_due = None;
            to.wake = None;
            return;
        };
        if to.wake.is_some() && to.wake_due == Some(due) {
            return;
        }
        to.wake_due = Some(due);
        let at = due.max(self.now) + self.time(MS / 100, MS * 2);
        self.processes[process].wake = Some(at);
        self.send_to_process(process, at - self.now, ToProcess::Wake);
    }

    fn carry_out(&mut self, process: usize, output: Output, purpose: Purpose) {
        let run = self.processes[process].run_number;
        match output {
            Output::Send { pod, message } => self.send_command(process, &pod, message),
            Output::CreateSnapshots(snapshots) => {
                self.judge_request_to_cut(process);
                for snapshot in snapshots {
                    self.ask(process, Request::Create { run, snapshot: Box::new(snapshot) });
                }
            }
            Output::DeleteReplicas(names) => self.delete_replicas(process, purpose, names, false),
            Output::DeleteLate(name) => self.delete_replicas(process, purpose, vec![name], true),
            Output::RecheckPods => {
                if self.broken == Some(Break::Recheck) {
                    let Some(run) = &self.processes[process].run else { return };
                    let event = Box::new(Heard::Rechecked(run.observed.pods.clone()));
                    let number = self.processes[process].run_number;
                    return self.send_to_process(process, MS, ToProcess::Run(number, event));
                }
                self.ask(process, Request::Pods { run });
            }
            Output::PutStatus { version, status } => self.ask(process, Request::Put { run, version, status }),
            Output::GetObject if purpose == Purpose::Goodbye => self.ask(process, Request::GoodbyeRead),
            Output::GetObject => self.ask(process, Request::Get { run }),
            Output::RemoveFinalizer { version } => self.ask(process, Request::Unfinalize { version }),
        }
    }

    /// The supervisor starts what needs work.
    fn begin_work(&mut self, process: usize) {
        let from = &mut self.processes[process];
        let busy = from.run.is_some() || from.goodbye.is_some() || from.beginning;
        if from.leading.is_none() || from.stopping || busy {
            return;
        }
        from.beginning = true;
        from.deletion_seen = false;
        self.ask(process, Request::Begin);
    }

    fn try_again(&mut self, process: usize) {
        let from = &mut self.processes[process];
        from.beginning = false;
        from.goodbye = None;
        from.failures += 1;
        let pause = API_RETRY_MIN.saturating_mul(1 << from.failures.min(10)).min(API_RETRY_MAX);
        self.send_to_process(process, pause, ToProcess::Begin);
    }

    fn begun(&mut self, process: usize, read: Result<Option<Object>, ()>) {
        let Ok(object) = read else { return self.try_again(process) };
        let from = &mut self.processes[process];
        from.beginning = false;
        let (Some(object), Some(epoch)) = (object, from.leading) else { return };
        if phase(&object).is_some_and(Phase::is_final) {
            return self.part(process);
        }
        let fresh = object.status.as_ref().is_none_or(|status| status.attempt == 0);
        let now = self.moment(process);
        if fresh && !object.deleting && is_refused(&object, &self.store) {
            let status = refusal(&object, now);
            let before = object.status.clone();
            return match self.store.put_status(object.version, status.clone()) {
                Ok(_) => {
                    self.judge_status(process, before.as_ref(), &status);
                    self.object_changed();
                }
                Err(_) => self.try_again(process),
            };
        }
        let sessions = self.processes[process].registry.keys().cloned().collect();
        let version = self.store.object.as_ref().map(|object| object.version);
        let run = Controller::take_over(epoch, &object, &mut self.store, sessions, now);
        if self.store.object.as_ref().map(|object| object.version) != version {
            self.object_changed();
        }
        let run = match run {
            Ok(Some(run)) => run,
            Ok(None) => return self.part(process),
            Err(Changed) => return self.try_again(process),
        };
        let from = &mut self.processes[process];
        from.failures = 0;
        from.run_number += 1;
        from.run = Some(run);
        self.judge.begin_run(process);
        self.turn(process);
    }

    fn run_is_over(&mut self, process: usize) {
        self.processes[process].run = None;
        self.part(process);
    }

    /// After a run: says goodbye to an object that is being deleted.
    fn part(&mut self, process: usize) {
        let from = &mut self.processes[process];
        if from.newest.as_ref().is_some_and(|object| object.deleting) {
            from.beginning = true;
            return self.ask(process, Request::GoodbyeBegins);
        }
        self.rest(process);
    }

    /// Nothing is to be done now, unless a deletion was seen meanwhile.
    fn rest(&mut self, process: usize) {
        let from = &mut self.processes[process];
        from.failures = 0;
        if from.stopping {
            return self.exit(process);
        }
        if from.deletion_seen {
            self.begin_work(process);
        }
    }

    fn goodbye_begins(&mut self, process: usize, read: Result<Option<Object>, ()>) {
        let Ok(object) = read else { return self.try_again(process) };
        self.processes[process].beginning = false;
        let Some(object) = object else { return self.rest(process) };
        let (goodbye, next) = Goodbye::begin(&object);
        self.processes[process].goodbye = Some(goodbye);
        self.goodbye_goes_on(process, Ok(next));
    }

    pub(super) fn goodbye_deleted(&mut self, process: usize) {
        if let Some(goodbye) = &mut self.processes[process].goodbye {
            let next = goodbye.deleted();
            self.goodbye_goes_on(process, Ok(next));
        }
    }

    fn goodbye_goes_on(&mut self, process: usize, next: Result<Option<Output>, Unanswered>) {
        match next {
            Err(Unanswered) => self.try_again(process),
            Ok(Some(output)) => self.carry_out(process, output, Purpose::Goodbye),
            Ok(None) => {
                self.processes[process].goodbye = None;
                self.processes[process].deletion_seen = false;
                self.rest(process);
            }
        }
    }

    /// The supervisor's watch.
    fn object_seen(&mut self, process: usize, object: Option<Object>) {
        let from = &mut self.processes[process];
        let swept = object.as_ref().and_then(|object| from.sweeper.object(object));
        let deleting = object.as_ref().is_none_or(|object| object.deleting);
        let needs_work = object.as_ref().is_some_and(|object| {
            if object.deleting { object.finalizer } else { !phase(object).is_some_and(Phase::is_final) }
        });
        from.deletion_seen |= deleting && object.is_some();
        from.newest = object;
        if let Some(output) = swept {
            self.carry_out(process, output, Purpose::Sweep);
        }
        if deleting && self.processes[process].run.is_some() {
            self.hear(process, Heard::Deletion);
        }
        if needs_work {
            self.begin_work(process);
        }
    }

    /// One process begins to lead, if none does.
    pub(super) fn lead(&mut self) {
        if self.leader.is_some_and(|leader| self.processes[leader].alive && self.processes[leader].held.is_none()) {
            return;
        }
        let able = |process: &Process| process.alive && process.held.is_none() && !process.stopping;
        let Some(process) = self.processes.iter().position(able) else {
            return self.queue.put(self.now + S, Event::Lead);
        };
        self.leader = Some(process);
        self.epoch += 1;
        let epoch = self.epoch;
        self.note(|| format!("   controller {process} leads, epoch {epoch}"));
        let leader = &mut self.processes[process];
        leader.leading = Some(epoch);
        leader.sweeper = Sweeper::default();
        self.object_seen(process, self.store.object.clone());
        let names: Vec<String> = self
            .store
            .snapshots
            .iter()
            .filter(|(_, snapshot)| snapshot.metadata.labels.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.send_to_process(process, MS, ToProcess::Snapshot(name));
        }
    }

    /// Kills a process; it starts again after `back`.
    pub(super) fn kill_process(&mut self, process: usize, back: Duration) -> bool {
        if !self.processes[process].alive {
            return false;
        }
        let incarnation = self.processes[process].incarnation + 1;
        self.processes[process] = Process { incarnation, ..Process::default() };
        self.judge.forget_run(process);
        self.end_sessions_of_process(process);
        self.queue.put(self.now + back, Event::StartProcess(process));
        if self.leader == Some(process) {
            self.leader = None;
            if self.processes.len() > 1 {
                // The lease runs out when another one has seen it unchanged for its whole time.
                let lapse = LEASE_DURATION + self.time(MS, LEASE_RENEW);
                self.queue.put(self.now + lapse, Event::Lead);
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
        let paused = &mut self.processes[process];
        if !paused.alive || paused.held.is_some() {
            return false;
        }
        paused.held = Some(Vec::new());
        let incarnation = paused.incarnation;
        let time = self.time(5 * MS, 60 * S);
        self.queue.put(self.now + time, Event::ContinueProcess { process, incarnation });
        self.peers_notice_silence(process, time);
        if self.leader == Some(process) && time > LEASE_DURATION {
            let lapse = LEASE_DURATION + self.time(MS, LEASE_RENEW);
            self.queue.put(self.now + lapse, Event::Lead);
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
        if self.processes[process].leading.is_some() && self.leader != Some(process) {
            let notices = self.time(MS / 10, LEASE_RENEW);
            self.queue.put(self.now + notices, Event::Deposed { process, incarnation });
        }
    }

    /// A process that leads no longer ends.
    pub(super) fn depose(&mut self, process: usize, incarnation: u32) {
        if self.processes[process].incarnation == incarnation && self.leader != Some(process) {
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
        if stopping.run.is_none() {
            self.exit(process);
            return true;
        }
        self.send_to_process(process, SHUTDOWN_TIMEOUT, ToProcess::StopTimeout);
        self.hear(process, Heard::Stop);
        true
    }

    /// A process that was told to stop ends, and gives its lease back.
    fn exit(&mut self, process: usize) {
        let back = self.time(500 * MS, 10 * S);
        let led = self.leader == Some(process);
        self.kill_process(process, back);
        if led && self.rng.random_bool(0.9) {
            let soon = self.time(MS, LEASE_RENEW);
            self.queue.put(self.now + soon, Event::Lead);
        }
    }
}

fn phase(object: &Object) -> Option<Phase> {
    object.status.as_ref().and_then(|status| status.phase)
}
