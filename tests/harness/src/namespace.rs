//! One test's own namespace, opted in to agents.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use stillpoint_api::labels;

use crate::cluster::{Cluster, client_program};
use crate::limits::{CA, DELETION};
use crate::waiting::{until, until_gone};

/// A namespace that exists for one test or demonstration.
#[derive(Clone)]
pub struct Place {
    /// The cluster.
    pub cluster: Cluster,
    /// The namespace.
    pub name: String,
}

impl Place {
    /// Makes a namespace with a name of its own and waits until agents can live there.
    ///
    /// # Errors
    /// The API server refuses, or the controller does not publish its CA.
    pub async fn new(cluster: &Cluster, purpose: &str) -> Result<Self> {
        let mut wanted = Namespace::default();
        wanted.metadata.generate_name = Some(format!("stillpoint-{purpose}-"));
        wanted.metadata.labels = Some(BTreeMap::from([
            (labels::OPT_IN.into(), labels::OPT_IN_VALUE.into()),
            ("pod-security.kubernetes.io/enforce".into(), "privileged".into()),
        ]));
        let made = Api::all(cluster.client.clone()).create(&PostParams::default(), &wanted).await?;
        let place = Self { cluster: cluster.clone(), name: made.name_any() };
        let api = place.api::<ConfigMap>();
        let what = format!("ConfigMap {} in namespace {}", labels::CA_CONFIG_MAP, place.name);
        until(&api, labels::CA_CONFIG_MAP, &what, CA, |found| Ok(found.map(|_| ()))).await?;
        Ok(place)
    }

    /// Runs `work` in a namespace of its own. Afterwards the namespace is removed and it is seen that it goes, with
    /// everything in it. After a failure what happened in it is printed first.
    ///
    /// # Errors
    /// Those of `work`, or the namespace does not go.
    pub async fn with(cluster: &Cluster, purpose: &str, work: impl AsyncFnOnce(&Place) -> Result<()>) -> Result<()> {
        let place = Self::new(cluster, purpose).await?;
        let worked = work(&place).await;
        if let Err(error) = &worked {
            eprintln!("{purpose}, in namespace {}: {error:#}\n{}", place.name, place.story().await);
        }
        let removed = place.remove().await;
        worked.and(removed)
    }

    /// Objects of this namespace.
    pub fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client(), &self.name)
    }

    /// The connection.
    pub fn client(&self) -> Client {
        self.cluster.client.clone()
    }

    /// Makes an object.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn create<K>(&self, object: &K) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let made = self.api::<K>().create(&PostParams::default(), object).await;
        made.with_context(|| format!("cannot create {} {}", K::kind(&()), object.name_any()))
    }

    /// Removes the namespace and waits until it is gone.
    ///
    /// # Errors
    /// Something in it does not go away.
    pub async fn remove(&self) -> Result<()> {
        self.begin_removal().await?;
        let api = Api::<Namespace>::all(self.client());
        until_gone(&api, &self.name, &format!("removal of namespace {}", self.name), DELETION).await
    }

    /// Removes the namespace without waiting.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn begin_removal(&self) -> Result<()> {
        let now = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
        self.api::<Pod>().delete_collection(&now, &ListParams::default()).await?;
        Api::<Namespace>::all(self.client()).delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// What happened here, for a person who looks for the cause of a failure: replications, pods, events.
    async fn story(&self) -> String {
        let replications = client_program("kubectl", &["get", "cgr", "-o", "yaml", "-n", &self.name]).await;
        let pods =
            client_program("kubectl", &["get", "pods,pvc,volumesnapshots", "-o", "wide", "-n", &self.name]).await;
        let mut story = vec![replications.unwrap_or_else(|e| e.to_string()), pods.unwrap_or_else(|e| e.to_string())];
        match self.api::<Event>().list(&ListParams::default()).await {
            Ok(events) => {
                story.extend(events.iter().filter(|event| event.type_.as_deref() != Some("Normal")).map(line))
            }
            Err(error) => story.push(error.to_string()),
        }
        story.join("\n")
    }
}

fn line(event: &Event) -> String {
    let about = event.involved_object.name.as_deref().unwrap_or_default();
    let reason = event.reason.as_deref().unwrap_or_default();
    format!("{about}: {reason}: {}", event.message.as_deref().unwrap_or_default())
}
