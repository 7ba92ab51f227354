//! One pod on this node: carries out what [`super::pod`] decides, and writes what [`super::status`] says.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::launch::{self, Failure, Launched, Launcher};
use super::pod::{Ended, Phase, PodState, ProbeKind, Step, containers};
use super::probes;
use super::runner::{self, Exit, Stop};
use super::shared::Shared;
use super::status::{Place, is_final, status};
use crate::api_calls::call;

/// How long after a failed write it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the files of Secrets and ConfigMaps are brought up to date.
const REFRESH: Duration = Duration::from_secs(20);

/// The grace of a pod that does not say.
const GRACE: u64 = 30;

/// Something happened to a container.
enum Happening {
    Exited(usize, Exit),
    Probed(usize, Timestamp, ProbeKind, Result<(), String>),
}

/// What a running container can be reached by.
struct Running {
    stop: watch::Sender<Option<Stop>>,
    launched: Launched,
    probes: HashMap<ProbeKind, Prober>,
}

struct Prober {
    task: AbortHandle,
    failing: bool,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    launcher: Launcher,
    inbox: watch::Receiver<Option<Arc<Pod>>>,
    pod: Arc<Pod>,
    state: PodState,
    place: Place,
    running: HashMap<usize, Running>,
    tell: mpsc::Sender<Happening>,
    happenings: mpsc::Receiver<Happening>,
    tasks: JoinSet<()>,
    written: Option<(PodStatus, Value)>,
    removed: bool,
    again: Option<Timestamp>,
    refresh: Option<Timestamp>,
}

/// Runs a pod until it is gone from the API, which `inbox` tells by `None`.
pub(super) async fn run(shared: Arc<Shared>, address: Ipv4Addr, inbox: watch::Receiver<Option<Arc<Pod>>>) {
    let Some(pod) = inbox.borrow().clone() else { return };
    if is_final(pod.status.as_ref().and_then(|status| status.phase.as_deref())) {
        return;
    }
    let (tell, happenings) = mpsc::channel(64);
    let worker = Worker {
        launcher: Launcher::new(&shared, &pod, address),
        state: PodState::new(&pod, Timestamp::now()),
        place: Place {
            host: shared.host,
            pod: address,
        },
        shared,
        inbox,
        pod,
        running: HashMap::new(),
        tell,
        happenings,
        tasks: JoinSet::new(),
        written: None,
        removed: false,
        again: None,
        refresh: None,
    };
    worker.run().await;
}

impl Worker {
    async fn run(mut self) {
        self.shared.registry.add(&self.pod, self.place.pod);
        while self.turn().await {}
        for running in self.running.values_mut() {
            running.probes.clear();
            running.stop.send_replace(Some(Stop::Now));
        }
        while self.tasks.join_next().await.is_some() {}
        self.shared.registry.remove(&self.pod);
        if let Err(error) = self.launcher.folders.remove() {
            tracing::warn!(%error, pod = %self.pod.name_any(), "removing a pod's folders");
        }
    }

    /// Does what is to be done, then waits for something to happen; false when the pod is gone.
    async fn turn(&mut self) -> bool {
        self.again = None;
        let wake = loop {
            let (steps, wake) = self.state.next(&self.pod, Timestamp::now());
            let mut acted = false;
            for step in steps {
                match step {
                    Step::Start(i) => self.start(i).await,
                    Step::Stop(i, why) => self.stop(i, why),
                    Step::Remove => continue,
                }
                acted = true;
            }
            if !acted {
                break wake;
            }
        };
        self.sync_probes();
        self.write_status().await;
        let (steps, _) = self.state.next(&self.pod, Timestamp::now());
        if steps.contains(&Step::Remove) && !self.removed {
            self.remove().await;
        }
        let wake = [wake, self.again, self.refresh].into_iter().flatten().min();
        tokio::select! {
            changed = self.inbox.changed() => {
                let pod = changed.ok().and_then(|()| self.inbox.borrow_and_update().clone());
                let Some(pod) = pod else { return false };
                self.pod = pod;
            }
            Some(happening) = self.happenings.recv() => self.take(happening),
            Some(_) = self.tasks.join_next() => {}
            () = until(wake) => {}
        }
        if self.refresh.is_some_and(|at| at <= Timestamp::now()) {
            self.refresh = Some(Timestamp::now() + REFRESH);
            // A source that is away for a while leaves the files as they are.
            if let Err(error) = self.launcher.prepare(&self.pod).await {
                tracing::debug!(%error, pod = %self.pod.name_any(), "refreshing volumes");
            }
        }
        true
    }

    async fn start(&mut self, i: usize) {
        let pod = self.pod.clone();
        let Some((_, container)) = containers(&pod).nth(i) else {
            return;
        };
        let run = self.state.containers.get(i).map_or(0, |state| state.starts);
        match self.launcher.launch(&pod, container, run).await {
            Ok((process, launched)) => {
                let (pid, since) = (process.pid(), Timestamp::now());
                self.shared
                    .registry
                    .started(&pod, &container.name, pid, launched.log.clone());
                self.state.started(i, pid, since);
                self.tell_event(
                    EventType::Normal,
                    "Started",
                    format!("Started container {}", container.name),
                );
                let (stop, stopped) = watch::channel(None);
                let runner = runner::run(
                    process,
                    container.clone(),
                    stopped,
                    launched.shell.clone(),
                    launched.pre_stop.clone(),
                );
                let tell = self.tell.clone();
                self.tasks.spawn(async move {
                    let exit = runner.await;
                    // The worker is gone only together with this task.
                    let _ = tell.send(Happening::Exited(i, exit)).await;
                });
                self.running.insert(
                    i,
                    Running {
                        stop,
                        launched,
                        probes: HashMap::new(),
                    },
                );
                if launch::has_sources(&pod) && self.refresh.is_none() {
                    self.refresh = Some(since + REFRESH);
                }
            }
            Err(failure) => {
                let (now, backoff) = (Timestamp::now(), self.shared.backoff);
                let image = container.image.as_deref().unwrap_or_default();
                let (reason, message) = failure.told();
                match failure {
                    Failure::Image(message) => self.state.pull_failed(i, &message, image, backoff, now),
                    Failure::Other(reason, message) => self.state.not_started(i, (reason, message), AGAIN * 2, now),
                }
                self.tell_event(EventType::Warning, reason, message);
            }
        }
    }

    fn stop(&mut self, i: usize, why: Option<ProbeKind>) {
        self.state.stopping(i);
        let Some((_, container)) = containers(&self.pod).nth(i) else {
            return;
        };
        let spec_grace = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds);
        let grace = match why {
            None => self.pod.metadata.deletion_grace_period_seconds.or(spec_grace),
            Some(kind) => kind
                .of(container)
                .and_then(|probe| probe.termination_grace_period_seconds)
                .or(spec_grace),
        };
        let grace = grace.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(GRACE);
        let message = match why {
            None => format!("Stopping container {}", container.name),
            Some(kind) => format!(
                "Container {} failed {} probe, will be restarted",
                container.name,
                kind.word().to_lowercase()
            ),
        };
        self.tell_event(EventType::Normal, "Killing", message);
        if let Some(running) = self.running.get(&i) {
            let grace = Duration::from_secs(grace);
            running.stop.send_replace(Some(Stop::Gracefully(grace)));
        }
    }

    fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Exited(i, exit) => {
                self.running.remove(&i);
                let Some(state) = self.state.containers.get(i) else {
                    return;
                };
                let Phase::Running { since, pid } = state.phase else {
                    return;
                };
                let ended = Ended {
                    code: exit.code,
                    reason: exit.reason,
                    since,
                    at: Timestamp::now(),
                    pid,
                };
                if let Some((_, container)) = containers(&self.pod).nth(i) {
                    self.shared.registry.ended(&self.pod, &container.name);
                }
                self.state.ended(&self.pod, i, ended, self.shared.backoff);
                let phase = self.state.containers.get(i).map(|state| &state.phase);
                if let Some(Phase::Waiting {
                    reason: Some((_, message)),
                    ..
                }) = phase
                {
                    self.tell_event(EventType::Warning, "BackOff", message.clone());
                }
            }
            Happening::Probed(i, since, kind, answer) => {
                self.state.probed(&self.pod, i, since, kind, answer.is_ok());
                let prober = self
                    .running
                    .get_mut(&i)
                    .and_then(|running| running.probes.get_mut(&kind));
                let begins = prober
                    .is_some_and(|prober| answer.is_err() && !std::mem::replace(&mut prober.failing, answer.is_err()));
                if let (true, Err(message)) = (begins, answer) {
                    self.tell_event(
                        EventType::Warning,
                        "Unhealthy",
                        format!("{} probe failed: {message}", kind.word()),
                    );
                }
            }
        }
    }

    /// Starts and ends the probes that each container is to have now.
    fn sync_probes(&mut self) {
        for (i, ((_, container), state)) in containers(&self.pod).zip(&self.state.containers).enumerate() {
            let Some(running) = self.running.get_mut(&i) else {
                continue;
            };
            let Phase::Running { since, .. } = state.phase else {
                continue;
            };
            for kind in ProbeKind::ALL {
                if !state.wants(kind, container) {
                    running.probes.remove(&kind);
                    continue;
                }
                let Some(probe) = kind.of(container).filter(|_| !running.probes.contains_key(&kind)) else {
                    continue;
                };
                let check = probes::check(probe, container, self.place.pod, &running.launched.rewriting);
                let asking = probes::repeat(
                    probe.clone(),
                    check,
                    running.launched.shell.clone(),
                    since,
                    self.tell.clone(),
                    move |answer| Happening::Probed(i, since, kind, answer),
                );
                let task = self.tasks.spawn(asking);
                running.probes.insert(kind, Prober { task, failing: false });
            }
        }
    }

    async fn write_status(&mut self) {
        let previous = self
            .written
            .as_ref()
            .map(|(status, _)| status)
            .or(self.pod.status.as_ref());
        let new = status(&self.pod, &self.state, self.place, previous, Timestamp::now());
        let body = json!({"metadata": {"uid": self.pod.metadata.uid}, "status": new});
        if self.removed || self.written.as_ref().is_some_and(|(_, written)| *written == body) {
            return;
        }
        let name = self.pod.name_any();
        let patch = Patch::Strategic(&body);
        let params = PatchParams::default();
        match call(
            format!("writing the status of pod {name}"),
            self.api().patch_status(&name, &params, &patch),
        )
        .await
        {
            Ok(_) => self.written = Some((new, body)),
            // It is gone, or another one has its name: the watch tells soon.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => self.try_again(&error),
        }
    }

    async fn remove(&mut self) {
        let name = self.pod.name_any();
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: self.pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match call(format!("removing pod {name}"), self.api().delete(&name, &params)).await {
            Ok(_) => self.removed = true,
            Err(error) if error.is_not_found() || error.is_conflict() => self.removed = true,
            Err(error) => self.try_again(&error),
        }
    }

    fn try_again(&mut self, error: &crate::api_calls::CallError) {
        tracing::debug!(%error, "trying again");
        self.again = Some(Timestamp::now() + AGAIN);
    }

    fn api(&self) -> Api<Pod> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        Api::namespaced(self.shared.client.clone(), namespace)
    }

    fn tell_event(&mut self, kind: EventType, reason: &'static str, note: String) {
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        self.tasks
            .spawn(async move { shared.event(&pod, kind, reason, note).await });
    }
}

async fn until(at: Option<Timestamp>) {
    match at {
        Some(at) => {
            let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
            tokio::time::sleep(wait).await;
        }
        None => std::future::pending().await,
    }
}
