"""The Node and its Lease in a real API server, with a runtime that is made up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import running_server
from tests.unit.node.fake_runtime import FakeRuntime
from tests.unit.node.test_node_object import MACHINE

from navarch.api.errors import ApiError
from navarch.api.types.coordination_v1 import Lease
from navarch.api.types.core_v1 import Event, Node, NodeCondition
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.client.config import ClientConfig
from navarch.client.resource import PatchType
from navarch.node import registration as registration_module
from navarch.node.cri.values import RuntimeInfo
from navarch.node.node_object import NodeReport
from navarch.node.registration import Registration
from navarch.node.settings import NodeOptions

NAME = "node-1"
OPTIONS = NodeOptions(
    Path("k"), NAME, node_status_update_frequency=0.05, node_lease_duration_seconds=1
)
BOOTED = replace(MACHINE, boot_id="boot-1")


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with (
        running_server() as server,
        Client(ClientConfig(server=server.url)) as client,
    ):
        namespaces = client.dynamic("", "v1", "namespaces", namespaced=False)
        try:
            await namespaces.create({"metadata": {"name": "kube-node-lease"}})
        except ApiError as error:
            assert error.is_already_exists
        yield client


@asynccontextmanager
async def registered(client: Client, **changes: Any) -> AsyncIterator[Registration]:
    """An agent's registration, running."""
    runtime = changes.pop("runtime", None) or FakeRuntime()
    machine = changes.pop("machine", BOOTED)
    options = replace(OPTIONS, **changes)
    registration = Registration(client, options, runtime, runtime, machine, ("10.0.0.1",))
    task = asyncio.create_task(registration.run())
    try:
        yield registration
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(client: Client, check: Callable[[Node], bool]) -> Node:
    async with asyncio.timeout(60):
        while True:
            async for event in client.resource(Node).watch():
                if event.type != "DELETED" and check(event.object):
                    return event.object
    raise AssertionError


def condition(node: Node, kind: str) -> NodeCondition | None:
    return next((each for each in node.status.conditions if each.type == kind), None)


def is_ready(node: Node) -> bool:
    found = condition(node, "Ready")
    return found is not None and found.status == "True"


async def reasons(client: Client, wanted: str) -> None:
    """Waits for an event about the node."""
    async with asyncio.timeout(60):
        while True:
            async for event in client.resource(Event).watch():
                about = event.object.involvedObject
                if (about.kind, event.object.reason) == ("Node", wanted):
                    return


async def test_a_deleted_node_comes_back(client: Client) -> None:
    async with registered(client):
        first = await until(client, is_ready)
        await client.resource(Node).delete(NAME)
        second = await until(client, lambda node: node.metadata.uid != first.metadata.uid)
        assert second.metadata.labels == first.metadata.labels
        await until(client, lambda node: is_ready(node) and node.metadata.uid != first.metadata.uid)


async def test_a_ready_node_stays_so_while_its_new_agent_looks_around(client: Client) -> None:
    """Its CSINode is not yet looked at, for example. What is still wrong after that is told."""
    async with registered(client):
        await until(client, is_ready)
    statuses: list[str] = []
    found: list[str] = []

    async def follow(version: str) -> None:
        async for event in client.resource(Node).watch(resource_version=version):
            ready = condition(event.object, "Ready")
            statuses.append(ready.status if ready is not None else "")

    page = await client.resource(Node).list()
    follower = asyncio.create_task(follow(page.resource_version))
    unsettled = [True]
    runtime = FakeRuntime()
    registration = Registration(client, OPTIONS, runtime, runtime, BOOTED, ("10.0.0.2",))
    registration.is_settled = lambda: not unsettled
    registration.report = lambda: NodeReport(problems=("not looked at",) if unsettled else ())
    task = asyncio.create_task(registration.run())
    try:
        await asyncio.sleep(4 * registration_module.STARTING_SECONDS)
        unsettled.clear()
        await until(client, lambda node: node.status.addresses[0].address == "10.0.0.2")
        found += statuses
        registration.report = lambda: NodeReport(problems=("broken",))
        registration.refresh()
        await until(client, lambda node: not is_ready(node))
    finally:
        for each in (task, follower):
            each.cancel()
        await asyncio.gather(task, follower, return_exceptions=True)
    assert set(found) <= {"True"}


async def test_a_node_whose_agent_never_settles_is_told(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration_module, "SETTLING_SECONDS", 0.2)
    async with registered(client):
        await until(client, is_ready)
    runtime = FakeRuntime()
    registration = Registration(client, OPTIONS, runtime, runtime, BOOTED, ("10.0.0.1",))
    registration.is_settled = lambda: False
    registration.report = lambda: NodeReport(problems=("never looked at",))
    task = asyncio.create_task(registration.run())
    try:
        await until(client, lambda node: not is_ready(node))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_runtime_that_is_away(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is restarted, or stuck for a moment, changes nothing. Then the node is not ready."""
    monkeypatch.setattr(registration_module, "RUNTIME_ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(registration_module, "RUNTIME_DOWN_SECONDS", 1.0)
    monkeypatch.setattr(registration_module, "UNREADY_SECONDS", 0.1)
    runtime = FakeRuntime()
    answers = asyncio.Event()
    answers.set()
    info = runtime.info

    async def stuck() -> RuntimeInfo:
        await answers.wait()
        return await info()

    monkeypatch.setattr(runtime, "info", stuck)
    async with registered(client, runtime=runtime) as registration:
        ready = await until(client, is_ready)
        for _ in range(3):
            runtime.fail_next("info", "connection refused", "UNAVAILABLE")
        is_over, seen = asyncio.Event(), []

        def reporting() -> NodeReport:
            if not runtime._failures["info"]:
                is_over.set()
            assert registration.node is not None
            seen.append(is_ready(registration.node))
            return NodeReport()

        registration.report = reporting
        async with asyncio.timeout(60):
            await is_over.wait()
        assert all(seen)
        answers.clear()
        down = await until(client, lambda node: not is_ready(node))
        found, before = condition(down, "Ready"), condition(ready, "Ready")
        assert found is not None and before is not None
        assert (found.reason, found.message) == ("KubeletNotReady", "container runtime is down")
        answers.set()
        await until(client, is_ready)


async def test_what_others_write_stays(client: Client) -> None:
    async with registered(client):
        node = await until(client, is_ready)
        mine = {"type": "Cooling", "status": "True", "reason": "Fans", "message": "spin"}
        patch = {
            "status": {
                "capacity": {"example.com/gpu": "2"},
                "conditions": [mine],
                "volumesAttached": [{"name": "v", "devicePath": "/dev/v"}],
            }
        }
        await client.resource(Node).patch(
            NAME, "", patch, subresource="status", patch_type=PatchType.STRATEGIC
        )
        # An extended resource can be had as soon as the agent has seen it.
        node = await until(client, lambda node: "example.com/gpu" in node.status.allocatable)
        assert node.status.allocatable["example.com/gpu"] == "2"
        assert condition(node, "Cooling") is not None
        assert [each.name for each in node.status.volumesAttached] == ["v"]


async def test_conditions_change_at_once_and_are_told(client: Client) -> None:
    async with registered(client, node_status_update_frequency=3600.0) as registration:
        await until(client, is_ready)
        registration.report = lambda: NodeReport(
            pressures=frozenset({"DiskPressure"}), problems=("node is shutting down",)
        )
        registration.refresh()
        node = await until(client, lambda node: not is_ready(node))
        ready = condition(node, "Ready")
        assert ready is not None and ready.message == "node is shutting down"
        await reasons(client, "NodeHasDiskPressure")
        await reasons(client, "NodeNotReady")


async def test_a_cordon_is_told(client: Client) -> None:
    async with registered(client, node_status_update_frequency=3600.0) as registration:
        await until(client, is_ready)
        for unschedulable, reason in ((True, "NodeNotSchedulable"), (False, "NodeSchedulable")):
            patch = {"spec": {"unschedulable": unschedulable}}
            await client.resource(Node).patch(NAME, "", patch)
            registration.refresh()
            await reasons(client, reason)


async def test_a_reboot_is_told(client: Client) -> None:
    async with registered(client):
        await until(client, is_ready)
    async with registered(client, machine=replace(BOOTED, boot_id="boot-2")):
        await until(client, lambda node: node.status.nodeInfo.bootID == "boot-2")
        await reasons(client, "Rebooted")


async def test_the_lease_is_renewed_four_times_in_its_duration(client: Client) -> None:
    async with registered(client, node_lease_duration_seconds=2):
        node = await until(client, is_ready)
        times: list[str] = []
        async with asyncio.timeout(60):
            leases = client.resource(Lease)
            async for event in leases.watch("kube-node-lease"):
                spec = event.object.spec
                assert (spec.holderIdentity, spec.leaseDurationSeconds) == (NAME, 2)
                times.append(spec.renewTime or "")
                if len(set(times)) >= 3:
                    break
        owner = event.object.metadata.ownerReferences[0]
        assert (owner.kind, owner.uid) == ("Node", node.metadata.uid)


async def test_a_known_node_is_heard_of_before_its_runtime_has_answered(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases, runtime = client.resource(Lease), FakeRuntime()
    async with registered(client), asyncio.timeout(60):
        async for event in leases.watch("kube-node-lease"):
            before = event.object
            break

    async def silent() -> RuntimeInfo:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(runtime, "info", silent)
    async with registered(client, runtime=runtime), asyncio.timeout(60):
        async for event in leases.watch(
            "kube-node-lease", resource_version=before.metadata.resourceVersion
        ):
            assert event.object.spec.renewTime != before.spec.renewTime
            break


async def test_a_node_that_is_not_to_register(client: Client) -> None:
    async with registered(client, register_node=False):
        await asyncio.sleep(0.3)
        assert (await client.resource(Node).list()).items == []
        await client.resource(Node).create(Node(metadata=ObjectMeta(name=NAME)))
        await until(client, is_ready)
