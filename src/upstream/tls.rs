//! TLS towards the host: rustls with one provider, verified against the system's roots or a given CA file. Never
//! accepts what it cannot verify, unless it was told to trust anybody.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Whose word is taken for it that the host is the one it says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust<'a> {
    /// That of the authorities which the system knows.
    System,
    /// That of the authorities in this file (PEM).
    Ca(&'a Path),
    /// Anybody's: mail and password are encrypted, and whoever stands in the way reads them all the same.
    Anybody,
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA file.
    #[error("read CA certificates from `{0}`: {1}\nhint: `upstream.ca` names a PEM file")]
    Ca(String, String),
    /// The system.
    #[error("find the system's root certificates: {0}\nhint: install the package `ca-certificates`, or set `upstream.ca`")]
    NoRoots(String),
    /// The library.
    #[error("set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// A connector that believes those.
pub fn connector(trust: Trust<'_>) -> Result<TlsConnector, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let config = match trust {
        Trust::System => config.with_root_certificates(system_roots()?),
        Trust::Ca(path) => config.with_root_certificates(roots_of(path)?),
        Trust::Anybody => config.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider))),
    };
    Ok(TlsConnector::from(Arc::new(config.with_no_client_auth())))
}

fn roots_of(path: &Path) -> Result<RootCertStore, TlsError> {
    let bad = |cause: &dyn std::fmt::Display| TlsError::Ca(path.display().to_string(), cause.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| bad(&e))? {
        roots.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
    }
    if roots.is_empty() { Err(bad(&"there is none")) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let cause = found.errors.first().map_or("there are none".into(), ToString::to_string);
        return Err(TlsError::NoRoots(cause));
    }
    Ok(roots)
}

/// `upstream.tls_verify = false`: any certificate will do, but whoever shows it must have its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
