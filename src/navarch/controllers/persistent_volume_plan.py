"""What to do next about a claim or a volume: the rules of the binder, without any I/O.

The two links between a claim and its volume cannot be written at once, so every state between must
lead to one good end, whoever made it and whoever stopped in the middle. The volume's link is
written first: it is what a second claim would have to overwrite, and the server refuses that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from navarch.api.objects import Object
from navarch.api.persistent_volumes import (
    BIND_COMPLETED,
    BOUND_BY_CONTROLLER,
    IN_TREE_PREFIX,
    MIGRATED_PROVISIONERS,
    MIGRATED_TO,
    PROVISIONED_BY,
    SELECTED_NODE,
    can_hold,
    claim_class,
    free_matches,
    has_class,
    is_same_mode,
    misfit,
    names_claim,
    waits_for_consumer,
)
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim
from navarch.api.types.storage_v1 import StorageClass

PRE_RESIZE_CAPACITY = "volume.alpha.kubernetes.io/pre-resize-capacity"
SETTLED = ("Released", "Failed")


class View(Protocol):
    """What there is."""

    def volume(self, name: str) -> PersistentVolume | None: ...

    def reserved_for(self, claim: PersistentVolumeClaim) -> Sequence[PersistentVolume]:
        """The volumes whose `claimRef` has the claim's name."""
        ...

    def of_class(self, name: str) -> Sequence[PersistentVolume]: ...

    def storage_class(self, name: str) -> StorageClass | None: ...

    def default_class(self) -> StorageClass | None: ...

    def waiting_pods(self, claim: PersistentVolumeClaim) -> Sequence[str]:
        """The names of pods that use the claim and have no node yet."""
        ...


@dataclass(frozen=True, slots=True)
class Say:
    """An event about the claim or volume that the plan is for."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class SayOfClaim:
    """An event about the claim that a volume is meant for."""

    claim: PersistentVolumeClaim
    say: Say


@dataclass(frozen=True, slots=True)
class SetClaimPhase:
    phase: str


@dataclass(frozen=True, slots=True)
class SetVolumePhase:
    phase: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Bind:
    """Complete both links and both phases of the claim and this volume."""

    volume: PersistentVolume


@dataclass(frozen=True, slots=True)
class AssignClass:
    name: str


@dataclass(frozen=True, slots=True)
class AskProvisioner:
    name: str
    migrated: bool = False


@dataclass(frozen=True, slots=True)
class Unbind:
    """Take back what was written to the volume for a claim that went elsewhere."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """The volume's kind is built in no more: this driver acts for it, and is told so."""

    driver: str


@dataclass(frozen=True, slots=True)
class Wake:
    """Look at this claim."""

    key: str


ClaimAction = Say | SetClaimPhase | Bind | AssignClass | AskProvisioner
VolumeAction = Say | SayOfClaim | SetVolumePhase | Unbind | HandOver | Wake


def plan_claim(claim: PersistentVolumeClaim, view: View) -> list[ClaimAction]:
    if BIND_COMPLETED in claim.metadata.annotations:
        return _bound(claim, view)
    if claim.spec.volumeName:
        return _wants_volume(claim, view.volume(claim.spec.volumeName))
    storage_class = view.storage_class(claim_class(claim)) if claim_class(claim) else None
    is_delayed = waits_for_consumer(storage_class)
    for volume in view.reserved_for(claim):
        if names_claim(volume, claim) and can_hold(volume, claim):
            return [Bind(volume)]
    if not is_delayed:
        found = free_matches(claim, view.of_class(claim_class(claim)))
        if found:
            return [Bind(found[0])]
    if not has_class(claim) and (default := view.default_class()) is not None:
        return [AssignClass(default.metadata.name)]
    if is_delayed and SELECTED_NODE not in claim.metadata.annotations:
        return [_awaits_pod(view.waiting_pods(claim)), SetClaimPhase("Pending")]
    if claim_class(claim):
        return _provision(claim, storage_class)
    text = "no persistent volumes available for this claim and no storage class is set"
    return [Say("Normal", "FailedBinding", text), SetClaimPhase("Pending")]


def _bound(claim: PersistentVolumeClaim, view: View) -> list[ClaimAction]:
    """The claim was bound once. What it has lost since, it gets no replacement for: the data on
    another volume would not be its own."""
    if not claim.spec.volumeName:
        lost = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"
        return _lost(claim, "ClaimLost", lost)
    volume = view.volume(claim.spec.volumeName)
    if volume is None:
        lost = "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
        return _lost(claim, "ClaimLost", lost)
    ref = volume.spec.claimRef
    if ref is None or ref.uid == claim.metadata.uid:
        return [Bind(volume)]
    twice = "Two claims are bound to the same volume, this one is bound incorrectly"
    return _lost(claim, "ClaimMisbound", twice)


def _lost(claim: PersistentVolumeClaim, reason: str, message: str) -> list[ClaimAction]:
    if claim.status.phase == "Lost":
        return []
    return [SetClaimPhase("Lost"), Say("Warning", reason, message)]


def _wants_volume(
    claim: PersistentVolumeClaim, volume: PersistentVolume | None
) -> list[ClaimAction]:
    """The claim asks for one volume by its name."""
    pending = SetClaimPhase("Pending")
    if volume is None:
        return [pending]
    name = volume.metadata.name
    if volume.spec.claimRef is None:
        if problem := misfit(volume, claim):
            text = f'Cannot bind to requested volume "{name}": {problem}'
            return [Say("Warning", "VolumeMismatch", text), pending]
        return [Bind(volume)]
    if names_claim(volume, claim):
        return [Bind(volume)]
    taken = f'volume "{name}" already bound to a different claim.'
    return [Say("Warning", "FailedBinding", taken), pending]


def _awaits_pod(pods: Sequence[str]) -> Say:
    if not pods:
        text = "waiting for first consumer to be created before binding"
        return Say("Normal", "WaitForFirstConsumer", text)
    noun = "pod" if len(pods) == 1 else "pods"
    text = f"waiting for {noun} {','.join(sorted(pods))} to be scheduled"
    return Say("Normal", "WaitForPodScheduled", text)


def _provision(
    claim: PersistentVolumeClaim, storage_class: StorageClass | None
) -> list[ClaimAction]:
    """Somebody else makes the volume; here it is only asked for."""
    if storage_class is None:
        text = f'storageclass.storage.k8s.io "{claim_class(claim)}" not found'
        return [Say("Warning", "ProvisioningFailed", text)]
    provisioner = storage_class.provisioner
    driver = MIGRATED_PROVISIONERS.get(provisioner)
    if driver is None and provisioner.startswith(IN_TREE_PREFIX):
        text = f"no volume plugin matched name: {provisioner}"
        return [Say("Warning", "ProvisioningFailed", text)]
    name = driver or provisioner
    text = (
        "Waiting for a volume to be created either by the external provisioner "
        f"'{name}' or manually by the system administrator. If volume creation is delayed, "
        "please verify that the provisioner is running and correctly registered."
    )
    ask = AskProvisioner(name, driver is not None)
    return [ask, Say("Normal", "ExternalProvisioning", text)]


def plan_volume(
    volume: PersistentVolume, claim: PersistentVolumeClaim | None
) -> list[VolumeAction]:
    """`claim` is the one that `claimRef` names, None when there is none of that uid."""
    annotations = volume.metadata.annotations
    driver = MIGRATED_PROVISIONERS.get(annotations.get(PROVISIONED_BY, ""), "")
    if annotations.get(MIGRATED_TO, "") != driver and driver:
        return [HandOver(driver)]
    ref = volume.spec.claimRef
    if ref is None or not ref.uid:
        return [SetVolumePhase("Available")]
    if claim is None:
        return _reclaim(volume)
    if not claim.spec.volumeName:
        if not is_same_mode(volume, claim):
            return _mode_mismatch(volume, claim)
        return [Wake(f"{ref.namespace}/{ref.name}")]
    if claim.spec.volumeName == volume.metadata.name:
        return [SetVolumePhase("Bound")]
    # The claim got another volume.
    is_provisioned = PROVISIONED_BY in annotations
    if is_provisioned and volume.spec.persistentVolumeReclaimPolicy == "Delete":
        return _reclaim(volume)
    return [Unbind()]


def _mode_mismatch(volume: PersistentVolume, claim: PersistentVolumeClaim) -> list[VolumeAction]:
    of_volume = (
        f'Cannot bind PersistentVolume to requested PersistentVolumeClaim "{claim.metadata.name}" '
        "due to incompatible volumeMode."
    )
    of_claim = (
        f'Cannot bind PersistentVolume "{volume.metadata.name}" to requested '
        "PersistentVolumeClaim due to incompatible volumeMode."
    )
    reason = "VolumeMismatch"
    return [Say("Warning", reason, of_volume), SayOfClaim(claim, Say("Warning", reason, of_claim))]


def _reclaim(volume: PersistentVolume) -> list[VolumeAction]:
    """The claim is gone. A failure of earlier is left standing for the user to see."""
    actions: list[VolumeAction] = []
    if volume.status.phase not in SETTLED:
        actions.append(SetVolumePhase("Released"))
    if MIGRATED_TO in volume.metadata.annotations:
        return actions
    match volume.spec.persistentVolumeReclaimPolicy:
        case "Retain":
            return actions
        case "Delete":
            reason, message = "VolumeFailedDelete", _no_deleter(volume)
        case "Recycle":
            reason, message = "VolumeFailedRecycle", "No recycler plugin found for the volume!"
        case _:
            reason = "VolumeUnknownReclaimPolicy"
            message = "Volume has unrecognized PersistentVolumeReclaimPolicy"
    if message and volume.status.phase != "Failed":
        actions.append(SetVolumePhase("Failed", message))
        actions.append(Say("Warning", reason, message))
    return actions


def _no_deleter(volume: PersistentVolume) -> str:
    """Why a volume is not deleted; empty when that is its provisioner's business."""
    provisioner = volume.metadata.annotations.get(PROVISIONED_BY, "")
    if volume.spec.csi is not None or (provisioner and not provisioner.startswith(IN_TREE_PREFIX)):
        return ""
    what = f'error getting deleter volume plugin for volume "{volume.metadata.name}"'
    return f"{what}: no deletable volume plugin matched"


# The merge patches of a binding, in the order in which they are written; whoever writes them adds
# the version that they are for. None: nothing to change.


def phase_patch(volume: PersistentVolume, phase: str, message: str = "") -> Object | None:
    if volume.status.phase == phase:
        return None
    status: Object = {"phase": phase}
    # Somebody else's message stays; that of a failure goes with the failure.
    if message or volume.status.phase == "Failed":
        status["message"] = message or None
    return {"status": status}


def link_patch(claim: PersistentVolumeClaim, volume: PersistentVolume) -> Object | None:
    """Point the claim to the volume and note that binding was completed once."""
    annotations = {}
    changes: Object = {}
    if claim.spec.volumeName != volume.metadata.name:
        changes["spec"] = {"volumeName": volume.metadata.name}
        annotations[BOUND_BY_CONTROLLER] = "yes"
    if BIND_COMPLETED not in claim.metadata.annotations:
        annotations[BIND_COMPLETED] = "yes"
    if not annotations:
        return None
    return {"metadata": {"annotations": annotations}, **changes}


def status_patch(
    claim: PersistentVolumeClaim, phase: str, volume: PersistentVolume | None
) -> Object | None:
    """The claim's phase and what it has got. Conditions and the state of a resize are others'.

    The capacity is set when the claim becomes bound, not afterwards: a file system may be smaller
    than the volume it is on until it was resized."""
    status = claim.status
    changes: Object = {}
    if status.phase != phase:
        changes["phase"] = phase
    if volume is None:
        for field in ("accessModes", "capacity", "currentVolumeAttributesClassName"):
            if getattr(status, field):
                changes[field] = None
    else:
        if status.accessModes != volume.spec.accessModes:
            changes["accessModes"] = volume.spec.accessModes
        before = volume.metadata.annotations.get(PRE_RESIZE_CAPACITY)
        size = {"storage": before} if before else volume.spec.capacity
        if status.phase != phase and status.capacity != size:
            changes["capacity"] = size
        attributes = volume.spec.volumeAttributesClassName
        became_bound = status.phase == "Pending" and phase == "Bound"
        if became_bound and status.currentVolumeAttributesClassName != attributes:
            changes["currentVolumeAttributesClassName"] = attributes
    return {"status": changes} if changes else None


def unbind_patch(volume: PersistentVolume) -> Object:
    """A reservation by the user stays one; only the uid goes."""
    if BOUND_BY_CONTROLLER in volume.metadata.annotations:
        meta = {"annotations": {BOUND_BY_CONTROLLER: None}}
        return {"metadata": meta, "spec": {"claimRef": None}}
    return {"spec": {"claimRef": {"uid": None}}}
