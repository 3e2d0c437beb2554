//! What is driven: the turns of the production driver, and how its effects are carried out.

use std::collections::BTreeSet;

use stillpoint_core::limits::MAX_HOLD;
use stillpoint_core::run::agents::AgentKey;
use stillpoint_core::run::driver::{Driver, Over, Settings};
use stillpoint_core::run::effect::{Effect, Facts, Input};
use stillpoint_core::run::rehearsal::Rehearsed;
use stillpoint_core::run::state::{Command, Stage};

use super::api::Request;
use super::breaks::Break;
use super::removals::Purpose;
use super::world::{ToProcess, World};
use crate::cluster::{UID, untyped};

/// A replication that is driven by a process.
#[derive(Clone, Debug)]
pub(super) struct Driven {
    /// Tells it from what was driven before: what was asked for that one is not for this one.
    pub number: u64,
    /// It is production's.
    pub driver: Driver,
    /// The watches tell it of claims and pods; the value says whether they tell of replicas too.
    pub watches: Option<bool>,
    /// The registry's part: the agents whose sessions it hears of.
    agents: BTreeSet<AgentKey>,
    /// The registry's part: agents that were commanded. Reports of others are dropped.
    asked: BTreeSet<AgentKey>,
}

impl Driven {
    fn stage(&self) -> Option<&Stage> {
        self.driver.attempt().map(|attempt| &attempt.run.stage)
    }
}

impl World {
    /// Whoever may begin does, and what is driven has its turn, until nothing more is to be done now.
    pub(super) fn go_on(&mut self, process: usize) {
        self.start_driver(process);
        while self.turn(process) {
            self.start_driver(process);
        }
        self.schedule_wake(process);
    }

    fn start_driver(&mut self, process: usize) {
        let now = self.moment(process);
        let from = &mut self.processes[process];
        if from.stopping || from.driven.is_some() {
            return;
        }
        let Some(lead) = &mut from.leading else { return };
        if lead.turns.start(now.monotonic).is_none() {
            return;
        }
        let driver = Driver::new(Settings { epoch: lead.epoch, hold_ceiling: MAX_HOLD }, UID);
        from.drivers += 1;
        let (agents, asked) = (BTreeSet::new(), BTreeSet::new());
        from.driven = Some(Driven { number: from.drivers, driver, watches: None, agents, asked });
        self.judge.begin_run(process);
    }

    /// An input for what is driven, and then its turn.
    pub(super) fn hear(&mut self, process: usize, input: Input) {
        let now = self.moment(process);
        let Some(driven) = &mut self.processes[process].driven else { return };
        driven.driver.hear(input, now);
        self.go_on(process);
    }

    /// An input for the driver of this number, if it is still the one.
    pub(super) fn hear_as(&mut self, process: usize, number: u64, mut input: Input) {
        let Some(driven) = self.processes[process].driven.as_ref().filter(|driven| driven.number == number) else {
            return;
        };
        if let (Some(broken), Some(lead)) = (self.broken, &self.processes[process].leading) {
            broken.spoil(&mut input, driven.driver.attempt().is_some(), lead.epoch);
        }
        self.hear(process, input);
    }

    /// A turn of what is driven; says whether it is over.
    fn turn(&mut self, process: usize) -> bool {
        loop {
            let (now, leads) = (self.moment(process), self.leads(process));
            let Some(driven) = &mut self.processes[process].driven else { return false };
            let before = driven.stage().cloned();
            let effects = driven.driver.turn(now, leads);
            let (after, over, wake) = (driven.stage().cloned(), driven.driver.over().cloned(), driven.driver.wake_at());
            if let Some(after) = after.as_ref().filter(|after| Some(*after) != before.as_ref()) {
                self.note(|| format!("   controller {process}: {after:?}"));
            }
            let mut inputs = Vec::new();
            for effect in effects {
                inputs.extend(self.carry_out(process, effect));
            }
            if after == Some(Stage::Ended) && before != Some(Stage::Ended) {
                self.judge_end_of_run(process);
            }
            if let Some(over) = over {
                self.driver_over(process, &over);
                return true;
            }
            let Some(driven) = self.processes[process].driven.as_mut().filter(|_| !inputs.is_empty()) else {
                self.judge_wake(process, wake, now.monotonic);
                return false;
            };
            for input in inputs {
                driven.driver.hear(input, now);
            }
        }
    }

    fn driver_over(&mut self, process: usize, over: &Over) {
        self.note(|| format!("   controller {process}: over, {over:?}"));
        let now = self.moment(process);
        let no_pause = Over::Later(std::time::Duration::ZERO);
        let unpaused = self.broken == Some(Break::CoolDown) && matches!(over, Over::Later(_));
        let of = &mut self.processes[process];
        of.driven = None;
        let there = of.newest.is_some();
        if let Some(lead) = &mut of.leading {
            lead.turns.ended(UID, if unpaused { &no_pause } else { over }, there, now.monotonic);
        }
        if of.stopping {
            self.exit(process);
        }
    }

    /// Carries out an effect, or sends it on its way; gives what is answered at once.
    fn carry_out(&mut self, process: usize, effect: Effect) -> Option<Input> {
        let driver = self.processes[process].drivers;
        match effect {
            Effect::GetObject => self.ask(process, Request::Get { driver }),
            Effect::PutStatus(object) => self.ask(process, Request::Put { driver, object }),
            Effect::SetMarks(object) => self.ask(process, Request::Marks { driver, object }),
            Effect::Look => self.ask(process, Request::Look { driver }),
            Effect::LookUp { volumes, kind } => self.ask(process, Request::LookUp { driver, volumes, kind }),
            // There is no other replication that could have them.
            Effect::Rehearse(_) => return Some(Input::Rehearsed(Rehearsed::Accepted)),
            Effect::Reserve { .. } => return Some(Input::Reserved([].into())),
            Effect::Follow { interest, agents, .. } => {
                self.ask(process, Request::Follow { driver, replicas: interest.replicas.is_some(), agents });
            }
            Effect::Send { to, command, message } => {
                if command != Command::Release {
                    self.judge_action(process, "a member is asked to suspend");
                }
                let of = &mut self.processes[process];
                if let Some(driven) = &mut of.driven {
                    driven.asked.insert(to.agent.clone());
                }
                if !of.registry.contains_key(to.agent.as_str()) {
                    return Some(Input::Unsent(to));
                }
                self.send_command(process, to.agent.as_str(), *message);
            }
            Effect::Warm(_) | Effect::Seen(_) => {}
            Effect::Ask(asks) => {
                self.judge_action(process, "snapshots are asked for");
                self.judge_request_to_cut(process);
                for snapshot in untyped::snapshots(asks) {
                    self.ask(process, Request::Create { driver, snapshot: Box::new(snapshot) });
                }
            }
            Effect::Remove { removes, scope } => self.remove(process, Purpose::Driver(driver), removes, scope),
            Effect::Mark(marks) => {
                // Also by an older leader: it says what that one stored in the status before, which is true for ever.
                let marks = marks.into_iter().map(|mark| (mark.name, mark.annotations)).collect();
                self.ask(process, Request::Mark { driver, marks });
            }
            // Nobody changes the policy of an object.
            Effect::Disown { .. } => return Some(Input::Disowned(Vec::new())),
            Effect::Recheck => self.recheck(process, driver),
            Effect::StepAside => {
                if let Some(lead) = &mut self.processes[process].leading {
                    lead.turns.step_aside(UID);
                }
            }
            Effect::Tell(news) => self.note(|| format!("   controller {process} tells {} news", news.len())),
        }
        None
    }

    fn recheck(&mut self, process: usize, driver: u64) {
        let attempt = self.processes[process].driven.as_ref().and_then(|driven| driven.driver.attempt());
        match attempt.filter(|_| self.broken == Some(Break::Recheck)) {
            Some(attempt) => {
                let pods = Box::new(Input::Rechecked(attempt.observed.pods.clone()));
                self.send_to_process(process, std::time::Duration::from_millis(1), ToProcess::Input(driver, pods));
            }
            None => self.ask(process, Request::Pods { driver }),
        }
    }

    /// The watches have begun. From here on the registry tells of the agents too.
    pub(super) fn following(&mut self, process: usize, number: u64, facts: Box<Facts>, agents: BTreeSet<AgentKey>) {
        let to = &mut self.processes[process];
        let Some(driven) = to.driven.as_mut().filter(|driven| driven.number == number) else { return };
        let connected = agents.iter().filter(|agent| to.registry.contains_key(agent.as_str())).cloned().collect();
        driven.agents = agents;
        self.hear(process, Input::Following(Ok((facts, connected))));
    }

    /// What the registry tells of a session or an agent, if it is of interest.
    pub(super) fn hear_of_agent(&mut self, process: usize, pod_uid: &str, input: Input) {
        let agent = AgentKey::of_pod(pod_uid);
        let of_interest = |driven: &Driven| match input {
            Input::Report(..) => driven.asked.contains(&agent),
            _ => driven.agents.contains(&agent),
        };
        if self.processes[process].driven.as_ref().is_some_and(of_interest) {
            self.hear(process, input);
        }
    }
}
