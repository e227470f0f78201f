"""Claims, volumes, classes and drivers for the pods of a world."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim, Pod, Volume
from navarch.api.types.meta_v1 import OwnerReference
from navarch.api.types.storage_v1 import (
    CSIDriver,
    CSINode,
    CSIStorageCapacity,
    StorageClass,
    VolumeAttachment,
)

from . import strategies
from .reference.world import World

Object = dict[str, Any]
DRIVER = "driver.example"
CLAIMS = ("c0", "c1", "c2", "c3")
CLASSES: dict[str, Object] = {
    "static": {
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    },
    "made": {"provisioner": DRIVER, "volumeBindingMode": "WaitForFirstConsumer"},
    "now": {"provisioner": DRIVER, "volumeBindingMode": "Immediate"},
}
ZONE_LABELS = (
    strategies.ZONE,
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
)
one, seldom = strategies.one, strategies.seldom


@st.composite
def claims(draw: st.DrawFn, name: str) -> PersistentVolumeClaim:
    meta: Object = {"name": name, "namespace": "one", "uid": name, "annotations": {}}
    spec: Object = {
        "storageClassName": draw(one("static", "made", "static", "made", "now")),
        "accessModes": [draw(one("ReadWriteOnce", "ReadWriteOnce", "ReadWriteOncePod"))],
        "resources": {"requests": {"storage": f"{draw(st.integers(1, 3))}Gi"}},
    }
    status: Object = {"phase": "Pending"}
    if draw(st.booleans()):
        spec["volumeName"] = draw(one("v0", "v1", "v2", "v3", "missing"))
        status["phase"] = "Bound"
        if not seldom(draw):
            meta["annotations"]["pv.kubernetes.io/bind-completed"] = "yes"
    elif seldom(draw):
        meta["annotations"]["volume.kubernetes.io/selected-node"] = draw(one("n0", "n1"))
    if seldom(draw):
        draw(one(status, status))["phase"] = draw(one("Pending", "Lost"))
    if seldom(draw):
        meta["deletionTimestamp"] = "2026-01-01T01:00:00Z"
    return from_object(PersistentVolumeClaim, {"metadata": meta, "spec": spec, "status": status})


@st.composite
def volumes(draw: st.DrawFn, number: int) -> PersistentVolume:
    name = f"v{number}"
    meta: Object = {"name": name, "uid": name, "labels": {}}
    spec: Object = {
        "storageClassName": draw(one("static", "made")),
        "accessModes": ["ReadWriteOnce", "ReadWriteOncePod"][: draw(one(2, 1))],
        # No two of a size: which of them is taken would be left to chance.
        "capacity": {"storage": f"{1024 * draw(st.integers(1, 3)) + number}Mi"},
    }
    if draw(st.booleans()):
        spec["csi"] = {"driver": DRIVER, "volumeHandle": draw(one("h0", "h1", "h2"))}
    if draw(st.booleans()):
        key = draw(one(strategies.ZONE, strategies.HOSTNAME))
        values = [draw(one("1", "2", "n0", "n1"))]
        expression = {"key": key, "operator": "In", "values": values}
        terms = [{"matchExpressions": [expression]}]
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": terms}}
    if seldom(draw, True):
        meta["labels"] = {draw(one(*ZONE_LABELS)): draw(one("1", "2", "1__2"))}
    if seldom(draw):
        claim = draw(one(*CLAIMS))
        spec["claimRef"] = {"namespace": "one", "name": claim, "uid": draw(one("", claim))}
    status = {"phase": draw(one("Available", "Available", "Available", "Released"))}
    return from_object(PersistentVolume, {"metadata": meta, "spec": spec, "status": status})


@st.composite
def inline_disks(draw: st.DrawFn) -> Object:
    read_only = draw(st.booleans())
    kind = draw(one("gce", "ebs", "iscsi", "rbd"))
    if kind == "gce":
        return {"gcePersistentDisk": {"pdName": "d", "readOnly": read_only}}
    if kind == "ebs":
        return {"awsElasticBlockStore": {"volumeID": "d"}}
    if kind == "iscsi":
        found = {"targetPortal": "t", "iqn": "q", "lun": 0, "readOnly": read_only}
        return {"iscsi": found}
    monitors = draw(one(["a"], ["b"], ["a", "b"]))
    return {"rbd": {"monitors": monitors, "image": "i", "pool": "p", "readOnly": read_only}}


@st.composite
def pod_volumes(draw: st.DrawFn, pod: str) -> tuple[list[Volume], list[str]]:
    """And the names of the claims that are made for the pod."""
    found: list[Object] = []
    made, named = [], []
    for number in range(draw(st.integers(0, 2))):
        kind = draw(one("claim", "claim", "claim", "claim", "disk", "ephemeral"))
        if kind == "claim":
            # Not the same twice: upstream looks for two volumes for it, Navarch for one.
            left = [name for name in CLAIMS if name not in named]
            name = draw(one(*left, *left, *left, "unheard-of"))
            named.append(name)
            volume: Object = {"persistentVolumeClaim": {"claimName": name}}
        elif kind == "disk":
            volume = draw(inline_disks())
        else:
            volume = {"ephemeral": {"volumeClaimTemplate": {"spec": {}}}}
            made.append(f"{pod}-d{number}")
        found.append({"name": f"d{number}", **volume})
    return [from_object(Volume, volume) for volume in found], made


@st.composite
def capacities(draw: st.DrawFn, number: int) -> CSIStorageCapacity:
    found: Object = {
        "metadata": {"name": f"r{number}", "namespace": "one", "uid": f"r{number}"},
        "storageClassName": "made",
        "capacity": draw(one("2Gi", "1Gi")),
    }
    if seldom(draw):
        found["maximumVolumeSize"] = draw(one("1Gi", "3Gi"))
    if not seldom(draw):
        zone = draw(one("1", "2"))
        found["nodeTopology"] = {"matchLabels": {strategies.ZONE: zone}}
    return from_object(CSIStorageCapacity, found)


@st.composite
def made_claims(draw: st.DrawFn, pod: Pod, name: str) -> PersistentVolumeClaim:
    """A claim that is made for the pod, or only bears the name of one."""
    claim = draw(claims(name))
    claim.metadata.namespace = pod.metadata.namespace
    owner = OwnerReference(apiVersion="v1", kind="Pod", name=pod.metadata.name, controller=True)
    owner.uid = "another" if seldom(draw) else pod.metadata.uid
    claim.metadata.ownerReferences = [owner]
    return claim


@st.composite
def with_volumes(draw: st.DrawFn, world: World) -> None:
    """Give the pods volumes, and the world what is behind them."""
    world.claims = [draw(claims(name)) for name in CLAIMS if not seldom(draw)]
    world.volumes = [draw(volumes(number)) for number in range(draw(st.integers(0, 4)))]
    for name, spec in CLASSES.items():
        found: Object = {"metadata": {"name": name, "uid": name}, **spec}
        if name == "made" and seldom(draw):
            zones = [{"key": strategies.ZONE, "values": [draw(one("1", "2"))]}]
            found["allowedTopologies"] = [{"matchLabelExpressions": zones}]
        world.classes.append(from_object(StorageClass, found))
    for pod in world.pods:
        pod.spec.volumes, made = draw(pod_volumes(pod.metadata.name))
        world.claims += [draw(made_claims(pod, name)) for name in made if not seldom(draw)]
    for node in world.nodes:
        if draw(st.booleans()):
            count = {"allocatable": {"count": draw(one(0, 1, 2))}} if not seldom(draw) else {}
            drivers = [{"name": DRIVER, "nodeID": "id", **count}]
            meta = {"name": node.metadata.name, "uid": node.metadata.name}
            world.csi_nodes.append(
                from_object(CSINode, {"metadata": meta, "spec": {"drivers": drivers}})
            )
    if draw(st.booleans()):
        meta = {"name": DRIVER, "uid": DRIVER}
        spec = {"storageCapacity": draw(st.booleans())}
        world.csi_drivers = [from_object(CSIDriver, {"metadata": meta, "spec": spec})]
        world.capacities = [draw(capacities(n)) for n in range(draw(st.integers(0, 2)))]
    if world.volumes and seldom(draw):
        spec = {
            "attacher": DRIVER,
            "nodeName": "n0",
            "source": {"persistentVolumeName": "v0"},
        }
        meta = {"name": "a", "uid": "a"}
        world.attachments = [from_object(VolumeAttachment, {"metadata": meta, "spec": spec})]
