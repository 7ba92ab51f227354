//! What is known of a pod's containers, and what is to be done next: no I/O and no clock.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};

/// A container that ran at least this long has not crashed in a row.
const HEALTHY: Duration = Duration::from_secs(600);

/// How long the first failed pull of an image shows before it is tried again.
const FIRST_PULL: Duration = Duration::from_secs(1);

/// How long to wait before a container that failed is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the second failure in a row; the first restart is immediate. It doubles from there.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl Default for Backoff {
    /// A kubelet's: 10 seconds to 5 minutes.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(10),
            longest: Duration::from_secs(300),
        }
    }
}

impl Backoff {
    fn after(self, previous: Duration) -> Duration {
        match previous.is_zero() {
            true => self.first,
            false => (previous * 2).min(self.longest),
        }
    }
}

/// How a container's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) reason: &'static str,
    pub(super) since: Timestamp,
    pub(super) at: Timestamp,
    pub(super) pid: u32,
}

/// Where a container stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It does not run; without a reason because its turn has not come.
    Waiting {
        reason: Option<(&'static str, String)>,
        until: Option<Timestamp>,
    },
    Running {
        since: Timestamp,
        pid: u32,
    },
    Ended(Ended),
}

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    pub(super) const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    pub(super) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What a probe has found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    successes: i32,
    failures: i32,
    passed: bool,
    failed: bool,
}

impl Tally {
    fn record(&mut self, probe: &Probe, success: bool) {
        if success {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            if self.successes >= probe.success_threshold.unwrap_or(1) {
                (self.passed, self.failed) = (true, false);
            }
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            if self.failures >= probe.failure_threshold.unwrap_or(3) {
                (self.passed, self.failed) = (false, true);
            }
        }
    }
}

/// One container of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerState {
    pub(super) phase: Phase,
    pub(super) starts: u32,
    pub(super) last: Option<Ended>,
    stopping: bool,
    delay: Duration,
    failed_pulls: u32,
    tallies: [Tally; 3],
}

impl ContainerState {
    fn new() -> Self {
        Self {
            phase: Phase::Waiting {
                reason: None,
                until: None,
            },
            starts: 0,
            last: None,
            stopping: false,
            delay: Duration::ZERO,
            failed_pulls: 0,
            tallies: Default::default(),
        }
    }

    fn tally(&self, kind: ProbeKind) -> Tally {
        let [startup, readiness, liveness] = self.tallies;
        match kind {
            ProbeKind::Startup => startup,
            ProbeKind::Readiness => readiness,
            ProbeKind::Liveness => liveness,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// It runs and its startup probe, if any, has passed.
    pub(super) fn is_started(&self, container: &Container) -> bool {
        self.is_running() && (container.startup_probe.is_none() || self.tally(ProbeKind::Startup).passed)
    }

    pub(super) fn is_ready(&self, container: &Container) -> bool {
        self.is_started(container) && (container.readiness_probe.is_none() || self.tally(ProbeKind::Readiness).passed)
    }

    /// The probe after whose failures the container is to be restarted.
    fn fatal(&self) -> Option<ProbeKind> {
        [ProbeKind::Startup, ProbeKind::Liveness]
            .into_iter()
            .find(|kind| self.tally(*kind).failed)
    }

    /// Whether a probe of this kind is to be made now.
    pub(super) fn wants(&self, kind: ProbeKind, container: &Container) -> bool {
        let now = match kind {
            ProbeKind::Startup => self.is_running() && !self.is_started(container),
            ProbeKind::Readiness | ProbeKind::Liveness => self.is_started(container),
        };
        now && !self.stopping && kind.of(container).is_some()
    }

    fn succeeded(&self) -> bool {
        matches!(&self.phase, Phase::Ended(ended) if ended.code == 0)
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Start the container with this index.
    Start(usize),
    /// End it gracefully, because the pod goes or because of a probe.
    Stop(usize, Option<ProbeKind>),
    /// Everything has ended: remove the pod from the API.
    Remove,
}

/// A pod, as far as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodState {
    /// Init containers first.
    pub(super) containers: Vec<ContainerState>,
    pub(super) since: Timestamp,
}

/// The containers of a pod, init containers first, each with whether it is one.
pub(super) fn containers(pod: &Pod) -> impl Iterator<Item = (bool, &Container)> {
    let spec = pod.spec.iter();
    let inits = spec
        .clone()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .map(|one| (true, one));
    inits.chain(spec.flat_map(|spec| &spec.containers).map(|one| (false, one)))
}

/// An init container that runs beside the others.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn restarts(pod: &Pod, init: bool, container: &Container, code: i32) -> bool {
    let policy = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        .unwrap_or("Always");
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    match (init, is_sidecar(container), policy) {
        (true, true, _) => true,
        (_, _, "Never") => false,
        (false, _, "Always") => true,
        _ => code != 0,
    }
}

impl PodState {
    pub(super) fn new(pod: &Pod, now: Timestamp) -> Self {
        Self {
            containers: containers(pod).map(|_| ContainerState::new()).collect(),
            since: now,
        }
    }

    /// What is to be done now, and when to ask again at the latest.
    pub(super) fn next(&self, pod: &Pod, now: Timestamp) -> (Vec<Step>, Option<Timestamp>) {
        let mut steps = Vec::new();
        let mut wake: Option<Timestamp> = None;
        if pod.metadata.deletion_timestamp.is_some() {
            let running = || {
                self.containers
                    .iter()
                    .enumerate()
                    .filter(|(_, state)| state.is_running())
            };
            steps.extend(
                running()
                    .filter(|(_, state)| !state.stopping)
                    .map(|(i, _)| Step::Stop(i, None)),
            );
            if running().next().is_none() {
                steps.push(Step::Remove);
            }
            return (steps, wake);
        }
        for (i, state) in self.containers.iter().enumerate() {
            if state.is_running()
                && !state.stopping
                && let Some(kind) = state.fatal()
            {
                steps.push(Step::Stop(i, Some(kind)));
            }
        }
        if self.init_failed(pod) {
            return (steps, wake);
        }
        for (i, ((init, container), state)) in containers(pod).zip(&self.containers).enumerate() {
            let due = match &state.phase {
                Phase::Running { .. } => None,
                Phase::Waiting { until, .. } => Some(until.unwrap_or(now)),
                Phase::Ended(ended) => restarts(pod, init, container, ended.code).then_some(now),
            };
            match due {
                Some(at) if at <= now => steps.push(Step::Start(i)),
                Some(at) => wake = Some(wake.map_or(at, |other| other.min(at))),
                None => {}
            }
            if init && !Self::lets_pass(container, state) {
                break;
            }
        }
        (steps, wake)
    }

    fn lets_pass(container: &Container, state: &ContainerState) -> bool {
        match is_sidecar(container) {
            true => state.is_started(container),
            false => state.succeeded(),
        }
    }

    /// Whether all init containers have done their part.
    pub(super) fn is_initialized(&self, pod: &Pod) -> bool {
        let mut inits = containers(pod).zip(&self.containers).filter(|((init, _), _)| *init);
        inits.all(|((_, container), state)| Self::lets_pass(container, state))
    }

    /// An init container failed and is not to be tried again.
    pub(super) fn init_failed(&self, pod: &Pod) -> bool {
        containers(pod).zip(&self.containers).any(|((init, container), state)| {
            let failed = matches!(&state.phase, Phase::Ended(ended)
                if ended.code != 0 && !restarts(pod, init, container, ended.code));
            init && failed
        })
    }

    pub(super) fn started(&mut self, i: usize, pid: u32, now: Timestamp) {
        let Some(state) = self.containers.get_mut(i) else {
            return;
        };
        if let Phase::Ended(ended) = &state.phase {
            state.last = Some(ended.clone());
        }
        state.phase = Phase::Running { since: now, pid };
        state.starts += 1;
        state.stopping = false;
        state.failed_pulls = 0;
        state.tallies = Default::default();
    }

    pub(super) fn stopping(&mut self, i: usize) {
        if let Some(state) = self.containers.get_mut(i) {
            state.stopping = true;
        }
    }

    /// The image stands for no program: it will be looked for again.
    pub(super) fn pull_failed(&mut self, i: usize, message: &str, image: &str, backoff: Backoff, now: Timestamp) {
        let Some(state) = self.containers.get_mut(i) else {
            return;
        };
        state.failed_pulls = state.failed_pulls.saturating_add(1);
        let (reason, wait) = match state.failed_pulls {
            1 => (("ErrImagePull", message.to_owned()), FIRST_PULL),
            n => {
                let doublings = n.saturating_sub(2).min(10);
                let wait = (backoff.first * 2_u32.pow(doublings)).min(backoff.longest);
                (
                    (
                        "ImagePullBackOff",
                        format!("Back-off pulling image \"{image}\": ErrImagePull: {message}"),
                    ),
                    wait,
                )
            }
        };
        Self::wait(state, reason, now + wait);
    }

    /// The container cannot be made as its spec wants it: it will be tried again after `wait`.
    pub(super) fn not_started(&mut self, i: usize, reason: (&'static str, String), wait: Duration, now: Timestamp) {
        if let Some(state) = self.containers.get_mut(i) {
            Self::wait(state, reason, now + wait);
        }
    }

    fn wait(state: &mut ContainerState, reason: (&'static str, String), until: Timestamp) {
        if let Phase::Ended(ended) = &state.phase {
            state.last = Some(ended.clone());
        }
        state.phase = Phase::Waiting {
            reason: Some(reason),
            until: Some(until),
        };
    }

    /// A container's process ended: it shows as ended, or as backing off if it crashed before.
    pub(super) fn ended(&mut self, pod: &Pod, i: usize, ended: Ended, backoff: Backoff) {
        let Some((init, container)) = containers(pod).nth(i) else {
            return;
        };
        let Some(state) = self.containers.get_mut(i) else {
            return;
        };
        let ran = Duration::try_from(ended.at.duration_since(ended.since)).unwrap_or_default();
        let delay = if ran >= HEALTHY { Duration::ZERO } else { state.delay };
        let (at, restarted) = (ended.at, restarts(pod, init, container, ended.code));
        state.delay = backoff.after(delay);
        state.stopping = false;
        state.phase = Phase::Ended(ended);
        if restarted && !delay.is_zero() {
            let meta = &pod.metadata;
            let message = format!(
                "back-off {delay:?} restarting failed container={} pod={}_{}({})",
                container.name,
                meta.name.as_deref().unwrap_or_default(),
                meta.namespace.as_deref().unwrap_or_default(),
                meta.uid.as_deref().unwrap_or_default(),
            );
            Self::wait(state, ("CrashLoopBackOff", message), at + delay);
        }
    }

    /// Everything is as if it had started and answered at once; no process is behind it.
    pub(super) fn simulate(&mut self, pod: &Pod, now: Timestamp) {
        for ((init, container), state) in containers(pod).zip(&mut self.containers) {
            state.starts = 1;
            state.tallies = [Tally {
                successes: 1,
                failures: 0,
                passed: true,
                failed: false,
            }; 3];
            state.phase = match init && !is_sidecar(container) {
                true => Phase::Ended(Ended {
                    code: 0,
                    reason: "Completed",
                    since: now,
                    at: now,
                    pid: 0,
                }),
                false => Phase::Running { since: now, pid: 0 },
            };
        }
    }

    /// A probe of the run that began at `since` came to a result; one of an earlier run counts for nothing.
    pub(super) fn probed(&mut self, pod: &Pod, i: usize, since: Timestamp, kind: ProbeKind, success: bool) {
        let Some(probe) = containers(pod).nth(i).and_then(|(_, container)| kind.of(container)) else {
            return;
        };
        let Some(state) = self.containers.get_mut(i) else {
            return;
        };
        if !matches!(state.phase, Phase::Running { since: now, .. } if now == since) {
            return;
        }
        let [startup, readiness, liveness] = &mut state.tallies;
        let tally = match kind {
            ProbeKind::Startup => startup,
            ProbeKind::Readiness => readiness,
            ProbeKind::Liveness => liveness,
        };
        tally.record(probe, success);
    }
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
