//! What the controller reports: the status of a replication.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, duration};

/// Where a replication stands. Every list is bounded; what was left out is counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationStatus {
    /// The phase that the run is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Every phase that the run has been in, in order, with the time it began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhaseEntry>,
    /// The number of the attempt, from 1; while the next one is waited for, that of the last. 0 before the first one.
    #[serde(default)]
    pub attempt: u32,
    /// When the next attempt begins, by the controller's clock. Set while a run that was aborted cools down (`spec.retry`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<MicroTime>,
    /// The turn of the leading controller that wrote this. It rises with every new leader; a controller that finds a higher
    /// one than its own has been overtaken and leaves the run alone.
    #[serde(default)]
    pub leader_epoch: u64,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whether every member's replica can be restored from.
    #[serde(default)]
    pub ready_to_use: bool,
    /// When the last of the cuts was confirmed, by the controller's clock. The replicas show one common point in time
    /// between `hold.startedAt` and this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_time: Option<MicroTime>,
    /// The consistency that was achieved; unset until it is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// The time in which writes of any member were held. All members were suspended together within it, for the cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldStatus>,
    /// The longest time that writes of a member were suspended, over all rounds and attempts of the run. Unset while none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_suspension: Option<LongestSuspension>,
    /// Members that are ready (or further) of all, like `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_members: Option<String>,
    /// The members, at most 100, resolved once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberStatus>,
    /// `Ready`, `Reconciling` and `Stalled` as in kstatus; `WritesSuspended`, `Consistent` and `Blocked`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The phases of a run: `Pending`, `Checking`, `Ready`, `Replicating`, `Done`; a run can also end as `Aborted` or `Failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Accepted; nothing was asked of any agent. Also between two attempts (`spec.retry`).
    Pending,
    /// Agents were asked whether their member can be cut.
    Checking,
    /// Every member is suspended and holds.
    Ready,
    /// Replicas are being made.
    Replicating,
    /// The cut is proven and every replica can be used (with `mode: Check`: the group could be cut).
    Done,
    /// A member was not ready: nothing was cut and writes go on.
    Aborted,
    /// The cut is void: its replicas are removed and writes go on.
    Failed,
}

impl Phase {
    /// Whether the run has ended.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Aborted | Self::Failed)
    }
}

/// When a phase began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseEntry {
    /// The phase.
    pub phase: Phase,
    /// When it began, by the controller's clock.
    pub started_at: MicroTime,
}

/// How consistent the replicas are with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Consistency {
    /// One common crash-consistent cut: as if the power had failed everywhere at one moment.
    Crash,
}

/// From the first member that was ready to the last that had resumed, by the controller's clock. Between the first request
/// for a replica and the last confirmed cut, all members were suspended together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldStatus {
    /// When the controller learnt that the first member was suspended and clean.
    pub started_at: MicroTime,
    /// When the controller learnt that the last member had resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<MicroTime>,
    /// From `startedAt` to `endedAt`. Not how long one member was suspended: that is its `suspendedFor`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "duration::told")]
    pub duration: Option<Duration>,
    /// The part of it that went to waiting for the cuts: from the first request for a replica to the last confirmed cut.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "duration::told")]
    pub cut_duration: Option<Duration>,
}

/// The longest suspension of a run, as an agent told it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LongestSuspension {
    /// The name of the member's claim.
    pub persistent_volume_claim: String,
    /// In which attempt it was.
    pub attempt: u32,
    /// How long it lasted, by the agent's monotonic clock; unset when it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "duration::told")]
    pub duration: Option<Duration>,
}

/// One member of the group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// The claim.
    pub persistent_volume_claim: ClaimReference,
    /// The PersistentVolume behind the claim.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub volume: String,
    /// The CSI driver of the volume.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// The pod that mounts the claim; unset when none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The node of that pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Which agent suspends its writes; unset when none is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentPlace>,
    /// How far the member is.
    pub state: MemberState,
    /// How its writes are suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// What gives the writes back if the agent dies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<Protection>,
    /// What stands in its way, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<Blocker>,
    /// Blockers beyond those listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_blockers: u32,
    /// When the controller learnt that the member was suspended and clean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<MicroTime>,
    /// When the controller learnt that its writes were given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<MicroTime>,
    /// How long its writes were suspended the last time, by the agent's monotonic clock. Unset when they never were. The longest
    /// time of the run is `status.longestSuspension`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "duration::told")]
    pub suspended_for: Option<Duration>,
    /// Its replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<ReplicaStatus>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A claim, pinned to its UID.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimReference {
    /// Name, in the namespace of the replication.
    pub name: String,
    /// UID; empty when no claim of that name exists.
    pub uid: String,
}

/// Where the agent of a member runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AgentPlace {
    /// A container of the pod that mounts the member.
    Sidecar,
    /// A pod of its own on the node of those that mount the member.
    Node,
}

/// How far a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemberState {
    /// Resolved, its agent was not asked yet.
    Pending,
    /// Its agent looks and flushes; writes go on.
    Preparing,
    /// Nothing stands in its way; writes go on.
    Prepared,
    /// Its agent was told to suspend.
    Suspending,
    /// Suspended, and no blocker was found.
    Ready,
    /// Something stands in its way.
    NotReady,
    /// Its agent was told to resume and has not answered yet.
    Releasing,
    /// It held without a break from ready to release.
    Released,
    /// It did not hold, or cannot say that it did.
    Broken,
    /// Its agent was told to resume and did not answer in time. If it had been told to suspend, it is not known whether writes are
    /// suspended: the condition `WritesSuspended` says since when.
    Silent,
    /// No pod mounts it: nobody writes, nothing to suspend.
    Unmounted,
}

/// How writes are suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Method {
    /// The filesystem is frozen with FIFREEZE (ioctl_fsfreeze in the kernel's VFS).
    FilesystemFreeze,
}

/// What gives the writes back if the agent dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protection {
    /// The guardian of the node, in a pod of its own: outlives the agent and its whole pod.
    NodeGuardian,
    /// A guardian in a container of the agent's pod: outlives the agent's container, but not the pod.
    PodGuardian,
}

/// What stands in a member's way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Blocker {
    /// A CamelCase word for programs, for example `LockHeld`, `Blind`, `AlreadyFrozen`, `NoAgent`.
    pub reason: String,
    /// A sentence for people: what is wrong, where, and what to do.
    pub message: String,
    /// The pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<BlockingProcess>,
    /// The lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<BlockingLock>,
    /// The file, as a path below the root of the member's filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// For how long it has been seen.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "duration::told")]
    pub seen_for: Option<Duration>,
}

/// A process that stands in the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockingProcess {
    /// Its id in the pod's process namespace.
    pub pid: i32,
    /// Its name (`/proc/PID/comm`, at most 15 characters by the kernel's rule).
    pub name: String,
}

/// A file lock that stands in the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockingLock {
    /// `POSIX`, `OFD`, `FLOCK` or `LEASE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `READ` or `WRITE`.
    pub mode: String,
    /// First byte.
    pub start: u64,
    /// Last byte; unset: to the end of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
}

/// A member's replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Its kind, for example `VolumeSnapshot`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its name, in the namespace of the replication. Left out while it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// When it was cut, by the storage system's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_time: Option<MicroTime>,
    /// When the controller asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<MicroTime>,
    /// When the controller learnt that the cut was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_at: Option<MicroTime>,
    /// From `requestedAt` to `cutAt`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "duration::told")]
    pub cut_took: Option<Duration>,
    /// Whether it can be restored from.
    #[serde(default)]
    pub ready_to_use: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn the_replica_of_an_earlier_version_is_read_without_its_name() {
        let old = json!({"volumeSnapshotName": "nightly-orders-1", "readyToUse": true});
        let replica: ReplicaStatus = serde_json::from_value(old).unwrap();
        assert_eq!(replica, ReplicaStatus { ready_to_use: true, ..ReplicaStatus::default() });
    }
}
