"""A fixed number of requests at random: nothing breaks, hangs or grows."""

from __future__ import annotations

import pytest
from tests.fuzz.generator import Generator
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
