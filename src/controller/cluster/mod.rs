//! One picture of the cluster, shared by all who look at it.
//!
//! Claims and pods are watched per namespace, while somebody uses that namespace; replicas once for the cluster. However many
//! runs there are, these are two watches for each namespace in use and one more. A run that must not miss what happened a moment
//! ago asks for [`Namespace::fresh`] facts; what happens later its [`Follower`] tells it, when it concerns its members.
//!
//! [`table`] is what is known and who is to hear of changes, [`picture`] keeps that current, [`subject`] says what of an object
//! is kept. See docs/decisions/0013.

mod facts;
#[cfg(test)]
mod fixtures;
mod follower;
mod picture;
mod subject;
mod table;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use kube::{Api, Client};
use tokio::sync::Semaphore;

pub use facts::Facts;
pub use follower::{Change, EveryReplica, Follower, Interest};
use picture::{Picture, Trouble, Watched};
use stillpoint_core::limits::LIST_CONCURRENCY;
use subject::{Claims, Pods, Replicas};

/// The picture of one cluster. A clone is another handle on the same picture.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// Permits to read a page.
    pages: Arc<Semaphore>,
    watched: Arc<Mutex<InUse>>,
}

/// What somebody uses now.
#[derive(Default)]
struct InUse {
    namespaces: HashMap<String, Weak<Watches>>,
    replicas: Weak<Watched<Replicas>>,
}

/// The watches of one namespace.
struct Watches {
    name: String,
    claims: Watched<Claims>,
    pods: Watched<Pods>,
}

impl Cluster {
    /// Watches nothing yet.
    pub fn new(client: Client) -> Self {
        Self { client, pages: Arc::new(Semaphore::new(LIST_CONCURRENCY)), watched: Arc::default() }
    }

    /// Uses a namespace: its claims and its pods that mount claims are watched while any handle on it or [`Follower`] of it
    /// lives, once whatever their number, and so are the replicas of the cluster.
    ///
    /// Must be called within a Tokio runtime.
    pub fn namespace(&self, name: &str) -> Namespace {
        let mut in_use = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let watches = in_use.namespaces.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let watches = Arc::new(self.watch(name));
            in_use.namespaces.retain(|_, watches| watches.strong_count() > 0);
            in_use.namespaces.insert(name.to_owned(), Arc::downgrade(&watches));
            watches
        });
        Namespace { watches, replicas: self.replicas_of(&mut in_use) }
    }

    /// Every replica of the cluster, as it is now and whenever it changes. They are watched once, for all runs too.
    ///
    /// Must be called within a Tokio runtime.
    pub fn every_replica(&self) -> EveryReplica {
        let mut in_use = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        EveryReplica::new(self.replicas_of(&mut in_use))
    }

    fn replicas_of(&self, in_use: &mut InUse) -> Arc<Watched<Replicas>> {
        in_use.replicas.upgrade().unwrap_or_else(|| {
            let picture = Picture::new(Api::all(self.client.clone()), "of the cluster".to_owned(), self.pages.clone());
            let watched = Arc::new(Watched::start(picture));
            in_use.replicas = Arc::downgrade(&watched);
            watched
        })
    }

    fn watch(&self, name: &str) -> Watches {
        let place = format!("of namespace {name}");
        let claims = Picture::new(Api::namespaced(self.client.clone(), name), place.clone(), self.pages.clone());
        let pods = Picture::new(Api::namespaced(self.client.clone(), name), place, self.pages.clone());
        Watches { name: name.to_owned(), claims: Watched::start(claims), pods: Watched::start(pods) }
    }
}

/// A namespace in use. A clone is another handle on the same watches.
#[derive(Clone)]
pub struct Namespace {
    watches: Arc<Watches>,
    replicas: Arc<Watched<Replicas>>,
}

impl Namespace {
    /// The facts, with claims and pods at least as new as this call. One request each, and more for a large namespace in which
    /// nothing happens.
    ///
    /// # Errors
    /// When they cannot be read within [`API_TIMEOUT`](stillpoint_core::limits::API_TIMEOUT): what, and what the API server said.
    pub async fn fresh(&self) -> anyhow::Result<Arc<Facts>> {
        let Watches { claims, pods, .. } = &*self.watches;
        tokio::try_join!(async { claims.refresh().await.map_err(|trouble| claims.error(&trouble)) }, async {
            pods.refresh().await.map_err(|trouble| pods.error(&trouble))
        },)?;
        Ok(self.facts())
    }

    /// The facts, with pods at least as new as this call.
    ///
    /// # Errors
    /// As those of [`Self::fresh`].
    pub async fn fresh_pods(&self) -> anyhow::Result<Arc<Facts>> {
        let pods = &self.watches.pods;
        pods.refresh().await.map_err(|trouble| pods.error(&trouble))?;
        Ok(self.facts())
    }

    /// The facts, with replicas at least as new as this call; without any when the snapshot API is not there. For a run that was
    /// taken over: of what an attempt that begins now will make there is nothing to know yet.
    ///
    /// # Errors
    /// As those of [`Self::fresh`].
    pub async fn fresh_replicas(&self) -> anyhow::Result<Arc<Facts>> {
        match self.replicas.refresh().await {
            Ok(()) | Err(Trouble::Absent) => Ok(self.facts()),
            Err(trouble) => Err(self.replicas.error(&trouble)),
        }
    }

    /// Hears from now on of what concerns a run. Call [`Self::fresh`] first, so that there is something to begin with; what the
    /// follower tells first replaces what the facts said, because it may be newer.
    pub fn follow(&self, interest: Interest) -> Follower {
        Follower::new(&self.watches, &self.replicas, interest)
    }

    /// Whether the snapshot API is there and its replicas were listed.
    pub fn replicas_known(&self) -> bool {
        self.replicas.table().is_listed()
    }

    fn facts(&self) -> Arc<Facts> {
        let Watches { name, claims, pods } = &*self.watches;
        let (claims, pods) = (claims.table().facts(), pods.table().facts());
        Arc::new(Facts::new(name, claims, pods, self.replicas.table().facts()))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
