//! A password is changed where the cache stands, and nobody is shut out before the time of grace is over.

use std::time::Duration;

use k8s_openapi::ByteString;
use serde_json::Value;

use super::super::super::fixtures::modified;
use super::*;
use crate::provider::{Token, TokenStage};

/// One that answers, as its status, its Secrets and ElastiCache have it.
struct Stage {
    desired: Desired,
    observed: Observed,
    now: Timestamp,
}

const ROTATE: Modification = Modification::Token(TokenStrategy::Rotate);
const SET: Modification = Modification::Token(TokenStrategy::Set);

fn auth_of(password: &str, version: &str) -> Arc<Secret> {
    let mut secret = Secret {
        data: Some([("password".to_owned(), ByteString(password.as_bytes().to_vec()))].into()),
        ..Secret::default()
    };
    secret.metadata.resource_version = Some(version.to_owned());
    Arc::new(secret)
}

impl Stage {
    /// A redis with TLS that asks for a password, or for none.
    fn new(authentication: &str) -> Self {
        let spec =
            json!({ "nodeType": "cache.t4g.micro", "transitEncryption": true, "authentication": authentication });
        let plan = plan("redis", "7.1", &spec);
        let live = made(&plan, 0);
        let mut desired = desired(plan);
        desired.was_ready = true;
        desired.grace = Duration::from_secs(3600);
        desired.record.serving = Some(Place::ElastiCache(proven(0, GROUP)));
        let mut observed = observed_at(proven(0, GROUP), Some(live));
        if authentication == "token" {
            observed
                .secrets
                .insert("i-auth".to_owned(), auth_of("old-old-old-old-old", "1"));
        }
        let mut stage = Self {
            desired,
            observed,
            now: at("2026-11-25T00:00:00Z"),
        };
        stage.rest();
        stage
    }

    fn wants(&mut self, authentication: &str) {
        let spec = self.desired.plan.elasticache.as_mut().unwrap();
        spec.authentication = serde_json::from_value(Value::from(authentication)).unwrap();
    }

    fn say(&self) -> Decision<Step> {
        run_at(&self.desired, &self.observed, self.now)
    }

    /// Takes steps until nothing is left to do now; the changes that were asked for, and what applications were told at
    /// each.
    fn rest(&mut self) -> (Vec<(Modification, Option<String>)>, Decision<Step>) {
        let mut asked = Vec::new();
        for _ in 0..20 {
            let decision = self.say();
            self.desired.record = decision.report.record.clone();
            match &decision.step {
                Next::Rest => return (asked, decision),
                Next::Act(step) => self.act(step, &mut asked),
                other => panic!("{other:?}"),
            }
        }
        panic!("no end: {asked:?}");
    }

    fn act(&mut self, step: &Step, asked: &mut Vec<(Modification, Option<String>)>) {
        match step {
            Step::Secret(SecretStep::CreateAuth) => {
                self.observed
                    .secrets
                    .insert("i-auth".to_owned(), auth_of("new-new-new-new-new", "7"));
            }
            Step::Secret(SecretStep::ApplyConnection(data)) => {
                self.observed.secrets.extend([secret("i-connection", data.clone())]);
            }
            Step::Token { strategy, before, .. } => {
                let modification = Modification::Token(*strategy);
                let live = self.observed.live.take().unwrap();
                assert_eq!(
                    *before, live.config.token_changed,
                    "it is on condition of what was seen"
                );
                asked.push((modification.clone(), self.told()));
                self.observed.live = Some(modified(live, &modification));
            }
            Step::Modify(_, modification) => {
                asked.push((modification.clone(), self.told()));
                self.observed.live = self.observed.live.take().map(|live| modified(live, modification));
            }
            other => panic!("{other:?}"),
        }
    }

    /// What applications are told.
    fn told(&self) -> Option<String> {
        secrets::value(self.observed.secrets.get("i-connection")?, "password").filter(|password| !password.is_empty())
    }

    fn later(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    fn stage(&self) -> Option<TokenStage> {
        self.desired.record.token.clone().map(|token| token.stage)
    }
}

#[test]
fn a_password_comes_in_two_calls_and_applications_know_it_between_them() {
    let mut cache = Stage::new("none");
    assert_eq!((cache.told(), cache.stage()), (None, None));
    cache.wants("token");
    let (asked, decision) = cache.rest();
    assert_eq!(asked, [(ROTATE, None)], "nobody is told of it before it is let in");
    assert_eq!(cache.told().as_deref(), Some("new-new-new-new-new"));
    assert_eq!(
        (decision.report.progress, decision.report.reason),
        (Progress::Ready, Reason::Available)
    );
    assert!(
        decision.report.message.contains("2026-11-25T01:00:00Z"),
        "{}",
        decision.report.message
    );
    assert_eq!(decision.again, Again::After(Duration::from_secs(3600)));
    cache.later(3599);
    assert_eq!(cache.rest().0, []);
    cache.later(1);
    let told = cache.told();
    assert_eq!(cache.rest().0, [(SET, told)]);
    assert_eq!(cache.stage(), Some(TokenStage::Alone));
    let rested = cache.say();
    assert_eq!((rested.step, rested.again), (Next::Rest, Again::OnChange));
    // To do without again takes another cache.
    cache.wants("none");
    assert!(
        must_replace(
            &cache.desired,
            cache.desired.plan.elasticache.as_ref().unwrap(),
            cache.observed.live.as_ref().unwrap()
        )
        .is_some()
    );
}

/// ElastiCache says of a group that is being changed already that it asks for a password.
#[test]
fn a_first_password_is_told_once_it_is_let_in_and_set_in_the_end() {
    let mut cache = Stage::new("none");
    cache.wants("token");
    let asked = loop {
        let decision = cache.say();
        cache.desired.record = decision.report.record.clone();
        match &decision.step {
            Next::Act(Step::Token { strategy, .. }) => break Modification::Token(*strategy),
            Next::Act(step) => cache.act(step, &mut Vec::new()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked, ROTATE);
    let live = cache.observed.live.take().map(|live| modified(live, &asked));
    cache.observed.live = live.map(|live| Live {
        phase: Phase::Modifying,
        ..live
    });
    assert!(cache.observed.live.as_ref().unwrap().config.authentication);
    assert_eq!(cache.rest().0, []);
    assert_eq!(cache.told(), None);
    cache.observed.live.as_mut().unwrap().phase = Phase::Available;
    assert_eq!(cache.rest().0, []);
    let told = cache.told();
    assert_eq!(told.as_deref(), Some("new-new-new-new-new"));
    cache.desired.release_superseded = true;
    assert_eq!(cache.rest().0, [(SET, told)]);
}

#[test]
fn another_password_in_the_secret_is_let_in_beside_the_one_before() {
    let mut cache = Stage::new("token");
    assert_eq!(cache.stage(), Some(TokenStage::Alone), "it was made with it");
    cache
        .observed
        .secrets
        .insert("i-auth".to_owned(), auth_of("other-other-other", "2"));
    let old = cache.told();
    assert_eq!(old.as_deref(), Some("old-old-old-old-old"));
    assert_eq!(cache.rest().0, [(ROTATE, old)]);
    assert_eq!(cache.told().as_deref(), Some("other-other-other"));
    cache.desired.release_superseded = true;
    let told = cache.told();
    assert_eq!(cache.rest().0, [(SET, told)], "nobody uses the old one any more");
    // A Secret that is written and says the same is no other password.
    cache
        .observed
        .secrets
        .insert("i-auth".to_owned(), auth_of("other-other-other", "3"));
    assert_eq!(cache.rest().0, []);
    assert_eq!(cache.desired.record.token.as_ref().unwrap().secret_version, "3");
}

/// The connection Secret follows from the other one, and is no other password when somebody writes it.
#[test]
fn what_somebody_wrote_into_the_connection_is_put_right() {
    let mut cache = Stage::new("token");
    let mut data = cache.observed.secrets["i-connection"].data.clone().unwrap();
    data.insert("password".to_owned(), ByteString(b"somebodys".to_vec()));
    cache.observed.secrets.extend([secret("i-connection", data)]);
    assert_eq!(cache.rest().0, []);
    assert_eq!(cache.told().as_deref(), Some("old-old-old-old-old"));
}

#[test]
fn a_call_whose_answer_is_lost_is_not_made_twice_and_one_that_failed_is() {
    for arrives in [true, false] {
        let mut cache = Stage::new("token");
        cache
            .observed
            .secrets
            .insert("i-auth".to_owned(), auth_of("other-other-other", "2"));
        let decision = cache.say();
        let Next::Act(Step::Token { strategy, .. }) = &decision.step else {
            panic!("{decision:?}")
        };
        let modification = &Modification::Token(*strategy);
        assert_eq!(*modification, ROTATE);
        // The status stands before the call.
        cache.desired.record = decision.report.record.clone();
        assert_eq!(cache.stage(), Some(TokenStage::Adding { before: None }));
        if arrives {
            let live = cache.observed.live.take().map(|live| modified(live, modification));
            cache.observed.live = live.map(|live| Live {
                phase: Phase::Modifying,
                ..live
            });
            assert_eq!(cache.rest().0, [], "it is waited for");
            assert_eq!(
                cache.told().as_deref(),
                Some("old-old-old-old-old"),
                "and not told before"
            );
            cache.observed.live.as_mut().unwrap().phase = Phase::Available;
        }
        let asked = cache.rest().0;
        assert_eq!(asked.len(), usize::from(!arrives), "{asked:?}");
        assert_eq!(cache.told().as_deref(), Some("other-other-other"));
    }
}

#[test]
fn a_password_that_changes_again_on_its_way_is_followed() {
    let mut cache = Stage::new("token");
    for (password, version) in [("second-second-second", "2"), ("third-third-third", "3")] {
        cache
            .observed
            .secrets
            .insert("i-auth".to_owned(), auth_of(password, version));
        let told = cache.told();
        assert_eq!(cache.rest().0, [(ROTATE, told)]);
        assert_eq!(cache.told().as_deref(), Some(password));
    }
    cache.later(3600);
    let told = cache.told();
    assert_eq!(cache.rest().0, [(SET, told)]);
    // Put back before it was let in: nothing was changed.
    cache
        .observed
        .secrets
        .insert("i-auth".to_owned(), auth_of("fourth-fourth-fourth", "4"));
    let decision = cache.say();
    cache.desired.record = decision.report.record;
    cache
        .observed
        .secrets
        .insert("i-auth".to_owned(), auth_of("third-third-third", "5"));
    assert_eq!(cache.rest().0, []);
    let expected = Token {
        secret_version: "5".to_owned(),
        stage: TokenStage::Alone,
    };
    assert_eq!(cache.desired.record.token, Some(expected));
}

#[test]
fn encryption_comes_before_the_password_that_needs_it() {
    let mut cache = Stage::new("none");
    let spec = cache.desired.plan.elasticache.as_mut().unwrap();
    spec.transit_encryption = Some(false);
    cache.rest();
    cache.wants("token");
    cache.desired.plan.elasticache.as_mut().unwrap().transit_encryption = Some(true);
    let asked: Vec<_> = cache
        .rest()
        .0
        .into_iter()
        .map(|(modification, _)| modification)
        .collect();
    let [Modification::Settings(first), Modification::Settings(second), last] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!((first.tls, second.tls), (Some(Tls::Preferred), Some(Tls::Required)));
    assert_eq!(*last, ROTATE);
}

use super::super::super::Tls;
