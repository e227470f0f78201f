"""Ranges, bands and node ports, and which of them a write takes."""

from __future__ import annotations

import ipaddress
from random import Random
from typing import Any

import pytest

from navarch.apiserver.services.addresses import Range
from navarch.apiserver.services.addresses import static_band as address_band
from navarch.apiserver.services.holdings import Holdings, cluster_addresses, node_ports
from navarch.apiserver.services.ports import PREFIX, PortAllocator, PortError
from navarch.apiserver.services.reservation import wishes_of
from navarch.store.memory import open_memory_store

Object = dict[str, Any]
ME = ("default", "me")


@pytest.mark.parametrize(
    ("size", "band"), [(8, 0), (16, 0), (32, 16), (256, 16), (4096, 256), (65536, 256)]
)
def test_the_band_for_chosen_addresses(size: int, band: int) -> None:
    assert address_band(size) == band


@pytest.mark.parametrize(
    ("text", "count", "lower"),
    [
        pytest.param("10.0.0.0/24", 254, 16, id="plain"),
        pytest.param("10.0.0.0/27", 30, 16, id="small"),
        pytest.param("10.0.0.0/28", 14, 0, id="without a band"),
        pytest.param("10.0.0.0/30", 2, 0, id="two"),
        pytest.param("10.0.0.0/31", 0, 0, id="no host"),
        pytest.param("10.0.0.0/32", 0, 0, id="one address"),
        pytest.param("fd00::/120", 255, 16, id="six"),
        pytest.param("fd00::/128", 0, 0, id="one address of six"),
    ],
)
def test_every_address_once_and_the_lower_band_last(text: str, count: int, lower: int) -> None:
    network = ipaddress.ip_network(text)
    found = list(Range(network).candidates(Random(3)))
    assert len(found) == len(set(found)) == count
    assert all(Range(network).holds(ipaddress.ip_address(each)) for each in found)
    places = [int(ipaddress.ip_address(each)) - int(network.network_address) for each in found]
    assert sorted(places[len(places) - lower :]) == list(range(1, lower + 1))


def test_addresses_that_are_nobodys() -> None:
    plain = Range(ipaddress.ip_network("10.0.0.0/24"))
    edges = ("10.0.0.0", "10.0.0.255", "10.0.1.1", "fd00::1")
    assert not any(plain.holds(ipaddress.ip_address(each)) for each in edges)
    six = Range(ipaddress.ip_network("fd00::/64"))
    assert six.holds(ipaddress.ip_address("fd00::ffff:ffff:ffff:ffff"))
    assert next(six.candidates(Random(1))).startswith("fd00::")


def spec(kind: str, *ports: tuple[int, int], **more: Any) -> Object:
    listed: list[Object] = [{"port": port, "nodePort": node} for port, node in ports]
    return {"type": kind, "ports": listed, **more}


LOCAL = {"externalTrafficPolicy": "Local"}


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        pytest.param(spec("ClusterIP", (80, 0)), None, [], id="no node ports"),
        pytest.param(
            spec("NodePort", (53, 0), (53, 0), (80, 0)), None, [(0, 2), (0, 1)], id="shared"
        ),
        pytest.param(
            spec("NodePort", (53, 0), (53, 30053)), None, [(30053, 1)], id="shared, chosen later"
        ),
        pytest.param(
            spec("NodePort", (53, 30053), (53, 30054)), None, [(30053, 1), (30054, 1)], id="chosen"
        ),
        pytest.param(
            spec("NodePort", (53, 30053), (53, 0)),
            spec("NodePort", (53, 30053)),
            [(0, 1)],
            id="not shared with what was there",
        ),
        pytest.param(
            spec("NodePort", (80, 30080)), spec("ExternalName", (80, 30080)), [(30080, 1)], id="new"
        ),
        pytest.param(
            spec("LoadBalancer", (80, 0), (81, 30081), allocateLoadBalancerNodePorts=False),
            None,
            [(30081, 1)],
            id="only what was asked for",
        ),
        pytest.param(spec("LoadBalancer", **LOCAL), None, [(0, 0)], id="health check"),
        pytest.param(
            spec("LoadBalancer", healthCheckNodePort=30001, **LOCAL),
            spec("LoadBalancer", healthCheckNodePort=30001, **LOCAL),
            [],
            id="health check is there",
        ),
    ],
)
def test_ports_to_take(new: Object, old: Object | None, expected: list[tuple[int, int]]) -> None:
    wishes = wishes_of(new, {"spec": old} if old is not None else None)
    found = [(each.number, len(each.targets)) for each in wishes]
    for wish in wishes:
        assert all(port in new["ports"] for port in wish.targets)
    assert found == expected


@pytest.mark.parametrize(
    ("held", "ports"),
    [
        pytest.param(spec("NodePort", (80, 30080)), {30080}, id="node port"),
        pytest.param(spec("ExternalName", (80, 30080)), set(), id="of a type without"),
        pytest.param(
            spec("LoadBalancer", healthCheckNodePort=30001, **LOCAL), {30001}, id="health check"
        ),
    ],
)
def test_what_a_service_holds(held: Object, ports: set[int]) -> None:
    assert node_ports({"spec": held}) == ports
    addresses = {"type": held["type"], "clusterIPs": ["FD00:0::1", "10.0.0.1"]}
    expected = [] if held["type"] == "ExternalName" else ["fd00::1", "10.0.0.1"]
    assert cluster_addresses({"spec": addresses}) == expected
    assert cluster_addresses({"spec": {"clusterIPs": ["None"]}}) == []


def service(*ports: int) -> Object:
    spec = {"type": "NodePort", "ports": [{"nodePort": port} for port in ports]}
    return {"metadata": {"namespace": "default", "name": "other"}, "spec": spec}


async def test_ports_are_taken_once() -> None:
    store, holdings = open_memory_store(), Holdings()

    def server() -> PortAllocator:
        return PortAllocator(store, (30000, 30003), holdings, Random(1), lambda: "now")

    ports, others = server(), server()
    holdings.follow(None, service(30000))
    with pytest.raises(PortError, match="already allocated"):
        await ports.take(30000, ME, False)
    with pytest.raises(PortError, match="valid range"):
        await ports.take(22, ME, False)
    taken = dict([await each.take_any(ME, False) for each in (ports, others, ports)])
    assert set(taken) == {30001, 30002, 30003}
    with pytest.raises(PortError, match="full"):
        await others.take_any(ME, False)
    with pytest.raises(PortError, match="already allocated"):
        await others.take(30001, ME, False)
    await others.release(30001, taken[30001])
    assert 30001 in await ports.records(), "it was taken after that"
    await others.release(30001, taken[30001] + 1)
    assert await store.get(f"{PREFIX}30001") is None
    assert (await ports.take(30001, ME, True)) == (30001, 0)
    assert (await others.take(30001, ME, False))[0] == 30001
    await store.close()
