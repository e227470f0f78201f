"""Probe results from single runs, and the runs themselves over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.unit.node.builders import make_container
from tests.unit.node.fake_runtime import FakeRuntime

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Probe
from navarch.node.plan import ProbeKind
from navarch.node.probes.handlers import Handlers, Outcome, Target
from navarch.node.probes.tracker import Tracker, instance_probes


def tracker(kind: ProbeKind, **probe: Any) -> Tracker:
    initial = {ProbeKind.READINESS: False, ProbeKind.LIVENESS: True, ProbeKind.STARTUP: None}
    return Tracker(kind, Probe(**probe), initial[kind])


@pytest.mark.parametrize(
    ("kind", "probe", "runs", "verdicts"),
    [
        pytest.param(ProbeKind.READINESS, {}, "+", "+", id="ready at once"),
        pytest.param(ProbeKind.READINESS, {"successThreshold": 2}, "++", "-+", id="two successes"),
        pytest.param(ProbeKind.READINESS, {"failureThreshold": 2}, "+--+", "++-+",
                     id="two failures"),
        pytest.param(ProbeKind.READINESS, {"failureThreshold": 3}, "+-+--+", "++++++",
                     id="failures must be in a row"),
        pytest.param(ProbeKind.LIVENESS, {}, "--+---", "+++++-", id="liveness, three failures"),
        pytest.param(ProbeKind.STARTUP, {"failureThreshold": 2}, "--", "?-", id="startup fails"),
        pytest.param(ProbeKind.STARTUP, {"failureThreshold": 9}, "---+", "???+", id="startup"),
    ],
)  # fmt: skip
def test_thresholds(kind: ProbeKind, probe: dict[str, int], runs: str, verdicts: str) -> None:
    watched = tracker(kind, **probe)
    signs = {True: "+", False: "-", None: "?"}
    shown = ""
    for run in runs:
        watched.record(run == "+")
        shown += signs[watched.result]
    assert shown == verdicts


def test_who_may_run() -> None:
    probes = instance_probes(
        make_container(startupProbe={}, livenessProbe={}, readinessProbe={}),
        "id", started_ago=0, now=100, was_ready=False, was_started=False,
    )  # fmt: skip

    def may() -> list[str]:
        return [kind.name for kind in ProbeKind if probes.may_run(kind, terminating=False)]

    assert may() == ["STARTUP"] and not probes.started and not probes.ready
    probes.trackers[ProbeKind.STARTUP].record(True)
    assert may() == ["LIVENESS", "READINESS"] and probes.started
    probes.trackers[ProbeKind.READINESS].record(True)
    assert probes.ready and probes.failed is None
    assert not probes.may_run(ProbeKind.LIVENESS, terminating=True)
    assert probes.may_run(ProbeKind.READINESS, terminating=True)
    for _ in range(3):
        probes.trackers[ProbeKind.LIVENESS].record(False)
    assert probes.failed is ProbeKind.LIVENESS


def test_initial_delays_count_from_the_start_of_the_container() -> None:
    container = make_container(readinessProbe={"initialDelaySeconds": 15})
    arguments: dict[str, Any] = {"now": 100.0, "was_ready": False, "was_started": False}
    fresh = instance_probes(container, "id", started_ago=1, **arguments)
    assert fresh.trackers[ProbeKind.READINESS].due == 114
    old = instance_probes(container, "id", started_ago=60, **arguments)
    assert old.trackers[ProbeKind.READINESS].due == 100


@asynccontextmanager
async def serve(answer: bytes | None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that says one thing to everybody (None: nothing) and remembers what it was asked."""
    asked: list[bytes] = []
    talks: list[asyncio.Task[None]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other side only wanted to connect
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.ensure_future(talk(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked
    await asyncio.gather(*talks)


def response(status: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Length: 4", "Connection: close", *headers, "", "body"]
    return "\r\n".join(lines).encode()


async def run_probe(probe: dict[str, Any], runtime: FakeRuntime | None = None) -> Outcome:
    handlers = Handlers(runtime or FakeRuntime())
    target = Target(make_container(), "c1", "127.0.0.1")
    try:
        return await handlers.probe(from_object(Probe, probe), target)
    finally:
        await handlers.close()


@pytest.mark.parametrize(
    ("answer", "success", "warning", "message"),
    [
        (response("200 OK"), True, False, "body"),
        (response("302 Found", "Location: http://other.test/"), True, True,
         "Probe terminated redirects, Response body: body"),
        (response("404 Not Found"), False, False, "HTTP probe failed with statuscode: 404"),
        (response("500 No"), False, False, "HTTP probe failed with statuscode: 500"),
    ],
)  # fmt: skip
async def test_http(answer: bytes, success: bool, warning: bool, message: str) -> None:
    async with serve(answer) as (port, asked):
        outcome = await run_probe(
            {"httpGet": {"path": "/x?y=1", "port": port,
                         "httpHeaders": [{"name": "X-Own", "value": "1"}]}}
        )  # fmt: skip
    assert (outcome.success, outcome.warning, outcome.message) == (success, warning, message)
    assert asked[0].startswith(b"GET /x?y=1 HTTP/1.1\r\n")
    assert b"User-Agent: kube-probe/1.36\r\n" in asked[0] and b"X-Own: 1\r\n" in asked[0]


async def test_nobody_listens() -> None:
    async with serve(b"") as (port, _):
        pass
    http = await run_probe({"httpGet": {"path": "/", "port": port}})
    assert http.message == (
        f'Get "http://127.0.0.1:{port}/": dial tcp 127.0.0.1:{port}: connect: connection refused'
    )
    tcp = await run_probe({"tcpSocket": {"port": port}})
    assert not tcp.success
    assert tcp.message == f"dial tcp 127.0.0.1:{port}: connect: connection refused"


async def test_somebody_listens() -> None:
    async with serve(b"") as (port, _):
        assert (await run_probe({"tcpSocket": {"port": port}})).success


async def test_an_answer_that_takes_too_long() -> None:
    async with serve(None) as (port, _):
        outcome = await run_probe({"httpGet": {"port": port}, "timeoutSeconds": 1})
    assert not outcome.success and "context deadline exceeded" in outcome.message


async def test_a_command_that_cannot_run_counts_neither_way() -> None:
    outcome = await run_probe({"exec": {"command": ["x"]}})
    assert outcome.discarded


async def test_an_unknown_port() -> None:
    outcome = await run_probe({"httpGet": {"port": "nope"}})
    assert outcome.discarded == "unknown"
    assert outcome.message == "couldn't find port: nope in container main"


@pytest.mark.parametrize(
    ("answer", "success", "message"),
    [
        (b"\x08\x01", True, "service healthy"),
        (b"\x08\x02", False, 'service unhealthy (responded with "NOT_SERVING")'),
        (b"", False, 'service unhealthy (responded with "UNKNOWN")'),
        (None, False, "error: this server does not implement the grpc health protocol"),
    ],
)
async def test_grpc(answer: bytes | None, success: bool, message: str) -> None:
    asked: list[bytes] = []

    async def check(request: bytes, context: Any) -> bytes:
        asked.append(request)
        assert answer is not None
        return answer

    methods = {} if answer is None else {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        outcome = await run_probe({"grpc": {"port": port, "service": "db"}, "timeoutSeconds": 2})
    finally:
        await server.stop(None)
    assert outcome.success == success
    assert outcome.message.startswith(message)
    assert asked in ([b"\x0a\x02db"], [])
