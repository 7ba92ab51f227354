"""Replication groups: life, secrets, encryption, replicas, snapshots, changes."""

import time

import pytest
from botocore.exceptions import ClientError

from conftest import REAL, Redis, cluster, control, drop_group, group, quiet, until, wait

TOKEN = "first-token-0123456789"
SECOND = "second-token-0123456789!&#$^<>-"
needs_nodes = pytest.mark.skipif(not REAL, reason="the nodes are simulated")


def create(api, name, **parameters):
    given = dict(
        ReplicationGroupId=name,
        ReplicationGroupDescription="a test & <more>",
        Engine="redis",
        CacheNodeType="cache.t4g.micro",
        CacheSubnetGroupName="redis-subnets",
        SecurityGroupIds=["sg-0123456789abcdef0"],
    )
    given.update(parameters)
    return api.create_replication_group(**given)["ReplicationGroup"]


def primary(found):
    return found["NodeGroups"][0]["PrimaryEndpoint"]


def test_life_of_a_group(api, name):
    made = create(api, name.upper(), Tags=[{"Key": "owner", "Value": "me"}])
    assert made["ReplicationGroupId"] == name
    assert made["Status"] == "creating" and made["NodeGroups" if "NodeGroups" in made else "MemberClusters"]
    with pytest.raises(api.exceptions.InvalidReplicationGroupStateFault):
        api.delete_replication_group(ReplicationGroupId=name)
    with pytest.raises(api.exceptions.ReplicationGroupAlreadyExistsFault):
        create(api, name)
    with pytest.raises(api.exceptions.InvalidReplicationGroupStateFault):
        api.list_tags_for_resource(ResourceName=made["ARN"])
    wait(api, "replication_group_available", ReplicationGroupId=name)
    found = group(api, name)
    assert found["MemberClusters"] == [f"{name}-001"]
    assert found["Description"] == "a test & <more>"
    assert found["ARN"] == f"arn:aws:elasticache:us-west-2:000000000000:replicationgroup:{name}"
    member = cluster(api, f"{name}-001")
    assert member["ReplicationGroupId"] == name and member["EngineVersion"] == "7.1.0"
    assert member["CacheNodes"][0]["Endpoint"] == primary(found)
    tags = api.list_tags_for_resource(ResourceName=found["ARN"])["TagList"]
    assert tags == [{"Key": "owner", "Value": "me"}]
    if REAL:
        redis = Redis(primary(found))
        assert redis.call("SET", "k", "v") == "OK" and redis.call("GET", "k") == "v"
        assert redis.call("CONFIG", "GET", "maxmemory") == ["maxmemory", str(512 << 20)]
    with pytest.raises(api.exceptions.InvalidCacheClusterStateFault):
        api.delete_cache_cluster(CacheClusterId=f"{name}-001")
    answer = api.delete_replication_group(ReplicationGroupId=name)
    assert answer["ReplicationGroup"]["Status"] == "deleting"
    with pytest.raises(api.exceptions.InvalidReplicationGroupStateFault):
        api.delete_replication_group(ReplicationGroupId=name)
    wait(api, "replication_group_deleted", ReplicationGroupId=name)
    with pytest.raises(api.exceptions.ReplicationGroupNotFoundFault):
        group(api, name)
    assert name not in control("GET", "remaining")["replication_groups"]
    if REAL:
        with pytest.raises(OSError):
            Redis(primary(found))


@needs_nodes
def test_tls_and_auth_token_rotation(api, name):
    create(api, name, TransitEncryptionEnabled=True, AuthToken=TOKEN, Engine="valkey")
    wait(api, "replication_group_available", ReplicationGroupId=name)
    found = group(api, name)
    assert found["AuthTokenEnabled"] and found["TransitEncryptionEnabled"] and found["AtRestEncryptionEnabled"]
    assert Redis(primary(found), tls=True, password=TOKEN).call("PING") == "PONG"
    with pytest.raises(RuntimeError, match="NOAUTH"):
        Redis(primary(found), tls=True).call("PING")
    with pytest.raises(RuntimeError, match="WRONGPASS"):
        Redis(primary(found), tls=True, password="x" * 16)
    with pytest.raises((OSError, ConnectionError)):
        Redis(primary(found)).call("PING")
    kept = Redis(primary(found), tls=True, password=TOKEN)
    kept.call("SET", "kept", "yes")
    modify = lambda **more: api.modify_replication_group(ReplicationGroupId=name, ApplyImmediately=True, **more)
    with pytest.raises(api.exceptions.InvalidParameterCombinationException):
        modify(AuthToken=SECOND, AuthTokenUpdateStrategy="SET")
    answer = modify(AuthToken=SECOND, AuthTokenUpdateStrategy="ROTATE")["ReplicationGroup"]
    assert answer["PendingModifiedValues"]["AuthTokenStatus"] == "ROTATING"
    quiet(api, name)
    for token in (TOKEN, SECOND):
        assert Redis(primary(found), tls=True, password=token).call("GET", "kept") == "yes"
    modify(AuthToken=SECOND, AuthTokenUpdateStrategy="SET")
    quiet(api, name)
    assert Redis(primary(found), tls=True, password=SECOND).call("GET", "kept") == "yes"
    with pytest.raises(RuntimeError, match="WRONGPASS"):
        Redis(primary(found), tls=True, password=TOKEN)
    drop_group(api, name)


@needs_nodes
def test_encryption_comes_through_preferred(api, name):
    create(api, name, NumCacheClusters=2, AutomaticFailoverEnabled=True, MultiAZEnabled=True)
    found = quiet(api, name)
    modify = lambda **more: api.modify_replication_group(ReplicationGroupId=name, ApplyImmediately=True, **more)
    Redis(primary(found)).call("SET", "k", "v")
    with pytest.raises(api.exceptions.InvalidParameterCombinationException):
        modify(TransitEncryptionEnabled=True, TransitEncryptionMode="required")
    modify(TransitEncryptionEnabled=True, TransitEncryptionMode="preferred")
    found = quiet(api, name)
    assert found["TransitEncryptionMode"] == "preferred"
    assert Redis(primary(found)).call("GET", "k") == "v"
    assert Redis(primary(found), tls=True).call("GET", "k") == "v"
    modify(TransitEncryptionMode="required")
    found = quiet(api, name)
    assert Redis(primary(found), tls=True).call("GET", "k") == "v"
    with pytest.raises((OSError, ConnectionError)):
        Redis(primary(found)).call("PING")
    reader = found["NodeGroups"][0]["ReaderEndpoint"]
    Redis(primary(found), tls=True).call("SET", "after", "tls")
    until("the replica", lambda: Redis(reader, tls=True).call("GET", "after") == "tls")
    drop_group(api, name)


@needs_nodes
def test_replicas_replicate_and_take_over(api, name):
    create(api, name, TransitEncryptionEnabled=True, AuthToken=TOKEN, Port=7000)
    found = quiet(api, name)
    assert primary(found)["Port"] == 7000
    with pytest.raises(api.exceptions.NoOperationFault):
        api.increase_replica_count(ReplicationGroupId=name, NewReplicaCount=0, ApplyImmediately=True)
    with pytest.raises(api.exceptions.InvalidParameterValueException):
        api.increase_replica_count(ReplicationGroupId=name, NewReplicaCount=6, ApplyImmediately=True)
    api.increase_replica_count(ReplicationGroupId=name, NewReplicaCount=2, ApplyImmediately=True)
    with pytest.raises(ClientError) as refused:
        api.increase_replica_count(ReplicationGroupId=name, NewReplicaCount=3, ApplyImmediately=True)
    assert refused.value.response["Error"]["Code"] == "InvalidReplicationGroupState"
    found = quiet(api, name)
    assert found["MemberClusters"] == [f"{name}-001", f"{name}-002", f"{name}-003"]
    roles = [member["CurrentRole"] for member in found["NodeGroups"][0]["NodeGroupMembers"]]
    assert roles == ["primary", "replica", "replica"]
    Redis(primary(found), tls=True, password=TOKEN).call("SET", "k", "v")
    replica = Redis(found["NodeGroups"][0]["ReaderEndpoint"], tls=True, password=TOKEN)
    until("the replica", lambda: replica.call("GET", "k") == "v")
    with pytest.raises(RuntimeError, match="READONLY"):
        replica.call("SET", "k", "w")
    with pytest.raises(api.exceptions.InvalidParameterCombinationException):
        api.test_failover(ReplicationGroupId=name, NodeGroupId="0001")
    api.modify_replication_group(ReplicationGroupId=name, AutomaticFailoverEnabled=True, ApplyImmediately=True)
    found = quiet(api, name)
    assert found["AutomaticFailover"] == "enabled"
    api.test_failover(ReplicationGroupId=name, NodeGroupId="0001")
    after = quiet(api, name)
    assert primary(after) != primary(found)
    redis = Redis(primary(after), tls=True, password=TOKEN)
    assert redis.call("GET", "k") == "v" and redis.call("SET", "k", "w") == "OK"
    api.decrease_replica_count(ReplicationGroupId=name, NewReplicaCount=1, ApplyImmediately=True)
    after = quiet(api, name)
    assert len(after["MemberClusters"]) == 2
    with pytest.raises(api.exceptions.InvalidParameterCombinationException):
        api.decrease_replica_count(ReplicationGroupId=name, NewReplicaCount=0, ApplyImmediately=True)
    drop_group(api, name)


def test_final_snapshot_and_restore(api, name):
    create(api, name)
    found = quiet(api, name)
    if REAL:
        Redis(primary(found)).call("SET", "saved", "yes")
    made = api.create_snapshot(ReplicationGroupId=name, SnapshotName=f"{name}-one")["Snapshot"]
    assert made["SnapshotStatus"] == "creating"
    assert group(api, name)["Status"] == "snapshotting"
    with pytest.raises(api.exceptions.InvalidReplicationGroupStateFault):
        api.delete_replication_group(ReplicationGroupId=name)
    with pytest.raises(api.exceptions.CacheClusterNotFoundFault):
        api.list_tags_for_resource(ResourceName=found["ARN"])
    quiet(api, name)
    with pytest.raises(api.exceptions.SnapshotAlreadyExistsFault):
        api.delete_replication_group(ReplicationGroupId=name, FinalSnapshotIdentifier=f"{name}-one")
    if REAL:
        Redis(primary(found)).call("SET", "late", "yes")
    api.delete_replication_group(ReplicationGroupId=name, FinalSnapshotIdentifier=f"{name}-final")
    wait(api, "replication_group_deleted", ReplicationGroupId=name)
    final = api.describe_snapshots(SnapshotName=f"{name}-final")["Snapshots"][0]
    assert final["SnapshotStatus"] == "available" and final["SnapshotSource"] == "manual"
    api.copy_snapshot(SourceSnapshotName=f"{name}-final", TargetSnapshotName=f"{name}-copy")
    until("the copy", lambda: api.describe_snapshots(SnapshotName=f"{name}-copy")["Snapshots"][0]["SnapshotStatus"] == "available")
    create(api, name, SnapshotName=f"{name}-copy", NumCacheClusters=2)
    found = quiet(api, name)
    if REAL:
        redis = Redis(primary(found))
        assert (redis.call("GET", "saved"), redis.call("GET", "late")) == ("yes", "yes")
        reader = Redis(found["NodeGroups"][0]["ReaderEndpoint"])
        assert reader.call("GET", "late") == "yes"
    for part in ("one", "final", "copy"):
        api.delete_snapshot(SnapshotName=f"{name}-{part}")
    until("the snapshots to go", lambda: not [s for s in api.describe_snapshots()["Snapshots"] if name in s["SnapshotName"]])
    with pytest.raises(api.exceptions.SnapshotNotFoundFault):
        api.describe_snapshots(SnapshotName=f"{name}-one")
    drop_group(api, name)


def test_changes_wait_for_the_maintenance_window(api, name):
    create(api, name, EngineVersion="7.0")
    quiet(api, name)
    allowed = api.list_allowed_node_type_modifications(ReplicationGroupId=name)
    assert "cache.r7g.large" in allowed["ScaleUpModifications"]
    api.modify_replication_group(ReplicationGroupId=name, CacheNodeType="cache.t4g.small")
    assert group(api, name)["Status"] == "available"
    pending = cluster(api, f"{name}-001")["PendingModifiedValues"]
    assert pending == {"CacheNodeType": "cache.t4g.small"}
    control("POST", "maintenance", {"id": name})
    assert quiet(api, name)["CacheNodeType"] == "cache.t4g.small"
    api.modify_replication_group(ReplicationGroupId=name, Engine="valkey", EngineVersion="8.0", ApplyImmediately=True)
    assert quiet(api, name)["Engine"] == "valkey"
    member = cluster(api, f"{name}-001")
    assert member["CacheParameterGroup"]["CacheParameterGroupName"] == "default.valkey8"
    for back in ({"Engine": "redis", "EngineVersion": "7.1"}, {"EngineVersion": "7.2"}):
        with pytest.raises(api.exceptions.InvalidParameterCombinationException):
            api.modify_replication_group(ReplicationGroupId=name, ApplyImmediately=True, **back)
    drop_group(api, name)


@needs_nodes
def test_shards(api, name):
    create(api, name, NumNodeGroups=2, ReplicasPerNodeGroup=1, AutomaticFailoverEnabled=True)
    found = quiet(api, name)
    assert found["ClusterEnabled"] and len(found["NodeGroups"]) == 2
    assert found["MemberClusters"][0] == f"{name}-0001-001"
    endpoint = found["ConfigurationEndpoint"]
    slots = Redis(endpoint).call("CLUSTER", "SLOTS")
    assert sum(last - first + 1 for first, last, *_ in slots) == 16384

    def put(count):
        for n in range(count):
            at = endpoint
            for _ in range(3):
                try:
                    Redis(at).call("SET", f"key{n}", n)
                    break
                except RuntimeError as moved:
                    host, port = str(moved).split()[2].split(":")
                    at = {"Address": host, "Port": int(port)}

    def get(n):
        at = endpoint
        for _ in range(3):
            try:
                return Redis(at).call("GET", f"key{n}")
            except RuntimeError as moved:
                host, port = str(moved).split()[2].split(":")
                at = {"Address": host, "Port": int(port)}

    put(30)
    modify = api.modify_replication_group_shard_configuration
    for count, more in ((3, {}), (1, {"NodeGroupsToRetain": ["0001"]})):
        modify(ReplicationGroupId=name, NodeGroupCount=count, ApplyImmediately=True, **more)
        found = quiet(api, name)
        assert len(found["NodeGroups"]) == count
        assert [get(n) for n in range(30)] == [str(n) for n in range(30)]
    drop_group(api, name)


@needs_nodes
def test_users(api, name):
    user, default, users = f"u{name}", f"d{name}", f"g{name}"
    password = "a-long-password-of-a-user"
    api.create_user(UserId=user, UserName="app", Engine="redis", Passwords=[password], AccessString="on ~app:* +@all")
    api.create_user(UserId=default, UserName="default", Engine="redis", NoPasswordRequired=True, AccessString="off -@all")
    with pytest.raises(api.exceptions.DefaultUserRequired):
        api.create_user_group(UserGroupId=users, Engine="redis", UserIds=[user])
    api.create_user_group(UserGroupId=users, Engine="redis", UserIds=[user, default])
    active = lambda: api.describe_user_groups(UserGroupId=users)["UserGroups"][0]["Status"] == "active"
    until("the user group", active)
    with pytest.raises(api.exceptions.InvalidParameterCombinationException):
        create(api, name, UserGroupIds=[users])
    create(api, name, UserGroupIds=[users], TransitEncryptionEnabled=True, NumCacheClusters=2)
    found = quiet(api, name)
    redis = Redis(primary(found), tls=True, user="app", password=password)
    assert redis.call("SET", "app:1", "v") == "OK"
    with pytest.raises(RuntimeError, match="NOPERM"):
        redis.call("SET", "other", "v")
    with pytest.raises(api.exceptions.InvalidUserGroupStateFault):
        api.delete_user_group(UserGroupId=users)
    changed = "another-password-of-the-user"
    api.modify_user(UserId=user, Passwords=[changed])
    with pytest.raises(api.exceptions.InvalidUserStateFault):
        api.modify_user(UserId=user, Passwords=[changed])
    until("the user", lambda: api.describe_users(UserId=user)["Users"][0]["Status"] == "active")
    assert Redis(primary(found), tls=True, user="app", password=changed).call("GET", "app:1") == "v"
    drop_group(api, name)
    api.delete_user_group(UserGroupId=users)
    for one in (user, default):
        until("the group to let go", lambda: not api.describe_users(UserId=one)["Users"][0]["UserGroupIds"])
        api.delete_user(UserId=one)


@pytest.mark.parametrize("code, parameters", [
    ("InvalidParameterCombination", {"Engine": "memcached"}),
    ("InvalidParameterCombination", {"AuthToken": TOKEN}),
    ("InvalidParameterValue", {"AuthToken": "short", "TransitEncryptionEnabled": True}),
    ("InvalidParameterCombination", {"AutomaticFailoverEnabled": True}),
    ("InvalidParameterCombination", {"MultiAZEnabled": True, "NumCacheClusters": 2}),
    ("InvalidParameterValue", {"NumCacheClusters": 7}),
    ("InvalidParameterCombination", {"EngineVersion": "9.9"}),
    ("InvalidParameterValue", {"CacheNodeType": "cache.m3.large"}),
    ("InvalidParameterValue", {"CacheNodeType": "cache.x9.large"}),
    ("CacheSubnetGroupNotFoundFault", {"CacheSubnetGroupName": "nowhere"}),
    ("CacheParameterGroupNotFound", {"CacheParameterGroupName": "none"}),
    ("InvalidParameterCombination", {"CacheParameterGroupName": "default.redis6.x"}),
    ("InvalidParameterValue", {"SecurityGroupIds": ["default"]}),
    ("UserGroupNotFound", {"UserGroupIds": ["nobody"], "TransitEncryptionEnabled": True}),
    ("SnapshotNotFoundFault", {"SnapshotName": "none"}),
    ("InvalidParameterCombination", {"NumNodeGroups": 2}),
    ("InvalidParameterValue", {"ReplicationGroupId": "a--b"}),
    ("InvalidParameterValue", {"ReplicationGroupId": "a" * 41}),
    ("InvalidParameterValue", {"DataTieringEnabled": True}),
])
def test_refusals(api, name, code, parameters):
    with pytest.raises(ClientError) as refused:
        create(api, name, **parameters)
    assert refused.value.response["Error"]["Code"] == code


@needs_nodes
def test_shards_with_tls_and_a_failover(api, name):
    create(api, name, NumNodeGroups=2, ReplicasPerNodeGroup=1, AutomaticFailoverEnabled=True,
           TransitEncryptionEnabled=True, AuthToken=TOKEN)
    found = quiet(api, name)
    redis = Redis(found["ConfigurationEndpoint"], tls=True, password=TOKEN)
    before = redis.call("CLUSTER", "SLOTS")
    assert "cluster_state:ok" in redis.call("CLUSTER", "INFO")
    api.test_failover(ReplicationGroupId=name, NodeGroupId="0001")
    after = quiet(api, name)
    assert after["ConfigurationEndpoint"] != found["ConfigurationEndpoint"]
    redis = Redis(after["ConfigurationEndpoint"], tls=True, password=TOKEN)
    assert redis.call("ROLE")[0] == "master"
    assert len(redis.call("CLUSTER", "SLOTS")) == len(before)
    drop_group(api, name)


@needs_nodes
def test_how_long_a_creation_takes(api, name):
    """With no time of its own, a state takes as long as its processes need: well under a second each."""
    control("PUT", "times", {key: 0 for key in control("GET", "times")})
    try:
        start = time.monotonic()
        create(api, name, NumCacheClusters=2)
        found = quiet(api, name)
        made = time.monotonic() - start
        assert Redis(primary(found)).call("PING") == "PONG"
        assert Redis(found["NodeGroups"][0]["ReaderEndpoint"]).call("ROLE")[0] == "slave"
        drop_group(api, name)
        print(f"created in {made:.2f} s, created and deleted in {time.monotonic() - start:.2f} s")
        assert made < 10
    finally:
        control("PUT", "times", {key: 300 for key in control("GET", "times") if key != "visible"})
