//! One attempt, from its first plan to its last status: what is known, the planner, and the writer of the status. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::ResourceExt;
use kube::core::DynamicObject;
use stillpoint_api::{ConsistencyGroupReplication, Mode, ReplicationStatus};

use super::agents::AgentKey;
use super::answers;
use super::effect::{Effect, Facts, Input, Interest};
use super::happened::Happened;
use super::observed::{AnswerContent, Observed};
use super::plan::{Step, plan};
use super::state::{Moment, Request, Run, Stage};
use super::writer::{Lost, Writer};
use crate::limits::{STATUS_INTERVAL, WARM_FOR};
use crate::replica::ask::Ask;
use crate::replica::removal::Scope;
use crate::replica::seen::ObjectName;

/// An attempt that is driven.
#[derive(Clone, Debug)]
pub struct AttemptDriver {
    /// What was asked for, with this leader's epoch.
    pub request: Request,
    /// How far it is.
    pub run: Run,
    /// What is known.
    pub observed: Observed,
    /// The writer of the status.
    pub writer: Writer,
    /// Events of agents were missed: nothing that they say can be relied on any more.
    missed: bool,
    /// The process is to stop.
    stopping: bool,
    /// It is planned no more: what waits is written, and then it is over.
    finishing: bool,
    /// No agent is needed any more, and that was said.
    aside: bool,
    /// Something was noted that the planner must look at now.
    news: bool,
    /// When the planner is to plan again without it.
    plan_at: Option<Duration>,
    /// Until when connections that were opened for the cut are there.
    warm_until: Option<Duration>,
}

impl AttemptDriver {
    /// Begins. `object` is what is stored, `facts` is what is known of the members, `agents` those that are connected.
    pub fn new(
        request: Request,
        run: Run,
        object: ConsistencyGroupReplication,
        facts: Facts,
        agents: BTreeSet<AgentKey>,
    ) -> Self {
        let Facts { claims, pods, replicas, .. } = facts;
        Self {
            request,
            run,
            observed: Observed { watching: true, claims, pods, replicas, connected: agents, ..Observed::default() },
            writer: Writer::new(object),
            missed: false,
            stopping: false,
            finishing: false,
            aside: false,
            news: true,
            plan_at: None,
            warm_until: None,
        }
    }

    /// Takes note of what happened. [`AttemptDriver::turn`] goes on from there.
    pub fn hear(&mut self, input: Input, now: Moment) -> Vec<Effect> {
        let before = std::mem::replace(&mut self.news, true);
        let effects = self.take_note(input, now);
        self.news |= before;
        effects
    }

    fn take_note(&mut self, input: Input, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Stored(result) => {
                let news = self.writer.stored(result.map(|object| *object), now.monotonic);
                return if news.is_empty() { Vec::new() } else { vec![Effect::Tell(news)] };
            }
            Input::Object(result) => self.writer.read(result.map(|object| object.map(|it| *it)), now.monotonic),
            Input::Claim(uid, claim) => put(&mut self.observed.claims, uid, claim),
            Input::Pod(uid, pod) => put(&mut self.observed.pods, uid, pod),
            Input::Replica(name, replica) => self.replica(name, replica.map(|replica| *replica)),
            Input::Deletion => self.observed.deleted = true,
            Input::Connected(agent) if !self.missed => drop(self.observed.connected.insert(agent)),
            Input::Lost(agent) if !self.missed => self.observed.lost(&agent, self.run.assigned_to(&agent)),
            Input::Report(agent, report) if !self.missed => {
                let seen = answers::newer_epoch(&report, self.request.epoch, now);
                let answer = answers::accept(&self.request, &self.run, &self.observed.pods, &agent, report, now);
                // One that does not count is another attempt's, or a stranger's.
                if let Ok((assignment, answer)) = answer {
                    effects.extend(seen.map(Effect::Seen));
                    let waited_for = self.is_waited_for(&answer.content);
                    self.observed.answers.insert(assignment, answer);
                    self.news = waited_for || self.has_answered();
                    if !self.news {
                        // It is shown soon nevertheless.
                        let shown = now.monotonic + STATUS_INTERVAL;
                        self.plan_at = Some(self.plan_at.map_or(shown, |at| at.min(shown)));
                    }
                }
            }
            Input::Unsent(to) => self.observed.lost(&to.agent.clone(), [to]),
            Input::Missed => {
                self.missed = true;
                self.cut_off("the controller could not keep up with its agents' answers");
            }
            Input::Asked { name, result } => {
                self.observed.open_creations.remove(&name);
                match result {
                    // The watch may already know more.
                    Ok(replica) if !self.observed.vanished.contains(&name) => {
                        self.observed.replicas.entry(name).or_insert(*replica);
                    }
                    Ok(_) => {}
                    Err(why) => drop(self.observed.unmade.insert(name, why)),
                }
            }
            Input::Marked(result) => self.observed.marked = Some(result),
            Input::Removed(removed) => self.observed.removed = Some(removed),
            Input::Rechecked(pods) => {
                self.observed.pods = pods;
                self.observed.rechecked = true;
            }
            Input::Stop => {
                self.stopping = true;
                self.cut_off("the controller was stopped during the attempt");
            }
            // Nobody asks for these here, and what agents say counts no more once some of it was missed.
            Input::Patched(_)
            | Input::Looked(_)
            | Input::LookedUp(_)
            | Input::Rehearsed(_)
            | Input::Reserved(_)
            | Input::Following(_)
            | Input::Disowned(_) => {}
            Input::Connected(_) | Input::Lost(_) | Input::Report(..) => {}
        }
        effects
    }

    /// Plans, and gives what is to be done now, in order. `leads`: nobody else can lead.
    pub fn turn(&mut self, now: Moment, leads: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.observed.recorded |= self.writer.has_written();
        let stored = self.writer.object().status.as_ref();
        let is_proof = |status: &ReplicationStatus| status.attempt == self.run.attempt && status.consistency.is_some();
        self.observed.proof_stored |= stored.is_some_and(is_proof);
        self.finish_if_it_must();
        if !leads && self.observed.cut_off.is_none() {
            self.cut_off("the controller cannot be sure that it still leads");
            self.news = true;
        }
        if !self.finishing && (self.news || self.plan_at.is_some_and(|at| at <= now.monotonic)) {
            self.plan(now, &mut effects);
            self.finish_if_it_must();
        }
        effects.extend(self.writer.step(now.monotonic).map(Effect::from));
        effects
    }

    /// The declaration is stored, by the word of whoever stores statuses in place of [`AttemptDriver::writer`].
    pub fn declared(&mut self) {
        self.observed.recorded = true;
        self.news = true;
    }

    /// When, on the monotonic clock, a turn is due even if nothing is heard.
    pub fn wake_at(&self) -> Option<Duration> {
        let plan = if self.finishing { None } else { self.plan_at };
        [plan, self.writer.wake_at()].into_iter().flatten().min()
    }

    /// Whether the attempt is over and everything about it is written, or will never be: then why, if the status is somebody
    /// else's.
    pub fn over(&self) -> Option<Option<Lost>> {
        (self.finishing && self.writer.is_over()).then(|| self.writer.lost())
    }

    /// What the attempt is about.
    pub fn interest(request: &Request, run: &Run, taken_over: bool) -> Effect {
        let claims = run.members.iter().map(|member| (member.claim.uid.clone(), member.claim.name.clone()));
        let replicas = request.kind.filter(|_| request.mode == Mode::Replicate);
        let interest = Interest { claims: claims.collect(), replicas };
        Effect::Follow { interest, agents: run.agents().collect(), taken_over }
    }

    fn plan(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let stage = self.run.stage.name();
        let plan = plan(&self.request, &self.run, &self.observed, now);
        self.run = plan.run;
        self.news = false;
        self.plan_at = plan.wake_at;
        if self.run.stage.name() != stage {
            effects.extend(self.warm(now));
        }
        // Steps first: a status never holds up a hold.
        for step in plan.steps {
            effects.push(self.effect(step));
        }
        let (shown, at_once): (Vec<_>, Vec<_>) = plan.happened.into_iter().partition(Happened::is_shown);
        if !at_once.is_empty() {
            effects.push(Effect::Tell(at_once));
        }
        let mut statuses = plan.statuses;
        let newest = statuses.pop();
        for status in statuses {
            self.writer.push(status, Vec::new());
        }
        if let Some(newest) = newest {
            self.writer.push(newest, shown);
        }
        if !self.run.stage.needs_agents() && !std::mem::replace(&mut self.aside, true) {
            effects.push(Effect::StepAside);
        }
    }

    fn effect(&mut self, step: Step) -> Effect {
        match step {
            Step::Send { to, command, message } => {
                self.observed.asking(&to);
                Effect::Send { to, command, message }
            }
            Step::Ask(asks) => {
                self.observed.open_creations.extend(asks.iter().map(Ask::name));
                Effect::Ask(asks)
            }
            Step::Remove(removes) => Effect::Remove { removes, scope: Scope::up_to(self.run.attempt) },
            Step::Mark(marks) => Effect::Mark(marks),
            Step::RecheckPods => Effect::Recheck,
        }
    }

    /// Takes note of an object of the replicas. Once it was asked for and is gone it stays so: an object that takes its place,
    /// whoever made it, shows another moment.
    fn replica(&mut self, name: ObjectName, replica: Option<DynamicObject>) {
        let Observed { replicas, vanished, .. } = &mut self.observed;
        let same = |known: &DynamicObject| replica.as_ref().is_some_and(|replica| replica.uid() == known.uid());
        let gone = replicas.get(&name).is_some_and(|known| !same(known));
        if vanished.contains(&name) || (gone && self.run.replicas_requested()) {
            replicas.remove(&name);
            vanished.insert(name);
        } else {
            put(replicas, name, replica);
        }
    }

    /// Whether an answer leads on by itself. The others of a round in which all must agree do not, before the last one has come:
    /// so a hold of many members is planned a few times, and not once for every member.
    fn is_waited_for(&self, content: &AnswerContent) -> bool {
        match content {
            AnswerContent::Prepared { .. } | AnswerContent::Released { unbroken: true, .. } => false,
            // The first one begins the hold, and its limit.
            AnswerContent::Ready { .. } => self.run.hold_began.is_none(),
            _ => true,
        }
    }

    /// Whether all have answered.
    fn has_answered(&self) -> bool {
        self.observed.answers.len() >= self.run.assignments().count()
    }

    /// What makes the requests of the cut short: a connection for each must be there before the hold.
    fn warm(&mut self, now: Moment) -> Option<Effect> {
        let soon = matches!(self.run.stage, Stage::Preparing | Stage::Suspending);
        let warm = self.warm_until.is_some_and(|until| now.monotonic < until);
        // One is there: it has carried the declaration.
        let more = self.run.members.len().saturating_sub(1);
        if !soon || warm || more == 0 || self.request.mode == Mode::Check {
            return None;
        }
        self.warm_until = Some(now.monotonic + WARM_FOR);
        Some(Effect::Warm(more))
    }

    fn cut_off(&mut self, why: &str) {
        self.observed.cut_off = Some(why.to_owned());
    }

    /// Plans no more when the attempt has ended, or is for somebody else to go on with.
    fn finish_if_it_must(&mut self) {
        let undeclared = self.run.stage == Stage::Declaring && !self.observed.recorded;
        let may_pause = !self.run.stage.needs_agents() || undeclared;
        // Once the status is somebody else's nothing more is done: whoever was asked is released by whoever works on the object
        // now. And of a controller that stops, the next one takes up what is stored.
        if self.run.stage == Stage::Ended || self.writer.lost().is_some() || (self.stopping && may_pause) {
            if self.stopping && undeclared {
                // Nobody was asked, and the next leader would void what is declared now.
                self.writer.discard();
            }
            self.finishing = true;
            self.writer.close();
        }
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
