//! One member: carries out what its [`Hold`] decides.
//!
//! What may hang runs elsewhere: suspending in the freezer, looking and resuming from outside on threads that may block. This
//! task itself never waits for the dataset, so that its deadlines hold.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stillpoint_api::Reason;

use rustix::io::{Errno, Result as KernelResult};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use super::Reach;
use super::dataset::Dataset;
use super::freezer::{FAILED_MEANWHILE, Freezer, Order};
use super::locks::{self, Sightings};
use super::method::{self, Handles, Method};
use super::quiesce::{self, Held, Owed, QUIESCERS, Quiescer};
use super::record::{self, Record};
use super::recovery::Recovery;
use crate::guardian::client::Guardian;
use crate::guardian::protocol::{Answer, Scope};
use crate::note;
use crate::undo;
use stillpoint_core::blocker::blocker;
use stillpoint_core::hold::{
    Act, Action, Command, Equipped, Event, Hold, Intent, Outcome, Refused, Resumed, Session, Ticket, WasSuspended,
    no_guardian, not_recorded,
};
use stillpoint_core::limits::{MAX_MEMBER_THREADS, MEMBER_QUEUE, RECORD_TIMEOUT, RECOVERY_TIMEOUT, UNQUIESCE_TIMEOUT};
use stillpoint_core::locks::{Look, Suspension};
use stillpoint_core::wire;
use stillpoint_core::wire::agent_message::Report;

/// To a member.
pub enum Message {
    /// A command, and where its answers go.
    Command(Session, mpsc::Sender<wire::AgentMessage>, Box<Command>),
    /// A session ended.
    SessionLost(Session),
    /// Resume and end.
    Shutdown,
}

/// What every member of an agent is told.
#[derive(Clone)]
pub struct Settings {
    /// The guardian's socket.
    pub guardian: PathBuf,
    /// Longest hold that is accepted.
    pub max_hold: Duration,
    /// Where what is about to be suspended is recorded.
    pub records: PathBuf,
    /// What earlier agents left suspended.
    pub recovery: Arc<Recovery>,
}

/// A member that runs.
pub struct Running {
    /// Takes what it is told. Closed when it has ended.
    pub inbox: mpsc::Sender<Message>,
    /// Ends with it.
    pub task: JoinHandle<()>,
    idle: Arc<AtomicBool>,
}

impl Running {
    /// Whether it could be forgotten: it has ended, or nothing is going on and nothing was told that it has not taken yet. What
    /// it remembers of its last attempt is lost; a Release of that is then answered as of one that held nothing.
    pub fn is_idle(&self) -> bool {
        self.task.is_finished()
            || (self.idle.load(Ordering::Acquire) && self.inbox.capacity() == self.inbox.max_capacity())
    }
}

/// Starts the member with this claim. It lives until it is told to shut down, or until nobody can talk to it any more.
pub fn start(settings: Settings, claim_uid: &str) -> Running {
    let (inbox, messages) = mpsc::channel(MEMBER_QUEUE);
    let idle = Arc::new(AtomicBool::new(false));
    let member = Member {
        hold: Hold::new(settings.max_hold),
        record: Arc::new(record::Slot::new(&settings.records, claim_uid)),
        claim_uid: claim_uid.to_owned(),
        settings,
        equipment: None,
        preflight: 0,
        work: JoinSet::new(),
        quiescing: None,
        sightings: Sightings::default(),
        sessions: HashMap::new(),
        put_off: Vec::new(),
        idle: Arc::clone(&idle),
    };
    Running { inbox, task: tokio::spawn(member.run(messages)), idle }
}

struct Member {
    hold: Hold,
    settings: Settings,
    claim_uid: String,
    record: Arc<record::Slot>,
    equipment: Option<Equipment>,
    /// The preflight whose equipment is wanted; what an older one brings is dropped.
    preflight: Ticket,
    work: JoinSet<(Ticket, Work)>,
    /// A quiesce that is under way.
    quiescing: Option<AbortHandle>,
    sightings: Sightings,
    sessions: HashMap<Session, mpsc::Sender<wire::AgentMessage>>,
    /// Releases that wait until what an earlier agent left suspended is given back; the last one of each session.
    put_off: Vec<(Session, Command)>,
    /// Whether nothing is going on, for others to see.
    idle: Arc<AtomicBool>,
}

/// What a hold needs, from Prepare to the end.
struct Equipment {
    method: &'static dyn Method,
    dataset: Arc<Dataset>,
    handle: Arc<OwnedFd>,
    containers: Arc<[wire::Container]>,
    freezer: Freezer,
    freezer_lost: bool,
    record: Record,
    application: Option<Application>,
    guardian: Guardian,
    guardian_lost: bool,
}

/// What is quiesced. One call at a time: a resume waits until the quiesce before it has ended, or was dropped.
#[derive(Clone)]
struct Application {
    name: String,
    quiescer: Arc<Mutex<Box<dyn Quiescer>>>,
}

/// What a thread or a call brought back.
enum Work {
    Preflighted(Result<Box<Equipment>, Vec<wire::Blocker>>),
    Looked(Look),
    Recorded(Result<(), String>),
    Settled,
    Quiesced(Result<(), Refused>),
    Unquiesced(Result<(), String>),
    /// Nothing of an earlier agent is being given back any more, or that takes long.
    Recovered,
    /// Nobody waits for it.
    Forgotten,
}

impl Member {
    async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut stopping = false;
        while !(stopping && self.hold.is_idle()) {
            self.idle.store(self.hold.is_idle() && self.work.is_empty(), Ordering::Release);
            let due = self.hold.poll_timeout();
            let event = tokio::select! {
                message = inbox.recv(), if !stopping => match message {
                    Some(Message::Command(session, reports, command)) => {
                        self.sessions.insert(session, reports);
                        if self.is_to_wait(&command) {
                            self.put_off(session, *command);
                            continue;
                        }
                        Event::Command(session, *command)
                    }
                    Some(Message::SessionLost(session)) => {
                        self.sessions.remove(&session);
                        Event::SessionLost(session)
                    }
                    // Forgotten. Its record is gone already, and may be written anew by the member that follows it.
                    None if self.hold.is_idle() && self.work.is_empty() => return,
                    Some(Message::Shutdown) | None => {
                        stopping = true;
                        Event::Shutdown
                    }
                },
                Some(done) = self.work.join_next() => match done {
                    Ok((ticket, work)) => match self.came_back(ticket, work) {
                        Some(event) => event,
                        None => continue,
                    },
                    // A quiesce that was given up.
                    Err(error) if error.is_cancelled() => continue,
                    Err(error) => {
                        tracing::error!(%error, "a look ended in a panic");
                        continue;
                    }
                },
                event = heard(self.equipment.as_mut()) => event,
                () = sleep_until(due) => Event::Timeout,
            };
            self.idle.store(false, Ordering::Release);
            for action in self.hold.handle(event, Instant::now()) {
                self.act(action);
            }
        }
        // What stays behind would be given back by the next agent, whoever has frozen it then.
        let record = Arc::clone(&self.record);
        let _ = tokio::time::timeout(RECORD_TIMEOUT, tokio::task::spawn_blocking(move || forget(&record))).await;
    }

    fn came_back(&mut self, ticket: Ticket, work: Work) -> Option<Event> {
        let outcome = match work {
            Work::Preflighted(Ok(equipment)) => {
                let filesystem = equipment.dataset.filesystem.clone();
                let protection = match equipment.guardian.scope() {
                    Scope::Node => wire::Protection::NodeGuardian,
                    Scope::Pod => wire::Protection::PodGuardian,
                };
                let (plan, quiesces) = (equipment.method.plan(), equipment.application.is_some());
                if ticket == self.preflight {
                    self.equipment = Some(*equipment);
                }
                Outcome::Preflighted(Ok(Equipped { filesystem, protection, plan, quiesces }))
            }
            Work::Preflighted(Err(why)) => Outcome::Preflighted(Err(why)),
            Work::Looked(mut look) => {
                self.sightings.record(&mut look.blockers, Instant::now());
                Outcome::Looked(look)
            }
            Work::Recorded(recorded) => Outcome::Recorded(recorded),
            Work::Settled => Outcome::Settled,
            Work::Quiesced(quiesced) => Outcome::Quiesced(quiesced),
            Work::Unquiesced(unquiesced) => Outcome::Unquiesced(unquiesced),
            Work::Recovered => return self.recovered(),
            Work::Forgotten => return None,
        };
        Some(Event::Done(ticket, outcome))
    }

    /// *Released* says that writes go on, which is not so while something of an earlier agent is being given back.
    fn is_to_wait(&self, command: &Command) -> bool {
        matches!(command, Command::Release(_)) && self.settings.recovery.is_under_way(&self.claim_uid)
    }

    fn put_off(&mut self, session: Session, command: Command) {
        if self.put_off.is_empty() {
            self.await_recovery();
        }
        self.put_off.retain(|(other, _)| *other != session);
        self.put_off.push((session, command));
    }

    fn await_recovery(&mut self) {
        let (recovery, claim_uid) = (Arc::clone(&self.settings.recovery), self.claim_uid.clone());
        self.work.spawn_blocking(move || {
            recovery.wait(&claim_uid, RECOVERY_TIMEOUT);
            (0, Work::Recovered)
        });
    }

    fn recovered(&mut self) -> Option<Event> {
        let over = !self.settings.recovery.is_under_way(&self.claim_uid);
        let next = if over { self.put_off.pop() } else { None };
        if !self.put_off.is_empty() {
            self.await_recovery();
        }
        next.map(|(session, command)| Event::Command(session, command))
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Preflight(ticket, request) => self.preflight(ticket, *request),
            Action::Look(ticket, when) => self.look(ticket, when),
            Action::Quiesce(ticket) => self.quiesce(ticket),
            Action::Unquiesce(ticket) => self.unquiesce(ticket),
            Action::Flush(ticket) => self.order(Order::Flush, ticket, Duration::ZERO),
            Action::Suspend(ticket, within) => self.order(Order::Suspend, ticket, within),
            Action::Resume(ticket) => self.order(Order::Resume, ticket, Duration::ZERO),
            Action::Settle(ticket) => self.settle(ticket),
            Action::Record(ticket, intent) => self.record(ticket, intent),
            Action::Arm(ticket, limit) => {
                // If the guardian is gone, the next answer that is awaited from it says so.
                let _ = self.equipment.as_ref().map(|equipment| equipment.guardian.arm(ticket, limit));
            }
            Action::Disarm => {
                if let Some(equipment) = &self.equipment {
                    equipment.guardian.disarm();
                }
            }
            Action::Forget => self.forget(),
            Action::Close => {
                self.preflight = 0;
                if let Some(equipment) = self.equipment.take() {
                    equipment.guardian.disarm();
                }
            }
            Action::Report(session, report) => self.report(session, report),
        }
    }

    fn preflight(&mut self, ticket: Ticket, request: wire::Prepare) {
        self.preflight = ticket;
        // Nobody looked between the attempts.
        self.sightings = Sightings::default();
        let settings = self.settings.clone();
        let stuck = self.work.len() >= MAX_MEMBER_THREADS;
        self.work.spawn_blocking(move || {
            let equipment = if stuck { Err(vec![stuck_look(&request)]) } else { equip(&request, &settings) };
            (ticket, Work::Preflighted(equipment.map(Box::new)))
        });
    }

    fn look(&mut self, ticket: Ticket, when: Suspension) {
        let Some(equipment) = &self.equipment else { return };
        let (dataset, containers) = (Arc::clone(&equipment.dataset), Arc::clone(&equipment.containers));
        self.work.spawn_blocking(move || (ticket, Work::Looked(locks::look(&dataset, &containers, when))));
    }

    fn quiesce(&mut self, ticket: Ticket) {
        let Some(Application { quiescer, .. }) = self.application() else { return };
        let quiesce = async move { (ticket, Work::Quiesced(quiescer.lock().await.quiesce().await)) };
        self.quiescing = Some(self.work.spawn(quiesce));
    }

    fn unquiesce(&mut self, ticket: Ticket) {
        if let Some(quiescing) = self.quiescing.take() {
            quiescing.abort();
        }
        let Some(Application { quiescer, .. }) = self.application() else { return };
        self.work.spawn(async move {
            let mut quiescer = quiescer.lock().await;
            let resumed = quiesce::bounded(UNQUIESCE_TIMEOUT, quiescer.resume()).await;
            let unquiesced = resumed.and_then(|held| match held {
                Held::Yes => Ok(()),
                Held::No => Err("the application did not stay quiesced during the hold".to_owned()),
            });
            (ticket, Work::Unquiesced(unquiesced))
        });
    }

    fn application(&self) -> Option<Application> {
        self.equipment.as_ref()?.application.clone()
    }

    fn record(&mut self, ticket: Ticket, intent: Intent) {
        let Some(equipment) = &self.equipment else { return };
        let slot = Arc::clone(&self.record);
        slot.want(Some(equipment.record_of(intent)));
        self.work.spawn_blocking(move || (ticket, Work::Recorded(slot.keep())));
    }

    fn forget(&mut self) {
        let slot = Arc::clone(&self.record);
        if slot.want(None) {
            self.work.spawn_blocking(move || {
                forget(&slot);
                (0, Work::Forgotten)
            });
        }
    }

    fn order(&self, order: Order, ticket: Ticket, within: Duration) {
        // If the freezer is gone, the next answer that is awaited from it says so.
        let _ = self.equipment.as_ref().map(|equipment| equipment.freezer.order(order, ticket, within));
    }

    fn settle(&mut self, ticket: Ticket) {
        let Some(equipment) = &self.equipment else { return };
        let (handle, process) = (Arc::clone(&equipment.handle), equipment.freezer.process());
        let (undo, mount) = (equipment.method.undo(), equipment.dataset.mount_path.clone());
        self.work.spawn_blocking(move || {
            let settled = undo::until_settled(undo, &handle, &process);
            if settled != Ok(WasSuspended::Yes) {
                tracing::info!(?settled, mount = %mount.display(), "resumed from outside the freezer");
            }
            (ticket, Work::Settled)
        });
    }

    fn report(&self, session: Session, report: Report) {
        // First said, then logged: the log may have to wait, and others are held up by a Ready.
        if let Some(reports) = self.sessions.get(&session)
            && reports.try_send(wire::AgentMessage { report: Some(report.clone()) }).is_err()
        {
            tracing::warn!(session, "the controller does not take this report; it will ask again or time out");
        }
        log(&report);
    }
}

impl Equipment {
    fn record_of(&self, intent: Intent) -> Record {
        let owed = self.application.as_ref().and_then(|application| {
            // Nobody quiesces while this is asked for.
            let settings = application.quiescer.try_lock().ok()?.owed()?;
            Some(Owed { quiescer: application.name.clone(), settings })
        });
        let undo = match intent {
            Intent::Quiesce => None,
            Intent::Suspend => self.record.undo,
        };
        Record { undo, owed, ..self.record.clone() }
    }
}

/// Makes the quiescer that the order names, if it names one.
fn application(request: &wire::Prepare) -> Result<Option<Application>, String> {
    let quiescer = request.how.as_deref().and_then(|how| how.quiescer.as_ref());
    let Some(wire::Quiescer { name, settings }) = quiescer else { return Ok(None) };
    let settings = serde_json::from_str(settings).map_err(|error| format!("its settings are no JSON: {error}"))?;
    let quiescer = quiesce::make(QUIESCERS, name, &settings)?;
    Ok(Some(Application { name: name.clone(), quiescer: Arc::new(Mutex::new(quiescer)) }))
}

/// Opens and checks the dataset as its method says, starts its freezer and engages the guardian.
fn equip(request: &wire::Prepare, settings: &Settings) -> Result<Equipment, Vec<wire::Blocker>> {
    let claim_uid = request.attempt.as_ref().map_or("", |attempt| &attempt.member);
    if !settings.recovery.wait(claim_uid, RECOVERY_TIMEOUT) {
        return Err(vec![stuck_recovery(request)]);
    }
    let name = request.how.as_deref().map_or("", |how| &how.method);
    let method = method::find(name).ok_or_else(|| {
        let message = format!("this agent cannot suspend by {name:?}; give the pod an agent of a newer version");
        vec![blocker(Reason::UnknownMethod, &message)]
    })?;
    let application = application(request).map_err(|why| {
        vec![blocker(Reason::CannotQuiesce, &format!("this agent cannot quiesce the application: {why}"))]
    })?;
    let Handles { dataset, handle } = method.open(request)?;
    record::usable(&settings.records, &dataset)
        .map_err(|why| vec![not_recorded(&format!("{}: {why}", settings.records.display()))])?;
    let freezer = Freezer::start(method, &dataset.root, &handle).map_err(|error| {
        vec![blocker(Reason::FreezerFailed, &format!("the agent cannot start its freezer process: {error}"))]
    })?;
    let boot_id = note::boot_id().map_err(|error| vec![not_recorded(&format!("this boot has no id: {error}"))])?;
    let record = Record {
        claim: request.claim.clone(),
        claim_uid: claim_uid.to_owned(),
        mount_path: dataset.mount_path.clone(),
        device: dataset.device,
        reach: if request.kubelet_volume.is_some() { Reach::Node } else { Reach::Pod },
        boot_id,
        freezer: freezer.identity(),
        undo: Some(method.undo()),
        owed: None,
    };
    let label = format!("{} ({claim_uid})", request.claim);
    let guardian = Guardian::engage(&settings.guardian, &label, method.undo(), &handle, &freezer.process())
        .map_err(|why| vec![no_guardian(&why)])?;
    Ok(Equipment {
        method,
        dataset: Arc::new(dataset),
        handle: Arc::new(handle),
        containers: request.containers.as_slice().into(),
        freezer,
        freezer_lost: false,
        record,
        application,
        guardian,
        guardian_lost: false,
    })
}

fn forget(slot: &record::Slot) {
    if let Err(error) = slot.keep() {
        tracing::error!(error, "cannot remove the record of what was frozen");
    }
}

fn stuck_recovery(request: &wire::Prepare) -> wire::Blocker {
    let message = format!(
        "an earlier agent left {:?} suspended, or about to be, and this one cannot give it back yet; check the volume's \
         storage, and this agent's log",
        request.mount_path
    );
    blocker(Reason::Stuck, &message)
}

fn stuck_look(request: &wire::Prepare) -> wire::Blocker {
    let message = format!(
        "{MAX_MEMBER_THREADS} earlier looks at {:?} have not come back; check the volume's storage",
        request.mount_path
    );
    blocker(Reason::Stuck, &message)
}

/// The next thing that the freezer or the guardian says; the end of either is said once.
async fn heard(equipment: Option<&mut Equipment>) -> Event {
    let Some(Equipment { method, dataset, freezer, freezer_lost, guardian, guardian_lost, .. }) = equipment else {
        return std::future::pending().await;
    };
    tokio::select! {
        answer = freezer.answer(), if !*freezer_lost => match answer {
            Ok((ticket, order, result)) => Event::Done(ticket, outcome(*method, dataset, order, result)),
            Err(_) => {
                *freezer_lost = true;
                Event::FreezerLost
            }
        },
        answer = guardian.answer(), if !*guardian_lost => match answer {
            Ok(Answer::Armed { ticket }) => Event::Done(ticket, Outcome::Armed),
            // It can be relied on no more, whatever it meant.
            Ok(Answer::Guarding { .. } | Answer::Refused { .. }) | Err(_) => {
                *guardian_lost = true;
                Event::GuardianLost
            }
        },
        else => std::future::pending().await,
    }
}

fn outcome(method: &dyn Method, dataset: &Dataset, order: Order, result: KernelResult<Duration>) -> Outcome {
    let refused = |act: Act| move |errno: Errno| method.refused(act, errno, dataset);
    match order {
        Order::Flush => Outcome::Flushed(result.map(drop).map_err(refused(Act::Flush))),
        Order::Suspend => Outcome::Suspended(result.map_err(refused(Act::Suspend))),
        Order::Resume => Outcome::Resumed(match result {
            Ok(FAILED_MEANWHILE) => Resumed::Broken(FAILED.to_owned()),
            Ok(_) => Resumed::Ended,
            Err(Errno::INVAL) => Resumed::Broken(method.undo().broken().to_owned()),
            Err(errno) => Resumed::Failed(format!("resuming writes failed: {errno}")),
        }),
    }
}

/// Of a filesystem that failed during a hold.
const FAILED: &str = "the filesystem failed while writes were suspended (it counted errors, made itself read-only or was shut down), \
                      and so it may be in the replica: see the node's kernel log, and check the volume";

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn log(report: &Report) {
    match report {
        Report::Hello(_) | Report::Waiting(_) | Report::Prepared(_) => tracing::debug!(?report, "reported"),
        Report::Pending(_) => tracing::warn!(?report, "reported"),
        Report::Ready(_) | Report::NotReady(_) | Report::Released(_) => tracing::info!(?report, "reported"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// "Released" says that writes go on, and another attempt may follow it.
    #[tokio::test]
    async fn a_release_is_answered_when_nothing_of_an_earlier_agent_is_suspended_any_more() {
        let recovery = Recovery::of_claim("claim");
        let settings = Settings {
            guardian: PathBuf::new(),
            max_hold: Duration::from_secs(1),
            records: std::env::temp_dir(),
            recovery: Arc::clone(&recovery),
        };
        let member = start(settings, "claim");
        let (reports, mut heard) = mpsc::channel(MEMBER_QUEUE);
        let attempt = wire::Attempt { member: "claim".to_owned(), epoch: 1, number: 1, ..wire::Attempt::default() };
        let release = Box::new(Command::Release(attempt));
        member.inbox.send(Message::Command(1, reports, release)).await.unwrap();
        while member.inbox.capacity() < member.inbox.max_capacity() {
            tokio::task::yield_now().await;
        }
        assert!(heard.try_recv().is_err(), "it says nothing while an earlier agent's freeze may stand");
        assert!(!member.is_idle(), "it is not forgotten meanwhile");
        recovery.ended("claim");
        let report = heard.recv().await.unwrap().report;
        assert!(matches!(report, Some(Report::Released(released)) if !released.unbroken));
    }
}
