//! `cache-broker probe`: asks a broker for its catalog, as a platform would. `helm test` runs it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::DEADLINE;
use crate::ledger::error::chain;
use crate::settings::{Probe, read_credentials};
use crate::tls;

const PAUSE: Duration = Duration::from_millis(500);
const MAX_CATALOG: usize = 16 * 1024 * 1024;

/// Asks until it is answered well, or patience ends.
///
/// # Errors
/// When it never was: how it was answered last.
pub async fn probe(probe: &Probe) -> Result<(), String> {
    let credentials = read_credentials(Some(&probe.credentials_file))?;
    let (user, password) = credentials.first().ok_or("there are no credentials")?;
    let pair = SecretString::from(format!("{user}:{}", password.expose_secret()));
    let url: Uri = probe
        .url
        .parse()
        .map_err(|error| format!("--url {}: {error}", probe.url))?;
    let tls = match url.scheme_str() {
        Some("https") => Some(TlsConnector::from(Arc::new(trusting(
            probe.certificate_file.as_deref(),
        )?))),
        Some("http") => None,
        _ => return Err(format!("--url {}: it must begin with https:// or http://", probe.url)),
    };
    let end = Instant::now() + Duration::from_secs(probe.patience);
    loop {
        let asked = tokio::time::timeout(DEADLINE, ask(&url, tls.as_ref(), &pair)).await;
        match asked.unwrap_or_else(|_| Err("no answer".to_owned())) {
            Ok(plans) => {
                println!("{url} serves a catalog of {plans} plans");
                return Ok(());
            }
            Err(error) if Instant::now() >= end => return Err(format!("{url}: {error}")),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn ask(url: &Uri, tls: Option<&TlsConnector>, pair: &SecretString) -> Result<usize, String> {
    let host = url.host().ok_or("the URL names no host")?;
    let port = url.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("connecting: {error}"))?;
    match tls {
        None => exchange(stream, url, pair).await,
        Some(tls) => {
            let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
            let stream = tls
                .connect(name, stream)
                .await
                .map_err(|error| format!("TLS: {error}"))?;
            exchange(stream, url, pair).await
        }
    }
}

async fn exchange<S>(stream: S, url: &Uri, pair: &SecretString) -> Result<usize, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| format!("asking for the catalog: {}", chain(&error));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let talk = async {
        let request = Request::get("/v2/catalog")
            .header(HOST, url.authority().map_or("", |authority| authority.as_str()))
            .header("x-broker-api-version", "2.17")
            .header(
                AUTHORIZATION,
                format!("Basic {}", BASE64_STANDARD.encode(pair.expose_secret())),
            )
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(format!("the catalog is answered with {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_CATALOG).collect().await;
        let body = body
            .map_err(|error| format!("reading the catalog: {error}"))?
            .to_bytes();
        let catalog: serde_json::Value =
            serde_json::from_slice(&body).map_err(|error| format!("the catalog is no JSON: {error}"))?;
        let services = catalog.get("services").and_then(|services| services.as_array());
        let services = services.ok_or("the answer is no catalog")?;
        let plans = services
            .iter()
            .filter_map(|service| Some(service.get("plans")?.as_array()?.len()));
        Ok(plans.sum())
    };
    tokio::select! {
        biased;
        outcome = talk => outcome,
        ended = connection => Err(ended.err().map_or("the connection ended".to_owned(), |error| chain(&error))),
    }
}

/// Trusts one certificate, or those that the machine trusts.
fn trusting(certificate: Option<&Path>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let Some(path) = certificate else {
        return Ok(builder.with_root_certificates(tls::authorities()).with_no_client_auth());
    };
    let expected = CertificateDer::from_pem_file(path)
        .map_err(|error| format!("reading --certificate-file {}: {error}", path.display()))?;
    let exact = Exact { expected, provider };
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(exact))
        .with_no_client_auth())
}

/// The very certificate that is known, whoever signed it: nobody else has its key.
#[derive(Debug)]
struct Exact {
    expected: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Exact {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *shown == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
