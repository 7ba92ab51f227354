//! Connections that single-row reads share. Postgres answers what comes in on one connection in order, so reads of many
//! requests travel together instead of each waiting for a connection of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use deadpool_postgres::Object;

use super::{Ledger, LedgerError};

/// One connection of the pool in so many is shared, but no more than the most.
const SHARE: usize = 8;
const MOST: usize = 4;

/// The shared connections; each is taken from the pool when it is first needed, and again when it broke.
pub(super) struct Readers {
    slots: Vec<RwLock<Option<Arc<Object>>>>,
    next: AtomicUsize,
}

impl Readers {
    /// Readers beside a pool of that many connections; they take from it.
    pub(super) fn new(connections: usize) -> Self {
        let count = (connections / SHARE).clamp(1, MOST);
        Self {
            slots: (0..count).map(|_| RwLock::new(None)).collect(),
            next: AtomicUsize::new(0),
        }
    }
}

impl Ledger {
    /// A connection for one statement that reads a row or two. Nothing that takes long, and no transaction, may run on it.
    pub(super) async fn reader(&self) -> Result<Arc<Object>, LedgerError> {
        let readers = &self.readers;
        let turn = readers.next.fetch_add(1, Ordering::Relaxed);
        let Some(slot) = readers.slots.get(turn % readers.slots.len().max(1)) else {
            return self.client().await.map(Arc::new);
        };
        let standing = slot.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = standing.filter(|client| !client.is_closed()) {
            return Ok(client);
        }
        let fresh = Arc::new(self.client().await?);
        *slot.write().unwrap_or_else(PoisonError::into_inner) = Some(fresh.clone());
        Ok(fresh)
    }
}
