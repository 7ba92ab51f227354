//! OSB 2.17, "Unbinding".

use std::time::Duration;

use super::{Answer, Reply};
use crate::ledger::{Bindable, Binding, BindingState, Held, Judgement, NewUnbinding};
use crate::osb::error::OsbError;
use crate::osb::request::UnbindRequest;

/// The decision. What is not there is gone, whatever else is wrong with the request. A binding that is being made is
/// halted.
pub fn judge(
    request: &UnbindRequest,
    held: Option<&Held<Bindable>>,
    existing: Option<&Binding>,
    deadline: Duration,
) -> Judgement<Reply, NewUnbinding> {
    let held = held.filter(|held| held.instance.deleted_at.is_none());
    let (Some(held), Some(existing)) = (held, existing) else {
        return Judgement::Answer(Err(OsbError::gone()));
    };
    if let Some(fault) = &request.fault {
        return Judgement::Answer(Err(fault.clone()));
    }
    // Of a cache that is lost nothing is to be revoked, and nobody would say that it was.
    let lost = held.instance.reason.as_deref() == Some("Missing");
    if existing.username.is_none() || lost {
        return Judgement::Accept(NewUnbinding::Now);
    }
    if !request.accepts_incomplete {
        return Judgement::Answer(Err(OsbError::async_required()));
    }
    match (existing.state, existing.running) {
        (BindingState::Unbinding, Some(operation)) => Judgement::Answer(Ok(Answer::accepted(operation))),
        _ => Judgement::Accept(NewUnbinding::Revoke(deadline)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::*;
    use super::*;
    use crate::osb::error::Code;

    const HOUR: Duration = Duration::from_secs(3600);

    fn request(accepts_incomplete: bool) -> UnbindRequest {
        UnbindRequest {
            accepts_incomplete,
            fault: None,
        }
    }

    fn bound() -> Binding {
        binding_with_user(BindingState::Bound, false)
    }

    fn judged(request: &UnbindRequest, existing: &Binding) -> Judgement<Reply, NewUnbinding> {
        judge(request, Some(&held(Bindable::default())), Some(existing), HOUR)
    }

    /// OSB 2.17, "Unbinding", "Response": 410, and 400 only for what exists.
    #[test]
    fn what_is_not_there_is_gone_whatever_else_is_wrong() {
        let faulty = UnbindRequest {
            fault: Some(OsbError::bad_request("no ids")),
            ..request(false)
        };
        let (resting, gone) = (held(Bindable::default()), tombstone(Bindable::default()));
        for (held, existing) in [
            (None, None),
            (None, Some(bound())),
            (Some(&gone), Some(bound())),
            (Some(&resting), None),
        ] {
            for request in [&faulty, &request(false)] {
                assert_eq!(
                    judge(request, held, existing.as_ref(), HOUR),
                    Judgement::Answer(Err(OsbError::gone()))
                );
            }
        }
        assert_eq!(
            judged(&faulty, &bound()),
            Judgement::Answer(Err(OsbError::bad_request("no ids")))
        );
    }

    /// OSB 2.17, "Synchronous Operations".
    #[test]
    fn what_shared_a_password_is_unbound_at_once_whatever_goes_on() {
        let shared = existing_binding();
        for held in [
            held(Bindable::default()),
            updating(Bindable::default()),
            deprovisioning(Bindable::default()),
        ] {
            for patient in [true, false] {
                assert_eq!(
                    judge(&request(patient), Some(&held), Some(&shared), HOUR),
                    Judgement::Accept(NewUnbinding::Now)
                );
            }
        }
    }

    /// OSB 2.17, "Unbinding": asynchronous; a delete while it is made halts that; one that failed may be tried again.
    #[test]
    fn a_user_is_revoked_by_an_operation() {
        for existing in [
            bound(),
            binding_with_user(BindingState::Binding, true),
            binding_with_user(BindingState::Unbinding, false),
        ] {
            assert_eq!(
                judged(&request(true), &existing),
                Judgement::Accept(NewUnbinding::Revoke(HOUR))
            );
            let Judgement::Answer(Err(error)) = judged(&request(false), &existing) else {
                panic!("no refusal");
            };
            assert_eq!(error.code(), Some(Code::AsyncRequired));
        }
    }

    /// OSB 2.17, "Unbinding", "Response": a re-sent DELETE is 202 with the same operation until it is done.
    #[test]
    fn a_repeated_unbinding_gets_the_same_operation() {
        let removing = binding_with_user(BindingState::Unbinding, true);
        assert_eq!(
            judged(&request(true), &removing),
            Judgement::Answer(Ok(Answer::accepted(operation_id())))
        );
    }

    #[test]
    fn nothing_is_revoked_in_a_cache_that_is_lost() {
        let mut missing = held(Bindable::default());
        missing.instance.reason = Some("Missing".to_owned());
        assert_eq!(
            judge(&request(false), Some(&missing), Some(&bound()), HOUR),
            Judgement::Accept(NewUnbinding::Now)
        );
    }
}
