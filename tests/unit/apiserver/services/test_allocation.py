"""Families and node ports of Services."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.apiserver.services.addresses import static_band as address_band
from navarch.apiserver.services.ports import PortAllocator, PortError
from navarch.apiserver.services.reservation import set_families


@pytest.mark.parametrize(
    ("size", "band"), [(8, 0), (16, 0), (32, 16), (256, 16), (4096, 256), (65536, 256)]
)
def test_the_band_for_chosen_addresses(size: int, band: int) -> None:
    assert address_band(size) == band


@pytest.mark.parametrize(
    ("spec", "families", "policy"),
    [
        pytest.param({"selector": {"a": "b"}}, ["IPv4"], "SingleStack", id="plain"),
        pytest.param(
            {"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}},
            ["IPv4"],
            "SingleStack",
            id="headless",
        ),
        pytest.param(
            {"clusterIP": "None", "clusterIPs": ["None"]},
            ["IPv4", "IPv6"],
            "RequireDualStack",
            id="headless without selector",
        ),
        pytest.param({"type": "ExternalName"}, None, None, id="external name"),
    ],
)
def test_families(spec: dict[str, Any], families: list[str] | None, policy: str | None) -> None:
    assert set_families(spec, None, "IPv4") == []
    assert (spec.get("ipFamilies"), spec.get("ipFamilyPolicy")) == (families, policy)


def test_families_that_the_cluster_does_not_have() -> None:
    errors = set_families({"ipFamilies": ["IPv6"]}, None, "IPv4")
    assert [str(each) for each in errors] == [
        'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster'
    ]


def service(*ports: int) -> dict[str, Any]:
    return {"spec": {"ports": [{"nodePort": port} for port in ports]}}


def test_ports_are_taken_once() -> None:
    ports = PortAllocator(30000, 30003)
    ports.follow(None, service(30000))
    with pytest.raises(PortError, match="already allocated"):
        ports.take(30000)
    with pytest.raises(PortError, match="valid range"):
        ports.take(22)
    taken = {ports.take_any() for _ in range(3)}
    assert taken == {30001, 30002, 30003}
    with pytest.raises(PortError, match="full"):
        ports.take_any()
    ports.settle(taken)
    ports.follow(service(30000), service(30001))
    ports.take(30000)
