//! TLS: a certificate chain and its key from PEM files, read again without a restart.
//! The provider is ring; versions are 1.2 and 1.3; ALPN offers h2 before http/1.1.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::Deserialize;

/// Where the server's certificate is. Both or none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file of the certificate chain, the server's own first.
    pub cert: Option<PathBuf>,
    /// PEM file of the private key (PKCS #8, PKCS #1 or SEC 1).
    pub key: Option<PathBuf>,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, cannot be read, or is not PEM of the kind asked for.
    #[error("cannot read {what} from {}: {source}", path.display())]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the reader says.
        #[source]
        source: pem::Error,
    },
    /// The file has no certificate.
    #[error("{} holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// The key does not fit the certificate, or is of a kind that ring cannot use.
    #[error("the key {} cannot be used with the certificate: {source}", key.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        #[source]
        source: rustls::Error,
    },
    /// The provider cannot do the versions asked for.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// The certificate that new connections get. Reloading swaps it; connections that stand keep
/// the one they began with.
pub struct Certificates {
    cert: PathBuf,
    key: PathBuf,
    /// Guards one pointer; held for a clone or a store, never over I/O.
    current: RwLock<Arc<CertifiedKey>>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates")
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads a chain and its key. Errors: Pem, NoCertificate, Mismatch.
    pub fn load(cert: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let current = RwLock::new(read(cert, key)?);
        Ok(Arc::new(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            current,
        }))
    }

    /// Reads the files again. After an error the certificate in use stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = read(&self.cert, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// The certificate that the next connection gets.
    pub fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// A server's configuration that hands out what `certificates` holds at the time.
/// Errors: Setup.
pub fn server_config(
    certificates: Arc<Certificates>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(cert: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let pem_error = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { what, path, source }
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem_error("certificates", cert))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(cert.to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(pem_error("a private key", key))?;
    let mismatch = |source| TlsError::Mismatch {
        key: key.to_owned(),
        source,
    };
    let signing = rustls::crypto::ring::sign::any_supported_type(&secret).map_err(mismatch)?;
    let certified = CertifiedKey::new(chain, signing);
    certified.keys_match().map_err(mismatch)?;
    Ok(Arc::new(certified))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a self-signed certificate and its key; gives their paths.
    fn write_pair(dir: &Path) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (cert, key)
    }

    #[test]
    fn a_reload_swaps_the_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = write_pair(dir.path());
        let certificates = Certificates::load(&cert, &key).unwrap();
        let before = certificates.current();
        write_pair(dir.path());
        certificates.reload().unwrap();
        assert_ne!(before.cert, certificates.current().cert);
    }

    #[test]
    fn a_failed_reload_keeps_the_certificate_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = write_pair(dir.path());
        let certificates = Certificates::load(&cert, &key).unwrap();
        let before = certificates.current();
        std::fs::write(&cert, "not PEM").unwrap();
        assert!(matches!(
            certificates.reload(),
            Err(TlsError::NoCertificate(_))
        ));
        std::fs::remove_file(&key).unwrap();
        assert!(certificates.reload().is_err());
        assert_eq!(before.cert, certificates.current().cert);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cert, _) = write_pair(one.path());
        let (_, key) = write_pair(two.path());
        assert!(matches!(
            Certificates::load(&cert, &key),
            Err(TlsError::Mismatch { .. })
        ));
    }
}
