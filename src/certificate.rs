//! Who we are, for TLS with tools: certificate and key, read again when their files change. Never serves with a pair that
//! does not fit together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore, ServerConfig, crypto::ring};

use crate::disk::Followed;
use crate::place::Fault;

/// The pair in force.
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<ServerConfig>,
    /// As the files were before they were first read.
    opened: Followed,
}

impl Certificate {
    /// Reads both for the first time. A fault here means: do not start.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, Fault> {
        let opened = Followed::begin(&[certificate.to_owned(), key.to_owned()]);
        let current = ArcSwap::from(load(certificate, key)?);
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), current, opened })
    }

    /// Why tools may not trust it today, where its dates are the reason. Blocks on the disk.
    pub fn lapse(&self) -> Option<&'static str> {
        lapse(&chain(&self.certificate).ok()?)
    }

    /// For the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// The files, as they were before they were first read: a change since then is not missed.
    pub fn followed(&self) -> Followed {
        self.opened.clone()
    }

    /// Reads both again, and says in the log what came of it.
    pub async fn renew(self: Arc<Self>) {
        let certificate = self.clone();
        match tokio::task::spawn_blocking(move || certificate.reload()).await {
            Ok(Ok(())) => tracing::info!(certificate = %self.certificate.display(), "certificate reloaded"),
            Ok(Err(fault)) => tracing::error!("certificate not reloaded, the last good one stays in force: {fault}"),
            Err(_) => tracing::error!("certificate not reloaded, the last good one stays in force: the reader failed"),
        }
    }

    /// Reads both again and puts them in force, unless something is wrong with them. Blocks on the disk.
    fn reload(&self) -> Result<(), Fault> {
        self.current.store(load(&self.certificate, &self.key)?);
        self.warn();
        Ok(())
    }

    /// Says in the log what its dates are worth. Blocks on the disk.
    pub fn warn(&self) {
        if let Some(lapse) = self.lapse() {
            tracing::warn!(
                "the certificate in `{}` {lapse}\nhint: renew it; a new one is in force by itself",
                self.certificate.display()
            );
        }
    }
}

fn chain(certificate: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain: Vec<_> = found.map_err(|error| unusable(certificate, &error, "certificate"))?;
    if chain.is_empty() { Err(unusable(certificate, &pem::Error::NoItemsFound, "certificate")) } else { Ok(chain) }
}

/// Asked as a tool would that trusts whoever stands last in the chain: of its answers only those about dates count.
fn lapse(chain: &[CertificateDer<'_>]) -> Option<&'static str> {
    let mut roots = RootCertStore::empty();
    roots.add(chain.last()?.clone().into_owned()).ok()?;
    let provider = Arc::new(ring::default_provider());
    let tool = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    let name = ServerName::try_from("localhost").ok()?;
    match tool.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()) {
        Err(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            Some("has expired: tools will not trust it")
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })) => {
            Some("is not valid yet: tools will not trust it")
        }
        _ => None,
    }
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, Fault> {
    let chain = chain(certificate)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error, "private key"))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::of_file(certificate, error))?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| {
            Fault::of_file(certificate, format_args!("cannot be used with the key in `{}`: {error}", key.display())).hint(
                "`listen.certificate` and `listen.key` belong together: the key is the one that the certificate was made for",
            )
        })?;
    Ok(Arc::new(config))
}

/// The error of the reader may hold bytes of the file, and that may be the key.
fn unusable(path: &Path, error: &pem::Error, wanted: &str) -> Fault {
    match error {
        pem::Error::Io(error) => Fault::unreadable(path, error),
        _ => Fault::of_file(path, format_args!("there is no {} in it", wanted))
            .hint("a PEM file: -----BEGIN CERTIFICATE----- or -----BEGIN PRIVATE KEY-----, as your CA or `certbot` gives it"),
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}
