//! Waiting for a condition with a deadline, and saying what was missing when it passes.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// Watches one object until `condition` answers; `None` stands for an object that is not there.
///
/// # Errors
/// The deadline passes, with the last state that was seen, or `condition` fails.
pub async fn until<K, T>(
    api: &Api<K>,
    name: &str,
    what: &str,
    limit: Duration,
    mut condition: impl FnMut(Option<&K>) -> Result<Option<T>>,
) -> Result<T>
where
    K: Resource + Clone + Debug + Send + DeserializeOwned + Serialize + 'static,
{
    let (mut last, mut trouble) = (None, None);
    let watch = async {
        let mut states = pin!(watch_object(api.clone(), name).default_backoff());
        loop {
            match states.next().await {
                Some(Ok(state)) => {
                    if let Some(answer) = condition(state.as_ref())? {
                        return Ok(answer);
                    }
                    (last, trouble) = (state, None);
                }
                // The watch mends itself; the deadline stands.
                Some(Err(error)) => trouble = Some(error),
                None => bail!("the watch of {name} ended"),
            }
        }
    };
    match timeout(limit, watch).await {
        Ok(answer) => answer.with_context(|| format!("waiting for {what}")),
        Err(_) => {
            let trouble = trouble.map(|error| format!("; the watch failed: {error}")).unwrap_or_default();
            bail!("{what}: not within {limit:?}; last seen: {}{trouble}", describe(last.as_ref()))
        }
    }
}

/// Watches one object until it is gone.
///
/// # Errors
/// The deadline passes, with the last state that was seen.
pub async fn until_gone<K>(api: &Api<K>, name: &str, what: &str, limit: Duration) -> Result<()>
where
    K: Resource + Clone + Debug + Send + DeserializeOwned + Serialize + 'static,
{
    until(api, name, what, limit, |state| Ok(state.is_none().then_some(()))).await
}

fn describe(state: Option<&impl Serialize>) -> String {
    let Some(state) = state else { return "nothing, it does not exist".into() };
    match serde_json::to_value(state) {
        Ok(mut value) => {
            value["metadata"]["managedFields"].take();
            value["spec"].take();
            value.to_string()
        }
        Err(error) => error.to_string(),
    }
}
