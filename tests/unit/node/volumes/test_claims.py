"""Claims: looked up and checked as upstream does."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.api.objects import from_object
from navarch.api.persistent_volumes import claim_name
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim
from navarch.node.volumes.claims import (
    bound_volume_name,
    check_bound,
    check_node,
    used_volumes,
)
from navarch.node.volumes.plugin import VolumeProblem, VolumeSpec


def make_claim(**changes: Any) -> PersistentVolumeClaim:
    document: dict[str, Any] = {
        "metadata": {"name": "data", "namespace": "default", "uid": "c-1", "finalizers": []},
        "spec": {"volumeName": "pv-1"},
        "status": {"phase": "Bound"},
    }
    for part, fields in changes.items():
        document[part] |= fields
    return from_object(PersistentVolumeClaim, document)


def make_volume(**spec: Any) -> PersistentVolume:
    whole = {"claimRef": {"uid": "c-1"}, "hostPath": {"path": "/data"}, **spec}
    return from_object(PersistentVolume, {"metadata": {"name": "pv-1"}, "spec": whole})


def pod_with(volume: dict[str, Any], **container: Any) -> Any:
    return make_pod({"name": "main", **container}, volumes=[{"name": "vol", **volume}])


CLAIMED = {"persistentVolumeClaim": {"claimName": "data"}}
EPHEMERAL: dict[str, Any] = {"ephemeral": {"volumeClaimTemplate": {"spec": {}}}}
OWNED = {"ownerReferences": [{"uid": "u-1", "controller": True, "kind": "Pod", "name": "web"}]}


@pytest.mark.parametrize(
    ("volume", "claim", "complaint"),
    [
        (CLAIMED, make_claim(), ""),
        (CLAIMED, None, "error processing PVC default/data: failed to fetch PVC from API server: "
                        'persistentvolumeclaims "data" not found'),
        (CLAIMED, make_claim(status={"phase": "Pending"}),
         "error processing PVC default/data: PVC is not bound"),
        (CLAIMED, make_claim(spec={"volumeName": ""}),
         "error processing PVC default/data: PVC has empty pvc.Spec.VolumeName"),
        (CLAIMED, make_claim(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
         "error processing PVC default/data: PVC is being deleted"),
        (CLAIMED, make_claim(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z",
                                       "finalizers": ["kubernetes.io/pvc-protection"]}), ""),
        (EPHEMERAL, make_claim(metadata=OWNED), ""),
        (EPHEMERAL, make_claim(), "PVC default/web-vol was not created for pod default/web (pod is "
                                  "not owner)"),
    ],
)  # fmt: skip
def test_claims(
    volume: dict[str, Any], claim: PersistentVolumeClaim | None, complaint: str
) -> None:
    pod = pod_with(volume)
    if not complaint:
        assert bound_volume_name(pod, pod.spec.volumes[0], claim) == "pv-1"
        return
    with pytest.raises(VolumeProblem) as problem:
        bound_volume_name(pod, pod.spec.volumes[0], claim)
    assert str(problem.value) == complaint


MOUNTED = {"volumeMounts": [{"name": "vol", "mountPath": "/v"}]}
DEVICE = {"volumeDevices": [{"name": "vol", "devicePath": "/dev/x"}]}


@pytest.mark.parametrize(
    ("container", "volume", "complaint"),
    [
        (MOUNTED, make_volume(), ""),
        (DEVICE, make_volume(volumeMode="Block"), ""),
        (MOUNTED, None, 'error processing PVC default/data: failed to fetch PV pv-1 from API '
                        'server: persistentvolumes "pv-1" not found'),
        (MOUNTED, make_volume(claimRef=None),
         "error processing PVC default/data: found PV object pv-1 but it has a nil pv.Spec.ClaimRef"
         " indicating it is not yet bound to the claim"),
        (MOUNTED, make_volume(claimRef={"uid": "other"}),
         "error processing PVC default/data: found PV object pv-1 but its pv.Spec.ClaimRef.UID "
         "other does not point to claim.UID c-1"),
        (MOUNTED, make_volume(volumeMode="Block"),
         "volume vol has volumeMode Block, but is specified in volumeMounts"),
        (DEVICE, make_volume(),
         "volume vol has volumeMode Filesystem, but is specified in volumeDevices"),
    ],
)  # fmt: skip
def test_volumes(
    container: dict[str, Any], volume: PersistentVolume | None, complaint: str
) -> None:
    pod = pod_with(CLAIMED, **container)
    if not complaint:
        check_bound(pod, pod.spec.volumes[0], make_claim(), volume)
        return
    with pytest.raises(VolumeProblem) as problem:
        check_bound(pod, pod.spec.volumes[0], make_claim(), volume)
    assert str(problem.value) == complaint


@pytest.mark.parametrize(("zone", "is_here"), [("a", True), ("b", False)])
def test_a_volume_of_another_node(zone: str, is_here: bool) -> None:
    expression = {"key": "zone", "operator": "In", "values": [zone]}
    terms = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    pod = pod_with(CLAIMED)
    spec = VolumeSpec(pod, pod.spec.volumes[0], make_volume(nodeAffinity=terms))
    if is_here:
        check_node(spec, "node-1", {"zone": "a"})
        return
    with pytest.raises(VolumeProblem, match="no matching NodeSelectorTerms"):
        check_node(spec, "node-1", {"zone": "a"})


def test_what_a_pod_uses() -> None:
    pod = make_pod(
        {"name": "main", "volumeMounts": [{"name": "a", "mountPath": "/a"}]},
        initContainers=[{"name": "init", **DEVICE}],
        ephemeralContainers=[{"name": "debug", "volumeMounts": [{"name": "b", "mountPath": "/b"}]}],
        volumes=[{"name": name, "emptyDir": {}} for name in ("a", "b", "unused")],
    )
    assert used_volumes(pod) == ({"a", "b"}, {"vol"})
    assert claim_name(pod, pod.spec.volumes[0]) == ""


def test_mount_options_and_modes() -> None:
    annotation = {"volume.beta.kubernetes.io/mount-options": "ro,soft"}
    pod = pod_with({"persistentVolumeClaim": {"claimName": "data", "readOnly": True}})
    volume = make_volume(mountOptions=["nolock"], volumeMode="Block")
    volume.metadata.annotations = annotation
    spec = VolumeSpec(pod, pod.spec.volumes[0], volume)
    assert spec.mount_options == ("ro", "soft", "nolock")
    assert spec.is_block and spec.read_only and spec.name == "pv-1"
