"""What containers find in their environment and command line."""

from __future__ import annotations

import asyncio
import base64

import pytest
from tests.cluster.node.conftest import NODE, Cluster, eventually, pod, shell
from tests.cluster.node.test_pod_life import reason_of
from tests.cluster.node.test_pod_surroundings import create, ended_well, output

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Node

pytestmark = pytest.mark.cluster

PREFIXES = ("", "1-", "$_-", "ABC_", "#@!")


def field(name: str, path: str) -> dict[str, object]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def resource(name: str, what: str, divisor: str = "1") -> dict[str, object]:
    selector = {"resource": what, "divisor": divisor}
    return {"name": name, "valueFrom": {"resourceFieldRef": selector}}


@pytest.mark.conformance(
    "ConfigMap should be consumable as environment variable names with various prefixes",
    "ConfigMap should be consumable via environment variable [NodeConformance]",
    "ConfigMap should be consumable via the environment [NodeConformance]",
    "Secrets should be consumable as environment variable names variable names with various"
    " prefixes",
    "Secrets should be consumable from pods in env vars [NodeConformance]",
    "Secrets should be consumable via the environment [NodeConformance]",
    "Downward API should provide container's limits.cpu/memory and requests.cpu/memory as env vars"
    " [NodeConformance]",
    "Downward API should provide default limits.cpu/memory from node allocatable [NodeConformance]",
    "Downward API should provide host IP as an env var [NodeConformance]",
    "Downward API should provide hostIPs as an env var [NodeConformance]",
    "Downward API should provide pod UID as env vars [NodeConformance]",
    "Downward API should provide pod name, namespace and IP address as env vars [NodeConformance]",
    "Variable Expansion should allow composing env vars into new env vars [NodeConformance]",
    "Variable Expansion should allow substituting values in a container's args [NodeConformance]",
    "Variable Expansion should allow substituting values in a container's command"
    " [NodeConformance]",
    "Kubelet when scheduling a busybox command in a pod should print the output to logs"
    " [NodeConformance]",
)
async def test_everything_that_can_be_a_variable(cluster: Cluster) -> None:
    data = {"data-1": "value-1", "data_2": "value-2"}
    secrets = {"secret-1": "value-3", "secret_2": "value-4"}
    await create(cluster, "configmaps", "ConfigMap", "map", data=data)
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in secrets.items()}
    await create(cluster, "secrets", "Secret", "secret", data=encoded)
    references = {"configMapKeyRef": {"name": "map", "key": "data-1"}}
    secret = {"secretKeyRef": {"name": "secret", "key": "secret_2"}}
    variables = [
        {"name": "FROM_MAP", "valueFrom": references},
        {"name": "FROM_SECRET", "valueFrom": secret},
        {"name": "NONE", "valueFrom": {
            "configMapKeyRef": {"name": "no", "key": "x", "optional": True}}},
        field("NAME", "metadata.name"), field("NAMESPACE", "metadata.namespace"),
        field("UID", "metadata.uid"), field("IP", "status.podIP"), field("IPS", "status.podIPs"),
        field("HOST", "status.hostIP"), field("HOSTS", "status.hostIPs"),
        field("NODE", "spec.nodeName"), field("LABEL", "metadata.labels['app']"),
        resource("CPU", "limits.cpu", "1m"), resource("CPU_ASKED", "requests.cpu"),
        resource("MEMORY", "requests.memory"), resource("MEMORY_LIMIT", "limits.memory"),
        {"name": "COMPOSED", "value": "$(NAME);;$(NONE);;$$(NAME);;$(1-data-1)"},
    ]  # fmt: skip
    optional = [{"secretRef": {"name": "no", "optional": True}}]
    prefixed = [
        {"prefix": prefix, kind: {"name": name}}
        for prefix in PREFIXES
        for kind, name in (("configMapRef", "map"), ("secretRef", "secret"))
    ]
    show = "tr '\\0' '\\n' < /proc/self/environ"
    main = shell("main", f"{show}; echo $0 $(NAME)", env=variables,
                 envFrom=[*optional, *prefixed])  # fmt: skip
    main["args"] = ["arg:$(FROM_MAP)"]
    main["resources"] = {
        "requests": {"cpu": "250m", "memory": "32Mi"},
        "limits": {"cpu": "1250m", "memory": "64Mi"},
    }
    defaults = [resource("CPU", "limits.cpu"), resource("MEMORY", "limits.memory")]
    free = shell("free", "echo $CPU $MEMORY", env=defaults)
    document = pod("variables", main, free)
    document["metadata"]["labels"] = {"app": "demo"}
    lines = (await output(cluster, document)).splitlines()
    found = dict(line.split("=", 1) for line in lines[:-1])
    made = await cluster.get("variables")
    address, host = made.status.podIP, made.status.hostIP
    expected = {
        "FROM_MAP": "value-1", "FROM_SECRET": "value-4", "NAME": "variables",
        "NAMESPACE": "default", "UID": made.metadata.uid, "IP": address, "IPS": address,
        "HOST": host, "HOSTS": host, "NODE": "node-1", "LABEL": "demo", "CPU": "1250",
        "CPU_ASKED": "1", "MEMORY": str(32 << 20), "MEMORY_LIMIT": str(64 << 20),
        "HOSTNAME": "variables",
        "COMPOSED": "variables;;$(NONE);;$(NAME);;value-1",
    }  # fmt: skip
    for prefix in PREFIXES:
        expected |= {f"{prefix}{key}": value for key, value in (data | secrets).items()}
    assert {key: found.get(key) for key in expected} == expected
    assert "NONE" not in found
    assert lines[-1] == "arg:value-1 variables"
    node = await cluster.client.resource(Node).get(NODE)
    has = {name: parse_quantity(node.status.allocatable[name]) for name in ("cpu", "memory")}
    limits = [str(has[name].value()) for name in ("cpu", "memory")]
    assert (await cluster.logs(made, "free")).split() == limits


async def test_variables_from_files_of_init_containers(cluster: Cluster) -> None:
    """KEP-3721: the file is never mounted in the container that has its variables."""
    volume = {"name": "env", "emptyDir": {}}
    mount = [{"name": "env", "mountPath": "/env"}]
    script = "printf \"# made\\nA='one two'\\nB='x\\ny'\\n\" > /env/a; ln -s /etc/passwd /env/out"
    write = shell("write", script, volumeMounts=mount)

    def taken(name: str, path: str, key: str) -> dict[str, object]:
        reference = {"volumeName": "env", "path": path, "key": key, "optional": name == "NO"}
        return {"name": name, "valueFrom": {"fileKeyRef": reference}}

    variables = [taken("FIRST", "a", "A"), taken("SECOND", "a", "B"), taken("NO", "a", "C")]
    main = shell(
        "main", 'echo "$FIRST|$SECOND|${NO-unset}"; ls /env 2>/dev/null || true', env=variables
    )
    document = pod("files", main, initContainers=[write], volumes=[volume])
    bad = pod("thief", shell("main", "env", env=[taken("X", "out", "root")]),
              initContainers=[write], volumes=[volume])  # fmt: skip
    await cluster.create(bad)
    text = await output(cluster, document)
    assert text.startswith("one two|x\ny|unset")

    def waits(each: object) -> bool:
        return reason_of(each) == "CreateContainerConfigError"  # type: ignore[arg-type]

    refused = await cluster.wait("thief", waits)
    waiting = refused.status.containerStatuses[0].state.waiting
    assert waiting is not None and waiting.message == "couldn't parse env file"


async def test_a_required_source_is_waited_for(cluster: Cluster) -> None:
    source = {"configMapRef": {"name": "late"}}
    await cluster.create(pod("waits", shell("main", "echo $KEY", envFrom=[source]),
                             restartPolicy="Never"))  # fmt: skip
    await cluster.wait("waits", lambda each: reason_of(each) == "CreateContainerConfigError")
    await cluster.told("waits", ("Failed", 'Error: configmap "late" not found'))
    await create(cluster, "configmaps", "ConfigMap", "late", data={"KEY": "came"})
    assert await cluster.logs(await cluster.wait("waits", ended_well), "main") == "came"


async def test_a_change_of_a_mounted_object_is_there_within_seconds(cluster: Cluster) -> None:
    """Two pods with the same objects, a third that waits for one: each change is heard of."""
    await create(cluster, "configmaps", "ConfigMap", "map", data={"key": "old"})
    volumes = [
        {"name": "map", "configMap": {"name": "map"}},
        {"name": "secret", "secret": {"secretName": "later", "optional": True}},
    ]
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("map", "secret")]
    script = (
        "until [ $(cat /map/key)$(cat /secret/key 2>/dev/null) = newborn ]; do usleep 9999; done"
    )
    for name in ("one", "two"):
        await cluster.create(pod(name, shell("main", script, volumeMounts=mounts), volumes=volumes,
                                 restartPolicy="Never"))  # fmt: skip
    required = [{"name": "map", "secret": {"secretName": "later"}}]
    third = pod("three", shell("main", "cat /map/key", volumeMounts=mounts[:1]), volumes=required,
                restartPolicy="Never")  # fmt: skip
    await cluster.create(third)
    for name in ("one", "two"):
        await cluster.wait(name, lambda each: each.status.phase == "Running")

    async def has_failed_often() -> bool:
        told = [reason for reason, _ in await cluster.events("three")]
        return "FailedMount" in told

    await eventually(has_failed_often)
    await asyncio.sleep(2)  # long enough for the next attempt to be seconds away
    loop = asyncio.get_running_loop()
    before = loop.time()
    maps = cluster.client.dynamic("", "v1", "configmaps")
    await maps.patch("map", "default", {"data": {"key": "new"}})
    await create(cluster, "secrets", "Secret", "later", data={"key": "Ym9ybg=="})
    for name in ("one", "two", "three"):
        await cluster.wait(name, ended_well)
    assert loop.time() - before < 40, "the next refresh would have come after 50 seconds"
