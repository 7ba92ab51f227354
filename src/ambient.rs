//! The time of day and chance, which a program has around it without asking anybody.
//!
//! The operator, the ledger and the webhooks take both from here and from nowhere else, so that a simulation can set them
//! and a run of it can be repeated exactly (`tests/simulation`). Deciders take time as an argument; what waits uses
//! tokio's clock, which can be set as it is.

use std::cell::RefCell;

use jiff::Timestamp;
use uuid::Uuid;

/// Another source of time and chance, for one thread.
pub trait Ambient {
    /// The time of day.
    fn now(&self) -> Timestamp;
    /// An id that no other has.
    fn id(&self) -> Uuid;
    /// A number from 0 to 1.
    fn fraction(&self) -> f64;
}

thread_local! {
    static REPLACED: RefCell<Option<Box<dyn Ambient>>> = const { RefCell::new(None) };
}

/// Takes time and chance on this thread from somewhere else, or from the system again.
pub fn replace(ambient: Option<Box<dyn Ambient>>) {
    REPLACED.with_borrow_mut(|replaced| *replaced = ambient);
}

fn or<T>(replaced: impl FnOnce(&dyn Ambient) -> T, system: impl FnOnce() -> T) -> T {
    REPLACED.with_borrow(|ambient| match ambient {
        Some(ambient) => replaced(&**ambient),
        None => system(),
    })
}

/// The time of day.
pub fn now() -> Timestamp {
    or(|ambient| ambient.now(), Timestamp::now)
}

/// An id that no other has.
pub fn id() -> Uuid {
    or(|ambient| ambient.id(), Uuid::new_v4)
}

/// A number from 0 to 1, for jitter.
pub fn fraction() -> f64 {
    or(|ambient| ambient.fraction(), rand::random)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Still;

    impl Ambient for Still {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn id(&self) -> Uuid {
            Uuid::nil()
        }

        fn fraction(&self) -> f64 {
            0.5
        }
    }

    #[test]
    fn what_is_replaced_on_one_thread_is_as_ever_on_the_others() {
        replace(Some(Box::new(Still)));
        assert_eq!((now(), id()), (Timestamp::UNIX_EPOCH, Uuid::nil()));
        let other = std::thread::spawn(|| (now(), id())).join().unwrap();
        assert!(other.0 > Timestamp::UNIX_EPOCH && other.1 != Uuid::nil());
        replace(None);
        assert!(now() > Timestamp::UNIX_EPOCH && (0.0..=1.0).contains(&fraction()));
    }
}
