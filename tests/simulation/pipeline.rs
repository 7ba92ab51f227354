//! What a pipeline applies while platforms order, and what people do to what stands meanwhile, by chance.

use serde_json::json;

use crate::chance::Chance;
use crate::platform::{Platform, condition, namespace};

/// Plans that one may move between, and one of each is applied.
const FAMILIES: &[&[&str]] = &[
    &["memcached-small", "memcached-large"],
    &["redis-small", "redis-large"],
    &["redis-kept", "redis-kept-large"],
    &["aws-redis-small", "aws-redis-large"],
    &["aws-memcached-small", "aws-memcached-two"],
];

/// Something that is done to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// Another plan is applied.
    Move(&'static str),
    /// Somebody scales what stands for it to nothing.
    ScaleDown,
    BackUp,
    Delete,
    /// Another instance takes over what was let go.
    TakeOver,
}

/// An instance by YAML, and what is done to it, one after the other.
#[derive(Clone, Debug)]
pub struct Applied {
    name: String,
    plan: &'static str,
    policy: &'static str,
    deeds: Vec<Deed>,
}

impl Applied {
    pub fn of(nth: usize, chance: &mut Chance) -> Self {
        let family = FAMILIES[chance.below(FAMILIES.len())];
        let plan = family[chance.below(family.len())];
        let (aws, redis) = (plan.starts_with("aws-"), plan.starts_with("aws-redis"));
        let policies: &[_] = if redis {
            &["Delete", "Retain", "Snapshot"]
        } else {
            &["Delete", "Retain"]
        };
        let policy = policies[chance.below(policies.len())];
        let mut deeds = Vec::new();
        for _ in 0..chance.below(3) {
            deeds.push(match chance.below(3) {
                0 if redis && !deeds.contains(&Deed::BackUp) => Deed::BackUp,
                1 if !aws => Deed::ScaleDown,
                _ => Deed::Move(family[chance.below(family.len())]),
            });
        }
        if chance.permille(600) {
            deeds.push(Deed::Delete);
            if aws && policy == "Retain" && chance.permille(700) {
                deeds.push(Deed::TakeOver);
            }
        }
        Self {
            name: format!("applied-{nth}"),
            plan,
            policy,
            deeds,
        }
    }

    /// The plans it needs.
    pub fn plans(&self) -> impl Iterator<Item = &'static str> {
        let moves = self.deeds.iter().filter_map(|deed| match deed {
            Deed::Move(plan) => Some(*plan),
            _ => None,
        });
        moves.chain([self.plan])
    }

    /// Does it.
    pub async fn operate(self, p: Platform) {
        let Self {
            mut name,
            mut plan,
            policy,
            deeds,
        } = self;
        let namespace = namespace(plan);
        p.apply(
            namespace,
            &name,
            &json!({ "planRef": { "name": plan }, "deletionPolicy": policy }),
        );
        p.annotate(namespace, &name, "cache.akkeris.io/approve-disruption", "true");
        p.settled(namespace, &name).await;
        let mut id = String::new();
        for deed in deeds {
            match deed {
                Deed::Move(to) => {
                    plan = to;
                    p.apply(
                        namespace,
                        &name,
                        &json!({ "planRef": { "name": plan }, "deletionPolicy": policy }),
                    );
                    p.settled(namespace, &name).await;
                }
                Deed::ScaleDown => {
                    p.scale_down(namespace, &name);
                    p.until(&format!("{name} is scaled up again"), |world| {
                        let deployments = world.objects("deployments").into_iter();
                        let mut its = deployments.filter(|(key, _)| key.name.starts_with(&name));
                        its.all(|(_, deployment)| deployment["spec"]["replicas"] != 0)
                    })
                    .await;
                    p.settled(namespace, &name).await;
                }
                Deed::BackUp => {
                    let backup = format!("{name}-copy");
                    p.apply_backup(namespace, &backup, &name);
                    p.until(&format!("{backup} is ready"), |world| {
                        let backup = world.object("cachebackups", namespace, &backup);
                        backup.is_some_and(|backup| condition(&backup, "Ready") == Some("True"))
                    })
                    .await;
                }
                Deed::Delete => {
                    let instance = p.world.object("cacheinstances", namespace, &name).unwrap_or_default();
                    id = instance["status"]["providerId"].as_str().unwrap_or_default().to_owned();
                    p.delete("cacheinstances", namespace, &name);
                    p.gone("cacheinstances", namespace, &name).await;
                }
                Deed::TakeOver => {
                    name = format!("{name}-next");
                    let spec = json!({ "planRef": { "name": plan }, "adopt": { "providerId": id } });
                    p.apply(namespace, &name, &spec);
                    p.settled(namespace, &name).await;
                }
            }
        }
    }
}
