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
/// Finalizer that lets the controller give writes back and deal with replicas before an object goes away.
pub const FINALIZER: &str = "stillpoint.io/release";
/// The audience that an agent's projected token must be bound to.
pub const TOKEN_AUDIENCE: &str = "stillpoint.io/controller";
