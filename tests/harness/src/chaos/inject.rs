//! Breaking things, one at a time.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};

use super::guard::{Undo, run};
use super::kind::{Kind, Link, Owner, Victim};
use super::limits::RECOVERY;
use crate::cluster::{checkout, client_program};
use crate::group::{Group, Member, is_ready};
use crate::installed::{DRIVER_NAMESPACE, LEASE, SYSTEM};
use crate::manifests::STORE_CONTAINER;
use crate::processes::{Process, container_id};
use crate::waiting::until;
use stillpoint_api::labels::AGENT_CONTAINER;

const CONTROL_PLANE: &str = "control-plane";
const CONTROLLER: &str = "app.kubernetes.io/component=controller";
const GUARDIAN: &str = "app.kubernetes.io/component=guardian";
const DRIVER_PODS: &str = "app=loop-csi";
const SESSIONS_PORT: &str = "8443";
const API_SERVICE_PORT: &str = "443";
const API_PORT: &str = "6443";

/// A fault whose victim is known, so that it takes no time to make it.
pub struct Fault {
    deed: Deed,
    undo: Option<Undo>,
    killed: Option<Container>,
}

/// A container that is killed. For a moment its pod still looks ready.
pub struct Container {
    pods: Api<Pod>,
    pod: String,
    name: &'static str,
    id: String,
}

impl Container {
    fn of(pods: Api<Pod>, pod: &Pod, name: &'static str) -> Result<Self> {
        Ok(Self { pods, pod: pod.name_any(), name, id: container_id(pod, name)? })
    }

    /// Waits until another one has taken its place.
    ///
    /// # Errors
    /// None does.
    pub async fn is_replaced(&self) -> Result<()> {
        let what = format!("container {} of pod {} to be started again", self.name, self.pod);
        until(&self.pods, &self.pod, &what, RECOVERY, |pod| {
            let id = pod.and_then(|pod| container_id(pod, self.name).ok());
            Ok(id.is_none_or(|id| id != self.id).then_some(()))
        })
        .await
    }
}

enum Deed {
    Kill(Process),
    KillChild(Process),
    Stop(Process),
    StopChild(Process),
    /// By its name, among these.
    Delete(Box<Api<Pod>>, String),
    Run(Vec<Vec<String>>),
}

impl Fault {
    /// Finds the victim of a kind of fault, for one member of the group.
    ///
    /// # Errors
    /// It is not there.
    pub async fn aim(kind: Kind, group: &Group, member: &Member) -> Result<Self> {
        match kind {
            Kind::Kill(Victim::Freezer) => Ok(Self::alone(Deed::KillChild(agent(group, member).await?))),
            Kind::Kill(victim) => match component(victim) {
                Some(component) => {
                    let deed = Deed::Kill(of_component(component).await?);
                    Ok(Self { deed, undo: Some(restart(component)), killed: None })
                }
                None => {
                    let (pods, pod, name) = container(victim, group, member).await?;
                    let deed = Deed::Kill(Process::of_container(&pod, name)?);
                    Ok(Self { deed, undo: None, killed: Some(Container::of(pods, &pod, name)?) })
                }
            },
            Kind::Stop(Victim::Freezer) => Ok(Self::alone(Deed::StopChild(agent(group, member).await?))),
            Kind::Stop(victim) => Ok(Self::alone(Deed::Stop(process(victim, group, member).await?))),
            Kind::Depose => Ok(Self::alone(Deed::Stop(process(Victim::Leader, group, member).await?))),
            Kind::Delete(owner) => {
                let (api, name) = pod_of(owner, group, member).await?;
                Ok(Self::alone(Deed::Delete(Box::new(api), name)))
            }
            Kind::Cut(link) => {
                let (add, remove) = rules(link, group, member).await?;
                Ok(Self { deed: Deed::Run(add), undo: Some(Undo::Run(remove)), killed: None })
            }
        }
    }

    fn alone(deed: Deed) -> Self {
        Self { deed, undo: None, killed: None }
    }

    /// The last look before the fault is made: a freezer is there only during a run. Says what will undo the fault.
    ///
    /// # Errors
    /// There is nothing to break.
    pub fn ready(mut self) -> Result<Self> {
        let deed = match self.deed {
            Deed::KillChild(parent) => Deed::Kill(parent.child()?),
            Deed::StopChild(parent) => Deed::Stop(parent.child()?),
            other => other,
        };
        let undo = match &deed {
            Deed::Stop(process) => Some(Undo::Resume(process.clone())),
            _ => self.undo.take(),
        };
        Ok(Self { deed, undo, ..self })
    }

    /// What undoes it, if anything has to be done.
    pub fn undo(&self) -> Option<&Undo> {
        self.undo.as_ref()
    }

    /// Makes the fault. Says which container has to be started again.
    ///
    /// # Errors
    /// Its victim is gone.
    pub async fn make(self) -> Result<Option<Container>> {
        match self.deed {
            Deed::Kill(process) => process.kill()?,
            Deed::Stop(process) => process.stop()?,
            Deed::KillChild(_) | Deed::StopChild(_) => bail!("the fault was not made ready"),
            Deed::Delete(pods, name) => {
                let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::background() };
                pods.delete(&name, &now).await.with_context(|| format!("cannot delete pod {name}"))?;
            }
            Deed::Run(programs) => programs.iter().try_for_each(|words| run(words))?,
        }
        Ok(self.killed)
    }
}

async fn process(victim: Victim, group: &Group, member: &Member) -> Result<Process> {
    match component(victim) {
        Some(component) => of_component(component).await,
        None => {
            let (_, pod, name) = container(victim, group, member).await?;
            Process::of_container(&pod, name)
        }
    }
}

/// The pod of a victim, where such pods are, and its container there.
async fn container(victim: Victim, group: &Group, member: &Member) -> Result<(Api<Pod>, Pod, &'static str)> {
    let all = |namespace| Api::namespaced(group.place.client(), namespace);
    Ok(match victim {
        Victim::Leader => (all(SYSTEM), leader(group).await?, "controller"),
        Victim::Standby => (all(SYSTEM), standby(group).await?, "controller"),
        Victim::Guardian => (all(SYSTEM), on_node(group, SYSTEM, GUARDIAN, &member.node).await?, "guardian"),
        Victim::Agent => (group.place.api(), storage(group, member).await?, AGENT_CONTAINER),
        Victim::Store => (group.place.api(), storage(group, member).await?, STORE_CONTAINER),
        Victim::Snapshotter => {
            let pod = on_node(group, DRIVER_NAMESPACE, DRIVER_PODS, &member.node).await?;
            (all(DRIVER_NAMESPACE), pod, "csi-snapshotter")
        }
        Victim::Freezer | Victim::ApiServer | Victim::Etcd => {
            bail!("{victim:?} is not the first process of a container")
        }
    })
}

/// A component of the control plane that nobody but the cluster's tool brings back.
fn component(victim: Victim) -> Option<&'static str> {
    match victim {
        Victim::ApiServer => Some("kube-apiserver"),
        Victim::Etcd => Some("etcd"),
        _ => None,
    }
}

fn restart(component: &str) -> Undo {
    Undo::Run(vec![words(&[&cluster_tool(), "restart-component", component])])
}

fn cluster_tool() -> String {
    checkout().join("tests/cluster/cluster").display().to_string()
}

async fn pid(machine: &str, component: &str) -> Result<i32> {
    let said = client_program(&cluster_tool(), &["pid", machine, component]).await?;
    said.parse().with_context(|| format!("the id of {component} on {machine}"))
}

async fn of_component(component: &str) -> Result<Process> {
    Process::of_pid(pid(CONTROL_PLANE, component).await?)
}

async fn agent(group: &Group, member: &Member) -> Result<Process> {
    Process::of_container(&storage(group, member).await?, AGENT_CONTAINER)
}

async fn storage(group: &Group, member: &Member) -> Result<Pod> {
    Ok(group.place.api::<Pod>().get(&member.pod()).await?)
}

/// How many controllers there are.
///
/// # Errors
/// The API server's refusal.
pub async fn controllers(group: &Group) -> Result<usize> {
    Ok(controller_pods(group).await?.len())
}

async fn controller_pods(group: &Group) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(group.place.client(), SYSTEM);
    Ok(pods.list(&ListParams::default().labels(CONTROLLER)).await?.items)
}

async fn leader(group: &Group) -> Result<Pod> {
    let name = leader_name(group).await?;
    let pods: Api<Pod> = Api::namespaced(group.place.client(), SYSTEM);
    pods.get(&name).await.with_context(|| format!("the Lease names {name} as the leader, and there is no such pod"))
}

async fn leader_name(group: &Group) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(group.place.client(), SYSTEM);
    let lease = leases.get(LEASE).await.context("there is no Lease of the controller")?;
    lease.spec.and_then(|spec| spec.holder_identity).context("no controller holds the Lease")
}

async fn standby(group: &Group) -> Result<Pod> {
    let leader = leader_name(group).await?;
    let mut others = controller_pods(group).await?.into_iter().filter(|pod| pod.name_any() != leader);
    others.next().context("there is no controller but the leader")
}

async fn on_node(group: &Group, namespace: &str, selector: &str, node: &str) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(group.place.client(), namespace);
    let here = ListParams::default().labels(selector).fields(&format!("spec.nodeName={node}"));
    let mut found = pods.list(&here).await?.into_iter().filter(is_ready);
    found.next().with_context(|| format!("no pod {selector} is ready on {node}"))
}

async fn pod_of(owner: Owner, group: &Group, member: &Member) -> Result<(Api<Pod>, String)> {
    let system = Api::namespaced(group.place.client(), SYSTEM);
    Ok(match owner {
        Owner::Storage => (group.place.api(), member.pod()),
        Owner::Guardian => (system, on_node(group, SYSTEM, GUARDIAN, &member.node).await?.name_any()),
        Owner::Leader => (system, leader_name(group).await?),
    })
}

/// Rules that drop packets inside one node's own network, before any address is translated, and what takes them away.
async fn rules(link: Link, group: &Group, member: &Member) -> Result<(Vec<Vec<String>>, Vec<Vec<String>>)> {
    let (node, rules) = match link {
        Link::AgentsToController => {
            let both = ["--dport", "--sport"].map(|end| format!("PREROUTING -p tcp {end} {SESSIONS_PORT}"));
            (member.node.clone(), both.to_vec())
        }
        Link::LeaderToApi => {
            let pod = leader(group).await?;
            let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("no address")?;
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("the leader has no node")?;
            let to = format!("PREROUTING -s {address} -p tcp --dport {API_SERVICE_PORT}");
            let from = format!("PREROUTING -d {address} -p tcp --sport {API_PORT}");
            (node, vec![to, from])
        }
        Link::NodeToApi => {
            let url = kube::Config::infer().await.context("KUBECONFIG names no cluster")?.cluster_url;
            let api = url.host().context("the API server has no address")?;
            let pods = format!("PREROUTING -p tcp --dport {API_SERVICE_PORT}");
            (member.node.clone(), vec![format!("PREROUTING -s {api}"), format!("OUTPUT -d {api}"), pods])
        }
    };
    let init = pid(&node, "init").await?.to_string();
    let command = |action: &str, rule: &str| {
        let mut all = words(&["nsenter", "-t", &init, "-n", "iptables", "-w", "5", "-t", "raw", action]);
        all.extend(rule.split(' ').map(str::to_owned));
        all.extend(words(&["-j", "DROP"]));
        all
    };
    let add = rules.iter().map(|rule| command("-I", rule)).collect();
    let remove = rules.iter().map(|rule| command("-D", rule)).collect();
    Ok((add, remove))
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|word| (*word).to_owned()).collect()
}
