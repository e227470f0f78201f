"""Which volume stands behind a pod's volume: claims are looked up and checked. Pure.

The checks and their texts are upstream's (`desired_state_of_world_populator.go`): the scheduler has
looked at the same things, but a pod may name its node itself, and claims change meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping

from navarch.api.node_selection import selects
from navarch.api.persistent_volumes import claim_name
from navarch.api.types.core_v1 import (
    Container,
    EphemeralContainer,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    Volume,
)

from .plugin import VolumeProblem, VolumeSpec

PROTECTION = "kubernetes.io/pvc-protection"


class ClaimProblem(VolumeProblem):
    """The claim is not ready: no attempt is made at mounting anything."""


def bound_volume_name(pod: Pod, volume: Volume, claim: PersistentVolumeClaim | None) -> str:
    """The persistent volume of a claim that may be used."""
    where = f"{pod.metadata.namespace}/{claim_name(pod, volume)}"
    complaint = ""
    if claim is None:
        name = claim_name(pod, volume)
        complaint = (
            f'failed to fetch PVC from API server: persistentvolumeclaims "{name}" not found'
        )
    elif claim.metadata.deletionTimestamp and PROTECTION not in claim.metadata.finalizers:
        complaint = "PVC is being deleted"
    elif claim.status.phase != "Bound":
        complaint = "PVC is not bound"
    elif not claim.spec.volumeName:
        complaint = "PVC has empty pvc.Spec.VolumeName"
    if claim is None or complaint:
        raise ClaimProblem(f"error processing PVC {where}: {complaint}")
    if volume.ephemeral is not None and not any(
        owner.controller and owner.uid == pod.metadata.uid
        for owner in claim.metadata.ownerReferences
    ):
        raise ClaimProblem(
            f"PVC {where} was not created for pod {pod.metadata.namespace}/{pod.metadata.name} "
            "(pod is not owner)"
        )
    return claim.spec.volumeName


def check_bound(
    pod: Pod, volume: Volume, claim: PersistentVolumeClaim, found: PersistentVolume | None
) -> None:
    """Whether the persistent volume is the claim's, too, and as containers want to use it."""
    name = claim.spec.volumeName
    complaint = ""
    if found is None:
        complaint = (
            f'failed to fetch PV {name} from API server: persistentvolumes "{name}" not found'
        )
    elif found.spec.claimRef is None:
        complaint = (
            f"found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet "
            "bound to the claim"
        )
    elif found.spec.claimRef.uid != claim.metadata.uid:
        complaint = (
            f"found PV object {name} but its pv.Spec.ClaimRef.UID {found.spec.claimRef.uid} does "
            f"not point to claim.UID {claim.metadata.uid}"
        )
    if found is None or complaint:
        where = f"{pod.metadata.namespace}/{claim.metadata.name}"
        raise ClaimProblem(f"error processing PVC {where}: {complaint}")
    mode = found.spec.volumeMode or "Filesystem"
    mounted, devices = used_volumes(pod)
    for names, wanted, use in (
        (mounted, "Filesystem", "volumeMounts"),
        (devices, "Block", "volumeDevices"),
    ):
        if volume.name in names and mode != wanted:
            raise ClaimProblem(
                f"volume {volume.name} has volumeMode {mode}, but is specified in {use}"
            )


def check_node(spec: VolumeSpec, node: str, labels: Mapping[str, str]) -> None:
    """A volume that belongs to other nodes is not looked for on this one."""
    affinity = spec.persistent.spec.nodeAffinity if spec.persistent is not None else None
    required = affinity.required if affinity is not None else None
    if required is not None and not selects(required, node, labels):
        raise VolumeProblem("no matching NodeSelectorTerms", "NodeAffinity check")


def all_containers(pod: Pod) -> list[Container | EphemeralContainer]:
    """Every container that may mount something."""
    spec = pod.spec
    return [*spec.initContainers, *spec.containers, *spec.ephemeralContainers]


def used_volumes(pod: Pod) -> tuple[set[str], set[str]]:
    """The volumes that containers mount, and those they use as devices. All others of the pod are
    of no interest to the node: it does not even miss what they refer to."""
    everyone = all_containers(pod)
    return (
        {each.name for container in everyone for each in container.volumeMounts},
        {each.name for container in everyone for each in container.volumeDevices},
    )
