//! Counts what is sent to AWS, each try of a call by itself.

use std::time::Instant;

use aws_sdk_elasticache::config::interceptors::{
    BeforeSerializationInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_sdk_elasticache::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_elasticache::error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::{HttpResponse, Metadata};
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use crate::telemetry::metrics::record::{self, Answer};

/// Sees every try of every call.
#[derive(Debug)]
pub(super) struct Counting;

/// When a call began.
#[derive(Debug)]
struct Began(Instant);

impl Storable for Began {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Counting {
    fn name(&self) -> &'static str {
        "Counting"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        bag.interceptor_state().store_put(Began(Instant::now()));
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        record::aws_call(operation(bag), answer(context.response()));
        Ok(())
    }

    fn read_after_execution(
        &self,
        _: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(Began(began)) = bag.load::<Began>() {
            record::aws_call_ended(operation(bag), began.elapsed());
        }
        Ok(())
    }
}

fn operation(bag: &ConfigBag) -> &str {
    bag.load::<Metadata>().map_or("unknown", Metadata::name)
}

fn answer(response: Option<&HttpResponse>) -> Answer {
    let Some(response) = response else {
        return Answer::Lost;
    };
    if response.status().is_success() {
        return Answer::Done;
    }
    let body = response.body().bytes().unwrap_or_default();
    sorted(response.status().as_u16(), code(&String::from_utf8_lossy(body)))
}

/// The code of an error of the query protocol. It stands in the body only.
fn code(body: &str) -> &str {
    let rest = body.split_once("<Code>").map_or("", |(_, rest)| rest);
    rest.split_once("</Code>").map_or("", |(code, _)| code)
}

/// Codes are irregular, but what is counted apart has its word in them.
fn sorted(status: u16, code: &str) -> Answer {
    let has = |words: &[&str]| words.iter().any(|word| code.contains(word));
    if has(&["Throttl", "TooManyRequests", "RequestLimitExceeded", "CallRate"]) || status == 429 {
        Answer::Throttled
    } else if status >= 500 {
        Answer::Failed
    } else if has(&["NotFound"]) {
        Answer::NotFound
    } else if has(&["Quota", "LimitExceeded"]) {
        Answer::Quota
    } else if has(&[
        "AccessDenied",
        "Unauthorized",
        "NotAuthorized",
        "InvalidClientTokenId",
        "UnrecognizedClient",
        "ExpiredToken",
        "SignatureDoesNotMatch",
        "AuthFailure",
        "MissingAuthenticationToken",
        "OptInRequired",
    ]) || status == 401
    {
        Answer::Denied
    } else {
        Answer::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_must_act_on_is_told_apart() {
        let body = |code: &str| {
            format!("<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code></Error></ErrorResponse>")
        };
        for (status, text, answer) in [
            (400, "Throttling", Answer::Throttled),
            (400, "APICallRateForCustomerExceeded", Answer::Throttled),
            (503, "ThrottlingException", Answer::Throttled),
            (503, "ServiceUnavailable", Answer::Failed),
            (404, "CacheClusterNotFound", Answer::NotFound),
            (404, "ReplicationGroupNotFoundFault", Answer::NotFound),
            (400, "NodeQuotaForCustomerExceeded", Answer::Quota),
            (403, "AccessDenied", Answer::Denied),
            (403, "ExpiredToken", Answer::Denied),
            (400, "InvalidCacheClusterState", Answer::Refused),
            (400, "", Answer::Refused),
        ] {
            let text = body(text);
            assert_eq!(sorted(status, code(&text)), answer, "{status} {text}");
        }
        assert_eq!(answer(None), Answer::Lost);
    }
}
