//! One controller leads: it holds a Lease, and the number of its turn is the epoch that every command carries.
//!
//! Clocks of different machines are never compared: a foreign lease counts as dead when *this* process has seen it
//! unchanged for as long as it lasts. Every write carries the resource version that was read, so of two that try, one wins.

use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use stillpoint_core::limits::FIRST_EPOCH;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Name of the Lease in the controller's namespace.
const LEASE: &str = "stillpoint-controller";

/// How long a lease lasts and how it is kept, in the proportions that Kubernetes' own components use (15, 10 and 3 s).
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long a lease lasts after its last renewal.
    lasts: Duration,
}

impl Terms {
    /// Terms of a lease that lasts so many whole seconds.
    pub fn new(lasts: Duration) -> Self {
        Self { lasts }
    }

    /// How often the leader renews its lease, and how often the others look at it.
    fn renew(&self) -> Duration {
        self.lasts / 5
    }

    /// How long a leader may fail to renew before it stops: shorter than the lease, so that it has stopped before another
    /// one starts.
    fn give_up(&self) -> Duration {
        self.lasts * 2 / 3
    }
}

/// Tells whether this process may still act as the leader, and in which epoch. A clone tells the same.
#[derive(Clone, Debug)]
pub struct Tenure {
    /// When the last renewal that succeeded was begun.
    renewed: watch::Receiver<Instant>,
    lasts: Duration,
    epoch: watch::Receiver<u64>,
    /// An epoch that was seen and is higher than that of this leader.
    seen: watch::Sender<u64>,
}

impl Tenure {
    /// Lasts so long after each renewal; `seen` takes higher epochs.
    pub fn new(
        renewed: watch::Receiver<Instant>,
        lasts: Duration,
        epoch: watch::Receiver<u64>,
        seen: watch::Sender<u64>,
    ) -> Self {
        Self { renewed, lasts, epoch, seen }
    }

    /// The number of this turn: higher than that of every earlier leader, as far as is known.
    pub fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    /// Somebody has seen this epoch. If it is higher than that of this leader, the Lease has forgotten its count, being restored
    /// from a backup; or another controller leads, and then the Lease says so when it is written.
    pub fn has_seen(&self, epoch: u64) {
        self.seen.send_if_modified(|highest| {
            let higher = epoch > *highest && epoch >= self.epoch();
            if higher {
                *highest = epoch;
            }
            higher
        });
    }

    /// Whether the lease was renewed lately enough that nobody else can lead.
    ///
    /// A process that was stopped and goes on finds here at once that its time has passed, before it has heard anything: the
    /// clock (`CLOCK_MONOTONIC`) goes on while a process is stopped.
    pub fn is_certain(&self) -> bool {
        self.renewed.borrow().elapsed() < self.lasts
    }
}

/// The right to lead, for as long as [`Leadership::keep`] runs.
pub struct Leadership {
    leases: Api<Lease>,
    terms: Terms,
    lease: Lease,
    epoch: watch::Sender<u64>,
    /// The highest epoch that was seen elsewhere.
    seen: watch::Sender<u64>,
    /// When the last write that succeeded was begun.
    renewed: watch::Sender<Instant>,
}

impl Leadership {
    /// Waits until this controller leads. Trouble with the API server is waited out too.
    ///
    /// `identity` must be the pod's name: a lease that carries it was held by an earlier process of the same container,
    /// which is gone, and is taken over without waiting.
    ///
    /// Needs the verbs `get`, `create` and `update` on Leases of the controller's namespace.
    pub async fn acquire(client: &Client, namespace: &str, identity: &str, terms: Terms) -> Self {
        let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
        let mut seen = Seen::default();
        let mut told = false;
        loop {
            let begun = Instant::now();
            match timeout(terms.renew(), try_acquire(&leases, identity, terms, &mut seen)).await {
                Ok(Ok(Attempt::Acquired { lease, epoch })) => {
                    tracing::info!(epoch, "this controller leads");
                    let (renewed, epoch) = (watch::Sender::new(begun), watch::Sender::new(epoch));
                    return Self { leases, terms, lease: *lease, epoch, seen: watch::Sender::new(0), renewed };
                }
                Ok(Ok(Attempt::HeldBy(holder))) if !told => {
                    told = true;
                    tracing::info!(%holder, "another controller leads; waiting");
                }
                Ok(Ok(Attempt::HeldBy(_))) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot take Lease {namespace}/{LEASE} yet"),
                Err(_) => tracing::warn!("cannot take Lease {namespace}/{LEASE} yet: no answer from the API server"),
            }
            sleep(terms.renew()).await;
        }
    }

    /// Whether this controller leads, for those who act on it.
    pub fn tenure(&self) -> Tenure {
        Tenure::new(self.renewed.subscribe(), self.terms.give_up(), self.epoch.subscribe(), self.seen.clone())
    }

    /// Renews the lease until it is lost, and says why leading must end: another controller took the lease, or it was not
    /// renewed for two thirds of its duration. Takes a higher epoch at once when one was seen elsewhere.
    pub async fn keep(&mut self) -> anyhow::Error {
        let mut seen = self.seen.subscribe();
        loop {
            tokio::select! {
                () = sleep(self.terms.renew()) => {}
                Ok(()) = seen.changed() => {}
            }
            let begun = Instant::now();
            let left = self.terms.give_up().saturating_sub(begun.duration_since(*self.renewed.borrow()));
            match timeout(left, self.renew()).await {
                Ok(Ok(lease)) => {
                    let epoch = epoch_of(&lease);
                    self.lease = lease;
                    self.renewed.send_replace(begun);
                    if self.epoch.send_replace(epoch) != epoch {
                        tracing::warn!(
                            epoch,
                            "a higher epoch was seen than that of this leader, which goes on in a still higher one"
                        );
                    }
                }
                Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => {
                    return anyhow::anyhow!(
                        "this controller leads no longer: its Lease {LEASE} was changed or deleted by somebody else"
                    );
                }
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew Lease {LEASE}"),
                Err(_) => {
                    return anyhow::anyhow!(
                        "this controller leads no longer: the API server did not renew its Lease {LEASE} for {} s",
                        self.terms.give_up().as_secs()
                    );
                }
            }
        }
    }

    /// Gives the lease back, so that the next leader need not wait for it to run out.
    ///
    /// # Errors
    /// When the API server does not take it; the lease then runs out by itself.
    pub async fn release(mut self) -> anyhow::Result<()> {
        self.lease.spec.get_or_insert_default().holder_identity = None;
        let released = async { self.leases.replace(LEASE, &PostParams::default(), &self.lease).await };
        let released = timeout(self.terms.renew(), released).await.context("no answer from the API server")?;
        released.context("cannot give the Lease back")?;
        Ok(())
    }

    async fn renew(&self) -> kube::Result<Lease> {
        let next = above(&self.lease, *self.seen.borrow());
        match renew(&self.leases, next.clone()).await {
            // Our own earlier write may have arrived although its answer did not.
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                let current = self.leases.get(LEASE).await?;
                if same_turn(&current, &self.lease) || same_turn(&current, &next) {
                    renew(&self.leases, above(&current, *self.seen.borrow())).await
                } else {
                    Err(kube::Error::Api(status))
                }
            }
            result => result,
        }
    }
}

async fn renew(leases: &Api<Lease>, mut lease: Lease) -> kube::Result<Lease> {
    lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
    leases.replace(LEASE, &PostParams::default(), &lease).await
}

/// The lease with a count above this epoch.
fn above(lease: &Lease, seen: u64) -> Lease {
    let mut lease = lease.clone();
    if epoch_of(&lease) <= seen {
        let above = i32::try_from(seen.saturating_add(1)).unwrap_or(i32::MAX);
        lease.spec.get_or_insert_default().lease_transitions = Some(above);
    }
    lease
}

fn epoch_of(lease: &Lease) -> u64 {
    let count = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
    count.unsigned_abs().into()
}

/// Whether both were written by the same leader in the same turn.
fn same_turn(a: &Lease, b: &Lease) -> bool {
    let turn = |lease: &Lease| {
        let spec = lease.spec.clone().unwrap_or_default();
        (lease.metadata.uid.clone(), spec.holder_identity, spec.lease_transitions)
    };
    turn(a) == turn(b)
}

enum Attempt {
    Acquired { lease: Box<Lease>, epoch: u64 },
    HeldBy(String),
}

async fn try_acquire(leases: &Api<Lease>, identity: &str, terms: Terms, seen: &mut Seen) -> kube::Result<Attempt> {
    let current = leases.get_opt(LEASE).await?;
    let version = current.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
    let spec = current.as_ref().and_then(|lease| lease.spec.as_ref());
    let unchanged = seen.unchanged(version.as_deref(), Instant::now());
    if let Some(holder) = live_holder(spec, identity, terms, unchanged) {
        return Ok(Attempt::HeldBy(holder.to_owned()));
    }
    let now = Timestamp::now();
    let transitions = next_transitions(spec, now);
    let lease = Lease {
        metadata: ObjectMeta { name: Some(LEASE.to_owned()), resource_version: version, ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: i32::try_from(terms.lasts.as_secs()).ok(),
            lease_transitions: Some(transitions),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    };
    let written = match current {
        Some(_) => leases.replace(LEASE, &PostParams::default(), &lease).await,
        None => leases.create(&PostParams::default(), &lease).await,
    };
    match written {
        Ok(lease) => Ok(Attempt::Acquired { lease: Box::new(lease), epoch: transitions.unsigned_abs().into() }),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
            Ok(Attempt::HeldBy("a controller that was faster".to_owned()))
        }
        Err(error) => Err(error),
    }
}

/// How long this process has seen the same version of the lease.
#[derive(Default)]
struct Seen {
    version: Option<String>,
    since: Option<Instant>,
}

impl Seen {
    fn unchanged(&mut self, version: Option<&str>, now: Instant) -> Duration {
        if self.version.as_deref() != version {
            self.version = version.map(str::to_owned);
            self.since = None;
        }
        now.duration_since(*self.since.get_or_insert(now))
    }
}

/// Who holds the lease and may be alive, if anybody but `identity` does.
fn live_holder<'a>(spec: Option<&'a LeaseSpec>, identity: &str, terms: Terms, unchanged: Duration) -> Option<&'a str> {
    let spec = spec?;
    let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty() && *holder != identity)?;
    let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    (unchanged < lasts.map_or(terms.lasts, Duration::from_secs)).then_some(holder)
}

/// The number of the next turn.
///
/// A Lease that somebody deleted has forgotten its count, but agents remember epochs. So a new Lease starts at the seconds
/// since 2025 (until 2093, when the field is full): above any count of an earlier one, because a turn takes more than a
/// second.
fn next_transitions(spec: Option<&LeaseSpec>, now: Timestamp) -> i32 {
    let first = i32::try_from(now.as_second() - FIRST_EPOCH).unwrap_or(i32::MAX);
    spec.and_then(|spec| spec.lease_transitions).map_or(first, |count| count.saturating_add(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { lasts: Duration::from_secs(15) };

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec { holder_identity: Some(holder.to_owned()), lease_duration_seconds: Some(15), ..LeaseSpec::default() }
    }

    #[test]
    fn a_foreign_lease_is_waited_for_until_it_ran_out() {
        let at = |seconds| Duration::from_millis(seconds);
        let spec = held_by("other");
        assert_eq!(live_holder(Some(&spec), "me", TERMS, at(0)), Some("other"));
        assert_eq!(live_holder(Some(&spec), "me", TERMS, at(14_999)), Some("other"));
        assert_eq!(live_holder(Some(&spec), "me", TERMS, at(15_000)), None);
    }

    #[test]
    fn a_free_lease_and_one_of_an_earlier_process_of_this_pod_are_taken_at_once() {
        assert_eq!(live_holder(None, "me", TERMS, Duration::ZERO), None);
        assert_eq!(live_holder(Some(&held_by("")), "me", TERMS, Duration::ZERO), None);
        assert_eq!(live_holder(Some(&LeaseSpec::default()), "me", TERMS, Duration::ZERO), None);
        assert_eq!(live_holder(Some(&held_by("me")), "me", TERMS, Duration::ZERO), None);
    }

    #[test]
    fn a_leader_that_is_not_renewed_stops_before_another_one_starts() {
        for seconds in [3, 15, 60] {
            let terms = Terms::new(Duration::from_secs(seconds));
            assert!(terms.renew() * 3 <= terms.give_up() && terms.give_up() < terms.lasts);
        }
        let (renew, renewed) = watch::channel(Instant::now());
        let tenure = Tenure::new(renewed, Duration::from_secs(10), watch::channel(5).1, watch::Sender::new(0));
        assert!(tenure.is_certain());
        renew.send_replace(Instant::now() - Duration::from_secs(10));
        assert!(!tenure.is_certain());
    }

    #[test]
    fn only_a_lease_that_stands_still_grows_old() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen::default();
        assert_eq!(seen.unchanged(Some("1"), start), Duration::ZERO);
        assert_eq!(seen.unchanged(Some("1"), after(14)), Duration::from_secs(14));
        assert_eq!(seen.unchanged(Some("2"), after(15)), Duration::ZERO);
        assert_eq!(seen.unchanged(Some("2"), after(20)), Duration::from_secs(5));
    }

    #[test]
    fn an_epoch_that_was_seen_is_taken_over() {
        let lease = |count| {
            let spec = LeaseSpec { lease_transitions: Some(count), ..held_by("me") };
            Lease { spec: Some(spec), ..Lease::default() }
        };
        for (own, seen, next) in
            [(5, 0, 5), (5, 4, 5), (5, 5, 6), (5, 900, 901), (5, u64::MAX, u64::from(i32::MAX.unsigned_abs()))]
        {
            assert_eq!(epoch_of(&above(&lease(own), seen)), next, "{own}, and {seen} was seen");
        }
        let seen = watch::Sender::new(0);
        let (_renew, renewed) = watch::channel(Instant::now());
        let (_own, own) = watch::channel(5);
        let tenure = Tenure::new(renewed, Duration::from_secs(10), own, seen.clone());
        for (epoch, highest) in [(4, 0), (9, 9), (7, 9)] {
            tenure.has_seen(epoch);
            assert_eq!(*seen.borrow(), highest, "{epoch}");
        }
    }

    #[test]
    fn the_epoch_rises_with_every_turn_and_over_a_deleted_lease() {
        let now = Timestamp::from_second(FIRST_EPOCH + 5_000).expect("a time");
        let turn = |count| LeaseSpec { lease_transitions: count, ..LeaseSpec::default() };
        assert_eq!(next_transitions(None, now), 5_000);
        assert_eq!(next_transitions(Some(&turn(None)), now), 5_000);
        assert_eq!(next_transitions(Some(&turn(Some(5_000))), now), 5_001);
        assert_eq!(next_transitions(Some(&turn(Some(-7))), now), 1);
    }
}
