"""The node's graceful shutdown: who ends when, what is told and kept; and logind."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from tests.unit.node.builders import make_pod
from tests.unit.node.fakes import Stage, stage

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Pod
from navarch.node import figures
from navarch.node.logind import MANAGER, NAME, PATH, NoLogind, watch
from navarch.node.settings import NodeOptions
from navarch.node.shutdown import by_group, grace_periods, show_last

OPTIONS = NodeOptions(kubeconfig=Path("k"), node_name="node-1")
CRITICAL = 2_000_000_000


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"shutdown_grace_period": 30.0}, {0: 30, CRITICAL: 0}),
        ({"shutdown_grace_period": 30.0, "shutdown_grace_period_critical_pods": 10.0},
         {0: 20, CRITICAL: 10}),
        ({"shutdown_grace_period": 5.0, "shutdown_grace_period_critical_pods": 10.0}, {}),
        ({"shutdown_grace_period_by_pod_priority": {100: 5.0, 0: 7.0}}, {0: 7, 100: 5}),
    ],
)  # fmt: skip
def test_grace_periods(changes: dict[str, Any], expected: dict[int, int]) -> None:
    found = grace_periods(replace(OPTIONS, **changes))
    assert found == expected and list(found) == list(expected)


def named(name: str, priority: int | None, grace: int = 30) -> Pod:
    return make_pod(metadata={"name": name, "uid": name}, priority=priority,
                    terminationGracePeriodSeconds=grace)  # fmt: skip


def test_groups() -> None:
    pods = [named("negative", -5), named("none", None), named("ten", 10), named("edge", 100),
            named("above", 5000)]  # fmt: skip
    found = by_group({0: 30, 100: 20, 9000: 10}, pods)
    assert [(seconds, [pod.metadata.name for pod in group]) for seconds, group in found] == [
        (30, ["negative", "none", "ten"]),
        (20, ["edge", "above"]),
    ]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as result:
        yield result


async def test_pods_end_by_priority_and_none_is_taken(node: Stage) -> None:
    manager = node.agent.shutdown
    manager.periods = {0: 20, CRITICAL: 10}
    changes: list[bool] = []
    manager.on_change = lambda: changes.append(manager.is_shutting_down)
    for pod in (named("plain", 0), named("critical", CRITICAL)):
        await node.create(pod)
    task = asyncio.create_task(manager.shut_down())
    order: list[str] = []
    while not task.done():
        await node.rest(0.2)
        order += [
            name
            for name in ("plain", "critical")
            if node.status(name).phase == "Failed" and name not in order
        ]
    assert order == ["plain", "critical"] and changes == [True]
    assert node.agent.report().problems == ("node is shutting down",)
    await node.create(named("late", 0))
    late = node.status("late")
    assert (late.phase, late.reason, late.message) == (
        "Failed",
        "NodeShutdown",
        "Pod was rejected: Pod was rejected as the node is shutting down.",
    )
    assert "NodeShutdown: Shutdown manager detected shutdown event" in node.events.of_node
    manager.cancel()
    await node.create(named("later", 0))
    assert node.status("later").phase == "Running"


async def test_an_api_that_is_gone_first_keeps_nobody(
    node: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    node.agent.shutdown.periods = {0: 20, CRITICAL: 10}
    for pod in (named("plain", 0), named("critical", CRITICAL)):
        await node.create(pod)
    node.api.failures = [ApiError(503, "ServiceUnavailable", "gone")] * 1000
    task = asyncio.create_task(node.agent.shutdown.shut_down())
    await node.rest(60)
    assert task.done() and task.exception() is None
    assert "ready" not in str(node.runtime) and "does not hear" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"startTime": 5}', '{"startTime": "x"}'])
def test_a_garbled_state_is_reported(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "graceful_node_shutdown_state"
    show_last(file)
    assert not caplog.records
    file.write_text(text)
    show_last(file)
    assert "does not tell of a shutdown" in caplog.text
    file.write_text('{"startTime": "2026-01-01T00:00:00.5Z"}')
    show_last(file)
    assert figures.shutdown_started._value.get() == 1767225600.5


async def test_a_critical_pod_has_others_make_room(node: Stage) -> None:
    """Four processors: three are taken when a critical pod asks for two."""

    def asking(name: str, cpu: str, priority: int) -> Pod:
        container = {"name": "main", "resources": {"requests": {"cpu": cpu}}}
        return make_pod(container, metadata={"name": name, "uid": name}, priority=priority)

    await node.create(asking("small", "1", 0))
    await node.create(asking("large", "2", 0))
    await node.create(asking("boss", "2", CRITICAL))
    assert node.status("boss").phase in ("", "Pending")
    await node.rest(1.0)
    await node.rest(1.0)
    small = node.status("small")
    assert (small.phase, small.reason, small.message) == (
        "Failed", "Preempting", "Preempted in order to admit critical pod",
    )  # fmt: skip
    (condition,) = [each for each in small.conditions if each.type == "DisruptionTarget"]
    assert condition.message == "Pod was preempted by Kubelet to accommodate a critical pod."
    assert node.status("large").phase == "Running" and node.status("boss").phase == "Running"
    await node.create(asking("another", "4", CRITICAL))
    refused = node.status("another")
    assert (refused.phase, refused.reason) == ("Failed", "UnexpectedAdmissionError")
    assert "no set of running pods found to reclaim resources: [(res: cpu, q: " in refused.message


# logind


@pytest.fixture
def system_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A message bus of our own in the place of the system's."""
    program = shutil.which("dbus-daemon")
    if program is None:
        pytest.skip("needs dbus-daemon")
    daemon = subprocess.Popen(
        [program, "--session", "--nofork", "--nopidfile", "--print-address"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert daemon.stdout is not None
    address = daemon.stdout.readline().strip()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    try:
        yield address
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()


class Logind:
    """Enough of systemd to shut a machine down."""

    def __init__(self, bus: MessageBus, override: Path) -> None:
        self.bus, self.override = bus, override
        self.locks: list[int] = []
        self.delay = 5
        bus.add_message_handler(self.answer)

    def answer(self, message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        if message.member == "Get":
            body = [Variant("t", self.delay * 1_000_000)]
            return Message.new_method_return(message, "v", body)
        if message.member == "KillUnit":
            self.delay = int(self.override.read_text().rpartition("=")[2])
            return Message.new_method_return(message)
        if message.member == "Inhibit":
            assert message.body[0] == "shutdown" and message.body[3] == "delay"
            mine, theirs = os.pipe()
            self.locks.append(mine)
            # Once it is sent, the lock is the caller's alone.
            asyncio.get_running_loop().call_later(0.1, os.close, theirs)
            return Message.new_method_return(message, "h", [0], [theirs])
        return None

    def held(self) -> bool:
        """Whether somebody still has the last lock: its pipe has no end yet."""
        os.set_blocking(self.locks[-1], False)
        try:
            return os.read(self.locks[-1], 1) != b""
        except BlockingIOError:
            return True

    def prepare(self, begins: bool) -> None:
        self.bus.send(Message.new_signal(PATH, MANAGER, "PrepareForShutdown", "b", [begins]))


@asynccontextmanager
async def logind(override: Path) -> AsyncIterator[Logind]:
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    service = Logind(bus, override)
    for name in (NAME, "org.freedesktop.systemd1"):
        await bus.request_name(name)
    try:
        yield service
    finally:
        bus.disconnect()
        for lock in service.locks:
            os.close(lock)


async def until(check: Any) -> None:
    async with asyncio.timeout(60):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_logind_waits_for_the_pods(system_bus: str, tmp_path: Path) -> None:
    override = tmp_path / "logind.conf.d/99-kubelet.conf"
    async with logind(override) as service:
        events = watch(30, override)
        waiting = asyncio.ensure_future(anext(events))
        await until(lambda: service.locks)
        assert override.read_text().endswith("[Login]\nInhibitDelayMaxSec=30\n")
        service.prepare(True)
        assert await waiting is True
        assert service.held()  # the pods are ending
        waiting = asyncio.ensure_future(anext(events))
        await until(lambda: not service.held())
        service.prepare(False)
        assert await waiting is False
        waiting = asyncio.ensure_future(anext(events))
        await until(lambda: len(service.locks) == 2 and service.held())
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()  # type: ignore[attr-defined]


async def test_a_bus_without_logind(system_bus: str, tmp_path: Path) -> None:
    with pytest.raises(NoLogind, match=r"org\.freedesktop\.login1") as caught:
        await anext(watch(30, tmp_path / "conf"))
    assert caught.value.is_final


async def test_no_bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    with pytest.raises(NoLogind, match="there is no system bus"):
        await anext(watch(30, tmp_path / "conf"))
