//! Drives one replication: carries out what its [`Driver`] decides, and tells it what happened.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use stillpoint_core::limits::RUN_QUEUE;
use stillpoint_core::pauses::Pauses;
use stillpoint_core::replica::Kind;
use stillpoint_core::replica::removal::Removal;
use stillpoint_core::run::agents::AgentKey;
use stillpoint_core::run::driver::{Driver, Over, Settings};
use stillpoint_core::run::effect::{Effect, Input, Interest, Refused};
use stillpoint_core::run::happened::Happened;
use stillpoint_core::run::state::Moment;
use stillpoint_core::run::stub::Stub;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::events::Events;
use super::removal::{disown, remove};
use super::requests::{Stored, ask, mark, rehearse, warm};
use super::reserved::{Reservation, Reserved};
use super::storage::storage;
use crate::controller::cluster::{Cluster, Follower, Namespace};
use crate::controller::leadership::Tenure;
use crate::controller::sessions::{AgentEvent, Attachment, Sessions};

/// What every run is given.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What is watched of the cluster.
    pub cluster: Cluster,
    /// The agents.
    pub sessions: Sessions,
    /// The longest `holdTimeout` that a replication may ask for.
    pub hold_ceiling: Duration,
    /// Whether this controller leads, and in which epoch.
    pub tenure: Tenure,
    /// Kubernetes Events.
    pub events: Events,
    /// Claims that runs have reserved.
    pub reserved: Reserved,
    /// The zero of the monotonic clock.
    pub started: Instant,
    /// The controller stops.
    pub shutdown: CancellationToken,
}

impl Context {
    /// What a driver that begins now is given.
    fn settings(&self) -> Settings {
        Settings { epoch: self.tenure.epoch(), hold_ceiling: self.hold_ceiling }
    }

    /// The clocks.
    pub fn now(&self) -> Moment {
        Moment { monotonic: self.started.elapsed(), wall: Timestamp::now() }
    }
}

/// The newest state of the object of a run; `None`: it is gone.
pub type ObjectWatch = watch::Receiver<Option<Arc<Stub>>>;

/// The shell of one replication.
pub struct Shell {
    context: Context,
    namespace: String,
    name: String,
    uid: String,
    reference: ObjectReference,
    driver: Driver,
    updates: ObjectWatch,
    /// Answers to what was asked of the API server.
    answers: mpsc::Receiver<Input>,
    answer: mpsc::Sender<Input>,
    /// Its namespace, while anything of it is of interest.
    used: Option<Namespace>,
    /// What the run is about, once it is followed.
    follower: Option<Follower>,
    interest: Interest,
    /// `None` before the agents are listened to, and once events were missed.
    agents: Option<Attachment>,
    /// Keeps other runs away from the members; dropped when no agent is needed any more, long before an upload ends.
    reservation: Option<Reservation>,
    /// Told when the place among the runs is free.
    aside: mpsc::Sender<String>,
    /// The trouble that was logged last: a refusal may last for hours, and each cause is worth one line.
    trouble: Option<String>,
    /// The controller's shutdown has been noticed.
    stopping: bool,
}

impl Shell {
    /// Begins with the object that `updates` shows; `aside` is told its UID when it needs no agents any more.
    pub fn new(context: Context, object: &Stub, updates: ObjectWatch, aside: mpsc::Sender<String>) -> Self {
        let (answer, answers) = mpsc::channel(RUN_QUEUE);
        Self {
            driver: Driver::new(context.settings(), &object.uid),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            uid: object.uid.clone(),
            reference: object.reference(),
            context,
            updates,
            answers,
            answer,
            used: None,
            follower: None,
            interest: Interest::default(),
            agents: None,
            reservation: None,
            aside,
            trouble: None,
            stopping: false,
        }
    }

    /// Drives it until it is over.
    pub async fn drive(mut self) -> Over {
        self.note_deletion();
        loop {
            let effects = self.driver.turn(self.context.now(), self.context.tenure.is_certain());
            let mut news = false;
            for effect in effects {
                news |= self.carry_out(effect).await;
            }
            if let Some(over) = self.driver.over() {
                return over.clone();
            }
            // What could not be queued is news for the planner, and so is what was answered at once.
            if !news {
                self.wait().await;
            }
        }
    }

    /// Carries out an effect. What takes time goes on in the background, bounded by its own limits, and is answered later.
    /// Says whether it was answered already.
    async fn carry_out(&mut self, effect: Effect) -> bool {
        let client = self.context.client.clone();
        let stored = || Stored::new(client.clone(), &self.namespace, &self.name);
        let namespace = self.namespace.clone();
        match effect {
            Effect::GetObject => self.spawn(stored().get()),
            Effect::PutStatus(object) => self.spawn(stored().put_status(object)),
            Effect::SetMarks(object) => self.spawn(stored().set_marks(object)),
            Effect::Look => {
                let looked = self.look().await;
                self.hear(looked);
                return true;
            }
            Effect::LookUp { volumes, kind } => {
                let used = self.use_namespace();
                self.spawn(look_up(client, used, namespace, volumes, kind));
            }
            Effect::Rehearse(asks) => self.spawn(rehearse(client, namespace, asks)),
            Effect::Reserve { claims, whole } => {
                let (reservation, others) = self.context.reserved.reserve(claims, &self.name, whole);
                self.reservation = Some(reservation);
                self.hear(Input::Reserved(others));
                return true;
            }
            Effect::Follow { interest, agents, taken_over } => {
                let following = self.follow(interest, agents, taken_over).await;
                self.hear(following);
                return true;
            }
            Effect::Send { to, command, message } => {
                if let Err(error) = self.context.sessions.send(&to.agent, *message) {
                    tracing::warn!(?command, member = to.claim, agent = %to.agent, %error, "a command could not be sent");
                    self.hear(Input::Unsent(to));
                    return true;
                }
            }
            Effect::Warm(connections) => warm(&client, connections),
            Effect::Ask(asks) => {
                asks.into_iter().for_each(|one| self.spawn(ask(client.clone(), namespace.clone(), one)));
            }
            Effect::Remove { removes, scope } => {
                let removal = Removal::new(removes, scope);
                self.spawn(async move { Input::Removed(remove(&client, &namespace, removal).await) });
            }
            Effect::Mark(marks) => self.spawn(mark(client, namespace, marks)),
            Effect::Disown { removes, owner } => {
                self.spawn(async move { Input::Disowned(disown(&client, &namespace, removes, &owner).await) });
            }
            Effect::Seen(epoch) => self.context.tenure.has_seen(epoch),
            Effect::Recheck => {
                let interest = self.interest.clone();
                let used = self.use_namespace();
                self.spawn(recheck(used, interest));
            }
            Effect::StepAside => {
                self.reservation = None;
                self.used = None;
                if let Some(follower) = &mut self.follower {
                    follower.stop_pods_and_claims();
                }
                self.aside.send(self.uid.clone()).await.ok();
            }
            Effect::Tell(happened) => {
                happened.iter().for_each(log);
                self.context.events.tell(happened, &self.reference);
            }
        }
        false
    }

    async fn look(&mut self) -> Input {
        let facts = self.use_namespace().fresh().await;
        Input::Looked(facts.map(Box::new).map_err(|error| format!("{error:#}")))
    }

    fn use_namespace(&mut self) -> Namespace {
        self.used.get_or_insert_with(|| self.context.cluster.namespace(&self.namespace)).clone()
    }

    async fn follow(&mut self, interest: Interest, agents: BTreeSet<AgentKey>, taken_over: bool) -> Input {
        let namespace = self.use_namespace();
        if taken_over
            && interest.replicas.is_some()
            && let Err(error) = namespace.refresh_replicas().await
        {
            return Input::Following(Err(format!("{error:#}")));
        }
        let mut follower = namespace.follow(&self.uid, &interest);
        let facts = follower.facts();
        self.follower = Some(follower);
        self.interest = interest;
        // Listening comes before looking who is connected, so that no change falls between the two.
        self.agents = Some(self.context.sessions.attach(&self.uid, agents.iter().cloned()));
        let connected = agents.into_iter().filter(|agent| self.context.sessions.connected(agent)).collect();
        Input::Following(Ok((Box::new(facts), connected)))
    }

    fn spawn(&self, request: impl Future<Output = Input> + Send + 'static) {
        let answer = self.answer.clone();
        // A run that is over does not listen any more.
        tokio::spawn(async move { answer.send(request.await).await.ok() });
    }

    /// Waits for news, or until it is time, and takes all that is there: the driver decides once about it.
    async fn wait(&mut self) {
        let wake_at = self.driver.wake_at();
        let deadline = tokio::time::Instant::from_std(self.context.started + wake_at.unwrap_or_default());
        tokio::select! {
            Some(input) = self.answers.recv() => self.hear(input),
            event = next_event(&mut self.agents) => self.hear_agent(event),
            changes = next_changes(&mut self.follower) => changes.into_iter().for_each(|change| self.hear(change)),
            Ok(()) = self.updates.changed() => self.note_deletion(),
            () = tokio::time::sleep_until(deadline), if wake_at.is_some() => {}
            () = self.context.shutdown.cancelled(), if !self.stopping => {
                self.stopping = true;
                self.hear(Input::Stop);
            }
        }
        while let Ok(input) = self.answers.try_recv() {
            self.hear(input);
        }
        while let Some(event) = self.agents.as_mut().and_then(Attachment::try_recv) {
            self.hear_agent(Some(event));
        }
    }

    fn hear(&mut self, input: Input) {
        if let Input::Stored(Err(Refused::Trouble(trouble))) = &input
            && self.trouble.as_ref() != Some(trouble)
        {
            tracing::warn!("the status cannot be written; it is tried again until it can: {trouble}");
            self.trouble = Some(trouble.clone());
        }
        self.driver.hear(input, self.context.now());
    }

    fn hear_agent(&mut self, event: Option<AgentEvent>) {
        let input = match event {
            Some(AgentEvent::Connected { agent }) => Input::Connected(agent),
            Some(AgentEvent::Lost { agent }) => Input::Lost(agent),
            Some(AgentEvent::Report { agent, report }) => Input::Report(agent, report),
            None => {
                self.agents = None;
                Input::Missed
            }
        };
        self.hear(input);
    }

    fn note_deletion(&mut self) {
        if self.updates.borrow_and_update().as_deref().is_none_or(|object| object.deleting) {
            self.hear(Input::Deletion);
        }
    }
}

/// One line for one thing that happened. The span says in which run.
fn log(happened: &Happened) {
    match happened {
        Happened::Stage { attempt, round, stage } => tracing::info!(attempt, round, stage, "stage"),
        Happened::Began { attempt, phase, message } => {
            tracing::info!(attempt, ?phase, "{}", message.as_deref().unwrap_or_default());
        }
        Happened::Blocked { attempt, claim, blocker, .. } => {
            tracing::info!(attempt, member = claim.name, reason = blocker.reason, "{}", blocker.message);
        }
        Happened::Left { reason, message } => tracing::warn!(reason, "{message}"),
    }
}

/// What is known of storage, and that replicas can be watched, if there are to be any.
async fn look_up(
    client: Client,
    used: Namespace,
    namespace: String,
    volumes: Vec<String>,
    kind: Option<&'static dyn Kind>,
) -> Input {
    let looked = async {
        if kind.is_some() {
            used.see_replicas().await?;
        }
        storage(&client, &namespace, volumes, kind).await
    };
    Input::LookedUp(looked.await.map(Box::new).map_err(|error| format!("{error:#}")))
}

/// The pods that mount members, listed until it succeeds.
async fn recheck(namespace: Namespace, interest: Interest) -> Input {
    let mut pauses = Pauses::default();
    loop {
        match namespace.fresh_pods(&interest).await {
            Ok(pods) => return Input::Rechecked(pods),
            Err(error) => tracing::warn!("the pods could not be listed anew, and it is tried again: {error:#}"),
        }
        tokio::time::sleep(pauses.take()).await;
    }
}

/// The next event of the agents, as long as none was missed.
async fn next_event(agents: &mut Option<Attachment>) -> Option<AgentEvent> {
    match agents {
        Some(agents) => agents.recv().await,
        None => std::future::pending().await,
    }
}

/// The next changes of what is followed.
async fn next_changes(follower: &mut Option<Follower>) -> Vec<Input> {
    match follower {
        Some(follower) => follower.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "shell_tests.rs"]
mod tests;
