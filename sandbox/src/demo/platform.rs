//! A platform: a client of the Open Service Broker API.

use std::time::Instant;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::broker::Broker;
use super::http::{Http, Reply, escape};
use super::report::{Failure, Report};
use super::webhook::Receiver;
use super::{LOOK, PATIENCE};

/// Who orders.
pub(super) struct Platform {
    http: Http,
    url: String,
}

/// What may be ordered.
pub(super) struct Catalog(Value);

/// A plan of the catalog.
pub(super) struct Plan {
    service: String,
    name: String,
    /// The query parameters that name it.
    query: String,
    service_id: String,
    plan_id: String,
}

/// An instance that was ordered, and its one binding.
pub(super) struct Order {
    pub(super) id: String,
    binding: String,
    plan: Plan,
    pub(super) credentials: Map<String, Value>,
}

impl Catalog {
    /// How many plans it lists.
    fn plans(&self) -> usize {
        let services = self.0.get("services").and_then(Value::as_array).into_iter().flatten();
        let plans = services.filter_map(|service| service.get("plans")?.as_array());
        plans.map(Vec::len).sum()
    }

    /// The plan of that name in the service of that name.
    pub(super) fn plan(&self, service: &str, plan: &str) -> Result<Plan, Failure> {
        let named = |list: &Value, name: &str| -> Option<Value> {
            let mut items = list.as_array()?.iter();
            items.find(|item| item.get("name").is_some_and(|n| n == name)).cloned()
        };
        let id = |item: &Value| item.get("id").and_then(Value::as_str).map(ToOwned::to_owned);
        let find = || {
            let service = named(self.0.get("services")?, service)?;
            let plan = named(service.get("plans")?, plan)?;
            Some((id(&service)?, id(&plan)?))
        };
        let (service_id, plan_id) =
            find().ok_or_else(|| Failure::new("catalog", format!("has no plan {plan} of {service}")))?;
        Ok(Plan {
            service: service.to_owned(),
            name: plan.to_owned(),
            query: format!("service_id={service_id}&plan_id={plan_id}"),
            service_id,
            plan_id,
        })
    }
}

impl Platform {
    pub(super) fn new(broker: &Broker) -> Self {
        let headers = vec![
            ("authorization", broker.authorization()),
            ("x-broker-api-version", "2.17".to_owned()),
        ];
        Self {
            http: Http::new(headers),
            url: broker.url().to_owned(),
        }
    }

    /// Reads the catalog, as often as it takes until the operator has approved all plans.
    pub(super) async fn catalog(&self, report: &Report, plans: usize) -> Result<Catalog, Failure> {
        report
            .step("catalog", async {
                let start = Instant::now();
                loop {
                    let reply = self.http.get(&format!("{}/v2/catalog", self.url)).await?;
                    let catalog = Catalog(reply.expect("it", &[StatusCode::OK])?.body);
                    let count = catalog.plans();
                    if count == plans {
                        return Ok((catalog, format!("{count} plans")));
                    }
                    if start.elapsed() > PATIENCE {
                        return Err(format!(
                            "it lists {count} of {plans} plans after {} s",
                            PATIENCE.as_secs()
                        ));
                    }
                    tokio::time::sleep(LOOK).await;
                }
            })
            .await
    }

    /// Orders an instance of a plan, waits until it is ready, and binds it.
    pub(super) async fn order(
        &self,
        report: &Report,
        plan: Plan,
        receiver: Option<&Receiver>,
    ) -> Result<Order, Failure> {
        let (id, binding) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
        let instance = self.instance(&id);
        let with = receiver.map_or("", |_| ", with a webhook");
        let provision = format!("provision {} {}{with}", plan.service, plan.name);
        let operation = report
            .step(&provision, async {
                let hook = receiver.map(Receiver::query).unwrap_or_default();
                let body = json!({
                    "service_id": plan.service_id, "plan_id": plan.plan_id,
                    "organization_guid": "demo-org", "space_guid": "demo-space",
                    "context": { "platform": "demo", "instance_name": "demo" },
                });
                let reply = self
                    .http
                    .send(
                        Method::PUT,
                        &format!("{instance}?accepts_incomplete=true{hook}"),
                        Some(&body),
                    )
                    .await?;
                let reply = reply.expect("the order", &[StatusCode::ACCEPTED])?;
                Ok((operation(&reply)?, "202 accepted".to_owned()))
            })
            .await?;
        report
            .step("poll last_operation", async {
                Ok(((), self.poll(&id, &plan, &operation, false).await?))
            })
            .await?;
        let credentials = report
            .step("bind", async {
                let body = json!({
                    "service_id": plan.service_id, "plan_id": plan.plan_id,
                    "bind_resource": { "app_guid": "demo-app" },
                });
                let url = format!("{instance}/service_bindings/{binding}");
                let reply = self.http.send(Method::PUT, &url, Some(&body)).await?;
                let reply = reply.expect("it", &[StatusCode::CREATED])?;
                let credentials = reply.body.get("credentials").and_then(Value::as_object);
                let credentials = credentials.cloned().ok_or("it answered without credentials")?;
                let names: Vec<_> = credentials.keys().map(String::as_str).collect();
                let said = format!("credentials {}", names.join(", "));
                Ok((credentials, said))
            })
            .await?;
        Ok(Order {
            id,
            binding,
            plan,
            credentials,
        })
    }

    /// Unbinds and deprovisions, and waits until the instance is gone.
    pub(super) async fn give_back(&self, report: &Report, order: &Order) -> Result<(), Failure> {
        let Order { id, binding, plan, .. } = order;
        let instance = self.instance(id);
        report
            .step(&format!("unbind {} {}", plan.service, plan.name), async {
                let url = format!("{instance}/service_bindings/{binding}?{}", plan.query);
                let reply = self.http.send(Method::DELETE, &url, None).await?;
                reply.expect("it", &[StatusCode::OK])?;
                Ok(((), "200".to_owned()))
            })
            .await?;
        let operation = report
            .step("deprovision", async {
                let url = format!("{instance}?accepts_incomplete=true&{}", plan.query);
                let reply = self.http.send(Method::DELETE, &url, None).await?;
                let reply = reply.expect("it", &[StatusCode::ACCEPTED])?;
                Ok((operation(&reply)?, "202 accepted".to_owned()))
            })
            .await?;
        report
            .step("poll last_operation", async {
                Ok(((), self.poll(id, plan, &operation, true).await?))
            })
            .await
    }

    fn instance(&self, id: &str) -> String {
        format!("{}/v2/service_instances/{id}", self.url)
    }

    /// Polls until an operation has succeeded. That of a deprovision may also end in 410, as the instance is gone.
    async fn poll(&self, id: &str, plan: &Plan, operation: &str, leaving: bool) -> Result<String, String> {
        let url = format!(
            "{}/last_operation?{}&operation={}",
            self.instance(id),
            plan.query,
            escape(operation)
        );
        let (start, mut polls) = (Instant::now(), 0_u32);
        loop {
            polls = polls.saturating_add(1);
            let reply = self.http.get(&url).await?;
            if leaving && reply.status == StatusCode::GONE {
                return Ok(format!("410 gone, at poll {polls}"));
            }
            let reply = reply.expect("a poll", &[StatusCode::OK])?;
            let description = reply.text("description").unwrap_or_default();
            match reply.text("state") {
                Some("succeeded") => return Ok(format!("succeeded, at poll {polls}")),
                Some("in progress") if start.elapsed() < PATIENCE => tokio::time::sleep(LOOK).await,
                Some("in progress") => {
                    return Err(format!("in progress after {} s: {description}", PATIENCE.as_secs()));
                }
                _ => return Err(format!("the operation ended otherwise: {}", reply.body)),
            }
        }
    }
}

fn operation(reply: &Reply) -> Result<String, String> {
    let operation = reply.text("operation").map(ToOwned::to_owned);
    operation.ok_or_else(|| "the answer names no operation".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_found_in_its_service_only() {
        let catalog = Catalog(json!({ "services": [
            { "name": "a", "id": "A", "plans": [{ "name": "small", "id": "1" }] },
            { "name": "b", "id": "B", "plans": [{ "name": "small", "id": "2" }, { "name": "large", "id": "3" }] },
        ] }));
        assert_eq!(catalog.plans(), 3);
        let plan = catalog.plan("b", "small").unwrap();
        assert_eq!(plan.query, "service_id=B&plan_id=2");
        let failure = catalog.plan("a", "large").err().unwrap();
        assert_eq!(failure.to_string(), "error: catalog: has no plan large of a");
    }
}
