//! What must hold at every moment, looked at after every thing that happens.

use std::collections::BTreeSet;

use sandbox::in_memory_kubernetes::Key;
use serde_json::Value;

use crate::world::World;

/// Watches over a run.
#[derive(Default)]
pub struct Watchman {
    revision: usize,
    /// Services that led to a Pod that answers.
    served: BTreeSet<Key>,
    accused: BTreeSet<Key>,
    pub checks: u64,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

const INSTANCE: &str = "/metadata/labels/app.kubernetes.io~1instance";

impl Watchman {
    /// A Service in the cluster that once led to a cache leads to one as long as its instance is there and names it, and
    /// keeps nothing on a volume, whose change has an announced gap.
    pub fn look(&mut self, world: &World) {
        let mut wrong = Vec::new();
        {
            let state = world.state();
            if state.api.revision() == self.revision {
                return;
            }
            self.revision = state.api.revision();
            let objects: Vec<_> = state.api.objects().collect();
            let of = |plural: &'static str| objects.iter().filter(move |(key, _)| key.plural == plural);
            for (key, service) in of("services") {
                let instance = text(service, INSTANCE);
                let standing =
                    of("cacheinstances").find(|(found, _)| found.namespace == key.namespace && found.name == instance);
                let by_hand = (key.namespace.clone(), instance.to_owned());
                let stays = standing.is_some_and(|(_, instance)| {
                    !state.scaled_down.contains(&by_hand)
                        && instance.pointer("/metadata/deletionTimestamp").is_none()
                        && text(instance, "/status/provider") != "elasticache"
                        && instance.pointer("/status/replacement").is_none()
                        && names(instance, &key.name)
                });
                let kept = of("persistentvolumeclaims").any(|(_, claim)| text(claim, INSTANCE) == instance);
                let going = service.pointer("/metadata/deletionTimestamp").is_some();
                let selector = service.pointer("/spec/selector").and_then(Value::as_object);
                let leads = of("pods").any(|(pod, value)| {
                    pod.namespace == key.namespace
                        && value.pointer("/metadata/deletionTimestamp").is_none()
                        && value.pointer("/status/containerStatuses/0/ready") == Some(&Value::Bool(true))
                        && selector.is_some_and(|selector| {
                            selector.iter().all(|(name, wanted)| {
                                value.pointer("/metadata/labels").and_then(|labels| labels.get(name)) == Some(wanted)
                            })
                        })
                });
                self.checks += 1;
                if leads {
                    self.served.insert((*key).clone());
                } else if stays && !kept && !going && self.served.contains(*key) && self.accused.insert((*key).clone())
                {
                    wrong.push(format!(
                        "Service {}/{} leads nowhere although it led to a cache",
                        key.namespace, key.name
                    ));
                }
            }
            self.served.retain(|key| objects.iter().any(|(found, _)| *found == key));
        }
        for what in wrong {
            world.accuse(what);
        }
    }
}

/// Whether an instance tells of a Service in its status.
fn names(instance: &Value, service: &str) -> bool {
    let leads = |host: &str| host.split('.').next() == Some(service);
    let nodes = instance.pointer("/status/nodes").and_then(Value::as_array);
    let mut nodes = nodes.into_iter().flatten();
    leads(text(instance, "/status/endpoint/host")) || nodes.any(|node| leads(text(node, "/host")))
}

/// Whether a cache that is about to be deleted on ElastiCache is the one that serves an instance that is to stay.
pub fn serves(world: &World, id: &str) -> Option<String> {
    let state = world.state();
    let mut instances = state.api.objects().filter(|(key, _)| key.plural == "cacheinstances");
    let served = instances.find(|(_, instance)| {
        text(instance, "/status/providerId") == id
            && instance.pointer("/metadata/deletionTimestamp").is_none()
            && instance.pointer("/status/firstReadyTime").is_some()
    });
    served.map(|(key, _)| format!("{}/{}", key.namespace, key.name))
}
