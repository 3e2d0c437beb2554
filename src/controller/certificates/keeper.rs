//! Keeps the CAs in a Secret that all controllers share: makes the first, rotates it, and notices what others did.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Unusable;
use super::rotation::{self, Step};
use super::server::ServerCertificate;
use super::stored::{CERTIFICATE, KEY, SECRET, Stored};
use stillpoint_core::limits::{API_TIMEOUT, CA_LOOK};

/// A wall clock.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The Secret holds no CA. A person must decide: overwriting it would cut off every agent that trusts what was there.
    #[error(
        "Secret {namespace}/{SECRET} holds no usable CA: {reason}. Put its `{CERTIFICATE}` and `{KEY}` back, or delete it \
         (`kubectl -n {namespace} delete secret {SECRET}`) and restart the controller, which then makes a new CA and \
         publishes it to the agents again"
    )]
    Corrupt {
        /// The controller's namespace.
        namespace: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The API server was not reached, or refused. Trying again may help.
    #[error(
        "cannot get, create or update Secret {namespace}/{SECRET} (the controller needs these verbs on secrets there): \
         {reason}"
    )]
    Api {
        /// The controller's namespace.
        namespace: String,
        /// What the API server said.
        reason: String,
    },
    /// No CA can be made.
    #[error("cannot make a CA")]
    Generate(#[from] Unusable),
}

/// The Secret as this controller last saw it.
pub struct Keeper {
    secrets: Api<Secret>,
    namespace: String,
    clock: Clock,
    known: watch::Sender<Arc<Stored>>,
}

impl Keeper {
    /// Reads the CAs, or makes the first one. When two controllers start at once, both use the one that was created first.
    ///
    /// Needs the verbs `get` and `create`, and `update` for a rotation, on Secrets of the controller's namespace.
    ///
    /// # Errors
    /// [`KeepError`]; only [`KeepError::Api`] is worth another try.
    pub async fn open(client: &Client, namespace: &str, clock: Clock) -> Result<Self, KeepError> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let secret = match within(namespace, secrets.get_opt(SECRET)).await? {
            Some(secret) => secret,
            None => {
                let first = Stored::first(clock())?;
                match answer(namespace, secrets.create(&PostParams::default(), &first)).await? {
                    Ok(made) => {
                        tracing::info!("made a new CA in Secret {namespace}/{SECRET}");
                        made
                    }
                    Err(kube::Error::Api(status)) if status.is_already_exists() => {
                        within(namespace, secrets.get(SECRET)).await?
                    }
                    Err(error) => return Err(api(namespace, error.to_string())),
                }
            }
        };
        let stored = read(secret, namespace, &clock)?;
        Ok(Self { secrets, namespace: namespace.to_owned(), clock, known: watch::channel(Arc::new(stored)).0 })
    }

    /// What was last seen, and news of it.
    pub fn known(&self) -> watch::Receiver<Arc<Stored>> {
        self.known.subscribe()
    }

    /// Shows `certificate` anew for as long as it runs: when another CA signs, and when it is old. Looks at the Secret every
    /// [`CA_LOOK`], because another controller may have changed it. What is wrong is logged, and what was known stays.
    ///
    /// # Errors
    /// As [`ServerCertificate::renew`].
    pub async fn follow(&self, certificate: &ServerCertificate) -> Result<Infallible, Unusable> {
        let mut known = self.known();
        let mut told = None;
        loop {
            tokio::select! {
                // Its sender is ours, so it is never closed.
                _ = known.changed() => {}
                () = sleep(CA_LOOK) => {
                    let trouble = self.look().await.err().map(|error| error.to_string());
                    if let Some(trouble) = trouble.as_ref().filter(|_| trouble != told) {
                        tracing::warn!("the CA is used as it was known before: {trouble}");
                    }
                    told = trouble;
                }
            }
            let stored = known.borrow_and_update().clone();
            if certificate.renew(stored.current(), (self.clock)())? {
                tracing::info!("renewed the server certificate");
            }
        }
    }

    /// Rotates the CA, for as long as this controller leads. `published` holds the bundle that every namespace has.
    pub async fn rotate(&self, mut published: watch::Receiver<String>) -> Infallible {
        let mut known = self.known();
        loop {
            known.mark_unchanged();
            let everywhere = published.borrow_and_update().clone();
            match self.advance(&everywhere).await {
                // What was written may make the next step due.
                Ok(step) if step != Step::Wait => continue,
                Ok(_) => {}
                Err(error) => tracing::warn!("the rotation of the CA has to wait: {error}"),
            }
            tokio::select! {
                Ok(()) = published.changed() => {}
                Ok(()) = known.changed() => {}
                () = sleep(CA_LOOK) => {}
            }
        }
    }

    /// Takes the step that is due, if one is, and says which.
    ///
    /// Decides from what is known here, which may be old: then the write is refused, and the next step is decided from what
    /// another controller wrote.
    ///
    /// # Errors
    /// When the Secret cannot be written or read.
    pub async fn advance(&self, published: &str) -> Result<Step, KeepError> {
        let stored = self.known.borrow().clone();
        let now = (self.clock)();
        let step = rotation::step(stored.dates(), published == stored.bundle(), now);
        if step == Step::Wait {
            return Ok(step);
        }
        let next = stored.after(step, now)?;
        match answer(&self.namespace, self.secrets.replace(SECRET, &PostParams::default(), &next)).await? {
            Ok(written) => {
                self.note(written)?;
                tracing::info!(?step, "rotation of the CA");
                Ok(step)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                self.look().await?;
                Ok(Step::Wait)
            }
            Err(error) => Err(api(&self.namespace, error.to_string())),
        }
    }

    /// Reads the Secret.
    ///
    /// # Errors
    /// When it cannot be read; what is known stays.
    pub async fn look(&self) -> Result<(), KeepError> {
        match within(&self.namespace, self.secrets.get_opt(SECRET)).await? {
            Some(secret) => self.note(secret),
            None => Err(KeepError::Corrupt { namespace: self.namespace.clone(), reason: "it is gone".to_owned() }),
        }
    }

    fn note(&self, secret: Secret) -> Result<(), KeepError> {
        if self.known.borrow().version() == secret.metadata.resource_version.as_deref() {
            return Ok(());
        }
        self.known.send_replace(Arc::new(read(secret, &self.namespace, &self.clock)?));
        Ok(())
    }
}

fn read(secret: Secret, namespace: &str, clock: &Clock) -> Result<Stored, KeepError> {
    let corrupt = |reason| KeepError::Corrupt { namespace: namespace.to_owned(), reason };
    Stored::read(secret, clock()).map_err(corrupt)
}

fn api(namespace: &str, reason: String) -> KeepError {
    KeepError::Api { namespace: namespace.to_owned(), reason }
}

/// The answer to a request, whatever it is.
async fn answer<T>(
    namespace: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<kube::Result<T>, KeepError> {
    let late = |_| api(namespace, format!("no answer within {} s", API_TIMEOUT.as_secs()));
    timeout(API_TIMEOUT, request).await.map_err(late)
}

async fn within<T>(namespace: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, KeepError> {
    answer(namespace, request).await?.map_err(|error| api(namespace, error.to_string()))
}
