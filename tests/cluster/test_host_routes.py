"""The host's ways into a cluster (`cluster/host_routes.py`) in a real kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import pytest
from tests.cluster.node.environment import run
from tests.cluster.policy_ground import inside

from navarch.cluster.host_routes import apply, look

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
PLACE, BRIDGE = "navarch-test-ways", "br0"


@pytest.fixture
def host() -> Iterator[None]:
    run("ip", "netns", "add", PLACE)
    try:
        ip = ("ip", "-n", PLACE)
        for link in (BRIDGE, "up0"):
            run(*ip, "link", "add", link, "type", "bridge")
            run(*ip, "link", "set", link, "up")
        for address in ("192.0.2.1/24", "2001:db8::1/64"):
            run(*ip, "address", "add", address, "dev", BRIDGE)
        run(*ip, "route", "add", "198.51.100.0/24", "dev", "up0")
        run(*ip, "route", "add", "203.0.113.0/24", "dev", BRIDGE)
        yield
    finally:
        run("ip", "netns", "del", PLACE)


def test_our_own_are_known_again_and_those_of_others_left_alone(host: None) -> None:
    """One who was started anew knows nothing but what the kernel has."""
    first = {
        "10.1.0.0/16": "192.0.2.2",
        "10.2.0.0/24": "192.0.2.2",
        "2001:db8:2:0::/64": "2001:db8::2",
        "2001:db8:3::/64": "2001:db8::2",
    }
    inside(PLACE, partial(apply, BRIDGE, (), first))
    found = inside(PLACE, partial(look, BRIDGE))
    assert found.ours == {"10.1.0.0/16", "10.2.0.0/24", "2001:db8:2::/64", "2001:db8:3::/64"}
    assert "198.51.100.0/24" in found.elsewhere
    kept = {"10.1.0.0/16": "192.0.2.3", "2001:db8:2:0::/64": "2001:db8::3"}
    inside(PLACE, partial(apply, BRIDGE, found.ours, kept))
    assert inside(PLACE, partial(look, BRIDGE)).ours == {"10.1.0.0/16", "2001:db8:2::/64"}
    assert "via 192.0.2.3" in run("ip", "-n", PLACE, "route", "show", "10.1.0.0/16")
    assert run("ip", "-n", PLACE, "-6", "route", "show", "2001:db8:2::/64").count("via") == 1
    assert run("ip", "-n", PLACE, "route", "show", "203.0.113.0/24")


def test_a_bridge_that_is_gone_ends_nothing(host: None) -> None:
    """The controllers are in the same process."""
    inside(PLACE, partial(apply, BRIDGE, (), {"10.1.0.0/16": "192.0.2.2"}))
    run("ip", "-n", PLACE, "link", "del", BRIDGE)
    found = inside(PLACE, partial(look, BRIDGE))
    assert found.ours == frozenset()
    assert "198.51.100.0/24" in found.elsewhere
    inside(PLACE, partial(apply, BRIDGE, found.ours, {"10.1.0.0/16": "192.0.2.2"}))
    assert run("ip", "-n", PLACE, "route", "show", "10.1.0.0/16") == ""
