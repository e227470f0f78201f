"""The correlator's decisions, and a recorder that never blocks and never writes an Event twice."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from navarch.api.errors import ApiError, not_found
from navarch.api.types.core_v1 import Event, ObjectReference, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import ApiConnectionError, Client
from navarch.client.clock import FakeClock
from navarch.client.events import (
    AT_ONCE,
    BUSY,
    BUSY_SECONDS,
    QUEUE_LIMIT,
    Correlator,
    EventRecorder,
    Occurrence,
    Write,
    reference_to,
)
from navarch.client.leader import LeadershipLost

POD = Pod(metadata=ObjectMeta(name="web", namespace="ns", uid="u", resourceVersion="5"))


class Told:
    """Feeds a correlator, on virtual time."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.correlator = Correlator("kubelet", "n1")

    def __call__(self, reason: str, message: str, pod: str = "web") -> Write | None:
        about = ObjectReference(kind="Pod", namespace="ns", name=pod, uid=f"uid-{pod}")
        now = self.clock.now()
        return self.correlator.correlate(
            Occurrence(about, "Normal", reason, message, now, self.clock.monotonic())
        )


async def test_repetitions_are_counted_in_one_event() -> None:
    tell = Told()
    first = tell("Pulled", "image there")
    await tell.clock.advance(60)
    again = tell("Pulled", "image there")
    assert first is not None
    assert again is not None
    assert (first.is_new, first.event.count) == (True, 1)
    assert (again.is_new, again.event.count) == (False, 2)
    assert again.event.metadata.name == first.event.metadata.name
    assert again.event.firstTimestamp == "2026-01-01T00:00:00Z"
    assert again.event.lastTimestamp == "2026-01-01T00:01:00Z"
    assert first.event.metadata.namespace == "ns"
    assert first.event.source.component == first.event.reportingComponent == "kubelet"


async def test_different_things_at_one_moment_are_different_events() -> None:
    tell = Told()
    writes = [
        tell("Pulled", "x"),
        tell("Pulled", "y"),
        tell("Created", "x"),
        tell("Pulled", "x", "b"),
    ]
    names = {write.event.metadata.name for write in writes if write}
    assert len(names) == 4


async def test_many_messages_of_one_reason_are_combined_and_separate_again_later() -> None:
    tell = Told()
    writes = [tell("Failed", f"attempt {number}") for number in range(12)]
    messages = [write.event.message for write in writes if write]
    assert messages[8] == "attempt 8"
    assert messages[9] == "(combined from similar events): attempt 9"
    assert [write.event.count for write in writes[9:] if write] == [1, 2, 3]
    await tell.clock.advance(601)
    later = tell("Failed", "attempt 13")
    assert later is not None
    assert later.event.message == "attempt 13"


async def test_an_object_is_rationed_others_are_not() -> None:
    tell = Told()
    written = [tell("BackOff", "same") is not None for _ in range(40)]
    assert written == [True] * 25 + [False] * 15
    assert tell("BackOff", "same", "other") is not None
    await tell.clock.advance(299)
    assert tell("BackOff", "same") is None
    await tell.clock.advance(2)
    write = tell("BackOff", "same")
    assert write is not None
    assert write.event.count == 42


class Server:
    """Stores events as the API would; can be away or refuse."""

    def __init__(self) -> None:
        self.stored: dict[str, Event] = {}
        self.calls: list[str] = []
        self.refusals: list[ApiError] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def _call(self, what: str) -> None:
        self.calls.append(what)
        await self.gate.wait()
        if self.refusals:
            raise self.refusals.pop(0)

    async def create(self, event: Event) -> None:
        await self._call("create")
        assert event.metadata.name not in self.stored
        self.stored[event.metadata.name] = event

    async def patch(self, name: str, namespace: str, body: dict[str, Any]) -> None:
        await self._call("patch")
        if name not in self.stored:
            raise not_found("events", "", name)
        self.stored[name].count = body["count"]

    def counts(self) -> dict[str, int]:
        return {event.message: event.count for event in self.stored.values()}


def make_recorder(clock: FakeClock, under_way: int = 0) -> tuple[EventRecorder, Server]:
    server = Server()
    client = SimpleNamespace(clock=clock, resource=lambda kind: server, under_way=under_way)
    return EventRecorder(cast("Client", client), "kubelet", "n1"), server


async def test_events_are_written_and_repetitions_patched() -> None:
    clock = FakeClock()
    recorder, server = make_recorder(clock)
    for message in ("a", "a", "b"):
        recorder.event(POD, "Normal", "Started", message)
    await recorder.flush()
    assert server.counts() == {"a": 2, "b": 1}
    assert server.calls == ["create", "create"]  # both of "a" were still waiting: one write
    recorder.event(POD, "Normal", "Started", "a", "spec.containers{c}")
    recorder.event(POD, "Normal", "Started", "a")
    await recorder.flush()
    assert sorted(event.count for event in server.stored.values()) == [1, 1, 3]
    await recorder.close()


@pytest.mark.parametrize(("under_way", "at_once"), [(BUSY - 1, AT_ONCE), (BUSY, 1)])
async def test_events_give_way_to_what_else_is_written(under_way: int, at_once: int) -> None:
    clock = FakeClock()
    recorder, server = make_recorder(clock, under_way)
    server.gate.clear()
    for number in range(3 * AT_ONCE):
        recorder.event(POD, "Normal", f"Reason{number}", "x")
    await clock.advance(BUSY_SECONDS)
    assert len(server.calls) == at_once
    server.gate.set()
    await clock.advance(BUSY_SECONDS * 2 * AT_ONCE)
    assert (len(server.stored) == 3 * AT_ONCE) is (under_way < BUSY)
    await clock.advance(BUSY_SECONDS * AT_ONCE)
    assert len(server.stored) == 3 * AT_ONCE


async def test_an_expired_event_is_made_again() -> None:
    recorder, server = make_recorder(FakeClock())
    recorder.event(POD, "Normal", "Started", "a")
    await recorder.flush()
    server.stored.clear()
    recorder.event(POD, "Normal", "Started", "a")
    await recorder.flush()
    assert server.counts() == {"a": 2}


@pytest.mark.parametrize(
    ("refusal", "written"),
    [
        pytest.param(ApiConnectionError("down"), True, id="no answer: again"),
        pytest.param(ApiError(503, "ServiceUnavailable", "busy"), True, id="unavailable: again"),
        pytest.param(ApiError(403, "Forbidden", "terminating"), False, id="refused: dropped"),
    ],
)
async def test_failures(refusal: ApiError, written: bool) -> None:
    clock = FakeClock()
    recorder, server = make_recorder(clock)
    server.refusals.append(refusal)
    recorder.event(POD, "Warning", "Failed", "a")
    recorder.event(POD, "Warning", "Failed", "b")
    await clock.advance(30)
    assert server.counts() == ({"a": 1, "b": 1} if written else {"b": 1})


async def test_a_full_queue_drops_and_closing_does_not_wait_for_ever() -> None:
    clock = FakeClock()
    recorder, server = make_recorder(clock)
    server.gate.clear()
    for number in range(QUEUE_LIMIT + 500):
        recorder.event(POD, "Normal", f"Reason{number}", "x")
        assert len(recorder._waiting) <= QUEUE_LIMIT
    closing = asyncio.create_task(recorder.close())
    await clock.advance(6)
    assert closing.done()
    assert not server.stored


def test_references_to_dicts_structs_and_parts() -> None:
    plain = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "ns"}}
    assert reference_to(plain, "spec.x").fieldPath == "spec.x"
    whole = reference_to(POD)
    assert (whole.kind, whole.apiVersion, whole.uid, whole.resourceVersion) == (
        "Pod",
        "v1",
        "u",
        "5",
    )
    assert reference_to(whole, "part").fieldPath == "part"
    assert whole.fieldPath == ""


async def test_who_no_longer_leads_drops_its_events_and_ends() -> None:
    clock = FakeClock()
    recorder, server = make_recorder(clock)

    async def refused(event: Event) -> None:
        server.calls.append("create")
        raise LeadershipLost("a no longer leads")

    server.create = refused  # type: ignore[method-assign]
    recorder.event(POD, "Normal", "Reason", "a")
    recorder.event(POD, "Normal", "Reason", "b")
    await clock.settle()
    assert server.calls == ["create", "create"]
    await recorder.close()
