//! Knowing when everything waits: the runtime's thread is about to park, and no call to Postgres is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::task::Poll;

use futures::task::AtomicWaker;

#[derive(Debug, Default)]
pub struct Idle {
    under_way: AtomicUsize,
    parked: AtomicBool,
    waker: AtomicWaker,
}

impl Idle {
    /// To be called when the thread is about to park.
    pub fn parks(&self) {
        if self.under_way.load(Ordering::SeqCst) == 0 {
            self.parked.store(true, Ordering::SeqCst);
            self.waker.wake();
        }
    }

    /// Notes that a call to Postgres begins, or has ended.
    pub fn begin(&self) {
        self.under_way.fetch_add(1, Ordering::SeqCst);
    }

    pub fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits until everything else waits.
    pub async fn wait(&self) {
        self.parked.store(false, Ordering::SeqCst);
        std::future::poll_fn(|context| {
            self.waker.register(context.waker());
            if self.parked.load(Ordering::SeqCst) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// A runtime of one thread whose clock stands still but for when it is told to go on, as long as the sender is kept.
pub fn runtime() -> (Sender<()>, tokio::runtime::Runtime, Arc<Idle>) {
    let idle = Arc::new(Idle::default());
    let parks = idle.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .on_thread_park(move || parks.parks())
        .build()
        .unwrap();
    // A paused clock jumps to the next timer when nothing is to do, also while a socket is waited for; not while a
    // blocking task runs, which this one does as long as the runtime.
    let (keep, kept) = mpsc::channel::<()>();
    runtime.spawn_blocking(move || {
        let _ = kept.recv();
    });
    (keep, runtime, idle)
}
