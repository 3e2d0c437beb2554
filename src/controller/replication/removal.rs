//! Carries out a [`Removal`], and lets replicas go from their owner.

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use stillpoint_core::limits::API_TIMEOUT;
use stillpoint_core::replica::ask::Remove;
use stillpoint_core::replica::making;
use stillpoint_core::replica::removal::{Ask, Deleted, Found, Left, Removal, Removed, Trouble};
use stillpoint_core::run::sweep::attempt_of;

use crate::controller::api::{is_absent, sentence};

/// Removes replicas of a replication, as far as it can in a time that the removal bounds.
pub async fn remove(client: &Client, namespace: &str, mut removal: Removal) -> Removed {
    let api = |resource: &ApiResource| Api::namespaced_with(client.clone(), namespace, resource);
    while let Some(ask) = removal.next_ask() {
        match ask {
            Ask::List { resource, selector } => {
                let listed = list(&api(&resource), &selector).await;
                removal.listed(listed.map(|listed| listed.iter().map(|one| found(&resource, one)).collect()));
            }
            Ask::Delete { resource, name, version } => {
                removal.deleted(delete_replica(&api(&resource), &name, version).await);
            }
            Ask::Pause(pause) => tokio::time::sleep(pause).await,
        }
    }
    let removed = removal.removed();
    for left in &removed.left {
        tracing::warn!(namespace, "a replica is left: {}", left.what);
    }
    removed
}

/// Takes the owner of this UID off what carries the labels, each by itself. Gives what still has it.
pub async fn disown(client: &Client, namespace: &str, removes: Vec<Remove>, owner: &str) -> Vec<Left> {
    let mut left = Vec::new();
    for Remove { resource, selector, .. } in removes {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let listed = list(&api, &selector).await.unwrap_or_else(|Trouble { why, refused }| {
            left.push(Left { what: format!("the {} could not be listed: {why}", resource.plural), refused });
            Vec::new()
        });
        for replica in listed.iter().filter(|replica| owners(replica).any(|one| one == owner)) {
            let others: Vec<_> = replica.owner_references().iter().filter(|one| one.uid != owner).collect();
            // The resource version makes this a change of the list that was read, not of another one.
            let patch = json!({"metadata": {"ownerReferences": others, "resourceVersion": replica.resource_version()}});
            let name = replica.name_any();
            let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
            if let Err(Trouble { why, refused }) = asked(api.patch_metadata(&name, &params, &patch)).await {
                let what = format!("{} {name} would go with this object, and could not be kept: {why}", resource.kind);
                left.push(Left { what, refused });
            }
        }
    }
    left
}

fn found(resource: &ApiResource, replica: &DynamicObject) -> Found {
    let (name, owners) = (replica.name_any(), owners(replica).map(str::to_owned).collect());
    Found { name, attempt: attempt_of(replica), owners, making: making(resource, replica) }
}

fn owners(replica: &DynamicObject) -> impl Iterator<Item = &str> {
    replica.owner_references().iter().map(|owner| owner.uid.as_str())
}

async fn list(api: &Api<DynamicObject>, selector: &str) -> Result<Vec<DynamicObject>, Trouble> {
    let labelled = ListParams::default().labels(selector);
    // Without its API there are no objects.
    Ok(asked(api.list(&labelled)).await?.map(|list| list.items).unwrap_or_default())
}

/// Deletes one object, if this is its resource version.
async fn delete_replica(api: &Api<DynamicObject>, name: &str, version: Option<String>) -> Result<Deleted, Trouble> {
    let preconditions = version.map(|version| Preconditions { resource_version: Some(version), uid: None });
    let how = DeleteParams { preconditions, ..DeleteParams::default() };
    let Some(answer) = asked(api.delete(name, &how)).await? else { return Ok(Deleted::Absent) };
    // What stays for its finalizers is answered with the object as it is then.
    let stays = answer.left().is_some_and(|object| !object.finalizers().is_empty());
    Ok(if stays { Deleted::Going } else { Deleted::Gone })
}

/// A request with a limit of time; `None`: the API server does not have what is asked for.
async fn asked<T>(request: impl Future<Output = kube::Result<T>>) -> Result<Option<T>, Trouble> {
    match tokio::time::timeout(API_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(Some(answer)),
        Ok(Err(kube::Error::Api(status))) if is_absent(&status) => Ok(None),
        Ok(Err(error)) => Err(Trouble { refused: is_refusal(&error), why: sentence(&error) }),
        Err(_) => Err(Trouble { why: "the API server did not answer in time".to_owned(), refused: false }),
    }
}

/// Whether the API server was asked in vain, and not at a bad moment: not in time (408), in conflict (409), too often (429).
fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && ![408, 409, 429].contains(&status.code))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use axum::Router;
    use axum::extract::Request;
    use axum::http::Method;
    use serde_json::json;
    use stillpoint_api::labels;
    use stillpoint_core::replica::KINDS;
    use stillpoint_core::replica::ask::{Remove, RunId};
    use stillpoint_core::replica::removal::Scope;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn replicas_of_a_later_attempt_are_left_alone() {
        let (delete, mut deleted) = mpsc::unbounded_channel();
        let server = Router::new().fallback(move |request: Request| {
            let delete = delete.clone();
            async move {
                let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                if request.method() == Method::DELETE {
                    delete.send(name).unwrap();
                    return json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}).to_string();
                }
                let snapshot = |name: &str, labels| json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": name, "labels": labels}});
                let items = [
                    snapshot("first", json!({labels::ATTEMPT: "1"})),
                    snapshot("second", json!({labels::ATTEMPT: "2"})),
                    snapshot("third", json!({labels::ATTEMPT: "3"})),
                    snapshot("foreign", json!({})),
                ];
                json!({"kind": "VolumeSnapshotList", "apiVersion": "snapshot.storage.k8s.io/v1", "metadata": {}, "items": items})
                    .to_string()
            }
        });
        let client = Client::new(server, "shop");
        let run = RunId {
            replication: "nightly",
            uid: "uid",
            namespace: "shop",
            attempt: 2,
            owner: None,
            asked_at: None,
            wishes: None,
        };
        let removes = KINDS[0].remove(&run, &[]);
        let names = vec!["named".to_owned()];
        let removes = removes.into_iter().map(|remove| Remove { names: names.clone(), ..remove }).collect();
        let removed = remove(&client, "shop", Removal::new(removes, Scope::up_to(2))).await;
        assert_eq!(removed, Removed { found: 3, left: Vec::new() });
        deleted.close();
        let mut all = Vec::new();
        while let Some(name) = deleted.recv().await {
            all.push(name);
        }
        assert_eq!(all, ["first", "named", "second"]);
    }
}
