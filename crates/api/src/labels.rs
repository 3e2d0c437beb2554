//! Names that other objects carry and that people select by.

/// Label on every replica: the name of the `ConsistencyGroupReplication` that made it.
pub const REPLICATION: &str = "stillpoint.io/replication";
/// Label on every replica: the UID of the `ConsistencyGroupReplication` that made it.
pub const REPLICATION_UID: &str = "stillpoint.io/replication-uid";
/// Label on every replica: the number of the attempt that made it.
pub const ATTEMPT: &str = "stillpoint.io/attempt";
/// Annotation on every replica: the name of the claim that it shows.
pub const CLAIM: &str = "stillpoint.io/claim";
/// Annotation on every replica: the UID of the claim that it shows.
pub const CLAIM_UID: &str = "stillpoint.io/claim-uid";
/// Annotation on every replica: when it was asked for, within the hold, by the controller's clock. Objects that do not say so are
/// not of the cut that was asked for then.
pub const ASKED_AT: &str = "stillpoint.io/asked-at";
/// Annotation on a replica of a cut that is proven, and on no other: when every agent had said that it held, by the controller's
/// clock.
pub const PROVEN_AT: &str = "stillpoint.io/proven-at";
/// Annotation beside [`PROVEN_AT`]: the consistency that was achieved.
pub const CONSISTENCY: &str = "stillpoint.io/consistency";
/// Annotation beside [`PROVEN_AT`]: when the hold began. The replicas of the attempt show one common point in time between
/// this and [`CUT_CONFIRMED_AT`].
pub const HOLD_STARTED_AT: &str = "stillpoint.io/hold-started-at";
/// Annotation beside [`PROVEN_AT`]: when the last of the cuts was confirmed.
pub const CUT_CONFIRMED_AT: &str = "stillpoint.io/cut-confirmed-at";
/// Annotation beside [`PROVEN_AT`]: how many members the group has. Fewer replicas of the same attempt are not the group.
pub const MEMBERS: &str = "stillpoint.io/members";
/// Annotation on a replication: its own UID, put on before anybody is asked for anything. An object that names another UID is a
/// copy of that run, and is none.
pub const RUN_UID: &str = "stillpoint.io/run-uid";
/// Annotation on a claim (value `true`): it is a member of the groups whose selector it matches although it was restored from a
/// replica of another member.
pub const MEMBER: &str = "stillpoint.io/member";
/// Namespace label (value `enabled`) that opts a namespace in: the controller publishes its CA there and reads its pods.
pub const OPT_IN: &str = "stillpoint.io/agents";
/// Value of [`OPT_IN`].
pub const OPT_IN_VALUE: &str = "enabled";
/// Name of the ConfigMap that carries the controller's CA (`ca.crt`) into opted-in namespaces.
pub const CA_CONFIG_MAP: &str = "stillpoint-ca";
/// Name of the agent's container in a storage pod's `initContainers` (a native sidecar, `restartPolicy: Always`).
pub const AGENT_CONTAINER: &str = "stillpoint-agent";
/// Label of the pods of the node agents, in the controller's own namespace alone.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Value of [`COMPONENT`] for node agents.
pub const NODE_AGENT: &str = "node-agent";
/// Finalizer that lets the controller give writes back and deal with replicas before an object goes away.
pub const FINALIZER: &str = "stillpoint.io/release";
/// The audience that an agent's projected token must be bound to.
pub const TOKEN_AUDIENCE: &str = "stillpoint.io/controller";
