//! Carries out a [`Removal`].

use kube::api::{DeleteParams, ListParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use stillpoint_core::limits::API_TIMEOUT;
use stillpoint_core::replica::removal::{Ask, Removal};
use stillpoint_core::run::sweep::attempt_of;

use crate::controller::api::within_if_there;

/// Removes replicas of a replication until nothing is left, and says how many there were. The caller's task bounds it.
pub async fn remove(client: &Client, namespace: &str, mut removal: Removal) -> usize {
    let api = |resource| Api::namespaced_with(client.clone(), namespace, &resource);
    while let Some(ask) = removal.next_ask() {
        match ask {
            Ask::List { resource, selector } => {
                let listed = list(&api(resource), &selector).await;
                removal.listed(listed.map_err(|error| log(namespace, &selector, &error)));
            }
            Ask::Delete { resource, name } => {
                let deleted = delete_replica(&api(resource), &name).await;
                removal.deleted(deleted.map_err(|error| log(namespace, &name, &error)));
            }
            Ask::Pause(pause) => tokio::time::sleep(pause).await,
        }
    }
    removal.found()
}

fn log(namespace: &str, which: &str, error: &anyhow::Error) {
    tracing::warn!(namespace, which, "replicas could not be removed, and it is tried again: {error:#}");
}

async fn list(api: &Api<DynamicObject>, selector: &str) -> anyhow::Result<Vec<(String, Option<u32>)>> {
    let labelled = ListParams::default().labels(selector);
    // Without its API there are no objects.
    let listed = within_if_there(API_TIMEOUT, api.list_metadata(&labelled)).await?;
    Ok(listed.iter().flat_map(|list| &list.items).map(|one| (one.name_any(), attempt_of(one))).collect())
}

/// Deletes one object; says whether it was there.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn delete_replica(api: &Api<DynamicObject>, name: &str) -> anyhow::Result<bool> {
    Ok(within_if_there(API_TIMEOUT, api.delete(name, &DeleteParams::default())).await?.is_some())
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
                let snapshot = |name: &str, labels| json!({"metadata": {"name": name, "labels": labels}});
                let items = [
                    snapshot("first", json!({labels::ATTEMPT: "1"})),
                    snapshot("second", json!({labels::ATTEMPT: "2"})),
                    snapshot("third", json!({labels::ATTEMPT: "3"})),
                    snapshot("foreign", json!({})),
                ];
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items})
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
        assert_eq!(remove(&client, "shop", Removal::new(removes, 2)).await, 3);
        deleted.close();
        let mut all = Vec::new();
        while let Some(name) = deleted.recv().await {
            all.push(name);
        }
        assert_eq!(all, ["first", "named", "second"]);
    }
}
