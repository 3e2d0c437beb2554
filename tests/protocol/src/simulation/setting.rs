//! What one seed is about: the group, the times that things take, the faults that may come.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use stillpoint_api::{ConsistencyGroupReplicationSpec, DeletionPolicy, Mode, Retry, Source, Suspension};

use super::faults::{Fault, Weights};

/// Hold limits that a seed chooses from, in milliseconds.
const HOLDS: [u64; 5] = [1_000, 2_000, 5_000, 10_000, 30_000];

/// The setting of one seed.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// What the object asks for, but for the names of the members.
    pub spec: ConsistencyGroupReplicationSpec,
    /// For each member the pod that mounts it; `None`: nobody does.
    pub pods_of_members: Vec<Option<usize>>,
    /// For each pod the node that it runs on.
    pub machines_of_pods: Vec<usize>,
    /// Controller replicas.
    pub controllers: usize,
    /// By how much everything is slower than on an idle cluster.
    pub slowness: f64,
    /// How probable a fault is at each step.
    pub fault_rate: f64,
    /// How many faults come at most.
    pub max_faults: usize,
    /// Which.
    pub weights: Weights,
    /// The application holds locks now and then.
    pub locks: bool,
}

impl Setting {
    /// Draws the setting of a seed.
    pub fn draw(rng: &mut SmallRng) -> Self {
        let members = rng.random_range(1..=5_usize);
        let mut pods_of_members = Vec::with_capacity(members);
        let mut pods = 0;
        for _ in 0..members {
            let pod = match rng.random_range(0..12) {
                0..=1 => None,
                2..=4 if pods > 0 => Some(rng.random_range(0..pods)),
                _ => {
                    pods += 1;
                    Some(pods - 1)
                }
            };
            pods_of_members.push(pod);
        }
        let machines_of_pods = (0..pods).map(|_| rng.random_range(0..3)).collect();
        let retry = rng.random_bool(0.3).then(|| Retry {
            limit: rng.random_range(1..=3),
            cool_down: Duration::from_millis(rng.random_range(1_000..15_000)).into(),
        });
        let spec = ConsistencyGroupReplicationSpec {
            source: Source::default(),
            mode: if rng.random_bool(0.1) { Mode::Check } else { Mode::Replicate },
            suspension: Suspension {
                prepare_timeout: Duration::from_millis(rng.random_range(2_000..20_000)).into(),
                hold_timeout: Duration::from_millis(HOLDS[rng.random_range(0..HOLDS.len())]).into(),
            },
            replication: None,
            retry,
            deletion_policy: if rng.random_bool(0.5) { DeletionPolicy::Delete } else { DeletionPolicy::Retain },
            ttl_seconds_after_finished: None,
        };
        let calm = rng.random_bool(0.1);
        Self {
            spec,
            pods_of_members,
            machines_of_pods,
            controllers: rng.random_range(1..=2),
            slowness: if calm { 1.0 } else { 10_f64.powf(rng.random_range(0.0..1.3)) },
            fault_rate: 10_f64.powf(rng.random_range(-2.5..-0.7)),
            max_faults: if calm { 0 } else { rng.random_range(1..=8) },
            weights: Weights::draw(rng),
            locks: !calm && rng.random_bool(0.3),
        }
    }

    /// Makes some faults come often, and no others.
    pub fn favour(&mut self, faults: &[Fault]) {
        if faults.is_empty() {
            return;
        }
        self.weights = Weights::default();
        for fault in faults {
            self.weights.set(*fault, 1);
        }
        (self.fault_rate, self.max_faults) = (0.05, 20);
    }

    /// The longest hold.
    pub fn hold_timeout(&self) -> Duration {
        self.spec.suspension.hold_timeout.into()
    }

    /// Whether nothing goes wrong in this seed: then the run must be done.
    pub fn is_calm(&self) -> bool {
        self.max_faults == 0 && !self.locks
    }
}

/// A time between two, small ones as probable as large ones.
pub(super) fn spread(rng: &mut SmallRng, low: Duration, high: Duration) -> Duration {
    let (low, high) = (low.as_secs_f64().max(1e-6).ln(), high.as_secs_f64().ln());
    Duration::from_micros((rng.random_range(low..high).exp() * 1e6) as u64)
}

impl Weights {
    /// Some kinds of faults, each with a weight: a seed with few kinds goes deeper than one with all.
    fn draw(rng: &mut SmallRng) -> Self {
        let mut weights = Self::default();
        let share = rng.random_range(0.1..1.0);
        for fault in Fault::ALL {
            if rng.random_bool(share) {
                weights.set(fault, rng.random_range(1..=4));
            }
        }
        weights
    }
}
