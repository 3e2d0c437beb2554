//! What a driver is told, and what it has done for it. Plain data.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::DynamicObject;
use stillpoint_api::ConsistencyGroupReplication;

use super::agents::{AgentKey, AssignmentKey, PodRef};
use super::facts::{Claim, PodFacts};
use super::happened::Happened;
use super::rehearsal::{Rehearsed, Room};
use super::state::Command;
use crate::replica::Kind;
use crate::replica::ask::{Ask, Mark, NotMade, Remove};
use crate::replica::removal::{Left, Removed, Scope};
use crate::replica::seen::{self, ObjectName};
use crate::wire::ControllerMessage;
use crate::wire::agent_message::Report;

/// Why a request had no effect, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The object is gone.
    NotFound,
    /// Somebody wrote since the version that was read.
    Conflict,
    /// The API server's sentence, or that there was no answer: it may have taken effect.
    Trouble(String),
}

/// What a run is about, so that nothing else wakes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interest {
    /// The members' claims: names by UID.
    pub claims: BTreeMap<String, String>,
    /// Replicas of this kind are of interest too.
    pub replicas: Option<&'static dyn Kind>,
}

/// The claims and pods of a namespace, or those that a run is about, and its replicas.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Claims by UID.
    pub claims: BTreeMap<String, Claim>,
    /// Unfinished pods that have claims, by UID.
    pub pods: BTreeMap<String, PodFacts>,
    /// The agents of nodes: their pods, by the node.
    pub node_agents: BTreeMap<String, PodRef>,
    /// The objects that the replication's replicas consist of.
    pub replicas: BTreeMap<ObjectName, DynamicObject>,
}

/// What is known of storage before anybody is asked.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    /// CSI drivers by the name of the PersistentVolume; a volume without one is missing.
    pub drivers: BTreeMap<String, String>,
    /// What the kind of replica that is asked for reads of the cluster.
    pub facts: seen::Facts,
    /// What quotas say of the number of objects, by what they call it: of several quotas, the one with the least room.
    pub room: BTreeMap<String, Room>,
}

/// Something to do for a run. What names an input is answered by it, once, whatever happens, within a bound of time.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Read the object; [`Input::Object`].
    GetObject,
    /// Replace the status, at the resource version that the object has; [`Input::Stored`].
    PutStatus(Box<ConsistencyGroupReplication>),
    /// Replace the list of finalizers and the pin to the UID ([`stillpoint_api::labels::RUN_UID`]), at the resource version that the
    /// object has; [`Input::Patched`].
    SetMarks(Box<ConsistencyGroupReplication>),
    /// Read the claims and pods of the namespace, not older than this; [`Input::Looked`].
    Look,
    /// Read the CSI drivers of these volumes, and of a kind of replica: what it reads of the cluster, the quotas of its objects,
    /// and whether they can be watched; [`Input::LookedUp`].
    LookUp {
        /// Names of PersistentVolumes.
        volumes: Vec<String>,
        /// The kind; `None`: no replicas are made.
        kind: Option<&'static dyn Kind>,
    },
    /// Keep other runs away from these claims, until [`Effect::StepAside`] or the end. Answered by [`Input::Reserved`].
    Reserve {
        /// UIDs of the claims.
        claims: Vec<String>,
        /// All or none; otherwise those that are free.
        whole: bool,
    },
    /// Try these without storing anything; [`Input::Rehearsed`].
    Rehearse(Vec<Ask>),
    /// Tell of what happens to these, and to the agents; [`Input::Following`], and from then on everything as it happens.
    Follow {
        /// What the run is about.
        interest: Interest,
        /// The agents that it commands.
        agents: BTreeSet<AgentKey>,
        /// Replicas may be there already, made by an earlier leader: they are to be read anew.
        taken_over: bool,
    },
    /// Queue a command for an agent. One that cannot be queued is told of at once by [`Input::Unsent`].
    Send {
        /// Whom, and about which member.
        to: AssignmentKey,
        /// Which command it is.
        command: Command,
        /// The command.
        message: Box<ControllerMessage>,
    },
    /// Open so many connections to the API server. Not answered.
    Warm(usize),
    /// Ask for these, all at once; [`Input::Asked`] for each.
    Ask(Vec<Ask>),
    /// Remove these replicas, and whatever else is of this replication and in the scope; [`Input::Removed`].
    Remove {
        /// From each resource.
        removes: Vec<Remove>,
        /// Those of a later attempt are left alone: a controller that was overtaken without noticing must not delete what its
        /// successor made.
        scope: Scope,
    },
    /// Write these onto replicas, until it is done or the API server will not; [`Input::Marked`].
    Mark(Vec<Mark>),
    /// Take the owner of this UID off everything that is of this replication, so that it stays when the owner goes;
    /// [`Input::Disowned`].
    Disown {
        /// In each resource.
        removes: Vec<Remove>,
        /// The UID.
        owner: String,
    },
    /// This epoch was seen, and is higher than the leader's own.
    Seen(u64),
    /// List the pods of interest anew, until it is done; [`Input::Rechecked`].
    Recheck,
    /// No agent is needed any more: claims and the place among the runs are free for others.
    StepAside,
    /// Tell people.
    Tell(Vec<Happened>),
}

/// What a driver is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// The object as it is stored; `None`: it is gone.
    Object(Result<Option<Box<ConsistencyGroupReplication>>, Refused>),
    /// How [`Effect::PutStatus`] ended: the object as it is then.
    Stored(Result<Box<ConsistencyGroupReplication>, Refused>),
    /// How [`Effect::SetMarks`] ended: the object as it is then.
    Patched(Result<Box<ConsistencyGroupReplication>, Refused>),
    /// The namespace as it is, or the sentence that says why it could not be read.
    Looked(Result<Box<Facts>, String>),
    /// What is known of storage, or why it is not.
    LookedUp(Result<Box<Storage>, String>),
    /// How the API server answered to what was tried.
    Rehearsed(Rehearsed),
    /// Claims that belong to other runs: UID of the claim, name of the replication.
    Reserved(BTreeMap<String, String>),
    /// What the run is about as it is now, and the agents that are connected; or why it cannot be followed.
    Following(Result<(Box<Facts>, BTreeSet<AgentKey>), String>),
    /// A claim; `None`: it is gone.
    Claim(String, Option<Claim>),
    /// A pod; `None`: it is gone, or finished.
    Pod(String, Option<PodFacts>),
    /// An object of the replicas; `None`: it is gone.
    Replica(ObjectName, Option<Box<DynamicObject>>),
    /// The object is being deleted, or is gone.
    Deletion,
    /// The session of this agent can be used.
    Connected(AgentKey),
    /// The session of this agent ended.
    Lost(AgentKey),
    /// This agent reports.
    Report(AgentKey, Report),
    /// A command could not be queued.
    Unsent(AssignmentKey),
    /// Events of agents were missed.
    Missed,
    /// How something that was asked for ended: the object that is there now, whoever made it, or why there is none, or none is
    /// known of.
    Asked {
        /// Its name.
        name: ObjectName,
        /// The object.
        result: Result<Box<DynamicObject>, NotMade>,
    },
    /// How [`Effect::Remove`] ended.
    Removed(Removed),
    /// Everything is written onto the replicas that was to be; or why the API server will not have it.
    Marked(Result<(), String>),
    /// What still has the owner, and why.
    Disowned(Vec<Left>),
    /// The pods of interest as they are now.
    Rechecked(BTreeMap<String, PodFacts>),
    /// The process is told to stop.
    Stop,
}
