//! When nobody is left who was handed what a change left behind: the address of a cache whose place was taken, or the
//! password before this one.
//!
//! Whoever was handed it stands in the ledger as a binding. The leader looks from time to time whether the credentials of
//! one still lead elsewhere than the connection Secret does. When none do, what was left behind goes before its time of
//! grace is over. That is known only of what was ordered here: who reads the Secret of an instance of YAML, and whom the
//! broker before this one told, stands nowhere.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use parking_lot::RwLock;
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::api::{CacheInstance, Connection, PasswordStage, annotations};
use crate::ledger::{Handed, InstanceId, Issued, Ledger, LedgerError};
use crate::provider::kubernetes::Stores;

/// How often it is looked. Nothing is asked while nothing was left behind.
const SWEEP: Duration = Duration::from_secs(15);
/// Instances of one question.
const AT_ONCE: usize = 100;

/// The instances of which everybody follows, by uid, and the version of the connection Secret that everybody follows to.
/// Clones share it.
#[derive(Clone, Default)]
pub struct Departures(Arc<RwLock<HashMap<String, String>>>);

impl Departures {
    /// Whether nobody was handed anything else of an instance than what its connection Secret says now.
    pub fn are_over(&self, instance: &CacheInstance, secrets: &Stores) -> bool {
        let followed = instance.uid().and_then(|uid| self.0.read().get(&uid).cloned());
        followed.is_some() && followed == secret_of(instance, secrets).and_then(|secret| secret.resource_version())
    }

    /// Looks for ever. `nudge` hears of each instance of which it is news that everybody follows.
    pub async fn watch(
        &self,
        ledger: &Ledger,
        instances: &[Store<CacheInstance>],
        secrets: &Stores,
        nudge: &mpsc::Sender<ObjectRef<CacheInstance>>,
    ) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let waiting: Vec<_> = instances.iter().flat_map(Store::state).filter(left_behind).collect();
            let uids: HashSet<_> = waiting.iter().filter_map(|instance| instance.uid()).collect();
            self.0.write().retain(|uid, _| uids.contains(uid));
            for some in waiting.chunks(AT_ONCE) {
                match self.look(ledger, some, secrets).await {
                    Ok(news) => {
                        for reference in news {
                            // The receiver lives as long as the operator.
                            let _ = nudge.send(reference).await;
                        }
                    }
                    Err(error) => tracing::warn!(%error, "looking for bindings of before a change"),
                }
            }
        }
    }

    /// Looks at some instances. Returns those of which it is news that everybody follows.
    async fn look(
        &self,
        ledger: &Ledger,
        instances: &[Arc<CacheInstance>],
        secrets: &Stores,
    ) -> Result<Vec<ObjectRef<CacheInstance>>, LedgerError> {
        // What the Secret says is read before what was handed out: who binds between the two follows to something later.
        let published: Vec<_> = instances
            .iter()
            .filter_map(|instance| {
                let secret = secret_of(instance, secrets)?;
                let connection = Connection::from_secret_data(secret.data.as_ref()?)?;
                Some((instance, instance_id(instance)?, secret.resource_version()?, connection))
            })
            .collect();
        let ids: Vec<_> = published.iter().map(|(_, id, ..)| id.clone()).collect();
        let issued = ledger.issued(&ids).await?;
        let mut over = self.0.write();
        let news = published.into_iter().filter_map(|(instance, id, version, connection)| {
            let uid = instance.uid()?;
            let issued = issued.get(&id).filter(|issued| issued.uid.as_ref() == Some(&uid));
            if issued.is_some_and(|issued| everybody_follows(issued, &connection)) {
                let before = over.insert(uid, version.clone());
                (before != Some(version)).then(|| ObjectRef::from_obj(&**instance))
            } else {
                over.remove(&uid);
                None
            }
        });
        Ok(news.collect())
    }
}

fn instance_id(instance: &CacheInstance) -> Option<InstanceId> {
    instance.annotation(annotations::INSTANCE_ID)?.parse().ok()
}

/// Whether a change of an ordered instance left something behind.
fn left_behind(instance: &Arc<CacheInstance>) -> bool {
    let ordered = instance.annotation(annotations::INSTANCE_ID).is_some();
    let status = instance.status.as_ref();
    let left = status.is_some_and(|status| {
        let password = status.password.as_ref();
        !status.superseded.is_empty() || password.is_some_and(|password| password.stage == PasswordStage::Both)
    });
    ordered && left && instance.metadata.deletion_timestamp.is_none()
}

fn secret_of(instance: &CacheInstance, secrets: &Stores) -> Option<Arc<Secret>> {
    secrets.secret(
        &instance.namespace()?,
        &instance.name_any(),
        &instance.connection_secret_name(),
    )
}

/// Whether everybody who was handed a way to a cache, and everybody who is next, was handed this one.
fn everybody_follows(issued: &Issued, published: &Connection) -> bool {
    let next = issued.connection.as_ref();
    let next_follows = next.is_some_and(|next| {
        let password =
            |connection: &Connection| connection.password.as_ref().map(|text| text.expose_secret().to_owned());
        next.host == published.host && next.port == published.port && password(next) == password(published)
    });
    next_follows && !issued.taken_over && issued.bindings.iter().all(|handed| follows(handed, published))
}

fn follows(handed: &Handed, published: &Connection) -> bool {
    let members = handed.credentials.expose();
    let text = |key: &str| members.get(key).and_then(Value::as_str);
    let password = published.password.as_ref().map(ExposeSecret::expose_secret);
    text("host") == Some(published.host.as_str())
        && members.get("port").and_then(Value::as_u64) == Some(published.port.into())
        // Who has a password of its own keeps it.
        && (handed.own_user || text("password") == password)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{EngineType, ProviderKind};
    use crate::ledger::Credentials;

    fn connection(host: &str, password: Option<&str>) -> Connection {
        Connection {
            engine: EngineType::Redis,
            provider: ProviderKind::ElastiCache,
            host: host.to_owned(),
            port: 6379,
            tls: true,
            username: None,
            password: password.map(|password| password.to_owned().into()),
            nodes: Vec::new(),
        }
    }

    fn handed(host: &str, password: Option<&str>, own_user: bool) -> Handed {
        let members = json!({ "host": host, "port": 6379, "password": password });
        let Value::Object(mut members) = members else {
            unreachable!()
        };
        members.retain(|_, value| !value.is_null());
        Handed {
            credentials: Credentials::new(members),
            own_user,
        }
    }

    fn issued(bindings: Vec<Handed>) -> Issued {
        Issued {
            uid: Some("u".to_owned()),
            connection: Some(connection("new", Some("second"))),
            taken_over: false,
            bindings,
        }
    }

    #[test]
    fn what_was_left_behind_is_kept_for_each_binding_that_was_handed_it() {
        let now = connection("new", Some("second"));
        for (bindings, over) in [
            (vec![], true),
            (vec![handed("new", Some("second"), false)], true),
            (vec![handed("new", Some("its own"), true)], true),
            (vec![handed("old", Some("second"), false)], false),
            (vec![handed("old", Some("its own"), true)], false),
            (vec![handed("new", Some("first"), false)], false),
            (vec![handed("new", None, false)], false),
            (
                vec![
                    handed("new", Some("second"), false),
                    handed("old", Some("first"), false),
                ],
                false,
            ),
        ] {
            let shown = format!("{bindings:?}");
            assert_eq!(everybody_follows(&issued(bindings), &now), over, "{shown}");
        }
    }

    #[test]
    fn nothing_is_known_of_whom_another_broker_told_nor_before_the_ledger_has_followed() {
        let now = connection("new", Some("second"));
        let taken_over = Issued {
            taken_over: true,
            ..issued(vec![])
        };
        assert!(!everybody_follows(&taken_over, &now));
        // Who binds next would be handed what was before.
        for next in [
            None,
            Some(connection("old", Some("second"))),
            Some(connection("new", None)),
        ] {
            let behind = Issued {
                connection: next,
                ..issued(vec![])
            };
            assert!(!everybody_follows(&behind, &now));
        }
        assert!(everybody_follows(
            &Issued {
                connection: Some(connection("new", None)),
                ..issued(vec![handed("new", None, false)])
            },
            &connection("new", None)
        ));
    }

    #[test]
    fn only_ordered_instances_that_changed_are_looked_at() {
        let instance = |annotated: bool, status: Value| {
            let annotations = if annotated {
                json!({ annotations::INSTANCE_ID: "i" })
            } else {
                json!({})
            };
            let instance: CacheInstance = serde_json::from_value(json!({
                "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
                "metadata": { "name": "i", "namespace": "n", "annotations": annotations },
                "spec": { "planRef": { "name": "p" } }, "status": status,
            }))
            .unwrap();
            Arc::new(instance)
        };
        let superseded = json!({ "superseded": [{
            "provider": "elasticache", "providerId": "x",
            "since": "2026-11-25T00:00:00Z", "until": "2026-11-26T00:00:00Z",
        }] });
        let password = |stage: &str| json!({ "password": { "secretVersion": "1", "stage": stage } });
        for (annotated, status, looked_at) in [
            (true, superseded.clone(), true),
            (false, superseded, false),
            (true, password("both"), true),
            (true, password("alone"), false),
            (true, password("adding"), false),
            (true, json!({}), false),
        ] {
            let shown = format!("{annotated} {status}");
            assert_eq!(left_behind(&instance(annotated, status)), looked_at, "{shown}");
        }
    }
}
