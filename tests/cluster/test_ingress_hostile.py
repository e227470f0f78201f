"""Hostile Ingresses and a real nginx: what it is given it takes, and it serves the others on."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.cluster.ingress_ground import Ground, new_directory
from tests.unit.network.ingresses import ingress, secret
from tests.unit.network.test_ingress_fuzz import ingresses

from navarch.api.types.networking_v1 import Ingress
from navarch.network.nginx.document import policy_name
from navarch.network.nginx.model import NextUpstream, Policy, Protocol
from navarch.network.nginx.process import PROGRAM
from navarch.network.nginx.render import ERROR_CODES, render

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="nginx changes its user"),
    pytest.mark.skipif(not Path(PROGRAM).exists(), reason="nginx is not installed"),
]

POLICIES = st.builds(
    Policy,
    protocol=st.sampled_from(Protocol),
    http_1_0=st.booleans(),
    buffering=st.booleans(),
    streams_requests=st.booleans(),
    buffer_size=st.sampled_from([1, 512, 4096, 65536, 1 << 20]),
    buffers=st.integers(1, 1024),
    body_limit=st.integers(0, 1 << 40),
    body_buffer=st.integers(0, 1 << 24),
    next_upstream=st.lists(
        st.sampled_from([each for each in NextUpstream if each is not NextUpstream.OFF]),
        min_size=1,
        unique=True,
    ).map(tuple),
    next_upstream_seconds=st.integers(0, 1000),
    intercepts=st.lists(st.sampled_from(sorted(ERROR_CODES)), unique=True).map(tuple),
    basic_auth=st.booleans(),
    external_auth=st.booleans(),
    checks_source=st.booleans(),
    satisfy_any=st.booleans(),
    mirrors=st.integers(0, 3),
    limit_rate_after=st.integers(0, 1 << 20),
)


LIMITS = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Each attempt takes a process: what fails is told as it was found.
    phases=(Phase.explicit, Phase.generate),
)


@dataclass
class Bench:
    """nginx, and the loop it is spoken to in."""

    ground: Ground
    runner: asyncio.Runner


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    directory = new_directory()
    with asyncio.Runner() as runner:
        ground = Ground(directory)
        try:
            runner.run(ground.start())
            yield Bench(ground, runner)
        finally:
            runner.run(ground.stop())
            shutil.rmtree(directory)


def test_nginx_takes_every_policy(bench: Bench) -> None:
    """`nginx -t` says so."""
    listeners = bench.ground.translated().plane.listeners

    @settings(LIMITS, max_examples=12)
    @given(st.lists(POLICIES, min_size=4, max_size=16))
    def attempt(policies: list[Policy]) -> None:
        named = {policy_name(each): each for each in policies}
        text, _ = render(bench.ground.nginx.settings, listeners, named)
        bench.runner.run(bench.ground.nginx._test(text))

    attempt()


def test_others_are_served_beside_whatever_there_is(bench: Bench) -> None:
    """Also where the hostile one names the same host, or none."""
    ground, runner = bench.ground, bench.runner
    ground.secrets["users"] = secret("users", auth="ada:x\n")
    good = ingress("good", {"/": "b"}, "good.example", created="2020-01-01T00:00:00Z")

    @LIMITS
    @given(st.lists(ingresses(), min_size=1, max_size=4))
    def attempt(hostile: list[Ingress]) -> None:
        for number, each in enumerate(hostile):
            each.metadata.name = each.metadata.uid = f"hostile-{number}"
        runner.run(ground.serve(good, *hostile))
        assert runner.run(ground.names(2, host="good.example")) == ["b", "b"]
        for each in hostile:
            # Whatever it is answered with, it is answered.
            host = each.spec.rules[0].host if each.spec.rules[0].host.isalnum() else "web.example"
            assert runner.run(ground.ask("/x?y", host)).status < 600

    attempt()
