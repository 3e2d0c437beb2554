//! The steps of a seed, as lines for people.

use stillpoint_api::ReplicationStatus;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_core::hold::Command;
use stillpoint_core::run::effect::Input;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::{Attempt, Blocker};

use super::api::{Fate, Request};
use super::sessions::understand;
use super::world::{Event, ToProcess};
use crate::cluster::{Object, is_deleting};

/// What happens.
pub(super) fn event(event: &Event) -> String {
    match event {
        Event::Process { process, what, .. } => format!("controller {process}: {}", to_process(what)),
        Event::Request { process, request, fate, .. } => {
            let fate = match fate {
                Fate::Answered => "",
                Fate::Refused => ", to be refused",
                Fate::Silent => ", whose answer will be lost",
            };
            format!("API server: {} of controller {process}{fate}", self::request(request))
        }
        Event::Command { link, message } => {
            let text = understand((**message).clone()).map_or_else(|| "nothing".to_owned(), |it| command(&it));
            format!("session {link} to agent: {text}")
        }
        Event::Report { link, report } => format!("session {link} to controller: {}", self::report(report)),
        Event::Work { member, work } => format!("member {member}: {work:?}"),
        Event::Timer(member) => format!("member {member}: deadline"),
        Event::Lead
        | Event::StartProcess(_)
        | Event::ContinueProcess { .. }
        | Event::Deposed { .. }
        | Event::OpenSession { .. }
        | Event::AgentNotices(_)
        | Event::ControllerNotices(_)
        | Event::StartAgent { .. }
        | Event::ContinueAgent { .. }
        | Event::StartGuardian(_)
        | Event::ContinueGuardian(_)
        | Event::GuardianAccepts(_)
        | Event::RecreatePod(_)
        | Event::EndPod(_)
        | Event::ContainerRuns(_)
        | Event::Mounted(_)
        | Event::Unlock(_)
        | Event::ForeignThaw(_)
        | Event::Cut { .. }
        | Event::CutTold { .. }
        | Event::Usable { .. }
        | Event::CutFails { .. }
        | Event::Garbage => format!("{event:?}"),
    }
}

/// A command.
pub(super) fn command(command: &Command) -> String {
    let (name, round) = match command {
        Command::Prepare(..) => ("Prepare", String::new()),
        Command::Suspend(_, round) => ("Suspend", format!(" round {round}")),
        Command::Release(_) => ("Release", String::new()),
    };
    format!("{name}{round}{}", attempt(Some(command.attempt())))
}

fn report(report: &Report) -> String {
    match report {
        Report::Hello(_) => "Hello".to_owned(),
        Report::Waiting(it) => format!("Waiting{}{}", blockers(&it.blockers), attempt(it.attempt.as_ref())),
        Report::Prepared(it) => format!("Prepared{}", attempt(it.attempt.as_ref())),
        Report::Ready(it) => format!("Ready round {}{}", it.round, attempt(it.attempt.as_ref())),
        Report::Pending(it) => format!("Pending round {}{}", it.round, attempt(it.attempt.as_ref())),
        Report::NotReady(it) => {
            let again = if it.retryable { "" } else { " for good" };
            format!("NotReady{again} round {}{}{}", it.round, blockers(&it.blockers), attempt(it.attempt.as_ref()))
        }
        Report::Released(it) => {
            let how = if it.unbroken { "unbroken".to_owned() } else { format!("broken: {}", it.reason) };
            format!("Released{} {how}", attempt(it.attempt.as_ref()))
        }
    }
}

fn attempt(attempt: Option<&Attempt>) -> String {
    attempt.map(|attempt| format!(" ({}, epoch {})", attempt.member, attempt.epoch)).unwrap_or_default()
}

fn blockers(blockers: &[Blocker]) -> String {
    blockers.iter().map(|blocker| format!(" [{}: {}]", blocker.reason, blocker.message)).collect()
}

fn request(request: &Request) -> String {
    match request {
        Request::Put { object, .. } => format!("put status at {}", self::object(Some(object))),
        Request::Marks { object, .. } => {
            format!("put finalizers {:?} at {}", object.metadata.finalizers, self::object(Some(object)))
        }
        Request::Create { snapshot, .. } => format!("create {}", self::name(snapshot)),
        Request::Judge(snapshot) => format!("read the object because of {}", self::name(snapshot)),
        Request::Get { .. }
        | Request::Look { .. }
        | Request::LookUp { .. }
        | Request::Follow { .. }
        | Request::Mark { .. }
        | Request::Pods { .. }
        | Request::List(_)
        | Request::Delete(..) => format!("{request:?}"),
    }
}

fn to_process(what: &ToProcess) -> String {
    match what {
        ToProcess::Input(_, input) => self::input(input),
        ToProcess::Following(..) => "it follows".to_owned(),
        ToProcess::Object(object) => format!("watch: {}", self::object(object.as_deref())),
        ToProcess::Snapshot(snapshot) => format!("sweep: {}", self::name(snapshot)),
        ToProcess::Judged(snapshot, read) => {
            let read = read.as_ref().map_or_else(|()| "no answer".to_owned(), |it| self::object(it.as_deref()));
            format!("sweep: because of {}: {read}", self::name(snapshot))
        }
        ToProcess::AskLater(request) => format!("failed: {}", self::request(request)),
        ToProcess::AskAgain(request) => format!("asks again: {}", self::request(request)),
        ToProcess::Wake
        | ToProcess::Listed(..)
        | ToProcess::Deleted(..)
        | ToProcess::RemoveAgain(_)
        | ToProcess::PodsAgain(_)
        | ToProcess::StopTimeout => format!("{what:?}"),
    }
}

fn input(input: &Input) -> String {
    match input {
        Input::Object(Ok(object)) => format!("read: {}", self::object(object.as_deref())),
        Input::Stored(Ok(object)) => format!("status stored: {}", self::object(Some(object))),
        Input::Patched(Ok(object)) => format!("finalizers stored: {}", self::object(Some(object))),
        Input::Looked(Ok(_)) => "claims and pods".to_owned(),
        Input::LookedUp(Ok(_)) => "drivers and classes".to_owned(),
        Input::Asked { name, result: Ok(_) } => format!("created {}", name.name),
        Input::Asked { name, result: Err(why) } => format!("not created {}: {why:?}", name.name),
        Input::Claim(uid, claim) => match claim {
            Some(claim) => format!("watch: claim {uid}, deleting {}", claim.deleting),
            None => format!("watch: claim {uid} is gone"),
        },
        Input::Pod(uid, pod) => match pod {
            Some(pod) => format!("watch: pod {uid}, {} containers", pod.containers.len()),
            None => format!("watch: pod {uid} is gone"),
        },
        Input::Replica(name, snapshot) => match snapshot {
            Some(replica) => format!("watch: {} {}", name.name, replica.data["status"]),
            None => format!("watch: {} is gone", name.name),
        },
        Input::Rechecked(pods) => format!("pods listed: {:?}", pods.keys().collect::<Vec<_>>()),
        Input::Object(Err(_))
        | Input::Stored(Err(_))
        | Input::Patched(Err(_))
        | Input::Looked(Err(_))
        | Input::LookedUp(Err(_))
        | Input::Rehearsed(_)
        | Input::Reserved(_)
        | Input::Following(_)
        | Input::Deletion
        | Input::Connected(_)
        | Input::Lost(_)
        | Input::Report(..)
        | Input::Unsent(..)
        | Input::Missed
        | Input::Removed(_)
        | Input::Marked(_)
        | Input::Disowned(_)
        | Input::Stop => format!("{input:?}"),
    }
}

fn name(snapshot: &VolumeSnapshot) -> String {
    snapshot.metadata.name.clone().unwrap_or_default()
}

fn object(object: Option<&Object>) -> String {
    let Some(object) = object else { return "the object is gone".to_owned() };
    let status = object.status.as_ref().map_or_else(|| "no status".to_owned(), self::status);
    let deleting = if is_deleting(object) { ", deleting" } else { "" };
    let version = object.metadata.resource_version.as_deref().unwrap_or_default();
    format!("version {version}{deleting}, {status}")
}

fn status(status: &ReplicationStatus) -> String {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let message = ready.map(|ready| format!(" {}: {}", ready.reason, ready.message)).unwrap_or_default();
    let phase = status.phase.map_or_else(|| "no phase".to_owned(), |phase| format!("{phase:?}"));
    format!("epoch {}, attempt {}, {phase}{message}", status.leader_epoch, status.attempt)
}
