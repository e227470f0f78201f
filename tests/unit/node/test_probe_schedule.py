"""When probes run: thousands of them on virtual time, and slow ones beside quick ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.unit.node.builders import SECOND, make_pod, record
from tests.unit.node.fakes import FakeEvents

from navarch.api.types.core_v1 import ContainerStatus, Pod, Probe
from navarch.client.clock import FakeClock
from navarch.node.podspec import find_container
from navarch.node.probes.handlers import Handlers, Outcome, Target
from navarch.node.probes.manager import ProbeManager
from navarch.node.probes.tracker import InstanceProbes

GOOD, BAD = Outcome(True), Outcome(False, "no")


@dataclass
class Script(Handlers):
    """Probes whose runs take `seconds` and end as `outcome` says; remembers when they began."""

    clock: FakeClock
    outcome: Callable[[str, str, int], Outcome] = lambda container, path, number: GOOD
    seconds: dict[str, float] = field(default_factory=dict)
    began: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    async def probe(self, probe: Probe, target: Target) -> Outcome:
        assert probe.httpGet is not None
        path, container = probe.httpGet.path, target.container_id
        runs = self.began.setdefault((container, path), [])
        runs.append(self.clock.monotonic())
        number = len(runs)
        await self.clock.sleep(self.seconds.get(path, 0.0))
        return self.outcome(container, path, number)

    async def close(self) -> None:
        pass


class Node:
    """A manager on virtual time and the containers it probes."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.script = Script(self.clock)
        self.events = FakeEvents()
        self.manager = ProbeManager(self.script, self.events, self.clock)
        self.changes: Counter[str] = Counter()

    def start(
        self, container_id: str = "c", *, ago: float = 0.0, pod: Pod | None = None, **probes: Any
    ) -> InstanceProbes:
        """A container with these probes, whose httpGet path is the probe's name."""
        for name, probe in probes.items():
            probe.setdefault("httpGet", {"port": 80, "path": name.removesuffix("Probe")})
        pod = pod or make_pod({"name": "main", **probes})
        spec = find_container(pod, "main")
        assert spec is not None
        started = round((self.clock.now().timestamp() - ago) * SECOND)
        made = record(pod, id=container_id, started_at=started)
        return self.manager.watch(
            pod, spec, made, "10.1.0.1", lambda: self.changes.update([container_id])
        )

    def runs(self, path: str, container_id: str = "c") -> list[float]:
        return [round(at, 3) for at in self.script.began.get((container_id, path), [])]


async def test_thousands_keep_their_beat() -> None:
    node = Node()
    count = 3000
    for number in range(count):
        node.start(
            f"c{number}",
            readinessProbe={"periodSeconds": 1 + number % 10, "initialDelaySeconds": number % 7},
        )
    idle = len(asyncio.all_tasks())
    await node.clock.advance(21.0)
    assert len(asyncio.all_tasks()) == idle, "no task waits for its turn"
    for number in range(count):
        period, delay = 1 + number % 10, number % 7
        expected = list(range(delay, 22, period))
        found = node.runs("readiness", f"c{number}")
        assert len(found) == len(expected)
        assert all(abs(at - due) <= 0.1 for at, due in zip(found, expected, strict=True))
    assert node.changes == Counter({f"c{number}": 1 for number in range(count)})
    await node.manager.close()


async def test_a_target_that_never_answers_harms_nobody() -> None:
    node = Node()
    node.script.seconds = {"hangs": 1e9}
    hung = [
        node.start(f"bad{n}", livenessProbe={"httpGet": {"port": 1, "path": "hangs"}})
        for n in range(500)
    ]
    node.start("good", readinessProbe={"periodSeconds": 1})
    await node.clock.advance(5.0)
    assert node.runs("readiness", "good") == [0, 1, 2, 3, 4, 5]
    assert all(each.failed is None for each in hung)
    assert len(node.runs("hangs", "bad0")) == 1, "one run at a time"
    await node.manager.close()


async def test_a_run_longer_than_its_period_is_followed_at_once() -> None:
    node = Node()
    node.script.seconds = {"readiness": 2.5}
    node.start(readinessProbe={"periodSeconds": 1})
    await node.clock.advance(8.0)
    assert node.runs("readiness") == [0, 2.5, 5.0, 7.5]
    await node.manager.close()


async def test_others_wait_for_startup_and_for_their_own_delay() -> None:
    node = Node()
    node.script.outcome = lambda container, path, number: (
        GOOD if path != "startup" or number == 4 else BAD
    )
    probes = node.start(
        startupProbe={"periodSeconds": 2, "failureThreshold": 10},
        readinessProbe={"periodSeconds": 10},
        livenessProbe={"periodSeconds": 3, "initialDelaySeconds": 20},
    )
    await node.clock.advance(5.9)
    assert not probes.started and node.runs("readiness") == []
    await node.clock.advance(20.0)
    assert node.runs("startup") == [0, 2, 4, 6], "no further run once it has succeeded"
    assert node.runs("readiness") == [6, 16]
    assert node.runs("liveness") == [20, 23]
    assert probes.started and probes.ready
    assert node.events.told.count("main Unhealthy: Startup probe failed: no") == 3
    await node.manager.close()


@pytest.mark.parametrize("kind", ["liveness", "startup"])
async def test_who_has_failed_is_not_asked_again(kind: str) -> None:
    node = Node()
    node.script.outcome = lambda container, path, number: BAD
    document: dict[str, Any] = {f"{kind}Probe": {"periodSeconds": 1, "failureThreshold": 3}}
    probes = node.start(**document)
    await node.clock.advance(9.0)
    assert node.runs(kind) == [0, 1, 2]
    assert probes.failed is not None and probes.failed.value == kind.title()
    assert node.events.told == [f"main Unhealthy: {kind.title()} probe failed: no"] * 3
    await node.manager.close()


async def test_readiness_comes_and_goes_by_its_thresholds() -> None:
    node = Node()
    answers = "-+-++--+---++"
    node.script.outcome = lambda container, path, number: (
        GOOD if answers[number - 1] == "+" else BAD
    )
    probes = node.start(
        readinessProbe={"periodSeconds": 1, "successThreshold": 2, "failureThreshold": 3}
    )
    seen = ""
    for _ in answers:
        await node.clock.advance(0.5)
        seen += "+" if probes.ready else "-"
        await node.clock.advance(0.5)
    assert seen == "----++++++--+"
    await node.manager.close()


async def test_what_cannot_be_run_is_tried_thrice_and_counts_neither_way() -> None:
    node = Node()
    node.script.outcome = lambda container, path, number: Outcome(
        False, "no such file", discarded="unknown"
    )
    probes = node.start(livenessProbe={"periodSeconds": 5, "failureThreshold": 1})
    await node.clock.advance(6.0)
    assert node.runs("liveness") == [0, 0, 0, 5, 5, 5]
    assert probes.failed is None
    text = "Liveness probe errored and resulted in unknown state: no such file"
    assert node.events.told == [f"main Unhealthy: {text}"] * 2
    await node.manager.close()


async def test_a_warning_is_told_and_counts_as_success() -> None:
    node = Node()
    node.script.outcome = lambda container, path, number: Outcome(True, "moved", warning=True)
    assert not node.start(readinessProbe={"periodSeconds": 60}).ready
    await node.clock.advance(1.0)
    assert node.events.told == ["main ProbeWarning: Readiness probe warning: moved"]
    ((_, spec, probes),) = node.manager.watched()
    assert probes.ready and spec.name == "main"
    assert [dict(each.totals) for each in probes.trackers.values()] == [{"successful": 1}]
    await node.manager.close()


async def test_a_pod_that_is_stopped_is_only_asked_whether_it_is_ready() -> None:
    node = Node()
    probes: dict[str, Any] = {
        "livenessProbe": {"periodSeconds": 1},
        "readinessProbe": {"periodSeconds": 1},
    }
    node.start(**probes)
    await node.clock.advance(1.5)
    gone = make_pod(
        {"name": "main", **probes}, metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}
    )
    node.start(pod=gone)
    await node.clock.advance(2.0)
    assert node.runs("liveness") == [0, 1] and node.runs("readiness") == [0, 1, 2, 3]
    node.manager.forget("c")
    await node.clock.advance(2.0)
    assert node.runs("readiness") == [0, 1, 2, 3]


async def test_an_agent_that_comes_back_spreads_its_first_runs_and_keeps_who_was_ready() -> None:
    node = Node()
    for number in range(200):
        pod = make_pod({"name": "main", "readinessProbe": {
            "httpGet": {"port": 80, "path": "readiness"}, "periodSeconds": 10}})  # fmt: skip
        status = ContainerStatus(name="main", ready=True, started=True)
        status.containerID = f"containerd://c{number}"
        pod.status.containerStatuses = [status]
        assert node.start(f"c{number}", ago=100.0, pod=pod).ready
    await node.clock.advance(10.0)
    first = [node.runs("readiness", f"c{number}")[0] for number in range(200)]
    assert max(Counter(int(at) for at in first).values()) < 60
    assert min(first) < 2 and max(first) > 8
    assert not node.start("fresh", readinessProbe={}).ready, "a new instance begins anew"
    await node.manager.close()
