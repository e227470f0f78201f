"""Where pods may go on simulated nodes: room, labels, ports."""

from __future__ import annotations

import asyncio

import pytest
from tests.scale.test_simulated import client as client
from tests.scale.test_simulated import cluster, pod, ready, watched

from navarch.api.types.core_v1 import ContainerPort, Node, Pod
from navarch.client import Client


def covers(what: str) -> pytest.MarkDecorator:
    return pytest.mark.conformance(f"SchedulerPredicates [Serial] validates {what}")


def why_not(pod: Pod) -> str:
    """What the scheduler says of a pod that it cannot place."""
    conditions = [c for c in pod.status.conditions if c.type == "PodScheduled"]
    return conditions[0].message if conditions and conditions[0].status == "False" else ""


async def create(client: Client, *pods: Pod) -> None:
    for each in pods:
        await client.resource(Pod).create(each)


async def until_ready(client: Client, count: int) -> dict[str, Pod]:
    return await watched(client, lambda pods: sum(map(ready, pods.values())) == count)


async def until_refused(client: Client, name: str) -> str:
    pods = await watched(client, lambda pods: bool(why_not(pods.get(name, Pod()))))
    assert not pods[name].spec.nodeName
    return why_not(pods[name])


async def until_told(client: Client, name: str) -> None:
    """An event says the same."""
    async with asyncio.timeout(60):
        async for event in client.dynamic("events.k8s.io", "v1", "events").watch("default"):
            found = event.object
            if found["regarding"]["name"] == name and found["reason"] == "FailedScheduling":
                return


@covers("resource limits of pods that are allowed to run")
async def test_a_pod_too_many(client: Client) -> None:
    async with cluster(client, nodes=2, capacity={"cpu": "4"}):
        await create(client, *(pod(f"filler-{number}", "2800m") for number in range(2)))
        fillers = await until_ready(client, 2)
        assert {each.spec.nodeName for each in fillers.values()} == {"sim-0", "sim-1"}
        await create(client, pod("additional", "1400m"))
        message = await until_refused(client, "additional")
        assert message.startswith("0/2 nodes are available: 2 Insufficient cpu.")
        await until_told(client, "additional")
        await client.resource(Pod).delete("filler-0", "default")
        await until_ready(client, 2)


@covers("that NodeSelector is respected if not matching")
@covers("that NodeSelector is respected if matching")
async def test_a_pod_goes_where_its_labels_are(client: Client) -> None:
    async with cluster(client, nodes=3):
        wanting = pod("wanting")
        wanting.spec.nodeSelector = {"e2e.example/label": "42"}
        await create(client, wanting)
        message = await until_refused(client, "wanting")
        assert "3 node(s) didn't match Pod's node affinity/selector" in message
        await until_told(client, "wanting")
        body = {"metadata": {"labels": {"e2e.example/label": "42"}}}
        await client.resource(Node).patch("sim-1", "", body)
        placed = await until_ready(client, 1)
        assert placed["wanting"].spec.nodeName == "sim-1"


def on_port(name: str, address: str, protocol: str = "TCP") -> Pod:
    made = pod(name)
    made.spec.nodeSelector = {"kubernetes.io/hostname": "sim-0"}
    port = ContainerPort(containerPort=8080, hostPort=54322, hostIP=address, protocol=protocol)
    made.spec.containers[0].ports = [port]
    return made


@covers(
    "that there exists conflict between pods with same hostPort and protocol but one using "
    "0.0.0.0 hostIP"
)
async def test_a_port_on_all_addresses_is_taken_on_each(client: Client) -> None:
    async with cluster(client, nodes=2):
        await create(client, on_port("all", "0.0.0.0"))
        await until_ready(client, 1)
        await create(client, on_port("one", "10.11.12.13"), on_port("datagrams", "0.0.0.0", "UDP"))
        message = await until_refused(client, "one")
        assert "1 node(s) didn't have free ports for the requested pod ports" in message
        await until_ready(client, 2)
