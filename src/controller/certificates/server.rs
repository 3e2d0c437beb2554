//! The server certificate: issued at start, replaced while running, never stored.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ServerConfig};

use super::{Authority, Unusable};
use stillpoint_core::limits::CERTIFICATE_RENEW;

/// The certificate that new connections are shown.
#[derive(Debug)]
pub struct ServerCertificate {
    names: Vec<String>,
    shown: RwLock<Shown>,
}

#[derive(Debug)]
struct Shown {
    certificate: Arc<CertifiedKey>,
    /// The certificate of the CA that issued it.
    issuer: String,
    issued: SystemTime,
}

impl ServerCertificate {
    /// Issues the first one, for these names.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue(authority: &Authority, names: Vec<String>, now: SystemTime) -> Result<Arc<Self>, Unusable> {
        let shown = RwLock::new(issue(authority, &names, now)?);
        Ok(Arc::new(Self { names, shown }))
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

    /// Shows another one to connections from now on, if it is due: when it is [`CERTIFICATE_RENEW`] old or dated ahead, or
    /// another CA signs. Says whether it was. Sessions that run keep what they have.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn renew(&self, authority: &Authority, now: SystemTime) -> Result<bool, Unusable> {
        let due = {
            let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
            let old = now.duration_since(shown.issued).map_or(true, |age| age >= CERTIFICATE_RENEW);
            old || shown.issuer != authority.certificate_pem()
        };
        if due {
            let next = issue(authority, &self.names, now)?;
            *self.shown.write().unwrap_or_else(PoisonError::into_inner) = next;
        }
        Ok(due)
    }
}

fn issue(authority: &Authority, names: &[String], now: SystemTime) -> Result<Shown, Unusable> {
    let certificate = Arc::new(authority.issue(names, now)?);
    Ok(Shown { certificate, issuer: authority.certificate_pem().to_owned(), issued: now })
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown.read().unwrap_or_else(PoisonError::into_inner).certificate.clone())
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_is_renewed_when_it_is_old_or_of_another_ca() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let [ca, other] = [(); 2].map(|()| Authority::generate(start).expect("a CA"));
        let certificate = ServerCertificate::issue(&ca, server_names("controller", "system"), start).expect("issued");
        let second = Duration::from_secs(1);
        for (what, authority, now, renewed) in [
            ("young", &ca, start + CERTIFICATE_RENEW - second, false),
            ("old", &ca, start + CERTIFICATE_RENEW, true),
            ("renewed a moment ago", &ca, start + CERTIFICATE_RENEW + second, false),
            ("dated ahead, since the clock went back", &ca, start, true),
            ("of another CA", &other, start, true),
            ("of this CA by now", &other, start, false),
        ] {
            assert_eq!(certificate.renew(authority, now).expect("issued"), renewed, "{what}");
        }
    }
}
