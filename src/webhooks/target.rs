//! Where webhooks may go. Whoever may order a cache chooses the URL, so the broker must not be talked into reaching
//! what only it can reach: its own host, its network, the metadata service of its cloud.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

/// The longest URL that is taken.
const MAX_URL: usize = 2048;

/// Which receivers are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Public addresses, over HTTPS.
    Public,
    /// Any address, over HTTP too.
    AllowPrivate,
}

impl Policy {
    /// As `WEBHOOK_ALLOW_PRIVATE` says.
    pub fn new(allow_private: bool) -> Self {
        if allow_private {
            Self::AllowPrivate
        } else {
            Self::Public
        }
    }

    /// Whether an address may be dialled.
    pub fn allows(self, address: IpAddr) -> bool {
        self == Self::AllowPrivate || is_public(address)
    }
}

/// Why a URL is no target. The URL is not repeated: it may carry a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is no absolute URL.
    #[error("is not an absolute URL such as https://example.com/hook")]
    Malformed,
    /// It is too long.
    #[error("is longer than {MAX_URL} characters")]
    TooLong,
    /// It has a user or password.
    #[error("has a user or password before the host: leave them out, the body is signed with the secret")]
    UserInfo,
    /// Its scheme is not allowed.
    #[error("begins with {0}://, but webhooks go over https:// only")]
    Scheme(String),
    /// Its host is an address that is not allowed.
    #[error("leads to {0}, an address that is not on the public network")]
    Address(IpAddr),
}

/// A URL that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether it is HTTPS.
    pub tls: bool,
    /// The host, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Host and port as the URL has them.
    pub authority: String,
    /// Path and query.
    pub path: PathAndQuery,
}

/// Checks a URL. What its host resolves to is checked when it is dialled.
///
/// # Errors
/// When it is no URL, or does not fit the policy.
pub fn target(url: &str, policy: Policy) -> Result<Target, TargetError> {
    if url.len() > MAX_URL {
        return Err(TargetError::TooLong);
    }
    let uri: Uri = url.parse().map_err(|_| TargetError::Malformed)?;
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return Err(TargetError::Malformed);
    };
    if authority.as_str().contains('@') {
        return Err(TargetError::UserInfo);
    }
    let tls = *scheme == Scheme::HTTPS;
    let allowed = tls || (*scheme == Scheme::HTTP && policy == Policy::AllowPrivate);
    if !allowed {
        return Err(TargetError::Scheme(scheme.to_string()));
    }
    let host = authority.host();
    let port = match authority.as_str().get(host.len()..) {
        Some("") | None => Some(if tls { 443 } else { 80 }),
        Some(_) => authority.port_u16().filter(|port| *port > 0),
    };
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let (Some(port), false) = (port, literal.unwrap_or(host).is_empty()) else {
        return Err(TargetError::Malformed);
    };
    let address = match literal {
        Some(literal) => Some(IpAddr::V6(literal.parse().map_err(|_| TargetError::Malformed)?)),
        None => host.parse().ok(),
    };
    if let Some(address) = address.filter(|address| !policy.allows(*address)) {
        return Err(TargetError::Address(address));
    }
    Ok(Target {
        tls,
        host: literal.unwrap_or(host).to_owned(),
        port,
        authority: authority.to_string(),
        path: uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/")),
    })
}

/// Whether an address is on the public network (IANA's special-purpose address registries, RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !special
}

/// Only global unicast (2000::/3), and of it none of the blocks that lead to an IPv4 address or nowhere.
fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    match address.segments() {
        // IETF protocol assignments, Teredo among them.
        [0x2001, second, ..] if second < 0x0200 => false,
        // Documentation.
        [0x2001, 0x0db8, ..] => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // 6to4.
        [0x2002, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_hosts_ports_and_paths() {
        let read = |url| target(url, Policy::Public).unwrap();
        let plain = read("https://example.com");
        assert_eq!(
            (plain.host.as_str(), plain.port, plain.path.as_str()),
            ("example.com", 443, "/")
        );
        let full = read("https://hooks.example.com:8443/a/b?token=1%2F2");
        assert_eq!(
            (full.authority.as_str(), full.port, full.path.as_str()),
            ("hooks.example.com:8443", 8443, "/a/b?token=1%2F2")
        );
        assert_eq!(read("https://[2606:4700:4700::1111]:1/").host, "2606:4700:4700::1111");
        assert!(!target("http://127.0.0.1:1/", Policy::AllowPrivate).unwrap().tls);
    }

    #[test]
    fn refuses_what_is_no_public_https_url() {
        let long = format!("https://example.com/{}", "x".repeat(MAX_URL));
        for (url, error) in [
            ("", TargetError::Malformed),
            ("/relative", TargetError::Malformed),
            ("example.com", TargetError::Malformed),
            ("https://", TargetError::Malformed),
            ("https://example.com:99999/", TargetError::Malformed),
            ("https://example.com:/", TargetError::Malformed),
            ("https://[::1/", TargetError::Malformed),
            ("https://exa mple.com/", TargetError::Malformed),
            (&long, TargetError::TooLong),
            ("https://user:hunter2@example.com/", TargetError::UserInfo),
            ("http://example.com/", TargetError::Scheme("http".to_owned())),
            ("file://example.com/etc/passwd", TargetError::Scheme("file".to_owned())),
            ("https://127.0.0.1/", TargetError::Address([127, 0, 0, 1].into())),
            (
                "https://169.254.169.254/latest",
                TargetError::Address([169, 254, 169, 254].into()),
            ),
            ("https://10.1.2.3/", TargetError::Address([10, 1, 2, 3].into())),
            ("https://[::1]/", TargetError::Address(Ipv6Addr::LOCALHOST.into())),
            (
                "https://[fd00:ec2::254]/",
                TargetError::Address("fd00:ec2::254".parse().unwrap()),
            ),
        ] {
            assert_eq!(target(url, Policy::Public), Err(error), "{url}");
        }
    }

    #[test]
    fn knows_the_public_network() {
        for address in [
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "100.128.0.1",
            "2606:4700::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "127.8.9.1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "192.0.2.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    proptest! {
        #[test]
        fn an_address_within_ipv6_is_judged_as_the_address_it_is(octets: [u8; 4]) {
            let address = Ipv4Addr::from(octets);
            prop_assert_eq!(is_public(address.into()), is_public(address.to_ipv6_mapped().into()));
        }

        #[test]
        fn any_text_is_judged_without_a_panic(text: String, url in "https?://[\\[\\]a-z0-9.:@%/?#]{0,40}") {
            let _ = target(&text, Policy::Public);
            let _ = target(&url, Policy::AllowPrivate);
        }
    }
}
