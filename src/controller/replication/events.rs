//! Kubernetes Events on the replication: one for each phase, and one for each member with a blocker. They never hold up a
//! status: what does not fit the queue is dropped, because the status says the same.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use super::answers::shorten;
use crate::api::{Phase, ReplicationStatus};
use crate::limits::{API_TIMEOUT, EVENT_QUEUE};

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
        let recorder = Recorder::new(client, reporter);
        tokio::spawn(async move {
            while let Some((event, object)) = waiting.recv().await {
                match tokio::time::timeout(API_TIMEOUT, recorder.publish(&event, &object)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, reason = event.reason, "an event was not published"),
                    Err(_) => tracing::warn!(reason = event.reason, "an event was not published in time"),
                }
            }
        });
        Self { queue }
    }

    /// Tells of the phase that a status shows, and of its blockers when it ended without a group.
    pub fn phase(&self, status: &ReplicationStatus, object: &ObjectReference) {
        let Some(phase) = status.phase else { return };
        let ended_badly = matches!(phase, Phase::Aborted | Phase::Failed);
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let event = |reason: String, note: String, secondary| Event {
            type_: if ended_badly { EventType::Warning } else { EventType::Normal },
            reason,
            note: Some(shorten(&note)),
            action: format!("{phase:?}"),
            secondary,
        };
        self.put(
            event(format!("{phase:?}"), ready.map(|ready| ready.message.clone()).unwrap_or_default(), None),
            object,
        );
        for member in status.members.iter().filter(|_| ended_badly) {
            let Some(blocker) = member.blockers.first() else { continue };
            let claim = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                name: Some(member.persistent_volume_claim.name.clone()),
                uid: Some(member.persistent_volume_claim.uid.clone()),
                namespace: object.namespace.clone(),
                ..ObjectReference::default()
            };
            let note = format!("{}: {}", member.persistent_volume_claim.name, blocker.message);
            self.put(event(blocker.reason.clone(), note, Some(claim)), object);
        }
    }

    fn put(&self, event: Event, object: &ObjectReference) {
        if let Err(error) = self.queue.try_send((event, object.clone())) {
            tracing::warn!(%error, "an event was dropped");
        }
    }
}
