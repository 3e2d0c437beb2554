//! A running consistency group: storage pods, each with a volume, and the ordered writer over them.

use anyhow::{Context, Result, bail, ensure};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use tokio::time::timeout;
use workload::stats::Report;

use crate::limits::{DELETION, POD, WRITING};
use crate::manifests::{self, WRITER_PORT, lock_port};
use crate::namespace::Place;
use crate::waiting::{until, until_gone};

/// Name of the pod of the ordered writer.
pub const WRITER: &str = "writer";

/// One member to be: a claim and its storage pod.
#[derive(Clone, Debug)]
pub struct Member {
    /// Name of the claim.
    pub name: String,
    /// The node of the pod, and so of the volume.
    pub node: String,
    /// The class of the claim, which says which filesystem.
    pub storage_class: String,
    /// Whether the pod has an agent.
    pub agent: bool,
    /// Whether its agent finds the guardian of the node.
    pub guardian: bool,
    /// The directory of the volume that the pod mounts; empty: all of it.
    pub sub_path: &'static str,
    /// Further containers of the pod that can hold a lock on the volume.
    pub lock_holders: Vec<LockHolder>,
}

impl Member {
    /// A member whose pod has an agent.
    pub fn new(name: &str, node: &str, storage_class: &str) -> Self {
        let (name, node, storage_class) = (name.into(), node.into(), storage_class.into());
        Self { name, node, storage_class, agent: true, guardian: true, sub_path: "", lock_holders: Vec::new() }
    }

    /// The same without an agent.
    pub fn without_agent(self) -> Self {
        Self { agent: false, ..self }
    }

    /// The same with a pod that mounts only a directory of the volume.
    pub fn in_directory(self, sub_path: &'static str) -> Self {
        Self { sub_path, ..self }
    }

    /// The same with an agent that finds no guardian, as on a node where none runs.
    pub fn without_guardian(self) -> Self {
        Self { guardian: false, ..self }
    }

    /// The same with containers that can hold a lock.
    pub fn with_lock_holders(self, lock_holders: &[LockHolder]) -> Self {
        Self { lock_holders: lock_holders.to_vec(), ..self }
    }

    /// Name of the storage pod and of its Service.
    pub fn pod(&self) -> String {
        format!("store-{}", self.name)
    }
}

/// A container that locks a file of the volume when it is told to.
#[derive(Clone, Debug)]
pub struct LockHolder {
    /// Name of the container.
    pub container: &'static str,
    /// Which lock: the arguments of the workload's `lock`.
    pub arguments: &'static [&'static str],
}

/// Three members on two nodes, each on another filesystem, written in the order a, b, c.
pub fn three_filesystems(nodes: [&str; 2]) -> Vec<Member> {
    vec![
        Member::new("a", nodes[0], "loop-ext4"),
        Member::new("b", nodes[1], "loop-xfs"),
        Member::new("c", nodes[0], "loop-btrfs"),
    ]
}

/// A group that runs.
pub struct Group {
    /// Where it runs.
    pub place: Place,
    /// Its members, in the order of writing.
    pub members: Vec<Member>,
}

impl Group {
    /// Starts the storage pods and the writer and waits until records are written. `ready` hears of every pod that is ready.
    ///
    /// # Errors
    /// A pod does not become ready, or nothing is written.
    pub async fn start(place: &Place, members: Vec<Member>, mut ready: impl FnMut(&str)) -> Result<Self> {
        for member in &members {
            place.create(&manifests::claim(member)?).await?;
            place.create(&manifests::service(member)?).await?;
            place.create(&manifests::storage_pod(member)?).await?;
        }
        place.create(&manifests::writer_pod(WRITER, &members)?).await?;
        let group = Self { place: place.clone(), members };
        for pod in group.members.iter().map(Member::pod).chain([WRITER.into()]) {
            group.pod_ready(&pod).await?;
            ready(&pod);
        }
        group.written(10).await?;
        Ok(group)
    }

    /// Waits until the writer runs and records are written.
    ///
    /// # Errors
    /// The writer does not become ready, or writes nothing.
    pub async fn is_written(&self) -> Result<()> {
        self.pod_ready(WRITER).await?;
        self.written(10).await.map(drop)
    }

    /// Names of the claims, in the order of writing.
    pub fn claims(&self) -> Vec<&str> {
        self.members.iter().map(|member| member.name.as_str()).collect()
    }

    /// Waits until a pod is ready.
    ///
    /// # Errors
    /// It is not in time.
    pub async fn pod_ready(&self, pod: &str) -> Result<()> {
        until(&self.place.api::<Pod>(), pod, &format!("pod {pod} to be ready"), POD, |found| {
            Ok(found.is_some_and(is_ready).then_some(()))
        })
        .await
    }

    /// The writer's counts since the last reset.
    ///
    /// # Errors
    /// The writer cannot be asked.
    pub async fn stats(&self) -> Result<Report> {
        self.ask(WRITER, WRITER_PORT, "GET", "stats").await
    }

    /// The same, and the writer begins to count anew.
    ///
    /// # Errors
    /// The writer cannot be asked.
    pub async fn reset_stats(&self) -> Result<Report> {
        self.ask(WRITER, WRITER_PORT, "POST", "stats/reset").await
    }

    /// Waits until `more` further records are on every store, and returns the counts.
    ///
    /// # Errors
    /// Nothing is written in time.
    pub async fn written(&self, more: u64) -> Result<Report> {
        let wait = async {
            let begin = self.stats().await?.last_record;
            loop {
                let now = self.stats().await?;
                if now.last_record >= begin + more {
                    return Ok(now);
                }
            }
        };
        match timeout(WRITING, wait).await {
            Ok(report) => report,
            Err(_) => bail!("the writer has not written {more} records: {:?}", self.stats().await?),
        }
    }

    /// Lets a lock holder take its lock.
    ///
    /// # Errors
    /// There is no such container, or it cannot take the lock.
    pub async fn lock(&self, member: &str, container: &str) -> Result<()> {
        self.lock_request(member, container, "lock").await
    }

    /// Lets a lock holder drop its lock.
    ///
    /// # Errors
    /// There is no such container.
    pub async fn unlock(&self, member: &str, container: &str) -> Result<()> {
        self.lock_request(member, container, "unlock").await
    }

    async fn lock_request(&self, member: &str, container: &str, request: &str) -> Result<()> {
        let member = self.members.iter().find(|each| each.name == member).context("no such member")?;
        let position = member.lock_holders.iter().position(|holder| holder.container == container);
        let position = position.with_context(|| format!("pod {} has no lock holder {container}", member.pod()))?;
        self.ask_lock_holder(&member.pod(), position, container, request).await
    }

    /// Lets the first lock holder of any pod take its lock.
    ///
    /// # Errors
    /// It cannot be asked, or cannot take the lock.
    pub async fn lock_in_pod(&self, pod: &str) -> Result<()> {
        self.ask_lock_holder(pod, 0, "the lock holder", "lock").await
    }

    async fn ask_lock_holder(&self, pod: &str, position: usize, container: &str, request: &str) -> Result<()> {
        let answer: serde_json::Value = self.ask(pod, lock_port(position), "POST", request).await?;
        ensure!(answer["locked"] == (request == "lock"), "{container} answered {answer}");
        Ok(())
    }

    /// Asks a pod over HTTP, through the API server's proxy, so that no route to the pods is needed.
    async fn ask<T: serde::de::DeserializeOwned>(&self, pod: &str, port: u16, method: &str, path: &str) -> Result<T> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy/{path}", self.place.name);
        let request = Request::builder().method(method).uri(path).body(Vec::new())?;
        let answer = self.place.client().request::<T>(request).await;
        answer.with_context(|| format!("cannot ask pod {pod} on port {port}"))
    }

    /// Ends the writer, so that what is on the volumes stays as it is.
    ///
    /// # Errors
    /// The pod does not go.
    pub async fn stop_writer(&self) -> Result<()> {
        self.end_pod(WRITER).await
    }

    /// Ends a pod.
    ///
    /// # Errors
    /// It does not go.
    pub async fn end_pod(&self, pod: &str) -> Result<()> {
        let pods = self.place.api::<Pod>();
        pods.delete(pod, &DeleteParams::default()).await?;
        until_gone(&pods, pod, &format!("the end of pod {pod}"), DELETION).await
    }
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| all.iter().any(|each| each.type_ == "Ready" && each.status == "True"));
    ready && pod.metadata.deletion_timestamp.is_none()
}
