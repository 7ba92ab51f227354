use std::sync::Arc;
use std::time::Duration;

use cache_broker::osb::{Authenticator, Catalog, Facade, Namespaces, Services, server};
use cache_broker::webhooks::Policy;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sandbox::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsConnector;

use crate::broker::{PATIENCE, ledger, plan};

const REQUEST: &str =
    "GET /v2/catalog HTTP/1.1\r\nhost: localhost\r\nx-broker-api-version: 2.17\r\nconnection: close\r\n\r\n";

/// A facade whose database nobody needs to reach.
fn facade() -> (Arc<Facade>, watch::Sender<Option<Arc<Catalog>>>) {
    let catalog = Catalog::new(&Services::read(None).unwrap(), [&plan()], &|_| true);
    let (send, catalog) = watch::channel(Some(Arc::new(catalog)));
    let facade = Facade {
        ledger: ledger("postgres://u:p@127.0.0.1:1/d?sslmode=disable"),
        catalog,
        authenticator: Authenticator::new(None),
        namespaces: Namespaces {
            memcached: "m".to_owned(),
            redis: "r".to_owned(),
        },
        webhook_policy: Policy::Public,
    };
    (Arc::new(facade), send)
}

#[tokio::test]
async fn the_api_is_served_over_tls() {
    let authority = Authority::new().unwrap();
    let issued = authority.issue(["localhost"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&certificate, &issued.certificate).unwrap();
    std::fs::write(&key, &issued.key).unwrap();
    let tls = server::Tls::read(&certificate, &key).unwrap();

    let (facade, _catalog) = facade();
    let listener = server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server::serve(facade, listener, Some(tls), std::future::pending()));

    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_server_that_ends_answers_what_it_has_and_takes_no_more() {
    let (facade, _catalog) = facade();
    let listener = server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server::serve(facade, listener, None, async {
        let _ = stopped.await;
    }));
    // Half a request is under way, and an idle connection open.
    let mut idle = TcpStream::connect(address).await.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let put =
        "PUT /v2/service_instances/i HTTP/1.1\r\nhost: x\r\nx-broker-api-version: 2.17\r\ncontent-length: 2\r\n\r\n{";
    stream.write_all(put.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(TcpStream::connect(address).await.is_err());
    stream.write_all(b"}").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
}
