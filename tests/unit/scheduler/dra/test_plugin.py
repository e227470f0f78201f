"""Pods, their claims and nodes, as the scheduler sees them together."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scheduler.conftest import FakeObjects, cluster_of, node
from tests.unit.scheduler.dra.test_allocator import claim, device, exactly, slice_, world

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Pod
from navarch.api.types.resource_v1 import (
    AllocationResult,
    DeviceClass,
    ResourceClaim,
    ResourceSlice,
)
from navarch.scheduler.changes import Action, Change, Subject
from navarch.scheduler.cycle import Choice, Failure, schedule
from navarch.scheduler.dra.devices import Devices
from navarch.scheduler.dra.extended import requests_for
from navarch.scheduler.plugins.dynamic_resources import DynamicResources
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.profiles import default_profile

Object = dict[str, Any]
PLUGIN = DynamicResources()


def pod(*claims: Object, status: Object | None = None, **spec: Any) -> PodInfo:
    body = {
        "metadata": {"name": "p", "namespace": "ns", "uid": "p"},
        "spec": {"containers": [{"name": "c"}], "resourceClaims": [*claims], **spec},
        "status": status or {},
    }
    return PodInfo(from_object(Pod, body))


def using(name: str) -> PodInfo:
    return pod({"name": "gpu", "resourceClaimName": name})


def tried(info: PodInfo, devices: Devices, *names: str) -> Choice | Failure:
    cluster = cluster_of([node(name) for name in names or ("n1", "n2")])
    found = FakeObjects(devices=devices)
    return schedule(info, cluster, found, default_profile(), random.Random(1))


def with_claim(devices: Devices, made: ResourceClaim) -> Devices:
    devices.set_claim(made)
    return devices


def test_the_node_with_the_device_is_chosen() -> None:
    devices = with_claim(world(slice_("s", device("a"))), claim(exactly()))
    found = tried(using("c"), devices)
    assert isinstance(found, Choice) and found.node == "n1" and found.claims is not None
    (planned,) = found.claims.claims
    assert planned.allocation is not None
    assert [each.device for each in planned.allocation.devices.results] == ["a"]


def gpus(on: str, count: int) -> ResourceSlice:
    pool = {"name": on}
    return slice_(f"of-{on}", *(device(f"d{n}") for n in range(count)), pool=pool, nodeName=on)


def nodes_with_devices(devices: Devices, name: str, asked: int) -> tuple[str, object]:
    """What is found for a claim: the node and the devices, or why not."""
    devices.set_claim(claim(exactly(count=asked), name=name))
    found = tried(using(name), devices, "n1", "n2", "n3")
    if isinstance(found, Failure):
        return found.message, None
    assert found.claims is not None
    return found.node, found.claims.claims[0].allocation


STEP = st.one_of(
    st.tuples(st.just("take"), st.sampled_from(["a", "b"]), st.integers(1, 2)),
    st.tuples(st.just("return"), st.sampled_from(["a", "b"]), st.just(0)),
    st.tuples(st.just("slice"), st.sampled_from(["n1", "n2", "n3"]), st.integers(0, 3)),
    st.tuples(st.just("class"), st.sampled_from(["true", "false"]), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=12), st.integers(1, 2))
def test_what_is_kept_of_searches_is_what_they_would_find(
    steps: list[tuple[str, str, int]], asked: int
) -> None:
    """The same questions to one that remembers, and to one that has just begun."""
    kept, slices = world(gpus("n1", 1)), {"n1": gpus("n1", 1)}
    for kind, name, number in steps:
        match kind:
            case "take":
                found = nodes_with_devices(kept, name, number)[1]
                if isinstance(found, AllocationResult):
                    kept.reserve(name, found.devices.results)
            case "return":
                kept.release(name, None)
            case "slice":
                slices[name] = gpus(name, number)
                kept.set_slice(slices[name])
            case "class":
                kept.set_class(class_for(name))
        fresh = world(*slices.values())
        fresh.set_class(kept.classes["gpu"])
        for uid, results in kept.in_flight.items():
            fresh.reserve(uid, results)
        for _ in range(2):
            expected = nodes_with_devices(fresh, "new", asked)
            assert nodes_with_devices(kept, "new", asked) == expected


def class_for(select: str) -> DeviceClass:
    spec = {"selectors": [{"cel": {"expression": select}}]}
    return from_object(DeviceClass, {"metadata": {"name": "gpu"}, "spec": spec})


HOPELESS = (
    "no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful "
    "for scheduling."
)


def test_a_pod_waits_for_its_class() -> None:
    """Seen with upstream's scheduler: whoever else may help is asked, for it was this plug-in that
    rejected the pod."""
    devices = with_claim(world(), claim(exactly()))
    devices.remove_class(devices.classes["gpu"])
    found = tried(using("c"), devices)
    assert isinstance(found, Failure)
    text = "0/2 nodes are available: request r: device class gpu does not exist. "
    assert found.message == text + HOPELESS


@pytest.mark.parametrize(
    ("info", "message"),
    [
        pytest.param(
            using("none"),
            '0/2 nodes are available: resourceclaim.resource.k8s.io "none" not found. ' + HOPELESS,
            id="no claim",
        ),
        pytest.param(
            pod({"name": "gpu", "resourceClaimTemplateName": "t"}),
            '0/2 nodes are available: pod "ns/p": ResourceClaim not created yet. ' + HOPELESS,
            id="not made yet",
        ),
        pytest.param(
            pod(
                {"name": "gpu", "resourceClaimTemplateName": "t"},
                status={"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "c"}]},
            ),
            "0/2 nodes are available: ResourceClaim ns/c was not created for Pod ns/p (Pod is not "
            "owner). " + HOPELESS,
            id="another's",
        ),
        pytest.param(
            using("c"),
            "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, "
            "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
            id="no device",
        ),
    ],
)
def test_why_a_pod_waits(info: PodInfo, message: str) -> None:
    devices = with_claim(world(), claim(exactly()))
    found = tried(info, devices)
    assert isinstance(found, Failure) and found.message == message
    assert found.plugins == {"DynamicResources"}
    # What does not depend on nodes is known before anything is tried.
    held = PLUGIN.holds_back(info, FakeObjects(devices=devices))
    assert held is ("cannot allocate" not in message)


def test_claims_that_are_being_allocated_are_waited_for() -> None:
    devices = with_claim(world(slice_("s", device("a"))), claim(exactly()))
    devices.in_flight["c"] = ()
    found = tried(using("c"), devices)
    assert isinstance(found, Failure)
    assert "resource claim ns/c is in the process of being allocated" in found.message


def test_an_earlier_alternative_makes_a_better_node() -> None:
    big = device("big", attributes={"size": 2})
    devices = world(
        slice_("s1", device("small", attributes={"size": 1}), pool={"name": "n1"}),
        slice_("s2", big, pool={"name": "n2"}, nodeName="n2"),
    )
    options = [
        {"name": name, **exactly(select=f'device.attributes["gpu.example.com"].size == {size}')
         ["exactly"]}
        for name, size in (("two", 2), ("one", 1))
    ]  # fmt: skip
    devices.set_claim(claim({"name": "r", "firstAvailable": options}))
    found = tried(using("c"), devices)
    assert isinstance(found, Choice) and found.node == "n2"


@pytest.mark.parametrize(
    ("change", "helps"),
    [
        pytest.param(
            Change(Subject.RESOURCE_CLAIM, Action.ADD, None, claim(name="c")), True, id="its claim"
        ),
        pytest.param(
            Change(Subject.RESOURCE_CLAIM, Action.ADD, None, claim(name="x")), False, id="another"
        ),
        pytest.param(
            Change(Subject.RESOURCE_CLAIM, Action.UPDATE, claim(name="c"), claim(name="c")),
            False,
            id="nothing of its status",
        ),
        pytest.param(
            Change(Subject.RESOURCE_SLICE, Action.ADD, None, slice_("s")), True, id="devices"
        ),
    ],
)
def test_what_helps(change: Change, helps: bool) -> None:
    assert PLUGIN.helped_by(using("c"), change) is helps


def container(name: str, count: int = 0, **fields: Any) -> Object:
    requests = {"cpu": "1", "example.com/gpu": str(count)} if count else {}
    return {"name": name, "resources": {"requests": requests}, **fields}


def test_what_stands_for_extended_resources() -> None:
    """Init containers that end share what the containers after them have, and one surplus."""
    info = pod(
        initContainers=[
            container("big", 4),
            container("less", 3),
            container("side", 1, restartPolicy="Always"),
        ],
        containers=[container("main", 2), container("none")],
    )
    found = requests_for(info.pod, ["example.com/gpu", "cpu"], {"example.com/gpu": "gpu"}.get)
    assert [(each.name, each.exactly.count) for each in found.requests if each.exactly] == [
        ("container-0-request-1", 1),
        ("container-2-request-1", 1),
        ("container-3-request-1", 2),
    ]
    assert [(each.containerName, each.requestName[10]) for each in found.mappings] == [
        *(("side", "2"), ("main", "3")),
        *(("big", "2"), ("big", "3"), ("less", "2"), ("less", "3"), ("big", "0")),
    ]


def test_the_newest_class_of_a_resource_counts() -> None:
    devices = Devices()
    for name, second in (("old", 1), ("new", 3), ("other", 2)):
        meta = {"name": name, "creationTimestamp": f"2026-01-01T00:00:0{second}Z"}
        spec = {"extendedResourceName": "example.com/gpu"}
        devices.set_class(from_object(DeviceClass, {"metadata": meta, "spec": spec}))
    assert devices.class_of("example.com/gpu") == "new"
    assert devices.class_of("deviceclass.resource.kubernetes.io/old") == "old"
    assert devices.class_of("deviceclass.resource.kubernetes.io/none") is None
