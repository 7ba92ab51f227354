//! Certificates of one sandbox: an authority of its own, and what it issues.

use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};

/// A certificate and its private key, both in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// The private key, in PKCS #8.
    pub key: String,
    serial: SerialNumber,
}

/// A certificate authority that lives as long as its sandbox.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// Makes one, with a new key.
    ///
    /// # Errors
    /// When no key can be generated.
    pub fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "cache-broker sandbox");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        CertifiedIssuer::self_signed(params, KeyPair::generate()?).map(Self)
    }

    /// Its own certificate in PEM: what its clients have to trust.
    pub fn certificate(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for a server that is reached under these IP addresses and DNS names.
    ///
    /// # Errors
    /// When a name is not one, or no key can be generated.
    pub fn issue<N: ToString>(&self, names: impl IntoIterator<Item = N>) -> Result<Certificate, rcgen::Error> {
        let names: Vec<_> = names.into_iter().map(|name| name.to_string()).collect();
        let common_name = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// Issues a certificate for a client; Kubernetes reads its user from `name` and its group from `organization`.
    ///
    /// # Errors
    /// When no key can be generated.
    pub fn issue_client(&self, name: &str, organization: &str) -> Result<Certificate, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// Issues a certificate for a client that is known by a URI only, as workload identities are.
    ///
    /// # Errors
    /// When it is no URI, or no key can be generated.
    pub fn issue_workload(&self, uri: &str) -> Result<Certificate, rcgen::Error> {
        let mut params = CertificateParams::default();
        // There is a name by default.
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// A list of certificates that are revoked, in PEM.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn revoke<'a>(&self, revoked: impl IntoIterator<Item = &'a Certificate>) -> Result<String, rcgen::Error> {
        let revoked = revoked.into_iter().map(|certificate| RevokedCertParams {
            serial_number: certificate.serial.clone(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0)?.pem()
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Certificate, rcgen::Error> {
        static SERIALS: AtomicU64 = AtomicU64::new(1);
        let serial = SerialNumber::from(SERIALS.fetch_add(1, Ordering::Relaxed));
        params.serial_number = Some(serial.clone());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        Ok(Certificate {
            certificate: params.signed_by(&key, &self.0)?.pem(),
            key: key.serialize_pem(),
            serial,
        })
    }
}

/// Generates a private key and its public key, both in PEM.
///
/// # Errors
/// When no key can be generated.
pub fn key_pair() -> Result<(String, String), rcgen::Error> {
    let pair = KeyPair::generate()?;
    Ok((pair.serialize_pem(), pair.public_key_pem()))
}
