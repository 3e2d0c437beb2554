//! The requests of a run, each with its limit of time, and their answers as a driver hears them.

use std::collections::BTreeMap;

use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use stillpoint_api::{ConsistencyGroupReplication, labels};
use stillpoint_core::limits::API_TIMEOUT;
use stillpoint_core::replica::ask::Ask;
use stillpoint_core::run::effect::{Input, Refused};

use crate::controller::api::{sentence, within};

/// The object of a run as the API server has it, and how it is written.
#[derive(Clone)]
pub struct Stored {
    api: Api<ConsistencyGroupReplication>,
    name: String,
}

impl Stored {
    /// The object of this name.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned() }
    }

    /// Reads it.
    pub async fn get(self) -> Input {
        let read = asked(self.api.get_opt(&self.name)).await;
        Input::Object(read.map(|object| object.map(Box::new)))
    }

    /// Replaces its status.
    pub async fn put_status(self, object: Box<ConsistencyGroupReplication>) -> Input {
        let params = PostParams::default();
        let stored = asked(self.api.replace_subresource("status", &self.name, &params, &*object)).await;
        Input::Stored(stored.map(Box::new))
    }

    /// Replaces its list of finalizers, and its pin if it has one.
    pub async fn set_marks(self, object: Box<ConsistencyGroupReplication>) -> Input {
        let pin: BTreeMap<_, _> = object.annotations().iter().filter(|(key, _)| *key == labels::RUN_UID).collect();
        // The resource version makes this a change of the list that was read, not of another one.
        let patch = json!({"metadata": {
            "finalizers": object.finalizers(),
            "annotations": pin,
            "resourceVersion": object.resource_version(),
        }});
        let patched = asked(self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch))).await;
        Input::Patched(patched.map(Box::new))
    }
}

/// Asks for a replica, in a namespace.
pub async fn ask(client: Client, namespace: String, ask: Ask) -> Input {
    let name = ask.name();
    let Ask::Create { resource, object } = ask;
    let api: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &resource);
    // An object that is there already is refused too: it may be from before the hold, and then it shows another moment.
    let created = within(API_TIMEOUT, api.create(&PostParams::default(), &object)).await;
    Input::Asked { name, result: created.map(Box::new).map_err(|error| format!("{error:#}")) }
}

/// Opens so many connections: the client speaks HTTP/1.1, in which each request that is under way has one of its own, and a
/// handshake of TCP and TLS within a hold would lengthen it. What is asked for does not matter; everybody may ask for it.
pub fn warm(client: &Client, connections: usize) {
    for _ in 0..connections {
        let client = client.clone();
        tokio::spawn(async move { within(API_TIMEOUT, client.apiserver_version()).await.is_ok() });
    }
}

/// A request as a driver hears of it.
async fn asked<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Refused> {
    match tokio::time::timeout(API_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Err(Refused::NotFound),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Err(Refused::Conflict),
        Ok(Err(error)) => Err(Refused::Trouble(sentence(&error))),
        Err(_) => Err(Refused::Trouble(format!("the API server did not answer within {API_TIMEOUT:?}"))),
    }
}
