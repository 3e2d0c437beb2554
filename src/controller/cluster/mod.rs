//! One picture of the cluster, shared by all who look at it.
//!
//! Claims and pods are watched per namespace, while somebody uses that namespace; replicas once for the cluster. However many
//! runs there are, these are two watches for each namespace in use and one more. A run that must not miss what happened a moment
//! ago asks for [`Namespace::fresh`] facts; what happens later its [`Follower`] tells it, when it concerns its members.
//!
//! [`table`] is what is known and who is to hear of changes, [`picture`] keeps that current, [`subject`] says what of an object
//! is kept. See docs/decisions/0013.

#[cfg(test)]
mod fixtures;
mod follower;
mod page;
mod picture;
mod subject;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use kube::core::ApiResource;
use kube::{Api, Client};
use stillpoint_api::ConsistencyGroupReplication;
use tokio::sync::Semaphore;

pub use follower::{EveryReplica, EveryRun, Follower};
use picture::{Picture, Trouble, Watched};
use stillpoint_core::limits::LIST_CONCURRENCY;
use stillpoint_core::replica::all_objects;
use stillpoint_core::run::agents::PodRef;
use stillpoint_core::run::effect::{Facts, Interest};
use stillpoint_core::run::facts::PodFacts;
use subject::{Claims, NodeAgent, NodeAgents, Pods, Replicas};

/// The picture of one cluster. A clone is another handle on the same picture.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// The controller's own namespace, in which the node agents run.
    home: String,
    /// Permits to read a page.
    pages: Arc<Semaphore>,
    watched: Arc<Mutex<InUse>>,
}

/// What somebody uses now.
#[derive(Default)]
struct InUse {
    namespaces: HashMap<String, Weak<Watches>>,
    /// By kind.
    replicas: HashMap<String, Weak<Watched<Replicas>>>,
    node_agents: Weak<Watched<NodeAgents>>,
}

/// The replicas of the cluster, of every resource that there may be.
type Made = Vec<(ApiResource, Arc<Watched<Replicas>>)>;

/// The watches of one namespace.
struct Watches {
    name: String,
    claims: Watched<Claims>,
    pods: Watched<Pods>,
}

impl Cluster {
    /// Watches nothing yet. `home` is the controller's own namespace.
    pub fn new(client: Client, home: &str) -> Self {
        Self {
            client,
            home: home.to_owned(),
            pages: Arc::new(Semaphore::new(LIST_CONCURRENCY)),
            watched: Arc::default(),
        }
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
        Namespace { watches, replicas: self.replicas_of(&mut in_use), node_agents: self.node_agents_of(&mut in_use) }
    }

    /// Every replica of the cluster, as it is now and whenever it changes. They are watched once, for all runs too.
    ///
    /// Must be called within a Tokio runtime.
    pub fn every_replica(&self) -> EveryReplica {
        let mut in_use = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        EveryReplica::new(self.replicas_of(&mut in_use))
    }

    /// Every replication of the cluster, in short, as it is now and whenever it changes. They are watched while this lives.
    ///
    /// Must be called within a Tokio runtime.
    pub fn every_run(&self) -> EveryRun {
        let resource = ApiResource::erase::<ConsistencyGroupReplication>(&());
        let api = Api::all_with(self.client.clone(), &resource);
        EveryRun::new(Watched::start(Picture::new(api, "of the cluster".to_owned(), self.pages.clone())))
    }

    fn replicas_of(&self, in_use: &mut InUse) -> Made {
        let watched = |resource: ApiResource| {
            let known = in_use.replicas.get(&resource.kind).and_then(Weak::upgrade);
            let watched = known.unwrap_or_else(|| {
                let api = Api::all_with(self.client.clone(), &resource);
                let picture = Picture::new(api, "of the cluster".to_owned(), self.pages.clone());
                let watched = Arc::new(Watched::start(picture));
                in_use.replicas.insert(resource.kind.clone(), Arc::downgrade(&watched));
                watched
            });
            (resource, watched)
        };
        all_objects().into_iter().map(watched).collect()
    }

    fn node_agents_of(&self, in_use: &mut InUse) -> Arc<Watched<NodeAgents>> {
        in_use.node_agents.upgrade().unwrap_or_else(|| {
            let api = Api::namespaced(self.client.clone(), &self.home);
            let picture = Picture::new(api, format!("of namespace {}", self.home), self.pages.clone());
            let watched = Arc::new(Watched::start(picture));
            in_use.node_agents = Arc::downgrade(&watched);
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
    replicas: Made,
    node_agents: Arc<Watched<NodeAgents>>,
}

impl Namespace {
    /// The claims and pods, at least as new as this call. One request each, and more for a large namespace in which nothing
    /// happens.
    ///
    /// # Errors
    /// When they cannot be read within [`API_TIMEOUT`](stillpoint_core::limits::API_TIMEOUT): what, and what the API server said.
    pub async fn fresh(&self) -> anyhow::Result<Facts> {
        let Watches { claims, pods, .. } = &*self.watches;
        tokio::try_join!(async { claims.refresh().await.map_err(|trouble| claims.error(&trouble)) }, async {
            pods.refresh().await.map_err(|trouble| pods.error(&trouble))
        },)?;
        // An agent that is gone shows by its session.
        self.node_agents.look().await.map_err(|trouble| self.node_agents.error(&trouble))?;
        Ok(self.facts())
    }

    /// The claims and pods, as they are known now.
    fn facts(&self) -> Facts {
        let Watches { claims, pods, .. } = &*self.watches;
        let (claims, pods) = (claims.table().facts(), pods.table().facts());
        let node_agents = self.node_agents.table().facts();
        let node_agents = by_node(node_agents.values());
        Facts { claims: (*claims).clone(), pods: (*pods).clone(), node_agents, ..Facts::default() }
    }

    /// The pods that mount what a run is about, at least as new as this call.
    ///
    /// # Errors
    /// As those of [`Self::fresh`].
    pub async fn fresh_pods(&self, interest: &Interest) -> anyhow::Result<BTreeMap<String, PodFacts>> {
        let pods = &self.watches.pods;
        pods.refresh().await.map_err(|trouble| pods.error(&trouble))?;
        let pods = pods.table().facts();
        let of_interest = pods.iter().filter(|(_, pod)| interest.claims.values().any(|name| pod.claims.contains(name)));
        Ok(of_interest.map(|(uid, pod)| (uid.clone(), pod.clone())).collect())
    }

    /// Makes sure that replicas are seen: that they have been listed, and that nothing is known to be wrong with their watches. A
    /// resource that is not there is no trouble.
    ///
    /// # Errors
    /// As those of [`Self::fresh`].
    pub async fn see_replicas(&self) -> anyhow::Result<()> {
        for (_, watched) in &self.replicas {
            match watched.look().await {
                Ok(()) | Err(Trouble::Absent) => {}
                Err(trouble) => return Err(watched.error(&trouble)),
            }
        }
        Ok(())
    }

    /// Makes what is known of replicas at least as new as this call; a resource that is not there has none.
    ///
    /// # Errors
    /// As those of [`Self::fresh`].
    pub async fn refresh_replicas(&self) -> anyhow::Result<()> {
        for (_, watched) in &self.replicas {
            match watched.refresh().await {
                Ok(()) | Err(Trouble::Absent) => {}
                Err(trouble) => return Err(watched.error(&trouble)),
            }
        }
        Ok(())
    }

    /// Hears from now on of what concerns a run. Call [`Self::fresh`] first, so that there is something to begin with; what the
    /// follower tells first replaces what the facts said, because it may be newer.
    pub fn follow(&self, replication_uid: &str, interest: &Interest) -> Follower {
        Follower::new(&self.watches, &self.replicas, replication_uid, interest)
    }
}

/// The agent of each node. While one takes the place of another, the new one.
fn by_node<'a>(agents: impl Iterator<Item = &'a NodeAgent>) -> BTreeMap<String, PodRef> {
    let mut agents: Vec<&NodeAgent> = agents.collect();
    agents.sort_by_key(|agent| !agent.deleting);
    agents.into_iter().map(|agent| (agent.node.clone(), agent.pod.clone())).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
