"""What is said of pods whose claims get no devices."""

from __future__ import annotations

import random

import pytest
from tests.unit.scheduler.conftest import FakeObjects, cluster_of, node
from tests.unit.scheduler.dra.test_allocator import claim, device, exactly, request, slice_, world
from tests.unit.scheduler.dra.test_plugin import gpus, using

from navarch.api.types.resource_v1 import ResourceClaim, ResourceSlice
from navarch.scheduler.cycle import Choice, schedule
from navarch.scheduler.dra.devices import Devices
from navarch.scheduler.explanation import explain
from navarch.scheduler.profiles import default_profile

PROFILE = default_profile()
Told = list[tuple[int, str]]


def told(devices: Devices, *nodes: str) -> Told:
    found = explain(
        using("c").pod,
        cluster_of([node(name) for name in nodes]),
        FakeObjects(devices=devices),
        PROFILE,
    )
    return [(rule.nodes, rule.detail) for rule in found.ruled_out]


def taken(devices: Devices, on: str) -> None:
    """Another claim gets a device."""
    devices.set_claim(claim(exactly(), name="other"))
    chosen = schedule(
        using("other"),
        cluster_of([node(on)]),
        FakeObjects(devices=devices),
        PROFILE,
        random.Random(1),
    )
    assert isinstance(chosen, Choice) and chosen.claims is not None
    other = claim(exactly(), name="other")
    other.status.allocation = chosen.claims.claims[0].allocation
    devices.set_claim(other)


ONE = "claim c asks for 1 device(s) of class gpu"


@pytest.mark.parametrize(
    ("asked", "slices", "expected"),
    [
        pytest.param(claim(exactly()), [], [(2, f"{ONE}: none of it here")], id="no devices"),
        pytest.param(
            claim(exactly(select="device.driver == 'other'")),
            [gpus("n1", 2)],
            [(2, f"{ONE} that its selectors choose: none of it here")],
            id="selectors choose none",
        ),
        pytest.param(
            claim(exactly(count=3)),
            [gpus("n1", 2)],
            [
                (1, "claim c asks for 3 device(s) of class gpu: of 2 here 2 are free"),
                (1, "claim c asks for 3 device(s) of class gpu: none of it here"),
            ],
            id="too many at once",
        ),
        pytest.param(
            claim({"name": "r", "firstAvailable": [
                {"name": "x", **request(count=2)}, {"name": "y", **request(count=3)}]}),
            [gpus("n1", 1), gpus("n2", 1)],
            [(2, "claim c asks for 2 device(s) of class gpu or 3 device(s) of class gpu: "
                 "of 1 here 1 is free")],
            id="no alternative will do",
        ),
        pytest.param(
            claim(exactly(), exactly("s"), constraints=[{"matchAttribute": "gpu.example.com/a"}]),
            [gpus("n1", 2), gpus("n2", 2)],
            [(2, "matching devices are free, but tainted, short of capacity, or do not go "
                 "together")],
            id="they do not go together",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_told(
    asked: ResourceClaim, slices: list[ResourceSlice], expected: Told
) -> None:
    devices = world(*slices)
    devices.set_claim(asked)
    assert told(devices, "n1", "n2") == expected


def test_nodes_whose_devices_are_taken_come_before_those_that_have_none() -> None:
    devices = world(gpus("n1", 1))
    taken(devices, "n1")
    devices.set_claim(claim(exactly()))
    assert told(devices, "n1", "n2", "n3") == [
        (1, f"{ONE}: of 1 here none is free"),
        (2, f"{ONE}: none of it here"),
    ]


def test_a_claim_with_devices_elsewhere_says_where() -> None:
    devices = world(gpus("n1", 1))
    taken(devices, "n1")
    mine = devices.claims["ns/other"]
    moved = claim(exactly())
    moved.status.allocation = mine.status.allocation
    devices.remove_claim(mine)
    devices.set_claim(moved)
    assert told(devices, "n2") == [(1, "claim c has its devices at n1")]


def test_devices_with_taints_are_named_as_such() -> None:
    taints = [{"key": "k", "effect": "NoSchedule"}]
    devices = world(slice_("s", device("a", taints=taints)))
    devices.set_claim(claim(exactly()))
    assert "tainted" in told(devices, "n1")[0][1]
