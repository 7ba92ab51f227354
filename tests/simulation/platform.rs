//! Those who use the broker: a platform over OSB, which asks again until it gets an answer, and people with kubectl.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use sandbox::in_memory_kubernetes::Answer;
use serde_json::{Value, json};

use crate::gate::{Call, System, Verdict};
use crate::world::{KubeRequest, OUTSIDE, World};

/// How soon a platform asks again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long it asks before it gives up, which no run should come to.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);
const GROUP: &str = "/apis/cache.akkeris.io/v1alpha1";

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Succeeded,
    Failed(String),
    /// What it was about is gone.
    Gone,
    /// It was refused: the status.
    Refused(u16),
}

#[derive(Clone)]
pub struct Platform {
    pub world: Arc<World>,
}

/// The service of an engine.
pub fn service(plan: &str) -> &'static str {
    if plan.contains("memcached") {
        "8cccbf79-3e08-4607-ad9f-193bd5f7ff83"
    } else {
        "0a8d668d-2971-4533-8e38-a816a7c01bec"
    }
}

/// The namespaces of instances.
pub const MEMCACHED: &str = "memcached-system";
pub const REDIS: &str = "redis-system";

/// Where instances of a plan are.
pub fn namespace(plan: &str) -> &'static str {
    if plan.contains("memcached") { MEMCACHED } else { REDIS }
}

impl Platform {
    /// One request, and its answer if one came.
    async fn ask(&self, method: &Method, path: &str, body: &Value) -> Option<(StatusCode, Value)> {
        let short = path.split('?').next().unwrap_or_default();
        let call = Call {
            system: System::Facade,
            what: format!("{method} {short}"),
            writes: *method != Method::GET,
            quiet: *method == Method::GET,
        };
        let verdict = self.world.pass(OUTSIDE, call).await;
        if let Verdict::Fail(_) = verdict {
            return None;
        }
        let found = {
            let state = self.world.state();
            let found = state.facades.first_key_value();
            found.map(|(process, facade)| (*process, facade.clone()))
        };
        let (process, facade) = found?;
        if verdict == Verdict::DieBefore {
            self.world.state().dying.insert(process);
            return None;
        }
        let body = if body.is_null() {
            Bytes::new()
        } else {
            Bytes::from(body.to_string())
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-broker-api-version", "2.17")
            .header("authorization", format!("Basic {}", BASE64_STANDARD.encode("u:p")))
            .header("content-type", "application/json")
            .body(Full::new(body))
            .unwrap();
        // The process may die over it; then no answer comes, and the platform stops waiting.
        let response = tokio::time::timeout(Duration::from_secs(60), facade.call(request))
            .await
            .ok()?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        match verdict {
            Verdict::Go | Verdict::DieBefore | Verdict::Fail(_) => {}
            Verdict::Slow(by) => tokio::time::sleep(by).await,
            Verdict::Lose | Verdict::Late => return None,
            Verdict::Die | Verdict::Outlive => {
                self.world.state().dying.insert(process);
                return None;
            }
        }
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// Asks until an answer says something.
    async fn insist(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let insist = async {
            loop {
                if let Some((status, answer)) = self.ask(&method, path, body).await {
                    let busy = status == StatusCode::UNPROCESSABLE_ENTITY && answer["error"] == "ConcurrencyError";
                    if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS && !busy {
                        return (status, answer);
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        let Ok(answer) = tokio::time::timeout(PATIENCE, insist).await else {
            self.world
                .accuse(format!("{method} {path}: no answer that says something"));
            return std::future::pending().await;
        };
        answer
    }

    /// Asks for something of an instance that may take time, and waits until it ended.
    async fn operate(&self, method: Method, id: &str, path: &str, body: &Value) -> End {
        self.operate_at(method, &format!("/v2/service_instances/{id}"), path, body)
            .await
    }

    /// The same of an instance or a binding whose path this is.
    async fn operate_at(&self, method: Method, subject: &str, path: &str, body: &Value) -> End {
        let (status, answer) = self.insist(method, path, body).await;
        match status {
            StatusCode::OK | StatusCode::CREATED => End::Succeeded,
            StatusCode::GONE => End::Gone,
            StatusCode::ACCEPTED => {
                let operation = answer["operation"].as_str().unwrap_or_default().to_owned();
                self.wait_at(subject, &operation).await
            }
            status => End::Refused(status.as_u16()),
        }
    }

    /// Polls an operation of an instance until it ended.
    pub async fn wait(&self, id: &str, operation: &str) -> End {
        self.wait_at(&format!("/v2/service_instances/{id}"), operation).await
    }

    async fn wait_at(&self, subject: &str, operation: &str) -> End {
        let path = format!("{subject}/last_operation?operation={operation}");
        let began = tokio::time::Instant::now();
        loop {
            let (status, answer) = self.insist(Method::GET, &path, &Value::Null).await;
            let end = match (status, answer["state"].as_str()) {
                (StatusCode::GONE, _) => Some(End::Gone),
                (_, Some("succeeded")) => Some(End::Succeeded),
                (_, Some("failed")) => Some(End::Failed(
                    answer["description"].as_str().unwrap_or_default().to_owned(),
                )),
                _ => None,
            };
            if let Some(end) = end {
                return end;
            }
            if began.elapsed() > PATIENCE {
                let stands = self.standing();
                self.world.accuse(format!(
                    "operation {operation} of {subject} does not end: {answer}; {stands}"
                ));
                return std::future::pending().await;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Lets time pass; what was written meanwhile, and how often ElastiCache was asked, are wrong beyond `questions`.
    pub async fn idle(&self, long: Duration, questions: u64) -> End {
        let counted = || {
            let state = self.world.state();
            (state.writes, state.counts.questions)
        };
        let before = counted();
        tokio::time::sleep(long).await;
        let after = counted();
        let (writes, asked) = (after.0 - before.0, after.1 - before.1);
        if writes == 0 && asked <= questions {
            End::Succeeded
        } else {
            End::Failed(format!(
                "{writes} writes and {asked} questions in {long:?} in which nothing happened"
            ))
        }
    }

    /// Orders an instance, and waits until it is there.
    pub async fn provision(&self, id: &str, plan: &str, parameters: &Value) -> End {
        let (path, body) = Self::ordering(id, plan, parameters);
        self.operate(Method::PUT, id, &path, &body).await
    }

    /// Orders an instance, and goes on once the order is accepted.
    pub async fn order(&self, id: &str, plan: &str, parameters: &Value) {
        let (path, body) = Self::ordering(id, plan, parameters);
        let (status, answer) = self.insist(Method::PUT, &path, &body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    }

    fn ordering(id: &str, plan: &str, parameters: &Value) -> (String, Value) {
        let path =
            format!("/v2/service_instances/{id}?accepts_incomplete=true&webhook=http://{id}.example/hook&secret=s");
        let body = json!({
            "service_id": service(plan), "plan_id": plan, "organization_guid": "o", "space_guid": "s",
            "parameters": parameters,
        });
        (path, body)
    }

    /// Changes the plan of an instance, or its parameters.
    pub async fn update(&self, id: &str, plan: &str, parameters: &Value) -> End {
        let path = format!("/v2/service_instances/{id}?accepts_incomplete=true");
        let body = json!({ "service_id": service(plan), "plan_id": plan, "parameters": parameters });
        self.operate(Method::PATCH, id, &path, &body).await
    }

    /// Has an instance move to a later revision of its plan.
    pub async fn maintain(&self, id: &str, plan: &str, revision: u64) -> End {
        let path = format!("/v2/service_instances/{id}?accepts_incomplete=true");
        let version = json!({ "version": format!("{revision}.0.0") });
        let body = json!({ "service_id": service(plan), "maintenance_info": version });
        // The catalog may not have it yet.
        loop {
            match self.operate(Method::PATCH, id, &path, &body).await {
                End::Refused(422) => tokio::time::sleep(AGAIN).await,
                end => return end,
            }
        }
    }

    pub async fn deprovision(&self, id: &str, plan: &str) -> End {
        let path = format!(
            "/v2/service_instances/{id}?accepts_incomplete=true&service_id={}&plan_id={plan}",
            service(plan)
        );
        self.operate(Method::DELETE, id, &path, &Value::Null).await
    }

    pub async fn restart(&self, id: &str) -> End {
        let path = format!("/v2/service_instances/{id}/actions/restart");
        self.operate(Method::POST, id, &path, &Value::Null).await
    }

    /// Makes a backup. Whoever asks twice has two, so it is not asked for again when an answer was lost.
    pub async fn backup(&self, id: &str) -> End {
        let before = self.backups(id).await.len();
        let path = format!("/v2/service_instances/{id}/actions/backups");
        loop {
            match self.ask(&Method::POST, &path, &Value::Null).await {
                Some((StatusCode::ACCEPTED, answer)) => {
                    return self.wait(id, answer["operation"].as_str().unwrap_or_default()).await;
                }
                Some((status, _)) if status.is_client_error() && status != StatusCode::UNPROCESSABLE_ENTITY => {
                    return End::Refused(status.as_u16());
                }
                _ => {}
            }
            tokio::time::sleep(AGAIN).await;
            if self.backups(id).await.len() > before {
                return self.wait(id, id).await;
            }
        }
    }

    pub async fn backups(&self, id: &str) -> Vec<String> {
        let path = format!("/v2/service_instances/{id}/actions/backups");
        let (_, answer) = self.insist(Method::GET, &path, &Value::Null).await;
        let listed = answer.as_array().or_else(|| answer["backups"].as_array());
        let ids = listed
            .into_iter()
            .flatten()
            .filter_map(|backup| backup["id"].as_str().map(str::to_owned));
        ids.collect()
    }

    pub async fn restore(&self, id: &str, backup: &str) -> End {
        let path = format!("/v2/service_instances/{id}/actions/backups/{backup}");
        self.operate(Method::PUT, id, &path, &Value::Null).await
    }

    pub async fn bind(&self, id: &str, binding: &str, plan: &str) -> StatusCode {
        let path = format!("/v2/service_instances/{id}/service_bindings/{binding}");
        let body = json!({ "service_id": service(plan), "plan_id": plan, "bind_resource": { "app_guid": "app" } });
        self.insist(Method::PUT, &path, &body).await.0
    }

    pub async fn unbind(&self, id: &str, binding: &str, plan: &str) -> StatusCode {
        let path = format!("/v2/service_instances/{id}/service_bindings/{binding}");
        let path = format!("{path}?service_id={}&plan_id={plan}", service(plan));
        self.insist(Method::DELETE, &path, &Value::Null).await.0
    }

    /// Gives a binding a user of its own; or has it succeed another one, which is left as it is.
    pub async fn bind_user(&self, id: &str, binding: &str, plan: &str, predecessor: Option<&str>) -> End {
        let subject = format!("/v2/service_instances/{id}/service_bindings/{binding}");
        let path = format!("{subject}?accepts_incomplete=true");
        let body = match predecessor {
            Some(predecessor) => json!({ "predecessor_binding_id": predecessor }),
            None => {
                json!({ "service_id": service(plan), "plan_id": plan, "bind_resource": { "app_guid": "app" } })
            }
        };
        let end = self.operate_at(Method::PUT, &subject, &path, &body).await;
        if end == End::Succeeded {
            let (status, answer) = self.insist(Method::GET, &subject, &Value::Null).await;
            if status != StatusCode::OK || !answer["credentials"]["username"].is_string() {
                self.world.accuse(format!("{binding} has no user: {status} {answer}"));
            }
        }
        end
    }

    /// Takes the user of a binding away.
    pub async fn unbind_user(&self, id: &str, binding: &str, plan: &str) -> End {
        let subject = format!("/v2/service_instances/{id}/service_bindings/{binding}");
        let path = format!(
            "{subject}?accepts_incomplete=true&service_id={}&plan_id={plan}",
            service(plan)
        );
        self.operate_at(Method::DELETE, &subject, &path, &Value::Null).await
    }

    /// Has all nodes emptied.
    pub async fn flush(&self, id: &str) -> StatusCode {
        let path = format!("/v2/service_instances/{id}/actions/flush");
        self.insist(Method::POST, &path, &Value::Null).await.0
    }

    /// Asks what all nodes count.
    pub async fn stats(&self, id: &str) -> StatusCode {
        let path = format!("/v2/service_instances/{id}/actions/stats");
        self.insist(Method::GET, &path, &Value::Null).await.0
    }

    /// What the instances say of themselves.
    fn standing(&self) -> String {
        let instances = self.world.objects("cacheinstances").into_iter();
        let said: Vec<_> = instances.map(|(_, instance)| instance["status"].clone()).collect();
        json!(said).to_string()
    }

    /// Waits until something holds, looking at the world itself.
    pub async fn until(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let began = tokio::time::Instant::now();
        while !holds(&self.world) {
            if began.elapsed() > PATIENCE {
                let stands = self.standing();
                self.world
                    .accuse(format!("{what}: not in {} h; {stands}", PATIENCE.as_secs() / 3600));
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn kubectl(&self, method: Method, path: String, query: &str, body: &Value) -> (StatusCode, Value) {
        let content_type = match method {
            Method::PATCH if query.contains("fieldManager") => "application/apply-patch+yaml",
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = KubeRequest {
            query: query.to_owned(),
            content_type: content_type.to_owned(),
            ..KubeRequest::new(method, path, body)
        };
        match self.world.kubernetes(&request) {
            Answer::Once(status, body) => (status, body),
            Answer::Watch(_) => (StatusCode::OK, Value::Null),
        }
    }

    /// `kubectl create`.
    pub fn create(&self, path: &str, object: &Value) {
        let (status, answer) = self.kubectl(Method::POST, path.to_owned(), "", object);
        assert!(status.is_success(), "{answer}");
    }

    /// `kubectl patch` of the resource of an ordered instance.
    pub fn patch_ordered(&self, id: &str, change: &Value) {
        let (namespace, name) = self.place(id);
        let path = format!("{GROUP}/namespaces/{namespace}/cacheinstances/{name}");
        let (status, answer) = self.kubectl(Method::PATCH, path, "", change);
        assert!(status.is_success(), "{answer}");
    }

    /// `kubectl annotate` of an instance.
    pub fn annotate(&self, namespace: &str, name: &str, annotation: &str, value: &str) {
        let path = format!("{GROUP}/namespaces/{namespace}/cacheinstances/{name}");
        let change = json!({ "metadata": { "annotations": { annotation: value } } });
        let (status, answer) = self.kubectl(Method::PATCH, path, "", &change);
        assert!(status.is_success(), "{answer}");
    }

    /// `kubectl scale --replicas=0` of the Deployments of an instance.
    pub fn scale_down(&self, namespace: &str, name: &str) {
        let by_hand = (namespace.to_owned(), name.to_owned());
        self.world.state().scaled_down.insert(by_hand);
        let deployments = self.world.objects("deployments").into_iter();
        let its = deployments.filter(|(key, deployment)| {
            key.namespace == namespace && deployment["metadata"]["labels"]["app.kubernetes.io/instance"] == name
        });
        for (key, _) in its {
            let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{}", key.name);
            let change = json!({ "spec": { "replicas": 0 } });
            self.kubectl(Method::PATCH, path, "", &change);
        }
    }

    /// Where the resource of an ordered instance is.
    pub fn place(&self, id: &str) -> (String, String) {
        let instances = self.world.objects("cacheinstances").into_iter();
        let mut places =
            instances.filter(|(_, instance)| instance["metadata"]["annotations"]["cache.akkeris.io/instance-id"] == id);
        let (key, _) = places.next().expect("it was ordered");
        (key.namespace, key.name)
    }

    /// Waits until the resource of an ordered instance is ready, or not, for a reason.
    pub async fn until_reason(&self, id: &str, reason: &str) {
        let (namespace, name) = self.place(id);
        self.until(&format!("{id} is {reason}"), |world| {
            let instance = world.object("cacheinstances", &namespace, &name).unwrap_or_default();
            let mut conditions = instance["status"]["conditions"].as_array().into_iter().flatten();
            conditions.any(|condition| condition["type"] == "Ready" && condition["reason"] == reason)
        })
        .await;
    }

    /// `kubectl apply` of a plan.
    pub fn apply_plan(&self, name: &str, spec: &Value) {
        let body = json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CachePlan", "metadata": { "name": name }, "spec": spec,
        });
        let (status, answer) = self.kubectl(
            Method::PATCH,
            format!("{GROUP}/cacheplans/{name}"),
            "fieldManager=kubectl&force=true",
            &body,
        );
        assert!(status.is_success(), "{answer}");
    }

    /// `kubectl apply` of an instance.
    pub fn apply(&self, namespace: &str, name: &str, spec: &Value) {
        let body = json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheInstance", "metadata": { "name": name },
            "spec": spec,
        });
        let path = format!("{GROUP}/namespaces/{namespace}/cacheinstances/{name}");
        let (status, answer) = self.kubectl(Method::PATCH, path, "fieldManager=kubectl&force=true", &body);
        assert!(status.is_success(), "{answer}");
    }

    /// `kubectl apply` of a backup.
    pub fn apply_backup(&self, namespace: &str, name: &str, instance: &str) {
        let body = json!({
            "apiVersion": "cache.akkeris.io/v1alpha1", "kind": "CacheBackup", "metadata": { "name": name },
            "spec": { "instanceRef": { "name": instance } },
        });
        let path = format!("{GROUP}/namespaces/{namespace}/cachebackups/{name}");
        let (status, answer) = self.kubectl(Method::PATCH, path, "fieldManager=kubectl&force=true", &body);
        assert!(status.is_success(), "{answer}");
    }

    /// `kubectl delete`.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let path = format!("{GROUP}/namespaces/{namespace}/{plural}/{name}");
        self.kubectl(Method::DELETE, path, "", &Value::Null);
    }

    /// `kubectl delete` of a plan.
    pub fn delete_plan(&self, name: &str) {
        self.kubectl(Method::DELETE, format!("{GROUP}/cacheplans/{name}"), "", &Value::Null);
    }

    /// Waits until an instance is as it is to be.
    pub async fn settled(&self, namespace: &str, name: &str) {
        self.until(&format!("{namespace}/{name} is ready"), |world| {
            world
                .object("cacheinstances", namespace, name)
                .is_some_and(|instance| is_settled(&instance))
        })
        .await;
    }

    /// Waits until an object is gone.
    pub async fn gone(&self, plural: &str, namespace: &str, name: &str) {
        self.until(&format!("{plural} {namespace}/{name} is gone"), |world| {
            world.object(plural, namespace, name).is_none()
        })
        .await;
    }
}

/// A condition of an object, if it speaks of its present generation.
pub fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a str> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == type_)?;
    (found["observedGeneration"] == object["metadata"]["generation"])
        .then(|| found["status"].as_str())
        .flatten()
}

/// Whether an object is ready and nothing is under way.
pub fn is_settled(object: &Value) -> bool {
    condition(object, "Ready") == Some("True") && condition(object, "Reconciling") != Some("True")
}
