//! The controller: decides about replications and commands the agents.
//!
//! Agents call in: [`sessions`] serves them over TLS with a certificate of [`certificates`], after [`identity`] found out
//! which pod each one is. [`publish`] brings the CA to the agents. One controller leads ([`leadership`]); only it commands,
//! through the runs of [`replication`].

mod api;
pub mod certificates;
pub mod cluster;
mod health;
pub mod identity;
mod leadership;
mod listen;
mod publish;
pub mod replication;
pub mod sessions;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use kube::Client;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use certificates::{KeepError, Keeper, ServerCertificate, server_names};
use health::Stage;
use leadership::{Leadership, Terms};
use sessions::Sessions;
use stillpoint_api::{Duration, duration};
use stillpoint_core::limits::{
    CONTROLLER_RETRY, LEASE_DEFAULT, LEASE_MAX, LEASE_MIN, MAX_HOLD, MAX_RUNS, SHUTDOWN_TIMEOUT,
};

/// Threads that run the controller. Two, so that a burst of handshakes does not delay a release.
const WORKERS: usize = 2;

/// How the controller runs.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where agents open their sessions (gRPC over TLS). [::] takes IPv4 too.
    #[arg(long, default_value = "[::]:8443", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where the kubelet asks /healthz and /readyz (plain HTTP).
    #[arg(long, default_value = "[::]:8080", value_name = "ADDRESS")]
    pub health: SocketAddr,
    /// The controller's own namespace: its CA and its Lease are kept there, and its certificate names it.
    #[arg(long, env = "POD_NAMESPACE", default_value = "stillpoint-system")]
    pub namespace: String,
    /// The pod's own name, by which it holds the Lease; the host name, which a pod's is, if not given.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Name of the Service through which agents reach the controller; the certificate is issued for it.
    #[arg(long, default_value = "stillpoint-controller", value_name = "NAME")]
    pub service: String,
    /// Longest `holdTimeout` that a replication may ask for, such as `30s`. Writes never stay suspended longer.
    #[arg(long, env = "STILLPOINT_HOLD_CEILING", default_value = "30s", value_parser = hold_ceiling, value_name = "DURATION")]
    pub hold_ceiling: Duration,
    /// How long a leader that died keeps the lead, in whole seconds from 3s to 60s: when its lease has not been renewed for
    /// so long, another replica takes over. Every replica should be given the same.
    #[arg(long, default_value_t = LEASE_DEFAULT.into(), value_parser = lease_duration, value_name = "DURATION")]
    pub lease_duration: Duration,
}

fn hold_ceiling(text: &str) -> Result<Duration, String> {
    let ceiling = duration::parse(text)?;
    if ceiling <= std::time::Duration::ZERO || ceiling > MAX_HOLD {
        return Err(format!(
            "must be above 0s and at most {} s, the longest hold that an agent accepts",
            MAX_HOLD.as_secs()
        ));
    }
    Ok(ceiling)
}

fn lease_duration(text: &str) -> Result<Duration, String> {
    let duration = duration::parse(text)?;
    let lasts = std::time::Duration::from(duration);
    if duration.is_negative() || lasts.subsec_nanos() != 0 || !(LEASE_MIN..=LEASE_MAX).contains(&lasts) {
        let (min, max) = (LEASE_MIN.as_secs(), LEASE_MAX.as_secs());
        return Err(format!("must be whole seconds, from {min} s to {max} s"));
    }
    Ok(duration)
}

/// Runs the controller until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or must stop: a port is taken, the CA is spoiled, the lease is lost.
pub fn run(args: Args) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the threads of the controller")?;
    runtime.block_on(serve(args))
}

/// Lets the process open as many descriptors as it may: each session is one, and the usual soft limit is 1,024.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open descriptors; fewer agents can connect");
    }
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let stop = stop_at_signal()?;
    let (stage, stage_seen) = watch::channel(Stage::WaitingForAuthority);
    let health = listen::on(args.health)?;
    let listener = listen::on(args.listen)?;
    // Work beside the sessions and the runs. It lasts as long as the controller: whatever of it ends, ends the controller.
    let mut aside = JoinSet::new();
    aside.spawn(async move { health::serve(health, stage_seen).await.context("the health server failed") });

    let client = Client::try_default().await.context("cannot find out how to reach the API server")?;
    let Some(keeper) = stop.run_until_cancelled(open_keeper(&client, &args.namespace)).await else {
        return Ok(());
    };
    let keeper = Arc::new(keeper?);
    let names = server_names(&args.service, &args.namespace);
    let certificate = ServerCertificate::issue(keeper.known().borrow().current(), names, SystemTime::now())?;
    let tls = certificate.tls_config().context("cannot set up TLS")?;
    aside.spawn({
        let keeper = keeper.clone();
        async move { match keeper.follow(&certificate).await.context("cannot renew the server certificate")? {} }
    });

    let sessions = Sessions::default();
    let stop_sessions = CancellationToken::new();
    let config = sessions::Config::new(identity::api_review(client.clone()));
    let mut server = tokio::spawn(sessions::serve(listener, tls, sessions.clone(), config, stop_sessions.clone()));
    stage.send_replace(Stage::Ready);
    tracing::info!(sessions = %args.listen, health = %args.health, "listening");

    let outcome = tokio::select! {
        outcome = lead(&client, &args, &sessions, &keeper, &stop) => outcome,
        ended = &mut server => Err(early_end("the session server", ended)),
        Some(ended) = aside.join_next() => Err(early_end("the health server or the renewal of the certificate", ended)),
    };
    // In trouble, the end must come at once: what the process holds ends with it. In order, the sessions end last, because
    // runs that give writes back need their agents.
    outcome?;
    stop_sessions.cancel();
    server.await.context("the session server did not end in order")?.context("the session server failed")
}

/// Leads, once it is this controller's turn, until `stop`.
async fn lead(
    client: &Client,
    args: &Args,
    sessions: &Sessions,
    keeper: &Keeper,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let identity = args.pod_name.clone().unwrap_or_else(host_name);
    let terms = Terms::new(args.lease_duration.into());
    let acquire = Leadership::acquire(client, &args.namespace, &identity, terms);
    let Some(mut leadership) = stop.run_until_cancelled(acquire).await else { return Ok(()) };
    let config = replication::Config {
        hold_ceiling: args.hold_ceiling.into(),
        max_runs: MAX_RUNS,
        namespace: args.namespace.clone(),
        instance: identity.clone(),
    };
    let (everywhere, published) = watch::channel(String::new());
    tokio::select! {
        () = replication::run(client.clone(), sessions.clone(), config, leadership.tenure(), stop.clone()) => {}
        () = publish::publish(client.clone(), &args.namespace, keeper.known(), everywhere) => bail!("publishing of the CA ended"),
        never = keeper.rotate(published) => match never {},
        // Another controller may lead from here on.
        lost = leadership.keep() => return Err(lost),
        () = too_long(stop) => bail!("the runs did not give writes back within {} s", SHUTDOWN_TIMEOUT.as_secs()),
    };
    ensure!(stop.is_cancelled(), "the replications ended by themselves");
    if let Err(error) = leadership.release().await {
        tracing::warn!("the next controller has to wait for the Lease to run out: {error:#}");
    }
    Ok(())
}

async fn too_long(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(SHUTDOWN_TIMEOUT).await;
}

/// Reads or makes the CA. Trouble with the API server is waited out, a spoiled Secret is not.
async fn open_keeper(client: &Client, namespace: &str) -> Result<Keeper, KeepError> {
    loop {
        match Keeper::open(client, namespace, Arc::new(SystemTime::now)).await {
            Err(trouble @ KeepError::Api { .. }) => tracing::warn!("no CA yet, trying again: {trouble}"),
            result => return result,
        }
        sleep(CONTROLLER_RETRY).await;
    }
}

/// A token that SIGTERM, which the kubelet sends, and SIGINT cancel.
fn stop_at_signal() -> anyhow::Result<CancellationToken> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            stop.cancel();
        }
    });
    Ok(stop)
}

/// Why something that should outlive the controller's work does not run any more.
fn early_end<E: Into<anyhow::Error>>(what: &str, ended: Result<Result<(), E>, JoinError>) -> anyhow::Error {
    let error = match ended {
        Ok(Ok(())) => return anyhow::anyhow!("{what} ended by itself"),
        Ok(Err(error)) => error.into(),
        Err(error) => error.into(),
    };
    error.context(format!("{what} ended"))
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
