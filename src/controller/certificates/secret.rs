//! Keeps the CA in a Secret: read if there, made if not, never overwritten.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use super::{Authority, Unusable};

/// Name of the Secret in the controller's own namespace.
const SECRET: &str = "stillpoint-ca";
const CERTIFICATE_KEY: &str = "ca.crt";
const PRIVATE_KEY_KEY: &str = "ca.key";

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The Secret holds no CA. A person must decide: overwriting it would cut off every agent that trusts what was there.
    #[error(
        "Secret {namespace}/{SECRET} holds no usable CA: {reason}. Put its `{CERTIFICATE_KEY}` and `{PRIVATE_KEY_KEY}` \
         back, or delete it (`kubectl -n {namespace} delete secret {SECRET}`) and restart the controller, which then \
         makes a new CA and publishes it to the agents again"
    )]
    Corrupt {
        /// The controller's namespace.
        namespace: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The API server was not reached, or refused. Trying again may help.
    #[error(
        "cannot get or create Secret {namespace}/{SECRET} (the controller needs `get` and `create` on secrets there)"
    )]
    Api {
        /// The controller's namespace.
        namespace: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// No CA can be made.
    #[error("cannot make a CA")]
    Generate(#[from] Unusable),
}

/// Reads the CA, or makes one. When two controllers start at once, both use the one that was created first.
///
/// Needs the verbs `get` and `create` on Secrets of the controller's namespace.
///
/// # Errors
/// [`KeepError`]; only [`KeepError::Api`] is worth another try.
pub async fn keep(client: &Client, namespace: &str) -> Result<Authority, KeepError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let api = |source| KeepError::Api { namespace: namespace.to_owned(), source };
    if let Some(secret) = secrets.get_opt(SECRET).await.map_err(api)? {
        return read(&secret, namespace);
    }
    let authority = Authority::generate(SystemTime::now())?;
    match secrets.create(&PostParams::default(), &secret_of(&authority)).await {
        Ok(_) => {
            tracing::info!("made a new CA in Secret {namespace}/{SECRET}");
            Ok(authority)
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            read(&secrets.get(SECRET).await.map_err(api)?, namespace)
        }
        Err(error) => Err(api(error)),
    }
}

fn secret_of(authority: &Authority) -> Secret {
    let data = [(CERTIFICATE_KEY, authority.certificate_pem().to_owned()), (PRIVATE_KEY_KEY, authority.key_pem())];
    Secret {
        metadata: ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() },
        data: Some(data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect()),
        ..Secret::default()
    }
}

fn read(secret: &Secret, namespace: &str) -> Result<Authority, KeepError> {
    let corrupt = |reason| KeepError::Corrupt { namespace: namespace.to_owned(), reason };
    let no_data = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&no_data);
    let text = |key| {
        let bytes = data.get(key).ok_or_else(|| corrupt(format!("it has no `{key}`")))?;
        std::str::from_utf8(&bytes.0).map_err(|_| corrupt(format!("its `{key}` is not text")))
    };
    Authority::from_pem(text(CERTIFICATE_KEY)?, text(PRIVATE_KEY_KEY)?, SystemTime::now())
        .map_err(|unusable| corrupt(unusable.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> Authority {
        Authority::generate(SystemTime::now()).expect("randomness")
    }

    #[test]
    fn what_was_kept_is_read_back() {
        let made = authority();
        let read = read(&secret_of(&made), "system").expect("a good Secret");
        assert_eq!(read.certificate_pem(), made.certificate_pem());
        assert_eq!(read.key_pem(), made.key_pem());
    }

    #[test]
    fn a_spoiled_secret_is_refused_with_what_to_do() {
        type Spoil = fn(&mut BTreeMap<String, ByteString>);
        let table: Vec<(&str, Spoil)> = vec![
            ("it has no `ca.crt`", |data| data.clear()),
            ("it has no `ca.key`", |data| drop(data.remove(PRIVATE_KEY_KEY))),
            ("its `ca.key` is not text", |data| drop(data.insert(PRIVATE_KEY_KEY.into(), ByteString(vec![0xff])))),
            ("the key is not an ECDSA P-256 key", |data| {
                drop(data.insert(PRIVATE_KEY_KEY.into(), ByteString(b"nothing".to_vec())));
            }),
            ("the certificate is not in PEM form", |data| {
                drop(data.insert(CERTIFICATE_KEY.into(), ByteString(b"nothing".to_vec())));
            }),
            ("does not verify against the certificate", |data| {
                let other = authority().key_pem().into_bytes();
                drop(data.insert(PRIVATE_KEY_KEY.into(), ByteString(other)));
            }),
        ];
        for (reason, spoil) in table {
            let mut secret = secret_of(&authority());
            spoil(secret.data.get_or_insert_default());
            let error = read(&secret, "system").err().expect(reason).to_string();
            assert!(error.contains(reason), "{reason}: {error}");
            assert!(error.contains("kubectl -n system delete secret stillpoint-ca"), "{error}");
        }
    }
}
