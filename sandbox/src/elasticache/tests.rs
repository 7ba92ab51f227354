//! Tests of the pure core: time is an argument, and jobs are done when the test says so.

use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;

use super::error::ApiError;
use super::model::{Limits, SubnetGroup};
use super::nodes::{Job, Step, Tls};
use super::query::Request;
use super::state::Cloud;
use super::xml::Fields;
use super::{ParameterGroup, Times};

struct World {
    cloud: Cloud,
    now: Timestamp,
    jobs: Vec<Job>,
}

const SECOND: Duration = Duration::from_secs(1);

impl World {
    fn new() -> Self {
        let mut last = 0_u32;
        let next = move || {
            last += 1;
            Ipv4Addr::from_bits(0x7f50_8000 + last)
        };
        let subnets = ["default", "redis-subnets"].map(SubnetGroup::new).to_vec();
        let parameters = vec![ParameterGroup::new("mine", "redis7")];
        Self {
            cloud: Cloud::new(
                "us-west-2",
                Times::all(SECOND),
                Limits::default(),
                subnets,
                parameters,
                Box::new(next),
            ),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            jobs: Vec::new(),
        }
    }

    fn call(&mut self, operation: &str, parameters: &[(&str, &str)]) -> Result<Fields, ApiError> {
        let request = Request {
            operation: operation.into(),
            parameters: parameters
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
        };
        let reply = self.cloud.handle(&request, self.now);
        self.jobs.extend(self.cloud.take_jobs());
        reply
    }

    /// The code of the refusal, or `ok`.
    fn code(&mut self, operation: &str, parameters: &[(&str, &str)]) -> String {
        self.call(operation, parameters)
            .map_or_else(|error| error.code.into_owned(), |_| "ok".into())
    }

    /// Does all jobs, successfully.
    fn work(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for job in std::mem::take(&mut self.jobs) {
            self.cloud.finished(job.id, &Ok(()));
            steps.extend(job.steps);
        }
        steps
    }

    /// Lets time pass, and does the jobs that are there.
    fn pass(&mut self, time: Duration) -> Vec<Step> {
        let steps = self.work();
        self.now += time;
        self.cloud.advance(self.now);
        self.jobs.extend(self.cloud.take_jobs());
        steps
    }

    fn group(&mut self, id: &str) -> Fields {
        self.call("DescribeReplicationGroups", &[("ReplicationGroupId", id)])
            .unwrap()
    }

    fn group_status(&mut self, id: &str) -> String {
        self.group(id).get("ReplicationGroups.0.Status").unwrap()
    }

    fn cluster(&mut self, id: &str) -> Fields {
        self.call(
            "DescribeCacheClusters",
            &[("CacheClusterId", id), ("ShowCacheNodeInfo", "true")],
        )
        .unwrap()
    }

    fn cluster_status(&mut self, id: &str) -> String {
        self.cluster(id).get("CacheClusters.0.CacheClusterStatus").unwrap()
    }

    fn make_group(&mut self, id: &str, more: &[(&str, &str)]) {
        let all = [GROUP, &[("ReplicationGroupId", id)], more].concat();
        self.call("CreateReplicationGroup", &all).unwrap();
        self.pass(SECOND);
    }

    fn make_memcached(&mut self, id: &str, nodes: &str) {
        let all = [MEMCACHED, &[("CacheClusterId", id), ("NumCacheNodes", nodes)]].concat();
        self.call("CreateCacheCluster", &all).unwrap();
        self.pass(SECOND);
    }
}

const GROUP: &[(&str, &str)] = &[
    ("ReplicationGroupDescription", "d"),
    ("CacheNodeType", "cache.t4g.micro"),
];
const MEMCACHED: &[(&str, &str)] = &[("Engine", "memcached"), ("CacheNodeType", "cache.t3.micro")];
const G: (&str, &str) = ("ReplicationGroupId", "g");
const C: (&str, &str) = ("CacheClusterId", "c");
const NOW: (&str, &str) = ("ApplyImmediately", "true");
const ARN_G: (&str, &str) = (
    "ResourceName",
    "arn:aws:elasticache:us-west-2:000000000000:replicationgroup:g",
);
const ARN_C: (&str, &str) = ("ResourceName", "arn:aws:elasticache:us-west-2:000000000000:cluster:c");

#[test]
fn a_group_is_available_when_both_time_and_processes_are_ready() {
    let mut world = World::new();
    world.call("CreateReplicationGroup", &[GROUP, &[G]].concat()).unwrap();
    world.now += SECOND;
    assert_eq!(world.group_status("g"), "creating");
    assert_eq!(world.group("g").len("ReplicationGroups"), 1);
    assert_eq!(world.group("g").get("ReplicationGroups.0.NodeGroups.0.Status"), None);
    world.work();
    assert_eq!(world.group_status("g"), "available");
    assert_eq!(world.cluster_status("g-001"), "available");

    world.call("DeleteReplicationGroup", &[G]).unwrap();
    world.work();
    assert_eq!(world.group_status("g"), "deleting");
    world.pass(SECOND);
    assert_eq!(
        world.code("DescribeReplicationGroups", &[G]),
        "ReplicationGroupNotFoundFault"
    );
    assert!(world.cloud.remaining().is_empty());
}

#[test]
fn processes_that_fail_fail_the_creation() {
    let mut world = World::new();
    world.call("CreateReplicationGroup", &[GROUP, &[G]].concat()).unwrap();
    let job = world.jobs.remove(0);
    world.cloud.finished(job.id, &Err("no".into()));
    world.pass(SECOND);
    assert_eq!(world.group_status("g"), "create-failed");
    let events = world
        .call(
            "DescribeEvents",
            &[("SourceType", "replication-group"), ("SourceIdentifier", "g")],
        )
        .unwrap();
    assert_eq!(events.get("Events.0.Message").unwrap(), "no");
    assert_eq!(
        world.code("DeleteReplicationGroup", &[G, ("FinalSnapshotIdentifier", "f")]),
        "InvalidReplicationGroupState"
    );
    assert_eq!(world.code("DeleteReplicationGroup", &[G]), "ok");
}

/// Every operation that changes or tags something, tried in every state.
#[test]
fn each_state_refuses_what_the_real_one_refuses() {
    let group: &[(&str, &[(&str, &str)])] = &[
        ("ModifyReplicationGroup", &[G, ("ReplicationGroupDescription", "e")]),
        ("IncreaseReplicaCount", &[G, NOW, ("NewReplicaCount", "1")]),
        ("DecreaseReplicaCount", &[G, NOW, ("NewReplicaCount", "0")]),
        ("DeleteReplicationGroup", &[G]),
        ("CreateSnapshot", &[G, ("SnapshotName", "s2")]),
        ("AddTagsToResource", &[ARN_G, ("Tags.Tag.1.Key", "k")]),
        ("ListTagsForResource", &[ARN_G]),
    ];
    type State<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);
    let states: &[State] = &[
        (
            "CreateReplicationGroup",
            &[G, GROUP[0], GROUP[1]],
            "creating",
            "InvalidReplicationGroupState",
        ),
        (
            "ModifyReplicationGroup",
            &[G, NOW, ("CacheNodeType", "cache.t4g.small")],
            "modifying",
            "InvalidReplicationGroupState",
        ),
        (
            "CreateSnapshot",
            &[G, ("SnapshotName", "s1")],
            "snapshotting",
            "CacheClusterNotFound",
        ),
        (
            "DeleteReplicationGroup",
            &[G],
            "deleting",
            "InvalidReplicationGroupState",
        ),
    ];
    for (operation, parameters, state, on_tags) in states {
        let mut world = World::new();
        if *operation != "CreateReplicationGroup" {
            world.make_group("g", &[]);
        }
        world.call(operation, parameters).unwrap();
        assert_eq!(world.group_status("g"), *state);
        for (refused, parameters) in group {
            let wanted = if refused.contains("Tags") {
                on_tags
            } else {
                "InvalidReplicationGroupState"
            };
            assert_eq!(world.code(refused, parameters), wanted, "{refused} while {state}");
        }
    }

    let cluster: &[(&str, &[(&str, &str)])] = &[
        (
            "ModifyCacheCluster",
            &[C, ("PreferredMaintenanceWindow", "sun:01:00-sun:02:00")],
        ),
        (
            "RebootCacheCluster",
            &[C, ("CacheNodeIdsToReboot.CacheNodeId.1", "0001")],
        ),
        ("DeleteCacheCluster", &[C]),
        ("AddTagsToResource", &[ARN_C, ("Tags.Tag.1.Key", "k")]),
        ("ListTagsForResource", &[ARN_C]),
    ];
    type Brief<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let states: &[Brief] = &[
        ("CreateCacheCluster", &[C, MEMCACHED[0], MEMCACHED[1]], "creating"),
        ("ModifyCacheCluster", &[C, NOW, ("NumCacheNodes", "2")], "modifying"),
        (
            "RebootCacheCluster",
            &[C, ("CacheNodeIdsToReboot.CacheNodeId.1", "0001")],
            "rebooting cluster nodes",
        ),
        ("AddTagsToResource", &[ARN_C, ("Tags.Tag.1.Key", "k")], "modifying"),
        ("DeleteCacheCluster", &[C], "deleting"),
    ];
    for (operation, parameters, state) in states {
        let mut world = World::new();
        if *operation != "CreateCacheCluster" {
            world.make_memcached("c", "1");
        }
        world.call(operation, parameters).unwrap();
        assert_eq!(world.cluster_status("c"), *state);
        for (refused, parameters) in cluster {
            let wanted = if refused.contains("Tags") {
                "CacheClusterNotFound"
            } else {
                "InvalidCacheClusterState"
            };
            assert_eq!(world.code(refused, parameters), wanted, "{refused} while {state}");
        }
    }
}

#[test]
fn a_cluster_can_be_deleted_from_six_states() {
    for (state, code) in [
        ("available", "ok"),
        ("failed", "ok"),
        ("incompatible-parameters", "ok"),
        ("incompatible-network", "ok"),
        ("restore-failed", "ok"),
        ("recovering", "ok"),
        ("updating", "InvalidCacheClusterState"),
        ("snapshotting", "InvalidCacheClusterState"),
    ] {
        let mut world = World::new();
        world.make_memcached("c", "1");
        assert!(world.cloud.force_status("c", state));
        assert_eq!(world.code("DeleteCacheCluster", &[C]), code, "{state}");
    }
}

#[test]
fn a_group_may_be_available_before_its_members() {
    let mut world = World::new();
    world.make_group("g", &[]);
    world
        .call(
            "ModifyReplicationGroup",
            &[G, NOW, ("CacheNodeType", "cache.t4g.small")],
        )
        .unwrap();
    world.pass(SECOND);
    assert_eq!(
        (world.group_status("g").as_str(), world.cluster_status("g-001").as_str()),
        ("available", "modifying")
    );
    assert_eq!(
        world.code("IncreaseReplicaCount", &[G, NOW, ("NewReplicaCount", "1")]),
        "InvalidCacheClusterState"
    );
    world.pass(SECOND);
    assert_eq!(
        world.code("IncreaseReplicaCount", &[G, NOW, ("NewReplicaCount", "1")]),
        "ok"
    );
}

#[test]
fn changes_wait_until_they_are_applied() {
    let mut world = World::new();
    world.make_group("g", &[]);
    world
        .call(
            "ModifyReplicationGroup",
            &[G, ("CacheNodeType", "cache.t4g.small"), ("EngineVersion", "7.1.0")],
        )
        .unwrap();
    let pending = "CacheClusters.0.PendingModifiedValues";
    assert_eq!(world.group_status("g"), "available");
    assert_eq!(
        world.cluster("g-001").get(&format!("{pending}.CacheNodeType")).unwrap(),
        "cache.t4g.small"
    );
    assert_eq!(world.cluster("g-001").get(&format!("{pending}.EngineVersion")), None);
    world.cloud.maintenance(None);
    world.jobs.extend(world.cloud.take_jobs());
    assert_eq!(world.group_status("g"), "modifying");
    assert_eq!(
        world.group("g").get("ReplicationGroups.0.CacheNodeType").unwrap(),
        "cache.t4g.micro"
    );
    world.pass(SECOND);
    assert_eq!(
        world.group("g").get("ReplicationGroups.0.CacheNodeType").unwrap(),
        "cache.t4g.small"
    );
    assert_eq!(world.cluster("g-001").get(&format!("{pending}.CacheNodeType")), None);

    world.make_memcached("c", "3");
    let count = |n| [C, ("NumCacheNodes", n)];
    let remove = |n| ("CacheNodeIdsToRemove.CacheNodeId.1", n);
    let pending = |world: &mut World| {
        world
            .cluster("c")
            .get("CacheClusters.0.PendingModifiedValues.NumCacheNodes")
    };
    world.call("ModifyCacheCluster", &count("7")).unwrap();
    assert_eq!(pending(&mut world).unwrap(), "7");
    assert_eq!(
        world.code("ModifyCacheCluster", &count("5")),
        "InvalidParameterCombination"
    );
    assert_eq!(world.code("ModifyCacheCluster", &count("9")), "ok");
    assert_eq!(world.code("ModifyCacheCluster", &count("3")), "ok");
    assert_eq!(pending(&mut world), None);
    assert_eq!(
        world.code("ModifyCacheCluster", &count("2")),
        "InvalidParameterCombination"
    );
    assert_eq!(
        world.code(
            "ModifyCacheCluster",
            &[count("2").as_slice(), &[remove("0009")]].concat()
        ),
        "InvalidParameterValue"
    );
    assert_eq!(
        world.code(
            "ModifyCacheCluster",
            &[count("3").as_slice(), &[remove("0001")]].concat()
        ),
        "InvalidParameterCombination"
    );
    assert_eq!(
        world.code(
            "ModifyCacheCluster",
            &[count("2").as_slice(), &[remove("0002"), NOW]].concat()
        ),
        "ok"
    );
    world.pass(SECOND);
    let nodes = world.cluster("c");
    assert_eq!(nodes.get("CacheClusters.0.CacheNodes.1.CacheNodeId").unwrap(), "0003");
    world
        .call("ModifyCacheCluster", &[count("3").as_slice(), &[NOW]].concat())
        .unwrap();
    world.pass(SECOND);
    assert_eq!(
        world
            .cluster("c")
            .get("CacheClusters.0.CacheNodes.2.CacheNodeId")
            .unwrap(),
        "0004"
    );
    let steps = {
        world
            .call("ModifyCacheCluster", &[C, NOW, ("CacheNodeType", "cache.t3.small")])
            .unwrap();
        world.pass(SECOND)
    };
    assert!(
        steps.iter().all(|step| matches!(step, Step::Restart(_))) && steps.len() == 3,
        "memcached starts cold"
    );
}

#[test]
fn replica_counts() {
    let mut world = World::new();
    world.make_group("g", &[("NumCacheClusters", "2")]);
    let set = |n| [G, NOW, ("NewReplicaCount", n)];
    for (operation, parameters, code) in [
        ("IncreaseReplicaCount", set("1").to_vec(), "NoOperationFault"),
        ("DecreaseReplicaCount", set("1").to_vec(), "NoOperationFault"),
        ("IncreaseReplicaCount", set("0").to_vec(), "InvalidParameterValue"),
        ("DecreaseReplicaCount", set("2").to_vec(), "InvalidParameterValue"),
        ("IncreaseReplicaCount", set("6").to_vec(), "InvalidParameterValue"),
        (
            "IncreaseReplicaCount",
            vec![G, ("ApplyImmediately", "false"), ("NewReplicaCount", "2")],
            "InvalidParameterValue",
        ),
        (
            "IncreaseReplicaCount",
            vec![G, ("NewReplicaCount", "2")],
            "MissingParameter",
        ),
        (
            "DecreaseReplicaCount",
            vec![G, NOW, ("ReplicasToRemove.member.1", "g-001")],
            "InvalidParameterValue",
        ),
        (
            "DecreaseReplicaCount",
            vec![G, NOW, ("ReplicasToRemove.member.1", "g-002")],
            "ok",
        ),
    ] {
        assert_eq!(world.code(operation, &parameters), code, "{operation} {parameters:?}");
    }
    let steps = world.pass(SECOND);
    assert!(matches!(steps.last(), Some(Step::Stop(_))));
    world.pass(SECOND);
    assert_eq!(
        world.code("DescribeCacheClusters", &[("CacheClusterId", "g-002")]),
        "CacheClusterNotFound"
    );
    assert_eq!(
        world.code("ModifyReplicationGroup", &[G, ("AutomaticFailoverEnabled", "true")]),
        "InvalidParameterCombination"
    );
}

#[test]
fn lists_come_in_pages_of_20_to_100() {
    let mut world = World::new();
    for n in 0..45 {
        let id = format!("p{n:03}");
        world
            .call("CreateCacheCluster", &[MEMCACHED, &[("CacheClusterId", &id)]].concat())
            .unwrap();
    }
    let mut seen = Vec::new();
    let mut marker: Option<String> = None;
    loop {
        let mut parameters = vec![("MaxRecords", "20")];
        parameters.extend(marker.as_deref().map(|marker| ("Marker", marker)));
        let page = world.call("DescribeCacheClusters", &parameters).unwrap();
        seen.push(page.len("CacheClusters"));
        marker = page.get("Marker");
        if marker.is_none() {
            break;
        }
    }
    assert_eq!(seen, [20, 20, 5]);
    for bad in ["19", "101", "-1", "x"] {
        assert_eq!(
            world.code("DescribeCacheClusters", &[("MaxRecords", bad)]),
            "InvalidParameterValue"
        );
    }
    assert_eq!(
        world.code("DescribeSnapshots", &[("MaxRecords", "51")]),
        "InvalidParameterValue"
    );
    assert_eq!(
        world.code("DescribeCacheClusters", &[("Marker", "!")]),
        "InvalidParameterValue"
    );
}

#[test]
fn what_was_just_made_may_not_show_yet() {
    let mut world = World::new();
    world.cloud.times.visible = SECOND / 2;
    world.call("CreateReplicationGroup", &[GROUP, &[G]].concat()).unwrap();
    assert_eq!(
        world.code("DescribeReplicationGroups", &[G]),
        "ReplicationGroupNotFoundFault"
    );
    assert_eq!(
        world
            .call("DescribeReplicationGroups", &[])
            .unwrap()
            .len("ReplicationGroups"),
        0
    );
    assert_eq!(
        world.code("CreateReplicationGroup", &[GROUP, &[G]].concat()),
        "ReplicationGroupAlreadyExists"
    );
    world.pass(SECOND / 2);
    assert_eq!(world.group_status("g"), "creating");
}

#[test]
fn snapshots() {
    let mut world = World::new();
    world.make_group("g", &[("SnapshotRetentionLimit", "1")]);
    world.cloud.backup("g");
    world.jobs.extend(world.cloud.take_jobs());
    world.pass(SECOND);
    world.pass(SECOND);
    world.call("CreateSnapshot", &[G, ("SnapshotName", "s")]).unwrap();
    assert_eq!(
        world.code("DeleteSnapshot", &[("SnapshotName", "s")]),
        "InvalidSnapshotState"
    );
    let copy = [("SourceSnapshotName", "s"), ("TargetSnapshotName", "t")];
    assert_eq!(world.code("CopySnapshot", &copy), "InvalidSnapshotState");
    world.pass(SECOND);
    world.pass(SECOND);
    assert_eq!(world.code("CopySnapshot", &copy), "ok");
    assert_eq!(world.code("CopySnapshot", &copy), "SnapshotAlreadyExistsFault");
    assert_eq!(
        world.code("DeleteReplicationGroup", &[G, ("FinalSnapshotIdentifier", "s")]),
        "SnapshotAlreadyExistsFault"
    );
    world
        .call("DeleteReplicationGroup", &[G, ("FinalSnapshotIdentifier", "f")])
        .unwrap();
    let saved = world.pass(SECOND);
    assert!(matches!(saved.as_slice(), [.., Step::Save { .. }]), "{saved:?}");
    assert_eq!(world.group_status("g"), "deleting");
    world.pass(SECOND);
    assert_eq!(
        world.cloud.remaining().snapshots,
        ["f", "s", "t"],
        "the automatic one is gone"
    );
    let limits = Limits {
        snapshots: 3,
        ..Limits::default()
    };
    world.cloud.limits = limits;
    assert_eq!(
        world.code(
            "CopySnapshot",
            &[("SourceSnapshotName", "s"), ("TargetSnapshotName", "u")]
        ),
        "SnapshotQuotaExceededFault"
    );
    let restore = [GROUP, &[G, ("SnapshotName", "f")]].concat();
    world.call("CreateReplicationGroup", &restore).unwrap();
    let restored = |step: &Step| matches!(step, Step::Run(spec) if spec.restore.is_some());
    assert!(world.work().iter().any(restored));
    assert_eq!(
        world.code(
            "CreateReplicationGroup",
            &[GROUP, &[("ReplicationGroupId", "h"), ("SnapshotName", "none")]].concat()
        ),
        "SnapshotNotFoundFault"
    );
    world.make_memcached("c", "1");
    for operation in ["DeleteCacheCluster", "CreateSnapshot"] {
        let name = if operation == "CreateSnapshot" {
            "SnapshotName"
        } else {
            "FinalSnapshotIdentifier"
        };
        world.cloud.limits = Limits::default();
        assert_eq!(
            world.code(operation, &[C, (name, "m")]),
            "SnapshotFeatureNotSupportedFault",
            "{operation}"
        );
    }
}

#[test]
fn a_final_snapshot_that_fails_keeps_the_data() {
    let mut world = World::new();
    world.make_group("g", &[]);
    world
        .call("DeleteReplicationGroup", &[G, ("FinalSnapshotIdentifier", "f")])
        .unwrap();
    let job = world.jobs.remove(0);
    world.cloud.finished(job.id, &Err("disk full".into()));
    world.pass(SECOND);
    assert_eq!(world.group_status("g"), "available");
    assert!(world.cloud.remaining().snapshots.is_empty());
}

#[test]
fn auth_tokens_rotate() {
    let (one, two) = ("first-token-000000", "second-token-00000");
    let tls = ("TransitEncryptionEnabled", "true");
    let mut world = World::new();
    world.make_group("g", &[tls, ("AuthToken", one)]);
    let modify = |token, strategy| vec![G, NOW, ("AuthToken", token), ("AuthTokenUpdateStrategy", strategy)];
    assert_eq!(
        world.code("ModifyReplicationGroup", &modify(two, "SET")),
        "InvalidParameterCombination"
    );
    assert_eq!(
        world.code("ModifyReplicationGroup", &modify(two, "DELETE")),
        "InvalidParameterCombination"
    );
    assert_eq!(
        world.code("ModifyReplicationGroup", &[G, NOW, ("AuthTokenUpdateStrategy", "SET")]),
        "InvalidParameterCombination"
    );
    let passwords = |steps: Vec<Step>| match steps.first() {
        Some(Step::Run(spec)) => spec.users.first().unwrap().passwords.clone(),
        other => panic!("{other:?}"),
    };
    world.call("ModifyReplicationGroup", &modify(two, "ROTATE")).unwrap();
    assert_eq!(passwords(world.pass(SECOND)), [one, two]);
    world.pass(SECOND);
    world.call("ModifyReplicationGroup", &modify(two, "SET")).unwrap();
    assert_eq!(passwords(world.pass(SECOND)), [two]);
    world.make_group("open", &[]);
    let open = [("ReplicationGroupId", "open"), NOW, ("AuthToken", one)];
    assert_eq!(
        world.code("ModifyReplicationGroup", &open),
        "InvalidParameterCombination"
    );
}

#[test]
fn encryption_changes_in_two_steps() {
    let mut world = World::new();
    world.make_group("g", &[]);
    let set = |on, mode| {
        vec![
            G,
            NOW,
            ("TransitEncryptionEnabled", on),
            ("TransitEncryptionMode", mode),
        ]
    };
    assert_eq!(
        world.code("ModifyReplicationGroup", &set("true", "required")),
        "InvalidParameterCombination"
    );
    assert_eq!(world.code("ModifyReplicationGroup", &set("true", "preferred")), "ok");
    let steps = world.pass(SECOND);
    assert!(matches!(steps.first(), Some(Step::Run(spec)) if spec.tls == Tls::Preferred));
    world.pass(SECOND);
    assert_eq!(world.code("ModifyReplicationGroup", &set("true", "required")), "ok");
    world.pass(SECOND);
    world.pass(SECOND);
    assert_eq!(
        world.code(
            "ModifyReplicationGroup",
            &[G, NOW, ("TransitEncryptionEnabled", "false")]
        ),
        "InvalidParameterCombination"
    );
}

#[test]
fn engines_and_versions_move_forward_only() {
    for (from, to, code) in [
        (("redis", "7.0"), ("redis", "7.1"), "ok"),
        (("redis", "7.1"), ("redis", "7.0"), "InvalidParameterCombination"),
        (("redis", "7.1"), ("valkey", "8.0"), "ok"),
        (("valkey", "8.0"), ("redis", "7.1"), "InvalidParameterCombination"),
        (
            ("valkey", "8.0"),
            ("memcached", "1.6.22"),
            "InvalidParameterCombination",
        ),
        (("redis", "6.x"), ("redis", "6.2"), "ok"),
        (("redis", "6.2"), ("redis", "8.8"), "InvalidParameterCombination"),
    ] {
        let mut world = World::new();
        world.make_group("g", &[("Engine", from.0), ("EngineVersion", from.1)]);
        let change = [G, NOW, ("Engine", to.0), ("EngineVersion", to.1)];
        assert_eq!(
            world.code("ModifyReplicationGroup", &change),
            code,
            "{from:?} to {to:?}"
        );
    }
    let mut world = World::new();
    world.make_group("g", &[("EngineVersion", "7.1"), ("CacheParameterGroupName", "mine")]);
    let upgrade = [G, NOW, ("Engine", "valkey"), ("EngineVersion", "8.0")];
    assert_eq!(
        world.code("ModifyReplicationGroup", &upgrade),
        "InvalidParameterCombination",
        "a group of one's own"
    );
    let both = [upgrade.as_slice(), &[("CacheParameterGroupName", "default.valkey8")]].concat();
    assert_eq!(world.code("ModifyReplicationGroup", &both), "ok");
}

#[test]
fn quotas() {
    let mut world = World::new();
    world.cloud.limits = Limits {
        nodes: 3,
        nodes_per_cluster: 2,
        ..Limits::default()
    };
    let cluster = |n| [MEMCACHED, &[C, ("NumCacheNodes", n)]].concat();
    assert_eq!(
        world.code("CreateCacheCluster", &cluster("3")),
        "NodeQuotaForClusterExceeded"
    );
    assert_eq!(world.code("CreateCacheCluster", &cluster("2")), "ok");
    let group = |n| [GROUP, &[G, ("NumCacheClusters", n)]].concat();
    assert_eq!(
        world.code("CreateReplicationGroup", &group("2")),
        "NodeQuotaForCustomerExceeded"
    );
    assert_eq!(world.code("CreateReplicationGroup", &group("1")), "ok");
}

#[test]
fn members_share_the_names_of_clusters() {
    let mut world = World::new();
    world.make_memcached("g-001", "1");
    assert_eq!(
        world.code("CreateReplicationGroup", &[GROUP, &[G]].concat()),
        "CacheClusterAlreadyExists"
    );
    assert!(world.cloud.remaining().replication_groups.is_empty());
    world.make_group("h", &[("NumCacheClusters", "2")]);
    for member in ["h-001", "h-002"] {
        assert_eq!(
            world.code("DeleteCacheCluster", &[("CacheClusterId", member)]),
            "InvalidCacheClusterState"
        );
        assert_eq!(
            world.code("ModifyCacheCluster", &[("CacheClusterId", member), NOW]),
            "InvalidParameterCombination"
        );
    }
}

#[test]
fn a_primary_can_be_kept() {
    let mut world = World::new();
    world.make_group("g", &[("NumCacheClusters", "2")]);
    world
        .call("DeleteReplicationGroup", &[G, ("RetainPrimaryCluster", "true")])
        .unwrap();
    world.pass(SECOND);
    assert_eq!(world.cloud.remaining().cache_clusters, ["g-001"]);
    assert_eq!(world.cluster_status("g-001"), "available");
    assert_eq!(world.code("DeleteCacheCluster", &[("CacheClusterId", "g-001")]), "ok");
}

#[test]
fn unknown_parameters_are_refused_by_name() {
    let mut world = World::new();
    let error = world.call(
        "CreateReplicationGroup",
        &[GROUP, &[G, ("LogDeliveryConfigurations.X.1.Y", "z")]].concat(),
    );
    assert!(error.unwrap_err().message.contains("LogDeliveryConfigurations"));
    assert_eq!(world.code("CreateServerlessCache", &[]), "InvalidAction");
}
