//! The steps of a seed, as lines for people.

use stillpoint_api::ReplicationStatus;
use stillpoint_core::hold::Command;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::{Attempt, Blocker};

use super::api::{Fate, Request};
use super::sessions::understand;
use super::world::{Event, ToProcess};
use crate::controller::{Event as Heard, Object};

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
        Request::Put { version, status, .. } => format!("put status at version {version}: {}", self::status(status)),
        Request::Create { snapshot, .. } => format!("create {}", snapshot.metadata.name.clone().unwrap_or_default()),
        Request::Begin
        | Request::Get { .. }
        | Request::Pods { .. }
        | Request::List(_)
        | Request::Delete(..)
        | Request::GoodbyeBegins
        | Request::GoodbyeRead
        | Request::Unfinalize { .. } => format!("{request:?}"),
    }
}

fn to_process(what: &ToProcess) -> String {
    match what {
        ToProcess::Run(_, heard) => self::heard(heard),
        ToProcess::Begun(read) => format!("read before a run: {}", self::read(read)),
        ToProcess::GoodbyeBegins(read) => format!("read before a goodbye: {}", self::read(read)),
        ToProcess::GoodbyeRead(read) => format!("read during a goodbye: {}", self::read(read)),
        ToProcess::Object(object) => format!("watch: {}", self::object(object.as_deref())),
        ToProcess::Wake
        | ToProcess::Begin
        | ToProcess::Snapshot(_)
        | ToProcess::Listed(..)
        | ToProcess::Deleted(..)
        | ToProcess::DeleteAgain(_)
        | ToProcess::PodsAgain(_)
        | ToProcess::Unfinalized(_)
        | ToProcess::StopTimeout => format!("{what:?}"),
    }
}

fn heard(heard: &Heard) -> String {
    match heard {
        Heard::Put(Ok(object)) => format!("status stored: {}", self::object(Some(object))),
        Heard::Read(read) => format!("read after a conflict: {}", self::read(read)),
        Heard::Created { name, result: Ok(_) } => format!("created {name}"),
        Heard::Created { name, result: Err(why) } => format!("not created {name}: {why}"),
        Heard::Claim(uid, claim) => match claim {
            Some(claim) => format!("watch: claim {uid}, deleting {}", claim.deleting),
            None => format!("watch: claim {uid} is gone"),
        },
        Heard::Pod(uid, pod) => match pod {
            Some(pod) => format!("watch: pod {uid}, {} containers", pod.containers.len()),
            None => format!("watch: pod {uid} is gone"),
        },
        Heard::Replica(name, snapshot) => match snapshot {
            Some(snapshot) => format!("watch: {name} {:?}", snapshot.status),
            None => format!("watch: {name} is gone"),
        },
        Heard::Rechecked(pods) => format!("pods listed: {:?}", pods.keys().collect::<Vec<_>>()),
        Heard::Connected(_)
        | Heard::Lost(_)
        | Heard::Report(..)
        | Heard::Missed
        | Heard::Deletion
        | Heard::Deleted(_)
        | Heard::Put(Err(_))
        | Heard::Stop => format!("{heard:?}"),
    }
}

fn read(read: &Result<Option<Box<Object>>, ()>) -> String {
    read.as_ref().map_or_else(|()| "no answer".to_owned(), |object| self::object(object.as_deref()))
}

fn object(object: Option<&Object>) -> String {
    let Some(object) = object else { return "the object is gone".to_owned() };
    let status = object.status.as_ref().map_or_else(|| "no status".to_owned(), self::status);
    let deleting = if object.deleting { ", deleting" } else { "" };
    format!("version {}{deleting}, {status}", object.version)
}

fn status(status: &ReplicationStatus) -> String {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let message = ready.map(|ready| format!(" {}: {}", ready.reason, ready.message)).unwrap_or_default();
    let phase = status.phase.map_or_else(|| "no phase".to_owned(), |phase| format!("{phase:?}"));
    format!("{phase}{message}")
}
