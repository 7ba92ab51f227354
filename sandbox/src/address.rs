//! Loopback addresses of one sandbox.
//!
//! Each sandbox claims a *slot*, and with it two /16 blocks of the loopback range that no other sandbox on the machine
//! uses, so its servers listen on their ordinary ports and never race for free ones.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::control_plane::API_SERVER_PORT;

/// How many sandboxes can run at one time on one machine.
pub const SLOTS: u8 = 16;

/// The port on each slot's first address whose listener is the claim; the kernel gives it back whatever happens.
const CLAIM_PORT: u16 = 4444;

/// First of the second octets of the blocks that Services live in: 127.64.0.0/12, a /16 a slot.
const SERVICES: u8 = 64;

/// First of the second octets of the blocks that servers, pods and cache nodes live in.
const HOSTS: u8 = 80;

/// A claimed slot. Clones share the claim; it is given back when the last one is dropped or the process ends.
#[derive(Clone, Debug)]
pub struct Addresses(Arc<Claim>);

#[derive(Debug)]
struct Claim {
    slot: u8,
    pods: AtomicU16,
    nodes: AtomicU16,
    listener: TcpListener,
}

impl Addresses {
    /// Claims the first free slot. One whose API server is still ending, though nobody claims it, is passed over.
    ///
    /// # Errors
    /// When all [`SLOTS`] are taken.
    pub fn claim() -> io::Result<Self> {
        for slot in 0..SLOTS {
            let bind = |port| TcpListener::bind((Ipv4Addr::new(127, HOSTS + slot, 0, 1), port));
            if let Ok(listener) = bind(CLAIM_PORT)
                && bind(API_SERVER_PORT).is_ok()
            {
                return Ok(Self(Arc::new(Claim {
                    slot,
                    pods: AtomicU16::new(0),
                    nodes: AtomicU16::new(0),
                    listener,
                })));
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("{SLOTS} sandboxes are running already; end one"),
        ))
    }

    /// The slot's number, below [`SLOTS`].
    pub fn slot(&self) -> u8 {
        self.0.slot
    }

    /// A handle that keeps the slot claimed for as long as anybody has it open.
    ///
    /// # Errors
    /// When there are no more file descriptors.
    pub fn share_claim(&self) -> io::Result<OwnedFd> {
        self.0.listener.try_clone().map(OwnedFd::from)
    }

    /// The control plane's address: etcd, API server, controller manager, scheduler, kubelet.
    pub fn control_plane(&self) -> Ipv4Addr {
        self.host(0, 1)
    }

    /// The Postgres server's address.
    pub fn postgres(&self) -> Ipv4Addr {
        self.host(0, 2)
    }

    /// The ElastiCache endpoint's address.
    pub fn elasticache(&self) -> Ipv4Addr {
        self.host(0, 3)
    }

    /// An address for whoever runs something of its own beside the sandbox: a broker, a webhook receiver.
    pub fn guest(&self) -> Ipv4Addr {
        self.host(0, 4)
    }

    /// The range Services get their ClusterIP from, in CIDR notation.
    pub fn service_range(&self) -> String {
        format!("127.{}.0.0/16", SERVICES + self.0.slot)
    }

    /// The address the API server gives the Service `default/kubernetes`: the first of the range.
    pub fn kubernetes_service(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, SERVICES + self.0.slot, 0, 1)
    }

    /// The next address for a pod. After 16,000 the first come again.
    pub fn next_pod(&self) -> Ipv4Addr {
        let n = self.0.pods.fetch_add(1, Ordering::Relaxed) % 16_000;
        self.nth(1, n)
    }

    /// The next address for a cache node. After 32,000 the first come again.
    pub fn next_cache_node(&self) -> Ipv4Addr {
        let n = self.0.nodes.fetch_add(1, Ordering::Relaxed) % 32_000;
        self.nth(128, n)
    }

    fn nth(&self, first_third_octet: u16, n: u16) -> Ipv4Addr {
        let [third, fourth] = [first_third_octet + n / 250, 1 + n % 250].map(|octet| octet.to_be_bytes()[1]);
        self.host(third, fourth)
    }

    fn host(&self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, HOSTS + self.0.slot, third, fourth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_claims_share_no_address() {
        let (a, b) = (Addresses::claim().unwrap(), Addresses::claim().unwrap());
        assert_ne!(a.slot(), b.slot());
        assert_ne!(a.control_plane().octets()[..2], b.control_plane().octets()[..2]);
        assert_ne!(a.service_range(), b.service_range());
    }

    #[test]
    fn pods_and_cache_nodes_get_addresses_of_their_own_blocks() {
        let addresses = Addresses::claim().unwrap();
        let pods: Vec<_> = (0..600).map(|_| addresses.next_pod()).collect();
        let nodes: Vec<_> = (0..600).map(|_| addresses.next_cache_node()).collect();
        let distinct: std::collections::HashSet<_> = pods.iter().chain(&nodes).collect();
        assert_eq!(distinct.len(), 1200);
        assert!(pods.iter().all(|pod| (1..128).contains(&pod.octets()[2])));
        assert!(nodes.iter().all(|node| node.octets()[2] >= 128));
    }
}
