//! What an instance's status keeps about its caches in the providers, read and written.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::api::{
    CacheInstance, CacheInstanceStatus, PasswordStage, PasswordStatus, ProviderKind, ProviderTags, Replacement,
    RestartStatus, Superseded as SupersededStatus, Topology, UserStatus,
};
use crate::provider::elasticache::{Tagged, Target};
use crate::provider::users::UserRecord;
use crate::provider::{Cluster, Place, Record, Restart, RestartingNode, Superseded, Token, TokenStage};

/// What the status of an instance keeps.
pub fn record(instance: &CacheInstance) -> Record {
    let Some(status) = &instance.status else {
        return Record::default();
    };
    let provider = status.provider.or_else(|| Some(status.plan.as_ref()?.provider));
    Record {
        serving: provider.zip(status.provider_id.clone()).map(|(provider, id)| {
            place(Replacement {
                provider,
                provider_id: id,
                provider_arn: status.provider_arn.clone(),
                topology: status.topology,
                generation: status.provider_generation,
                tags: status.provider_tags.clone(),
            })
        }),
        replacement: status.replacement.clone().map(place),
        superseded: status
            .superseded
            .iter()
            .map(|superseded| Superseded {
                place: place(superseded.cache.clone()),
                since: superseded.since.0,
                until: superseded.until.0,
            })
            .collect(),
        restart: status.restart.as_ref().map(|restart| Restart {
            requested: restart.requested.0,
            done: restart.done.clone(),
            current: restart.node.clone().map(|id| RestartingNode {
                id,
                seen: restart.seen.unwrap_or_default(),
            }),
        }),
        restarted_at: status.restarted_at.as_ref().map(|time| time.0),
        restored_from: status.restored_from.clone(),
        users: status
            .users
            .iter()
            .map(|user| UserRecord {
                name: user.name.clone(),
                ready: user.ready,
                secret_version: user.secret_version.clone(),
            })
            .collect(),
        user_group: status.user_group.clone(),
        token: status.password.clone().map(token),
        unknown_since: status.unknown_since.as_ref().map(|time| time.0),
    }
}

fn token(written: PasswordStatus) -> Token {
    let PasswordStatus {
        secret_version,
        stage,
        since,
        before,
    } = written;
    let stage = match (stage, since) {
        (PasswordStage::Adding, _) => TokenStage::Adding { before },
        (PasswordStage::Both, since) => TokenStage::Both {
            since: since.map_or(Timestamp::UNIX_EPOCH, |since| since.0),
        },
        (PasswordStage::Setting, _) => TokenStage::Setting { before },
        (PasswordStage::Alone, _) => TokenStage::Alone,
    };
    Token { secret_version, stage }
}

fn password(token: &Token) -> PasswordStatus {
    let (stage, since, before) = match token.stage.clone() {
        TokenStage::Adding { before } => (PasswordStage::Adding, None, before),
        TokenStage::Both { since } => (PasswordStage::Both, Some(Time(since)), None),
        TokenStage::Setting { before } => (PasswordStage::Setting, None, before),
        TokenStage::Alone => (PasswordStage::Alone, None, None),
    };
    PasswordStatus {
        secret_version: token.secret_version.clone(),
        stage,
        since,
        before,
    }
}

/// A status that keeps a record and says nothing else.
pub fn recorded(instance: &CacheInstance, record: &Record) -> CacheInstanceStatus {
    let serving = record.serving.as_ref().map(|place| written(instance, place));
    CacheInstanceStatus {
        provider: serving.as_ref().map(|serving| serving.provider),
        topology: serving.as_ref().and_then(|serving| serving.topology),
        provider_arn: serving.as_ref().and_then(|serving| serving.provider_arn.clone()),
        provider_generation: serving.as_ref().and_then(|serving| serving.generation),
        provider_tags: serving.as_ref().and_then(|serving| serving.tags.clone()),
        provider_id: serving.map(|serving| serving.provider_id),
        replacement: record.replacement.as_ref().map(|place| written(instance, place)),
        superseded: record
            .superseded
            .iter()
            .map(|superseded| SupersededStatus {
                cache: written(instance, &superseded.place),
                since: Time(superseded.since),
                until: Time(superseded.until),
            })
            .collect(),
        restart: record.restart.as_ref().map(|restart| RestartStatus {
            requested: Time(restart.requested),
            done: restart.done.clone(),
            node: restart.current.as_ref().map(|node| node.id.clone()),
            seen: restart.current.as_ref().map(|node| node.seen),
        }),
        restarted_at: record.restarted_at.map(Time),
        restored_from: record.restored_from.clone(),
        users: record
            .users
            .iter()
            .map(|user| UserStatus {
                name: user.name.clone(),
                ready: user.ready,
                secret_version: user.secret_version.clone(),
            })
            .collect(),
        user_group: record.user_group.clone(),
        password: record.token.as_ref().map(password),
        unknown_since: record.unknown_since.map(Time),
        ..CacheInstanceStatus::default()
    }
}

fn place(written: Replacement) -> Place {
    match written.provider {
        ProviderKind::Kubernetes => Place::Kubernetes,
        ProviderKind::ElastiCache => Place::ElastiCache(Cluster {
            target: Target {
                topology: written.topology.unwrap_or(Topology::ReplicationGroup),
                id: written.provider_id,
            },
            arn: written.provider_arn,
            generation: written.generation.unwrap_or_default(),
            tagged: written.tags.map_or_else(Tagged::default, |tags| Tagged {
                keys: tags.keys.into_iter().collect(),
                digest: tags.digest,
            }),
        }),
    }
}

fn written(instance: &CacheInstance, place: &Place) -> Replacement {
    match place {
        Place::Kubernetes => Replacement {
            provider: ProviderKind::Kubernetes,
            provider_id: format!("{}/{}", instance.namespace().unwrap_or_default(), instance.name_any()),
            provider_arn: None,
            topology: None,
            generation: None,
            tags: None,
        },
        Place::ElastiCache(cluster) => Replacement {
            provider: ProviderKind::ElastiCache,
            provider_id: cluster.target.id.clone(),
            provider_arn: cluster.arn.clone(),
            topology: Some(cluster.target.topology),
            generation: Some(cluster.generation),
            tags: (cluster.tagged != Tagged::default()).then(|| ProviderTags {
                keys: cluster.tagged.keys.iter().cloned().collect(),
                digest: cluster.tagged.digest.clone(),
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn instance() -> CacheInstance {
        serde_json::from_value(json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance",
            "metadata": { "name": "i", "namespace": "n" }, "spec": { "planRef": { "name": "p" } },
        }))
        .unwrap()
    }

    fn any_place() -> impl Strategy<Value = Place> {
        let cluster = (
            "[a-z]{1,9}",
            any::<bool>(),
            proptest::option::of("arn:[a-z]{3}"),
            any::<u32>(),
            prop::collection::btree_set("[a-z]{1,3}", 0..3),
            proptest::option::of("[0-9a-f]{4}"),
        );
        prop_oneof![
            Just(Place::Kubernetes),
            cluster.prop_map(
                |(id, group, arn, generation, keys, digest)| Place::ElastiCache(Cluster {
                    target: Target {
                        topology: if group {
                            Topology::ReplicationGroup
                        } else {
                            Topology::CacheCluster
                        },
                        id,
                    },
                    arn,
                    generation,
                    tagged: Tagged { keys, digest },
                })
            ),
        ]
    }

    fn any_time() -> impl Strategy<Value = Timestamp> {
        (0i64..4_000_000_000).prop_map(|second| Timestamp::from_second(second).unwrap())
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let superseded =
            (any_place(), any_time(), any_time()).prop_map(|(place, since, until)| Superseded { place, since, until });
        let user = ("[a-z]{1,9}", any::<bool>(), proptest::option::of("[0-9]{1,9}")).prop_map(
            |(name, ready, secret_version)| UserRecord {
                name,
                ready,
                secret_version,
            },
        );
        let users = (prop::collection::vec(user, 0..3), proptest::option::of("[a-z]{1,9}"));
        let node = ("[0-9]{4}", any::<bool>()).prop_map(|(id, seen)| RestartingNode { id, seen });
        let moment = || proptest::option::of("[0-9]{9}");
        let stage = prop_oneof![
            moment().prop_map(|before| TokenStage::Adding { before }),
            any_time().prop_map(|since| TokenStage::Both { since }),
            moment().prop_map(|before| TokenStage::Setting { before }),
            Just(TokenStage::Alone),
        ];
        let token = ("[0-9]{1,9}", stage).prop_map(|(secret_version, stage)| Token { secret_version, stage });
        let token = proptest::option::of(token);
        let restart = (
            any_time(),
            prop::collection::vec("[0-9]{4}", 0..3),
            proptest::option::of(node),
        )
            .prop_map(|(requested, done, current)| Restart {
                requested,
                done,
                current,
            });
        (
            any_place(),
            proptest::option::of(any_place()),
            prop::collection::vec(superseded, 0..3),
            proptest::option::of(restart),
            proptest::option::of(any_time()),
            proptest::option::of("[a-z]{1,9}"),
            (users, token, proptest::option::of(any_time())),
        )
            .prop_map(
                |(
                    serving,
                    replacement,
                    superseded,
                    restart,
                    restarted_at,
                    restored_from,
                    ((users, user_group), token, unknown_since),
                )| {
                    Record {
                        serving: Some(serving),
                        replacement,
                        superseded,
                        restart,
                        restarted_at,
                        restored_from,
                        users,
                        user_group,
                        token,
                        unknown_since,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(expected in any_record()) {
            let mut instance = instance();
            let status = recorded(&instance, &expected);
            let text = serde_json::to_string(&status).unwrap();
            instance.status = Some(serde_json::from_str(&text).unwrap());
            prop_assert_eq!(record(&instance), expected);
        }
    }
}
