"""`kubectl get` in all its output forms."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.api.kubectl.conftest import Kubectl, columns, pod

pytestmark = pytest.mark.asyncio(loop_scope="module")

CRASHING = {
    "phase": "Running",
    "podIPs": [{"ip": "10.244.0.9"}],
    "containerStatuses": [
        {
            "name": "c",
            "image": "busybox:1",
            "imageID": "",
            "ready": False,
            "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {},
        }
    ],
}


async def test_tables_of_pods(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=pod("a"))
    await kubectl.set_status("pod/a", **CRASHING)
    short = await kubectl("get", "pods")
    assert short.split("\n")[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert columns(short)[0][:4] == ["a", "0/1", "CrashLoopBackOff", "3"]
    wide = await kubectl("get", "pods", "-o", "wide")
    assert "NOMINATED NODE   READINESS GATES" in wide
    assert columns(wide)[0][5:] == ["10.244.0.9", "<none>", "<none>", "<none>"]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("name", "pod/a\npod/b\n"),
        ("jsonpath={.items[*].metadata.name}", "a b"),
        (
            "jsonpath={range .items[*]}{.metadata.name}={.status.phase},{end}",
            "a=Pending,b=Pending,",
        ),
        ("go-template={{range .items}}{{.metadata.name}};{{end}}", "a;b;"),
        (
            "custom-columns=N:.metadata.name,I:.spec.containers[*].image",
            "N     I\na     busybox:1\nb     busybox:1\n",
        ),
    ],
)
async def test_output_forms(kubectl: Kubectl, form: str, expected: str) -> None:
    for name in ("b", "a"):
        await kubectl("create", "-f", "-", stdin=pod(name))
    assert await kubectl("get", "pods", "-o", form) == expected


async def test_yaml_and_json(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=pod("a"))
    text = await kubectl("get", "pod", "a", "-o", "yaml")
    assert text.startswith("apiVersion: v1\nkind: Pod\nmetadata:\n")
    assert "managedFields" not in text
    assert "managedFields" in await kubectl("get", "pod/a", "-o", "yaml", "--show-managed-fields")
    found = await kubectl.get("pods")
    assert found["kind"] == "List"
    assert found["items"][0]["spec"]["dnsPolicy"] == "ClusterFirst"


async def test_selectors(kubectl: Kubectl) -> None:
    for name, app in (("a", "web"), ("b", "db")):
        await kubectl("create", "-f", "-", stdin=pod(name, app=app))

    async def names(*arguments: str) -> list[str]:
        return [row[0] for row in columns(await kubectl("get", "pods", *arguments))]

    assert await names("-l", "app=web") == ["a"]
    assert await names("-l", "app in (web,db),app!=web") == ["b"]
    assert await names("--field-selector", "metadata.name=b") == ["b"]
    assert await names("--field-selector", "status.phase=Running") == []
    labelled = await kubectl("get", "pods", "--show-labels", "-L", "app")
    assert columns(labelled)[0][-2:] == ["web", "app=web"]
    refused = await kubectl.fails("get", "pods", "--field-selector", "spec.hair=red")
    assert "field label not supported: spec.hair" in refused


async def test_sorting_and_paging(kubectl: Kubectl) -> None:
    for name, size in (("a", 2), ("b", 3), ("c", 1)):
        literals = [f"--from-literal=k{n}=v" for n in range(size)]
        await kubectl("create", "configmap", name, *literals)
    ordered = await kubectl("get", "configmaps", "--sort-by=.metadata.name", "--chunk-size=2")
    assert [row[:2] for row in columns(ordered)] == [["a", "2"], ["b", "3"], ["c", "1"]]
    by_time = await kubectl("get", "cm", "--sort-by=.metadata.creationTimestamp", "-o", "name")
    assert len(by_time.splitlines()) == 3


async def test_all_namespaces_and_several_kinds(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=pod("a"))
    await kubectl("create", "configmap", "m")
    table = await kubectl("get", "pods", "-A")
    assert [kubectl.namespace, "a"] in [row[:2] for row in columns(table)]
    several = await kubectl("get", "pods,configmaps", "--no-headers")
    assert {line.split()[0] for line in several.splitlines() if line} == {"pod/a", "configmap/m"}
    assert "No resources found" in (await kubectl.run("get", "secrets")).err
    assert 'secrets "x" not found' in await kubectl.fails("get", "secret", "x")
    missing = await kubectl.fails("get", "gadgets")
    assert 'the server doesn\'t have a resource type "gadgets"' in missing


async def test_get_all(kubectl: Kubectl) -> None:
    await kubectl("create", "deployment", "web", "--image=nginx")
    await kubectl("create", "service", "clusterip", "web", "--tcp=80")
    await kubectl("create", "job", "once", "--image=busybox")
    await kubectl("create", "-f", "-", stdin=pod("a"))
    shown = await kubectl("get", "all")
    for name in ("pod/a", "service/web", "deployment.apps/web", "job.batch/once"):
        assert f"\n{name} " in f"\n{shown}"


async def test_watch(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=pod("a"))
    async with kubectl.started("get", "pods", "--watch") as process:
        assert process.stdout is not None

        async def next_line() -> list[str]:
            assert process.stdout is not None
            async with asyncio.timeout(60):
                return (await process.stdout.readline()).decode().split()

        assert (await next_line())[:2] == ["NAME", "READY"]
        assert (await next_line())[:3] == ["a", "0/1", "Pending"]
        await kubectl.set_status("pod/a", **CRASHING)
        assert (await next_line())[:3] == ["a", "0/1", "CrashLoopBackOff"]
        await kubectl("create", "-f", "-", stdin=pod("b"))
        assert (await next_line())[:3] == ["b", "0/1", "Pending"]


async def test_wide_forms_of_main_kinds(kubectl: Kubectl) -> None:
    await kubectl("create", "deployment", "web", "--image=nginx:1", "--replicas=2")
    await kubectl("expose", "deployment", "web", "--port=80", "--type=NodePort")
    await kubectl.set_status(
        "deployment/web", replicas=2, readyReplicas=1, updatedReplicas=2, availableReplicas=1
    )
    (row,) = columns(await kubectl("get", "deploy", "-o", "wide"))
    assert row[:4] == ["web", "1/2", "2", "1"]
    assert row[5:] == ["nginx", "nginx:1", "app=web"]
    (service,) = columns(await kubectl("get", "svc", "-o", "wide"))
    assert service[:2] == ["web", "NodePort"]
    assert service[4].startswith("80:3")
    assert service[-1] == "app=web"


NODE: Any = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/control-plane": ""}},
}


async def test_nodes(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=NODE)
    await kubectl.set_status(
        "node/n1",
        conditions=[{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        addresses=[{"type": "InternalIP", "address": "192.168.49.2"}],
        nodeInfo={"kubeletVersion": "v1.36.0", "osImage": "Debian"},
    )
    (row,) = columns(await kubectl("get", "nodes", "-o", "wide"))
    assert row[:3] == ["n1", "Ready", "control-plane"]
    assert row[4:7] == ["v1.36.0", "192.168.49.2", "<none>"]
    assert "cordoned" in await kubectl("cordon", "n1")
    assert "Ready,SchedulingDisabled" in await kubectl("get", "node", "n1")
    assert "uncordoned" in await kubectl("uncordon", "n1")
    assert "tainted" in await kubectl("taint", "node", "n1", "key=value:NoSchedule")
    taints = (await kubectl.get("node", "n1"))["spec"]["taints"]
    assert {"key": "key", "value": "value", "effect": "NoSchedule"} in taints
    assert "untainted" in await kubectl("taint", "node", "n1", "key:NoSchedule-")


async def test_events(kubectl: Kubectl) -> None:
    for name, reason, time in (("e2", "Later", "11"), ("e1", "Earlier", "10")):
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": kubectl.namespace},
            "involvedObject": {"kind": "Pod", "name": "a", "namespace": kubectl.namespace},
            "reason": reason,
            "message": f"it is {reason}",
            "type": "Normal",
            "firstTimestamp": f"2026-01-01T{time}:00:00Z",
            "lastTimestamp": f"2026-01-01T{time}:00:00Z",
            "count": 1,
        }
        await kubectl("create", "-f", "-", stdin=event)
    rows = columns(await kubectl("get", "events"))
    assert {tuple(row[1:4]) for row in rows} == {
        ("Normal", "Later", "pod/a"),
        ("Normal", "Earlier", "pod/a"),
    }
    assert [row[2] for row in columns(await kubectl("events"))] == ["Earlier", "Later"]
    about = await kubectl("events", "--for", "pod/a", "--types=Warning")
    assert "Earlier" not in about
