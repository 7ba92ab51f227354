//! Kubernetes bearer tokens: who one belongs to says a TokenReview, whether they may use the broker a
//! SubjectAccessReview on the non-resource path [`PATH`], with the request's method as the verb. What the API server said
//! holds for some seconds.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use http::Method;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::error::OsbError;

/// The path that callers must be allowed to use by RBAC (`nonResourceURLs`).
pub const PATH: &str = "/v2";
/// How long an answer holds.
const FRESH: Duration = Duration::from_secs(10);
/// How many answers are kept.
const KEPT: usize = 1024;
/// How long both reviews together may take, waiting for room included.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many reviews go on at one time.
const AT_ONCE: usize = 16;
/// The longest token.
const MAX_TOKEN: usize = 16 * 1024;

/// What the API server says of a token and a verb.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// It belongs to that user, who may.
    Allowed(String),
    /// It belongs to that user, who may not.
    Forbidden(String),
    /// It belongs to nobody.
    Unknown,
}

impl Verdict {
    fn caller(self) -> Result<String, OsbError> {
        match self {
            Self::Allowed(user) => Ok(format!("kubernetes:{user}")),
            Self::Forbidden(user) => Err(OsbError::forbidden(format!(
                "{user} may not use this broker: allow the verb of the request on nonResourceURLs [{PATH}] by RBAC"
            ))),
            Self::Unknown => Err(OsbError::unauthorized()),
        }
    }
}

/// A token's digest, and a verb.
type Key = ([u8; 32], String);

/// Answers that are fresh enough, at most so many.
#[derive(Debug, Default)]
struct Verdicts(HashMap<Key, (Instant, Verdict)>);

impl Verdicts {
    fn get(&self, key: &Key, now: Instant) -> Option<Verdict> {
        let (at, verdict) = self.0.get(key)?;
        (now.saturating_duration_since(*at) < FRESH).then(|| verdict.clone())
    }

    fn put(&mut self, key: Key, verdict: Verdict, now: Instant) {
        if self.0.len() >= KEPT {
            self.0.retain(|_, (at, _)| now.saturating_duration_since(*at) < FRESH);
        }
        // All of them are fresh: more callers than is worth remembering.
        if self.0.len() >= KEPT {
            self.0.clear();
        }
        self.0.insert(key, (now, verdict));
    }
}

/// Asks the API server about tokens.
pub struct Tokens {
    client: Client,
    /// For whom a token must be meant; the API server itself if absent.
    audience: Option<String>,
    known: Mutex<Verdicts>,
    room: Semaphore,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// Tokens as that API server knows them.
    pub fn new(client: Client, audience: Option<String>) -> Self {
        Self {
            client,
            audience,
            known: Mutex::default(),
            room: Semaphore::new(AT_ONCE),
        }
    }

    /// The name of whom a token belongs to.
    ///
    /// # Errors
    /// When it belongs to nobody, or to somebody who may not, or the API server does not answer.
    pub(super) async fn caller(&self, token: &str, method: &Method) -> Result<String, OsbError> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(OsbError::unauthorized());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let key = (hash, method.as_str().to_ascii_lowercase());
        let known = self.known.lock().get(&key, Instant::now());
        if let Some(verdict) = known {
            return verdict.caller();
        }
        let review = async {
            let _permit = self.room.acquire().await.ok();
            self.review(token, &key.1).await
        };
        let verdict = match tokio::time::timeout(DEADLINE, review).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => return Err(unreachable(&error.to_string())),
            Err(_) => return Err(unreachable("no answer in time")),
        };
        self.known.lock().put(key, verdict.clone(), Instant::now());
        verdict.caller()
    }

    async fn review(&self, token: &str, verb: &str) -> kube::Result<Verdict> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: self.audience.clone().map(|audience| vec![audience]),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let status = api
            .create(&PostParams::default(), &review)
            .await?
            .status
            .unwrap_or_default();
        // An API server that knows no audiences answers none, and has checked for its own only.
        let meant_for_us = self.audience.as_ref().is_none_or(|audience| {
            let audiences = status.audiences.as_deref().unwrap_or_default();
            audiences.contains(audience)
        });
        let user = status.user.unwrap_or_default();
        let (Some(true), true, Some(name)) = (status.authenticated, meant_for_us, user.username.clone()) else {
            return Ok(Verdict::Unknown);
        };
        let access = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(name.clone()),
                uid: user.uid,
                groups: user.groups,
                extra: user.extra,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(PATH.to_owned()),
                    verb: Some(verb.to_owned()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let allowed = api.create(&PostParams::default(), &access).await?;
        let allowed = allowed.status.is_some_and(|status| status.allowed);
        Ok(if allowed {
            Verdict::Allowed(name)
        } else {
            Verdict::Forbidden(name)
        })
    }
}

fn unreachable(reason: &str) -> OsbError {
    tracing::warn!(%reason, "a bearer token could not be reviewed");
    OsbError::unavailable("the broker cannot ask Kubernetes whom this token belongs to: try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        (hash, "get".to_owned())
    }

    #[test]
    fn an_answer_holds_for_seconds_and_for_its_verb() {
        let mut known = Verdicts::default();
        let start = Instant::now();
        known.put(key(1), Verdict::Unknown, start);
        assert_eq!(known.get(&key(1), start + FRESH / 2), Some(Verdict::Unknown));
        assert_eq!(known.get(&key(1), start + FRESH), None);
        let other = (key(1).0, "put".to_owned());
        assert_eq!(known.get(&other, start), None);
    }

    #[test]
    fn no_more_answers_are_kept_than_are_worth_it() {
        let mut known = Verdicts::default();
        let start = Instant::now();
        for number in 0..10 * KEPT {
            known.put(key(number), Verdict::Unknown, start);
            assert!(known.0.len() <= KEPT);
        }
        assert_eq!(known.get(&key(10 * KEPT - 1), start), Some(Verdict::Unknown));
    }
}
