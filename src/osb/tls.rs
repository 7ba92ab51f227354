//! TLS from files that are read again when they change: the server's certificate and key, whose certificates clients may
//! have, and which of those are revoked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::{ObjectIdentifier, PrintableString};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// How often the files are looked at.
const RELOAD: Duration = Duration::from_secs(30);
/// The longest subject that is kept, in characters.
const MAX_SUBJECT: usize = 255;
/// What the file of revocations should have.
const REVOCATIONS: &str = "lists of revoked certificates";
/// `commonName` (RFC 4519, 2.3).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The files.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The server's certificate chain (`TLS_CERT_FILE`).
    pub certificate: PathBuf,
    /// Its key (`TLS_KEY_FILE`).
    pub key: PathBuf,
    /// The authorities whose certificates clients may have (`OSB_CLIENT_CA_FILE`); without, none is asked for.
    pub client_authority: Option<PathBuf>,
    /// Which of their certificates are revoked (`OSB_CLIENT_CRL_FILE`).
    pub client_revocations: Option<PathBuf>,
}

/// What the files hold.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_authority: Option<Vec<u8>>,
    client_revocations: Option<Vec<u8>>,
}

/// How connections are secured, as the files have it.
#[derive(Debug)]
pub struct Tls {
    paths: Paths,
    contents: Contents,
    config: Arc<ServerConfig>,
    period: Duration,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("reading {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is no PEM file with {expected}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What it should have.
        expected: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key do not go together.
    #[error("serving {} with {}: {source}", certificate.display(), key.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the TLS library says.
        source: rustls::Error,
    },
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, or certificate and key do not go together.
    pub fn read(paths: Paths) -> Result<Self, TlsError> {
        let contents = Contents::read(&paths)?;
        let config = config(&paths, &contents)?;
        Ok(Self {
            paths,
            contents,
            config,
            period: RELOAD,
        })
    }

    /// Has the files looked at that often.
    #[must_use]
    pub fn looked_at_every(self, period: Duration) -> Self {
        Self { period, ..self }
    }

    pub(super) fn period(&self) -> Duration {
        self.period
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Reads the files again if they changed. What cannot be served leaves the old ones in place.
    pub(super) fn reload(&mut self) {
        let read = || {
            let contents = Contents::read(&self.paths)?;
            if contents == self.contents {
                return Ok(None);
            }
            let config = config(&self.paths, &contents)?;
            Ok::<_, TlsError>(Some((contents, config)))
        };
        match read() {
            Ok(None) => {}
            Ok(Some((contents, config))) => {
                tracing::info!(certificate = %self.paths.certificate.display(), "certificates loaded again");
                (self.contents, self.config) = (contents, config);
            }
            Err(error) => tracing::warn!(%error, "the changed certificates are not served; the old ones still are"),
        }
    }
}

impl Contents {
    fn read(paths: &Paths) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| TlsError::Unreadable {
                path: path.to_owned(),
                source,
            })
        };
        Ok(Self {
            certificate: read(&paths.certificate)?,
            key: read(&paths.key)?,
            client_authority: paths.client_authority.as_deref().map(read).transpose()?,
            client_revocations: paths.client_revocations.as_deref().map(read).transpose()?,
        })
    }
}

fn refused(path: &Path, expected: &'static str, reason: impl ToString) -> TlsError {
    TlsError::Refused {
        path: path.to_owned(),
        expected,
        reason: reason.to_string(),
    }
}

fn certificates(path: &Path, contents: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(contents)
        .collect::<Result<_, _>>()
        .map_err(|error| refused(path, "certificates", error))?;
    if found.is_empty() {
        return Err(refused(path, "certificates", "it has none"));
    }
    Ok(found)
}

fn config(paths: &Paths, contents: &Contents) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = certificates(&paths.certificate, &contents.certificate)?;
    let key =
        PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| refused(&paths.key, "a private key", error))?;
    let mismatch = |source| TlsError::Mismatch {
        certificate: paths.certificate.clone(),
        key: paths.key.clone(),
        source,
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?;
    let builder = match paths
        .client_authority
        .as_deref()
        .zip(contents.client_authority.as_deref())
    {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let revocations = paths
                .client_revocations
                .as_deref()
                .zip(contents.client_revocations.as_deref());
            builder.with_client_cert_verifier(verifier(authority, revocations, provider)?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(mismatch)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Checks the certificates of clients that have one. Who has none may be let in by other credentials, and is else refused
/// in words rather than by a broken connection.
///
/// Where there are lists of revoked certificates, the authority that issued a client's must have one, or nobody knows
/// whether it is revoked. A list that is out of date revokes what it names all the same.
fn verifier(
    (path, contents): (&Path, &[u8]),
    revocations: Option<(&Path, &[u8])>,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, contents)? {
        roots
            .add(certificate)
            .map_err(|error| refused(path, "certificates of authorities", error))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated();
    if let Some((path, contents)) = revocations {
        builder = builder
            .with_crls(revoked(path, contents)?)
            .only_check_end_entity_revocation();
    }
    builder.build().map_err(|error| match (error, revocations) {
        (VerifierBuilderError::InvalidCrl(error), Some((path, _))) => {
            refused(path, REVOCATIONS, rustls::Error::from(error))
        }
        (error, _) => refused(path, "certificates of authorities", error),
    })
}

fn revoked(path: &Path, contents: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateRevocationListDer::pem_slice_iter(contents)
        .collect::<Result<_, _>>()
        .map_err(|error| refused(path, REVOCATIONS, error))?;
    if found.is_empty() {
        return Err(refused(path, REVOCATIONS, "it has none"));
    }
    Ok(found)
}

/// Whom a client's certificate is made out to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject(Arc<Names>);

#[derive(Debug, PartialEq, Eq)]
struct Names {
    shown: String,
    each: Vec<String>,
}

impl Subject {
    /// The subject of a certificate that was checked. `None` if it is made out to nobody.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let each = names(&certificate);
        let subject = certificate.tbs_certificate.subject.to_string();
        // Workloads are often known by an alternative name alone.
        let shown = Some(&subject).filter(|subject| !subject.is_empty()).or(each.first())?;
        let shown: String = shown
            .chars()
            .filter(|character| !character.is_control())
            .take(MAX_SUBJECT)
            .collect();
        (!shown.is_empty()).then(|| Self(Arc::new(Names { shown, each })))
    }

    /// The subject (RFC 5280, 4.1.2.6) as RFC 4514 writes it, `CN=platform,O=example`, or else its first other name.
    pub(super) fn as_str(&self) -> &str {
        &self.0.shown
    }

    /// Whether that is its common name, or one of its alternative names.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.0.each.iter().any(|one| one == name)
    }
}

/// The common names of a certificate, and its alternative ones: of hosts, e-mail, and URIs (RFC 5280, 4.2.1.6).
fn names(certificate: &Certificate) -> Vec<String> {
    let certificate = &certificate.tbs_certificate;
    let attributes = certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let common = attributes
        .filter(|attribute| attribute.oid == COMMON_NAME)
        .filter_map(|attribute| {
            let value = &attribute.value;
            let printable = || value.decode_as::<PrintableString>().map(|name| name.to_string());
            value.decode_as::<String>().or_else(|_| printable()).ok()
        });
    let alternatives = certificate.get::<SubjectAltName>().ok().flatten();
    let alternatives = alternatives.into_iter().flat_map(|(_, names)| names.0);
    let alternatives = alternatives.filter_map(|name| match name {
        GeneralName::DnsName(name) | GeneralName::Rfc822Name(name) | GeneralName::UniformResourceIdentifier(name) => {
            Some(name.to_string())
        }
        _ => None,
    });
    common.chain(alternatives).collect()
}

#[cfg(test)]
mod tests {
    use sandbox::certificates::{Authority, Certificate};

    use super::*;

    fn paths(folder: &Path) -> Paths {
        Paths {
            certificate: folder.join("crt"),
            key: folder.join("key"),
            client_authority: None,
            client_revocations: None,
        }
    }

    #[test]
    fn a_changed_certificate_is_served_and_a_broken_one_is_not() {
        let authority = Authority::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        let write = |issued: &Certificate| {
            std::fs::write(&paths.certificate, &issued.certificate).unwrap();
            std::fs::write(&paths.key, &issued.key).unwrap();
        };
        let (first, second) = (authority.issue(["a"]).unwrap(), authority.issue(["b"]).unwrap());
        write(&first);
        let mut tls = Tls::read(paths.clone()).unwrap();
        let served = tls.config();
        tls.reload();
        assert!(Arc::ptr_eq(&served, &tls.config), "nothing changed");
        // Half a renewal: the certificate without its key.
        std::fs::write(&paths.certificate, &second.certificate).unwrap();
        tls.reload();
        assert!(Arc::ptr_eq(&served, &tls.config));
        std::fs::remove_file(&paths.key).unwrap();
        tls.reload();
        assert!(Arc::ptr_eq(&served, &tls.config));
        write(&second);
        tls.reload();
        assert!(!Arc::ptr_eq(&served, &tls.config));
    }

    #[test]
    fn a_subject_is_read_as_rfc_4514_writes_it() {
        let authority = Authority::new().unwrap();
        let subject = |name: &str, organization: &str| {
            let issued = authority.issue_client(name, organization).unwrap();
            let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
            Subject::of(&certificate).map(|subject| subject.as_str().to_owned())
        };
        assert_eq!(subject("platform", "example").as_deref(), Some("O=example,CN=platform"));
        assert_eq!(subject("a,b\n", "ü").as_deref(), Some("O=ü,CN=a\\,b\\0a"));
        assert_eq!(Subject::of(&CertificateDer::from(vec![1, 2, 3])), None);
    }

    #[test]
    fn a_subject_is_named_by_its_common_name_or_an_alternative_one() {
        let authority = Authority::new().unwrap();
        let subject = |issued: Certificate| {
            Subject::of(&CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()).unwrap()
        };
        let platform = subject(authority.issue_client("platform", "example").unwrap());
        let workload = subject(authority.issue_workload("spiffe://example/platform").unwrap());
        let host = subject(authority.issue(["a.example", "b.example"]).unwrap());
        assert_eq!(workload.as_str(), "spiffe://example/platform");
        for (subject, name, expected) in [
            (&platform, "platform", true),
            (&platform, "example", false),
            (&platform, "plat", false),
            (&platform, "", false),
            (&workload, "spiffe://example/platform", true),
            (&workload, "spiffe://example/", false),
            (&host, "b.example", true),
        ] {
            assert_eq!(subject.is_named(name), expected, "{subject:?} {name}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_said_with_its_file() {
        let issued = Authority::new().unwrap().issue(["a"]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut paths = paths(folder.path());
        let message = |paths: &Paths| Tls::read(paths.clone()).unwrap_err().to_string();
        assert!(message(&paths).starts_with("reading "), "{}", message(&paths));
        std::fs::write(&paths.certificate, "").unwrap();
        std::fs::write(&paths.key, "").unwrap();
        assert!(
            message(&paths).contains("certificates: it has none"),
            "{}",
            message(&paths)
        );
        std::fs::write(&paths.certificate, &issued.certificate).unwrap();
        assert!(message(&paths).contains("a private key"), "{}", message(&paths));
        std::fs::write(&paths.key, &issued.key).unwrap();
        assert!(Tls::read(paths.clone()).is_ok());
        paths.client_authority = Some(folder.path().join("ca"));
        std::fs::write(folder.path().join("ca"), "").unwrap();
        let said = message(&paths);
        assert!(said.contains("/ca is no PEM file with certificates"), "{said}");
        let authority = Authority::new().unwrap();
        std::fs::write(folder.path().join("ca"), authority.certificate()).unwrap();
        paths.client_revocations = Some(folder.path().join("crl"));
        let (wrong, none) = (authority.certificate(), String::new());
        for contents in [&none, &wrong, &wrong.replace("CERTIFICATE", "X509 CRL")] {
            std::fs::write(folder.path().join("crl"), contents).unwrap();
            let said = message(&paths);
            assert!(
                said.contains("/crl is no PEM file with lists of revoked certificates"),
                "{said}"
            );
        }
        std::fs::write(folder.path().join("crl"), authority.revoke([]).unwrap()).unwrap();
        assert!(Tls::read(paths.clone()).is_ok());
    }
}
