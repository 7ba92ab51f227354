//! OSB 2.17, "Deprovisioning".

use std::time::Duration;

use super::{Answer, Reply};
use crate::ledger::{Held, Judgement, NewDeprovision, OperationKind};
use crate::osb::error::OsbError;
use crate::osb::request::DeprovisionRequest;

/// What can be refused before the ledger is asked.
///
/// # Errors
/// The refusal.
pub fn admit(request: &DeprovisionRequest) -> Result<(), OsbError> {
    if request.accepts_incomplete {
        Ok(())
    } else {
        Err(OsbError::async_required())
    }
}

/// The decision. Whatever else goes on gives way: a platform that cleans up after a lost answer deletes what is still
/// being made. Bindings that remain end with the instance.
pub fn judge(
    request: &DeprovisionRequest,
    held: Option<&Held>,
    deadline: Duration,
) -> Judgement<Reply, NewDeprovision> {
    let Some(held) = held.filter(|held| held.instance.deleted_at.is_none()) else {
        return Judgement::Answer(Err(OsbError::gone()));
    };
    match held.running() {
        Some(running) if running.kind == OperationKind::Deprovision => {
            Judgement::Answer(Ok(Answer::accepted(running.id)))
        }
        _ => Judgement::Accept(NewDeprovision {
            webhook: request.webhook.clone(),
            deadline,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::*;
    use super::*;
    use crate::osb::error::Code;

    const HOUR: Duration = Duration::from_secs(3600);

    fn request() -> DeprovisionRequest {
        DeprovisionRequest {
            accepts_incomplete: true,
            webhook: None,
        }
    }

    #[test]
    fn a_platform_that_cannot_wait_is_refused() {
        let request = DeprovisionRequest {
            accepts_incomplete: false,
            ..request()
        };
        assert_eq!(admit(&request).unwrap_err().code(), Some(Code::AsyncRequired));
    }

    #[test]
    fn whatever_exists_may_be_deleted_and_what_is_gone_is_gone() {
        for held in [held(()), provisioning(()), failed(()), updating(()), undeleted(())] {
            assert!(
                matches!(judge(&request(), Some(&held), HOUR), Judgement::Accept(_)),
                "{held:?}"
            );
        }
        for held in [None, Some(&tombstone(()))] {
            assert_eq!(judge(&request(), held, HOUR), Judgement::Answer(Err(OsbError::gone())));
        }
    }

    #[test]
    fn a_repeated_delete_gets_the_same_operation() {
        assert_eq!(
            judge(&request(), Some(&deprovisioning(())), HOUR),
            Judgement::Answer(Ok(Answer::accepted(operation_id())))
        );
    }
}
