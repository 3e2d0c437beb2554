//! Removing replicas: the production removal, one request after the other, and the production sweep, which says what turned up
//! too late.

use std::time::Duration;

use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_core::limits::API_RETRY_MAX;
use stillpoint_core::replica::ask::Remove;
use stillpoint_core::replica::removal::{Ask, Deleted, Found, Removal, Scope, Trouble};
use stillpoint_core::run::effect::Input;
use stillpoint_core::run::stub::Stub;
use stillpoint_core::run::sweep::{Judgement, Voided};

use super::api::Request;
use super::breaks::Break;
use super::world::{ToProcess, World};
use crate::cluster::Object;

/// Whom a removal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The driver of this number.
    Driver(u64),
    /// Nobody waits.
    Sweep,
}

/// A removal under way.
#[derive(Clone, Debug)]
pub(super) struct Removing {
    purpose: Purpose,
    removal: Removal,
    /// As it was in the beginning.
    anew: Removal,
}

impl World {
    /// Begins to remove replicas.
    pub(super) fn remove(&mut self, process: usize, purpose: Purpose, removes: Vec<Remove>, scope: Scope) {
        self.last_removal += 1;
        let number = self.last_removal;
        let removal = Removal::new(removes, scope);
        self.processes[process].removals.insert(number, Removing { purpose, anew: removal.clone(), removal });
        if self.broken == Some(Break::Cleanup) {
            return self.removal_ends(process, number);
        }
        self.remove_next(process, number);
    }

    pub(super) fn remove_next(&mut self, process: usize, number: u64) {
        let Some(removing) = self.processes[process].removals.get_mut(&number) else { return };
        match removing.removal.next_ask() {
            Some(Ask::List { .. }) => self.ask(process, Request::List(number)),
            Some(Ask::Delete { name, .. }) => self.ask(process, Request::Delete(number, name)),
            Some(Ask::Pause(pause)) => self.send_to_process(process, pause, ToProcess::RemoveAgain(number)),
            None => self.removal_ends(process, number),
        }
    }

    pub(super) fn removal_listed(&mut self, process: usize, number: u64, listed: Result<Vec<Found>, Trouble>) {
        let Some(removing) = self.processes[process].removals.get_mut(&number) else { return };
        removing.removal.listed(listed);
        self.remove_next(process, number);
    }

    pub(super) fn removal_deleted(&mut self, process: usize, number: u64, result: Result<Deleted, Trouble>) {
        let Some(removing) = self.processes[process].removals.get_mut(&number) else { return };
        removing.removal.deleted(result);
        self.remove_next(process, number);
    }

    fn removal_ends(&mut self, process: usize, number: u64) {
        let Some(Removing { purpose, removal, anew }) = self.processes[process].removals.remove(&number) else {
            return;
        };
        match purpose {
            Purpose::Driver(driver) => {
                let removed = Box::new(Input::Removed(removal.removed()));
                self.send_to_process(process, Duration::ZERO, ToProcess::Input(driver, removed));
            }
            // The sweep tries again by itself.
            Purpose::Sweep if !removal.removed().left.is_empty() => {
                let again = Removing { purpose, removal: anew.clone(), anew };
                self.processes[process].removals.insert(number, again);
                self.send_to_process(process, API_RETRY_MAX, ToProcess::RemoveAgain(number));
            }
            Purpose::Sweep => {}
        }
    }

    /// Attempts were found to be void: what turned up before that was known is looked for once more.
    pub(super) fn sweep_voided(&mut self, process: usize, voided: &Voided) {
        if self.broken != Some(Break::Sweep) {
            self.remove(process, Purpose::Sweep, voided.removes(), Scope::up_to(voided.last_attempt));
        }
    }

    /// The watch of the sweep shows a snapshot.
    pub(super) fn snapshot_seen(&mut self, process: usize, snapshot: Box<VolumeSnapshot>) {
        match self.judge_late(process, &snapshot) {
            Judgement::Leave => {}
            Judgement::Read => self.ask(process, Request::Judge(snapshot)),
            Judgement::Delete => self.delete_late(process, &snapshot),
        }
    }

    /// The object was read for the sweep.
    pub(super) fn read_for_sweep(
        &mut self,
        process: usize,
        snapshot: Box<VolumeSnapshot>,
        read: Result<Option<Box<Object>>, ()>,
    ) {
        let Ok(object) = read else { return self.ask_again(process, Request::Judge(snapshot)) };
        let lead = self.processes[process].leading.as_mut();
        let voided = lead.zip(object).and_then(|(lead, object)| lead.sweep.remember(&Stub::of(&object)));
        if let Some(voided) = voided {
            self.sweep_voided(process, &voided);
        }
        // Of an object that is gone and not remembered nothing is known.
        if self.judge_late(process, &snapshot) == Judgement::Delete {
            self.delete_late(process, &snapshot);
        }
    }

    fn judge_late(&self, process: usize, snapshot: &VolumeSnapshot) -> Judgement {
        let lead = self.processes[process].leading.as_ref().filter(|_| self.broken != Some(Break::Sweep));
        lead.map_or(Judgement::Leave, |lead| lead.sweep.judge(snapshot))
    }

    fn delete_late(&mut self, process: usize, snapshot: &VolumeSnapshot) {
        if let Some(voided) = Voided::by(snapshot) {
            self.remove(process, Purpose::Sweep, voided.removes(), Scope::up_to(voided.last_attempt));
        }
    }
}
