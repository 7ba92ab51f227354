//! Whom TLS trusts.

use std::sync::{Arc, LazyLock};

use rustls::RootCertStore;

/// The machine's certificate authorities. They are read once, and all who trust them share them.
pub fn authorities() -> Arc<RootCertStore> {
    static AUTHORITIES: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    AUTHORITIES.clone()
}
