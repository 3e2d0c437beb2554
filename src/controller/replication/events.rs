//! Kubernetes Events on the replication: one for each phase, and one for each blocker when it is first seen. They never hold
//! up a status: what does not fit the queue is dropped, because the status says the same.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::controller::api::within;
use stillpoint_api::{Blocker, ClaimReference, Phase, ReplicationStatus};
use stillpoint_core::limits::{API_TIMEOUT, EVENT_QUEUE, MAX_BLOCKERS, MAX_MESSAGE_CHARS};
use stillpoint_core::text::printable;

/// What Events have told of one replication.
#[derive(Default)]
pub struct Told {
    /// Of which attempt.
    phase: Option<(Phase, u32)>,
    /// By the claim's name, at most [`MAX_BLOCKERS`] each: blockers that come and go must not become a stream of Events.
    blockers: BTreeMap<String, Vec<Blocker>>,
}

impl Told {
    /// What a stored status says has been told when it was stored.
    pub fn by(status: &ReplicationStatus) -> Self {
        let mut told = Self::default();
        drop(told.news(status));
        told
    }

    /// Takes note of a status, and gives what it shows for the first time.
    fn news(&mut self, status: &ReplicationStatus) -> (Option<Phase>, Vec<(ClaimReference, Blocker)>) {
        let phase = status.phase.filter(|phase| self.phase != Some((*phase, status.attempt)));
        self.phase = status.phase.map(|phase| (phase, status.attempt));
        let mut blockers = Vec::new();
        for member in &status.members {
            let claim = &member.persistent_volume_claim;
            let known = self.blockers.entry(claim.name.clone()).or_default();
            for blocker in &member.blockers {
                // It stays the same blocker while it is seen for longer.
                let blocker = Blocker { seen_for: None, ..blocker.clone() };
                if known.len() < MAX_BLOCKERS && !known.contains(&blocker) {
                    known.push(blocker.clone());
                    blockers.push((claim.clone(), blocker));
                }
            }
        }
        (phase, blockers)
    }
}

/// Where events are put.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<(Event, ObjectReference)>,
}

impl Events {
    /// Starts the task that publishes. It ends with the last handle.
    pub fn start(client: Client, instance: String) -> Self {
        let (queue, mut waiting) = mpsc::channel::<(Event, ObjectReference)>(EVENT_QUEUE);
        let reporter = Reporter { controller: "stillpoint-controller".to_owned(), instance: Some(instance) };
        tokio::spawn(async move {
            while let Some((event, object)) = waiting.recv().await {
                // A recorder makes one series of what has the same reason. Everything here is told once, and two blockers of
                // one reason are two Events: each has a recorder of its own.
                let recorder = Recorder::new(client.clone(), reporter.clone());
                if let Err(error) = within(API_TIMEOUT, recorder.publish(&event, &object)).await {
                    tracing::warn!(reason = event.reason, "an event was not published: {error:#}");
                }
            }
        });
        Self { queue }
    }

    /// Tells what a stored status shows for the first time: its phase, and every blocker.
    pub fn tell(&self, told: &mut Told, status: &ReplicationStatus, object: &ObjectReference) {
        let Some(phase) = status.phase else { return };
        let (new_phase, blockers) = told.news(status);
        for (claim, blocker) in blockers {
            self.put(blocked(phase, &claim, &blocker, object), object);
        }
        if new_phase.is_some() {
            self.put(began(phase, status), object);
        }
    }

    fn put(&self, event: Event, object: &ObjectReference) {
        if let Err(error) = self.queue.try_send((event, object.clone())) {
            tracing::warn!(%error, "an event was dropped");
        }
    }
}

fn began(phase: Phase, status: &ReplicationStatus) -> Event {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let ended_badly = matches!(phase, Phase::Aborted | Phase::Failed);
    Event {
        type_: if ended_badly { EventType::Warning } else { EventType::Normal },
        reason: format!("{phase:?}"),
        note: ready.map(|ready| printable(&ready.message, MAX_MESSAGE_CHARS)),
        action: format!("{phase:?}"),
        secondary: None,
    }
}

fn blocked(phase: Phase, claim: &ClaimReference, blocker: &Blocker, object: &ObjectReference) -> Event {
    Event {
        type_: EventType::Warning,
        reason: blocker.reason.clone(),
        note: Some(printable(&format!("{}: {}", claim.name, blocker.message), MAX_MESSAGE_CHARS)),
        action: format!("{phase:?}"),
        secondary: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            name: Some(claim.name.clone()),
            uid: Some(claim.uid.clone()),
            namespace: object.namespace.clone(),
            ..ObjectReference::default()
        }),
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
