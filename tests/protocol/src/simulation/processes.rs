//! What reaches a controller process: its watches, its timer, the answers to its requests.

use std::sync::Arc;
use std::time::Duration;

use stillpoint_core::limits::{API_RETRY_MAX, API_RETRY_MIN};
use stillpoint_core::run::effect::Input;
use stillpoint_core::run::stub::Stub;

use super::api::Request;
use super::world::{Event, ToProcess, World};
use crate::cluster::{Object, UID, is_deleting};

const MS: Duration = Duration::from_millis(1);

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
            ToProcess::Input(driver, input) => self.hear_as(process, driver, *input),
            ToProcess::Following(driver, facts, agents) => self.following(process, driver, facts, agents),
            ToProcess::Wake => {
                // A wake that was put off is still queued for its old time.
                if self.processes[process].wake.is_some_and(|at| at <= self.now) {
                    self.processes[process].wake = None;
                    self.go_on(process);
                }
            }
            ToProcess::Object(object) => self.object_seen(process, object.map(|object| *object)),
            ToProcess::Snapshot(snapshot) => self.snapshot_seen(process, snapshot),
            ToProcess::Judged(snapshot, read) => self.read_for_sweep(process, snapshot, read),
            ToProcess::Listed(removal, listed) => self.removal_listed(process, removal, listed),
            ToProcess::Deleted(removal, result) => self.removal_deleted(process, removal, result),
            ToProcess::RemoveAgain(removal) => self.remove_next(process, removal),
            ToProcess::AskAgain(request) => self.ask(process, *request),
            ToProcess::AskLater(request) => self.ask_again(process, *request),
            ToProcess::PodsAgain(driver) => self.ask_again(process, Request::Pods { driver }),
            ToProcess::StopTimeout => self.exit(process),
        }
    }

    /// After a pause.
    pub(super) fn ask_again(&mut self, process: usize, request: Request) {
        let pause = self.time(API_RETRY_MIN, API_RETRY_MAX);
        self.send_to_process(process, pause, ToProcess::AskAgain(Box::new(request)));
    }

    /// The watch of the replications.
    pub(super) fn object_seen(&mut self, process: usize, object: Option<Object>) {
        let now = self.moment(process);
        let to = &mut self.processes[process];
        let Some(lead) = &mut to.leading else { return };
        let voided = match &object {
            Some(object) => {
                let stub = Arc::new(Stub::of(object));
                lead.turns.update(stub.clone(), now.monotonic);
                lead.sweep.remember(&stub)
            }
            None => {
                lead.turns.gone(UID);
                None
            }
        };
        let deleted = object.as_ref().is_none_or(is_deleting);
        to.newest = object;
        if let Some(voided) = voided {
            self.sweep_voided(process, &voided);
        }
        if deleted && self.processes[process].driven.is_some() {
            self.hear(process, Input::Deletion);
        }
        self.go_on(process);
    }

    /// Queues the timer, unless it is.
    pub(super) fn schedule_wake(&mut self, process: usize) {
        let of = &mut self.processes[process];
        let driver = of.driven.as_ref().and_then(|driven| driven.driver.wake_at());
        let turns = of.leading.as_ref().filter(|_| of.driven.is_none()).and_then(|lead| lead.turns.wake_at());
        let Some(due) = [driver, turns].into_iter().flatten().min().map(|wake| of.started + wake) else {
            of.wake_due = None;
            of.wake = None;
            return;
        };
        if of.wake.is_some() && of.wake_due == Some(due) {
            return;
        }
        of.wake_due = Some(due);
        let at = due.max(self.now) + self.time(MS / 100, MS * 2);
        self.processes[process].wake = Some(at);
        self.send_to_process(process, at - self.now, ToProcess::Wake);
    }
}
