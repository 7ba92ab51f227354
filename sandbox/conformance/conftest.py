"""A client of the endpoint whose every reply is checked against botocore's own model of the API."""

import json
import os
import socket
import ssl
import time
import urllib.request
import uuid
from datetime import datetime
from xml.etree import ElementTree

import boto3
import pytest
from botocore.config import Config

URL = os.environ["SANDBOX_ELASTICACHE_URL"]


def control(method, path, body=None):
    """Talks to the sandbox's own side of the endpoint."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{URL}/_sandbox/{path}", data=data, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else None


INFO = control("GET", "")
REAL = INFO["nodes"] == "real"
NAMESPACE = "{http://elasticache.amazonaws.com/doc/2015-02-02/}"


def check_element(element, shape, where):
    """Every element must be a member of the shape, once, and its text of the member's type."""
    if shape.type_name == "structure":
        names = {}
        for member, inner in shape.members.items():
            names[inner.serialization.get("name", member)] = inner
        seen = set()
        for child in element:
            name = child.tag.removeprefix(NAMESPACE)
            assert name in names, f"{where}: the model has no member {name}"
            assert name not in seen, f"{where}: {name} occurs twice"
            seen.add(name)
            check_element(child, names[name], f"{where}.{name}")
    elif shape.type_name == "list":
        wanted = shape.member.serialization.get("name", "member")
        for child in element:
            assert child.tag == NAMESPACE + wanted, f"{where}: element {child.tag}, the model says {wanted}"
            check_element(child, shape.member, f"{where}[]")
    else:
        assert len(element) == 0, f"{where}: has elements, the model says {shape.type_name}"
        text = element.text or ""
        if shape.type_name == "boolean":
            assert text in ("true", "false"), f"{where}: {text}"
        elif shape.type_name in ("integer", "long"):
            int(text)
        elif shape.type_name in ("double", "float"):
            float(text)
        elif shape.type_name == "timestamp":
            datetime.fromisoformat(text)
        elif getattr(shape, "enum", None):
            assert text in shape.enum, f"{where}: {text} is none of {shape.enum}"


def check_reply(http_response, parsed, model, **_):
    """Runs after each reply."""
    root = ElementTree.fromstring(http_response.content)
    if http_response.status_code >= 300:
        known = {shape.metadata["error"]["code"]: shape.metadata["error"]["httpStatusCode"]
                 for shape in model.service_model.error_shapes if "error" in shape.metadata}
        code = parsed["Error"]["Code"]
        if code in known:
            assert http_response.status_code == known[code], code
        assert parsed["Error"]["Message"] and parsed["ResponseMetadata"]["RequestId"]
        return
    assert root.tag == f"{NAMESPACE}{model.name}Response"
    parts = {child.tag.removeprefix(NAMESPACE): child for child in root}
    assert "ResponseMetadata" in parts
    if model.output_shape is not None:
        wrapper = model.output_shape.serialization["resultWrapper"]
        check_element(parts[wrapper], model.output_shape, model.name)
    assert parsed["ResponseMetadata"]["RequestId"]


def make_client(**config):
    client = boto3.client(
        "elasticache",
        endpoint_url=URL,
        region_name=INFO["region"],
        aws_access_key_id="AKIDSANDBOX",
        aws_secret_access_key="secret",
        config=Config(retries={"max_attempts": 0}, **config),
    )
    client.meta.events.register("after-call.elasticache", check_reply)
    return client


@pytest.fixture(scope="session")
def api():
    return make_client()


@pytest.fixture
def name():
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def no_faults():
    yield
    control("DELETE", "faults")


def wait(api, waiter, **parameters):
    api.get_waiter(waiter).wait(**parameters, WaiterConfig={"Delay": 0.1, "MaxAttempts": 300})


def until(what, condition, seconds=30):
    """Asks until the condition holds, and returns what it returned."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.05)


def group(api, name):
    return api.describe_replication_groups(ReplicationGroupId=name)["ReplicationGroups"][0]


def cluster(api, name):
    return api.describe_cache_clusters(CacheClusterId=name, ShowCacheNodeInfo=True)["CacheClusters"][0]


def quiet(api, name):
    """Waits until a group and its members are available."""
    def ready():
        found = group(api, name)
        events = api.describe_events(SourceType="replication-group", SourceIdentifier=name)["Events"]
        failures = [event["Message"] for event in events if "could not" in event["Message"]]
        assert found["Status"] != "create-failed" and not failures, events
        try:
            members = [cluster(api, member)["CacheClusterStatus"] for member in found["MemberClusters"]]
        except api.exceptions.CacheClusterNotFoundFault:
            return None  # a member left in between
        return found["Status"] == "available" and set(members) == {"available"} and found
    return until(f"{name} to be available", ready)


def drop_group(api, name, **parameters):
    quiet(api, name)
    api.delete_replication_group(ReplicationGroupId=name, **parameters)
    wait(api, "replication_group_deleted", ReplicationGroupId=name)


class Redis:
    """A connection to a Redis node."""

    def __init__(self, endpoint, tls=False, password=None, user=None):
        raw = socket.create_connection((endpoint["Address"], endpoint["Port"]), timeout=10)
        if tls:
            context = ssl.create_default_context(cafile=INFO["ca_file"])
            raw = context.wrap_socket(raw, server_hostname=endpoint["Address"])
        self.socket = raw
        self.file = raw.makefile("rb")
        if password is not None:
            assert self.call("AUTH", *([user] if user else []), password) == "OK"

    def call(self, *words):
        message = f"*{len(words)}\r\n".encode()
        for word in map(str, words):
            message += f"${len(word.encode())}\r\n{word}\r\n".encode()
        self.socket.sendall(message)
        return self.read()

    def read(self):
        line = self.file.readline().decode().rstrip("\r\n")
        if not line:
            raise ConnectionError("the node closed the connection")
        kind, rest = line[0], line[1:]
        if kind == "-":
            raise RuntimeError(rest)
        if kind == "$":
            return None if rest == "-1" else self.file.read(int(rest) + 2)[:-2].decode()
        if kind == "*":
            return [self.read() for _ in range(int(rest))]
        return int(rest) if kind == ":" else rest


def memcached(endpoint, *lines, tls=False):
    """Sends lines to a memcached node and returns the first line of each answer."""
    raw = socket.create_connection((endpoint["Address"], endpoint["Port"]), timeout=10)
    if tls:
        context = ssl.create_default_context(cafile=INFO["ca_file"])
        raw = context.wrap_socket(raw, server_hostname=endpoint["Address"])
    with raw, raw.makefile("rb") as file:
        answers = []
        for line in lines:
            raw.sendall(line.encode() + b"\r\n")
            answer = file.readline().decode().strip()
            if answer.startswith("VALUE"):
                answer = file.readline().decode().strip()
                assert file.readline().strip() == b"END"
            answers.append(answer)
        return answers
