//! TLS as it is served: the server's certificate and those of clients.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cache_broker::osb::tls::{Paths, Tls};
use cache_broker::osb::{Authenticator, Catalog, server};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sandbox::certificates::{Authority, Certificate};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use crate::broker::PATIENCE;
use crate::serving::facade_for;

/// A server with a certificate of an authority, which trusts another authority with clients.
struct Served {
    servers: Authority,
    clients: Authority,
    folder: TempDir,
    address: SocketAddr,
    _catalog: watch::Sender<Option<Arc<Catalog>>>,
}

fn write(folder: &Path, issued: &Certificate) {
    std::fs::write(folder.join("tls.crt"), &issued.certificate).unwrap();
    std::fs::write(folder.join("tls.key"), &issued.key).unwrap();
}

impl Served {
    async fn to(authenticator: Authenticator) -> Self {
        let (servers, clients) = (Authority::new().unwrap(), Authority::new().unwrap());
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &servers.issue(["localhost"]).unwrap());
        std::fs::write(folder.path().join("clients.crt"), clients.certificate()).unwrap();
        std::fs::write(folder.path().join("revoked.crl"), clients.revoke([]).unwrap()).unwrap();
        let tls = Tls::read(Paths {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
            client_authority: Some(folder.path().join("clients.crt")),
            client_revocations: Some(folder.path().join("revoked.crl")),
        });
        let tls = tls.unwrap().looked_at_every(Duration::from_millis(20));
        let (facade, catalog) = facade_for(authenticator);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(server::serve(facade, listener, Some(tls), std::future::pending()));
        Self {
            servers,
            clients,
            folder,
            address,
            _catalog: catalog,
        }
    }

    /// The first line of the answer to a client with that certificate and those headers; an error if they do not come to
    /// terms.
    async fn ask(&self, certificate: Option<&Certificate>, headers: &str) -> std::io::Result<String> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.servers.certificate().as_bytes()).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let exchange = async {
            let stream = TcpStream::connect(self.address).await?;
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            let request = format!(
                "GET /v2/catalog HTTP/1.1\r\nhost: localhost\r\nx-broker-api-version: 2.17\r\n{headers}connection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer.lines().next().unwrap_or_default().to_owned())
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap()
    }
}

const SERVED: &str = "HTTP/1.1 200 OK";
const REFUSED: &str = "HTTP/1.1 401 Unauthorized";
const FORBIDDEN: &str = "HTTP/1.1 403 Forbidden";

fn pair() -> (String, secrecy::SecretString) {
    ("u".to_owned(), "p".to_owned().into())
}

#[tokio::test]
async fn a_certificate_of_the_trusted_authority_lets_in_and_no_other() {
    let served = Served::to(Authenticator::new(None, None).and_certificates(&[])).await;
    let known = served.clients.issue_client("platform", "example").unwrap();
    assert_eq!(served.ask(Some(&known), "").await.unwrap(), SERVED);
    // There are no passwords here, so that a platform may send one that means nothing.
    let header = "authorization: Basic dTpw\r\n";
    assert_eq!(served.ask(Some(&known), header).await.unwrap(), SERVED);
    assert_eq!(served.ask(None, "").await.unwrap(), REFUSED);
    assert_eq!(served.ask(None, header).await.unwrap(), REFUSED);
    let strange = Authority::new().unwrap().issue_client("platform", "example").unwrap();
    assert!(served.ask(Some(&strange), "").await.is_err());
    // A server's certificate is not a client's.
    let server = served.clients.issue(["platform"]).unwrap();
    assert!(served.ask(Some(&server), "").await.is_err());
}

#[tokio::test]
async fn passwords_and_certificates_hold_side_by_side() {
    let served = Served::to(Authenticator::new(Some(&[pair()]), None).and_certificates(&[])).await;
    let known = served.clients.issue_client("platform", "example").unwrap();
    assert_eq!(served.ask(Some(&known), "").await.unwrap(), SERVED);
    assert_eq!(served.ask(None, "authorization: Basic dTpw\r\n").await.unwrap(), SERVED);
    // What is sent counts, whoever the connection is from.
    let wrong = "authorization: Basic dTpx\r\n";
    assert_eq!(served.ask(Some(&known), wrong).await.unwrap(), REFUSED);
    assert_eq!(served.ask(None, "").await.unwrap(), REFUSED);
}

#[tokio::test]
async fn a_certificate_means_nothing_where_that_is_not_switched_on() {
    let served = Served::to(Authenticator::new(Some(&[pair()]), None)).await;
    let known = served.clients.issue_client("platform", "example").unwrap();
    assert_eq!(served.ask(Some(&known), "").await.unwrap(), REFUSED);
}

#[tokio::test]
async fn of_a_list_of_names_those_let_in_that_a_certificate_is_made_out_to() {
    let names = ["platform", "spiffe://example/platform"].map(str::to_owned);
    let authenticator = Authenticator::new(Some(&[pair()]), None).and_certificates(&names);
    let served = Served::to(authenticator).await;
    let (known, other) = (
        served.clients.issue_client("platform", "example").unwrap(),
        served.clients.issue_client("other", "platform").unwrap(),
    );
    let workload = served.clients.issue_workload("spiffe://example/platform").unwrap();
    assert_eq!(served.ask(Some(&known), "").await.unwrap(), SERVED);
    assert_eq!(served.ask(Some(&workload), "").await.unwrap(), SERVED);
    assert_eq!(served.ask(Some(&other), "").await.unwrap(), FORBIDDEN);
    // Who has a password needs no certificate, and may have any.
    let header = "authorization: Basic dTpw\r\n";
    assert_eq!(served.ask(Some(&other), header).await.unwrap(), SERVED);
}

#[tokio::test]
async fn a_certificate_that_is_revoked_lets_nobody_in_from_the_next_look_at_the_list_on() {
    let served = Served::to(Authenticator::new(None, None).and_certificates(&[])).await;
    let (stolen, kept) = (
        served.clients.issue_client("platform", "example").unwrap(),
        served.clients.issue_client("platform", "example").unwrap(),
    );
    assert_eq!(served.ask(Some(&stolen), "").await.unwrap(), SERVED);
    let list = served.folder.path().join("revoked.crl");
    std::fs::write(&list, served.clients.revoke([&stolen]).unwrap()).unwrap();
    let revoked = async {
        while served.ask(Some(&stolen), "").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, revoked).await.unwrap();
    assert_eq!(served.ask(Some(&kept), "").await.unwrap(), SERVED);
    // A list of somebody else's says nothing of these.
    std::fs::write(&list, Authority::new().unwrap().revoke([]).unwrap()).unwrap();
    let unknown = async {
        while served.ask(Some(&kept), "").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, unknown).await.unwrap();
}

#[tokio::test]
async fn changed_files_are_served_to_new_connections() {
    let mut served = Served::to(Authenticator::new(None, None).and_certificates(&[])).await;
    let known = served.clients.issue_client("platform", "example").unwrap();
    assert_eq!(served.ask(Some(&known), "").await.unwrap(), SERVED);
    // Another authority for clients, and a certificate that clients of before do not trust.
    let (servers, clients) = (Authority::new().unwrap(), Authority::new().unwrap());
    write(served.folder.path(), &servers.issue(["localhost"]).unwrap());
    std::fs::write(served.folder.path().join("clients.crt"), clients.certificate()).unwrap();
    std::fs::write(served.folder.path().join("revoked.crl"), clients.revoke([]).unwrap()).unwrap();
    let changed = async {
        while served.ask(None, "").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.unwrap();
    (served.servers, served.clients) = (servers, clients);
    let next = served.clients.issue_client("platform", "example").unwrap();
    let taken = async {
        while served.ask(Some(&next), "").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.unwrap();
    assert_eq!(served.ask(Some(&next), "").await.unwrap(), SERVED);
    assert!(served.ask(Some(&known), "").await.is_err());
}
