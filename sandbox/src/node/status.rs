//! A pod's status as a kubelet would write it: a pure function of the pod and what is known of its containers.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::pod::{ContainerState, Ended, Phase, PodState, containers, is_sidecar};

/// Where a pod runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) host: Ipv4Addr,
    pub(super) pod: Ipv4Addr,
}

/// The status to write. `previous` is the last one, whose conditions keep their transition times while they stay.
pub(super) fn status(
    pod: &Pod,
    state: &PodState,
    place: Place,
    previous: Option<&PodStatus>,
    now: Timestamp,
) -> PodStatus {
    let initialized = state.is_initialized(pod);
    let of = |wanted: bool| -> Vec<ContainerStatus> {
        containers(pod)
            .zip(&state.containers)
            .filter(|((init, _), _)| *init == wanted)
            .map(|((init, container), state)| container_status(container, state, init || initialized, pod))
            .collect()
    };
    let phase = phase(pod, state);
    let inits = of(true);
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions(pod, state, phase, previous, now)),
        host_ip: Some(place.host.to_string()),
        host_ips: Some(vec![HostIP {
            ip: place.host.to_string(),
        }]),
        pod_ip: Some(place.pod.to_string()),
        pod_ips: Some(vec![PodIP {
            ip: place.pod.to_string(),
        }]),
        start_time: Some(Time(state.since)),
        observed_generation: pod.metadata.generation,
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: Some(of(false)),
        ..PodStatus::default()
    }
}

/// Whether the pod has ended for good.
pub(super) fn is_final(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn phase(pod: &Pod, state: &PodState) -> &'static str {
    if state.init_failed(pod) {
        return "Failed";
    }
    if !state.is_initialized(pod) && !pod_started(pod, state) {
        return "Pending";
    }
    let mains = || {
        containers(pod)
            .zip(&state.containers)
            .filter(|((init, _), _)| !init)
            .map(|(_, state)| state)
    };
    let never_ran = |state: &ContainerState| matches!(state.phase, Phase::Waiting { .. }) && state.last.is_none();
    if mains().any(never_ran) {
        return "Pending";
    }
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let policy = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        .unwrap_or("Always");
    let codes: Option<Vec<i32>> = mains()
        .map(|state| match &state.phase {
            Phase::Ended(ended) => Some(ended.code),
            Phase::Waiting { .. } | Phase::Running { .. } => None,
        })
        .collect();
    match codes {
        Some(codes) if codes.iter().all(|code| *code == 0) && (leaving || policy != "Always") => "Succeeded",
        Some(_) if leaving || policy == "Never" => "Failed",
        _ => "Running",
    }
}

/// A container beyond the init containers has run: a sidecar that restarts later does not make the pod pending again.
fn pod_started(pod: &Pod, state: &PodState) -> bool {
    containers(pod)
        .zip(&state.containers)
        .any(|((init, _), state)| !init && state.starts > 0)
}

fn conditions(
    pod: &Pod,
    state: &PodState,
    phase: &str,
    previous: Option<&PodStatus>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let unready: Vec<_> = containers(pod)
        .zip(&state.containers)
        .filter(|((init, container), _)| !init || is_sidecar(container))
        .filter(|((_, container), state)| !state.is_ready(container))
        .map(|((_, container), _)| container.name.as_str())
        .collect();
    let containers_ready = if is_final(Some(phase)) {
        let reason = if phase == "Succeeded" {
            "PodCompleted"
        } else {
            "PodFailed"
        };
        Err((reason, None))
    } else if unready.is_empty() {
        Ok(())
    } else {
        let message = format!("containers with unready status: [{}]", unready.join(" "));
        Err(("ContainersNotReady", Some(message)))
    };
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let current = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let open = |gate: &str| current.clone().any(|one| one.type_ == gate && one.status == "True");
    let closed: Vec<_> = gates
        .map(|gate| gate.condition_type.as_str())
        .filter(|gate| !open(gate))
        .collect();
    let ready = match &containers_ready {
        Ok(()) if !closed.is_empty() => {
            let message = format!("conditions that are not True: [{}]", closed.join(" "));
            Err(("ReadinessGatesNotReady", Some(message)))
        }
        other => other.clone(),
    };
    let initialized = match state.is_initialized(pod) || pod_started(pod, state) {
        true => Ok(()),
        false => Err(("ContainersNotInitialized", None)),
    };
    [
        ("PodReadyToStartContainers", Ok(())),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
    ]
    .into_iter()
    .map(|(type_, holds)| {
        let status = if holds.is_ok() { "True" } else { "False" };
        let (reason, message) = holds.err().unzip();
        let before = previous.iter().flat_map(|status| status.conditions.iter().flatten());
        let since = before
            .filter(|one| one.type_ == type_ && one.status == status)
            .find_map(|one| one.last_transition_time.clone());
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message: message.flatten(),
            last_transition_time: Some(since.unwrap_or(Time(now))),
            ..PodCondition::default()
        }
    })
    .collect()
}

fn container_status(container: &Container, state: &ContainerState, turn: bool, pod: &Pod) -> ContainerStatus {
    let has_inits = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.init_containers.as_ref().is_some_and(|all| !all.is_empty()));
    let api_state = match &state.phase {
        Phase::Waiting { reason, .. } => {
            let default = if has_inits && !turn {
                "PodInitializing"
            } else {
                "ContainerCreating"
            };
            ApiState {
                waiting: Some(ContainerStateWaiting {
                    reason: Some(reason.as_ref().map_or(default, |(reason, _)| reason).to_owned()),
                    message: reason.as_ref().map(|(_, message)| message.clone()),
                }),
                ..ApiState::default()
            }
        }
        Phase::Running { since, .. } => ApiState {
            running: Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            }),
            ..ApiState::default()
        },
        Phase::Ended(ended) => terminated(ended),
    };
    let pid = match (&state.phase, &state.last) {
        (Phase::Running { pid, .. } | Phase::Ended(Ended { pid, .. }), _) | (_, Some(Ended { pid, .. })) => Some(*pid),
        (Phase::Waiting { .. }, None) => None,
    };
    let done = matches!(&state.phase, Phase::Ended(ended) if ended.code == 0);
    let init_done = done
        && pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten())
            .any(|one| one == container);
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: if pid.is_some() {
            container.image.clone().unwrap_or_default()
        } else {
            String::new()
        },
        container_id: pid.map(id),
        ready: state.is_ready(container) || init_done,
        started: Some(state.is_started(container)),
        restart_count: i32::try_from(state.starts.saturating_sub(1)).unwrap_or(i32::MAX),
        state: Some(api_state),
        last_state: Some(state.last.as_ref().map(terminated).unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

fn id(pid: u32) -> String {
    match pid {
        0 => "simulated://0".to_owned(),
        pid => format!("process://{pid}"),
    }
}

fn terminated(ended: &Ended) -> ApiState {
    ApiState {
        terminated: Some(ContainerStateTerminated {
            exit_code: ended.code,
            reason: Some(ended.reason.to_owned()),
            started_at: Some(Time(ended.since)),
            finished_at: Some(Time(ended.at)),
            container_id: Some(id(ended.pid)),
            ..ContainerStateTerminated::default()
        }),
        ..ApiState::default()
    }
}
