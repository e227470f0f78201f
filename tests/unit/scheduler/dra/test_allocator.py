"""Which devices a pod's claims get on a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Node
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.resource_v1 import DeviceClass, ResourceClaim, ResourceSlice
from navarch.scheduler.dra.allocator import (
    AllocationProblem,
    Allocator,
    NoPool,
    OutOfSteps,
    Steps,
)
from navarch.scheduler.dra.devices import Devices
from navarch.scheduler.dra.results import allocation

Object = dict[str, Any]
DRIVER = "gpu.example.com"
NODE = Node(metadata=ObjectMeta(name="n1", labels={"zone": "a"}))


def slice_(name: str, *devices: Object, pool: Object | None = None, **spec: Any) -> ResourceSlice:
    where = spec if spec.keys() & {"nodeSelector", "allNodes", "perDeviceNodeSelection"} else {}
    node = {} if where else {"nodeName": "n1"}
    made = {
        "driver": DRIVER,
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1, **(pool or {})},
        "devices": [*devices],
        **node,
        **spec,
    }
    return from_object(ResourceSlice, {"metadata": {"name": name}, "spec": made})


def device(name: str, **fields: Any) -> Object:
    attributes = fields.pop("attributes", {})
    typed = {
        key: {"bool" if value is True else "int" if isinstance(value, int) else "string": value}
        for key, value in attributes.items()
    }
    return {"name": name, "attributes": typed, **fields}


def exactly(name: str = "r", **fields: Any) -> Object:
    return {"name": name, "exactly": request(**fields)}


def request(select: str = "", **fields: Any) -> Object:
    selectors = [{"cel": {"expression": select}}] if select else []
    return {
        "deviceClassName": "gpu",
        "allocationMode": "ExactCount",
        "count": 1,
        "selectors": selectors,
        **fields,
    }


def claim(*requests: Object, name: str = "c", **devices: Any) -> ResourceClaim:
    return from_object(
        ResourceClaim,
        {
            "metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"devices": {"requests": [*requests], **devices}},
        },
    )


def world(*slices: ResourceSlice, select: str = "", config: Any = ()) -> Devices:
    devices = Devices()
    for each in slices:
        devices.set_slice(each)
    selectors = [{"cel": {"expression": select}}] if select else []
    spec = {"selectors": selectors, "config": [*config]}
    devices.set_class(from_object(DeviceClass, {"metadata": {"name": "gpu"}, "spec": spec}))
    return devices


def solve(
    devices: Devices, *claims: ResourceClaim, steps: int = 10_000
) -> list[tuple[str, str]] | None:
    """Request and device of everything that was found."""
    allocator = Allocator(
        claims, devices.pools(NODE), devices.classes.get, devices.in_use, Steps(steps)
    )
    found = allocator.solve()
    return None if found is None else [(each.wanted.name, each.device.id[2]) for each in found]


def allocated(devices: Devices, name: str, *results: Object) -> None:
    """A claim that has devices."""
    made = claim(name=name)
    whole = [{"driver": DRIVER, "pool": "p", "request": "r", **each} for each in results]
    status = {"allocation": {"devices": {"results": whole}}}
    made.status = from_object(ResourceClaim, {"status": status}).status
    devices.set_claim(made)


TWO = (
    device("a", attributes={"cores": 4, "fast": True, "numa.example/node": "0"}),
    device("b", attributes={"cores": 8, "numa.example/node": "1"}),
)
FOUR = (
    device("a", attributes={"numa": "0"}),
    device("b", attributes={"numa": "1"}),
    device("c", attributes={"numa": "0"}),
    device("d", attributes={"numa": "1"}),
)
ZONE_B = {
    "nodeSelectorTerms": [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}
    ]
}
SHARED = {"allowMultipleAllocations": True, "capacity": {"memory": {"value": "10Gi"}}}
POLICY = {
    "default": "1Gi",
    "validRange": {"min": "1Gi", "max": "8Gi", "step": "1Gi"},
}
PARTS: Object = {
    "sharedCounters": [{"name": "card", "counters": {"memory": {"value": "8Gi"}}}],
    "pool": {"resourceSliceCount": 2},
}


def part(name: str, memory: str) -> Object:
    counters = {"memory": {"value": memory}}
    return device(name, consumesCounters=[{"counterSet": "card", "counters": counters}])


def partitions(*parts: Object) -> tuple[ResourceSlice, ResourceSlice]:
    return slice_("s0", **PARTS), slice_("s1", *parts, pool={"resourceSliceCount": 2})


@pytest.mark.parametrize(
    ("slices", "claims", "expected"),
    [
        pytest.param(
            [slice_("s", *TWO)], [claim(exactly())], [("r", "a")], id="first that is free"
        ),
        pytest.param(
            [slice_("s", *TWO)],
            [claim(exactly(count=2))],
            [("r", "a"), ("r", "b")],
            id="several",
        ),
        pytest.param([slice_("s", *TWO)], [claim(exactly(count=3))], None, id="too many"),
        pytest.param([], [claim(exactly())], None, id="no slices"),
        pytest.param(
            [slice_("s", *TWO)],
            [claim(exactly(select=f'device.attributes["{DRIVER}"].cores > 4'))],
            [("r", "b")],
            id="selector",
        ),
        pytest.param(
            [slice_("s", *TWO)],
            [claim(exactly(select='has(device.attributes["other.example"].x)'))],
            None,
            id="a domain that is not there is empty",
        ),
        pytest.param(
            [slice_("s", *TWO)],
            [claim(exactly(), name="one"), claim(exactly(), name="two")],
            [("r", "a"), ("r", "b")],
            id="claims do not share",
        ),
        pytest.param(
            [slice_("s", *TWO)],
            [claim(exactly("all", allocationMode="All", count=0))],
            [("all", "a"), ("all", "b")],
            id="all",
        ),
        pytest.param(
            [slice_("s", *TWO)],
            [claim(exactly("all", allocationMode="All", count=0, select="false"))],
            None,
            id="all means one at least",
        ),
        pytest.param(
            [slice_("s", *TWO)],
            [
                claim(
                    {
                        "name": "r",
                        "firstAvailable": [
                            {"name": "big", **request(count=3)},
                            {"name": "small", **request(count=1)},
                        ],
                    }
                )
            ],
            [("r/small", "a")],
            id="the first alternative that works",
        ),
        pytest.param(
            [slice_("s", *FOUR)],
            [claim(exactly(count=2), constraints=[{"matchAttribute": f"{DRIVER}/numa"}])],
            [("r", "a"), ("r", "c")],
            id="equal attributes",
        ),
        pytest.param(
            [slice_("s", *FOUR)],
            [
                claim(
                    exactly("x"),
                    exactly("y"),
                    exactly("z"),
                    constraints=[
                        {"distinctAttribute": f"{DRIVER}/numa", "requests": ["x", "y"]},
                    ],
                )
            ],
            [("x", "a"), ("y", "b"), ("z", "c")],
            id="different attributes of some requests",
        ),
        pytest.param(
            [slice_("s", *FOUR)],
            [claim(exactly(count=3), constraints=[{"distinctAttribute": f"{DRIVER}/numa"}])],
            None,
            id="not as many different values",
        ),
        pytest.param(
            [slice_("s", *FOUR)],
            [claim(exactly(), constraints=[{"matchAttribute": f"{DRIVER}/other"}])],
            None,
            id="a constraint on what no device has",
        ),
        pytest.param(
            [slice_("s", *FOUR)],
            [
                claim(
                    exactly("x"),
                    exactly("y", select=f'device.attributes["{DRIVER}"].numa == "1"'),
                    constraints=[{"matchAttribute": f"{DRIVER}/numa"}],
                )
            ],
            [("x", "b"), ("y", "d")],
            id="goes back when the first choice was wrong",
        ),
        pytest.param(
            [
                slice_(
                    "s",
                    device("a", taints=[{"key": "broken", "effect": "NoSchedule"}]),
                    device("b", taints=[{"key": "odd", "effect": "None"}]),
                )
            ],
            [claim(exactly())],
            [("r", "b")],
            id="taints",
        ),
        pytest.param(
            [slice_("s", device("a", taints=[{"key": "broken", "effect": "NoExecute"}]))],
            [claim(exactly(tolerations=[{"key": "broken", "operator": "Exists"}]))],
            [("r", "a")],
            id="tolerated taint",
        ),
        pytest.param(
            [slice_("s", *TWO, pool={"resourceSliceCount": 2})],
            [claim(exactly())],
            None,
            id="incomplete pool",
        ),
        pytest.param(
            [slice_("old", device("a")), slice_("new", device("b"), pool={"generation": 2})],
            [claim(exactly())],
            [("r", "b")],
            id="newest generation",
        ),
        pytest.param(
            [slice_("s", device("a"), nodeSelector=ZONE_B)],
            [claim(exactly())],
            None,
            id="devices elsewhere",
        ),
        pytest.param(
            [
                slice_(
                    "s",
                    device("a", nodeName="n2"),
                    device("b", allNodes=True),
                    perDeviceNodeSelection=True,
                )
            ],
            [claim(exactly())],
            [("r", "b")],
            id="each device says where it is",
        ),
        pytest.param(
            [*partitions(part("whole", "8Gi"), part("half-0", "4Gi"), part("half-1", "4Gi"))],
            [claim(exactly("x"), exactly("y"))],
            [("x", "half-0"), ("y", "half-1")],
            id="partitions share counters",
        ),
        pytest.param(
            [slice_("s", device("a", **SHARED))],
            [
                claim(
                    exactly("x", capacity={"requests": {"memory": "6Gi"}}),
                    exactly("y", capacity={"requests": {"memory": "4Gi"}}),
                )
            ],
            [("x", "a"), ("y", "a")],
            id="a device for two",
        ),
        pytest.param(
            [slice_("s", device("a", **SHARED))],
            [
                claim(
                    exactly("x", capacity={"requests": {"memory": "6Gi"}}),
                    exactly("y", capacity={"requests": {"memory": "5Gi"}}),
                )
            ],
            None,
            id="not enough of it for two",
        ),
        pytest.param(
            [slice_("s", device("a"), device("b", capacity={"memory": {"value": "8Gi"}}))],
            [claim(exactly(capacity={"requests": {"memory": "6Gi"}}))],
            [("r", "b")],
            id="capacity that must be there",
        ),
        pytest.param(
            [
                slice_("s-z", device("z"), pool={"name": "a"}),
                slice_("s-y", device("y", bindingConditions=["ready"]), pool={"name": "0"}),
            ],
            [claim(exactly())],
            [("r", "z")],
            id="devices that have to be prepared come last",
        ),
        pytest.param(
            [slice_("s", *TWO)],
            [claim(exactly("x"), exactly("look", adminAccess=True))],
            [("x", "a"), ("look", "b")],
            id="not twice in one claim, not even for administrators",
        ),
    ],
)
def test_what_is_found(
    slices: list[ResourceSlice], claims: list[ResourceClaim], expected: list[tuple[str, str]] | None
) -> None:
    assert solve(world(*slices), *claims) == expected


def test_what_claims_have_is_not_given_twice() -> None:
    devices = world(slice_("s", *TWO))
    allocated(devices, "other", {"device": "a"})
    assert solve(devices, claim(exactly())) == [("r", "b")]
    # In flight it counts as well.
    devices.reserve("third", allocation_of(devices, claim(exactly())))
    assert solve(devices, claim(exactly())) is None
    assert solve(devices, claim(exactly(adminAccess=True))) == [("r", "a")]
    devices.release("third", None)
    assert solve(devices, claim(exactly())) == [("r", "b")]
    devices.remove_claim(devices.claims["ns/other"])
    assert solve(devices, claim(exactly())) == [("r", "a")]


def allocation_of(devices: Devices, wanted: ResourceClaim) -> Any:
    allocator = Allocator(
        [wanted], devices.pools(NODE), devices.classes.get, devices.in_use, Steps(1000)
    )
    found = allocator.solve()
    assert found is not None
    made = allocation(wanted, found, "n1", devices.classes.get, lambda: "share")
    return made.devices.results


@pytest.mark.parametrize(
    ("taken", "wanted", "expected"),
    [
        pytest.param({"memory": "6Gi"}, "4Gi", [("r", "a")], id="enough is left"),
        pytest.param({"memory": "6Gi"}, "5Gi", None, id="not enough is left"),
    ],
)
def test_shared_devices(
    taken: Mapping[str, str], wanted: str, expected: list[tuple[str, str]] | None
) -> None:
    devices = world(slice_("s", device("a", **SHARED)))
    allocated(devices, "other", {"device": "a", "shareID": "1", "consumedCapacity": taken})
    mine = claim(exactly(capacity={"requests": {"memory": wanted}}))
    assert solve(devices, mine) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(None, "1Gi", id="default"),
        pytest.param("100Mi", "1Gi", id="at least the least"),
        pytest.param("1500Mi", "2Gi", id="rounded up to a step"),
        pytest.param("9Gi", "", id="more than is allowed"),
    ],
)
def test_how_much_of_a_capacity_is_taken(wanted: str | None, expected: str) -> None:
    memory = {"value": "10Gi", "requestPolicy": POLICY}
    shared = device("a", allowMultipleAllocations=True, capacity={"memory": memory})
    devices = world(slice_("s", shared))
    mine = claim(exactly(capacity={"requests": {"memory": wanted} if wanted else {}}))
    if not expected:
        assert solve(devices, mine) is None
        return
    (result,) = allocation_of(devices, mine)
    assert result.shareID == "share"
    assert result.consumedCapacity == {"memory": expected}


@pytest.mark.parametrize(
    ("slices", "wanted", "error", "message"),
    [
        pytest.param(
            [slice_("s", *TWO)],
            claim(exactly(select='device.attributes["x"].y')),
            AllocationProblem,
            "claim ns/c: selector #0: CEL runtime error: no such key: y",
            id="selector that fails",
        ),
        pytest.param(
            [slice_("s", *TWO)],
            claim(exactly(count=33)),
            AllocationProblem,
            "claim ns/c: number of requested devices 33 exceeds the claim limit of 32",
            id="more than a claim may have",
        ),
        pytest.param(
            [slice_("s", *TWO)],
            claim(exactly(deviceClassName="other")),
            AllocationProblem,
            "claim ns/c, request r: could not retrieve device class other: "
            'deviceclass.resource.k8s.io "other" not found',
            id="no class",
        ),
        pytest.param(
            [slice_("s", *TWO, pool={"resourceSliceCount": 2})],
            claim(exactly(allocationMode="All", count=0)),
            AllocationProblem,
            f"claim ns/c, request r: asks for all devices, but resource pool {DRIVER}/p is "
            "currently being updated",
            id="all of an incomplete pool",
        ),
        pytest.param(
            [slice_("s", *FOUR)],
            claim(
                exactly(allocationMode="All", count=0),
                constraints=[{"matchAttribute": f"{DRIVER}/numa"}],
            ),
            AllocationProblem,
            f"claim ns/c, request r: cannot add device {DRIVER}/p/b because a claim constraint "
            "would not be satisfied",
            id="all, but not together",
        ),
        pytest.param(
            [slice_("s", device("a"), device("a"))],
            claim(exactly()),
            NoPool,
            "invalid resource pools were encountered",
            id="two devices of one name",
        ),
        pytest.param(
            [slice_("s", *(device(f"d{n}", attributes={"i": f"{n}"}) for n in range(24)))],
            claim(
                *(exactly(f"r{n}") for n in range(6)),
                exactly("last", select="false"),
            ),
            OutOfSteps,
            "",
            id="takes too long",
        ),
    ],
)
def test_what_goes_wrong(
    slices: list[ResourceSlice], wanted: ResourceClaim, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        solve(world(*slices), wanted)
    assert str(caught.value) == message


def test_the_result_as_it_is_written() -> None:
    opaque = {"opaque": {"driver": DRIVER, "parameters": {"a": 1}}}
    devices = world(slice_("s", *TWO), config=[opaque])
    wanted = claim(exactly("x"), exactly("y"), config=[{"requests": ["y"], **opaque}])
    allocator = Allocator(
        [wanted], devices.pools(NODE), devices.classes.get, devices.in_use, Steps(1000)
    )
    found = allocator.solve()
    assert found is not None
    made = allocation(wanted, found, "n1", devices.classes.get, lambda: "share")
    assert [(c.source, c.requests) for c in made.devices.config] == [
        ("FromClass", ["x", "y"]),
        ("FromClaim", ["y"]),
    ]
    assert made.nodeSelector is not None
    (term,) = made.nodeSelector.nodeSelectorTerms
    assert [(f.key, f.operator, f.values) for f in term.matchFields] == [
        ("metadata.name", "In", ["n1"])
    ]
    assert [each.shareID for each in made.devices.results] == [None, None]
