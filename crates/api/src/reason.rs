//! Why a run was refused, or a member was not ready: every word that Stillpoint puts into a `reason`. Each is explained in
//! `docs/troubleshooting.md`, and a test sees to it.

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// A reason, for programs. People read the message beside it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The CamelCase word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    /// The agent's container does not mount the claim.
    AgentDoesNotMount,
    /// The session of an agent ended while it held.
    AgentLost,
    /// The agent's container mounts a part of the volume only.
    AgentMountsSubPath,
    /// An agent did not connect in time.
    AgentNotConnected,
    /// An agent did not answer in time.
    AgentSilent,
    /// Somebody else has suspended the filesystem.
    AlreadyFrozen,
    /// An agent cannot see what it would have to see.
    Blind,
    /// The claim is a raw block volume.
    BlockVolume,
    /// A process is inside a long call that changes the dataset.
    CallUnderWay,
    /// The filesystem cannot be suspended.
    CannotFreeze,
    /// The application could not be brought to rest.
    CannotQuiesce,
    /// The claim is being deleted.
    ClaimBeingDeleted,
    /// The claim was deleted during the run.
    ClaimDeleted,
    /// The claim is not bound to a volume.
    ClaimNotBound,
    /// There is no such claim.
    ClaimNotFound,
    /// A container restarts again and again.
    ContainerRestarts,
    /// The controller could not follow the run any more.
    ControllerInterrupted,
    /// The leading controller changed before the hold was proven.
    ControllerRestarted,
    /// Replicas were not cut within the hold.
    CutTimeout,
    /// The object was deleted before it was done.
    Deleted,
    /// The driver suspends or freezes for itself what Stillpoint has frozen.
    DriverFreezes,
    /// An operation on the whole filesystem is under way.
    FilesystemBusy,
    /// Dirty pages could not be written back.
    FlushFailed,
    /// The filesystem could not be suspended.
    FreezeFailed,
    /// The process that suspends could not be started or reached.
    FreezerFailed,
    /// The process that suspends ended.
    FreezerLost,
    /// A member belongs to another replication.
    HeldByAnother,
    /// A hold did not last until its release.
    HoldBroken,
    /// An agent does not allow so long a hold.
    HoldTimeoutRefused,
    /// The cluster does not allow so long a hold.
    HoldTimeoutTooLong,
    /// The object was copied from one whose run has begun.
    IsCopy,
    /// A process holds a lock on the dataset.
    LockHeld,
    /// An agent lacks a capability.
    MissingCapability,
    /// More than one pod mounts the claim.
    MountedByMorePods,
    /// A pod began to mount a member that nobody mounted.
    MountedMeanwhile,
    /// The pod that mounts the claim has no agent.
    NoAgent,
    /// There is not exactly one default snapshot class.
    NoDefaultSnapshotClass,
    /// Nobody would resume the writes if the agent died.
    NoGuardian,
    /// No claim matches.
    NoMembers,
    /// The volume has no CSI driver.
    NotACsiVolume,
    /// The filesystem holds more than the dataset.
    NotExclusive,
    /// The claim is not mounted where the agent was told.
    NotMounted,
    /// An agent has nothing prepared for the attempt.
    NotPrepared,
    /// An agent cannot suspend its member.
    NotReady,
    /// Not all members were ready within `prepareTimeout`.
    NotReadyInTime,
    /// Not all members were ready within `holdTimeout` of the first.
    NotReadyTogether,
    /// What is to be suspended could not be written down.
    NotRecorded,
    /// The pod that mounts a member changed during the run.
    PodChanged,
    /// The pod that mounts a member does not run.
    PodNotRunning,
    /// A quota has no room for the replicas.
    QuotaExceeded,
    /// A replica was deleted before it could be used.
    ReplicaDeleted,
    /// A replica was there before the hold.
    ReplicaExists,
    /// Kubernetes does not take the labels or annotations that are asked for on replicas.
    ReplicaLabelsInvalid,
    /// Nobody took notice of any replica that was asked for.
    ReplicaNotNoticed,
    /// A replica was not usable in time.
    ReplicaNotUsable,
    /// The API server would refuse a replica.
    ReplicaRefused,
    /// A replica shows a moment before the hold.
    ReplicaTooOld,
    /// The claim was restored from a replica of another member.
    RestoredCopy,
    /// The selector cannot be understood.
    SelectorInvalid,
    /// The cluster has no snapshot API.
    SnapshotApiMissing,
    /// The snapshot class is another driver's.
    SnapshotClassDriverMismatch,
    /// There is no such snapshot class.
    SnapshotClassNotFound,
    /// The storage system reports an error.
    SnapshotFailed,
    /// An older command was refused.
    StaleAttempt,
    /// What an earlier attempt left is still in the way.
    Stuck,
    /// A suspension could not be taken back when it was late.
    SuspensionPending,
    /// The group is larger than it may be.
    TooManyMembers,
    /// A step took longer than it may.
    TooSlow,
    /// The way to suspend is not known to this version.
    UnknownMethod,
    /// The kind of replica is not known to this version.
    UnknownReplicaKind,
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.as_str().to_owned()
    }
}

impl PartialEq<Reason> for String {
    fn eq(&self, reason: &Reason) -> bool {
        self == reason.as_str()
    }
}
