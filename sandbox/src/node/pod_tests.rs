use super::super::status::{Place, status};
use super::*;
use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Value, json};

const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(10),
    longest: Duration::from_secs(35),
};

/// A pod in the hands of a test, with a clock of its own.
struct Bench {
    pod: Pod,
    state: PodState,
    now: Timestamp,
    last: Option<PodStatus>,
}

impl Bench {
    fn new(spec: &Value) -> Self {
        let meta = json!({"name": "p", "namespace": "n", "uid": "u"});
        let pod = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        Self {
            state: PodState::new(&pod, now),
            pod,
            now,
            last: None,
        }
    }

    fn next(&self) -> (Vec<Step>, Option<i64>) {
        let (steps, wake) = self.state.next(&self.pod, self.now);
        (steps, wake.map(Timestamp::as_second))
    }

    fn later(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self
    }

    fn start(&mut self, i: usize) -> &mut Self {
        let steps = self.next().0;
        assert!(steps.contains(&Step::Start(i)), "{steps:?}");
        self.state.started(i, 100, self.now);
        self
    }

    fn end(&mut self, i: usize, code: i32) -> &mut Self {
        let Phase::Running { since, pid } = self.state.containers[i].phase else {
            panic!("container {i} does not run")
        };
        let ended = Ended {
            code,
            reason: "Error",
            since,
            at: self.now,
            pid,
        };
        self.state.ended(&self.pod, i, ended, BACKOFF);
        self
    }

    fn probe(&mut self, i: usize, kind: ProbeKind, success: bool) -> &mut Self {
        let Phase::Running { since, .. } = self.state.containers[i].phase else {
            panic!("container {i} does not run")
        };
        self.state.probed(&self.pod, i, since, kind, success);
        self
    }

    fn delete(&mut self) -> &mut Self {
        self.pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
        self
    }

    /// The phase, whether it is Ready, and each container's state in a word.
    fn shows(&mut self) -> String {
        let place = Place {
            host: [127, 80, 0, 1].into(),
            pod: [127, 80, 1, 1].into(),
        };
        let status = status(&self.pod, &self.state, place, self.last.as_ref(), self.now);
        let inits = status.init_container_statuses.iter().flatten();
        let words: Vec<String> = inits
            .chain(status.container_statuses.iter().flatten())
            .map(|one| {
                let state = one.state.clone().unwrap();
                let word = match (state.waiting, state.terminated) {
                    (Some(waiting), _) => waiting.reason.unwrap(),
                    (_, Some(ended)) => format!("exit {}", ended.exit_code),
                    _ => format!("running{}", if one.ready { "" } else { " unready" }),
                };
                format!("{word} {}", one.restart_count)
            })
            .collect();
        let ready = status
            .conditions
            .iter()
            .flatten()
            .find(|one| one.type_ == "Ready")
            .unwrap();
        let shown = format!(
            "{} {}: {}",
            status.phase.as_deref().unwrap(),
            ready.status,
            words.join(", ")
        );
        self.last = Some(status);
        shown
    }

    fn ready_since(&self) -> i64 {
        let conditions = self.last.as_ref().unwrap().conditions.as_ref().unwrap();
        let ready = conditions.iter().find(|one| one.type_ == "Ready").unwrap();
        ready.last_transition_time.as_ref().unwrap().0.as_second()
    }
}

#[test]
fn containers_start_when_the_init_containers_are_through() {
    let mut bench = Bench::new(&json!({
        "initContainers": [
            {"name": "i"},
            {"name": "side", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 1}}},
        ],
        "containers": [{"name": "a"}, {"name": "b"}],
    }));
    assert_eq!(bench.next().0, [Step::Start(0)]);
    let words = "ContainerCreating 0, ContainerCreating 0, PodInitializing 0, PodInitializing 0";
    assert_eq!(bench.shows(), format!("Pending False: {words}"));
    bench.start(0);
    assert_eq!(bench.next(), (vec![], None));
    bench.end(0, 0).start(1);
    assert_eq!(bench.next(), (vec![], None), "the sidecar has not started up");
    bench.probe(1, ProbeKind::Startup, true);
    assert_eq!(bench.next().0, [Step::Start(2), Step::Start(3)]);
    bench.start(2);
    assert_eq!(
        bench.shows(),
        "Pending False: exit 0 0, running 0, running 0, ContainerCreating 0"
    );
    bench.start(3);
    assert_eq!(bench.shows(), "Running True: exit 0 0, running 0, running 0, running 0");
    bench.end(1, 1);
    assert_eq!(bench.next().0, [Step::Start(1)], "a sidecar comes back");
    assert!(bench.shows().starts_with("Running False"));
}

#[test]
fn crashes_in_a_row_wait_longer_and_longer() {
    let mut bench = Bench::new(&json!({"containers": [{"name": "a"}]}));
    bench.start(0).later(1).end(0, 1);
    assert_eq!(bench.shows(), "Running False: exit 1 0");
    bench.start(0);
    assert_eq!(
        bench.shows(),
        "Running True: running 1",
        "the first restart is immediate"
    );
    for (crash, wait) in [(2, 10), (3, 20), (4, 35), (5, 35)] {
        bench.later(1).end(0, 1);
        assert_eq!(bench.shows(), format!("Running False: CrashLoopBackOff {}", crash - 1));
        let due = bench.now.as_second() + wait;
        assert_eq!(bench.next(), (vec![], Some(due)));
        bench.later(wait.unsigned_abs()).start(0);
    }
    let last = bench.shows();
    assert_eq!(last, "Running True: running 5");
    let last = bench.last.clone().unwrap().container_statuses.unwrap()[0]
        .last_state
        .clone()
        .unwrap();
    assert_eq!(last.terminated.unwrap().exit_code, 1);
    bench.later(600).end(0, 1);
    assert_eq!(bench.next().0, [Step::Start(0)], "a long run forgives");
}

#[test]
fn the_restart_policy_decides_about_the_end() {
    for (policy, code, expected) in [
        ("Always", 0, "Running False: exit 0 0"),
        ("OnFailure", 0, "Succeeded False: exit 0 0"),
        ("OnFailure", 3, "Running False: exit 3 0"),
        ("Never", 0, "Succeeded False: exit 0 0"),
        ("Never", 3, "Failed False: exit 3 0"),
    ] {
        let mut bench = Bench::new(&json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        bench.start(0).end(0, code);
        assert_eq!(bench.shows(), expected, "{policy} {code}");
        let again = if expected.starts_with("Running") {
            vec![Step::Start(0)]
        } else {
            vec![]
        };
        assert_eq!(bench.next().0, again, "{policy} {code}");
    }
    let mut bench = Bench::new(&json!({
        "restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}],
    }));
    bench.start(0).end(0, 2);
    assert_eq!(bench.shows(), "Failed False: exit 2 0, PodInitializing 0");
    assert_eq!(bench.next(), (vec![], None));
}

#[test]
fn readiness_follows_its_probe_and_keeps_the_time_of_its_change() {
    let probe = json!({"tcpSocket": {"port": 1}, "successThreshold": 2, "failureThreshold": 2});
    let mut bench = Bench::new(&json!({"containers": [{"name": "a", "readinessProbe": probe}]}));
    bench.start(0);
    assert_eq!(bench.shows(), "Running False: running unready 0");
    bench.later(5).probe(0, ProbeKind::Readiness, true);
    assert_eq!(bench.shows(), "Running False: running unready 0");
    bench.probe(0, ProbeKind::Readiness, true);
    assert_eq!(bench.shows(), "Running True: running 0");
    assert_eq!(bench.ready_since(), 5);
    bench.later(5).probe(0, ProbeKind::Readiness, false);
    assert_eq!(bench.shows(), "Running True: running 0");
    assert_eq!(bench.ready_since(), 5);
    bench.probe(0, ProbeKind::Readiness, false);
    assert_eq!(bench.shows(), "Running False: running unready 0");
    assert_eq!(bench.ready_since(), 10);
    bench
        .probe(0, ProbeKind::Readiness, true)
        .probe(0, ProbeKind::Readiness, true)
        .end(0, 1)
        .start(0);
    assert_eq!(
        bench.shows(),
        "Running False: running unready 1",
        "a new process has to show itself again"
    );
}

#[test]
fn startup_and_liveness_probes_restart_a_container() {
    let probe = json!({"tcpSocket": {"port": 1}, "failureThreshold": 2});
    let container = json!({"name": "a", "startupProbe": probe, "livenessProbe": probe});
    let mut bench = Bench::new(&json!({"containers": [container]}));
    bench.start(0);
    let wants = |bench: &Bench, kind: ProbeKind| {
        bench.state.containers[0].wants(kind, &bench.pod.spec.as_ref().unwrap().containers[0])
    };
    assert!(wants(&bench, ProbeKind::Startup) && !wants(&bench, ProbeKind::Liveness));
    bench
        .probe(0, ProbeKind::Startup, false)
        .probe(0, ProbeKind::Startup, true);
    assert!(!wants(&bench, ProbeKind::Startup) && wants(&bench, ProbeKind::Liveness));
    bench.probe(0, ProbeKind::Liveness, false);
    assert_eq!(bench.next().0, []);
    bench.probe(0, ProbeKind::Liveness, false);
    assert_eq!(bench.next().0, [Step::Stop(0, Some(ProbeKind::Liveness))]);
    bench.state.stopping(0);
    assert_eq!(bench.next().0, [], "once");
    bench.end(0, 0).start(0);
    assert_eq!(bench.next().0, [], "a new run, new counts");
    let since = bench.now;
    bench.later(1).end(0, 1);
    bench.state.probed(&bench.pod, 0, since, ProbeKind::Startup, false);
    assert_eq!(
        bench.shows(),
        "Running False: CrashLoopBackOff 1",
        "a late result counts for nothing"
    );
}

#[test]
fn an_image_that_is_not_there_shows_as_a_kubelet_shows_it() {
    let mut bench = Bench::new(&json!({"containers": [{"name": "a"}]}));
    for (shown, wait) in [
        ("ErrImagePull", 1),
        ("ImagePullBackOff", 10),
        ("ImagePullBackOff", 20),
        ("ImagePullBackOff", 35),
    ] {
        assert_eq!(bench.next().0, [Step::Start(0)]);
        bench
            .state
            .pull_failed(0, "no such program", "nginx", BACKOFF, bench.now);
        assert_eq!(bench.shows(), format!("Pending False: {shown} 0"));
        assert_eq!(bench.next(), (vec![], Some(bench.now.as_second() + wait)));
        bench.later(wait.unsigned_abs());
    }
    bench.state.not_started(
        0,
        ("CreateContainerConfigError", "secret".into()),
        Duration::from_secs(2),
        bench.now,
    );
    assert_eq!(bench.shows(), "Pending False: CreateContainerConfigError 0");
}

#[test]
fn a_deleted_pod_ends_its_containers_and_then_goes() {
    let mut bench = Bench::new(&json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    bench.start(0).start(1).delete();
    assert_eq!(bench.next().0, [Step::Stop(0, None), Step::Stop(1, None)]);
    bench.state.stopping(0);
    assert_eq!(bench.next().0, [Step::Stop(1, None)]);
    bench.state.stopping(1);
    bench.end(0, 0);
    assert_eq!(bench.next().0, [], "the other one still runs, and nothing starts again");
    bench.end(1, 137);
    assert_eq!(bench.next().0, [Step::Remove]);
    assert_eq!(bench.shows(), "Failed False: exit 0 0, exit 137 0");

    let mut never_started = Bench::new(&json!({"containers": [{"name": "a"}]}));
    assert_eq!(never_started.delete().next().0, [Step::Remove]);
}

#[test]
fn readiness_gates_hold_a_pod_back() {
    let gates = json!([{"conditionType": "example.com/open"}]);
    let mut bench = Bench::new(&json!({"containers": [{"name": "a"}], "readinessGates": gates}));
    bench.start(0);
    assert_eq!(bench.shows(), "Running False: running 0");
    let open = json!({"conditions": [{"type": "example.com/open", "status": "True"}]});
    bench.pod.status = serde_json::from_value(open).unwrap();
    assert_eq!(bench.shows(), "Running True: running 0");
}
