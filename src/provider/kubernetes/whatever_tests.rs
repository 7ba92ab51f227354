//! Whatever happened to a cluster before, it becomes what is wanted.

use proptest::prelude::*;

use super::*;

/// What may happen to a cluster between two decisions.
#[derive(Clone, Debug)]
enum Event {
    /// The instance is to be otherwise, and so many steps are done towards it.
    Steps(usize, u8),
    Tick,
    DeleteDeployment(usize),
    DeleteService,
    Scale(usize, i32),
    Mislead,
    LoseSecret,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0usize..6, 0u8..8).prop_map(|(plan, steps)| Event::Steps(plan, steps)),
        2 => Just(Event::Tick),
        1 => (0usize..4).prop_map(Event::DeleteDeployment),
        1 => Just(Event::DeleteService),
        1 => (0usize..4, 0i32..3).prop_map(|(which, replicas)| Event::Scale(which, replicas)),
        1 => Just(Event::Mislead),
        1 => Just(Event::LoseSecret),
    ]
}

fn instance(engine: &str, which: usize) -> Desired {
    let mut plan = json!({ "memory": "64Mi", "connectionLimit": 10 });
    match which {
        1 => plan["memory"] = json!("96Mi"),
        2 => plan["image"] = json!(BROKEN),
        3 if engine == "memcached" => plan["replicas"] = json!(3),
        3 | 4 if engine != "memcached" => plan["persistence"] = json!({ "size": "1Gi" }),
        _ => {}
    }
    if which == 4 {
        plan["connectionLimit"] = json!(20);
    }
    Desired {
        ordered: false,
        restart_at: (which == 5).then(|| at("2026-11-22T00:00:00Z")),
        ..serving(engine, &plan)
    }
}

fn happen(engine: &str, cluster: &mut Cluster, event: &Event) {
    let nth = |cluster: &Cluster, which: usize| deployments(cluster).get(which).map(|name| (*name).to_owned());
    match event {
        Event::Steps(plan, steps) => {
            let desired = instance(engine, *plan);
            for _ in 0..*steps {
                if let Next::Act(step) = run(&desired, cluster).step {
                    let before = cluster.clone();
                    cluster.act(&desired, &step);
                    stays_up(&desired, &before, cluster, &step);
                }
                cluster.tick();
            }
        }
        Event::Tick => cluster.tick(),
        Event::DeleteDeployment(which) => {
            if let Some(name) = nth(cluster, *which) {
                cluster.delete(Kind::Deployment, &name);
            }
        }
        Event::DeleteService => cluster.delete(Kind::Service, "i"),
        Event::Scale(which, replicas) => {
            if let Some(name) = nth(cluster, *which) {
                cluster.edit(&name, |deployment| {
                    deployment.spec.as_mut().unwrap().replicas = Some(*replicas);
                });
            }
        }
        Event::Mislead => {
            if let Some(service) = cluster.observed.services.get_mut("i") {
                Arc::make_mut(service).spec.as_mut().unwrap().selector = None;
            }
        }
        Event::LoseSecret => cluster.delete(Kind::Secret, "i-connection"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn from_whatever_stands_it_becomes_what_is_wanted(
        memcached in any::<bool>(),
        events in prop::collection::vec(event(), 0..10),
        last in prop_oneof![Just(0usize), Just(1), Just(3), Just(4)],
    ) {
        let engine = if memcached { "memcached" } else { "redis" };
        let mut cluster = Cluster::default();
        for event in &events {
            happen(engine, &mut cluster, event);
        }
        cluster.tick();
        let mut wanted = instance(engine, last);
        // What was restarted stays so; with a restart of all, all are the same.
        wanted.restart_at = Some(at("2026-11-22T12:00:00Z"));
        // More than one Pod behind a Service was somebody else's doing, and goes first.
        for name in deployments(&cluster).into_iter().map(str::to_owned).collect::<Vec<_>>() {
            cluster.edit(&name, |deployment| deployment.spec.as_mut().unwrap().replicas = Some(1));
        }
        cluster.tick();
        let (_, decision) = settle(&wanted, &mut cluster);
        prop_assert_eq!(said(&decision), (Progress::Ready, Reason::Available));
        let made = settled(&wanted);
        prop_assert_eq!(cluster.served(), made.served());
        prop_assert_eq!(deployments(&cluster), deployments(&made));
        prop_assert_eq!(
            cluster.observed.keys().into_iter().filter(|key| key.0 != Kind::Secret).collect::<Vec<_>>(),
            made.observed.keys().into_iter().filter(|key| key.0 != Kind::Secret).collect::<Vec<_>>()
        );
        prop_assert_eq!(url(&cluster), url(&made));
        prop_assert_eq!(settle(&wanted, &mut cluster).0, Vec::<Step>::new());
    }

    #[test]
    fn without_leave_nothing_that_holds_data_goes(
        memcached in any::<bool>(),
        first in 0usize..5,
        others in prop::collection::vec(0usize..5, 1..4),
    ) {
        prop_assume!(first != 2);
        let engine = if memcached { "memcached" } else { "redis" };
        let mut cluster = settled(&instance(engine, first));
        let before = cluster.served();
        let persistent = !memcached && first >= 3;
        for which in others {
            let mut wanted = instance(engine, which);
            wanted.consent = Consent::Withheld;
            settle(&wanted, &mut cluster);
            let served = cluster.served();
            for (node, deployment) in &before {
                let same_volume = persistent && wanted.plan.kubernetes.as_ref().unwrap().persistence.is_some();
                prop_assert!(same_volume || persistent && served.contains_key(node) || served.get(node) == Some(deployment));
            }
            if persistent {
                prop_assert!(cluster.observed.claims.contains_key("i-data"));
            }
        }
    }
}
