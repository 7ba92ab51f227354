//! Pods without processes, for tests with thousands of them.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::own_pods;
use super::pod::PodState;
use super::shared::Shared;
use super::status::{Place, is_final, status};
use crate::address::Addresses;
use crate::api_calls::{CallError, call};

/// How long after a failed write it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Makes each pod Ready once and removes each that is deleted, until it is dropped.
pub(super) async fn run(shared: Arc<Shared>, addresses: Addresses, delay: Duration, writes: usize) {
    let mut events = std::pin::pin!(own_pods(&shared));
    let turn = Arc::new(Semaphore::new(writes.max(1)));
    let mut tasks = JoinSet::new();
    // Pods that were seen to, by uid and whether they were being deleted.
    let mut seen: HashSet<(String, bool)> = HashSet::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(_) = tasks.join_next() => continue,
        };
        let pod = match event {
            None => return,
            Some(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => pod,
            Some(watcher::Event::Delete(pod)) => {
                let uid = pod.metadata.uid.unwrap_or_default();
                seen.remove(&(uid.clone(), false));
                seen.remove(&(uid, true));
                continue;
            }
            Some(watcher::Event::Init | watcher::Event::InitDone) => continue,
        };
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let served = phase == Some("Running") || is_final(phase);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if (served && !leaving) || !seen.insert((uid, leaving)) {
            continue;
        }
        let (shared, turn) = (shared.clone(), turn.clone());
        let address = (!leaving).then(|| addresses.next_pod());
        tasks.spawn(async move {
            if address.is_some() {
                tokio::time::sleep(delay).await;
            }
            see_to(&shared, &pod, address, &turn).await;
        });
    }
}

/// Makes one of a bounded number of writes, again and again until it is made or has become pointless.
async fn see_to(shared: &Shared, pod: &Pod, address: Option<Ipv4Addr>, turn: &Semaphore) {
    loop {
        let Ok(permit) = turn.acquire().await else { return };
        let written = match address {
            Some(address) => appear(shared, pod, address).await,
            None => vanish(shared, pod).await,
        };
        match written {
            Ok(()) => return,
            Err(error) if error.is_not_found() || error.is_conflict() => return,
            Err(error) => tracing::debug!(%error, "trying again"),
        }
        drop(permit);
        tokio::time::sleep(AGAIN).await;
    }
}

fn api(shared: &Shared, pod: &Pod) -> Api<Pod> {
    Api::namespaced(
        shared.client.clone(),
        pod.metadata.namespace.as_deref().unwrap_or("default"),
    )
}

async fn appear(shared: &Shared, pod: &Pod, address: Ipv4Addr) -> Result<(), CallError> {
    let (name, now) = (pod.name_any(), Timestamp::now());
    let mut state = PodState::new(pod, now);
    state.simulate(pod, now);
    let place = Place {
        host: shared.host,
        pod: address,
    };
    let new = status(pod, &state, place, pod.status.as_ref(), now);
    let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": new});
    let (params, patch) = (PatchParams::default(), Patch::Strategic(body));
    let write = api(shared, pod);
    call(
        format!("writing the status of pod {name}"),
        write.patch_status(&name, &params, &patch),
    )
    .await?;
    Ok(())
}

async fn vanish(shared: &Shared, pod: &Pod) -> Result<(), CallError> {
    let name = pod.name_any();
    let mut params = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    params.preconditions = Some(kube::api::Preconditions {
        uid: pod.metadata.uid.clone(),
        resource_version: None,
    });
    call(format!("removing pod {name}"), api(shared, pod).delete(&name, &params)).await?;
    Ok(())
}
