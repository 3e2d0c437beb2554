//! The world of one seed: who is there, what happens next, and what each event does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_core::limits::MAX_HOLD;
use stillpoint_core::replica::removal::{Deleted, Found, Trouble};
use stillpoint_core::run::agents::AgentKey;
use stillpoint_core::run::effect::{Facts, Input};
use stillpoint_core::run::facts::{PodFacts, RunningContainer};
use stillpoint_core::run::state::Moment;
use stillpoint_core::wire::ControllerMessage;
use stillpoint_core::wire::agent_message::Report;

use super::api::{Fate, Request};
use super::application::Application;
use super::breaks::Break;
use super::driving::Driven;
use super::faults::KINDS;
use super::judge::{Judge, Violation};
use super::leaders::Lead;
use super::queue::Queue;
use super::removals::Removing;
use super::setting::Setting;
use super::{Ending, Story, telling};
use crate::cluster::{self, Object, Store};
use crate::node::{Node, Work};

/// Steps that a seed may take; a run that needs more does not end.
const MAX_STEPS: u64 = 200_000;
/// Virtual time that a seed may take. Longest is the wait for a replica that never becomes usable.
const MAX_TIME: Duration = Duration::from_secs(24 * 3_600);

/// What happens at some time.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Something reaches a controller process, if it is still the same one.
    Process { process: usize, incarnation: u32, what: ToProcess },
    /// A request arrives at the API server.
    Request { process: usize, incarnation: u32, request: Request, fate: Fate },
    /// A process begins to lead, if nobody does.
    Lead,
    /// A killed process starts again.
    StartProcess(usize),
    /// A stopped process (SIGSTOP) goes on.
    ContinueProcess { process: usize, incarnation: u32 },
    /// A process that has not renewed its lease for too long notices that, and ends.
    Deposed { process: usize, incarnation: u32 },
    /// An agent tries to open a session.
    OpenSession { pod: usize, process: usize },
    /// A command arrives at the agent.
    Command { link: u64, message: Box<ControllerMessage> },
    /// A report arrives at the controller process.
    Report { link: u64, report: Box<Report> },
    /// The agent notices that a session is gone.
    AgentNotices(u64),
    /// The controller process notices that a session is gone.
    ControllerNotices(u64),
    /// A piece of work of a member's node side completes.
    Work { member: usize, work: Work },
    /// A deadline of a member's node side may have come.
    Timer(usize),
    /// A killed agent starts again.
    StartAgent { pod: usize, incarnation: u32 },
    /// A stopped agent goes on.
    ContinueAgent { pod: usize, incarnation: u32 },
    /// A killed guardian starts again.
    StartGuardian(usize),
    /// A stopped guardian goes on.
    ContinueGuardian(usize),
    /// A guardian takes newcomers again.
    GuardianAccepts(usize),
    /// A pod that was deleted comes back as another one.
    RecreatePod(usize),
    /// The processes of a pod that was deleted end.
    EndPod(usize),
    /// A pod's container that was restarted runs.
    ContainerRuns(usize),
    /// A pod that mounts one more claim begins to write.
    Mounted(usize),
    /// The application drops its lock.
    Unlock(usize),
    /// Somebody else ends a freeze.
    ForeignThaw(usize),
    /// The storage system takes a cut; the number says which creation of the snapshot is meant.
    Cut { name: String, creation: u64, member: usize },
    /// Its time is known.
    CutTold { name: String, creation: u64 },
    /// It can be used.
    Usable { name: String, creation: u64 },
    /// The driver reports an error.
    CutFails { name: String, creation: u64 },
    /// The garbage collector comes by.
    Garbage,
}

/// What reaches a controller process.
#[derive(Clone, Debug)]
pub(super) enum ToProcess {
    /// Something for the driver of this number.
    Input(u64, Box<Input>),
    /// What the driver of this number follows, as it was when the watches began.
    Following(u64, Box<Facts>, BTreeSet<AgentKey>),
    /// It is time for something.
    Wake,
    /// The watch of the replications: the object as it is, or gone.
    Object(Option<Box<Object>>),
    /// The watch of the sweep: a snapshot as it is.
    Snapshot(Box<VolumeSnapshot>),
    /// The object as read for the sweep, because of this snapshot.
    Judged(Box<VolumeSnapshot>, Result<Option<Box<Object>>, ()>),
    /// A list for a removal: names, with their attempts.
    Listed(u64, Result<Vec<Found>, Trouble>),
    /// One deletion of a removal; whether it was there.
    Deleted(u64, Result<Deleted, Trouble>),
    /// A removal goes on after a pause.
    RemoveAgain(u64),
    /// A request that failed is made again after a pause.
    AskAgain(Box<Request>),
    /// A request failed and is made again after a pause.
    AskLater(Box<Request>),
    /// A list of pods failed and is tried again.
    PodsAgain(u64),
    /// A stopping process does not wait any longer.
    StopTimeout,
}

/// A controller process.
#[derive(Clone, Debug, Default)]
pub(super) struct Process {
    /// Rises with every start.
    pub incarnation: u32,
    /// It runs.
    pub alive: bool,
    /// What reaches it when it goes on, while it is stopped.
    pub held: Option<Vec<Event>>,
    /// The zero of its monotonic clock.
    pub started: Duration,
    /// What it has while it believes to lead.
    pub leading: Option<Lead>,
    /// The replication that it drives.
    pub driven: Option<Driven>,
    /// Rises with everything that it drives.
    pub drivers: u64,
    /// Open sessions by the pod's UID.
    pub registry: BTreeMap<String, u64>,
    /// Removals under way.
    pub removals: BTreeMap<u64, Removing>,
    /// The object as the watch showed it last; `None`: it is gone.
    pub newest: Option<Object>,
    /// It was told to stop.
    pub stopping: bool,
    /// When its timer is due, and when the wake for it comes.
    pub wake_due: Option<Duration>,
    pub wake: Option<Duration>,
    /// When the last event of each watch arrives: watches keep their order.
    pub watched_until: [Duration; 5],
}

/// A pod of the group, and its agent.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    /// Rises when another pod takes its place.
    pub generation: u32,
    /// The node that it runs on.
    pub machine: usize,
    /// Its processes run.
    pub alive: bool,
    /// Rises with every start and end of its agent.
    pub incarnation: u32,
    /// The agent is stopped (SIGSTOP).
    pub stopped: bool,
    /// The agent runs.
    pub agent: bool,
    /// How often its container was restarted.
    pub restarts: u32,
}

/// A node of the cluster, with its guardian.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    /// The guardian is stopped (SIGSTOP): what it would do then is done when it goes on.
    pub stopped: bool,
    /// It runs.
    pub alive: bool,
}

/// A member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// Its agent, freezer, guardian and filesystem.
    pub node: Node,
    /// The pod that mounts it.
    pub pod: Option<usize>,
    /// Work whose completion is queued.
    pub scheduled: Vec<Work>,
    /// When the earliest deadline is due, and when it fires.
    pub timer_due: Option<Duration>,
    pub timer: Option<Duration>,
    /// The kernel completes no freeze before.
    pub hangs_until: Duration,
}

/// A session between an agent and a controller process.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub pod: usize,
    pub pod_uid: String,
    pub pod_incarnation: u32,
    pub process: usize,
    pub incarnation: u32,
    /// The network carries it.
    pub up: bool,
    /// The agent has not noticed that it ended.
    pub agent_open: bool,
    /// When the last command and the last report arrive: a session keeps their order.
    pub commands_until: Duration,
    pub reports_until: Duration,
}

/// The world.
pub(super) struct World {
    pub setting: Setting,
    pub rng: SmallRng,
    pub queue: Queue<Event>,
    pub now: Duration,
    /// Where virtual time begins on the clock of the state machines; only differences matter.
    pub base: Instant,
    pub store: Store,
    pub processes: Vec<Process>,
    pub machines: Vec<Machine>,
    pub pods: Vec<Pod>,
    pub members: Vec<Member>,
    pub links: BTreeMap<u64, Link>,
    pub last_link: u64,
    /// Who holds the lease.
    pub leader: Option<usize>,
    pub epoch: u64,
    pub last_removal: u64,
    pub creations: BTreeMap<String, u64>,
    pub application: Application,
    pub outage_until: Duration,
    /// Until then a policy denies to delete snapshots.
    pub(super) denied_until: Duration,
    /// Until when each watch tells nothing.
    pub lag_until: [Duration; 5],
    /// Milliseconds that the wall clock is off.
    pub wall_offset: i64,
    pub faults_left: usize,
    pub ordered: [u32; KINDS],
    pub counts: [u64; KINDS],
    pub judge: Judge,
    pub broken: Option<Break>,
    pub steps: u64,
    /// The object was deleted at the end, to see that it goes.
    pub farewell: bool,
    trace: Option<VecDeque<String>>,
    keep: usize,
}

impl World {
    /// The world of a seed. `trace`: how many of the last steps are told.
    pub fn new(seed: u64, broken: Option<Break>, trace: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut setting = Setting::draw(&mut rng);
        if let Some(broken) = broken {
            setting.favour(broken.faults());
        }
        let hold = setting.hold_timeout();
        let mounted = setting.pods_of_members.iter().map(Option::is_some).collect();
        let members: Vec<Member> = setting
            .pods_of_members
            .iter()
            .map(|pod| Member {
                node: if seed % 4 == 3 { Node::new(MAX_HOLD).with_quiescer() } else { Node::new(MAX_HOLD) },
                pod: *pod,
                scheduled: Vec::new(),
                timer_due: None,
                timer: None,
                hangs_until: Duration::ZERO,
            })
            .collect();
        let pods = setting.machines_of_pods.iter().map(|machine| Pod {
            generation: 1,
            machine: *machine,
            alive: true,
            incarnation: 1,
            stopped: false,
            agent: true,
            restarts: 0,
        });
        let processes = vec![Process { incarnation: 1, alive: true, ..Process::default() }; setting.controllers];
        Self {
            application: Application::new(mounted),
            judge: Judge::new(members.len(), hold),
            machines: vec![Machine { stopped: false, alive: true }; 3],
            pods: pods.collect(),
            members,
            processes,
            rng,
            queue: Queue::new(),
            now: Duration::ZERO,
            base: Instant::now(),
            store: Store::default(),
            links: BTreeMap::new(),
            last_link: 0,
            leader: None,
            epoch: 0,
            last_removal: 0,
            creations: BTreeMap::new(),
            outage_until: Duration::ZERO,
            denied_until: Duration::ZERO,
            lag_until: [Duration::ZERO; 5],
            wall_offset: 0,
            faults_left: setting.max_faults,
            ordered: [0; KINDS],
            counts: [0; KINDS],
            broken,
            steps: 0,
            farewell: false,
            trace: (trace > 0).then(VecDeque::new),
            keep: trace,
            setting,
        }
    }

    /// Lets everything happen until nothing more will.
    pub fn run(mut self) -> Story {
        self.begin();
        loop {
            let Some((at, event)) = self.queue.take() else {
                if self.judge.violation.is_some() || !self.say_farewell() {
                    break;
                }
                continue;
            };
            self.now = at;
            self.steps += 1;
            self.write_on();
            self.note(|| telling::event(&event));
            self.dispatch(event);
            self.judge_step();
            if self.judge.violation.is_some() {
                break;
            }
            if self.steps > MAX_STEPS || self.now > MAX_TIME {
                self.violate("every run ends", "the run goes on and on".to_owned());
                break;
            }
            self.perhaps_fault();
            self.judge_step();
            if self.judge.violation.is_some() {
                break;
            }
        }
        if self.judge.violation.is_none() {
            self.judge_end();
        }
        Story {
            steps: self.steps,
            faults: self.counts,
            ending: self.judge.ending.clone().unwrap_or_else(|| Ending::gone(self.setting.spec.mode)),
            longest: self.judge.longest,
            limit: self.setting.hold_timeout(),
            lasted: self.now,
            violation: self.judge.violation,
            trace: self.trace.map(Vec::from).unwrap_or_default(),
        }
    }

    fn begin(&mut self) {
        for index in 0..self.members.len() {
            let claim = cluster::claim(index);
            self.store.claims.insert(claim.uid.clone(), claim);
        }
        for pod in 0..self.pods.len() {
            let facts = self.pod_facts(pod);
            self.store.pods.insert(facts.uid.clone(), facts);
            for process in 0..self.processes.len() {
                let at = self.time(Duration::from_millis(1), Duration::from_millis(300));
                self.queue.put(at, Event::OpenSession { pod, process });
            }
        }
        self.store.object = Some(cluster::group(self.members.len(), self.setting.spec.clone()));
        let at = self.time(Duration::from_millis(1), Duration::from_secs(1));
        self.queue.put(at, Event::Lead);
        if self.setting.locks {
            for member in 0..self.members.len() {
                if self.members[member].pod.is_some() && self.rng.random_bool(0.5) {
                    self.members[member].node.lock();
                    let until = self.time(Duration::from_millis(50), Duration::from_secs(25));
                    self.queue.put(until, Event::Unlock(member));
                }
            }
        }
    }

    /// Once everything has ended, somebody deletes the object, if nobody has.
    fn say_farewell(&mut self) -> bool {
        self.faults_left = 0;
        self.ordered = [0; KINDS];
        if self.farewell || self.store.object.is_none() {
            return false;
        }
        self.farewell = true;
        self.judge_rest();
        if self.judge.violation.is_none() {
            self.note(|| "the object is deleted".to_owned());
            self.delete_object();
        }
        true
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Process { process, incarnation, what } => {
                if self.reaches(process, incarnation, &what) {
                    self.at_process(process, what);
                }
            }
            Event::Request { process, incarnation, request, fate } => self.serve(process, incarnation, request, fate),
            Event::Lead => self.lead(),
            Event::StartProcess(process) => self.start_process(process),
            Event::ContinueProcess { process, incarnation } => self.continue_process(process, incarnation),
            Event::Deposed { process, incarnation } => self.depose(process, incarnation),
            Event::OpenSession { pod, process } => self.open_session(pod, process),
            Event::Command { link, message } => self.command_arrives(link, *message),
            Event::Report { link, report } => self.report_arrives(link, *report),
            Event::AgentNotices(link) => self.agent_notices(link),
            Event::ControllerNotices(link) => self.controller_notices(link),
            Event::Work { member, work } => self.work(member, work),
            Event::Timer(member) => self.timer(member),
            Event::StartAgent { pod, incarnation } => self.start_agent(pod, incarnation),
            Event::ContinueAgent { pod, incarnation } => self.continue_agent(pod, incarnation),
            Event::StartGuardian(machine) => self.start_guardian(machine),
            Event::ContinueGuardian(machine) => self.continue_guardian(machine),
            Event::GuardianAccepts(machine) => self.refuse_at_guardian(machine, false),
            Event::RecreatePod(pod) => self.recreate_pod(pod),
            Event::EndPod(pod) => self.end_pod(pod),
            Event::ContainerRuns(pod) => self.container_runs(pod),
            Event::Mounted(member) => self.mounted(member),
            Event::Unlock(member) => self.members[member].node.unlock(),
            Event::ForeignThaw(member) => self.end_foreign_freeze(member),
            Event::Cut { name, creation, member } => self.cut(&name, creation, member),
            Event::CutTold { name, creation } => self.tell_cut(&name, creation),
            Event::Usable { name, creation } => self.become_usable(&name, creation),
            Event::CutFails { name, creation } => self.cut_fails(&name, creation),
            Event::Garbage => self.collect_garbage(),
        }
    }

    /// Brings the application up to now.
    fn write_on(&mut self) {
        let frozen: Vec<bool> = self.members.iter().map(|member| member.node.frozen().is_some()).collect();
        let cuts = self.judge.cuts.values_mut().map(|cut| (cut.member, &mut cut.content));
        self.application.advance(self.now, &frozen, cuts);
    }

    /// Now on the clock of the state machines of agents and guardians.
    pub fn instant(&self) -> Instant {
        self.base + self.now
    }

    /// Now on the clocks of a controller process.
    pub fn moment(&self, process: usize) -> Moment {
        let wall = SignedDuration::from_millis(1_700_000_000_000 + self.wall_offset)
            + SignedDuration::try_from(self.now).unwrap_or_default();
        Moment {
            monotonic: self.now - self.processes[process].started,
            wall: Timestamp::from_duration(wall).unwrap_or_default(),
        }
    }

    /// A latency, longer on a slow cluster.
    pub fn latency(&mut self, low_us: u64, high_us: u64) -> Duration {
        let latency = self.time(Duration::from_micros(low_us), Duration::from_micros(high_us));
        latency.mul_f64(self.setting.slowness)
    }

    /// Tells a step, if anybody wants to know.
    pub fn note(&mut self, tell: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() >= self.keep {
                trace.pop_front();
            }
            trace.push_back(format!("{:>12.6} s  {}", self.now.as_secs_f64(), tell()));
        }
    }

    /// A promise is broken.
    pub fn violate(&mut self, promise: &'static str, what: String) {
        self.judge.violation.get_or_insert(Violation { promise, what, at: self.now });
    }

    /// The UID of the pod that stands in a place now.
    pub fn pod_uid(&self, pod: usize) -> String {
        format!("pod-{pod}-{}", self.pods[pod].generation)
    }

    /// A pod as the API server shows it.
    pub fn pod_facts(&self, pod: usize) -> PodFacts {
        let members = (0..self.members.len()).filter(|member| self.members[*member].pod == Some(pod));
        let restarts = self.pods[pod].restarts;
        PodFacts {
            node: Some(format!("node-{}", self.pods[pod].machine)),
            containers: vec![RunningContainer { name: "db".into(), id: format!("id-{pod}-{restarts}") }],
            ..cluster::mounts(&format!("db-{pod}"), &self.pod_uid(pod), members)
        }
    }
}
