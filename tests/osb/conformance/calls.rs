//! The calls of random clients, and the requests that they are.

use cache_broker::api::CachePlan;
use http::Method;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::model::{Call, Maintenance, Named, Origin, Parameters, Plan, Service};
use super::one_of;
use crate::broker::{Broker, SERVICE, plan};

const REDIS: &str = "0a8d668d-2971-4533-8e38-a816a7c01bec";

/// What answers told of.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    operations: Vec<String>,
    backups: Vec<String>,
}

impl Heard {
    /// Notes what an answer tells.
    pub fn learn(&mut self, body: &Value) {
        let note = |known: &mut Vec<String>, told: Option<&str>| {
            if let Some(told) = told
                && !known.iter().any(|known| known == told)
            {
                known.push(told.to_owned());
            }
        };
        note(&mut self.operations, body["operation"].as_str());
        for backup in body.as_array().into_iter().flatten() {
            note(&mut self.backups, backup["id"].as_str());
        }
    }
}

/// The plans of both services.
pub fn offers() -> Vec<CachePlan> {
    let of = |service: Service, which: Plan| {
        let mut plan = serde_json::to_value(plan()).unwrap();
        let id = service.plan(which);
        plan["metadata"]["name"] = json!(format!("plan-{id}"));
        plan["status"]["revision"] = json!(revision(which));
        plan["spec"]["id"] = json!(id);
        if service == Service::Redis {
            let spec = plan["spec"].as_object_mut().unwrap();
            spec.remove("kubernetes");
            let (node, large) = ("cache.t4g.micro", "cache.r7g.large");
            let node = if which == Plan::Large { large } else { node };
            spec.extend([
                ("service".to_owned(), json!("akkeris-redis")),
                ("engine".to_owned(), json!({ "type": "redis", "version": "7.1" })),
                ("bindingCredentials".to_owned(), json!("perBinding")),
                (
                    "parameters".to_owned(),
                    json!({ "properties": { service.limit(): { "type": "integer" } } }),
                ),
                (
                    "elasticache".to_owned(),
                    json!({ "nodeType": node, "transitEncryption": true }),
                ),
            ]);
        }
        serde_json::from_value(plan).unwrap()
    };
    [Service::Memcached, Service::Redis]
        .into_iter()
        .flat_map(|service| [of(service, Plan::Small), of(service, Plan::Large)])
        .collect()
}

fn revision(plan: Plan) -> u32 {
    match plan {
        Plan::Small => 3,
        Plan::Large => 5,
        Plan::Unknown => 1,
    }
}

fn some_plan(rng: &mut StdRng) -> Plan {
    use Plan::{Large, Small, Unknown};
    one_of(rng, &[Small, Small, Small, Small, Small, Large, Large, Large, Unknown])
}

fn some_maintenance(rng: &mut StdRng) -> Maintenance {
    use Maintenance::{Absent, Of};
    let others = [Of(Plan::Small), Of(Plan::Large), Of(Plan::Unknown)];
    if rng.random_bool(0.6) {
        Absent
    } else {
        one_of(rng, &others)
    }
}

fn some_name(rng: &mut StdRng, heard: &Heard) -> Named {
    if heard.operations.is_empty() || rng.random_bool(0.3) {
        Named::Latest
    } else {
        Named::Operation(one_of(rng, &heard.operations))
    }
}

/// A call, of those operations and backups that were heard of.
pub fn some_call(rng: &mut StdRng, service: Service, heard: &Heard) -> Call {
    use Parameters::{Absent, Limit, NoLimit, Wrong};
    let mostly = |rng: &mut StdRng| rng.random_bool(0.93);
    // What the other service does not have is asked for now and then.
    let richer = service == Service::Redis || rng.random_bool(0.2);
    let origin = |rng: &mut StdRng| Origin::Fresh {
        plan: some_plan(rng),
        app: u8::from(rng.random_bool(0.15)),
    };
    // Most of what there is to see is between an order and its end.
    let ordered = !heard.operations.is_empty();
    match rng.random_range(0..24) {
        0..12 if !ordered => provision(rng),
        0 => provision(rng),
        1..4 => Call::Update {
            plan: rng.random_bool(0.6).then(|| some_plan(rng)),
            parameters: one_of(rng, &[Absent, Absent, Limit(1), Limit(2), NoLimit, Wrong]),
            maintenance: some_maintenance(rng),
            context: rng.random_bool(0.2).then(|| rng.random_range(0..2)),
            incomplete: mostly(rng),
        },
        4 if rng.random_bool(0.3) => Call::Deprovision {
            incomplete: mostly(rng),
            ids: mostly(rng),
        },
        5 => Call::Restart,
        6 if richer => Call::Backup,
        7 | 8 if richer => Call::Backups,
        9 | 10 if richer => {
            let known = (!heard.backups.is_empty() && mostly(rng)).then(|| one_of(rng, &heard.backups));
            Call::Restore(known.unwrap_or_else(|| "nothing".to_owned()))
        }
        4..11 => Call::Poll(some_name(rng, heard)),
        11 => Call::Fetch,
        12..18 => Call::Bind {
            binding: rng.random_range(0..2),
            origin: if richer && rng.random_bool(0.35) {
                Origin::Successor(rng.random_range(0..2))
            } else {
                origin(rng)
            },
            incomplete: service == Service::Memcached || mostly(rng),
        },
        18 => Call::FetchBinding(rng.random_range(0..2)),
        19..22 => Call::PollBinding(rng.random_range(0..2), some_name(rng, heard)),
        _ => Call::Unbind {
            binding: rng.random_range(0..2),
            incomplete: mostly(rng),
            ids: mostly(rng),
        },
    }
}

/// What a platform is up to between all else: few would get there by chance.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// A binding that succeeds another.
    Rotation,
    /// A cache that is filled from a backup.
    Restoration,
}

/// A call on the way there, without a mistake in it.
pub fn call_towards(rng: &mut StdRng, aim: Aim, heard: &Heard) -> Call {
    let plan = one_of(rng, &[Plan::Small, Plan::Small, Plan::Large]);
    if heard.operations.is_empty() {
        return Call::Provision {
            plan,
            space: 0,
            parameters: Parameters::Absent,
            maintenance: Maintenance::Absent,
            incomplete: true,
        };
    }
    match aim {
        Aim::Rotation => {
            let binding = rng.random_range(0..2);
            let origin = if rng.random_bool(0.5) {
                Origin::Successor(1 - binding)
            } else {
                Origin::Fresh { plan, app: 0 }
            };
            Call::Bind {
                binding,
                origin,
                incomplete: true,
            }
        }
        Aim::Restoration if heard.backups.is_empty() => one_of(rng, &[Call::Backup, Call::Backups]),
        Aim::Restoration => Call::Restore(one_of(rng, &heard.backups)),
    }
}

fn provision(rng: &mut StdRng) -> Call {
    use Parameters::{Absent, Limit, Wrong};
    Call::Provision {
        plan: some_plan(rng),
        space: u8::from(rng.random_bool(0.2)),
        parameters: one_of(rng, &[Absent, Absent, Absent, Absent, Limit(1), Wrong]),
        maintenance: some_maintenance(rng),
        incomplete: rng.random_bool(0.93),
    }
}

/// The request for a call: method, path and body.
pub fn request(service: Service, id: &str, call: &Call) -> (Method, String, Option<Value>) {
    let service_id = match service {
        Service::Memcached => SERVICE,
        Service::Redis => REDIS,
    };
    let instance = format!("/v2/service_instances/{id}");
    let waits = |incomplete: bool| if incomplete { "?accepts_incomplete=true" } else { "" };
    let ids = |ids: bool| {
        if ids {
            format!("service_id={service_id}&plan_id={}", service.plan(Plan::Small))
        } else {
            String::new()
        }
    };
    let set = |body: &mut Value, parameters: Parameters| match parameters {
        Parameters::Absent => {}
        Parameters::Limit(limit) => body["parameters"] = json!({ service.limit(): limit }),
        Parameters::NoLimit => body["parameters"] = json!({ service.limit(): null }),
        Parameters::Wrong => body["parameters"] = json!({ service.limit(): "many" }),
    };
    let maintained = |body: &mut Value, maintenance: Maintenance| {
        if let Maintenance::Of(plan) = maintenance {
            body["maintenance_info"] = json!({ "version": format!("{}.0.0", revision(plan)) });
        }
    };
    let polled = |path: &str, named: &Named| match named {
        Named::Latest => format!("{path}/last_operation"),
        Named::Operation(name) => format!("{path}/last_operation?operation={name}"),
    };
    let of_binding = |binding: u8| format!("{instance}/service_bindings/{binding}");
    match call {
        Call::Provision {
            plan,
            space,
            parameters,
            maintenance,
            incomplete,
        } => {
            let mut body = Broker::order();
            body["service_id"] = json!(service_id);
            body["plan_id"] = json!(service.plan(*plan));
            body["space_guid"] = json!(format!("s{space}"));
            set(&mut body, *parameters);
            maintained(&mut body, *maintenance);
            (Method::PUT, format!("{instance}{}", waits(*incomplete)), Some(body))
        }
        Call::Update {
            plan,
            parameters,
            maintenance,
            context,
            incomplete,
        } => {
            let mut body = json!({ "service_id": service_id });
            if let Some(plan) = plan {
                body["plan_id"] = json!(service.plan(*plan));
            }
            if let Some(context) = context {
                body["context"] = json!({ "instance_name": format!("name-{context}") });
            }
            set(&mut body, *parameters);
            maintained(&mut body, *maintenance);
            (Method::PATCH, format!("{instance}{}", waits(*incomplete)), Some(body))
        }
        Call::Deprovision { incomplete, ids: named } => {
            let query = format!("?accepts_incomplete={incomplete}&{}", ids(*named));
            (Method::DELETE, format!("{instance}{query}"), None)
        }
        Call::Restart => (Method::POST, format!("{instance}/actions/restart"), None),
        Call::Backup => (Method::POST, format!("{instance}/actions/backups"), None),
        Call::Backups => (Method::GET, format!("{instance}/actions/backups"), None),
        Call::Restore(backup) => (Method::PUT, format!("{instance}/actions/backups/{backup}"), None),
        Call::Poll(named) => (Method::GET, polled(&instance, named), None),
        Call::Fetch => (Method::GET, instance, None),
        Call::Bind {
            binding,
            origin,
            incomplete,
        } => {
            let body = match origin {
                Origin::Fresh { plan, app } => json!({
                    "service_id": service_id, "plan_id": service.plan(*plan),
                    "bind_resource": { "app_guid": format!("app-{app}") },
                }),
                Origin::Successor(predecessor) => json!({ "predecessor_binding_id": predecessor.to_string() }),
                Origin::Unread => json!({}),
            };
            let path = format!("{}{}", of_binding(*binding), waits(*incomplete));
            (Method::PUT, path, Some(body))
        }
        Call::FetchBinding(binding) => (Method::GET, of_binding(*binding), None),
        Call::PollBinding(binding, named) => (Method::GET, polled(&of_binding(*binding), named), None),
        Call::Unbind {
            binding,
            incomplete,
            ids: named,
        } => {
            let query = format!("?accepts_incomplete={incomplete}&{}", ids(*named));
            (Method::DELETE, format!("{}{query}", of_binding(*binding)), None)
        }
    }
}
