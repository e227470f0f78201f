"""A fixed number of requests at random: nothing breaks, hangs or grows."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import pytest
from tests.api.conftest import Api, running_server
from tests.api.hostile import ROOT, furnish, resident
from tests.fuzz.generator import Generator
from tests.fuzz.raw import SERVER_FAILURE, answer_to, spoiled
from tests.fuzz.runner import MEBIBYTE, fuzz

REQUESTS = 3000


@pytest.mark.parametrize("seed", [20260])
async def test_the_server_stands_what_comes_at_random(seed: int) -> None:
    report = await fuzz(REQUESTS, seed)
    print(f"seed {seed}: {report}")
    assert report.findings == []
    assert report.grown < 50 * MEBIBYTE
    # The requests are not all nonsense: enough of them got somewhere.
    assert report.statuses[200] > REQUESTS / 10
    assert report.statuses[201] > REQUESTS / 50
    assert {400, 404, 409, 415, 422} <= report.statuses.keys()


def test_a_seed_makes_the_same_requests() -> None:
    def some(seed: int) -> list[bytes]:
        generator = Generator(seed)
        return [generator.request().wire() for _ in range(200)]

    assert some(1) == some(1) != some(2)


async def test_bytes_that_were_requests_once(caplog: pytest.LogCaptureFixture) -> None:
    """Heads, lengths, chunks, upgrades and frames of WebSockets, spoiled, forty at a time."""
    async with running_server() as server, aiohttp.ClientSession() as session:
        await send_spoiled(Api(server, session), 25)
    complaints = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert complaints == []


async def send_spoiled(api: Api, rounds: int) -> None:
    await furnish(api)
    generator = Generator(7)
    before = resident()
    for _ in range(rounds):
        sent = [spoiled(generator) for _ in range(40)]
        heard = await asyncio.gather(*(answer_to(api.server.port, data) for data in sent))
        assert [
            pair for pair in zip(sent, heard, strict=True) if SERVER_FAILURE.search(pair[1])
        ] == []
    assert resident() - before < 50 * MEBIBYTE
    (await api.get("/version", **ROOT)).ok()
    async with asyncio.timeout(60):
        while api.server.app.metrics.in_flight:  # noqa: ASYNC110 - a plain number
            await asyncio.sleep(0.02)
