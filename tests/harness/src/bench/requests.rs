//! Requests to the API server, counted by the API server itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;

/// What a replication may touch. The Lease, which the controller renews every few seconds in any case, is not of it.
const RESOURCES: [&str; 10] = [
    "consistencygroupreplications",
    "events",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "tokenreviews",
    "volumegroupsnapshotclasses",
    "volumegroupsnapshots",
    "volumesnapshotclasses",
    "volumesnapshots",
];
/// Events are published beside the run; the count is taken when nothing was counted for so long.
const SETTLED: Duration = Duration::from_secs(1);

/// Requests by `VERB resource/subresource`.
pub type Requests = BTreeMap<String, u64>;

/// What was counted so far, once it does not change any more.
///
/// # Errors
/// The API server does not answer, or hides its metrics.
pub async fn settled(client: &Client) -> Result<Requests> {
    let mut before = counted(client).await?;
    loop {
        tokio::time::sleep(SETTLED).await;
        let now = counted(client).await?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
}

async fn counted(client: &Client) -> Result<Requests> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    let text = client.request_text(request).await.context("the API server shows no metrics")?;
    let mut requests = Requests::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")) {
        let label = |name| line.split_once(&format!("{name}=\""))?.1.split('"').next();
        let (Some(verb), Some(resource), Some(count)) = (label("verb"), label(",resource"), line.rsplit(' ').next())
        else {
            continue;
        };
        if RESOURCES.contains(&resource) {
            let subresource = label("subresource").filter(|name| !name.is_empty());
            let what = subresource.map_or_else(|| resource.to_owned(), |name| format!("{resource}/{name}"));
            *requests.entry(format!("{verb} {what}")).or_default() += count.parse::<u64>()?;
        }
    }
    Ok(requests)
}

/// What was counted between two moments, less what the benchmark itself asks for in each of `replications`: it creates the
/// object, lists it and watches it.
pub fn between(before: &Requests, after: &Requests, replications: u64) -> Requests {
    let own = ["POST", "LIST", "WATCH"].map(|verb| format!("{verb} consistencygroupreplications"));
    let of_controller = |(what, count): (&String, &u64)| {
        let count = count - before.get(what).unwrap_or(&0);
        let count = if own.contains(what) { count.saturating_sub(replications) } else { count };
        (count > 0).then(|| (what.clone(), count))
    };
    after.iter().filter_map(of_controller).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benchmarks_own_requests_are_not_the_controllers() {
        let counts = |counts: &[(&str, u64)]| counts.iter().map(|(what, n)| ((*what).to_owned(), *n)).collect();
        let before: Requests = counts(&[("GET pods", 1), ("POST consistencygroupreplications", 4)]);
        let after = counts(&[
            ("GET pods", 1),
            ("POST consistencygroupreplications", 6),
            ("PUT consistencygroupreplications/status", 8),
        ]);
        let expected: Requests = counts(&[("PUT consistencygroupreplications/status", 8)]);
        assert_eq!(between(&before, &after, 2), expected);
    }
}
