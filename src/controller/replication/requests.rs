//! The requests of a run, each with its limit of time, and their answers as a driver hears them.

use std::collections::BTreeMap;

use futures::StreamExt;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{DynamicObject, Status};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use stillpoint_api::{ConsistencyGroupReplication, labels};
use stillpoint_core::limits::{API_TIMEOUT, ASK_TIMEOUT, MAX_MARK_TRIES, RESOLVE_CONCURRENCY};
use stillpoint_core::pauses::Pauses;
use stillpoint_core::replica::ask::{Ask, Mark, NotMade};
use stillpoint_core::run::effect::{Input, Refused};
use stillpoint_core::run::rehearsal::Rehearsed;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

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
    let result = create(&api, &name.name, &object).await.map(Box::new);
    Input::Asked { name, result }
}

async fn create(api: &Api<DynamicObject>, name: &str, object: &DynamicObject) -> Result<DynamicObject, NotMade> {
    match timeout(ASK_TIMEOUT, api.create(&PostParams::default(), object)).await {
        // An earlier try whose answer was lost has made it, or somebody else has, perhaps before the hold: the object says.
        Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => {
            let found = made(timeout(ASK_TIMEOUT, api.get_opt(name)).await)?;
            found.ok_or_else(|| NotMade::Unknown(format!("{}, and is gone again", status.message)))
        }
        answer => made(answer),
    }
}

fn made<T>(answer: Result<kube::Result<T>, Elapsed>) -> Result<T, NotMade> {
    match answer {
        Ok(Ok(object)) => Ok(object),
        Ok(Err(kube::Error::Api(status))) => Err(NotMade::answered(status.code, status.message)),
        Ok(Err(error)) => Err(NotMade::Unknown(sentence(&error))),
        Err(_) => Err(NotMade::Unknown(format!("the API server did not answer within {ASK_TIMEOUT:?}"))),
    }
}

/// Writes onto replicas, in a namespace, each until it is done or the API server will not have it.
pub async fn mark(client: Client, namespace: String, marks: Vec<Mark>) -> Input {
    let marked = futures::stream::iter(marks).map(|one| mark_one(&client, &namespace, one));
    let refused: Vec<_> =
        marked.buffer_unordered(RESOLVE_CONCURRENCY).filter_map(async |one| one.err()).collect().await;
    Input::Marked(refused.into_iter().next().map_or(Ok(()), Err))
}

async fn mark_one(client: &Client, namespace: &str, mark: Mark) -> Result<(), String> {
    let Mark { resource, name, uid, annotations } = mark;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let annotations: BTreeMap<_, _> = annotations.into_iter().collect();
    // With its UID the patch is refused by whatever has taken the place of this one.
    let mut metadata = json!({"annotations": annotations});
    if let Some(uid) = uid {
        metadata["uid"] = uid.into();
    }
    let patch = Patch::Merge(json!({"metadata": metadata}));
    let mut pauses = Pauses::default();
    for _ in 0..MAX_MARK_TRIES {
        match made(timeout(ASK_TIMEOUT, api.patch_metadata(&name, &PatchParams::default(), &patch)).await) {
            Ok(_) => return Ok(()),
            Err(NotMade::Refused(why)) => return Err(why),
            Err(NotMade::Unknown(why)) => {
                tracing::warn!(namespace, name, "the proof could not be written, and it is tried again: {why}");
            }
        }
        tokio::time::sleep(pauses.take()).await;
    }
    Err(format!("the API server did not take it in {MAX_MARK_TRIES} tries"))
}

/// Tries whether these would be accepted, without storing anything.
pub async fn rehearse(client: Client, namespace: String, asks: Vec<Ask>) -> Input {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    for Ask::Create { resource, object } in asks {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
        let how = match timeout(API_TIMEOUT, api.create(&params, &object)).await {
            Ok(Ok(_)) => Rehearsed::Accepted,
            Ok(Err(kube::Error::Api(status))) => judge(&status),
            Ok(Err(error)) => Rehearsed::Unknown(untried(&sentence(&error))),
            Err(_) => Rehearsed::Unknown(untried("the API server did not answer in time")),
        };
        if how != Rehearsed::Accepted {
            return Input::Rehearsed(how);
        }
    }
    Input::Rehearsed(Rehearsed::Accepted)
}

/// What a refusal of a creation that was only tried means for one that is not.
fn judge(status: &Status) -> Rehearsed {
    match status.code {
        // It is there: that is not for now. A webhook may be unable to try anything, and says nothing of what is not only tried.
        409 => Rehearsed::Accepted,
        400 if status.message.contains("does not support dry run") => Rehearsed::Accepted,
        408 | 429 => Rehearsed::Unknown(untried(&status.message)),
        400..=499 => Rehearsed::Refused(status.message.clone()),
        _ => Rehearsed::Unknown(untried(&status.message)),
    }
}

fn untried(why: &str) -> String {
    format!("it could not be tried whether replicas would be accepted: {why}")
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
    match timeout(API_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Err(Refused::NotFound),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Err(Refused::Conflict),
        Ok(Err(error)) => Err(Refused::Trouble(sentence(&error))),
        Err(_) => Err(Refused::Trouble(format!("the API server did not answer within {API_TIMEOUT:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creation_that_was_tried_is_judged_by_what_it_says_of_others() {
        let said = |code: u16, message: &str| judge(&Status { code, message: message.to_owned(), ..Status::default() });
        assert_eq!(said(403, "no label"), Rehearsed::Refused("no label".to_owned()));
        assert_eq!(said(422, "invalid"), Rehearsed::Refused("invalid".to_owned()));
        assert_eq!(said(404, "no such resource"), Rehearsed::Refused("no such resource".to_owned()));
        assert_eq!(said(409, "already exists"), Rehearsed::Accepted);
        assert_eq!(said(400, "admission webhook \"w\" does not support dry run"), Rehearsed::Accepted);
        for code in [408, 429, 500, 503, 504] {
            assert!(matches!(said(code, "later"), Rehearsed::Unknown(_)), "{code}");
        }
    }
}
