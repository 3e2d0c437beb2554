//! The server certificate: issued at start, replaced while running, never stored.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use anyhow::Context;
use tokio::time::sleep;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ServerConfig};

use super::{Authority, Unusable};
use crate::limits::CERTIFICATE_RENEW;

/// The certificate that new connections are shown.
#[derive(Debug)]
pub struct ServerCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServerCertificate {
    /// Issues the first one.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue(authority: &Authority, names: &[String]) -> Result<Arc<Self>, Unusable> {
        let current = RwLock::new(Arc::new(authority.issue(names, SystemTime::now())?));
        Ok(Arc::new(Self { current }))
    }

    /// The TLS configuration that shows it: TLS 1.3, HTTP/2.
    ///
    /// # Errors
    /// When the cryptography library offers no TLS 1.3.
    pub fn tls_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// Replaces it every [`CERTIFICATE_RENEW`], for ever. Sessions that run keep what they have.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub async fn renew(&self, authority: &Authority, names: &[String]) -> anyhow::Result<()> {
        loop {
            sleep(CERTIFICATE_RENEW).await;
            let next = authority.issue(names, SystemTime::now()).context("cannot renew the server certificate")?;
            self.replace(next);
            tracing::info!("renewed the server certificate");
        }
    }

    /// Shows `next` to connections from now on.
    pub fn replace(&self, next: CertifiedKey) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Every DNS name under which agents may reach a controller: the Service's, and each replica's behind it.
pub fn server_names(service: &str, namespace: &str) -> Vec<String> {
    let full = format!("{service}.{namespace}.svc");
    vec![
        service.to_owned(),
        format!("{service}.{namespace}"),
        full.clone(),
        format!("{full}.cluster.local"),
        format!("*.{full}"),
        format!("*.{full}.cluster.local"),
    ]
}
