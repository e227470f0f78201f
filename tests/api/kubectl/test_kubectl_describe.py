"""`kubectl describe` of the main kinds: what people look for is there."""

from __future__ import annotations

import re

import pytest
from tests.api.kubectl.conftest import Kubectl, pod

pytestmark = pytest.mark.asyncio(loop_scope="module")


def has(text: str, *patterns: str) -> None:
    for pattern in patterns:
        assert re.search(pattern, text, re.MULTILINE), f"{pattern!r} is not in\n{text}"


async def test_pod(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=pod("p", app="x"))
    found = await kubectl.get("pod", "p")
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": kubectl.namespace},
        "involvedObject": {
            "kind": "Pod",
            "name": "p",
            "namespace": kubectl.namespace,
            "uid": found["metadata"]["uid"],
        },
        "reason": "FailedScheduling",
        "message": "no nodes",
        "type": "Warning",
        "source": {"component": "scheduler"},
        "count": 1,
    }
    await kubectl("create", "-f", "-", stdin=event)
    text = await kubectl("describe", "pod", "p")
    has(
        text,
        r"^Name: +p$",
        rf"^Namespace: +{kubectl.namespace}$",
        r"^Labels: +app=x$",
        r"^Status: +Pending$",
        r"^ +Image: +busybox:1$",
        r"^QoS Class: +BestEffort$",
        r"^Tolerations: +node.kubernetes.io/not-ready:NoExecute op=Exists for 300s$",
        r"^ +Warning +FailedScheduling .*scheduler +no nodes$",
    )


async def test_workloads(kubectl: Kubectl) -> None:
    await kubectl("create", "deployment", "d", "--image=i:1", "--replicas=2")
    has(
        await kubectl("describe", "deployment", "d"),
        r"^Name: +d$",
        r"^Selector: +app=d$",
        r"^Replicas: +2 desired \| 0 updated \| 0 total \| 0 available \| 0 unavailable$",
        r"^StrategyType: +RollingUpdate$",
        r"^RollingUpdateStrategy: +25% max unavailable, 25% max surge$",
        r"^ +Image: +i:1$",
    )
    await kubectl("create", "job", "j", "--image=i")
    has(await kubectl("describe", "job", "j"), r"^Parallelism: +1$", r"^Completions: +1$")
    await kubectl("create", "cronjob", "c", "--image=i", "--schedule=1 2 * * *")
    has(await kubectl("describe", "cronjob", "c"), r"^Schedule: +1 2 \* \* \*$")


async def test_replication_controller_and_its_pods(kubectl: Kubectl) -> None:
    controller = {
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": {"name": "rc"},
        "spec": {
            "replicas": 1,
            "selector": {"app": "rc"},
            "template": {"metadata": {"labels": {"app": "rc"}}, "spec": pod("p")["spec"]},
        },
    }
    await kubectl("create", "-f", "-", stdin=controller)
    owner = (await kubectl.get("rc", "rc"))["metadata"]["uid"]
    owned = pod("rc-1", app="rc")
    reference = {"apiVersion": "v1", "kind": "ReplicationController", "name": "rc"}
    owned["metadata"]["ownerReferences"] = [{**reference, "uid": owner, "controller": True}]
    await kubectl("create", "-f", "-", stdin=owned)
    has(
        await kubectl("describe", "rc", "rc"),
        r"^Selector: +app=rc$",
        r"^Replicas: +0 current / 1 desired$",
        r"^Pods Status: +0 Running / 1 Waiting / 0 Succeeded / 0 Failed$",
    )
    has(await kubectl("describe", "pod", "rc-1"), r"^Controlled By: +ReplicationController/rc$")


async def test_service(kubectl: Kubectl) -> None:
    await kubectl("create", "service", "clusterip", "s", "--tcp=80:8080")
    has(
        await kubectl("describe", "service", "s"),
        r"^Type: +ClusterIP$",
        r"^IP: +10\.96\.",
        r"^Port: +80-8080 +80/TCP$",
        r"^TargetPort: +8080/TCP$",
        r"^Endpoints: +<none>$",
    )


async def test_node_and_namespace(kubectl: Kubectl) -> None:
    name = f"node-{kubectl.namespace}"
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    await kubectl("create", "-f", "-", stdin=node)
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "fine"}
    await kubectl.set_status(
        f"node/{name}",
        conditions=[ready],
        capacity={"cpu": "2", "memory": "4Gi", "pods": "110"},
        allocatable={"cpu": "2", "memory": "4Gi", "pods": "110"},
        addresses=[{"type": "InternalIP", "address": "192.168.49.2"}],
        nodeInfo={"kernelVersion": "6.1", "osImage": "Debian"},
    )
    has(
        await kubectl("describe", "node", name),
        rf"^Name: +{name}$",
        r"^CreationTimestamp: ",
        r"^ +Type +Status +LastHeartbeatTime +LastTransitionTime +Reason +Message$",
        r"^ +Ready +True .*KubeletReady +fine$",
        r"^ +InternalIP: +192\.168\.49\.2$",
        r"^ +cpu: +2$",
        r"^ +Kernel Version: +6\.1$",
        r"^Non-terminated Pods: +\(0 in total\)$",
    )
    has(
        await kubectl("describe", "namespace", kubectl.namespace),
        rf"^Name: +{kubectl.namespace}$",
        r"^Status: +Active$",
        r"^No resource quota\.$",
    )


async def test_configuration(kubectl: Kubectl) -> None:
    await kubectl("create", "configmap", "m", "--from-literal=key=value")
    has(await kubectl("describe", "cm", "m"), r"^key:$", r"^value$")
    await kubectl("create", "secret", "generic", "s", "--from-literal=key=value")
    has(await kubectl("describe", "secret", "s"), r"^key: +5 bytes$", r"^Type: +Opaque$")
    await kubectl("create", "quota", "q", "--hard=pods=3")
    await kubectl.set_status("quota/q", hard={"pods": "3"}, used={"pods": "1"})
    has(await kubectl("describe", "quota", "q"), r"^pods +1 +3$")
    await kubectl("create", "role", "r", "--verb=get", "--resource=pods")
    has(await kubectl("describe", "role", "r"), r"^ +pods +\[\] +\[\] +\[get\]$")


async def test_storage_and_network(kubectl: Kubectl) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "",
        },
    }
    await kubectl("create", "-f", "-", stdin=claim)
    has(await kubectl("describe", "pvc", "c"), r"^Status: +Pending$", r"^VolumeMode: +Filesystem$")
    assert "Pending" in await kubectl("get", "pvc")
    await kubectl("create", "ingress", "i", "--rule=example.org/a=s:80")
    has(await kubectl("describe", "ingress", "i"), r"^ +example\.org", r"/a +s:80 ")
