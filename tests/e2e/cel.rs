//! The API server refuses what the rules of the custom resources refuse, with the same words.

use kube::Api;
use kube::api::{DynamicObject, PostParams};
use kube::core::{ApiResource, Resource};
use sandbox::Sandbox;
use serde_json::Value;

use crate::cel_cases::{self, Case};
use crate::world::{PROJECT, kubectl};

async fn judge(api: Api<DynamicObject>, cases: Vec<Case>) {
    let object = |value: &Value| serde_json::from_value::<DynamicObject>(value.clone()).unwrap();
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    for case in cases {
        let verdict = match &case.old {
            None => api.create(&dry, &object(&case.new)).await,
            Some(old) => {
                let old = api.create(&PostParams::default(), &object(old)).await.unwrap();
                let mut new = object(&case.new);
                new.metadata.resource_version = old.meta().resource_version.clone();
                let verdict = api.replace("case", &dry, &new).await;
                api.delete("case", &kube::api::DeleteParams::default()).await.unwrap();
                verdict
            }
        };
        match (case.refused, verdict) {
            (None, verdict) => assert!(verdict.is_ok(), "{}: {verdict:?}", case.what),
            (Some(part), Err(kube::Error::Api(status))) => {
                assert!(status.is_invalid(), "{}: {status:?}", case.what);
                assert!(status.message.contains(part), "{}: {}", case.what, status.message);
            }
            (Some(part), verdict) => panic!("{} was not refused with {part:?}: {verdict:?}", case.what),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_refuses_by_the_same_rules() {
    let sandbox = Sandbox::start_bare().await.unwrap();
    kubectl(&sandbox, &["apply", "-k", &format!("{PROJECT}/crds")]).await;
    kubectl(
        &sandbox,
        &["wait", "--for=condition=Established", "crd", "--all", "--timeout=90s"],
    )
    .await;
    let client = sandbox.kube().await.unwrap();
    let plans = ApiResource::erase::<cache_broker::api::CachePlan>(&());
    let instances = ApiResource::erase::<cache_broker::api::CacheInstance>(&());
    judge(Api::all_with(client.clone(), &plans), cel_cases::plans()).await;
    let api = Api::namespaced_with(client.clone(), "default", &instances);
    judge(api, cel_cases::instances()).await;
    sandbox.stop().await;
}
