//! TLS towards the host: rustls with one provider, verified against the system's roots or a given CA file. Never
//! accepts what it cannot verify.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

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
    Setup(#[from] tokio_rustls::rustls::Error),
}

/// A connector that trusts the CA file, or the system's roots where none is given.
pub fn connector(ca: Option<&Path>) -> Result<TlsConnector, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let bad = |cause: &dyn std::fmt::Display| TlsError::Ca(path.display().to_string(), cause.to_string());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| bad(&e))? {
                let certificate = certificate.map_err(|e| bad(&e))?;
                roots.add(certificate).map_err(|e| bad(&e))?;
            }
            if roots.is_empty() {
                return Err(bad(&"there is none"));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let cause = found.errors.first().map_or("there are none".into(), ToString::to_string);
                return Err(TlsError::NoRoots(cause));
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
