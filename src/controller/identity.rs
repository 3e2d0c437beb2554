//! Who an agent is: decided from the API server's answer about its token, never from the agent's own words.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use stillpoint_api::labels::TOKEN_AUDIENCE;
use stillpoint_core::limits::{API_TIMEOUT, MAX_REVIEWS};
use stillpoint_core::run::agents::AgentKey;

/// Keys of the claims that the API server adds for a token that is bound to a pod (KEP-1205, KEP-4193).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// An agent whose token was found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Namespace of the service account, and so of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod_name: String,
    /// UID of the pod.
    pub pod_uid: String,
}

impl Identity {
    /// The key of the agent's session.
    pub fn key(&self) -> AgentKey {
        AgentKey::of_pod(&self.pod_uid)
    }
}

/// Why a token does not identify an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    /// The API server does not accept the token.
    #[error(
        "the API server does not accept the token ({0}): mount a projected service account token with the audience {TOKEN_AUDIENCE}"
    )]
    NotAuthenticated(String),
    /// The token is good, but not for this service.
    #[error("the token is not meant for the audience {TOKEN_AUDIENCE}: set `audience` of the projected token volume")]
    WrongAudience,
    /// The token is not one of a service account.
    #[error("the token belongs to `{0}`, not to a service account: agents use their pod's service account")]
    NotServiceAccount(String),
    /// The token does not say for which pod it was made.
    #[error(
        "the token is not bound to a pod: use a projected token volume of the agent's own pod, not a token made by hand"
    )]
    NotPodBound,
}

/// The API server's answer about one token, or a sentence why there is none.
pub type Review = Arc<dyn Fn(String) -> BoxFuture<'static, Result<TokenReviewStatus, String>> + Send + Sync>;

/// Asks the API server by TokenReview; at most [`MAX_REVIEWS`] at a time, each within [`API_TIMEOUT`], waiting included.
///
/// Needs the verb `create` on `tokenreviews.authentication.k8s.io`.
pub fn api_review(client: Client) -> Review {
    let permits = Arc::new(Semaphore::new(MAX_REVIEWS));
    Arc::new(move |token| {
        let (client, permits) = (client.clone(), permits.clone());
        async move {
            let answer = tokio::time::timeout(API_TIMEOUT, async {
                let _permit = permits.acquire().await;
                ask(client, token).await
            });
            answer.await.unwrap_or_else(|_| Err(format!("no answer within {} s", API_TIMEOUT.as_secs())))
        }
        .boxed()
    })
}

async fn ask(client: Client, token: String) -> Result<TokenReviewStatus, String> {
    let review = TokenReview {
        spec: TokenReviewSpec { token: Some(token), audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]) },
        ..TokenReview::default()
    };
    let answer = Api::all(client).create(&PostParams::default(), &review).await;
    answer.map(|review| review.status.unwrap_or_default()).map_err(|error| error.to_string())
}

/// Decides from the API server's answer which pod the token belongs to.
///
/// # Errors
/// [`Unidentified`] unless the token is good, for this audience, of a service account, and bound to one pod.
pub fn identify(status: &TokenReviewStatus) -> Result<Identity, Unidentified> {
    if status.authenticated != Some(true) {
        return Err(Unidentified::NotAuthenticated(
            status.error.clone().unwrap_or_else(|| "no reason given".to_owned()),
        ));
    }
    // An API server whose authenticator knows no audiences leaves them out; then nothing was checked.
    if !status.audiences.iter().flatten().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(Unidentified::WrongAudience);
    }
    let user = status.user.clone().unwrap_or_default();
    let username = user.username.unwrap_or_default();
    let Some(namespace) = service_account_namespace(&username) else {
        return Err(Unidentified::NotServiceAccount(username));
    };
    let extra = user.extra.unwrap_or_default();
    let only = |key| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Ok(value.clone()),
        _ => Err(Unidentified::NotPodBound),
    };
    Ok(Identity { namespace: namespace.to_owned(), pod_name: only(POD_NAME)?, pod_uid: only(POD_UID)? })
}

/// The namespace in `system:serviceaccount:NAMESPACE:NAME`.
fn service_account_namespace(username: &str) -> Option<&str> {
    let (namespace, name) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some(namespace)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    /// What the API server answers about a good token of an agent.
    pub(crate) fn good() -> TokenReviewStatus {
        let extra = BTreeMap::from([
            (POD_NAME.to_owned(), vec!["orders-0".to_owned()]),
            (POD_UID.to_owned(), vec!["uid-1".to_owned()]),
        ]);
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            user: Some(UserInfo {
                username: Some("system:serviceaccount:shop:default".to_owned()),
                extra: Some(extra),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    fn user(status: &mut TokenReviewStatus) -> &mut UserInfo {
        status.user.get_or_insert_default()
    }

    #[test]
    fn a_pod_bound_token_names_its_pod() {
        let identity =
            Identity { namespace: "shop".to_owned(), pod_name: "orders-0".to_owned(), pod_uid: "uid-1".to_owned() };
        assert_eq!(identify(&good()), Ok(identity));
    }

    #[test]
    fn anything_less_is_refused() {
        type Change = fn(&mut TokenReviewStatus);
        let not_authenticated = |reason: &str| Unidentified::NotAuthenticated(reason.to_owned());
        let not_service_account = |name: &str| Unidentified::NotServiceAccount(name.to_owned());
        let table: Vec<(&str, Change, Unidentified)> = vec![
            ("no verdict", |s| s.authenticated = None, not_authenticated("no reason given")),
            ("a rejected token", |s| s.authenticated = Some(false), not_authenticated("no reason given")),
            (
                "an expired token",
                |s| (s.authenticated, s.error) = (Some(false), Some("token has expired".to_owned())),
                not_authenticated("token has expired"),
            ),
            ("no audiences", |s| s.audiences = None, Unidentified::WrongAudience),
            (
                "another audience",
                |s| s.audiences = Some(vec!["https://kubernetes.default.svc".to_owned()]),
                Unidentified::WrongAudience,
            ),
            ("no user", |s| s.user = None, not_service_account("")),
            ("a person", |s| user(s).username = Some("ann".to_owned()), not_service_account("ann")),
            (
                "a name of too many parts",
                |s| user(s).username = Some("system:serviceaccount:a:b:c".to_owned()),
                not_service_account("system:serviceaccount:a:b:c"),
            ),
            (
                "no namespace",
                |s| user(s).username = Some("system:serviceaccount::b".to_owned()),
                not_service_account("system:serviceaccount::b"),
            ),
            ("not bound to an object", |s| user(s).extra = None, Unidentified::NotPodBound),
            (
                "bound to a node",
                |s| user(s).extra.get_or_insert_default().retain(|key, _| key != POD_UID),
                Unidentified::NotPodBound,
            ),
            (
                "two pods",
                |s| {
                    let two = vec!["uid-1".to_owned(), "uid-2".to_owned()];
                    user(s).extra.get_or_insert_default().insert(POD_UID.to_owned(), two);
                },
                Unidentified::NotPodBound,
            ),
            (
                "an empty uid",
                |s| {
                    user(s).extra.get_or_insert_default().insert(POD_UID.to_owned(), vec![String::new()]);
                },
                Unidentified::NotPodBound,
            ),
        ];
        for (case, change, expected) in table {
            let mut status = good();
            change(&mut status);
            assert_eq!(identify(&status), Err(expected), "{case}");
        }
    }
}
