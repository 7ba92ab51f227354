//! The services and plans as a catalog shows them (OSB 2.17, "Catalog Management", "Body"), to platforms of each version.

use serde_json::{Map, Value, json};

use super::{OfferedPlan, maintenance_version};
use crate::api::{BindingSchema, CachePlan, CachePlanSpec, ProviderSpec};
use crate::osb::actions;
use crate::osb::decide::moves::{self, Move};
use crate::osb::request::ALLOW_REPLACE;
use crate::osb::services::{Service, Services};
use crate::osb::version::Version;

/// How much longer than an operation's deadline a platform is to poll, in seconds: the operation ends first, and says
/// why.
const POLLING_MARGIN: u64 = 300;

/// The catalog's body for a version.
pub(super) fn body(services: &Services, offered: &[(&CachePlan, OfferedPlan)], version: Version) -> Value {
    let services: Vec<Value> = services
        .services
        .iter()
        .filter_map(|service| {
            let plans: Vec<Value> = offered
                .iter()
                .filter(|(_, plan)| plan.service_id == service.id)
                .map(|(resource, plan)| {
                    let mut entry = plan_entry(service, resource, plan, version);
                    if version >= Version::V15 {
                        insert(&mut entry, "plan_updateable", json!(is_updatable(plan, offered)));
                    }
                    entry
                })
                .collect();
            let updatable = offered
                .iter()
                .any(|(_, plan)| plan.service_id == service.id && is_updatable(plan, offered));
            // A service must have a plan.
            (!plans.is_empty()).then(|| service_entry(service, plans, updatable, version))
        })
        .collect();
    json!({ "services": services })
}

/// Whether instances of a plan may move to another that is offered.
fn is_updatable(plan: &OfferedPlan, offered: &[(&CachePlan, OfferedPlan)]) -> bool {
    offered.iter().any(|(_, to)| {
        to.id != plan.id
            && to.service_id == plan.service_id
            && moves::is_listed(&plan.spec, &to.resource)
            && !matches!(moves::judge(&plan.spec, &to.spec), Move::Never(_))
    })
}

fn service_entry(service: &Service, plans: Vec<Value>, updatable: bool, version: Version) -> Value {
    let mut metadata = Map::new();
    for (key, value) in [
        ("displayName", &service.display_name),
        ("longDescription", &service.long_description),
        ("imageUrl", &service.image),
        ("providerDisplayName", &service.provider_display_name),
        ("documentationUrl", &service.documentation_url),
        ("supportUrl", &service.support_url),
    ] {
        if let Some(value) = value {
            metadata.insert(key.to_owned(), json!(value));
        }
    }
    if let Some(shareable) = service.shareable {
        metadata.insert("shareable".to_owned(), json!(shareable));
    }
    metadata.extend(service.metadata.clone());
    let mut entry = json!({
        "id": service.id,
        "name": service.name,
        "description": service.description,
        "bindable": true,
        "plan_updateable": updatable,
        "tags": service.tags,
        "metadata": metadata,
        "plans": plans,
    });
    if version >= Version::V14 {
        insert(&mut entry, "instances_retrievable", json!(true));
        insert(&mut entry, "bindings_retrievable", json!(true));
    }
    if version >= Version::V15 {
        insert(&mut entry, "allow_context_updates", json!(true));
    }
    entry
}

fn plan_entry(service: &Service, resource: &CachePlan, plan: &OfferedPlan, version: Version) -> Value {
    let spec = &plan.spec;
    let mut entry = json!({
        "id": spec.id,
        "name": resource.osb_name(),
        "description": spec.description,
        "free": spec.price.as_ref().is_none_or(|price| price.cents == 0),
        "metadata": plan_metadata(service, resource, spec),
    });
    let schema = spec.parameters.clone().unwrap_or_default().document();
    let schemas = json!({
        "service_instance": {
            "create": { "parameters": schema },
            "update": { "parameters": update_schema(schema.clone()) },
        },
        "service_binding": { "create": { "parameters": binding_schema(spec) } },
    });
    insert(&mut entry, "schemas", schemas);
    if version >= Version::V15 {
        let maintenance = json!({
            "version": maintenance_version(plan.revision),
            "description": format!("Revision {} of the plan.", plan.revision),
        });
        insert(&mut entry, "maintenance_info", maintenance);
        let polling = spec.operation_deadline().as_secs().saturating_add(POLLING_MARGIN);
        insert(&mut entry, "maximum_polling_duration", json!(polling));
    }
    if version >= Version::V17 && spec.has_users() {
        insert(&mut entry, "binding_rotatable", json!(true));
    }
    entry
}

/// What may be sent along with a binding.
fn binding_schema(spec: &CachePlanSpec) -> Value {
    let schema = spec.binding_parameters.as_ref();
    schema.map_or_else(BindingSchema::open, BindingSchema::document)
}

/// What an update may set: what an order may, each of it or none; `null` takes a parameter away.
fn update_schema(mut schema: Value) -> Value {
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("required");
    }
    for parameter in schema
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(|properties| properties.values_mut())
    {
        let choice = std::mem::take(parameter);
        *parameter = json!({ "anyOf": [choice, { "type": "null" }] });
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        let replace = json!({
            "type": "boolean",
            "description": "Whether a new cache, at another address, may take the place of this one.",
        });
        properties.insert(ALLOW_REPLACE.to_owned(), replace);
    }
    schema
}

/// The keys of the broker this one replaces, which Akkeris reads, and those of the OSB profile, which others show.
fn plan_metadata(service: &Service, resource: &CachePlan, spec: &CachePlanSpec) -> Value {
    let name = resource.osb_name();
    let display = spec.display_name.as_deref().unwrap_or(name);
    let (cents, unit) = spec
        .price
        .as_ref()
        .map_or((0, "month"), |price| (price.cents, price.unit.as_str()));
    let mut metadata = json!({
        "addon_service": { "id": service.id, "name": service.name },
        "id": spec.id,
        "name": name,
        "key": format!("{}:{name}", service.name),
        "human_name": display,
        "description": spec.description,
        "price": { "cents": cents, "unit": unit },
        "state": spec.state,
        "engine": { "type": spec.engine.type_, "version": spec.engine.version },
        "attributes": spec.attributes,
        "compliance": [],
        "space_default": false,
        "installable_inside_private_network": true,
        "installable_outside_private_network": true,
        "displayName": display,
        "bullets": bullets(spec),
        "actions": actions::metadata(spec),
        "costs": [{ "amount": { "usd": f64::from(cents) / 100.0 }, "unit": unit }],
    });
    if let Some(created) = &resource.metadata.creation_timestamp {
        insert(&mut metadata, "created_at", json!(created));
    }
    metadata
}

fn bullets(spec: &CachePlanSpec) -> Vec<String> {
    let mut bullets = vec![format!("{} {}", spec.engine.type_, spec.engine.version)];
    match spec.provider() {
        Some(ProviderSpec::ElastiCache(cache)) => {
            bullets.push(format!("AWS ElastiCache, {}", cache.node_type));
            let counts = [
                ("nodes", cache.nodes),
                ("shards", cache.shards),
                ("replicas a shard", cache.replicas),
            ];
            bullets.extend(
                counts
                    .into_iter()
                    .filter_map(|(what, count)| count.map(|count| format!("{count} {what}"))),
            );
        }
        Some(ProviderSpec::Kubernetes(cache)) => {
            bullets.push(format!("In the cluster, {} of memory", cache.memory));
            bullets.extend(cache.replicas.map(|count| format!("{count} nodes")));
        }
        None => {}
    }
    if spec.has_users() {
        bullets.push("A user for each binding".to_owned());
    }
    bullets
}

fn insert(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::osb::catalog::Catalog;
    use crate::osb::catalog::tests::{body, catalog, named};
    use crate::osb::decide::fixtures::plan;

    /// Each version has the members of its specification and no others.
    #[test]
    fn the_document_of_each_version() {
        let plan = plan(json!({
            "metadata": { "creationTimestamp": "2026-01-02T03:04:05Z" },
            "spec": { "displayName": "Small", "price": { "cents": 1250, "unit": "month" }, "attributes": { "a": 1 } },
        }));
        let catalog = catalog(&[plan]);
        for version in Version::ALL {
            insta::assert_json_snapshot!(format!("catalog_{}", version.as_str()), body(&catalog, version));
        }
    }

    /// OSB 2.17, "Updating a Service Instance": platforms offer a plan change only where this says so.
    #[test]
    fn a_plan_is_updatable_if_it_leads_somewhere() {
        let updatable = |plans: &[CachePlan]| -> (bool, Vec<bool>) {
            let body = body(&catalog(plans), Version::V17);
            let service = &body["services"][0];
            let plans = service["plans"].as_array().unwrap();
            (
                service["plan_updateable"].as_bool().unwrap(),
                plans
                    .iter()
                    .map(|plan| plan["plan_updateable"].as_bool().unwrap())
                    .collect(),
            )
        };
        let to = |id: &str, names: Value| named(id, json!({ "spec": { "updatableTo": names } }));
        assert_eq!(updatable(&[named("a", json!({}))]), (false, vec![false]));
        assert_eq!(
            updatable(&[named("a", json!({})), named("b", json!({}))]),
            (true, vec![true, true])
        );
        assert_eq!(
            updatable(&[to("a", json!(["plan-b", "plan-a"])), to("b", json!([]))]),
            (true, vec![true, false])
        );
        let newer = json!({ "spec": { "engine": { "version": "1.7" } } });
        assert_eq!(
            updatable(&[named("a", newer), named("b", json!({}))]),
            (true, vec![false, true])
        );
    }

    #[test]
    fn an_update_may_leave_out_and_take_away_parameters() {
        let plan = plan(json!({ "spec": { "parameters": { "required": ["connectionLimit"] } } }));
        let body = body(&catalog(&[plan]), Version::V17);
        let schemas = &body["services"][0]["plans"][0]["schemas"]["service_instance"];
        let fits = |which: &str, values: Value| {
            let schema = jsonschema::draft7::new(&schemas[which]["parameters"]).unwrap();
            schema.is_valid(&values)
        };
        for (values, create, update) in [
            (json!({ "connectionLimit": 5 }), true, true),
            (json!({}), false, true),
            (json!({ "connectionLimit": null }), false, true),
            (json!({ "connectionLimit": 5, "allow_replace": true }), false, true),
            (json!({ "connectionLimit": "x" }), false, false),
            (json!({ "colour": 1 }), false, false),
        ] {
            assert_eq!(
                (fits("create", values.clone()), fits("update", values.clone())),
                (create, update),
                "{values}"
            );
        }
    }

    /// OSB 2.17, "Service Binding Schema Object": as the plan has it, else anything.
    #[test]
    fn what_may_be_sent_along_with_a_binding_is_the_plans_to_say() {
        let schema = |changes: Value| {
            let body = body(&catalog(&[plan(changes)]), Version::V13);
            let binding = &body["services"][0]["plans"][0]["schemas"]["service_binding"];
            jsonschema::draft7::new(&binding["create"]["parameters"]).unwrap()
        };
        let properties = json!({ "team": { "type": "string", "enum": ["a", "b"] } });
        let closed = schema(json!({ "spec": { "bindingParameters": { "properties": properties } } }));
        let open = schema(json!({}));
        for (values, fits) in [
            (json!({}), true),
            (json!({ "team": "a" }), true),
            (json!({ "team": "c" }), false),
            (json!({ "colour": 1 }), false),
        ] {
            assert_eq!(closed.is_valid(&values), fits, "{values}");
            assert!(open.is_valid(&values), "{values}");
        }
        assert!(!open.is_valid(&json!([])));
    }

    /// Of the profile's keys, the picture is the owner's to give: there is none that is nobody's.
    #[test]
    fn a_service_has_the_picture_of_its_owner_or_none() {
        let services = |image: &str| {
            let text = format!("services:\n- {{id: a, name: akkeris-memcached, description: d{image}}}\n");
            Services::parse(&text).unwrap()
        };
        let shown = |services: &Services| {
            let catalog = Catalog::new(services, &[plan(json!({}))], &|_| true);
            body(&catalog, Version::V17)["services"][0]["metadata"]["imageUrl"].clone()
        };
        assert_eq!(shown(&services("")), Value::Null);
        let image = "https://example.com/cache.svg";
        assert_eq!(shown(&services(&format!(", image: '{image}'"))), json!(image));
    }

    /// OSB 2.17, "Service Offering Object": a service has a plan.
    #[test]
    fn a_service_without_plans_is_left_out() {
        assert_eq!(body(&catalog(&[]), Version::V17), json!({ "services": [] }));
    }
}
