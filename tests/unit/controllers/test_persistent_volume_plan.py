"""What the binder does next, for every state a claim and a volume can be in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim
from navarch.api.types.storage_v1 import StorageClass
from navarch.controllers import persistent_volume_plan as plans
from navarch.controllers.persistent_volume_plan import (
    AskProvisioner,
    AssignClass,
    Bind,
    HandOver,
    Say,
    SetClaimPhase,
    SetVolumePhase,
    Unbind,
    Wake,
    plan_claim,
    plan_volume,
    status_patch,
)

BY_US = {"pv.kubernetes.io/bound-by-controller": "yes"}
BOUND = {"pv.kubernetes.io/bind-completed": "yes"}
REF = {"namespace": "ns", "name": "c", "uid": "u"}
TAKEN = {"namespace": "ns", "name": "other", "uid": "x"}


def volume(name: str = "v", size: str = "1Gi", phase: str = "Available", **spec: Any) -> Any:
    meta = {"name": name, "annotations": spec.pop("annotations", {})}
    meta["labels"] = spec.pop("labels", {})
    meta["deletionTimestamp"] = spec.pop("deletionTimestamp", None)
    body = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, **spec}
    return from_object(
        PersistentVolume, {"metadata": meta, "spec": body, "status": {"phase": phase}}
    )


def claim(size: str = "1Gi", phase: str = "Pending", **spec: Any) -> Any:
    meta = {"name": "c", "namespace": "ns", "uid": "u"}
    meta["annotations"] = spec.pop("annotations", {})
    resources = {"requests": {"storage": size}}
    body = {
        "accessModes": ["ReadWriteOnce"],
        "resources": resources,
        "storageClassName": "",
        **spec,
    }
    return from_object(
        PersistentVolumeClaim, {"metadata": meta, "spec": body, "status": {"phase": phase}}
    )


@dataclass
class View:
    volumes: list[PersistentVolume] = field(default_factory=list)
    classes: list[StorageClass] = field(default_factory=list)
    pods: list[str] = field(default_factory=list)

    def volume(self, name: str) -> PersistentVolume | None:
        return next((each for each in self.volumes if each.metadata.name == name), None)

    def reserved_for(self, claim: PersistentVolumeClaim) -> list[PersistentVolume]:
        refs = ((each, each.spec.claimRef) for each in self.volumes)
        return [each for each, ref in refs if ref is not None and ref.name == claim.metadata.name]

    def of_class(self, name: str) -> list[PersistentVolume]:
        return [each for each in self.volumes if each.spec.storageClassName == name]

    def storage_class(self, name: str) -> StorageClass | None:
        return next((each for each in self.classes if each.metadata.name == name), None)

    def default_class(self) -> StorageClass | None:
        return next((each for each in self.classes if each.metadata.name == "default"), None)

    def waiting_pods(self, claim: PersistentVolumeClaim) -> list[str]:
        return self.pods


def chosen(wanted: PersistentVolumeClaim, *volumes: PersistentVolume) -> str:
    """The volume that a claim gets."""
    for action in plan_claim(wanted, View([*volumes])):
        if isinstance(action, Bind):
            return action.volume.metadata.name
    return ""


@pytest.mark.parametrize(
    ("wanted", "volumes", "expected"),
    [
        pytest.param(claim("2Gi"), [volume("s"), volume("l", "3Gi")], "l", id="large enough"),
        pytest.param(claim(), [volume("l", "3Gi"), volume("s", "2Gi")], "s", id="the smallest"),
        pytest.param(
            claim(),
            [volume("many", accessModes=["ReadWriteOnce", "ReadOnlyMany"]), volume("one", "9Gi")],
            "one",
            id="the fewest modes",
        ),
        pytest.param(claim(accessModes=["ReadWriteMany"]), [volume()], "", id="access modes"),
        pytest.param(claim(volumeMode="Block"), [volume()], "", id="volume mode"),
        pytest.param(claim(storageClassName="gold"), [volume()], "", id="another class"),
        pytest.param(
            claim(storageClassName="gold"), [volume(storageClassName="gold")], "v", id="its class"
        ),
        pytest.param(
            claim(selector={"matchLabels": {"a": "b"}}),
            [volume("no"), volume("yes", "9Gi", labels={"a": "b"})],
            "yes",
            id="selector",
        ),
        pytest.param(claim(), [volume(phase="Pending")], "", id="not available yet"),
        pytest.param(claim(), [volume(phase="Released", claimRef=TAKEN)], "", id="taken"),
        pytest.param(
            claim(), [volume(deletionTimestamp="2026-01-01T00:00:00Z")], "", id="on its way out"
        ),
        pytest.param(
            claim(), [volume(volumeAttributesClassName="fast")], "", id="another attributes class"
        ),
        pytest.param(
            claim(volumeAttributesClassName="fast"),
            [volume(volumeAttributesClassName="fast")],
            "v",
            id="its attributes class",
        ),
        pytest.param(
            claim(),
            [volume("small"), volume("kept", "9Gi", claimRef={"namespace": "ns", "name": "c"})],
            "kept",
            id="reserved by name",
        ),
        pytest.param(
            claim(), [volume("kept", claimRef={**REF, "uid": "old"})], "", id="of an earlier claim"
        ),
        pytest.param(
            claim("2Gi"),
            [volume("kept", claimRef={"namespace": "ns", "name": "c"}), volume("free", "2Gi")],
            "free",
            id="reserved but too small",
        ),
        pytest.param(claim(volumeName="v"), [volume("a"), volume("v", "9Gi")], "v", id="by name"),
        pytest.param(claim(volumeName="v"), [volume(phase="Pending")], "v", id="by name, at once"),
        pytest.param(claim(volumeName="v"), [volume(claimRef=TAKEN)], "", id="by name, taken"),
        pytest.param(
            claim(annotations=BOUND, volumeName="v"), [volume(claimRef=REF)], "v", id="repaired"
        ),
        pytest.param(
            claim(annotations=BOUND, volumeName="v"), [volume()], "v", id="link lost, bound anew"
        ),
    ],
)
def test_which_volume_a_claim_gets(
    wanted: PersistentVolumeClaim, volumes: list[PersistentVolume], expected: str
) -> None:
    assert chosen(wanted, *volumes) == expected


LATE = from_object(
    StorageClass,
    {
        "metadata": {"name": "late"},
        "provisioner": "x.example",
        "volumeBindingMode": "WaitForFirstConsumer",
    },
)
NOW = from_object(StorageClass, {"metadata": {"name": "now"}, "provisioner": "x.example"})
DEFAULT = from_object(StorageClass, {"metadata": {"name": "default"}, "provisioner": "x.example"})
PENDING = SetClaimPhase("Pending")


@pytest.mark.parametrize(
    ("wanted", "view", "expected"),
    [
        pytest.param(
            claim(storageClassName="late"),
            View([volume(storageClassName="late")], [LATE]),
            ["WaitForFirstConsumer", PENDING],
            id="delayed, though there is a volume",
        ),
        pytest.param(
            claim(storageClassName="late"),
            View([], [LATE], ["b", "a"]),
            ["waiting for pods a,b to be scheduled", PENDING],
            id="delayed, with pods",
        ),
        pytest.param(
            claim(
                storageClassName="late",
                annotations={"volume.kubernetes.io/selected-node": "n"},
            ),
            View([], [LATE]),
            [AskProvisioner("x.example"), "ExternalProvisioning"],
            id="delayed, node chosen",
        ),
        pytest.param(
            claim(storageClassName="now"),
            View([], [NOW]),
            [AskProvisioner("x.example"), "ExternalProvisioning"],
            id="provisioned",
        ),
        pytest.param(
            claim(storageClassName=None),
            View([], [DEFAULT]),
            [AssignClass("default")],
            id="default class",
        ),
        pytest.param(claim(), View([], [DEFAULT]), ["FailedBinding", PENDING], id="no class"),
        pytest.param(claim(volumeName="v"), View(), [PENDING], id="named volume not there yet"),
        pytest.param(
            claim("9Gi", volumeName="v"),
            View([volume()]),
            ['Cannot bind to requested volume "v": requested PV is too small', PENDING],
            id="named volume too small",
        ),
        pytest.param(
            claim(annotations=BOUND, phase="Bound", volumeName="v"),
            View(),
            [SetClaimPhase("Lost"), "Data on the volume is lost!"],
            id="volume gone",
        ),
        pytest.param(
            claim(annotations=BOUND, phase="Bound"),
            View(),
            [SetClaimPhase("Lost"), "has lost reference to PersistentVolume"],
            id="reference gone",
        ),
        pytest.param(
            claim(annotations=BOUND, phase="Bound", volumeName="v"),
            View([volume(claimRef=TAKEN)]),
            [SetClaimPhase("Lost"), "ClaimMisbound"],
            id="volume of another",
        ),
        pytest.param(
            claim(annotations=BOUND, phase="Lost", volumeName="v"), View(), [], id="lost before"
        ),
    ],
)
def test_what_is_done_about_a_claim(
    wanted: PersistentVolumeClaim, view: View, expected: list[Any]
) -> None:
    found = plan_claim(wanted, view)
    assert len(found) == len(expected)
    for action, each in zip(found, expected, strict=True):
        if isinstance(each, str):
            assert isinstance(action, Say)
            assert each in (action.reason, action.message) or each in action.message
        else:
            assert action == each


PROVISIONED = {"pv.kubernetes.io/provisioned-by": "x.example"}


@pytest.mark.parametrize(
    ("found", "owner", "expected"),
    [
        pytest.param(volume(phase="Pending"), None, [SetVolumePhase("Available")], id="free"),
        pytest.param(
            volume(claimRef={"namespace": "ns", "name": "c"}),
            None,
            [SetVolumePhase("Available")],
            id="reserved",
        ),
        pytest.param(volume(claimRef=REF), claim(), [Wake("ns/c")], id="half bound"),
        pytest.param(
            volume(claimRef=REF), claim(volumeName="v"), [SetVolumePhase("Bound")], id="bound"
        ),
        pytest.param(
            volume(claimRef=REF), claim(volumeName="w"), [Unbind()], id="claim went elsewhere"
        ),
        pytest.param(
            volume(claimRef=REF, annotations=PROVISIONED, persistentVolumeReclaimPolicy="Delete"),
            claim(volumeName="w"),
            [SetVolumePhase("Released")],
            id="made for a claim that went elsewhere",
        ),
        pytest.param(
            volume(claimRef=REF, phase="Bound", persistentVolumeReclaimPolicy="Retain"),
            None,
            [SetVolumePhase("Released")],
            id="claim gone",
        ),
        pytest.param(
            volume(claimRef=REF, phase="Failed", persistentVolumeReclaimPolicy="Recycle"),
            None,
            [],
            id="failed before",
        ),
        pytest.param(
            volume(
                claimRef=REF,
                phase="Released",
                persistentVolumeReclaimPolicy="Delete",
                annotations={"pv.kubernetes.io/migrated-to": "csi.example"},
            ),
            None,
            [],
            id="a driver's",
        ),
        pytest.param(
            volume(annotations={"pv.kubernetes.io/provisioned-by": "kubernetes.io/gce-pd"}),
            None,
            [HandOver("pd.csi.storage.gke.io")],
            id="built in no more",
        ),
    ],
)
def test_what_is_done_about_a_volume(
    found: PersistentVolume, owner: PersistentVolumeClaim | None, expected: list[Any]
) -> None:
    assert plan_volume(found, owner) == expected


def test_the_modes_must_agree_even_when_reserved() -> None:
    about_both = plan_volume(volume(claimRef=REF, volumeMode="Block"), claim())
    assert [type(each).__name__ for each in about_both] == ["Say", "SayOfClaim"]


def test_only_what_changes_is_written() -> None:
    bound = claim(phase="Bound")
    bound.status.accessModes = ["ReadWriteOnce"]
    bound.status.capacity = {"storage": "500Mi"}
    # The file system is smaller than its volume: that is somebody else's business.
    assert status_patch(bound, "Bound", volume()) is None
    fresh = status_patch(claim(), "Bound", volume(volumeAttributesClassName="fast"))
    assert fresh == {
        "status": {
            "phase": "Bound",
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
            "currentVolumeAttributesClassName": "fast",
        }
    }
    lost = status_patch(bound, "Lost", None)
    assert lost == {"status": {"phase": "Lost", "accessModes": None, "capacity": None}}
    ours, theirs = volume(claimRef=REF, annotations=BY_US), volume(claimRef=REF)
    assert plans.unbind_patch(ours)["spec"] == {"claimRef": None}
    assert plans.unbind_patch(theirs)["spec"] == {"claimRef": {"uid": None}}
    failed = volume(phase="Failed")
    assert plans.phase_patch(failed, "Available") == {
        "status": {"phase": "Available", "message": None}
    }
    assert plans.phase_patch(volume(), "Bound") == {"status": {"phase": "Bound"}}
