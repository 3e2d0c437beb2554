//! What is kept of a replication that nobody drives: enough to say whether and when it is to be driven, and which of its attempts
//! are void. The object itself may be a thousand times as large; whoever drives it reads it. Pure.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::core::{DynamicObject, ObjectMeta};
use serde::Deserialize;
use serde_json::Value;
use stillpoint_api::{ConsistencyGroupReplication, ConsistencyGroupReplicationSpec, Mode, Phase};

use super::copies::{is_copy, is_said};
use super::goodbye;

/// A replication, in short.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stub {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The version that was seen.
    pub resource_version: Option<String>,
    /// The generation of its spec.
    pub generation: Option<i64>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it has this controller's finalizer.
    pub guarded: bool,
    /// Whether it makes replicas. Unless it says that it only checks, it is taken to.
    pub replicates: bool,
    /// How far it is; `None`: it has no status.
    pub progress: Option<Progress>,
    /// The leader that wrote its status; 0: none did.
    pub leader_epoch: u64,
    /// It is a copy of another run, and that is not said of it yet: the status that it came with is the other one's.
    pub is_unsaid_copy: bool,
    /// Its finalizer is to come off: it is being deleted, or nothing would be left to do if it were.
    pub is_to_be_let_go: bool,
    /// For how many seconds it stays when its run has ended; `None`: until somebody deletes it.
    pub stays: Option<u32>,
    /// When its newest phase began.
    pub since: Option<Timestamp>,
}

/// How far a replication is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Its phase; `None`: it has none, or one that this version does not know.
    pub phase: Option<Phase>,
    /// The number of its attempt.
    pub attempt: u32,
    /// Whether an attempt was ever begun: without one, nothing was asked of anybody.
    pub began: bool,
}

impl Stub {
    /// Of an object as the API server has it. What cannot be understood is left out, so that one spoiled object, or one that a
    /// newer version wrote, is no trouble of anybody else's: its own run says what is wrong with it.
    pub fn read(object: &DynamicObject) -> Self {
        if let Some(object) = understood(object) {
            return Self::of(&object);
        }
        let status = &object.data["status"];
        let attempt = status["attempt"].as_u64().and_then(|attempt| u32::try_from(attempt).ok());
        let entries = status["phases"].as_array().into_iter().flatten();
        let progress = status.as_object().filter(|status| !status.is_empty()).map(|_| Progress {
            phase: phase(&status["phase"]),
            attempt: attempt.unwrap_or_default(),
            began: entries.filter_map(|entry| phase(&entry["phase"])).any(is_of_an_attempt),
        });
        let checks =
            serde_json::from_value(object.data["spec"]["mode"].clone()).is_ok_and(|mode: Mode| mode == Mode::Check);
        let stub = Self::of_parts(&object.metadata, !checks, progress);
        Self { is_to_be_let_go: stub.guarded && stub.deleting, ..stub }
    }

    /// Of an object that was understood.
    pub fn of(object: &ConsistencyGroupReplication) -> Self {
        let status = object.status.as_ref();
        let progress = status.map(|status| Progress {
            phase: status.phase,
            attempt: status.attempt,
            began: status.phases.iter().any(|entry| is_of_an_attempt(entry.phase)),
        });
        Self {
            leader_epoch: status.map_or(0, |status| status.leader_epoch),
            is_unsaid_copy: is_copy(object) && !is_said(object),
            is_to_be_let_go: goodbye::is_due(object),
            stays: object.spec.ttl_seconds_after_finished,
            since: status.and_then(|status| status.phases.last()).map(|entry| entry.started_at.0),
            ..Self::of_parts(&object.metadata, object.spec.mode == Mode::Replicate, progress)
        }
    }

    fn of_parts(metadata: &ObjectMeta, replicates: bool, progress: Option<Progress>) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone(),
            generation: metadata.generation,
            deleting: metadata.deletion_timestamp.is_some(),
            guarded: goodbye::is_guarded(metadata),
            replicates,
            progress,
            ..Self::default()
        }
    }

    /// Its phase, as far as it is known.
    pub fn phase(&self) -> Option<Phase> {
        self.progress.and_then(|progress| progress.phase)
    }

    /// Whether the run has ended for good.
    pub fn has_ended(&self) -> bool {
        self.phase().is_some_and(Phase::is_final) && !self.is_unsaid_copy
    }

    /// Whether there is anything to do about it: it has not ended, or its finalizer is to come off.
    pub fn needs_work(&self) -> bool {
        self.is_to_be_let_go || !self.deleting && !self.has_ended()
    }

    /// What Events name it by.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(ConsistencyGroupReplication::api_version(&()).into_owned()),
            kind: Some(ConsistencyGroupReplication::kind(&()).into_owned()),
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            uid: Some(self.uid.clone()),
            resource_version: self.resource_version.clone(),
            ..ObjectReference::default()
        }
    }
}

/// The object as what it should be. Read in place: it is large, and comes with every change of it.
fn understood(object: &DynamicObject) -> Option<ConsistencyGroupReplication> {
    let spec = ConsistencyGroupReplicationSpec::deserialize(&object.data["spec"]).ok()?;
    let status = Option::deserialize(&object.data["status"]).ok()?;
    Some(ConsistencyGroupReplication { metadata: object.metadata.clone(), spec, status })
}

fn phase(word: &Value) -> Option<Phase> {
    serde_json::from_value(word.clone()).ok()
}

fn is_of_an_attempt(phase: Phase) -> bool {
    phase != Phase::Pending && !phase.is_final()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;
    use stillpoint_api::labels;

    use super::*;

    fn object(spec: Value, status: Value) -> Value {
        json!({
            "apiVersion": "stillpoint.io/v1alpha1",
            "kind": "ConsistencyGroupReplication",
            "metadata": {
                "name": "nightly", "namespace": "shop", "uid": "uid", "resourceVersion": "7", "generation": 1,
                "finalizers": [labels::FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": spec,
            "status": status,
        })
    }

    #[test]
    fn it_is_the_same_of_an_object_however_that_was_read() {
        let entry = |phase: &str| json!({"phase": phase, "startedAt": "2026-01-01T00:00:00.000000Z"});
        let statuses = [
            json!({"phase": "Done", "attempt": 2, "phases": [entry("Checking"), entry("Done")]}),
            json!({"phase": "Aborted", "phases": [entry("Aborted")]}),
            json!({"phase": "Pending", "phases": [entry("Pending")]}),
            json!(null),
        ];
        let specs =
            [json!({"source": {}, "mode": "Check"}), json!({"source": {}, "replication": {"volumeSnapshot": {}}})];
        for (status, spec) in statuses.iter().flat_map(|status| specs.iter().map(move |spec| (status, spec))) {
            let whole = object(spec.clone(), status.clone());
            let typed: ConsistencyGroupReplication = serde_json::from_value(whole.clone()).unwrap();
            assert_eq!(Stub::read(&serde_json::from_value(whole).unwrap()), Stub::of(&typed), "{spec} {status}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_left_out_and_nothing_else() {
        let spoiled = [
            (json!({"source": 7, "mode": ["Check"]}), json!({"phase": "Sleeping", "attempt": -1, "phases": "none"})),
            (json!("spec"), json!({"phase": 3, "attempt": "many", "phases": [4, {"phase": {}}, null]})),
            (json!(null), json!({"phases": {"a": 1}})),
        ];
        for (spec, status) in spoiled {
            let stub = Stub::read(&serde_json::from_value(object(spec, status)).unwrap());
            assert_eq!((&*stub.namespace, &*stub.name, &*stub.uid), ("shop", "nightly", "uid"));
            assert_eq!(stub.progress, Some(Progress::default()));
            assert!(stub.replicates && stub.guarded && stub.deleting && stub.needs_work());
        }
        let bare = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "bare"}});
        assert_eq!(Stub::read(&serde_json::from_value(bare).unwrap()).progress, None);
    }
}
