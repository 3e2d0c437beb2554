//! Those who want to hear of changes: a run of its members, the sweeper of every replica, the supervisor of every run.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::ResourceExt;
use kube::core::{ApiResource, DynamicObject};
use tokio::sync::Notify;

use super::Watches;
use super::picture::{Picture, Watched};
use super::subject::{Claims, Pods, Replicas, Runs, Subject, replica_key};
use super::table::Wanted;
use stillpoint_api::labels;
use stillpoint_core::limits::LIST_PAGE;
use stillpoint_core::replica::seen::ObjectName;
use stillpoint_core::run::effect::{Facts, Input, Interest};
use stillpoint_core::run::stub::Stub;

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

/// The same for the replicas of one resource.
struct Made {
    resource: ApiResource,
    replicas: Place<Replicas>,
    _watched: Arc<Watched<Replicas>>,
}

/// Hears of what concerns one run.
pub struct Follower {
    wake: Arc<Notify>,
    /// Beginning of the keys of all replicas of its namespace.
    prefix: String,
    members: Option<Members>,
    made: Vec<Made>,
}

impl Follower {
    pub(super) fn new(
        watches: &Arc<Watches>,
        replicas: &[(ApiResource, Arc<Watched<Replicas>>)],
        replication_uid: &str,
        interest: &Interest,
    ) -> Self {
        let wake = Arc::new(Notify::new());
        let prefix = replica_key(&watches.name, "");
        let of_interest = interest.replicas.map(|kind| kind.objects()).unwrap_or_default();
        let made =
            replicas.iter().filter(|(resource, _)| of_interest.contains(resource)).map(|(resource, watched)| Made {
                resource: resource.clone(),
                replicas: Place::take(watched, made_by(replication_uid, &prefix), BTreeSet::new(), &wake),
                _watched: watched.clone(),
            });
        let made = made.collect();
        let claims = interest.claims.clone();
        let (uids, names) = claims.into_iter().unzip::<_, _, BTreeSet<_>, BTreeSet<_>>();
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

    /// What the run is about, as it is now. To be called before [`Self::next`], which tells what changes after it.
    pub fn facts(&mut self) -> Facts {
        let mut facts = Facts::default();
        for change in self.changes() {
            match change {
                Input::Claim(uid, Some(claim)) => drop(facts.claims.insert(uid, claim)),
                Input::Pod(uid, Some(pod)) => drop(facts.pods.insert(uid, pod)),
                Input::Replica(name, Some(replica)) => drop(facts.replicas.insert(name, *replica)),
                // What is not there is not among the facts.
                _ => {}
            }
        }
        facts
    }

    /// Every change, when there is one: the newest state of each object, whatever it went through since it was last told.
    /// Safe to cancel.
    pub async fn next(&mut self) -> Vec<Input> {
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

    fn changes(&self) -> Vec<Input> {
        let mut changes = Vec::new();
        if let Some(Members { claims, pods, .. }) = &self.members {
            let claims = claims.changes(usize::MAX).into_iter();
            changes.extend(claims.map(|(uid, claim)| Input::Claim(uid, claim)));
            let pods = pods.changes(usize::MAX).into_iter();
            changes.extend(pods.map(|(uid, pod)| Input::Pod(uid, pod)));
        }
        for Made { resource, replicas, .. } in &self.made {
            changes.extend(replicas.changes(usize::MAX).into_iter().map(|(key, replica)| {
                let name = key.strip_prefix(&self.prefix).unwrap_or(&key).to_owned();
                Input::Replica(ObjectName { kind: resource.kind.clone(), name }, replica.map(Box::new))
            }));
        }
        changes
    }
}

fn made_by(replication_uid: &str, prefix: &str) -> Wanted<DynamicObject> {
    let (uid, prefix) = (replication_uid.to_owned(), prefix.to_owned());
    Box::new(move |key, replica| {
        key.starts_with(&prefix) && replica.labels().get(labels::REPLICATION_UID) == Some(&uid)
    })
}

/// Hears of every replica of the cluster, whosever it is.
pub struct EveryReplica {
    wake: Arc<Notify>,
    made: Vec<Made>,
}

impl EveryReplica {
    pub(super) fn new(replicas: Vec<(ApiResource, Arc<Watched<Replicas>>)>) -> Self {
        let wake = Arc::new(Notify::new());
        let made = replicas.into_iter().map(|(resource, watched)| Made {
            resource,
            replicas: Place::take(&watched, Box::new(|_, _| true), BTreeSet::new(), &wake),
            _watched: watched,
        });
        Self { made: made.collect(), wake }
    }

    /// Replicas that are new or have changed, some at a time, as they are now. Safe to cancel.
    pub async fn next(&mut self) -> Vec<(ApiResource, DynamicObject)> {
        loop {
            let mut there = Vec::new();
            let mut changed = false;
            for Made { resource, replicas, .. } in &self.made {
                let changes = replicas.changes(LIST_PAGE as usize);
                changed |= !changes.is_empty();
                there.extend(changes.into_iter().filter_map(|(_, replica)| Some((resource.clone(), replica?))));
            }
            if !there.is_empty() {
                return there;
            }
            if !changed {
                self.wake.notified().await;
            }
        }
    }
}

/// Hears of every replication of the cluster.
pub struct EveryRun {
    wake: Arc<Notify>,
    runs: Place<Runs>,
    _watched: Watched<Runs>,
}

impl EveryRun {
    pub(super) fn new(watched: Watched<Runs>) -> Self {
        let wake = Arc::new(Notify::new());
        let runs = Place::take(&watched, Box::new(|_, _| true), BTreeSet::new(), &wake);
        Self { wake, runs, _watched: watched }
    }

    /// Replications that are new or have changed, some at a time, by UID; `None`: it is gone. Safe to cancel.
    pub async fn next(&mut self) -> Vec<(String, Option<Arc<Stub>>)> {
        loop {
            let changes = self.runs.changes(LIST_PAGE as usize);
            if !changes.is_empty() {
                return changes;
            }
            self.wake.notified().await;
        }
    }
}
