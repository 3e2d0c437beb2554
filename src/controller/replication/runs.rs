//! One replication from its first look to its end: observe, plan, execute, and again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Config;
use super::events::Events;
use super::execute::{Executor, Outcome, delete_replicas, set_finalizer};
use super::observe::{self, Watches, within};
use super::places::{Place, Places};
use super::status::{Lost, StatusWriter};
use crate::controller::leadership::Tenure;
use crate::controller::sessions::{AgentEvent, Attachment, Sessions};
use stillpoint_api::{ConsistencyGroupReplication, DeletionPolicy, Mode, Phase};
use stillpoint_core::limits::{API_TIMEOUT, RUN_QUEUE};
use stillpoint_core::replica::csi::snapshot_name;
use stillpoint_core::run::answers;
use stillpoint_core::run::membership::{self, Candidates, Refusal};
use stillpoint_core::run::observed::Observed;
use stillpoint_core::run::plan::plan;
use stillpoint_core::run::report;
use stillpoint_core::run::resume::{is_under_way, resume};
use stillpoint_core::run::state::{Member, Moment, Request, Run, Stage, Verdict};

/// What every run is given.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The agents.
    pub sessions: Sessions,
    /// The configuration.
    pub config: Arc<Config>,
    /// Whether this controller leads.
    pub tenure: Tenure,
    /// Places for what is done at the same time.
    pub places: Places,
    /// Kubernetes Events.
    pub events: Events,
    /// Claims that a run works on.
    pub taken: Taken,
    /// The zero of the monotonic clock.
    pub started: Instant,
    /// The controller stops.
    pub shutdown: CancellationToken,
}

impl Context {
    /// The clocks.
    pub fn now(&self) -> Moment {
        Moment { monotonic: self.started.elapsed(), wall: Timestamp::now() }
    }
}

/// Which claim belongs to which run of this controller: one attempt per member at a time.
#[derive(Clone, Default)]
pub struct Taken {
    by_claim: Arc<Mutex<HashMap<String, String>>>,
}

impl Taken {
    /// Takes all claims, or none: then it gives those that are taken, with the name of the replication that has them.
    fn take(&self, claims: Vec<String>, replication: &str) -> Result<Claimed, HashMap<String, String>> {
        let mut by_claim = self.by_claim.lock().unwrap_or_else(PoisonError::into_inner);
        let conflicts: HashMap<String, String> =
            claims.iter().filter_map(|claim| Some((claim.clone(), by_claim.get(claim)?.clone()))).collect();
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        by_claim.extend(claims.iter().map(|claim| (claim.clone(), replication.to_owned())));
        Ok(Claimed { taken: self.clone(), claims })
    }
}

/// Claims that a run has taken, until it is dropped.
struct Claimed {
    taken: Taken,
    claims: Vec<String>,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut by_claim = self.taken.by_claim.lock().unwrap_or_else(PoisonError::into_inner);
        for claim in &self.claims {
            by_claim.remove(claim);
        }
    }
}

/// The newest state of the object of a run; `None`: it is gone.
pub type ObjectWatch = watch::Receiver<Option<Arc<ConsistencyGroupReplication>>>;

/// Runs one attempt of a replication to its end, or deals with the deletion of one that has ended. Says after which time to
/// call it again, if another attempt follows.
///
/// # Errors
/// When the API server could not be read before anything was asked of an agent, or somebody changed the status. It is safe to
/// call it again: what the status declares is taken up again.
pub async fn replicate(context: &Context, updates: ObjectWatch, place: Place) -> anyhow::Result<Option<Duration>> {
    let Some(mut object) = read_again(context, &updates).await? else { return Ok(None) };
    if !has_ended(&object) {
        if let Some(left) = cool_down(&object, context.now()) {
            return Ok(Some(left));
        }
        let Some(claimed) = claim(context, object).await? else { return Ok(None) };
        match run_to_end(context, &claimed, updates.clone(), place).await? {
            None => {}
            Some(Lost::Changed) => bail!("somebody else changed the status of this run"),
            // Quietly: the object is the newer leader's.
            Some(Lost::Overtaken) => return Ok(None),
        }
        let Some(stored) = read_again(context, &updates).await? else { return Ok(None) };
        object = stored;
    }
    if object.metadata.deletion_timestamp.is_some() {
        say_goodbye(context, &object).await?;
    }
    Ok(cool_down(&object, context.now()))
}

/// How long it is until the next attempt may begin. A stored time is believed no further than the pause that was asked for:
/// the clock that it was taken from may be another one. `None`: it may begin, or none follows.
fn cool_down(object: &ConsistencyGroupReplication, now: Moment) -> Option<Duration> {
    if object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let next = object.status.as_ref()?.next_attempt_at.as_ref()?;
    let left = Duration::try_from(next.0.duration_since(now.wall)).ok()?;
    Some(left.min(object.spec.retry.unwrap_or_default().pause())).filter(|left| !left.is_zero())
}

pub(super) fn has_ended(object: &ConsistencyGroupReplication) -> bool {
    object.status.as_ref().and_then(|status| status.phase).is_some_and(Phase::is_final)
}

/// Stores this leader's epoch in a status that an earlier leader wrote, before anything is done about what it says: from then
/// on the earlier leader, should it still be there, can store nothing, and what it has stored before is known here. `None`
/// when a newer leader was there first.
///
/// A replication without a status needs no claim: the first status of its run is one.
async fn claim(
    context: &Context,
    mut object: ConsistencyGroupReplication,
) -> anyhow::Result<Option<ConsistencyGroupReplication>> {
    let epoch = context.config.epoch;
    let Some(status) = object.status.as_mut().filter(|status| status.leader_epoch != epoch) else {
        return Ok(Some(object));
    };
    if status.leader_epoch > epoch {
        tracing::warn!(name = object.name_any(), "a newer leader works on this replication");
        return Ok(None);
    }
    status.leader_epoch = epoch;
    let api: Api<ConsistencyGroupReplication> =
        Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let (name, params) = (object.name_any(), PostParams::default());
    // A conflict is an error here: what was stored meanwhile is read the next time.
    let claimed = within(API_TIMEOUT, api.replace_subresource("status", &name, &params, &object)).await;
    claimed.map(Some).context("the status of an earlier leader could not be taken over")
}

/// The object as it is stored now, `None` when it is gone. A watch may lag behind, and an old status would be taken for an
/// attempt to be voided.
async fn read_again(context: &Context, updates: &ObjectWatch) -> anyhow::Result<Option<ConsistencyGroupReplication>> {
    let Some(known) = updates.borrow().clone() else { return Ok(None) };
    let api = Api::namespaced(context.client.clone(), &known.namespace().unwrap_or_default());
    let stored: Option<ConsistencyGroupReplication> = within(API_TIMEOUT, api.get_opt(&known.name_any())).await?;
    Ok(stored.filter(|stored| stored.uid() == known.uid()))
}

fn request(context: &Context, object: &ConsistencyGroupReplication) -> Request {
    let suspension = &object.spec.suspension;
    Request {
        name: object.name_any(),
        namespace: object.namespace().unwrap_or_default(),
        uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation,
        mode: object.spec.mode,
        prepare_timeout: suspension.prepare_timeout.into(),
        hold_timeout: suspension.hold_timeout.into(),
        deletion_policy: object.spec.deletion_policy,
        retry: object.spec.retry,
        owner: object.owner_ref(&()),
        epoch: context.config.epoch,
    }
}

async fn run_to_end(
    context: &Context,
    object: &ConsistencyGroupReplication,
    updates: ObjectWatch,
    place: Place,
) -> anyhow::Result<Option<Lost>> {
    let request = request(context, object);
    let mut observed = Observed::default();
    let mut watches = Watches::start(&context.client, &request.namespace);
    watches.synchronise(&mut observed).await?;
    let declared = object.status.as_ref().filter(|status| is_under_way(status));
    let (run, claimed) = match declared {
        Some(status) => (resume(&request, status, &observed.pods, context.now()), None),
        None if object.metadata.deletion_timestamp.is_some() => return end_deleted(context, object, &request).await,
        None => match resolve(context, object, &request, &observed).await? {
            Ok((members, claimed)) => {
                let before = object.status.clone().unwrap_or_default();
                (Run::new(members, before, context.now()), Some(claimed))
            }
            Err(refusal) => return refuse(context, object, &request, refusal).await,
        },
    };
    let before = &object.status;
    let Some(object) = guard(context, object).await? else { return Ok(None) };
    // A leader that was stopped for a while and has not noticed yet that it leads no longer must not begin from an old status.
    ensure!(object.status == *before, "another controller has written the status of this replication meanwhile");
    if request.mode == Mode::Replicate && observe::classes(&context.client).await?.is_some() {
        watches.watch_replicas(&request.uid);
        watches.synchronise(&mut observed).await?;
    }
    let (outcomes_in, outcomes) = mpsc::channel(RUN_QUEUE);
    let executor = Executor {
        client: context.client.clone(),
        sessions: context.sessions.clone(),
        namespace: request.namespace.clone(),
        replication_uid: request.uid.clone(),
        attempt: run.attempt,
        outcomes: outcomes_in,
    };
    let agents = context.sessions.attach(&request.uid, run.agents());
    observed.connected = run.agents().filter(|agent| context.sessions.connected(agent)).collect();
    let writer = StatusWriter::start(context.client.clone(), context.events.clone(), object);
    let wheel = Wheel {
        context,
        request,
        run,
        observed,
        watches,
        agents: Some(agents),
        executor,
        outcomes,
        updates,
        writer,
        claimed,
        place,
        stopping: false,
        lost: false,
    };
    Ok(wheel.turn().await)
}

/// The finalizer must be there before anything is asked, so that the object cannot go while writes are suspended. An object
/// that is being deleted takes no new finalizer, and needs none for being cleaned up after.
async fn guard(
    context: &Context,
    object: &ConsistencyGroupReplication,
) -> anyhow::Result<Option<ConsistencyGroupReplication>> {
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Some(object.clone()));
    }
    set_finalizer(&context.client, object, true).await
}

async fn resolve(
    context: &Context,
    object: &ConsistencyGroupReplication,
    request: &Request,
    observed: &Observed,
) -> anyhow::Result<Result<(Vec<Member>, Claimed), Refusal>> {
    let claims: Vec<_> = observed.claims.values().cloned().collect();
    let chosen = match membership::select(&object.spec.source, &claims) {
        Ok(selection) => selection.claims,
        Err(verdict) => return Ok(Err(verdict.into())),
    };
    let uids = chosen.iter().map(|claim| claim.uid.clone()).collect();
    let volumes = chosen.iter().filter_map(|claim| claim.volume.clone()).collect();
    let (claimed, taken) = match context.taken.take(uids, &request.name) {
        Ok(claimed) => (Some(claimed), HashMap::new()),
        Err(taken) => (None, taken),
    };
    let replicate = request.mode == Mode::Replicate;
    let candidates = Candidates {
        drivers: observe::drivers(&context.client, volumes).await?,
        classes: if replicate { observe::classes(&context.client).await? } else { None },
        taken: taken.into_iter().collect(),
        pods: observed.pods.values().cloned().collect(),
        claims,
    };
    let attempt = object.status.as_ref().map_or(0, |status| status.attempt).saturating_add(1);
    let members = membership::resolve(&object.spec, request, attempt, context.config.hold_ceiling, &candidates);
    Ok(members.and_then(|members| match claimed {
        Some(claimed) => Ok((members, claimed)),
        None => {
            Err(Verdict::new("HeldByAnother", "a member belongs to another replication that is still running").into())
        }
    }))
}

/// Ends an attempt that cannot begin. Nothing was asked of anybody.
async fn refuse(
    context: &Context,
    object: &ConsistencyGroupReplication,
    request: &Request,
    Refusal { verdict, members }: Refusal,
) -> anyhow::Result<Option<Lost>> {
    tracing::info!(namespace = request.namespace, name = request.name, reason = verdict.reason, "refused");
    let now = context.now();
    let run = Run::refused(request, members, verdict, object.status.clone().unwrap_or_default(), now);
    let writer = StatusWriter::start(context.client.clone(), context.events.clone(), object.clone());
    writer.push(report::render_refused(request, &run, now));
    Ok(writer.finish().await)
}

/// Ends a run whose object is being deleted while it waits: for its turn, or for its next attempt.
async fn end_deleted(
    context: &Context,
    object: &ConsistencyGroupReplication,
    request: &Request,
) -> anyhow::Result<Option<Lost>> {
    if object.status.is_none() {
        return Ok(None);
    }
    let verdict = Verdict::new("Deleted", "the ConsistencyGroupReplication was deleted before it was done");
    let last = Request { retry: None, ..request.clone() };
    refuse(context, object, &last, verdict.into()).await
}

/// Deals with the replicas of a run that has ended and whose object is being deleted, and lets it go. A replica that is gone
/// already does not stop that.
async fn say_goodbye(context: &Context, object: &ConsistencyGroupReplication) -> anyhow::Result<()> {
    let request = request(context, object);
    let status = object.status.clone().unwrap_or_default();
    let keep = status.phase == Some(Phase::Done) && request.deletion_policy == DeletionPolicy::Retain;
    if !keep && status.attempt > 0 && request.mode == Mode::Replicate {
        let names = status.members.iter().map(|member| {
            let claim = &member.persistent_volume_claim;
            snapshot_name(&request.name, &request.uid, status.attempt, &claim.name, &claim.uid)
        });
        let names: Vec<String> = names.collect();
        delete_replicas(&context.client, &request.namespace, &request.uid, status.attempt, &names).await;
    }
    set_finalizer(&context.client, object, false).await.context("the finalizer could not be removed")?;
    Ok(())
}

/// The loop of one run and all that it turns.
struct Wheel<'a> {
    context: &'a Context,
    request: Request,
    run: Run,
    observed: Observed,
    watches: Watches,
    /// `None` once events were missed: nothing that agents say can be relied on any more.
    agents: Option<Attachment>,
    executor: Executor,
    outcomes: mpsc::Receiver<Outcome>,
    updates: ObjectWatch,
    writer: StatusWriter,
    /// Keeps other runs away from the members; given back when no agent is needed any more, long before an upload ends.
    claimed: Option<Claimed>,
    /// Keeps the number of runs within its limit; given back as early.
    place: Place,
    /// The controller's shutdown has been noticed.
    stopping: bool,
    /// The status was found to be somebody else's.
    lost: bool,
}

impl Wheel<'_> {
    async fn turn(mut self) -> Option<Lost> {
        self.note_deletion();
        loop {
            let wake_at = self.plan_and_execute();
            if !self.run.stage.needs_agents() {
                self.claimed = None;
                self.context.places.move_aside(&mut self.place);
            }
            if self.run.stage == Stage::Ended {
                break;
            }
            if self.context.shutdown.is_cancelled() && self.may_pause() {
                // Whoever leads next takes it up from the stored status.
                break;
            }
            self.wait(wake_at).await;
            if self.lost {
                // Nothing more is done: whoever was asked is released by whoever works on the object now.
                break;
            }
        }
        self.writer.finish().await
    }

    /// Plans until no command of a plan fails: a command that cannot be sent is news for the planner.
    fn plan_and_execute(&mut self) -> Option<Duration> {
        loop {
            if !self.context.tenure.is_certain() {
                self.observed.cut_off = Some("the controller cannot be sure that it still leads".to_owned());
            }
            // What was lost up to here is known to this plan.
            self.observed.take_losses();
            let plan = plan(&self.request, &self.run, &self.observed, self.context.now());
            if plan.run.stage != self.run.stage {
                tracing::info!(
                    namespace = self.request.namespace,
                    name = self.request.name,
                    round = plan.run.round,
                    stage = ?plan.run.stage,
                    "replication"
                );
            }
            self.run = plan.run;
            // Steps first: a status never holds up a hold.
            for step in plan.steps {
                self.executor.execute(step, &mut self.observed);
            }
            for status in plan.statuses {
                self.writer.push(status);
            }
            if !self.observed.take_losses() {
                return plan.wake_at;
            }
        }
    }

    /// Whether nothing is lost when this process stops now.
    fn may_pause(&self) -> bool {
        !self.run.stage.needs_agents() || (self.run.stage == Stage::Declaring && !self.observed.recorded)
    }

    /// Waits for news, or until it is time.
    async fn wait(&mut self, wake_at: Option<Duration>) {
        let deadline = tokio::time::Instant::from_std(self.context.started + wake_at.unwrap_or_default());
        tokio::select! {
            change = self.watches.next() => self.watches.apply(change, &mut self.observed),
            event = next_event(&mut self.agents) => self.hear(event),
            Some(outcome) = self.outcomes.recv() => outcome.apply(&mut self.observed),
            () = self.writer.recorded(), if !self.observed.recorded => self.observed.recorded = true,
            _ = self.writer.lost() => self.lost = true,
            Ok(()) = self.updates.changed() => self.note_deletion(),
            () = tokio::time::sleep_until(deadline), if wake_at.is_some() => {}
            () = self.context.shutdown.cancelled(), if !self.stopping => {
                self.stopping = true;
                self.observed.cut_off = Some("the controller was stopped during the attempt".to_owned());
            }
        }
    }

    fn note_deletion(&mut self) {
        let object = self.updates.borrow_and_update();
        self.observed.deleted |= object.as_ref().is_none_or(|object| object.metadata.deletion_timestamp.is_some());
    }

    fn hear(&mut self, event: Option<AgentEvent>) {
        match event {
            Some(AgentEvent::Connected { agent }) => {
                self.observed.connected.insert(agent);
            }
            Some(AgentEvent::Lost { agent }) => self.observed.lost(&agent, self.run.assigned_to(&agent)),
            Some(AgentEvent::Report { agent, report }) => {
                let now = self.context.now();
                match answers::accept(&self.request, &self.run, &self.observed.pods, &agent, report, now) {
                    Ok((assignment, answer)) => {
                        self.observed.answers.insert(assignment, answer);
                    }
                    Err(reason) => tracing::warn!(name = self.request.name, %agent, %reason, "a report was dropped"),
                }
            }
            None => {
                self.agents = None;
                self.observed.cut_off = Some("the controller could not keep up with its agents' answers".to_owned());
            }
        }
    }
}

/// The next event of the agents, as long as none was missed.
async fn next_event(agents: &mut Option<Attachment>) -> Option<AgentEvent> {
    match agents {
        Some(agents) => agents.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "runs_tests.rs"]
mod tests;
