"""What the built-in provisioner makes, refuses and lets go."""

from __future__ import annotations

import json
from typing import Any

import pytest

from navarch.api.objects import from_object
from navarch.api.persistent_volumes import LOCAL_PROVISIONER
from navarch.api.types.core_v1 import Node, PersistentVolume, PersistentVolumeClaim
from navarch.api.types.storage_v1 import StorageClass
from navarch.cluster.addons import standard_class
from navarch.controllers.persistent_volume_provisioner import (
    Provision,
    Refuse,
    growth,
    plan,
    wants_volume,
)
from navarch.controllers.persistent_volume_reclaimer import plan_reclaim

UID = "0000000a-1111-2222-3333-444444444444"
NAME = f"pvc-{UID}"
GUARD = "external-provisioner.volume.kubernetes.io/finalizer"
SELECTED = "volume.kubernetes.io/selected-node"
ASKED = {"volume.kubernetes.io/storage-provisioner": LOCAL_PROVISIONER}
DIRECTORY = "local-path.navarch.dev/directory"


def node(name: str = "n", *, ready: str = "True", directory: str = "/vols", **spec: Any) -> Node:
    labels = {"kubernetes.io/hostname": f"host-{name}", **spec.pop("labels", {})}
    annotations = {DIRECTORY: directory} if directory else {}
    annotations.update(spec.pop("annotations", {}))
    meta = {"name": name, "labels": labels, "annotations": annotations}
    status = {"conditions": [{"type": "Ready", "status": ready}]}
    return from_object(Node, {"metadata": meta, "spec": spec, "status": status})


def claim(annotations: dict[str, str] | None = None, **spec: Any) -> PersistentVolumeClaim:
    meta = {"name": "c", "namespace": "ns", "uid": UID, "annotations": {**ASKED}}
    meta["annotations"] = {**ASKED, **(annotations or {})}
    resources = {"requests": {"storage": "1Gi"}}
    body = {"accessModes": ["ReadWriteOnce"], "resources": resources, "storageClassName": "s"}
    return from_object(PersistentVolumeClaim, {"metadata": meta, "spec": {**body, **spec}})


def storage_class(**fields: Any) -> StorageClass:
    return from_object(
        StorageClass, {"metadata": {"name": "s"}, "provisioner": LOCAL_PROVISIONER, **fields}
    )


LATE = storage_class(volumeBindingMode="WaitForFirstConsumer")


def test_the_class_standard_is_served_by_this_provisioner() -> None:
    assert standard_class()["provisioner"] == LOCAL_PROVISIONER


@pytest.mark.parametrize(
    ("found", "of", "expected"),
    [
        pytest.param(claim(), storage_class(), True, id="immediate"),
        pytest.param(claim(), LATE, False, id="no node yet"),
        pytest.param(claim({SELECTED: "n"}), LATE, True, id="node chosen"),
        pytest.param(claim(volumeName="v"), storage_class(), False, id="has a volume"),
        pytest.param(claim(), None, False, id="class gone"),
        pytest.param(claim(), storage_class(provisioner="x.example"), False, id="another's class"),
        pytest.param(
            claim({"volume.kubernetes.io/storage-provisioner": "x.example"}),
            storage_class(),
            False,
            id="another asked",
        ),
    ],
)
def test_whose_turn_it_is(
    found: PersistentVolumeClaim, of: StorageClass | None, expected: bool
) -> None:
    assert wants_volume(found, of) is expected


@pytest.mark.parametrize(
    ("found", "of", "message", "reschedule"),
    [
        (claim(volumeMode="Block"), storage_class(), "block volumes are not supported", False),
        (
            claim(dataSource={"kind": "PersistentVolumeClaim", "name": "other"}),
            storage_class(),
            "data sources are not supported",
            False,
        ),
        (
            claim(selector={"matchLabels": {"a": "b"}}),
            storage_class(),
            "claim.Spec.Selector is not supported",
            False,
        ),
        (claim(), storage_class(parameters={"b": "1", "a": "2"}), "parameters: a, b", False),
        (claim(), storage_class(mountOptions=["ro"]), "mount options are not supported", False),
        (claim({SELECTED: "gone"}), LATE, 'node "gone" not found', True),
        (claim({SELECTED: "bare"}), LATE, 'node "bare" takes no volumes', True),
    ],
)
def test_what_is_refused(
    found: PersistentVolumeClaim, of: StorageClass, message: str, reschedule: bool
) -> None:
    nodes = {"n": node(), "bare": node("bare", directory="")}
    refusal = plan(found, of, nodes)
    assert isinstance(refusal, Refuse)
    assert message in refusal.message
    assert refusal.reschedule is reschedule


@pytest.mark.parametrize(
    ("other", "is_able"),
    [
        pytest.param(node("m"), True, id="able"),
        pytest.param(node("m", ready="False"), False, id="not ready"),
        pytest.param(node("m", unschedulable=True), False, id="cordoned"),
        pytest.param(node("m", taints=[{"key": "k", "effect": "NoSchedule"}]), False, id="tainted"),
        pytest.param(node("m", directory=""), False, id="no directory"),
        pytest.param(node("m", labels={"zone": "other"}), False, id="other zone"),
    ],
)
def test_a_node_for_a_claim_that_waits_for_no_pod(other: Node, is_able: bool) -> None:
    zones = [{"matchLabelExpressions": [{"key": "zone", "values": ["here"]}]}]
    of = storage_class(allowedTopologies=zones)
    if "zone" not in other.metadata.labels:
        other.metadata.labels["zone"] = "here"
    found = plan(claim(), of, {"m": other})
    assert isinstance(found, Provision) is is_able


def test_the_volume_that_is_made() -> None:
    found = plan(claim({SELECTED: "n"}), LATE, {"n": node(), "m": node("m")})
    assert isinstance(found, Provision)
    meta, spec = found.volume.metadata, found.volume.spec
    assert meta.name == NAME
    assert meta.finalizers == [GUARD]
    assert spec.capacity == {"storage": "1Gi"}
    assert spec.persistentVolumeReclaimPolicy == "Delete"
    assert spec.local is not None
    assert spec.local.path == f"/vols/{NAME}"
    assert spec.claimRef is not None
    assert (spec.claimRef.namespace, spec.claimRef.name, spec.claimRef.uid) == ("ns", "c", UID)
    kept = plan(claim({SELECTED: "n"}), storage_class(reclaimPolicy="Retain"), {"n": node()})
    assert isinstance(kept, Provision)
    assert kept.volume.metadata.finalizers == []
    # Names of claims and classes are nowhere in the path.
    odd = claim({SELECTED: "n"})
    odd.metadata.name = "../../etc"
    again = plan(odd, LATE, {"n": node()})
    assert isinstance(again, Provision)
    assert again.volume.spec.local == spec.local


def test_growth_ends_what_a_resize_began() -> None:
    found = claim()
    conditions = [{"type": "Resizing", "status": "True"}, {"type": "Mine", "status": "True"}]
    status = {"capacity": {"storage": "1Gi"}, "conditions": conditions}
    found.status = from_object(PersistentVolumeClaim, {"status": status}).status
    found.spec.resources.requests = {"storage": "2Gi"}
    after = growth(found)
    assert after["capacity"] == after["allocatedResources"] == {"storage": "2Gi"}
    assert [each["type"] for each in after["conditions"]] == ["Mine"]


def volume(
    name: str, phase: str = "Released", policy: str = "Delete", guard: str = GUARD
) -> PersistentVolume:
    meta = {"name": name, "finalizers": [guard]}
    spec = {"persistentVolumeReclaimPolicy": policy}
    return from_object(
        PersistentVolume, {"metadata": meta, "spec": spec, "status": {"phase": phase}}
    )


def names(volumes: tuple[PersistentVolume, ...]) -> list[str]:
    return [each.metadata.name for each in volumes]


def test_how_volumes_are_let_go() -> None:
    volumes = [
        volume("c"),
        volume("a", "Failed"),
        volume("used", "Bound"),
        volume("kept", policy="Retain"),
        volume("b"),
    ]
    assert plan_reclaim(volumes, node()).request == "a,b,c"
    told = {"local-path.navarch.dev/removed": json.dumps({"a": "", "b": "on fire", "used": ""})}
    found = plan_reclaim(volumes, node(annotations=told))
    assert found.request == "b,c"
    assert names(found.done) == ["a"]
    assert [(each.metadata.name, why) for each, why in found.failed] == [("b", "on fire")]
    assert names(found.released) == ["kept"]
    for garbled in ("{", "[]", "7"):
        told = {"local-path.navarch.dev/removed": garbled}
        assert not plan_reclaim(volumes, node(annotations=told)).done
    # A node that is gone has taken its disk along; a simulated one has none.
    simulated = node(labels={"navarch.dev/node-kind": "simulated"})
    for where in (None, simulated):
        assert names(plan_reclaim(volumes, where).done) == ["a", "b", "c"]
        assert not plan_reclaim(volumes, where).request
    assert not plan_reclaim(volumes, None, is_away=True).done
    # What was to be kept is to go after all.
    late = [volume("x", guard="other"), volume("y", "Bound", guard="other")]
    found = plan_reclaim(late, node())
    assert (found.request, names(found.unguarded)) == ("x", ["x", "y"])
    late[0].metadata.deletionTimestamp = "2026-01-01T00:00:00Z"
    assert not plan_reclaim(late[:1], node()).request
    many = [volume(f"v{number:04}") for number in range(1000)]
    assert len(plan_reclaim(many, node()).request) < 2000
