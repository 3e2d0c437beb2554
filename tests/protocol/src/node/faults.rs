//! What others do to a node: faults, restarts, strangers, the application.

use std::time::Instant;

use stillpoint_core::hold::{Hold, Ticket};

use super::{Guarding, Node, Owner, Reports, Request, Thread};

impl Node {
    /// The agent dies; its sockets close. Its sessions are the caller's to end. A freezer that outlives it sees that.
    pub fn kill_agent(&mut self) {
        self.hold = None;
        self.stopped = None;
        self.preflight = 0;
        self.threads.clear();
        self.put_off.clear();
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
}
