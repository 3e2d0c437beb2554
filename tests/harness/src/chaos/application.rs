//! The application that lives through all faults: a group of three members on two nodes, and where its pods are.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use tokio::time::sleep;
use workload::stats::Report;

use super::direct::{http, longest_append};
use super::limits::{FRESH_RECORDS, PAUSE, RECOVERY};
use crate::group::{Group, LockHolder, WRITER, is_ready, three_filesystems};
use crate::installed::{DRIVER_NAMESPACE, SYSTEM};
use crate::manifests::{WRITER_PORT, lock_port};
use crate::namespace::Place;
use crate::waiting::until;

/// The container that keeps the first member from being ready.
const LOCKER: LockHolder = LockHolder { container: "locker", arguments: &["--type", "posix"] };

/// The group, and the addresses of its pods.
pub struct Application {
    /// The group.
    pub group: Group,
    stores: Vec<IpAddr>,
    writer: IpAddr,
    /// How many pods there are of Stillpoint and of the test driver.
    around: Vec<(&'static str, usize)>,
}

impl Application {
    /// Starts it. Its first member has a container that can hold a lock.
    ///
    /// # Errors
    /// A pod does not become ready, or nothing is written.
    pub async fn start(place: &Place, progress: impl FnMut(&str)) -> Result<Self> {
        let mut members = three_filesystems(place.cluster.two_nodes()?);
        if let Some(first) = members.first_mut() {
            first.lock_holders = vec![LOCKER];
        }
        let group = Group::start(place, members, progress).await?;
        let mut around = Vec::new();
        for namespace in [SYSTEM, DRIVER_NAMESPACE] {
            let pods: Api<Pod> = Api::namespaced(place.client(), namespace);
            around.push((namespace, pods.list(&ListParams::default()).await?.items.len()));
        }
        let mut application = Self { group, stores: Vec::new(), writer: IpAddr::from([0, 0, 0, 0]), around };
        application.recovered().await?;
        Ok(application)
    }

    /// Waits until every pod of the application, of Stillpoint and of the test driver is ready, and notes where they are.
    ///
    /// # Errors
    /// One does not come back.
    pub async fn recovered(&mut self) -> Result<()> {
        let place = &self.group.place;
        for (namespace, count) in &self.around {
            all_ready(&Api::namespaced(place.client(), namespace), *count).await?;
        }
        let mut stores = Vec::new();
        for member in &self.group.members {
            stores.push(ready(&place.api(), &member.pod()).await?);
        }
        self.writer = ready(&place.api(), WRITER).await?;
        self.stores = stores;
        Ok(())
    }

    /// Takes the lock that keeps the first member from being ready.
    ///
    /// # Errors
    /// Its container does not answer.
    pub async fn lock(&self) -> Result<()> {
        self.locker("/lock").await
    }

    /// Drops it.
    ///
    /// # Errors
    /// Its container does not answer. It may be gone with its pod, and then the lock is too.
    pub async fn unlock(&self) -> Result<()> {
        self.locker("/unlock").await
    }

    async fn locker(&self, path: &str) -> Result<()> {
        let first = self.stores.first().context("the group has no member")?;
        http::<serde_json::Value>(SocketAddr::from((*first, lock_port(0))), "POST", path).await.map(drop)
    }

    /// The longest that an append took on a member's disk since this was last asked.
    ///
    /// # Errors
    /// Its store does not answer.
    pub async fn longest_append(&self, member: usize) -> Result<Duration> {
        longest_append(*self.stores.get(member).context("no such member")?).await
    }

    /// Waits until every dataset has taken new writes, and says how long that took.
    ///
    /// # Errors
    /// It takes longer than `limit`.
    pub async fn writes(&self, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        let (mut first, mut last_error) = (None, None);
        while began.elapsed() < limit {
            match self.stats().await {
                Ok(stats) => {
                    if stats.last_record >= *first.get_or_insert(stats.last_record) + FRESH_RECORDS {
                        return Ok(began.elapsed());
                    }
                    last_error = stats.last_error;
                }
                Err(error) => last_error = Some(format!("{error:#}")),
            }
            sleep(PAUSE).await;
        }
        bail!("not every dataset takes writes, {limit:?} later; the writer's last trouble: {last_error:?}")
    }

    async fn stats(&self) -> Result<Report> {
        http(SocketAddr::from((self.writer, WRITER_PORT)), "GET", "/stats").await
    }
}

/// Waits until this many pods of a namespace are there, and every one is ready.
async fn all_ready(pods: &Api<Pod>, count: usize) -> Result<()> {
    let began = Instant::now();
    loop {
        let waiting = match pods.list(&ListParams::default()).await {
            Ok(all) => match all.iter().find(|pod| !is_ready(pod)) {
                Some(pod) => format!("pod {:?} is not ready", pod.metadata.name),
                None if all.items.len() < count => format!("{} of {count} pods are there", all.items.len()),
                None => return Ok(()),
            },
            Err(error) => error.to_string(),
        };
        if began.elapsed() > RECOVERY {
            bail!("not recovered within {RECOVERY:?}: {waiting}");
        }
        sleep(PAUSE).await;
    }
}

/// Waits until a pod is ready, and says where it is.
async fn ready(pods: &Api<Pod>, name: &str) -> Result<IpAddr> {
    let what = format!("pod {name} to be ready again");
    let address = until(pods, name, &what, RECOVERY, |pod| {
        Ok(pod.filter(|pod| is_ready(pod)).and_then(|pod| pod.status.as_ref()?.pod_ip.clone()))
    });
    address.await?.parse().with_context(|| format!("the address of pod {name}"))
}
