//! The catalog (OSB 2.17, "Catalog Management"): services of the owner's file with the `CachePlan`s that name them.
//!
//! It is built once for a change and version, and served as bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::actions;
use super::decide::moves::{self, Move};
use super::request::ALLOW_REPLACE;
use super::services::{Service, Services};
use super::version::Version;
use crate::api::{CachePlan, CachePlanSpec, ProviderKind, ProviderSpec, conditions};
use crate::ledger::{PlanId, ServiceId};

/// How much longer than an operation's deadline a platform is to poll, in seconds: the operation ends first, and says
/// why.
const POLLING_MARGIN: u64 = 300;

/// The catalog as it is now; `None` until the plans were first read. An empty catalog in that time would make platforms
/// forget plans.
pub type CatalogCell = watch::Receiver<Option<Arc<Catalog>>>;

/// A plan that is offered.
#[derive(Clone, Debug, PartialEq)]
pub struct OfferedPlan {
    /// Its service's OSB id.
    pub service_id: ServiceId,
    /// Its OSB id.
    pub id: PlanId,
    /// The name of the `CachePlan`.
    pub resource: String,
    /// The revision that new instances run from.
    pub revision: i64,
    /// The spec.
    pub spec: CachePlanSpec,
}

/// A catalog document.
#[derive(Clone, Debug)]
pub struct Document {
    /// The body.
    pub body: Bytes,
    /// Its entity tag.
    pub etag: HeaderValue,
}

/// A catalog.
#[derive(Clone, Debug)]
pub struct Catalog {
    plans: HashMap<PlanId, OfferedPlan>,
    services: Vec<ServiceId>,
    documents: BTreeMap<Version, Document>,
    problems: Vec<String>,
}

/// Why ids lead to no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// No service has the id.
    Service,
    /// No plan of the service that is offered has the id.
    Plan,
}

impl Catalog {
    /// The catalog of those services and plans. A plan is offered once the operator gave it a revision and holds it
    /// ready, if its provider is enabled and no older plan has its id.
    pub fn new<'a>(
        services: &Services,
        plans: impl IntoIterator<Item = &'a CachePlan>,
        enabled: &dyn Fn(ProviderKind) -> bool,
    ) -> Self {
        let mut problems = Vec::new();
        let mut candidates: Vec<&CachePlan> = plans.into_iter().collect();
        candidates.sort_by_key(|plan| age_and_name(plan));
        let mut claimed = HashSet::new();
        let mut names = Vec::new();
        let mut offered: Vec<(&CachePlan, OfferedPlan)> = Vec::new();
        for plan in candidates {
            let resource = plan.metadata.name.clone().unwrap_or_default();
            let first = claimed.insert(plan.spec.id.as_str());
            let Some(service) = services
                .services
                .iter()
                .find(|service| service.name == plan.spec.service)
            else {
                problems.push(format!(
                    "CachePlan {resource} is not offered: no service is named {}; add it to SERVICES_FILE or mend spec.service",
                    plan.spec.service
                ));
                continue;
            };
            if !first {
                problems.push(format!(
                    "CachePlan {resource} is not offered: an older CachePlan has its id {} too; give this one an id of its own",
                    plan.spec.id
                ));
                continue;
            }
            let name = (service.id.clone(), plan.osb_name());
            if names.contains(&name) {
                problems.push(format!(
                    "CachePlan {resource} is not offered: an older CachePlan of {} is named {} too; change spec.name",
                    service.name,
                    plan.osb_name()
                ));
                continue;
            }
            if let Some(plan_offered) = offer(plan, service, resource, enabled) {
                names.push(name);
                offered.push((plan, plan_offered));
            }
        }
        offered.sort_by_key(|(plan, _)| {
            let cents = plan.spec.price.as_ref().map_or(0, |price| price.cents);
            (cents, plan.osb_name().to_owned())
        });
        let documents = Version::ALL
            .into_iter()
            .map(|version| (version, document(services, &offered, version)))
            .collect();
        Self {
            plans: offered.into_iter().map(|(_, plan)| (plan.id.clone(), plan)).collect(),
            services: services.services.iter().map(|service| service.id.clone()).collect(),
            documents,
            problems,
        }
    }

    /// The plan of those ids.
    ///
    /// # Errors
    /// When none is offered.
    pub fn plan(&self, service: &ServiceId, plan: &PlanId) -> Result<&OfferedPlan, Unknown> {
        if !self.services.contains(service) {
            return Err(Unknown::Service);
        }
        self.plans
            .get(plan)
            .filter(|offered| offered.service_id == *service)
            .ok_or(Unknown::Plan)
    }

    /// The plan with that id, of whatever service.
    pub fn plan_by_id(&self, plan: &str) -> Option<&OfferedPlan> {
        self.plans.get(&plan.parse::<PlanId>().ok()?)
    }

    /// The body for a version.
    pub fn document(&self, version: Version) -> Option<&Document> {
        self.documents.get(&version)
    }

    /// Why plans that look complete are not offered, one sentence each, for the log.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

/// The oldest first, so that a newcomer takes nobody's name.
fn age_and_name(plan: &CachePlan) -> (Option<jiff::Timestamp>, Option<String>) {
    (
        plan.metadata.creation_timestamp.as_ref().map(|time| time.0),
        plan.metadata.name.clone(),
    )
}

fn offer(
    plan: &CachePlan,
    service: &Service,
    resource: String,
    enabled: &dyn Fn(ProviderKind) -> bool,
) -> Option<OfferedPlan> {
    let status = plan.status.as_ref()?;
    // Whichever generation it speaks of: a plan must not leave the catalog while an edit of it is looked at.
    let ready = conditions::find(&status.conditions, conditions::READY)?.status == "True";
    let provider = plan.spec.provider()?.kind();
    if !ready || !enabled(provider) || plan.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(OfferedPlan {
        service_id: service.id.clone(),
        id: plan.spec.id.parse().ok()?,
        resource,
        revision: status.revision?,
        spec: plan.spec.clone(),
    })
}

/// `maintenance_info.version` of a revision.
pub fn maintenance_version(revision: i64) -> String {
    format!("{revision}.0.0")
}

fn document(services: &Services, offered: &[(&CachePlan, OfferedPlan)], version: Version) -> Document {
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
    let body = json!({ "services": services }).to_string();
    let hash: String = digest(&SHA256, body.as_bytes())
        .as_ref()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Document {
        body: Bytes::from(body),
        etag: HeaderValue::from_str(&format!("\"{hash}\"")).unwrap_or(HeaderValue::from_static("\"\"")),
    }
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
    use crate::osb::decide::fixtures::{SERVICE, plan};

    fn catalog(plans: &[CachePlan]) -> Catalog {
        Catalog::new(&Services::read(None).unwrap(), plans, &|_| true)
    }

    fn body(catalog: &Catalog, version: Version) -> Value {
        serde_json::from_slice(&catalog.document(version).unwrap().body).unwrap()
    }

    /// OSB 2.17, "Service Plan Object" and "Changes": only plans whose bindings can succeed each other say so, and only
    /// to platforms of 2.17.
    #[test]
    fn a_plan_with_a_user_for_each_binding_is_rotatable() {
        let users = json!({ "spec": { "bindingCredentials": "perBinding" } });
        for (changes, version, expected) in [
            (users.clone(), Version::V17, json!(true)),
            (users, Version::V16, Value::Null),
            (json!({}), Version::V17, Value::Null),
        ] {
            let body = body(&catalog(&[plan(changes)]), version);
            let services = body["services"].as_array().unwrap();
            let offered = services.iter().find_map(|service| service["plans"].get(0)).unwrap();
            assert_eq!(offered["binding_rotatable"], expected);
        }
    }

    fn ids(catalog: &Catalog) -> Vec<String> {
        let body = body(catalog, Version::V17);
        let services = body["services"].as_array().unwrap();
        let plans = services.iter().flat_map(|service| service["plans"].as_array().unwrap());
        plans.map(|plan| plan["id"].as_str().unwrap().to_owned()).collect()
    }

    fn named(id: &str, changes: Value) -> CachePlan {
        let mut plan = plan(changes);
        plan.metadata.name = Some(format!("plan-{id}"));
        plan.spec.id = id.to_owned();
        plan
    }

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

    #[test]
    fn plans_stand_by_price_under_their_service() {
        let catalog = catalog(&[
            named("dear", json!({ "spec": { "price": { "cents": 9, "unit": "month" } } })),
            named(
                "r",
                json!({ "spec": { "service": "akkeris-redis", "engine": { "type": "redis" } } }),
            ),
            named("cheap", json!({})),
        ]);
        assert_eq!(ids(&catalog), ["r", "cheap", "dear"]);
        assert_eq!(catalog.problems(), [""; 0]);
        let (service, redis): (ServiceId, ServiceId) = (
            SERVICE.parse().unwrap(),
            "0a8d668d-2971-4533-8e38-a816a7c01bec".parse().unwrap(),
        );
        let plan: PlanId = "cheap".parse().unwrap();
        assert_eq!(catalog.plan(&service, &plan).unwrap().resource, "plan-cheap");
        assert_eq!(catalog.plan(&redis, &plan), Err(Unknown::Plan));
        assert_eq!(catalog.plan(&"x".parse().unwrap(), &plan), Err(Unknown::Service));
    }

    #[test]
    fn what_cannot_be_made_is_not_offered() {
        let unready = json!([{ "type": "Ready", "status": "False", "reason": "r", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
        let catalog = Catalog::new(
            &Services::read(None).unwrap(),
            &[
                named("unseen", json!({ "status": null })),
                named("uncounted", json!({ "status": { "revision": null } })),
                named("unready", json!({ "status": { "conditions": unready } })),
                named(
                    "disabled",
                    json!({ "spec": { "kubernetes": null, "elasticache": { "nodeType": "cache.t4g.micro" } } }),
                ),
                named(
                    "leaving",
                    json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
                ),
                named("fine", json!({})),
            ],
            &|provider| provider == ProviderKind::Kubernetes,
        );
        assert_eq!(ids(&catalog), ["fine"]);
    }

    #[test]
    fn claims_on_one_id_or_name_are_reported() {
        let other = |name: &str, id: &str, created: &str| {
            let mut plan = named(
                id,
                json!({ "metadata": { "creationTimestamp": created }, "spec": { "name": "same" } }),
            );
            plan.metadata.name = Some(name.to_owned());
            plan
        };
        let catalog = catalog(&[
            named("twice", json!({})),
            other("a-new", "n", "2026-02-01T00:00:00Z"),
            other("b-old", "o", "2026-01-01T00:00:00Z"),
            other("again", "twice", "2026-01-01T00:00:00Z"),
            named("astray", json!({ "spec": { "service": "nobodys" } })),
        ]);
        assert_eq!(ids(&catalog), ["twice", "o"]);
        assert_eq!(catalog.problems().len(), 3, "{:?}", catalog.problems());
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

    /// OSB 2.17, "Service Offering Object": a service has a plan.
    #[test]
    fn a_service_without_plans_is_left_out() {
        assert_eq!(body(&catalog(&[]), Version::V17), json!({ "services": [] }));
    }

    #[test]
    fn the_entity_tag_follows_the_body() {
        let tag = |plans: &[CachePlan], version| catalog(plans).document(version).unwrap().etag.clone();
        let one = [named("a", json!({}))];
        assert_eq!(tag(&one, Version::V17), tag(&one, Version::V17));
        assert_ne!(tag(&one, Version::V17), tag(&one, Version::V13));
        assert_ne!(tag(&one, Version::V17), tag(&[named("b", json!({}))], Version::V17));
    }
}
