//! The faults, and how each is brought about.

use std::time::Duration;

use rand::Rng;
use stillpoint_core::run::effect::Input;

use super::setting::spread;
use super::world::{Event, Process, ToProcess, World};
use crate::node::Owner;

macro_rules! faults {
    ($($name:ident $what:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $(#[doc = $what] $name,)*
        }

        impl Fault {
            /// All kinds.
            pub const ALL: [Self; [$($what),*].len()] = [$(Self::$name),*];

            /// What happens.
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$name => $what,)*
                }
            }
        }
    };
}

faults! {
    AgentKilled "agent killed",
    AgentPaused "agent paused",
    PodKilled "agent and freezer killed",
    FreezerKilled "freezer killed",
    GuardianKilled "guardian killed",
    GuardianPaused "guardian paused",
    GuardianRefuses "guardian refuses newcomers",
    FreezeHangs "freeze hangs in the kernel",
    WorkFails "I/O error, or a look that is blind",
    WorkSlow "slow storage",
    ForeignFreeze "somebody else freezes",
    ForeignThaw "somebody else thaws",
    LockTaken "application takes a lock",
    SessionCut "session cut",
    SessionStalls "session stalls",
    CommandTwice "command repeated",
    EventsMissed "controller misses agents' events",
    ApiRefuses "API request refused",
    ApiLostRequest "API request lost",
    ApiLostAnswer "API answer lost",
    ApiSlow "API request slow, or later than its timeout",
    ApiOutage "API server away",
    DeletionDenied "deletions of snapshots denied for a while",
    WatchLags "watch lags",
    SnapshotSlow "snapshot slow",
    SnapshotFails "snapshot fails",
    SnapshotNever "snapshot never taken",
    SnapshotDeleted "somebody deletes a snapshot",
    SnapshotBefore "snapshot's name taken before",
    StatusConflict "somebody else writes to the object",
    ObjectDeleted "object deleted",
    PodDeleted "pod deleted",
    ContainerRestarted "container restarted",
    ClaimDeleted "claim deleted",
    ClaimMounted "another pod mounts a claim",
    ControllerKilled "controller killed",
    ControllerPaused "controller paused",
    ControllerStopped "controller told to stop",
    ClockJumps "wall clock jumps",
}

/// How many there are.
pub(super) const KINDS: usize = Fault::ALL.len();

/// How probable each kind is among the others.
#[derive(Clone, Debug)]
pub(super) struct Weights([u32; KINDS]);

impl Default for Weights {
    fn default() -> Self {
        Self([0; KINDS])
    }
}

impl Weights {
    /// Sets one.
    pub fn set(&mut self, fault: Fault, weight: u32) {
        self.0[fault as usize] = weight;
    }

    fn choose(&self, rng: &mut impl Rng) -> Option<Fault> {
        let total: u32 = self.0.iter().sum();
        if total == 0 {
            return None;
        }
        let mut at = rng.random_range(0..total);
        Fault::ALL.into_iter().find(|fault| {
            let weight = self.0[*fault as usize];
            let found = at < weight;
            at = at.saturating_sub(weight);
            found
        })
    }
}

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

impl World {
    /// After every step: perhaps a fault.
    pub(super) fn perhaps_fault(&mut self) {
        let rate = self.setting.fault_rate;
        if self.faults_left == 0 || !self.rng.random_bool(rate) {
            return;
        }
        let Some(fault) = self.setting.weights.choose(&mut self.rng) else { return };
        if self.inject(fault) {
            self.faults_left -= 1;
            self.counts[fault as usize] += 1;
            self.note(|| format!("!! {}", fault.what()));
        }
    }

    /// Brings it about, if it can be now.
    fn inject(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::AgentKilled => self.with_pod(|world, pod| world.kill_agent(pod, false)),
            Fault::PodKilled => self.with_pod(|world, pod| world.kill_agent(pod, true)),
            Fault::AgentPaused => self.with_pod(World::pause_agent),
            Fault::FreezerKilled => self.with_member(World::kill_freezer),
            Fault::GuardianKilled => self.with_machine(World::kill_guardian),
            Fault::GuardianPaused => self.with_machine(World::pause_guardian),
            Fault::GuardianRefuses => self.with_machine(World::have_guardian_refuse),
            Fault::ForeignFreeze => self.with_member(World::foreign_freeze),
            Fault::ForeignThaw => self.with_member(World::foreign_thaw),
            Fault::LockTaken => self.with_member(|world, member| world.lock(member)),
            Fault::SessionCut => self.cut_any_session(),
            Fault::SessionStalls => self.stall_any_session(),
            Fault::EventsMissed => self.miss_events(),
            Fault::ApiOutage => {
                let time = self.time(100 * MS, 40 * S);
                self.begin_outage(time);
                true
            }
            Fault::WatchLags => {
                let stream = self.rng.random_range(0..self.lag_until.len());
                self.lag_until[stream] = self.now + self.time(100 * MS, 20 * S);
                true
            }
            Fault::SnapshotDeleted => self.delete_any_snapshot(),
            Fault::SnapshotBefore => self.create_early_snapshot(),
            Fault::StatusConflict => self.touch_object(),
            Fault::ObjectDeleted => self.delete_object(),
            Fault::PodDeleted => self.with_pod(World::delete_pod),
            Fault::ContainerRestarted => self.with_pod(World::restart_container),
            Fault::ClaimDeleted => self.with_member(World::delete_claim),
            Fault::ClaimMounted => self.mount_any_claim(),
            Fault::ControllerKilled => self.with_process(|world, process| {
                let back = world.time(50 * MS, 20 * S);
                world.kill_process(process, back)
            }),
            Fault::ControllerPaused => self.with_process(World::pause_process),
            Fault::ControllerStopped => self.with_process(World::stop_process),
            Fault::ClockJumps => {
                self.wall_offset += self.rng.random_range(-3_600_000..3_600_000);
                true
            }
            // The next operation of its kind fails.
            Fault::FreezeHangs
            | Fault::WorkFails
            | Fault::WorkSlow
            | Fault::CommandTwice
            | Fault::ApiRefuses
            | Fault::ApiLostRequest
            | Fault::ApiLostAnswer
            | Fault::ApiSlow
            | Fault::DeletionDenied
            | Fault::SnapshotSlow
            | Fault::SnapshotFails
            | Fault::SnapshotNever => {
                self.ordered[fault as usize] += 1;
                true
            }
        }
    }

    fn kill_freezer(&mut self, member: usize) -> bool {
        if !self.members[member].node.freezer_alive() || self.hangs(member) {
            return false;
        }
        self.members[member].node.kill_freezer();
        self.arrange(member);
        true
    }

    fn have_guardian_refuse(&mut self, machine: usize) -> bool {
        self.refuse_at_guardian(machine, true);
        let until = self.now + self.time(S, 30 * S);
        self.queue.put(until, Event::GuardianAccepts(machine));
        true
    }

    fn foreign_thaw(&mut self, member: usize) -> bool {
        let frozen = self.members[member].node.frozen().is_some();
        if frozen {
            self.members[member].node.third_party_thaw();
            self.arrange(member);
        }
        frozen
    }

    fn mount_any_claim(&mut self) -> bool {
        let unmounted = self.members.iter().position(|member| member.pod.is_none());
        match unmounted.filter(|_| self.rng.random_bool(0.7)) {
            Some(member) => self.mount_by_another(member),
            None => self.with_member(World::mount_by_another),
        }
    }

    /// Whether the operation at hand is the one that a fault was ordered for.
    pub(super) fn strikes(&mut self, fault: Fault) -> bool {
        let ordered = &mut self.ordered[fault as usize];
        let strikes = *ordered > 0;
        *ordered = ordered.saturating_sub(1);
        strikes
    }

    /// A random time between two.
    pub(super) fn time(&mut self, low: Duration, high: Duration) -> Duration {
        spread(&mut self.rng, low, high)
    }

    fn with_pod(&mut self, act: impl FnOnce(&mut Self, usize) -> bool) -> bool {
        if self.pods.is_empty() {
            return false;
        }
        let pod = self.rng.random_range(0..self.pods.len());
        act(self, pod)
    }

    fn with_member(&mut self, act: impl FnOnce(&mut Self, usize) -> bool) -> bool {
        let member = self.rng.random_range(0..self.members.len());
        act(self, member)
    }

    fn with_machine(&mut self, act: impl FnOnce(&mut Self, usize) -> bool) -> bool {
        let machine = self.rng.random_range(0..self.machines.len());
        act(self, machine)
    }

    /// Mostly the leader: the others have little to lose.
    fn with_process(&mut self, act: impl FnOnce(&mut Self, usize) -> bool) -> bool {
        let leader = self.processes.iter().position(|process| process.leading.is_some());
        let any = self.rng.random_range(0..self.processes.len());
        let process = if self.rng.random_bool(0.8) { leader.unwrap_or(any) } else { any };
        act(self, process)
    }

    /// The queue of what is driven was full.
    fn miss_events(&mut self) -> bool {
        let attempts = |process: &Process| process.driven.as_ref().is_some_and(|it| it.driver.attempt().is_some());
        let Some(process) = self.processes.iter().position(attempts) else { return false };
        let driver = self.processes[process].drivers;
        self.send_to_process(process, Duration::ZERO, ToProcess::Input(driver, Box::new(Input::Missed)));
        true
    }

    /// Not while ours stands or is about to: a thaw and a freeze of somebody else behind our back cannot be told from ours by
    /// anybody, and are outside of what the hold proves.
    fn foreign_freeze(&mut self, member: usize) -> bool {
        let node = &mut self.members[member].node;
        if node.frozen().is_some() || !node.is_at_rest() || node.is_guarded() {
            return false;
        }
        node.third_party_freeze();
        let until = self.now + self.time(5 * MS, 20 * S);
        self.queue.put(until, Event::ForeignThaw(member));
        self.arrange(member);
        true
    }

    pub(super) fn end_foreign_freeze(&mut self, member: usize) {
        if self.members[member].node.frozen() == Some(Owner::Other) {
            self.members[member].node.third_party_thaw();
            self.arrange(member);
        }
    }

    fn lock(&mut self, member: usize) -> bool {
        if self.members[member].node.locked() || self.members[member].pod.is_none() {
            return false;
        }
        self.members[member].node.lock();
        let until = self.now + self.time(5 * MS, 25 * S);
        self.queue.put(until, Event::Unlock(member));
        true
    }
}
