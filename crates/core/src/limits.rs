//! Every bound in one place. Times are wall-to-wall limits, not promises of speed. What one bound must be beside another is
//! asserted where it stands, so that a number that breaks it does not compile.

use std::time::Duration;

pub use stillpoint_api::limits::*;

/// What etcd takes by default (`--max-request-bytes`).
const ETCD_REQUEST: usize = 1536 * 1024;
/// What Kubernetes takes as the annotations of one object (`TotalAnnotationSizeLimitB`).
const ANNOTATIONS: usize = 256 * 1024;
/// What UTF-8 needs for a character at the most. JSON escapes two of one byte each with one more; there are no control characters
/// in what is shown.
const CHAR_BYTES: usize = 4;
/// What Kubernetes takes as a name (a DNS subdomain), in bytes, which are ASCII.
const NAME_BYTES: usize = 253;

const fn is_shorter(one: Duration, other: Duration) -> bool {
    one.as_nanos() < other.as_nanos()
}

const fn sum(one: Duration, other: Duration) -> Duration {
    one.saturating_add(other)
}

/// Blockers listed per member; the rest is counted.
pub const MAX_BLOCKERS: usize = 10;
/// Entries kept in `status.phases`, the newest. More than a replication of [`MAX_RETRIES`] can have.
pub const MAX_PHASES: usize = 64;
const _: () = {
    const OF_ATTEMPT: usize = ["Pending", "Checking", "Ready", "Replicating"].len();
    const END: usize = 1;
    assert!((MAX_RETRIES as usize + 1) * OF_ATTEMPT + END < MAX_PHASES);
};
/// Blockers listed in one status; the rest is counted. With the limits of their texts a status stays well below the 1.5 MiB
/// that etcd takes by default, whatever agents say.
pub const MAX_STATUS_BLOCKERS: usize = 200;
/// Characters of one message in a status or an event.
pub const MAX_MESSAGE_CHARS: usize = 512;
/// What Kubernetes takes as the note of an Event, in bytes (`NoteLengthLimit`).
pub const MAX_EVENT_NOTE: usize = 1024;
/// What Kubernetes takes as the reason of an Event, in bytes (`ReasonLengthLimit`).
pub const MAX_EVENT_REASON: usize = 128;
/// Characters of one path in a status; the kernel's limit for one name is 255 bytes.
pub const MAX_PATH_CHARS: usize = 256;
const _: () = assert!(MAX_PATH_CHARS > 255);
/// Characters of one word in a status, such as a reason or a process's name.
pub const MAX_WORD_CHARS: usize = 64;
/// What one blocker needs at the most in a status: its words (reason, process, the lock's kind and mode), its message, its path,
/// its pod and container, and the names and numbers of its fields.
const BLOCKER_BYTES: usize = {
    const CONTAINER: usize = 63;
    const FIELDS: usize = 256;
    CHAR_BYTES * (4 * MAX_WORD_CHARS + MAX_MESSAGE_CHARS + MAX_PATH_CHARS) + NAME_BYTES + CONTAINER + FIELDS
};
const _: () = {
    // Names of claim, volume, driver, pod, node and replica; a UID, times and the names of the fields.
    const MEMBER_BYTES: usize = 6 * NAME_BYTES + 1024;
    const PHASE_BYTES: usize = 128;
    const CONDITION_BYTES: usize = CHAR_BYTES * MAX_MESSAGE_CHARS + 512;
    const STATUS_BYTES: usize = MAX_STATUS_BLOCKERS * BLOCKER_BYTES
        + MAX_MEMBERS * MEMBER_BYTES
        + MAX_PHASES * PHASE_BYTES
        + 7 * CONDITION_BYTES;
    // The name of a label or an annotation has a prefix of at most 253 bytes, and 63 more.
    const LABEL_BYTES: usize = (NAME_BYTES + 64 + 63) + (NAME_BYTES + 64 + CHAR_BYTES * MAX_REPLICA_ANNOTATION) + 16;
    // Names of claims are most of it.
    const SPEC_BYTES: usize = MAX_MEMBERS * (NAME_BYTES + 8) + MAX_REPLICA_LABELS * LABEL_BYTES + 4096;
    assert!(STATUS_BYTES + SPEC_BYTES + ANNOTATIONS < ETCD_REQUEST, "a status could be too large to be stored");
};
/// Replications that need their agents at the same time in one controller; others wait in `Pending`.
pub const MAX_RUNS: usize = 64;
/// Proven cuts whose replicas become usable at the same time, beside [`MAX_RUNS`]. One more keeps its place among the runs.
pub const MAX_UPLOADS: usize = 512;
/// Ended replications whose deletion is dealt with at the same time, beside [`MAX_RUNS`].
pub const MAX_GOODBYES: usize = 16;

/// Bytes of one protocol message.
pub const MAX_WIRE_MESSAGE: usize = 64 * 1024;
const _: () = assert!(MAX_BLOCKERS * BLOCKER_BYTES < MAX_WIRE_MESSAGE, "a report is sent whole");
/// Sessions that a controller accepts. They fit into [`CONTROLLER_MEMORY`].
pub const MAX_SESSIONS: usize = 10_000;
/// What one session needs of memory: TLS, HTTP/2 and its place here; about 37 KB were measured.
const SESSION_BYTES: usize = 40 * 1024;
/// What a controller needs of memory beside its sessions, at the most.
const CONTROLLER_BASE: usize = 100_000_000;
/// The memory limit of the chart (`controller.resources.limits.memory`); a test compares them.
pub const CONTROLLER_MEMORY: usize = 512 * 1024 * 1024;
const _: () = assert!(CONTROLLER_BASE + MAX_SESSIONS * SESSION_BYTES <= CONTROLLER_MEMORY, "all sessions fit");
/// Sessions of one namespace. A group has at most [`MAX_MEMBERS`] members; ten groups of that size fit, and one namespace
/// cannot take the sessions of all.
pub const MAX_NAMESPACE_SESSIONS: usize = 1_000;
const _: () = assert!(MAX_NAMESPACE_SESSIONS >= 10 * MAX_MEMBERS && MAX_NAMESPACE_SESSIONS < MAX_SESSIONS);
/// Connections that a controller accepts: one per session, and room for those that still prove themselves.
pub const MAX_CONNECTIONS: usize = MAX_SESSIONS + 1_000;
/// Connections from one address that have not carried an authenticated session yet; more are closed at once, so that whoever
/// has no token cannot use up the room from one place. The agents of a node may share an address; they try again.
pub const MAX_UNPROVEN_CONNECTIONS: usize = 128;
const _: () = assert!(MAX_CONNECTIONS > MAX_SESSIONS + MAX_UNPROVEN_CONNECTIONS);
/// How long a connection stays whose last session has ended: until its agent has read why.
pub const LINGER: Duration = Duration::from_secs(1);
const _: () = assert!(is_shorter(LINGER, ADMISSION_TIMEOUT));
/// Concurrent streams of one connection. An agent needs one.
pub const MAX_STREAMS: u32 = 4;
const _: () = assert!(MAX_STREAMS >= 1);
/// Tokens that the API server is asked about at the same time.
pub const MAX_REVIEWS: usize = 32;
/// Reports of one session, on average over time. A pod of twenty members that all report at every [`LOCK_POLL`] stays below.
pub const REPORTS_PER_SECOND: u32 = 500;
const _: () = assert!(20 * 1000 / LOCK_POLL.as_millis() < REPORTS_PER_SECOND as u128);
/// Reports of one session at once, before [`REPORTS_PER_SECOND`] counts.
pub const REPORTS_BURST: u32 = 1_000;
const _: () = assert!(REPORTS_BURST >= REPORTS_PER_SECOND);
/// Commands queued for one session; a session that does not take them is closed.
pub const SESSION_QUEUE: usize = 768;
const _: () = {
    const COMMANDS: usize = ["Prepare", "Suspend", "Release"].len();
    assert!(SESSION_QUEUE >= COMMANDS * MAX_AGENT_MEMBERS, "every member of an agent may be commanded at once");
    assert!(MEMBER_QUEUE >= 2 * COMMANDS, "an agent may hear of a whole round at once, and of the next one");
};
/// Answers queued for one run.
pub const RUN_QUEUE: usize = 1_024;
const _: () = assert!(RUN_QUEUE > MAX_MEMBERS, "every member may answer at once");
/// Status updates queued for one run.
pub const STATUS_QUEUE: usize = 64;

/// Pause before the first new try of a session, doubled up to [`SESSION_RETRY_MAX`].
pub const SESSION_RETRY_MIN: Duration = Duration::from_millis(200);
/// Longest pause between tries of a session.
pub const SESSION_RETRY_MAX: Duration = Duration::from_secs(5);
const _: () = assert!(is_shorter(SESSION_RETRY_MIN, SESSION_RETRY_MAX));
/// HTTP/2 keep-alive: a peer that is silent this long is asked.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// A peer that does not answer a keep-alive within this time is gone.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
const _: () = {
    const NOTICED: Duration = sum(KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT);
    assert!(is_shorter(NOTICED, RELEASE_TIMEOUT), "an agent that is gone is not waited for to the end");
    assert!(is_shorter(NOTICED, LEASE_DEFAULT), "agents leave a dead leader before another one leads");
};

/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may stay without an authenticated session. Longer than [`API_TIMEOUT`], which it can wait for.
pub const ADMISSION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an authenticated agent may take to say Hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const _: () = assert!(is_shorter(sum(HANDSHAKE_TIMEOUT, API_TIMEOUT), ADMISSION_TIMEOUT));

/// How often an agent looks again for locks while it waits for a member to become clean.
pub const LOCK_POLL: Duration = Duration::from_millis(50);
/// The part of holdTimeout that a flush (syncfs) may take right before writes are suspended. What was longer left so many new
/// dirty pages that the freeze would have to wait for them; while members prepare it is repeated, in a round it is refused.
pub const SHORT_FLUSH_PART: u32 = 10;
/// The part of the limit of a suspension that its first, short freeze may take; after a longer one the second is not begun.
pub const FIRST_FREEZE_PART: u32 = 2;
const _: () = assert!(SHORT_FLUSH_PART > 1 && FIRST_FREEZE_PART > 1, "parts of a whole");
/// How long the freeze itself may take before the member is not ready.
pub const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a guardian repeats a thaw that has not settled. 50 ms were measured to be enough.
pub const THAW_RETRY: Duration = Duration::from_millis(50);
/// How much later than the agent's own deadline the guardian's falls.
pub const GUARDIAN_GRACE: Duration = Duration::from_millis(200);
const _: () = assert!(is_shorter(THAW_RETRY, GUARDIAN_GRACE));
/// How long a thaw may take before it is repeated from outside the freezer.
pub const THAW_TIMEOUT: Duration = Duration::from_secs(1);
/// A call that changes the dataset and lasts longer than this is in the way: a freeze would wait for its end. A look waits so long
/// while there is one, so it is a small part of [`LOOK_TIMEOUT`].
pub const LONG_CALL: Duration = Duration::from_millis(200);
/// How long one look for locks may take before the member is not ready.
pub const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
const _: () = assert!(is_shorter(LOCK_POLL, LOOK_TIMEOUT) && LONG_CALL.as_millis() * 4 < LOOK_TIMEOUT.as_millis());
/// A look while writes are suspended may take one of so many parts of a hold; what would take longer is not begun.
pub const LOOK_PARTS: u32 = 2;
/// A lock that was in every look for so long may be one that its process keeps as long as it runs.
pub const KEPT_LOCK: Duration = Duration::from_secs(5);
/// From when on it is said again for how long a blocker has been seen: then, and whenever that has grown by a quarter.
pub const SEEN_AGAIN: Duration = Duration::from_secs(1);
const _: () = assert!(is_shorter(LOCK_POLL, SEEN_AGAIN) && is_shorter(SEEN_AGAIN, KEPT_LOCK));
/// How long an application may take to quiesce before the member is not ready. The others may hold already, so it is not
/// longer than most holds.
pub const QUIESCE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an application may take to say that it goes on. The answer to Release waits for it.
pub const UNQUIESCE_TIMEOUT: Duration = Duration::from_secs(3);
const _: () = assert!(THAW_TIMEOUT.as_millis() + UNQUIESCE_TIMEOUT.as_millis() < RELEASE_TIMEOUT.as_millis());
/// How long writing down what is about to be frozen may take before the member is not ready.
pub const RECORD_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of one note of what is about to be frozen. Paths have at most 4096, and JSON may escape some.
pub const MAX_NOTE: usize = 16 * 1024;
const _: () = assert!(MAX_NOTE >= 2 * 4096, "two bytes for each of a path");
/// How long a preflight waits for what an earlier agent left suspended to be given back.
pub const RECOVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an agent that starts tries to show its filesystems to a guardian.
pub const OFFER_TIMEOUT: Duration = Duration::from_secs(300);
/// Pause between these tries.
pub const OFFER_RETRY: Duration = Duration::from_secs(1);
const _: () = assert!(is_shorter(OFFER_RETRY, OFFER_TIMEOUT));
/// How long a guardian may take to answer, and a client to say what it wants guarded.
pub const GUARDIAN_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of one message between an agent and a guardian.
pub const MAX_GUARDIAN_MESSAGE: usize = 512;
/// Holds that one guardian watches over.
pub const MAX_GUARDED: usize = 256;
/// Members that one agent serves: the claims of one pod, or those of the pods of one node that are members of runs at the same time.
pub const MAX_AGENT_MEMBERS: usize = 256;
const _: () =
    assert!(MAX_GUARDED >= MAX_AGENT_MEMBERS && MAX_AGENT_MEMBERS >= MAX_MEMBERS, "a group may lie on one node");
/// Controller replicas that one agent talks to.
pub const MAX_CONTROLLERS: usize = 8;
/// How often an agent looks for new controller replicas.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long an agent may take to connect to a controller.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Threads that one member may have waiting for its dataset.
pub const MAX_MEMBER_THREADS: usize = 4;
/// Commands queued for one member; a session that sends more is closed.
pub const MEMBER_QUEUE: usize = 32;
/// Longest hold that an agent accepts, whatever it is told.
pub const MAX_HOLD: Duration = Duration::from_secs(60);

/// How long before the hold limit the controller gives up waiting for cuts, so that release is an answer and not a lapse.
pub const RELEASE_MARGIN: Duration = Duration::from_millis(500);
/// How long the controller waits for the answers to Release.
pub const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
const _: () = {
    assert!(is_shorter(RELEASE_MARGIN, MAX_HOLD));
    assert!(
        is_shorter(sum(THAW_TIMEOUT, GUARDIAN_TIMEOUT), RELEASE_TIMEOUT),
        "Release is answered after a thaw of any kind"
    );
};
/// How long after its limit a hold has surely ended that its agent had said to be ready: the guardian's deadline or a thaw from
/// outside comes before that, and some slack for busy machines.
pub const HOLD_GRACE: Duration = Duration::from_millis(2_200);
const _: () = assert!(is_shorter(sum(sum(GUARDIAN_GRACE, THAW_TIMEOUT), THAW_RETRY), HOLD_GRACE));
/// How long after Suspend an agent is listened for that has not answered when its run has ended: until then the status can still
/// say what became of its writes.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(600);
const _: () = assert!(is_shorter(sum(sum(MAX_HOLD, HOLD_GRACE), RELEASE_TIMEOUT), SILENCE_TIMEOUT));
/// Pause before the second round of Suspend, doubled up to [`ROUND_PAUSE_MAX`]. Rounds go on until `prepareTimeout`.
pub const ROUND_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two rounds, but for [`ROUND_REST`]. Short: of applications that lock and unlock all the time some round
/// finds all unlocked, if there are enough of them.
pub const ROUND_PAUSE_MAX: Duration = Duration::from_secs(1);
const _: () = assert!(is_shorter(ROUND_PAUSE_MIN, ROUND_PAUSE_MAX));
/// After a round writes go on for at least so many times as long as any member's were suspended in it: rounds stall nobody for more
/// than a tenth of the time.
pub const ROUND_REST: u32 = 9;
/// Restarts of a container within one attempt from which on it is named as what stands in the way.
pub const FLAPPING_RESTARTS: u32 = 2;
/// One request to the API server.
pub const API_TIMEOUT: Duration = Duration::from_secs(15);
/// Objects of one page of a list. They are read one after the other; a page needs the memory of one, and of the facts of all.
pub const LIST_PAGE: u32 = 250;
/// Pages that are read at the same time: each occupies a thread.
pub const LIST_CONCURRENCY: usize = 4;
/// How long one watch is asked to last; then it goes on with a new one, without a list.
pub const WATCH_TIMEOUT: Duration = Duration::from_secs(290);
/// A watch that does not end by itself is given up when it has been silent for so long: its connection may be dead.
pub const WATCH_SILENCE: Duration = Duration::from_secs(WATCH_TIMEOUT.as_secs() + 5);
/// Least pause between two status updates of the same phase. A new phase is written at once.
pub const STATUS_INTERVAL: Duration = Duration::from_millis(500);
/// Pause before a request to the API server is tried again, doubled up to [`API_RETRY_MAX`].
pub const API_RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest pause between tries of a request to the API server.
pub const API_RETRY_MAX: Duration = Duration::from_secs(5);
const _: () = assert!(is_shorter(API_RETRY_MIN, API_RETRY_MAX));
/// Pauses of one removal, together: replicas that somebody's finalizer keeps for a moment are usually gone by then. What is left
/// after that is told, and tried again later.
pub const REMOVAL_PATIENCE: Duration = Duration::from_secs(4);
const _: () =
    assert!(is_shorter(sum(RELEASE_TIMEOUT, REMOVAL_PATIENCE), SHUTDOWN_TIMEOUT), "a removal holds up no shutdown");
/// How much of [`REMOVAL_PATIENCE`] is spent on replicas that are just being made; then they are deleted all the same, because
/// whoever makes them may have died over it.
pub const MAKING_PATIENCE: Duration = Duration::from_secs(3);
const _: () = assert!(is_shorter(MAKING_PATIENCE, REMOVAL_PATIENCE));
/// Longest pause before a clean-up is begun again that has left something: doubled from [`API_RETRY_MIN`] up to this.
pub const CLEAN_UP_RETRY_MAX: Duration = Duration::from_secs(60);
const _: () = assert!(is_shorter(API_RETRY_MAX, CLEAN_UP_RETRY_MAX));
/// How long connections that were opened before a hold are relied on. Shorter than the 90 s after which hyper, the client's HTTP
/// library, closes one that is idle.
pub const WARM_FOR: Duration = Duration::from_secs(60);
const _: () = assert!(WARM_FOR.as_secs() < 90);
/// Conflicts, one after the other, after which a change of an object's finalizers is given up and tried again later.
pub const MAX_CONFLICTS: u32 = 8;
/// Requests of one run that are under way at the same time while it resolves its members.
pub const RESOLVE_CONCURRENCY: usize = 16;
/// Kubernetes Events queued for publishing; more are dropped, because the status says the same.
pub const EVENT_QUEUE: usize = 256;
/// Ended runs whose outcome is remembered, to judge snapshots that turn up late.
pub const MAX_REMEMBERED_RUNS: usize = 10_000;
/// Writes at the same time that say of a replication that it waits for its turn.
pub const WAITING_CONCURRENCY: usize = 16;
/// Ended replications whose time is over which are deleted at the same time.
pub const EXPIRY_CONCURRENCY: usize = 8;
/// Snapshots that may have turned up late which are dealt with at the same time.
pub const LATE_CONCURRENCY: usize = 16;
/// One try of asking for a replica, within a hold: a try whose answer is late is followed by another one, which finds what the
/// first one has made.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const _: () = assert!(is_shorter(ASK_TIMEOUT, API_TIMEOUT));
/// Tries to write the proof onto one replica, with pauses up to [`API_RETRY_MAX`]: for about as long as the API server may be away
/// without anybody being called. Then the status alone says it.
pub const MAX_MARK_TRIES: u32 = 360;
/// By how much a replica may say that it was cut before it was asked for: clocks of storage systems differ from the controller's.
/// Beyond it the cut is another one. Drivers that hand out older snapshots do so for half an hour and more.
pub const CREATION_TIME_TOLERANCE: Duration = Duration::from_secs(300);
const _: () = assert!(is_shorter(MAX_HOLD, CREATION_TIME_TOLERANCE));
/// Snapshots that may have turned up late which wait until they can be dealt with, those of [`LATE_CONCURRENCY`] among them.
pub const LATE_WAITING: usize = 1_024;
const _: () = assert!(LATE_WAITING > LATE_CONCURRENCY, "what waits for a pause holds up nobody");
/// Tries, with pauses of up to [`CLEAN_UP_RETRY_MAX`], after which a snapshot that turned up late and cannot be removed is left to
/// the goodbye of its replication, and to the next list.
pub const LATE_TRIES: u32 = 16;

/// The first epoch of a Lease that has forgotten its count is the seconds since this one, 2025-01-01, in seconds since 1970. So
/// it is above every earlier one, because a turn takes more than a second.
pub const FIRST_EPOCH: i64 = 1_735_689_600;
/// Shortest `--lease-duration`. Fewer seconds would take a slow answer of the API server for the death of the leader.
pub const LEASE_MIN: Duration = Duration::from_secs(3);
/// The `--lease-duration` of a controller that is not told one.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(15);
/// Longest `--lease-duration`.
pub const LEASE_MAX: Duration = Duration::from_secs(60);
const _: () = assert!(is_shorter(LEASE_MIN, LEASE_DEFAULT) && is_shorter(LEASE_DEFAULT, LEASE_MAX));
/// How long a stopping controller waits for its runs to give writes back.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);
const _: () = assert!(is_shorter(RELEASE_TIMEOUT, SHUTDOWN_TIMEOUT));
/// Pause before an outward step of the controller (its CA, a published ConfigMap) is tried again.
pub const CONTROLLER_RETRY: Duration = Duration::from_secs(5);
/// Validity of the CA. Twice [`CA_ROTATE`]: a controller that did not run for a year still finds a valid one.
pub const CA_VALIDITY: Duration = Duration::from_secs(730 * 86_400);
/// Age at which the CA is rotated.
pub const CA_ROTATE: Duration = Duration::from_secs(365 * 86_400);
/// How long a next CA is published before it signs anything. Kubelets bring a changed ConfigMap into a running pod within a
/// minute or two; a day leaves room for a node that has trouble.
pub const CA_OVERLAP: Duration = Duration::from_secs(86_400);
/// How long a replaced CA stays published: until nothing that it has signed is valid any more, by any clock.
pub const CA_RETIRE: Duration = Duration::from_secs(CERTIFICATE_VALIDITY.as_secs() + CLOCK_SKEW.as_secs());
/// How often every controller looks at the Secret of the CA.
pub const CA_LOOK: Duration = Duration::from_secs(10);
/// Validity of the controller's own certificate. Short, because it bounds how long a replaced CA must be trusted.
pub const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(7 * 86_400);
/// Age at which a running controller replaces its own certificate.
pub const CERTIFICATE_RENEW: Duration = Duration::from_secs(2 * 86_400);
/// How far back certificates are dated, for machines whose clocks run behind.
pub const CLOCK_SKEW: Duration = Duration::from_secs(3_600);
const _: () = {
    assert!(CA_VALIDITY.as_secs() >= 2 * CA_ROTATE.as_secs());
    assert!(is_shorter(sum(sum(CA_ROTATE, CA_OVERLAP), CA_RETIRE), CA_VALIDITY), "a CA outlives what it has signed");
    assert!(is_shorter(CERTIFICATE_RENEW, CERTIFICATE_VALIDITY));
    assert!(is_shorter(CA_LOOK, CA_OVERLAP), "every controller shows the next CA before it signs");
    assert!(is_shorter(CLOCK_SKEW, CA_OVERLAP));
};

/// Locks on one filesystem that are looked at.
pub const MAX_LOCKS: usize = 20_000;
/// Processes looked at in one look; the kernel's own limit by default (`pid_max`).
pub const MAX_PROCESSES: usize = 32_768;
/// Mounts of one mount namespace that are kept, of those that matter.
pub const MAX_MOUNTS: usize = 16_384;
/// Loop devices whose image files are looked at.
pub const MAX_LOOP_DEVICES: usize = 4_096;
/// Block devices of one filesystem that are looked at.
pub const MAX_FILESYSTEM_DEVICES: usize = 1_024;
/// Bytes of one file of `/proc` or `/sys` that is read as a whole, of those that the kernel keeps small.
pub const MAX_PROC_FILE: u64 = 1024 * 1024;
/// Bytes of one line of a file that is read line by line. Two paths are the most of it, each byte of them written as four; an
/// overlay may have 500 layers.
pub const MAX_PROC_LINE: usize = 4 * 1024 * 1024;
const _: () = assert!(MAX_PROC_LINE > 2 * 4 * 4096 + 500 * 4096);

/// Bytes of one object that `stillpoint picture` reads. etcd refuses requests above 1.5 MiB.
pub const MAX_PICTURE_INPUT: u64 = 4 * 1024 * 1024;
const _: () = assert!(MAX_PICTURE_INPUT > ETCD_REQUEST as u64);
