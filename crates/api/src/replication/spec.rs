//! What the user asks for: the immutable spec of a replication.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::{
    COOL_DOWN_MAX, COOL_DOWN_MIN, MAX_MEMBERS, MAX_REPLICA_ANNOTATION, MAX_REPLICA_LABELS, MAX_RETRIES, MAX_TTL_SECONDS,
};
use crate::{Duration, ReplicationStatus};

/// One run: cut the volumes of a consistency group at one common point in time, or not at all. The spec cannot be changed, except
/// for what becomes of it when it has ended; create another object for another run.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "stillpoint.io",
    version = "v1alpha1",
    kind = "ConsistencyGroupReplication",
    plural = "consistencygroupreplications",
    singular = "consistencygroupreplication",
    shortname = "cgr",
    category = "stillpoint",
    namespaced,
    status = "ReplicationStatus",
    derive = "PartialEq",
    doc = "Replicates a consistency group: many volumes cut at one common point in time, or not at all.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.readyMembers"),
    printcolumn(name = "Consistency", type_ = "string", json_path = ".status.consistency"),
    printcolumn(name = "Hold", type_ = "string", json_path = ".status.hold.duration"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Next attempt", type_ = "string", json_path = ".status.nextAttemptAt", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("metadata.name must be at most 63 characters, because it becomes a label of every replica")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.source == oldSelf.source && self.mode == oldSelf.mode && self.suspension == oldSelf.suspension && has(self.replication) == has(oldSelf.replication) && (!has(self.replication) || self.replication == oldSelf.replication) && has(self.retry) == has(oldSelf.retry) && (!has(self.retry) || self.retry == oldSelf.retry)")
        .message("spec is immutable but for deletionPolicy and ttlSecondsAfterFinished: one object is one run; create another ConsistencyGroupReplication"),
    validation = Rule::new("self.deletionPolicy == oldSelf.deletionPolicy || self.deletionPolicy == 'Retain'")
        .message("spec.deletionPolicy may be changed to Retain, and not back: replicas that are kept are deleted by whoever wants them to go"),
    validation = Rule::new("self.mode == 'Check' || has(self.replication)")
        .message("spec.replication is required with mode Replicate: say how the members are replicated, for example volumeSnapshot: {}")
)]
pub struct ConsistencyGroupReplicationSpec {
    /// Which claims of this namespace are the members. Exactly one of its fields must be set.
    pub source: Source,
    /// `Replicate` cuts and keeps a replica of every member. `Check` only answers whether the group could be cut now: it
    /// suspends, looks, resumes, and keeps nothing.
    #[serde(default)]
    pub mode: Mode,
    /// How long writes may be suspended, and how long members may take to become ready.
    #[serde(default)]
    pub suspension: Suspension,
    /// How every member is replicated. Required unless `mode` is `Check`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
    /// Whether an attempt that ended badly is followed by another one. Left out, it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What happens to the replicas when this object is deleted. `Delete` removes them, `Retain` keeps them. It may be changed to
    /// `Retain` at any time. `kubectl delete --cascade=orphan` keeps the replicas of a run that is done whatever this says.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// When the run has ended, however it has, the object is deleted so many seconds later, at most ten years; what becomes of the
    /// replicas then, `deletionPolicy` says. Left out, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_TTL_SECONDS))]
    pub ttl_seconds_after_finished: Option<u32>,
}

/// Which claims are the members.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.selector) != has(self.persistentVolumeClaimNames)")
    .message("spec.source needs exactly one of selector and persistentVolumeClaimNames"))]
pub struct Source {
    /// Every claim of this namespace with these labels, resolved once when the run begins. It must not be empty: an empty
    /// selector would take every claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && self.matchLabels.size() > 0) || (has(self.matchExpressions) && self.matchExpressions.size() > 0)")
        .message("spec.source.selector must not be empty: an empty selector would take every claim of the namespace"))]
    pub selector: Option<LabelSelector>,
    /// The claims by name, at most 100, each once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_MEMBERS))]
    #[x_kube(validation = Rule::new("self.all(n, self.exists_one(m, m == n))")
        .message("spec.source.persistentVolumeClaimNames names a claim twice"))]
    pub persistent_volume_claim_names: Option<Vec<ClaimName>>,
}

/// A claim's name: a DNS subdomain of at most 253 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimName(#[schemars(length(min = 1, max = 253))] pub String);

/// Whether replicas are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Cut and keep a replica of every member.
    #[default]
    Replicate,
    /// Answer the question, resume, keep nothing.
    Check,
}

/// Limits of the suspension. Durations are written like `30s`, `1m30s` or `500ms`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.prepareTimeout) || duration(self.prepareTimeout) > duration('0s')")
        .message("spec.suspension.prepareTimeout must be longer than 0s"),
    validation = Rule::new("!has(self.prepareTimeout) || duration(self.prepareTimeout) <= duration('1h')")
        .message("spec.suspension.prepareTimeout must be at most 1h"),
    validation = Rule::new("!has(self.holdTimeout) || duration(self.holdTimeout) > duration('0s')")
        .message("spec.suspension.holdTimeout must be longer than 0s")
)]
pub struct Suspension {
    /// A member's time to become ready, retries included. Writes are not suspended while a member waits.
    #[serde(default = "Suspension::default_prepare_timeout")]
    #[schemars(schema_with = "duration_schema")]
    pub prepare_timeout: Duration,
    /// The longest time that any member's writes may stay suspended; every agent enforces it by itself. The chart sets the
    /// ceiling.
    #[serde(default = "Suspension::default_hold_timeout")]
    #[schemars(schema_with = "duration_schema")]
    pub hold_timeout: Duration,
}

impl Suspension {
    fn default_prepare_timeout() -> Duration {
        std::time::Duration::from_secs(30).into()
    }

    fn default_hold_timeout() -> Duration {
        std::time::Duration::from_secs(10).into()
    }
}

impl Default for Suspension {
    fn default() -> Self {
        Self { prepare_timeout: Self::default_prepare_timeout(), hold_timeout: Self::default_hold_timeout() }
    }
}

/// Further attempts after one that was aborted, of which nothing was cut, or that failed and left nothing: its replicas are
/// removed, and every agent has said that writes go on. A hold that no snapshot controller took notice of is not repeated.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.coolDown) || duration(self.coolDown) >= duration('1s')")
        .message("spec.retry.coolDown must be at least 1s"),
    validation = Rule::new("!has(self.coolDown) || duration(self.coolDown) <= duration('1h')")
        .message("spec.retry.coolDown must be at most 1h")
)]
pub struct Retry {
    /// How many attempts may follow the first one, at most 10.
    #[serde(default = "Retry::default_limit")]
    #[schemars(range(min = 0, max = MAX_RETRIES))]
    pub limit: u32,
    /// How long writes go on undisturbed before the next attempt, from 1s to 1h.
    #[serde(default = "Retry::default_cool_down")]
    #[schemars(schema_with = "duration_schema")]
    pub cool_down: Duration,
}

impl Retry {
    fn default_limit() -> u32 {
        2
    }

    fn default_cool_down() -> Duration {
        std::time::Duration::from_secs(30).into()
    }

    /// All attempts, the first one included.
    pub fn attempts(&self) -> u32 {
        self.limit.min(MAX_RETRIES) + 1
    }

    /// The pause before the next attempt, within its bounds whatever is stored.
    pub fn pause(&self) -> std::time::Duration {
        std::time::Duration::from(self.cool_down).clamp(COOL_DOWN_MIN, COOL_DOWN_MAX)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { limit: Self::default_limit(), cool_down: Self::default_cool_down() }
    }
}

/// Accepts a leading minus so that a negative duration reaches the CEL rule, whose sentence says what is wrong.
fn duration_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "string",
        "maxLength": 32,
        "pattern": r"^-?([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$",
    })
}

// The rule counts fields, because to `has()` a field that is null is absent.
/// How the members are replicated: exactly one kind of replica.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("size(dyn(self)) == 1")
    .message("spec.replication needs exactly one kind of replica, for example volumeSnapshot: {}; write {} and not null, which kubectl apply leaves out"))]
pub struct Replication {
    /// One CSI `VolumeSnapshot` for every member. `null` means the same as `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "named")]
    pub volume_snapshot: Option<VolumeSnapshotReplication>,
}

/// Reads what is asked for by being named: templates write `null` for a map without entries.
fn named<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Some(or_default(deserializer)?))
}

/// Replicas as CSI `VolumeSnapshot` objects (<https://kubernetes.io/docs/concepts/storage/volume-snapshots/>).
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.readyTimeout) || duration(self.readyTimeout) > duration('0s')")
        .message("spec.replication.volumeSnapshot.readyTimeout must be longer than 0s"),
    validation = Rule::new("!has(self.labels) || self.labels.all(key, !key.startsWith('stillpoint.io/'))")
        .message("spec.replication.volumeSnapshot.labels must not begin with stillpoint.io/"),
    validation = Rule::new("!has(self.annotations) || self.annotations.all(key, !key.startsWith('stillpoint.io/'))")
        .message("spec.replication.volumeSnapshot.annotations must not begin with stillpoint.io/")
)]
pub struct VolumeSnapshotReplication {
    /// The class for every member. Its driver must be the driver of every member's volume. Left out, each member gets the
    /// default class of its own driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub volume_snapshot_class_name: Option<String>,
    /// How long a proven cut may take until every snapshot is `readyToUse`; then it is void. Left out, there is no limit:
    /// drivers upload, and the cut stays what it is meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema", extend("nullable" = true))]
    pub ready_timeout: Option<Duration>,
    /// Labels that every snapshot carries beside those of Stillpoint, at most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    #[schemars(extend("maxProperties" = MAX_REPLICA_LABELS, "nullable" = true))]
    pub labels: BTreeMap<String, LabelValue>,
    /// Annotations that every snapshot carries beside those of Stillpoint, at most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    #[schemars(extend("maxProperties" = MAX_REPLICA_LABELS, "nullable" = true))]
    pub annotations: BTreeMap<String, AnnotationValue>,
}

/// The value of a label, as Kubernetes takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LabelValue(
    #[schemars(length(max = 63), regex(pattern = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"))] pub String,
);

/// The value of an annotation: at most 256 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnnotationValue(#[schemars(length(max = MAX_REPLICA_ANNOTATION))] pub String);

/// Reads `null` as what is left out.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What happens to the replicas when the object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The replicas are deleted too.
    #[default]
    Delete,
    /// The replicas stay.
    Retain,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_kind_of_replica_is_asked_for_by_its_name_alone() {
        let read = |value: Value| serde_json::from_value::<Replication>(value).unwrap().volume_snapshot;
        let everything_left_out = Some(VolumeSnapshotReplication::default());
        assert_eq!(read(json!({"volumeSnapshot": {}})), everything_left_out);
        assert_eq!(read(json!({"volumeSnapshot": null})), everything_left_out);
        assert_eq!(read(json!({})), None);
        assert_eq!(read(json!({"anotherKind": {}})), None, "of a later version");
        let named = read(json!({"volumeSnapshot": {"volumeSnapshotClassName": "fast"}}));
        assert_eq!(named.unwrap().volume_snapshot_class_name.as_deref(), Some("fast"));
    }
}
