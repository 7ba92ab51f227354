//! How the ledger reaches Postgres: the connection string, TLS, and deadlines.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls;

/// Where the tables live, unless the connection string sets `search_path` itself.
pub const SCHEMA: &str = "cache_broker";

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may stay unanswered before it counts as broken.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the server works on one statement before it gives up.
const STATEMENT_TIMEOUT: &str = "10s";

/// How sure the ledger is of whom it talks to, by libpq's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Security {
    /// No TLS.
    Disable,
    /// TLS if the server has it, unverified.
    Prefer,
    /// TLS, unverified. What a string without `sslmode` means.
    Require,
    /// TLS, the certificate signed by a trusted authority.
    VerifyCa,
    /// TLS, the certificate signed by a trusted authority for the host.
    VerifyFull,
}

/// A checked `DATABASE_URL`.
#[derive(Clone)]
pub struct DatabaseUrl {
    config: tokio_postgres::Config,
    security: Security,
    root_certificate: Option<PathBuf>,
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseUrl")
            .field("hosts", &self.config.get_hosts())
            .field("ports", &self.config.get_ports())
            .field("database", &self.config.get_dbname())
            .field("security", &self.security)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a `DATABASE_URL`. The text of the URL is not repeated: it has the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    /// It does not begin as it should.
    #[error("it must begin with postgres:// or postgresql://")]
    Scheme,
    /// `sslmode` is none of libpq's words.
    #[error(
        "sslmode={0} is not known: use disable, prefer, require, verify-ca or verify-full, or leave it out for require"
    )]
    SslMode(String),
    /// The Postgres client does not understand it.
    #[error("it is not postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=MODE: {0}")]
    Syntax(String),
    /// No host is named.
    #[error("it names no host: postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Host,
}

/// Why TLS to Postgres cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The root certificates cannot be read.
    #[error("reading sslrootcert {path}: {reason}")]
    RootCertificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The TLS library refuses the setup.
    #[error("setting up TLS to Postgres: {0}")]
    Setup(String),
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, DatabaseUrlError> {
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(DatabaseUrlError::Scheme);
        }
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let mut security = Security::Require;
        let mut root_certificate = None;
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => {
                    security = match mode {
                        "disable" => Security::Disable,
                        "prefer" => Security::Prefer,
                        "require" => Security::Require,
                        "verify-ca" => Security::VerifyCa,
                        "verify-full" => Security::VerifyFull,
                        other => return Err(DatabaseUrlError::SslMode(other.to_owned())),
                    }
                }
                Some(("sslrootcert", path)) => root_certificate = Some(PathBuf::from(path)),
                _ => kept.push(pair),
            }
        }
        let url = if kept.is_empty() {
            base.to_owned()
        } else {
            format!("{base}?{}", kept.join("&"))
        };
        let mut config: tokio_postgres::Config = url
            .parse()
            .map_err(|error: tokio_postgres::Error| DatabaseUrlError::Syntax(crate::ledger::error::chain(&error)))?;
        if config.get_hosts().is_empty() {
            return Err(DatabaseUrlError::Host);
        }
        config.ssl_mode(match security {
            Security::Disable => SslMode::Disable,
            Security::Prefer => SslMode::Prefer,
            Security::Require | Security::VerifyCa | Security::VerifyFull => SslMode::Require,
        });
        if config.get_application_name().is_none() {
            config.application_name("cache-broker");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        // Else a connection to a host that vanished would be waited for, and kept, for hours.
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE_TIMEOUT);
        }
        if !query.contains("keepalives_idle") {
            config.keepalives_idle(SILENCE_TIMEOUT);
        }
        let options = format!(
            "-c search_path={SCHEMA} -c statement_timeout={STATEMENT_TIMEOUT} {}",
            config.get_options().unwrap_or_default()
        );
        config.options(options.trim());
        Ok(Self {
            config,
            security,
            root_certificate,
        })
    }
}

impl DatabaseUrl {
    /// The client's configuration.
    pub fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }

    /// Host, port and database, for messages; no user and no password.
    pub fn place(&self) -> String {
        let host = self
            .config
            .get_hosts()
            .first()
            .map_or_else(String::new, |host| match host {
                tokio_postgres::config::Host::Tcp(name) => name.clone(),
                tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
            });
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        format!("{host}:{port}/{}", self.config.get_dbname().unwrap_or_default())
    }

    /// The TLS side of connections, as `sslmode` and `sslrootcert` ask for.
    ///
    /// # Errors
    /// When the root certificates cannot be read.
    pub fn tls(&self) -> Result<MakeRustlsConnect, TlsError> {
        let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(setup)?;
        let config = match self.security {
            Security::Disable | Security::Prefer | Security::Require => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Verifier { provider, inner: None }))
                .with_no_client_auth(),
            Security::VerifyCa => {
                let inner = WebPkiServerVerifier::builder_with_provider(self.roots()?, provider.clone())
                    .build()
                    .map_err(|error| TlsError::Setup(error.to_string()))?;
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Verifier {
                        provider,
                        inner: Some(inner),
                    }))
                    .with_no_client_auth()
            }
            Security::VerifyFull => builder.with_root_certificates(self.roots()?).with_no_client_auth(),
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let Some(path) = &self.root_certificate else {
            return Ok(tls::authorities());
        };
        let mut roots = RootCertStore::empty();
        let refused = |reason: String| TlsError::RootCertificate {
            path: path.clone(),
            reason,
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| refused(error.to_string()))? {
            let certificate = certificate.map_err(|error| refused(error.to_string()))?;
            roots.add(certificate).map_err(|error| refused(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(refused("it has no certificate".to_owned()));
        }
        Ok(Arc::new(roots))
    }
}

/// Verifies less than TLS usually does: nothing (`require`), or the chain but not the name (`verify-ca`).
#[derive(Debug)]
struct Verifier {
    provider: Arc<rustls::crypto::CryptoProvider>,
    inner: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_libpqs_modes() {
        for (query, security) in [
            ("", Security::Require),
            ("?sslmode=disable", Security::Disable),
            ("?sslmode=prefer", Security::Prefer),
            ("?sslmode=require", Security::Require),
            ("?sslmode=verify-ca", Security::VerifyCa),
            (
                "?connect_timeout=3&sslmode=verify-full&sslrootcert=/ca.pem",
                Security::VerifyFull,
            ),
        ] {
            let url: DatabaseUrl = format!("postgres://u:p@h:1/d{query}").parse().unwrap();
            assert_eq!(url.security, security, "{query}");
        }
    }

    #[test]
    fn says_what_is_wrong_and_never_shows_the_password() {
        for (text, part) in [
            ("mysql://u:hunter2@h/d", "must begin with postgres://"),
            ("postgres://u:hunter2@h/d?sslmode=maybe", "sslmode=maybe is not known"),
            ("postgres://u:hunter2@h:port/d", "option `port`"),
            ("postgres:///d", "names no host"),
            ("postgres://u:hunter2@h/d?colour=red", "colour"),
        ] {
            let message = text.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        let url: DatabaseUrl = "postgres://u:hunter2@h/d".parse().unwrap();
        assert!(!format!("{url:?}").contains("hunter2"));
        assert_eq!(url.place(), "h:5432/d");
    }
}
