//! Which version of its engine a Pod runs, as its server says it: an image says no more than its tag.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use secrecy::SecretString;

use super::super::{Desired, secrets};
use super::observed::Observed;
use super::users;
use crate::api::EngineType;
use crate::wire::{self, Trust};

/// How long a Pod may take to say it. Where a NetworkPolicy keeps the operator out none ever does.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many answers are kept.
const KEPT: usize = 10_000;

/// What Pods said, by uid. Each is asked once: it runs what it runs until it ends.
#[derive(Debug, Default)]
pub struct Versions(Mutex<HashMap<String, Option<String>>>);

impl Versions {
    /// Notes what an instance's ready Pods run.
    pub async fn ask(&self, trust: &Trust, desired: &Desired, observed: &mut Observed) {
        let password = observed
            .secrets
            .get(&desired.auth_secret())
            .and_then(|secret| secrets::password(secret));
        let asked = observed.pods.iter().filter_map(|(name, pod)| {
            let address = users::address(pod, desired.plan.engine.type_)?;
            Some((name.clone(), pod.metadata.uid.clone()?, address))
        });
        let answers = asked.map(|(name, uid, address)| {
            let known = self.0.lock().get(&uid).cloned();
            let password = password.as_ref();
            async move {
                let version = match known {
                    Some(known) => known,
                    None => self.asked(trust, desired, &address, password, uid).await,
                };
                Some((name, version?))
            }
        });
        observed.versions = join_all(answers).await.into_iter().flatten().collect();
    }

    async fn asked(
        &self,
        trust: &Trust,
        desired: &Desired,
        address: &str,
        password: Option<&SecretString>,
        uid: String,
    ) -> Option<String> {
        let target = users::target(desired, trust, address, password).within(PATIENCE);
        let reply = wire::stats(&target).await.pop();
        let said = reply.and_then(|reply| reply.outcome.ok());
        let keys = match desired.plan.engine.type_ {
            EngineType::Memcached => &["version"][..],
            EngineType::Redis => &["redis_version"],
            EngineType::Valkey => &["valkey_version", "redis_version"],
        };
        let version = said.and_then(|said| keys.iter().find_map(|key| said.get(*key)).cloned());
        let mut kept = self.0.lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(uid, version.clone());
        version
    }
}
