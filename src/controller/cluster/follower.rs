//! Those who want to hear of changes: a run of its members, the sweeper of every replica.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::ResourceExt;
use tokio::sync::Notify;

use super::Watches;
use super::picture::{Picture, Watched};
use super::subject::{Claims, Pods, Replicas, Subject, replica_key};
use super::table::Wanted;
use stillpoint_api::labels;
use stillpoint_api::snapshot::VolumeSnapshot;
use stillpoint_core::limits::LIST_PAGE;
use stillpoint_core::run::facts::{Claim, PodFacts};

/// What concerns one run.
#[derive(Clone, Debug, Default)]
pub struct Interest {
    /// The members: names of claims, by UID.
    pub claims: BTreeMap<String, String>,
    /// Whose replicas; `None`: replicas are of no interest.
    pub replication_uid: Option<String>,
}

/// The newest state of one object; `None`: it is gone, or does not concern the run any more.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Of a member.
    Claim {
        /// UID of the claim.
        uid: String,
        /// What it is now.
        claim: Option<Claim>,
    },
    /// Of a pod that mounts a member.
    Pod {
        /// UID of the pod.
        uid: String,
        /// What it is now.
        pod: Option<PodFacts>,
    },
    /// Of a replica.
    Replica {
        /// Name of the snapshot.
        name: String,
        /// What it is now.
        replica: Option<Box<VolumeSnapshot>>,
    },
}

/// The place of one follower in one picture.
struct Place<S: Subject> {
    picture: Arc<Picture<S>>,
    id: u64,
}

impl<S: Subject> Place<S> {
    fn take(watched: &Watched<S>, wanted: Wanted<S::Fact>, expected: BTreeSet<String>, wake: &Arc<Notify>) -> Self {
        let picture = watched.picture();
        let id = picture.table().follow(wanted, expected, wake.clone());
        Self { picture, id }
    }

    fn changes(&self, at_most: usize) -> Vec<(String, Option<S::Fact>)> {
        self.picture.table().take(self.id, at_most)
    }
}

impl<S: Subject> Drop for Place<S> {
    fn drop(&mut self) {
        self.picture.table().unfollow(self.id);
    }
}

/// Places in the pictures of one namespace, and what keeps these current.
struct Members {
    claims: Place<Claims>,
    pods: Place<Pods>,
    _watches: Arc<Watches>,
}

/// The same for replicas.
struct Made {
    replicas: Place<Replicas>,
    _watched: Arc<Watched<Replicas>>,
}

/// Hears of what concerns one run.
pub struct Follower {
    wake: Arc<Notify>,
    /// Beginning of the keys of all replicas of its namespace.
    prefix: String,
    members: Option<Members>,
    made: Option<Made>,
}

impl Follower {
    pub(super) fn new(watches: &Arc<Watches>, replicas: &Arc<Watched<Replicas>>, interest: Interest) -> Self {
        let wake = Arc::new(Notify::new());
        let prefix = replica_key(&watches.name, "");
        let made = interest.replication_uid.map(|uid| Made {
            replicas: Place::take(replicas, made_by(uid, prefix.clone()), BTreeSet::new(), &wake),
            _watched: replicas.clone(),
        });
        let (uids, names) = interest.claims.into_iter().unzip::<_, _, BTreeSet<_>, BTreeSet<_>>();
        let expected = uids.clone();
        let members = Members {
            claims: Place::take(&watches.claims, Box::new(move |uid, _| uids.contains(uid)), expected, &wake),
            pods: Place::take(
                &watches.pods,
                Box::new(move |_, pod| !pod.claims.is_disjoint(&names)),
                BTreeSet::new(),
                &wake,
            ),
            _watches: watches.clone(),
        };
        Self { wake, prefix, members: Some(members), made }
    }

    /// At first what is there, and which members are not; then every change, when there is one: the newest state of each object,
    /// whatever it went through since it was last told. Safe to cancel.
    pub async fn next(&mut self) -> Vec<Change> {
        loop {
            let changes = self.changes();
            if !changes.is_empty() {
                return changes;
            }
            self.wake.notified().await;
        }
    }

    /// Hears of replicas only from now on, and lets go of the watches of the namespace: while replicas become usable, nobody
    /// looks at claims and pods.
    pub fn stop_pods_and_claims(&mut self) {
        self.members = None;
    }

    fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(Members { claims, pods, .. }) = &self.members {
            let claims = claims.changes(usize::MAX).into_iter();
            changes.extend(claims.map(|(uid, claim)| Change::Claim { uid, claim }));
            let pods = pods.changes(usize::MAX).into_iter();
            changes.extend(pods.map(|(uid, pod)| Change::Pod { uid, pod }));
        }
        if let Some(Made { replicas, .. }) = &self.made {
            changes.extend(replicas.changes(usize::MAX).into_iter().map(|(key, replica)| Change::Replica {
                name: key.strip_prefix(&self.prefix).unwrap_or(&key).to_owned(),
                replica: replica.map(Box::new),
            }));
        }
        changes
    }
}

fn made_by(replication_uid: String, prefix: String) -> Wanted<VolumeSnapshot> {
    Box::new(move |key, replica| {
        key.starts_with(&prefix) && replica.labels().get(labels::REPLICATION_UID) == Some(&replication_uid)
    })
}

/// Hears of every replica of the cluster, whosever it is.
pub struct EveryReplica {
    wake: Arc<Notify>,
    place: Place<Replicas>,
    _watched: Arc<Watched<Replicas>>,
}

impl EveryReplica {
    pub(super) fn new(watched: Arc<Watched<Replicas>>) -> Self {
        let wake = Arc::new(Notify::new());
        let place = Place::take(&watched, Box::new(|_, _| true), BTreeSet::new(), &wake);
        Self { wake, place, _watched: watched }
    }

    /// Replicas that are new or have changed, some at a time, as they are now. Safe to cancel.
    pub async fn next(&mut self) -> Vec<VolumeSnapshot> {
        loop {
            let changes = self.place.changes(LIST_PAGE as usize);
            if changes.is_empty() {
                self.wake.notified().await;
                continue;
            }
            let there: Vec<_> = changes.into_iter().filter_map(|(_, replica)| replica).collect();
            if !there.is_empty() {
                return there;
            }
        }
    }
}
