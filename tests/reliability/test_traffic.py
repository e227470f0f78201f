"""What the traffic makes of a machine that is too busy: it says so, and blames nobody."""

from __future__ import annotations

import argparse
import asyncio
import time

import pytest
from bench.reliability import traffic
from bench.reliability.figure import Figure
from bench.reliability.traffic import Traffic


@pytest.mark.parametrize(
    ("faults", "starved", "verdict"),
    [
        ({"drops": 0}, 0, "kept"),
        ({"drops": 0}, 3, "INVALID, the machine was too busy to tell"),
        ({"drops": 1}, 3, "BROKEN"),
    ],
)
def test_verdicts(faults: dict[str, int], starved: int, verdict: str) -> None:
    figure = Figure("25", "something", 1, "", faults=faults, starved=starved)
    assert figure.verdict == verdict
    assert figure.is_kept == (verdict == "kept")
    assert verdict in str(figure)


async def asked(monkeypatch: pytest.MonkeyPatch, freeze: float) -> Traffic:
    """One request to a server that never answers, while this process is away for so long."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    monkeypatch.setattr(traffic, "WEB", server.sockets[0].getsockname()[1])
    monkeypatch.setattr(traffic, "SECONDS", 2.0)
    monkeypatch.setattr(traffic, "lag", traffic.Lag())
    watching = asyncio.create_task(traffic.lag.watch())
    found = Traffic(argparse.Namespace(address="127.0.0.1", name=""))
    try:
        asyncio.get_running_loop().call_later(0.3, time.sleep, freeze)
        await found.request()
    finally:
        watching.cancel()
        server.close()
    return found


async def test_silence_counts_apart_if_the_asking_process_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = await asked(monkeypatch, freeze=2.5)
    assert (found.counts["starved"], found.counts["failed requests"]) == (1, 0)
    found = await asked(monkeypatch, freeze=0.0)
    if traffic.lag.worst < traffic.LATE:
        assert (found.counts["starved"], found.counts["failed requests"]) == (0, 1)


def test_silence_of_servers_that_were_away_is_no_fault() -> None:
    found = Traffic(argparse.Namespace())
    found.note("failed requests", TimeoutError(), 0.0)
    found.note("failed requests", ConnectionRefusedError(), 9.0)
    found.servers_late = 0.5
    found.excuse()
    assert (found.counts["starved"], found.counts["failed requests"]) == (0, 2)
    found.servers_late = 1.5
    found.excuse()
    assert (found.counts["starved"], found.counts["failed requests"]) == (1, 1)
