"""Cache clusters, lists, tags, faults and what else the endpoint knows."""

import socket
import urllib.error
import urllib.request

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from conftest import INFO, REAL, URL, Redis, cluster, control, group, make_client, memcached, until, wait

needs_nodes = pytest.mark.skipif(not REAL, reason="the nodes are simulated")


def create(api, name, **parameters):
    given = dict(
        CacheClusterId=name,
        Engine="memcached",
        CacheNodeType="cache.t4g.micro",
        NumCacheNodes=1,
        CacheSubnetGroupName="memcached-subnets",
    )
    given.update(parameters)
    return api.create_cache_cluster(**given)["CacheCluster"]


def drop(api, name):
    api.delete_cache_cluster(CacheClusterId=name)
    wait(api, "cache_cluster_deleted", CacheClusterId=name)


def test_life_of_a_memcached_cluster(api, name):
    made = create(api, name.upper(), NumCacheNodes=3)
    assert made["CacheClusterId"] == name and made["CacheClusterStatus"] == "creating"
    with pytest.raises(api.exceptions.InvalidCacheClusterStateFault):
        api.delete_cache_cluster(CacheClusterId=name)
    with pytest.raises(api.exceptions.CacheClusterAlreadyExistsFault):
        create(api, name)
    with pytest.raises(api.exceptions.CacheClusterNotFoundFault):
        api.list_tags_for_resource(ResourceName=made["ARN"])
    assert "Endpoint" not in cluster(api, name)["CacheNodes"][0]
    wait(api, "cache_cluster_available", CacheClusterId=name)
    found = cluster(api, name)
    assert found["ConfigurationEndpoint"]["Port"] == 11211
    assert "CacheNodes" not in api.describe_cache_clusters(CacheClusterId=name)["CacheClusters"][0]
    assert [node["CacheNodeId"] for node in found["CacheNodes"]] == ["0001", "0002", "0003"]
    if REAL:
        for node in found["CacheNodes"]:
            assert memcached(node["Endpoint"], "set k 0 0 1\r\nv", "get k") == ["STORED", "v"]
    with pytest.raises(api.exceptions.SnapshotFeatureNotSupportedFault):
        api.delete_cache_cluster(CacheClusterId=name, FinalSnapshotIdentifier=f"{name}-final")
    drop(api, name)
    with pytest.raises(api.exceptions.CacheClusterNotFoundFault):
        cluster(api, name)


def test_nodes_come_go_and_reboot(api, name):
    create(api, name, NumCacheNodes=2)
    wait(api, "cache_cluster_available", CacheClusterId=name)
    modify = lambda **more: api.modify_cache_cluster(CacheClusterId=name, **more)["CacheCluster"]
    assert modify(NumCacheNodes=4)["PendingModifiedValues"] == {"NumCacheNodes": 4}
    assert cluster(api, name)["CacheClusterStatus"] == "available"
    with pytest.raises(api.exceptions.InvalidParameterCombinationException):
        modify(NumCacheNodes=3)
    assert modify(NumCacheNodes=2)["PendingModifiedValues"] == {}
    assert modify(NumCacheNodes=4, ApplyImmediately=True)["CacheClusterStatus"] == "modifying"
    with pytest.raises(api.exceptions.InvalidCacheClusterStateFault):
        modify(NumCacheNodes=5, ApplyImmediately=True)
    wait(api, "cache_cluster_available", CacheClusterId=name)
    assert cluster(api, name)["NumCacheNodes"] == 4
    with pytest.raises(api.exceptions.InvalidParameterCombinationException):
        modify(NumCacheNodes=2, CacheNodeIdsToRemove=["0001"], ApplyImmediately=True)
    modify(NumCacheNodes=2, CacheNodeIdsToRemove=["0001", "0003"], ApplyImmediately=True)
    wait(api, "cache_cluster_available", CacheClusterId=name)
    nodes = cluster(api, name)["CacheNodes"]
    assert [node["CacheNodeId"] for node in nodes] == ["0002", "0004"]
    if REAL:
        for node in nodes:
            memcached(node["Endpoint"], "set k 0 0 1\r\nv")
    answer = api.reboot_cache_cluster(CacheClusterId=name, CacheNodeIdsToReboot=["0002"])["CacheCluster"]
    assert answer["CacheClusterStatus"] == "rebooting cluster nodes"
    wait(api, "cache_cluster_available", CacheClusterId=name)
    if REAL:
        values = [memcached(node["Endpoint"], "get k") for node in cluster(api, name)["CacheNodes"]]
        assert values == [["END"], ["v"]]
    modify(CacheNodeType="cache.t4g.small", ScaleConfig={"ScalePercentage": 50}, ApplyImmediately=True)
    wait(api, "cache_cluster_available", CacheClusterId=name)
    found = cluster(api, name)
    assert found["CacheNodeType"] == "cache.t4g.small"
    if REAL:
        assert memcached(found["CacheNodes"][1]["Endpoint"], "get k") == ["END"]
    with pytest.raises(api.exceptions.InvalidParameterCombinationException):
        modify(EngineVersion="1.5.16", ApplyImmediately=True)
    drop(api, name)


@needs_nodes
def test_memcached_with_tls(api, name):
    with pytest.raises(api.exceptions.InvalidParameterCombinationException):
        create(api, name, TransitEncryptionEnabled=True, EngineVersion="1.6.6")
    create(api, name, TransitEncryptionEnabled=True)
    wait(api, "cache_cluster_available", CacheClusterId=name)
    endpoint = cluster(api, name)["ConfigurationEndpoint"]
    assert memcached(endpoint, "set k 0 0 1\r\nv", "get k", tls=True) == ["STORED", "v"]
    drop(api, name)


def test_a_single_redis_node(api, name):
    with pytest.raises(api.exceptions.InvalidParameterValueException):
        create(api, name, Engine="redis", NumCacheNodes=2)
    create(api, name, Engine="redis", SnapshotRetentionLimit=1)
    wait(api, "cache_cluster_available", CacheClusterId=name)
    found = cluster(api, name)
    assert "ConfigurationEndpoint" not in found
    if REAL:
        Redis(found["CacheNodes"][0]["Endpoint"]).call("SET", "k", "v")
    control("POST", "backup", {"id": name})
    wait_available = lambda: cluster(api, name)["CacheClusterStatus"] == "available"
    until("the backup", wait_available)
    automatic = api.describe_snapshots(CacheClusterId=name, SnapshotSource="system")["Snapshots"]
    assert [snapshot["SnapshotSource"] for snapshot in automatic] == ["automated"]
    api.create_snapshot(CacheClusterId=name, SnapshotName=f"{name}-s")
    until("the snapshot", wait_available)
    drop(api, name)
    left = [snapshot["SnapshotName"] for snapshot in api.describe_snapshots(CacheClusterId=name)["Snapshots"]]
    assert left == [f"{name}-s"]
    create(api, name, Engine="redis", SnapshotName=f"{name}-s")
    wait(api, "cache_cluster_available", CacheClusterId=name)
    if REAL:
        assert Redis(cluster(api, name)["CacheNodes"][0]["Endpoint"]).call("GET", "k") == "v"
    api.delete_snapshot(SnapshotName=f"{name}-s")
    drop(api, name)


def test_tags_change_the_state(api, name):
    arn = create(api, name, Tags=[{"Key": "a", "Value": "1"}])["ARN"]
    wait(api, "cache_cluster_available", CacheClusterId=name)
    answer = api.add_tags_to_resource(ResourceName=arn, Tags=[{"Key": "b", "Value": ""}, {"Key": "a", "Value": "2"}])
    assert answer["TagList"] == [{"Key": "a", "Value": "2"}, {"Key": "b", "Value": ""}]
    assert cluster(api, name)["CacheClusterStatus"] == "modifying"
    with pytest.raises(api.exceptions.CacheClusterNotFoundFault, match="not present or not available"):
        api.list_tags_for_resource(ResourceName=arn)
    wait(api, "cache_cluster_available", CacheClusterId=name)
    with pytest.raises(api.exceptions.TagNotFoundFault):
        api.remove_tags_from_resource(ResourceName=arn, TagKeys=["c"])
    api.remove_tags_from_resource(ResourceName=arn, TagKeys=["a"])
    wait(api, "cache_cluster_available", CacheClusterId=name)
    assert api.list_tags_for_resource(ResourceName=arn)["TagList"] == [{"Key": "b", "Value": ""}]
    with pytest.raises(api.exceptions.InvalidARNFault):
        api.list_tags_for_resource(ResourceName="arn:aws:s3:::x")
    drop(api, name)


def test_lists_come_in_pages(api):
    names = [f"page{n:02}" for n in range(22)]
    for one in names:
        api.create_user(UserId=one, UserName=one, Engine="valkey", NoPasswordRequired=True, AccessString="on ~* +@all")
    pages = list(api.get_paginator("describe_users").paginate(PaginationConfig={"PageSize": 20}))
    assert len(pages) == 2 and len(pages[0]["Users"]) == 20
    seen = [user["UserId"] for page in pages for user in page["Users"]]
    assert sorted(seen) == seen and set(names) <= set(seen) and len(set(seen)) == len(seen)
    for bad in (19, 101):
        with pytest.raises(ClientError) as refused:
            api.describe_users(MaxRecords=bad)
        assert refused.value.response["Error"]["Code"] == "InvalidParameterValue"
    for one in names:
        api.delete_user(UserId=one)
    for paginator in ("describe_cache_clusters", "describe_replication_groups", "describe_snapshots", "describe_events",
                      "describe_cache_parameter_groups", "describe_cache_subnet_groups", "describe_user_groups",
                      "describe_cache_engine_versions"):
        list(api.get_paginator(paginator).paginate(PaginationConfig={"PageSize": 20}))


def test_what_can_be_had(api):
    versions = api.describe_cache_engine_versions()["CacheEngineVersions"]
    assert {version["Engine"] for version in versions} == {"memcached", "redis", "valkey"}
    newest = api.describe_cache_engine_versions(Engine="redis", DefaultOnly=True)["CacheEngineVersions"]
    assert [version["EngineVersion"] for version in newest] == ["7.1"]
    groups = api.describe_cache_parameter_groups(CacheParameterGroupName="default.redis7")["CacheParameterGroups"]
    assert groups[0]["CacheParameterGroupFamily"] == "redis7"
    assert api.describe_cache_parameters(CacheParameterGroupName="default.redis7.cluster.on")["Parameters"]
    assert api.describe_cache_subnet_groups(CacheSubnetGroupName="redis-subnets")["CacheSubnetGroups"][0]["VpcId"]
    with pytest.raises(api.exceptions.CacheSubnetGroupNotFoundFault):
        api.describe_cache_subnet_groups(CacheSubnetGroupName="nowhere")
    api.create_cache_subnet_group(CacheSubnetGroupName="more", CacheSubnetGroupDescription="d", SubnetIds=["subnet-1"])
    api.delete_cache_subnet_group(CacheSubnetGroupName="more")


def test_a_creation_that_fails(api, name):
    control("PUT", "faults", [{"operation": "CreateReplicationGroup", "times": 1,
                               "kind": {"type": "create_failed", "message": "no capacity in us-west-2a"}}])
    api.create_replication_group(ReplicationGroupId=name, ReplicationGroupDescription="d", CacheNodeType="cache.t4g.micro")
    until("the failure", lambda: group(api, name)["Status"] == "create-failed")
    events = api.describe_events(SourceType="replication-group", SourceIdentifier=name)["Events"]
    assert [event["Message"] for event in events] == ["no capacity in us-west-2a"]
    api.delete_replication_group(ReplicationGroupId=name)
    wait(api, "replication_group_deleted", ReplicationGroupId=name)


def test_faults(api, name):
    def refused(kind, **more):
        control("PUT", "faults", [{"operation": "DescribeUsers", "times": 1, "kind": kind, **more}])
        with pytest.raises(ClientError) as error:
            api.describe_users()
        api.describe_users()
        response = error.value.response
        return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]

    assert refused({"type": "throttle"}) == ("Throttling", 400)
    assert refused({"type": "server_error"}) == ("InternalFailure", 500)
    assert refused({"type": "unavailable"}) == ("ServiceUnavailable", 503)
    assert refused({"type": "capacity"}) == ("InsufficientCacheClusterCapacity", 400)
    assert refused({"type": "access_denied"}) == ("AccessDenied", 403)
    assert refused({"type": "refuse", "code": "UserNotFound", "message": "m"}) == ("UserNotFound", 404)
    control("PUT", "faults", [{"operation": "DescribeUsers", "kind": {"type": "timeout"}}])
    with pytest.raises(ReadTimeoutError):
        make_client(read_timeout=0.3).describe_users()
    control("PUT", "faults", [{"operation": "CreateCacheCluster", "times": 1, "kind": {"type": "lost_answer"}}])
    with pytest.raises(ConnectionClosedError):
        create(api, name)
    with pytest.raises(api.exceptions.CacheClusterAlreadyExistsFault):
        create(api, name)
    wait(api, "cache_cluster_available", CacheClusterId=name)
    control("PUT", "faults", [{"kind": {"type": "tags_not_found"}}])
    with pytest.raises(api.exceptions.CacheClusterNotFoundFault):
        api.list_tags_for_resource(ResourceName=cluster(api, name)["ARN"])
    drop(api, name)
    calls = [call for call in control("GET", "calls") if call["parameters"].get("CacheClusterId") == name]
    assert [(call["outcome"], call["lost"]) for call in calls[:2]] == [("ok", True), ("CacheClusterAlreadyExists", False)]


def test_requests_must_be_signed():
    def answer(headers):
        request = urllib.request.Request(URL, data=b"Action=DescribeUsers&Version=2015-02-02", headers=headers)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=10)
        return error.value.code, error.value.read().decode()

    status, body = answer({})
    assert status == 403 and "MissingAuthenticationToken" in body
    status, body = answer({"Authorization": "Bearer x"})
    assert status == 400 and "IncompleteSignature" in body


def test_unknown_operations_are_refused(api):
    with pytest.raises(ClientError) as refused:
        api.describe_serverless_caches()
    assert refused.value.response["Error"]["Code"] == "InvalidAction"


def test_the_endpoint_says_who_it_is():
    assert INFO["url"] == URL and INFO["region"] == "us-west-2"
    assert socket.inet_aton(URL.split("/")[2].split(":")[0])
