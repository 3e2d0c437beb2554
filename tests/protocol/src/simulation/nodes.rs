//! The node side: when each piece of work completes and each deadline fires, and what happens to agents, guardians and pods.

use std::time::Duration;

use rand::Rng;
use stillpoint_core::hold::{Event as HoldEvent, Outcome};
use stillpoint_core::limits::THAW_RETRY;
use stillpoint_core::run::facts::PodFacts;

use super::breaks::Break;
use super::faults::Fault;
use super::world::{Event, World};
use crate::cluster::{claim_name, claim_uid, is_pod_of};
use crate::node::{Reports, Timer, Work};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

impl World {
    /// An event for the agent of a member.
    pub(super) fn tell_agent(&mut self, member: usize, event: HoldEvent) {
        let now = self.instant();
        let reports = self.members[member].node.handle(event, now);
        self.report(reports);
        self.arrange(member);
    }

    fn report(&mut self, reports: Reports) {
        for (session, report) in reports {
            self.send_report(session, report);
        }
    }

    /// Decides when what is pending at a member completes.
    pub(super) fn arrange(&mut self, member: usize) {
        for work in self.members[member].node.pending() {
            if self.members[member].scheduled.contains(&work) || self.is_halted(member, work) {
                continue;
            }
            let takes = match work {
                Work::Preflight(_) => self.latency(3_000, 60_000),
                Work::Look(_) => self.latency(500, 20_000),
                Work::Freezer(_) => self.latency(300, 15_000),
                Work::FreezerDies(_) => self.time(MS / 10, 5 * MS),
                Work::Record(_) => self.latency(20, 500),
                Work::Quiesce(_) | Work::Unquiesce(_) => self.latency(1_000, 200_000),
                Work::Settle(_) | Work::Recover | Work::GuardianThaws(_) => self.time(MS / 10, THAW_RETRY),
                Work::Guardian(_) => self.latency(20, 500),
                Work::FreezerGone | Work::GuardianGone => self.time(MS / 20, 2 * MS),
            };
            let mut at = self.now + takes;
            if let Work::Freezer(place) = work
                && self.members[member].node.is_freezing(place)
            {
                // Of a filesystem that is frozen already the kernel says so at once.
                if self.members[member].node.frozen().is_none() && self.strikes(Fault::FreezeHangs) {
                    self.members[member].hangs_until = self.now + self.time(500 * MS, 20 * S);
                }
                at = at.max(self.members[member].hangs_until);
            }
            let slow = matches!(work, Work::Preflight(_) | Work::Look(_) | Work::Freezer(_));
            if slow && self.strikes(Fault::WorkSlow) {
                at += self.time(200 * MS, 10 * S);
            }
            self.members[member].scheduled.push(work);
            self.queue.put(at, Event::Work { member, work });
        }
        let due =
            self.members[member].node.timers().into_iter().filter(|(timer, _)| !self.is_timer_halted(member, *timer));
        let due = due.map(|(_, due)| due).min();
        self.schedule_timer(member, due.map(|due| due.saturating_duration_since(self.base)));
    }

    /// Queues the earliest deadline, unless it is.
    fn schedule_timer(&mut self, member: usize, due: Option<Duration>) {
        let of = &mut self.members[member];
        let Some(due) = due else {
            (of.timer_due, of.timer) = (None, None);
            return;
        };
        if of.timer.is_some() && of.timer_due == Some(due) {
            return;
        }
        of.timer_due = Some(due);
        let at = due.max(self.now) + self.time(MS / 100, 2 * MS);
        self.members[member].timer = Some(at);
        self.queue.put(at, Event::Timer(member));
    }

    /// Whether a freeze of this member hangs in the kernel.
    pub(super) fn hangs(&self, member: usize) -> bool {
        self.now < self.members[member].hangs_until
    }

    /// Whether whoever does this work is stopped, or stuck in the kernel.
    fn is_halted(&self, member: usize, work: Work) -> bool {
        match work {
            Work::Preflight(_)
            | Work::Look(_)
            | Work::Record(_)
            | Work::Settle(_)
            | Work::Recover
            | Work::Quiesce(_)
            | Work::Unquiesce(_) => self.is_agent_stopped(member),
            Work::Guardian(_) | Work::GuardianThaws(_) => self.is_guardian_stopped(member),
            Work::FreezerDies(_) => self.hangs(member),
            Work::Freezer(_) | Work::FreezerGone | Work::GuardianGone => false,
        }
    }

    fn is_timer_halted(&self, member: usize, timer: Timer) -> bool {
        match timer {
            _ if self.broken == Some(Break::Deadline) => true,
            Timer::Agent => self.is_agent_stopped(member),
            Timer::Guardian(_) => self.is_guardian_stopped(member),
        }
    }

    pub(super) fn is_agent_stopped(&self, member: usize) -> bool {
        self.members[member].pod.is_some_and(|pod| self.pods[pod].stopped)
    }

    pub(super) fn is_guardian_stopped(&self, member: usize) -> bool {
        self.members[member].pod.is_some_and(|pod| self.machines[self.pods[pod].machine].stopped)
    }

    /// A piece of work completes.
    pub(super) fn work(&mut self, member: usize, work: Work) {
        self.members[member].scheduled.retain(|scheduled| *scheduled != work);
        let is_pending = self.members[member].node.pending().contains(&work);
        if is_pending && !self.is_halted(member, work) {
            let now = self.instant();
            let can_fail = matches!(
                work,
                Work::Preflight(_)
                    | Work::Look(_)
                    | Work::Record(_)
                    | Work::Freezer(_)
                    | Work::Quiesce(_)
                    | Work::Unquiesce(_)
            );
            let node = &mut self.members[member].node;
            let unguarded = match work {
                Work::Guardian(_) if self.broken == Some(Break::Guardian) => node.intercept_arm(),
                _ => None,
            };
            let reports = if let Some(ticket) = unguarded {
                node.handle(HoldEvent::Done(ticket, Outcome::Armed), now)
            } else if can_fail && self.strikes(Fault::WorkFails) {
                self.members[member].node.fail(work, now)
            } else {
                self.members[member].node.complete(work, now)
            };
            self.report(reports);
        }
        self.arrange(member);
    }

    /// A deadline may have come.
    pub(super) fn timer(&mut self, member: usize) {
        // A deadline that was put off is still queued for its old time.
        if self.members[member].timer.is_none_or(|at| self.now < at) {
            return;
        }
        self.members[member].timer = None;
        self.fire_due(member);
        self.arrange(member);
    }

    /// Fires what is due.
    pub(super) fn fire_due(&mut self, member: usize) {
        let now = self.instant();
        for (timer, due) in self.members[member].node.timers() {
            if due <= now && !self.is_timer_halted(member, timer) {
                let reports = self.members[member].node.fire(timer, now);
                self.report(reports);
            }
        }
    }

    fn members_of_pod(&self, pod: usize) -> Vec<usize> {
        (0..self.members.len()).filter(|member| self.members[*member].pod == Some(pod)).collect()
    }

    fn members_of_machine(&self, machine: usize) -> Vec<usize> {
        let on = |member: &usize| self.members[*member].pod.is_some_and(|pod| self.pods[pod].machine == machine);
        (0..self.members.len()).filter(on).collect()
    }

    /// Two protect a freeze: the agent, with its freezer, and the guardian. The promise is that one of them may fail, whichever
    /// and however, not both for the same freeze; so the other one must stand while this one falls.
    fn may_lose_agent(&self, pod: usize) -> bool {
        let safe = |member: usize| {
            let node = &self.members[member].node;
            // Who acknowledges without a promise lets the fault come, which is what he is there for.
            let guarded = node.is_guarded() || self.broken == Some(Break::Guardian);
            node.is_at_rest() || (guarded && !self.is_guardian_stopped(member))
        };
        self.members_of_pod(pod).into_iter().all(safe)
    }

    fn may_lose_guardian(&self, machine: usize) -> bool {
        let safe = |member: usize| {
            let node = &self.members[member].node;
            node.is_at_rest() || (node.agent_alive() && !self.is_agent_stopped(member))
        };
        self.members_of_machine(machine).into_iter().all(safe)
    }

    /// Kills the agent of a pod, and with `container` its freezers too.
    pub(super) fn kill_agent(&mut self, pod: usize, container: bool) -> bool {
        if !self.pods[pod].alive || !self.pods[pod].agent || !self.may_lose_agent(pod) {
            return false;
        }
        self.end_agent(pod, container);
        let incarnation = self.pods[pod].incarnation;
        let back = self.now + self.time(200 * MS, 10 * S);
        self.queue.put(back, Event::StartAgent { pod, incarnation });
        true
    }

    fn end_agent(&mut self, pod: usize, container: bool) {
        let ended = &mut self.pods[pod];
        ended.agent = false;
        ended.stopped = false;
        ended.incarnation += 1;
        self.end_sessions_of_agent(pod);
        for member in self.members_of_pod(pod) {
            let node = &mut self.members[member].node;
            node.kill_agent();
            if container {
                node.kill_freezer();
            }
            self.judge.forget_agent(member);
            self.arrange(member);
        }
    }

    pub(super) fn start_agent(&mut self, pod: usize, incarnation: u32) {
        let starting = &mut self.pods[pod];
        if !starting.alive || starting.agent || starting.incarnation != incarnation {
            return;
        }
        starting.agent = true;
        starting.incarnation += 1;
        for member in self.members_of_pod(pod) {
            self.members[member].node.restart_agent();
        }
        for process in 0..self.processes.len() {
            let at = self.now + self.time(5 * MS, 500 * MS);
            self.queue.put(at, Event::OpenSession { pod, process });
        }
    }

    /// Stops the agent of a pod (SIGSTOP).
    pub(super) fn pause_agent(&mut self, pod: usize) -> bool {
        let paused = &self.pods[pod];
        if !paused.alive || !paused.agent || paused.stopped || !self.may_lose_agent(pod) {
            return false;
        }
        self.pods[pod].stopped = true;
        let incarnation = self.pods[pod].incarnation;
        for member in self.members_of_pod(pod) {
            self.members[member].node.stop_agent();
        }
        let time = self.time(5 * MS, 60 * S);
        self.queue.put(self.now + time, Event::ContinueAgent { pod, incarnation });
        self.controllers_notice_silence(pod, time);
        true
    }

    pub(super) fn continue_agent(&mut self, pod: usize, incarnation: u32) {
        let going = &mut self.pods[pod];
        if !going.stopped || going.incarnation != incarnation {
            return;
        }
        going.stopped = false;
        let now = self.instant();
        for member in self.members_of_pod(pod) {
            let reports = self.members[member].node.continue_agent(now);
            self.report(reports);
            self.arrange(member);
        }
    }

    pub(super) fn kill_guardian(&mut self, machine: usize) -> bool {
        if !self.machines[machine].alive || self.machines[machine].stopped || !self.may_lose_guardian(machine) {
            return false;
        }
        self.machines[machine].alive = false;
        for member in self.members_of_machine(machine) {
            self.members[member].node.kill_guardian();
            self.arrange(member);
        }
        let back = self.now + self.time(200 * MS, 20 * S);
        self.queue.put(back, Event::StartGuardian(machine));
        true
    }

    pub(super) fn start_guardian(&mut self, machine: usize) {
        self.machines[machine].alive = true;
        for member in self.members_of_machine(machine) {
            self.members[member].node.restart_guardian();
        }
    }

    pub(super) fn pause_guardian(&mut self, machine: usize) -> bool {
        if !self.machines[machine].alive || self.machines[machine].stopped || !self.may_lose_guardian(machine) {
            return false;
        }
        self.machines[machine].stopped = true;
        let back = self.now + self.time(5 * MS, 60 * S);
        self.queue.put(back, Event::ContinueGuardian(machine));
        true
    }

    pub(super) fn continue_guardian(&mut self, machine: usize) {
        self.machines[machine].stopped = false;
        for member in self.members_of_machine(machine) {
            self.arrange(member);
        }
    }

    pub(super) fn refuse_at_guardian(&mut self, machine: usize, refuse: bool) {
        for member in self.members_of_machine(machine) {
            self.members[member].node.refuse_at_guardian(refuse);
        }
    }

    /// Somebody deletes a pod: its processes end before the API server forgets it, or, forced, after.
    pub(super) fn delete_pod(&mut self, pod: usize) -> bool {
        let uid = self.pod_uid(pod);
        if !self.pods[pod].alive || !self.store.pods.contains_key(&uid) || !self.may_lose_agent(pod) {
            return false;
        }
        // An attempt that begins while a pod is forgotten and writes takes its claims for unmounted, which nothing in the API
        // denies. What an attempt has pinned and declared it misses, and no other one may follow.
        let pinned = self.setting.spec.retry.is_none()
            && self.processes.iter().filter_map(|process| process.driven.as_ref()?.driver.attempt()).any(|attempt| {
                attempt.observed.recorded && attempt.run.members.iter().any(|member| is_pod_of(member, &uid))
            });
        let forced = pinned && self.rng.random_bool(0.5);
        if forced {
            self.store.pods.remove(&uid);
            self.pod_changed(&uid);
            let end = self.now + self.time(10 * MS, 5 * S);
            self.queue.put(end, Event::EndPod(pod));
        } else {
            self.end_pod(pod);
        }
        true
    }

    pub(super) fn end_pod(&mut self, pod: usize) {
        if !self.pods[pod].alive {
            return;
        }
        if !self.may_lose_agent(pod) {
            return self.queue.put(self.now + 100 * MS, Event::EndPod(pod));
        }
        self.end_agent(pod, true);
        self.pods[pod].alive = false;
        let uid = self.pod_uid(pod);
        if self.store.pods.remove(&uid).is_some() {
            self.pod_changed(&uid);
        }
        for member in self.members_of_pod(pod) {
            self.application.mount(member, false);
            self.members[member].node.unlock();
        }
        let back = self.now + self.time(S, 20 * S);
        self.queue.put(back, Event::RecreatePod(pod));
    }

    pub(super) fn recreate_pod(&mut self, pod: usize) {
        let again = &mut self.pods[pod];
        again.alive = true;
        again.generation += 1;
        let incarnation = again.incarnation;
        let facts = self.pod_facts(pod);
        let uid = facts.uid.clone();
        self.store.pods.insert(uid.clone(), facts);
        self.pod_changed(&uid);
        let start = self.now + self.time(100 * MS, 3 * S);
        self.queue.put(start, Event::StartAgent { pod, incarnation });
        for member in self.members_of_pod(pod) {
            let start = self.now + self.time(100 * MS, 5 * S);
            self.queue.put(start, Event::Mounted(member));
        }
    }

    /// A container of the pod restarts: it is another one.
    pub(super) fn restart_container(&mut self, pod: usize) -> bool {
        let uid = self.pod_uid(pod);
        let Some(facts) = self.store.pods.get_mut(&uid) else { return false };
        if facts.containers.is_empty() {
            return false;
        }
        facts.containers.clear();
        self.pod_changed(&uid);
        let back = self.now + self.time(100 * MS, 5 * S);
        self.queue.put(back, Event::ContainerRuns(pod));
        true
    }

    pub(super) fn container_runs(&mut self, pod: usize) {
        self.pods[pod].restarts += 1;
        let facts = self.pod_facts(pod);
        if let Some(stored) = self.store.pods.get_mut(&facts.uid) {
            *stored = facts;
            let uid = self.pod_uid(pod);
            self.pod_changed(&uid);
        }
    }

    /// Somebody deletes a claim; it stays while pods use it.
    pub(super) fn delete_claim(&mut self, member: usize) -> bool {
        let uid = claim_uid(member);
        let Some(claim) = self.store.claims.get_mut(&uid).filter(|claim| !claim.deleting) else { return false };
        claim.deleting = true;
        self.claim_changed(&uid);
        true
    }

    /// A pod has mounted a claim, unless it was deleted before it could.
    pub(super) fn mounted(&mut self, member: usize) {
        let claim = claim_name(member);
        if !self.store.pods.values().any(|pod| pod.claims.contains(&claim)) {
            return;
        }
        if self.members[member].pod.is_none() {
            self.judge.strangers[member].get_or_insert(self.now);
        }
        self.application.mount(member, true);
    }

    /// Another pod, without an agent, mounts a claim. It is known to the API server before it can write.
    pub(super) fn mount_by_another(&mut self, member: usize) -> bool {
        let uid = format!("intruder-{member}");
        if self.store.pods.contains_key(&uid) {
            return false;
        }
        let claims = [claim_name(member)].into();
        let facts = PodFacts { name: uid.clone(), uid: uid.clone(), claims, running: true, ..PodFacts::default() };
        self.store.pods.insert(uid.clone(), facts);
        self.pod_changed(&uid);
        if self.members[member].pod.is_none() {
            let writes = self.now + self.time(MS, 2 * S);
            self.queue.put(writes, Event::Mounted(member));
        }
        true
    }
}
