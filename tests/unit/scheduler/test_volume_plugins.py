"""Which nodes a pod's volumes allow, and what is decided about its claims with the node."""

from __future__ import annotations

import random
from typing import Any

import pytest

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim
from navarch.api.types.storage_v1 import (
    CSIDriver,
    CSIStorageCapacity,
    StorageClass,
    VolumeAttachment,
)
from navarch.scheduler.changes import Action, Change, Subject
from navarch.scheduler.cluster import Cluster
from navarch.scheduler.cycle import Choice, schedule
from navarch.scheduler.plugins.node_volume_limits import NodeVolumeLimits
from navarch.scheduler.plugins.volume_binding import NO_MATCH, NO_SPACE, VolumeBinding
from navarch.scheduler.plugins.volume_restrictions import NO_DISK, VolumeRestrictions
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.profiles import default_profile

from .conftest import HOSTNAME, ZONE, FakeObjects, cluster_of, node, pod, reasons

SELECTED = "volume.kubernetes.io/selected-node"


def claim(name: str, size: str = "1Gi", **fields: Any) -> PersistentVolumeClaim:
    meta = {"name": name, "namespace": "default", "uid": name}
    meta["annotations"] = fields.pop("annotations", {})
    resources = {"requests": {"storage": size}}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": resources, "storageClassName": "late"}
    return from_object(PersistentVolumeClaim, {"metadata": meta, "spec": {**spec, **fields}})


def volume(name: str, size: str = "1Gi", on: str = "", **fields: Any) -> PersistentVolume:
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}}
    spec["storageClassName"] = "late"
    if on:
        terms = [{"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [on]}]}]
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": terms}}
    body = {"metadata": {"name": name}, "spec": {**spec, **fields}}
    return from_object(PersistentVolume, {**body, "status": {"phase": "Available"}})


def storage_class(provisioner: str = "kubernetes.io/no-provisioner", **fields: Any) -> StorageClass:
    late = {"metadata": {"name": "late"}, "volumeBindingMode": "WaitForFirstConsumer"}
    return from_object(StorageClass, {**late, "provisioner": provisioner, **fields})


def user(*claims: str, name: str = "p") -> PodInfo:
    volumes = [{"name": each, "persistentVolumeClaim": {"claimName": each}} for each in claims]
    return pod(name, volumes=volumes)


def objects(
    claims: list[PersistentVolumeClaim],
    volumes: list[PersistentVolume] | None = None,
    of: StorageClass | None = None,
) -> FakeObjects:
    return FakeObjects(
        claims={f"default/{each.metadata.name}": each for each in claims},
        volumes={each.metadata.name: each for each in volumes or []},
        classes={"late": of or storage_class()},
    )


NODES = [node("a", {ZONE: "x"}), node("b", {ZONE: "y"})]
RESERVED = {"namespace": "default", "name": "c"}
ONLY_X = [{"matchLabelExpressions": [{"key": ZONE, "values": ["x"]}]}]


@pytest.mark.parametrize(
    ("found", "rejected"),
    [
        pytest.param(objects([claim("c")]), {"a": [NO_MATCH], "b": [NO_MATCH]}, id="nothing"),
        pytest.param(
            objects([claim("c")], [volume("v", on="a")]), {"b": [NO_MATCH]}, id="on one node"
        ),
        pytest.param(objects([claim("c")], [volume("v")]), {}, id="everywhere"),
        pytest.param(
            objects([claim("c", "2Gi")], [volume("v")]),
            {"a": [NO_MATCH], "b": [NO_MATCH]},
            id="too small",
        ),
        pytest.param(
            objects([claim("c")], [volume("v", on="a", claimRef=RESERVED), volume("w", on="b")]),
            {"b": [NO_MATCH]},
            id="the reserved one is elsewhere",
        ),
        pytest.param(
            objects([claim("c"), claim("d")], [volume("v", on="a"), volume("w", on="b")]),
            {"a": [NO_MATCH], "b": [NO_MATCH]},
            id="one for two claims",
        ),
        pytest.param(objects([claim("c")], of=storage_class("x.example")), {}, id="to be made"),
        pytest.param(
            objects([claim("c", annotations={SELECTED: "b"})], of=storage_class("x.example")),
            {"a": [NO_MATCH]},
            id="being made",
        ),
        pytest.param(
            objects([claim("c", annotations={SELECTED: "gone"})], of=storage_class("x.example")),
            {"a": [NO_MATCH], "b": [NO_MATCH]},
            id="being made for a node that is gone",
        ),
        pytest.param(
            objects([claim("c")], of=storage_class("x.example", allowedTopologies=ONLY_X)),
            {"b": [NO_MATCH]},
            id="topology",
        ),
        pytest.param(
            objects(
                [claim("c")],
                [volume("v", on="b")],
                storage_class("x.example", allowedTopologies=ONLY_X),
            ),
            {},
            id="made here, found there",
        ),
    ],
)
def test_where_claims_that_wait_can_be_served(
    found: FakeObjects, rejected: dict[str, list[str]]
) -> None:
    wanted = user(*(each.metadata.name for each in found.claims.values()))
    assert reasons(VolumeBinding(), wanted, cluster_of(NODES), found) == rejected


def room(zone: str, capacity: str, maximum: str | None = None) -> CSIStorageCapacity:
    body = {"storageClassName": "late", "capacity": capacity, "maximumVolumeSize": maximum}
    topology = {"matchLabels": {ZONE: zone}}
    return from_object(CSIStorageCapacity, {**body, "nodeTopology": topology})


@pytest.mark.parametrize(
    ("rooms", "rejected"),
    [
        pytest.param([], {"a": [NO_SPACE], "b": [NO_SPACE]}, id="nothing known"),
        pytest.param([room("x", "5Gi"), room("y", "4Gi")], {"b": [NO_SPACE]}, id="on one side"),
        pytest.param(
            [room("x", "9Gi", "4Gi"), room("y", "5Gi", "5Gi")], {"a": [NO_SPACE]}, id="in one piece"
        ),
    ],
)
def test_a_driver_that_says_what_room_it_has(
    rooms: list[CSIStorageCapacity], rejected: dict[str, list[str]]
) -> None:
    found = objects([claim("c", "5Gi")], of=storage_class("x.example"))
    found.rooms = rooms
    assert reasons(VolumeBinding(), user("c"), cluster_of(NODES), found) == {}
    driver = {"metadata": {"name": "x.example"}, "spec": {"storageCapacity": True}}
    found.drivers["x.example"] = from_object(CSIDriver, driver)
    assert reasons(VolumeBinding(), user("c"), cluster_of(NODES), found) == rejected


def choice(wanted: PodInfo, cluster: Cluster, found: FakeObjects) -> Choice:
    result = schedule(wanted, cluster, found, default_profile(), random.Random(0))
    assert isinstance(result, Choice)
    return result


def test_what_is_decided_with_the_node() -> None:
    """Small claims take small volumes; what finds none is made."""
    volumes = [volume("a-big", "9Gi", on="a"), volume("a-small", "2Gi", on="a")]
    claims = [claim("big", "2Gi"), claim("small", "1Gi"), claim("more", "50Gi")]
    found = objects(claims, volumes, storage_class("x.example"))
    cluster = cluster_of([node("a")])
    node_name, plan, _ = choice(user("big", "small", "more"), cluster, found)
    assert node_name == "a"
    assert plan is not None
    pairs = {c.metadata.name: v.metadata.name for c, v in plan.bindings}
    assert pairs == {"small": "a-small", "big": "a-big"}
    assert [each.metadata.name for each in plan.provisions] == ["more"]
    assert choice(user(), cluster, found).volumes is None


CSI = {"driver": "x.example"}
BOUND = {"pv.kubernetes.io/bind-completed": "yes"}


def bound(name: str) -> tuple[PersistentVolumeClaim, PersistentVolume]:
    made = volume(f"v-{name}", csi={**CSI, "volumeHandle": name})
    return claim(name, volumeName=f"v-{name}", annotations=BOUND), made


def test_volumes_of_a_driver_are_counted_once_each() -> None:
    pairs = [bound(name) for name in ("c", "d", "e")]
    found = objects([c for c, _ in pairs], [v for _, v in pairs], storage_class("x.example"))
    found.claims["default/new"] = claim("new")
    there = {"a": [user("c", name="p1"), user("c", name="p2")]}
    cluster = cluster_of(NODES, there)
    plugin = NodeVolumeLimits()
    full = {"a": ["node(s) exceed max volume count"]}
    found.limits = {"x.example": {"a": 1, "gone": 0}}
    assert reasons(plugin, user("d"), cluster, found) == full
    assert reasons(plugin, user("c"), cluster, found) == {}
    assert reasons(plugin, user("new"), cluster, found) == full
    found.limits = {"x.example": {"a": 2}}
    assert reasons(plugin, user("d"), cluster, found) == {}
    assert reasons(plugin, user("d", "e"), cluster, found) == full
    spec = {"attacher": "x.example", "nodeName": "a", "source": {"persistentVolumeName": "v-e"}}
    found.attached = [from_object(VolumeAttachment, {"spec": spec})]
    assert reasons(plugin, user("d"), cluster, found) == full
    assert reasons(plugin, user("e"), cluster, found) == {}
    found.limits = {"y.example": {"a": 0}}
    assert reasons(plugin, user("d"), cluster, found) == {}
    gone = Change(Subject.ASSIGNED_POD, Action.DELETE, there["a"][0])
    assert plugin.helped_by(user("d"), gone)
    assert not plugin.helped_by(user("d"), gone._replace(old=pod("other")))


def gce(read_only: bool) -> dict[str, Any]:
    return {"gcePersistentDisk": {"pdName": "d", "readOnly": read_only}}


def rbd(pool: str, read_only: bool = False) -> dict[str, Any]:
    monitors = ["m1", "m2"] if pool == "p" else ["m2"]
    return {"rbd": {"monitors": monitors, "image": "i", "pool": pool, "readOnly": read_only}}


@pytest.mark.parametrize(
    ("there", "wanted", "is_free"),
    [
        (gce(False), gce(True), False),
        (gce(True), gce(True), True),
        (
            {"awsElasticBlockStore": {"volumeID": "v", "readOnly": True}},
            {"awsElasticBlockStore": {"volumeID": "v", "readOnly": True}},
            False,
        ),
        (rbd("p"), rbd("p"), False),
        (rbd("p", True), rbd("p", True), True),
        (rbd("p"), rbd("q"), True),
        (
            {"iscsi": {"iqn": "i", "readOnly": True}},
            {"iscsi": {"iqn": "i", "readOnly": False}},
            False,
        ),
        ({"iscsi": {"iqn": "i"}}, gce(False), True),
    ],
)
def test_a_disk_is_for_one_pod_of_a_node(
    there: dict[str, Any], wanted: dict[str, Any], is_free: bool
) -> None:
    other = pod("other", volumes=[{"name": "v", **there}])
    cluster = cluster_of(NODES, {"a": [other]})
    mine = pod(volumes=[{"name": "v", **wanted}])
    found = reasons(VolumeRestrictions(), mine, cluster)
    assert found == ({} if is_free else {"a": [NO_DISK]})
    gone = Change(Subject.ASSIGNED_POD, Action.DELETE, other)
    assert VolumeRestrictions().helped_by(mine, gone) is not is_free
