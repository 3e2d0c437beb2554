//! Kubernetes Events on the replication: one for each phase, and one for each blocker when it is first seen. They never hold
//! up a status: what does not fit the queue is dropped, because the status says the same.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::controller::api::within;
use stillpoint_api::Phase;
use stillpoint_core::limits::{API_TIMEOUT, EVENT_QUEUE, MAX_EVENT_NOTE, MAX_EVENT_REASON};
use stillpoint_core::run::happened::Happened;
use stillpoint_core::text::printable_bytes;

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

    /// Tells what happened to an object.
    pub fn tell(&self, happened: Vec<Happened>, object: &ObjectReference) {
        for event in happened.into_iter().filter_map(|one| event(one, object)) {
            self.put(event, object);
        }
    }

    fn put(&self, event: Event, object: &ObjectReference) {
        if let Err(error) = self.queue.try_send((event, object.clone())) {
            tracing::warn!(%error, "an event was dropped");
        }
    }
}

/// `None`: people find it in the log.
fn event(happened: Happened, object: &ObjectReference) -> Option<Event> {
    match happened {
        Happened::Stage { .. } => None,
        Happened::Began { phase, message, .. } => {
            let ended_badly = matches!(phase, Phase::Aborted | Phase::Failed);
            Some(Event {
                type_: if ended_badly { EventType::Warning } else { EventType::Normal },
                reason: format!("{phase:?}"),
                note: message.map(|message| printable_bytes(&message, MAX_EVENT_NOTE)),
                action: format!("{phase:?}"),
                secondary: None,
            })
        }
        Happened::Left { reason, message } => Some(Event {
            type_: EventType::Warning,
            reason,
            note: Some(printable_bytes(&message, MAX_EVENT_NOTE)),
            action: "CleanUp".to_owned(),
            secondary: None,
        }),
        Happened::Blocked { phase, claim, blocker, .. } => Some(Event {
            type_: EventType::Warning,
            reason: printable_bytes(&blocker.reason, MAX_EVENT_REASON),
            note: Some(printable_bytes(&format!("{}: {}", claim.name, blocker.message), MAX_EVENT_NOTE)),
            action: format!("{phase:?}"),
            secondary: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                name: Some(claim.name),
                uid: Some(claim.uid),
                namespace: object.namespace.clone(),
                ..ObjectReference::default()
            }),
        }),
    }
}
