//! A CA: checked whenever it is read, issues the server certificate.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, RootCertStore};

use stillpoint_core::limits::{CA_VALIDITY, CERTIFICATE_VALIDITY, CLOCK_SKEW};

/// Name of every CA. Fixed, because an issuer is rebuilt from it and the key alone.
const COMMON_NAME: &str = "Stillpoint controller CA";

/// A certificate authority: an ECDSA P-256 key and its self-signed certificate.
pub struct Authority {
    certificate_pem: String,
    key: KeyPair,
}

/// Why a certificate and key are no CA of this controller.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The key cannot be read.
    #[error("the key is not an ECDSA P-256 key in PKCS #8 PEM form ({0})")]
    Key(rcgen::Error),
    /// The certificate cannot be read.
    #[error("the certificate is not in PEM form ({0})")]
    Certificate(rustls::pki_types::pem::Error),
    /// What the key signs is not trusted by whom trusts the certificate.
    #[error("what the key signs does not verify against the certificate ({0})")]
    Pair(String),
    /// A certificate cannot be made.
    #[error("a certificate cannot be made ({0})")]
    Issue(rcgen::Error),
}

impl Authority {
    /// Makes a new CA, valid for [`CA_VALIDITY`] from `now`.
    ///
    /// # Errors
    /// [`Unusable`] when the system gives no randomness.
    pub fn generate(now: SystemTime) -> Result<Self, Unusable> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Unusable::Issue)?;
        let mut params = authority_params();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + CA_VALIDITY).into();
        let certificate = params.self_signed(&key).map_err(Unusable::Issue)?;
        Ok(Self { certificate_pem: certificate.pem(), key })
    }

    /// Reads a CA back, and proves that it works: a certificate issued by it must verify the way agents verify it.
    ///
    /// # Errors
    /// [`Unusable`], with what is wrong.
    pub fn from_pem(certificate: &str, key: &str, now: SystemTime) -> Result<Self, Unusable> {
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256).map_err(Unusable::Key)?;
        let authority = Self { certificate_pem: certificate.to_owned(), key };
        authority.prove(now)?;
        Ok(authority)
    }

    /// The certificate, which may be shown to everybody.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key, which belongs in the Secret only.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Issues a server certificate with a key of its own, valid for [`CERTIFICATE_VALIDITY`] from `now`.
    ///
    /// # Errors
    /// [`Unusable::Issue`] when a name is no DNS name.
    pub fn issue(&self, names: &[String], now: SystemTime) -> Result<CertifiedKey, Unusable> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Unusable::Issue)?;
        let mut params = CertificateParams::new(names).map_err(Unusable::Issue)?;
        params.distinguished_name.push(DnType::CommonName, "Stillpoint controller");
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + CERTIFICATE_VALIDITY).into();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = Issuer::new(authority_params(), &self.key);
        let certificate = params.signed_by(&key, &issuer).map_err(Unusable::Issue)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        CertifiedKey::from_der(vec![certificate.into()], key, &ring::default_provider())
            .map_err(|error| Unusable::Pair(error.to_string()))
    }

    fn prove(&self, now: SystemTime) -> Result<(), Unusable> {
        let pair = |error: &dyn std::fmt::Display| Unusable::Pair(error.to_string());
        let roots = trust(&self.certificate_pem)?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| pair(&error))?;
        let name = "proof.invalid";
        let issued = self.issue(&[name.to_owned()], now)?;
        let server_name = ServerName::try_from(name).map_err(|error| pair(&error))?;
        let end_entity = issued.end_entity_cert().map_err(|error| pair(&error))?;
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).map_err(|error| pair(&error))?;
        verifier
            .verify_server_cert(end_entity, &[], &server_name, &[], UnixTime::since_unix_epoch(since_epoch))
            .map_err(|error| pair(&error))?;
        Ok(())
    }
}

impl std::fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// Whether a certificate can be trusted by whom verifies, as far as its form goes.
///
/// # Errors
/// [`Unusable`], with what is wrong.
pub fn check_certificate(pem: &str) -> Result<(), Unusable> {
    trust(pem).map(drop)
}

fn trust(pem: &str) -> Result<RootCertStore, Unusable> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(Unusable::Certificate)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(|error| Unusable::Pair(error.to_string()))?;
    Ok(roots)
}

/// What makes an issuer, apart from the key and the dates.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
