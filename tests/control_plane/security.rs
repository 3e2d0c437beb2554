//! Who lies, steals, floods or comes between harms nobody else; and the CA is rotated under running holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use stillpoint::controller::certificates::{self, Keeper, ServerCertificate, Step, server_names};
use stillpoint::controller::{identity, sessions};
use stillpoint::rpc::sessions_client::SessionsClient;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_api::{ConsistencyGroupReplication, MemberState, Phase, ReplicationStatus, labels};
use stillpoint_core::limits::{CA_OVERLAP, CA_RETIRE, CA_ROTATE, MAX_STATUS_BLOCKERS};
use stillpoint_core::run::agents::AgentKey;
use stillpoint_core::wire::agent_message::Report;
use stillpoint_core::wire::controller_message::Command;
use stillpoint_core::wire::{
    AgentMessage, Attempt, Blocker, ControllerMessage, Hello, NotReady, Prepared, Protection, Ready, Release, Released,
    Waiting,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Request, Status};

use crate::agents::{Behaviour, FakeAgent, Told, answer, connect, open_session, say};
use crate::fixture::{Fixture, SYSTEM_NAMESPACE};
use crate::objects::{DRIVER, agent_token, bound_claim, pod_with_agent, snapshot_class, token};
use crate::snapshots;

fn names(claims: &[&str], class: &str, hold: &str) -> Value {
    json!({
        "source": {"persistentVolumeClaimNames": claims},
        "suspension": {"prepareTimeout": "10s", "holdTimeout": hold},
        "replication": {"volumeSnapshot": {"volumeSnapshotClassName": class}},
    })
}

fn reason(object: &ConsistencyGroupReplication) -> (Phase, String) {
    let status = object.status.clone().expect("a status");
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").expect("Ready").reason.clone();
    (status.phase.expect("a phase"), ready)
}

fn member(status: &ReplicationStatus, claim: &str) -> (MemberState, Vec<String>) {
    let member = status.members.iter().find(|member| member.persistent_volume_claim.name == claim).expect("a member");
    (member.state, member.blockers.iter().map(|blocker| blocker.reason.clone()).collect())
}

// Who may open a session.

#[tokio::test]
async fn a_token_that_is_not_bound_to_a_living_pod_and_meant_for_us_opens_nothing() {
    let fixture = Fixture::new("tokens").await;
    let pod = pod_with_agent(&fixture, "orders").await;
    let gone = pod_with_agent(&fixture, "gone").await;
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid()});
    let ours = [labels::TOKEN_AUDIENCE];
    let of_the_dead = agent_token(&fixture, &gone).await;
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    fixture.api::<Pod>().delete("gone", &at_once).await.expect("deleted");
    let good = agent_token(&fixture, &pod).await;
    let mut forged: Vec<&str> = good.split('.').collect();
    let payload = forged[1].replace(|c: char| c.is_ascii_digit(), "4");
    forged[1] = &payload;

    let refusal = async |authorization: Option<String>| {
        let refused: Option<Status> = open_session(&fixture, authorization.as_deref()).await.err();
        refused.map(|status| (status.code(), status.message().to_owned()))
    };
    for (case, token, code, sentence) in [
        ("no token", None, Code::Unauthenticated, "has no token"),
        ("garbage", Some("garbage".to_owned()), Code::Unauthenticated, "does not accept the token"),
        ("a forged token", Some(forged.join(".")), Code::Unauthenticated, "does not accept the token"),
        (
            "the default token",
            Some(token(&fixture, &[], Some(bound.clone())).await),
            Code::Unauthenticated,
            "does not accept the token",
        ),
        (
            "another audience",
            Some(token(&fixture, &["other"], Some(bound)).await),
            Code::Unauthenticated,
            "does not accept the token",
        ),
        ("an unbound token", Some(token(&fixture, &ours, None).await), Code::PermissionDenied, "not bound to a pod"),
        ("a deleted pod's token", Some(of_the_dead), Code::Unauthenticated, "does not accept the token"),
    ] {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let (found, message) = refusal(bearer).await.expect(case);
        assert_eq!(found, code, "{case}: {message}");
        assert!(message.contains(sentence), "{case}: {message}");
    }
    assert_eq!(refusal(Some(format!("Bearer {good}"))).await, None, "the good one is taken");
}

// What an agent may say.

/// Says to every command what an agent would that means well for its own member, and the same for another member.
async fn lie_about(fixture: &Fixture, pod: &Pod, claim_uid: String) -> JoinHandle<()> {
    let bearer = format!("Bearer {}", agent_token(fixture, pod).await);
    let (reports, mut commands) = open_session(fixture, Some(&bearer)).await.expect("a session");
    tokio::spawn(async move {
        while let Ok(Some(ControllerMessage { command: Some(command) })) = commands.message().await {
            let attempt = match &command {
                Command::Prepare(prepare) => prepare.attempt.clone(),
                Command::Suspend(suspend) => suspend.attempt.clone(),
                Command::Release(release) => release.attempt.clone(),
            };
            say_everything(&reports, &Attempt { member: claim_uid.clone(), ..attempt.expect("an attempt") }).await;
            say(&reports, answer(&Behaviour::Clean, command).expect("an answer")).await;
        }
    })
}

/// Everything that leads to `Done`, about one member, whatever was asked.
async fn say_everything(reports: &mpsc::Sender<AgentMessage>, attempt: &Attempt) {
    let attempt = Some(attempt.clone());
    let protection = Protection::NodeGuardian.into();
    say(reports, Report::Prepared(Prepared { attempt: attempt.clone(), protection, ..Prepared::default() })).await;
    say(reports, Report::Ready(Ready { attempt: attempt.clone(), round: 1, suspended_us: 1 })).await;
    say(reports, Report::Released(Released { attempt, unbroken: true, suspended_us: 1, ..Released::default() })).await;
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_pods_claims_alone() {
    let (fixture, other) = (Fixture::new("mouth").await, Fixture::new("mouth-other").await);
    let class = snapshot_class(&fixture, DRIVER).await;
    bound_claim(&fixture, "orders").await;
    let silent_claim = bound_claim(&fixture, "ledger").await.uid().expect("a UID");
    let liar = pod_with_agent(&fixture, "orders").await;
    let silent = pod_with_agent(&fixture, "ledger").await;
    // In the other namespace everything has the same names.
    bound_claim(&other, "ledger").await;
    let namesake = pod_with_agent(&other, "ledger").await;
    let namesake_bearer = format!("Bearer {}", agent_token(&other, &namesake).await);
    let (namesake_reports, mut namesake_commands) =
        open_session(&other, Some(&namesake_bearer)).await.expect("a session");
    let silent_bearer = format!("Bearer {}", agent_token(&fixture, &silent).await);
    let (_silent_reports, mut silent_commands) = open_session(&fixture, Some(&silent_bearer)).await.expect("a session");
    let _liar = lie_about(&fixture, &liar, silent_claim).await;

    let mut spec = names(&["orders", "ledger"], &class, "5s");
    spec["suspension"]["prepareTimeout"] = json!("3s");
    fixture.replicate("nightly", spec).await;
    let heard = silent_commands.message().await.expect("a stream").and_then(|message| message.command);
    let Some(Command::Prepare(prepare)) = heard else { panic!("Prepare first: {heard:?}") };
    // The namesake knows the attempt to the letter.
    say_everything(&namesake_reports, &prepare.attempt.expect("an attempt")).await;

    let ended = fixture.wait_for_end("nightly").await;
    assert_eq!(reason(&ended).0, Phase::Aborted, "{ended:#?}");
    let status = ended.status.expect("a status");
    assert_eq!(member(&status, "ledger"), (MemberState::NotReady, vec!["AgentSilent".to_owned()]), "{status:#?}");
    let told = silent_commands.message().await.expect("a stream").and_then(|message| message.command);
    assert!(matches!(told, Some(Command::Release(_))), "it was never asked to suspend: {told:?}");
    let told = tokio::time::timeout(Duration::from_millis(1), namesake_commands.message()).await;
    assert!(told.is_err(), "the other namespace heard of nothing: {told:?}");
}

#[tokio::test]
async fn a_session_that_is_taken_over_breaks_the_hold() {
    let fixture = Fixture::new("taken-over").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    bound_claim(&fixture, "orders").await;
    let pod = pod_with_agent(&fixture, "orders").await;
    let agent = FakeAgent::connect(&fixture, &pod, Behaviour::Clean).await;
    fixture.replicate("nightly", names(&["orders"], &class, "20s")).await;
    fixture.wait_for_phase("nightly", Phase::Replicating).await;
    // Somebody has the pod's token, and says of the hold whatever it is asked.
    let thief = FakeAgent::connect(&fixture, &pod, Behaviour::Clean).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    let ended = fixture.wait_for_end("nightly").await;
    assert_eq!(reason(&ended), (Phase::Failed, "AgentLost".to_owned()));
    assert_eq!(agent.told(), [Told::Prepare, Told::Suspend], "its stream ended, and so it resumed");
    assert!(!thief.told().contains(&Told::Suspend));
    let left = fixture.api::<VolumeSnapshot>().list(&Default::default()).await.expect("a list").items;
    assert!(left.is_empty(), "what was cut is void");
}

// Floods.

/// The worst that fits into a message and is about the right attempt.
fn hostile(attempt: &Attempt, turn: u64) -> Report {
    let attempt = Some(attempt.clone());
    // Most are small, because those can be many.
    if turn % 100 > 4 {
        return Report::Ready(Ready { attempt, round: 1, suspended_us: turn });
    }
    let word = "\u{1b}[2J\u{202e}\0\n".repeat(200);
    let blocker = Blocker {
        reason: word.clone(),
        message: word.repeat(20),
        container_id: word.clone(),
        pid: i32::MIN,
        process: word.clone(),
        lock: Some(stillpoint_core::wire::Lock {
            kind: word.clone(),
            mode: word,
            start: u64::MAX,
            end: Some(u64::MAX),
        }),
        path: "../".repeat(2_000),
        seen_us: u64::MAX,
        epoch: u64::MAX,
    };
    match turn % 100 {
        0 => Report::Waiting(Waiting { attempt, blockers: vec![blocker], more_blockers: u32::MAX }),
        1 => Report::Waiting(Waiting { attempt, blockers: vec![Blocker::default(); 10_000], more_blockers: u32::MAX }),
        2 => Report::NotReady(NotReady { attempt, round: u32::MAX, retryable: true, ..NotReady::default() }),
        3 => Report::Ready(Ready { attempt, round: u32::MAX, suspended_us: u64::MAX }),
        _ => Report::Prepared(Prepared { attempt, protection: i32::MAX, filesystem: "x".repeat(60_000) }),
    }
}

/// Floods the run that commands it until `stop`, coming back whenever it is sent away. Counts its reports.
async fn flood(fixture: Arc<Fixture>, bearer: String, reported: Arc<AtomicUsize>, stop: CancellationToken) {
    let mut attempt = Attempt::default();
    while !stop.is_cancelled() {
        let Ok((reports, mut commands)) = open_session(&fixture, Some(&bearer)).await else { continue };
        let mut turn = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                command = commands.message() => match command {
                    Ok(Some(ControllerMessage { command: Some(Command::Prepare(prepare)) })) => {
                        attempt = prepare.attempt.unwrap_or_default();
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                },
                sent = reports.send(AgentMessage { report: Some(hostile(&attempt, turn)) }) => {
                    if sent.is_err() { break }
                    turn += 1;
                    reported.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Resident memory of this process, in which the controller runs too.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_harms_nobody_else() {
    let fixture = Arc::new(Fixture::new("flood").await);
    let class = snapshot_class(&fixture, DRIVER).await;
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    for claim in ["flooding", "orders", "ledger"] {
        bound_claim(&fixture, claim).await;
    }
    let flooding = pod_with_agent(&fixture, "flooding").await;
    let bearer = format!("Bearer {}", agent_token(&fixture, &flooding).await);
    let (reported, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let flood = tokio::spawn(flood(fixture.clone(), bearer, reported.clone(), stop.clone()));
    let mut agents = Vec::new();
    for claim in ["orders", "ledger"] {
        let pod = pod_with_agent(&fixture, claim).await;
        agents.push(FakeAgent::connect(&fixture, &pod, Behaviour::Clean).await);
    }
    fixture.replicate("flooded", names(&["flooding"], &class, "5s")).await;
    // How many a second depends on the machine; that too many end the session is shown elsewhere.
    let floods = async |more: usize| {
        let from = reported.load(Ordering::Relaxed);
        fixture.wait_until("the flood goes on", async || reported.load(Ordering::Relaxed) >= from + more).await;
    };
    floods(200).await;
    let before = resident_kib();
    for run in 0..3 {
        let name = format!("honest-{run}");
        fixture.replicate(&name, names(&["orders", "ledger"], &class, "20s")).await;
        floods(50).await;
        let ended = fixture.wait_for_end(&name).await;
        assert_eq!(reason(&ended), (Phase::Done, "Done".to_owned()), "{ended:#?}");
    }
    let flooded = fixture.wait_for_end("flooded").await;
    assert_ne!(reason(&flooded).0, Phase::Done);
    stop.cancel();
    flood.await.expect("no panic");
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 256 << 10, "{} MiB more than before", grown >> 10);
    let stored = flooded.status.expect("a status");
    let text = serde_json::to_string(&stored).expect("serialisable");
    assert!(stored.members[0].blockers.len() <= MAX_STATUS_BLOCKERS && text.len() < 64 << 10, "{} bytes", text.len());
    assert!(!text.contains("\\u001b") && !text.contains("\\u0000"), "no control characters");
}

/// Whoever may write statuses can put text there that no schema forbids. It must not keep the controller from its other work,
/// for which it reads all of them.
#[tokio::test]
async fn a_spoiled_status_stops_nobody() {
    let fixture = Fixture::new("spoiled").await;
    bound_claim(&fixture, "orders").await;
    let pod = pod_with_agent(&fixture, "orders").await;
    let _agent = FakeAgent::connect(&fixture, &pod, Behaviour::Clean).await;
    let check = json!({"source": {"persistentVolumeClaimNames": ["orders"]}, "mode": "Check"});
    fixture.replicate("first", check.clone()).await;
    let first = fixture.wait_for_end("first").await;
    assert_eq!(first.status.expect("a status").phase, Some(Phase::Done));
    let replications = fixture.api::<ConsistencyGroupReplication>();
    for duration in ["1s-2s", "99999999999999999999h", "soon"] {
        let spoiled = Patch::Merge(json!({"status": {"hold": {"duration": duration}}}));
        replications.patch_status("first", &PatchParams::default(), &spoiled).await.expect("nothing forbids it");
    }
    fixture.replicate("second", check).await;
    assert_eq!(fixture.wait_for_end("second").await.status.expect("a status").phase, Some(Phase::Done));
    replications.delete("first", &DeleteParams::default()).await.expect("deleted");
    fixture.wait_until("it is gone", async || replications.get_opt("first").await.expect("an answer").is_none()).await;
}

// The CA.

async fn set_date(fixture: &Fixture, annotation: &str, ago: Duration) {
    let at = k8s_openapi::jiff::Timestamp::try_from(SystemTime::now() - ago).expect("a time");
    annotate(fixture, json!({annotation: at.to_string()})).await;
}

async fn annotate(fixture: &Fixture, annotations: Value) {
    let secrets: Api<Secret> = Api::namespaced(fixture.client.clone(), SYSTEM_NAMESPACE);
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    secrets.patch(certificates::SECRET, &PatchParams::default(), &patch).await.expect("annotated");
}

async fn annotation(fixture: &Fixture, name: &str) -> Option<String> {
    let secrets: Api<Secret> = Api::namespaced(fixture.client.clone(), SYSTEM_NAMESPACE);
    secrets.get(certificates::SECRET).await.expect("the Secret").annotations().get(name).cloned()
}

fn certificates_of(bundle: &str) -> Vec<String> {
    let end = "-----END CERTIFICATE-----";
    bundle.split_inclusive(end).filter(|pem| pem.contains(end)).map(|pem| pem.trim().to_owned()).collect()
}

/// The controller's own rotation, with its publisher, while a member is held; only the stored dates are moved, so that a day
/// and a week need not pass.
#[tokio::test]
async fn a_hold_survives_a_rotation_of_the_ca() {
    let fixture = Fixture::new("rotation").await;
    let class = snapshot_class(&fixture, DRIVER).await;
    bound_claim(&fixture, "orders").await;
    let pod = pod_with_agent(&fixture, "orders").await;
    let agent = FakeAgent::connect(&fixture, &pod, Behaviour::Clean).await;
    let trusts = async |bundle: &str| connect(&fixture, bundle).await.is_ok();
    let old = fixture.published_ca().await;
    assert!(trusts(&old).await);

    annotate(&fixture, json!({certificates::ROTATE: "now"})).await;
    let published = "stillpoint.io/next-ca-published-at";
    fixture.wait_until("the next CA is everywhere", async || annotation(&fixture, published).await.is_some()).await;
    let both = fixture.published_ca().await;
    let (old_ones, both_ones) = (certificates_of(&old), certificates_of(&both));
    let next: Vec<&String> = both_ones.iter().filter(|pem| !old_ones.contains(pem)).collect();
    let [next] = next.as_slice() else { panic!("one more certificate: {both}") };
    assert!(old_ones.iter().all(|pem| both_ones.contains(pem)), "the old one is still published");
    assert!(annotation(&fixture, certificates::ROTATE).await.is_none(), "the request was taken");
    assert!(trusts(&old).await && trusts(&both).await, "the old CA signs");
    assert!(!trusts(next).await, "the next CA signs nothing before it was published for long");

    fixture.replicate("nightly", names(&["orders"], &class, "30s")).await;
    fixture.wait_for_phase("nightly", Phase::Replicating).await;
    set_date(&fixture, published, CA_OVERLAP).await;
    fixture.wait_until("the next CA signs", async || trusts(next).await).await;
    assert!(trusts(&both).await && !trusts(&old).await);
    assert_eq!(fixture.published_ca().await, both, "the old CA stays published");
    assert_eq!(agent.told(), [Told::Prepare, Told::Suspend], "it holds");
    let _snapshots = snapshots::play(&fixture, |_| Some(snapshots::usable()));
    assert_eq!(reason(&fixture.wait_for_end("nightly").await), (Phase::Done, "Done".to_owned()));

    set_date(&fixture, "stillpoint.io/previous-ca-replaced-at", CA_RETIRE).await;
    let retired = async || certificates_of(&fixture.published_ca().await) == [(*next).clone()];
    fixture.wait_until("the old CA is not published any more", retired).await;
    assert!(trusts(next).await && !trusts(&old).await);
    fixture.replicate("again", json!({"source": {"persistentVolumeClaimNames": ["orders"]}, "mode": "Check"})).await;
    assert_eq!(fixture.wait_for_end("again").await.status.expect("a status").phase, Some(Phase::Done));
    let twice = [Told::Prepare, Told::Suspend, Told::Release].repeat(2);
    assert_eq!(agent.told(), twice, "one session went through all of it");
}

/// One of several controllers that share a Secret, with a clock of the test's.
struct Controller {
    keeper: Keeper,
    certificate: Arc<ServerCertificate>,
    sessions: sessions::Sessions,
    address: std::net::SocketAddr,
    clock: certificates::Clock,
}

impl Controller {
    async fn start(fixture: &Fixture, clock: certificates::Clock) -> Self {
        let keeper = Keeper::open(&fixture.client, &fixture.namespace, clock.clone()).await.expect("a CA");
        let names = server_names("stillpoint-controller", SYSTEM_NAMESPACE);
        // Servers are dated by the true time: whoever connects in this test checks by it.
        let certificate =
            ServerCertificate::issue(keeper.known().borrow().current(), names, SystemTime::now()).expect("issued");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let sessions = sessions::Sessions::default();
        let config = sessions::Config::new(identity::api_review(fixture.client.clone()));
        let tls = certificate.tls_config().expect("TLS");
        tokio::spawn(sessions::serve(listener, tls, sessions.clone(), config, CancellationToken::new()));
        Self { keeper, certificate, sessions, address, clock }
    }

    fn bundle(&self) -> String {
        self.keeper.known().borrow().bundle()
    }

    /// What `Keeper::follow` does at every look.
    async fn look(&self) {
        self.keeper.look().await.expect("the Secret");
        self.certificate.renew(self.keeper.known().borrow().current(), SystemTime::now()).expect("issued");
    }

    async fn channel(&self, bundle: &str) -> Result<Channel, tonic::transport::Error> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(bundle))
            .domain_name(format!("stillpoint-controller.{SYSTEM_NAMESPACE}.svc"));
        let endpoint = Channel::from_shared(format!("https://{}", self.address)).expect("an address");
        endpoint.tls_config(tls).expect("TLS").connect().await
    }

    async fn trusted_by(&self, bundle: &str) -> bool {
        self.channel(bundle).await.is_ok()
    }
}

#[tokio::test]
async fn controllers_that_share_a_ca_rotate_it_once_and_stay_trusted() {
    let fixture = Fixture::new("shared-ca").await;
    let hours = Arc::new(AtomicU64::new(0));
    let clock: certificates::Clock = {
        let (start, hours) = (SystemTime::now(), hours.clone());
        Arc::new(move || start + Duration::from_secs(hours.load(Ordering::Relaxed) * 3_600))
    };
    let first = Controller::start(&fixture, clock.clone()).await;
    let second = Controller::start(&fixture, clock).await;
    assert_eq!(first.bundle(), second.bundle(), "both use the CA that was created first");
    assert_eq!((first.clock)(), (second.clock)());

    let pod = pod_with_agent(&fixture, "orders").await;
    let mut connected = first.sessions.attach("run", [AgentKey::of_pod(pod.uid().expect("a UID"))]);
    let (reports, outgoing) = mpsc::channel(16);
    say(&reports, Report::Hello(Hello::default())).await;
    let mut request = Request::new(ReceiverStream::new(outgoing));
    let bearer = format!("Bearer {}", agent_token(&fixture, &pod).await).parse().expect("a header");
    request.metadata_mut().insert("authorization", bearer);
    let channel = first.channel(&first.bundle()).await.expect("trusted");
    let mut commands = SessionsClient::new(channel).open(request).await.expect("a session").into_inner();
    connected.recv().await.expect("Connected");

    let mut bundles = vec![first.bundle()];
    let mut steps = Vec::new();
    for _ in 0..(CA_ROTATE + CA_OVERLAP + CA_RETIRE).as_secs() / 3_600 / 12 + 4 {
        // Both believe that they lead; the second knows only what it saw at its last look.
        let everywhere = first.bundle();
        let (one, other) = tokio::join!(first.keeper.advance(&everywhere), second.keeper.advance(&everywhere));
        let (one, other) = (one.expect("a step"), other.expect("a step"));
        assert!(one == Step::Wait || other == Step::Wait, "one of two writers wins: {one:?}, {other:?}");
        let taken = if one == Step::Wait { other } else { one };
        if taken != Step::Wait {
            steps.push(taken);
            // The first has noticed, the second not yet.
            first.look().await;
            let late = bundles.last().expect("a bundle").clone();
            let new = first.bundle();
            // What a node was brought when the last step was published; a retired CA is in it for nobody's use.
            for controller in [&first, &second] {
                assert!(controller.trusted_by(&new).await, "{taken:?}");
                assert!(controller.trusted_by(&late).await, "{taken:?}, with the bundle before");
            }
            second.look().await;
            assert!(second.trusted_by(&new).await && second.trusted_by(&late).await, "{taken:?}, noticed");
            bundles.push(new);
            let attempt = Some(Attempt { replication_uid: "run".to_owned(), ..Attempt::default() });
            let release = ControllerMessage { command: Some(Command::Release(Release { attempt })) };
            first
                .sessions
                .send(&AgentKey::of_pod(pod.uid().expect("a UID")), release.clone())
                .expect("the session is open");
            assert_eq!(commands.message().await.expect("a stream"), Some(release), "{taken:?}");
        }
        hours.fetch_add(12, Ordering::Relaxed);
    }
    assert_eq!(steps, [Step::Introduce, Step::NotePublished, Step::Promote, Step::Retire]);
    assert!(!first.trusted_by(&bundles[0]).await, "the first CA is gone");
}
