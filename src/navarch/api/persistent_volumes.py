"""How a claim for storage and a volume find each other, and how one sees that they have.

Who binds immediately and who binds after a node was chosen must not disagree, so what the binder
and the scheduler both ask is here. The links are `spec.volumeName` of the claim and `spec.claimRef`
of the volume; annotations tell which of them a controller made and which a user.
Source: upstream's `component-helpers/storage/volume`; KEP-490 (delayed binding).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from navarch.api.objects import Object
from navarch.api.quantity import Quantity, parse_quantity
from navarch.api.selectors import label_selector_from_object
from navarch.api.types.core_v1 import Node, PersistentVolume, PersistentVolumeClaim, Pod, Volume
from navarch.api.types.storage_v1 import StorageClass

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
MIGRATED_TO = "pv.kubernetes.io/migrated-to"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
STORAGE_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
BETA_STORAGE_PROVISIONER = "volume.beta.kubernetes.io/storage-provisioner"
BETA_CLASS = "volume.beta.kubernetes.io/storage-class"
DEFAULT_CLASS = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
NO_PROVISIONER = "kubernetes.io/no-provisioner"
IN_TREE_PREFIX = "kubernetes.io/"
MIGRATED_PROVISIONERS = {
    "kubernetes.io/aws-ebs": "ebs.csi.aws.com",
    "kubernetes.io/azure-disk": "disk.csi.azure.com",
    "kubernetes.io/azure-file": "file.csi.azure.com",
    "kubernetes.io/cinder": "cinder.csi.openstack.org",
    "kubernetes.io/gce-pd": "pd.csi.storage.gke.io",
    "kubernetes.io/portworx-volume": "pxd.portworx.com",
    "kubernetes.io/vsphere-volume": "csi.vsphere.vmware.com",
}
"""Provisioners that once were part of Kubernetes, and the CSI drivers that act for them."""
MIGRATED_SOURCES = {
    "awsElasticBlockStore": "kubernetes.io/aws-ebs",
    "azureDisk": "kubernetes.io/azure-disk",
    "azureFile": "kubernetes.io/azure-file",
    "cinder": "kubernetes.io/cinder",
    "gcePersistentDisk": "kubernetes.io/gce-pd",
    "portworxVolume": "kubernetes.io/portworx-volume",
    "vsphereVolume": "kubernetes.io/vsphere-volume",
}
"""The same by the fields of a volume's spec."""

LOCAL_PROVISIONER = "navarch.dev/local-path"
"""Makes volumes of directories on nodes, on behalf of the class `standard`."""
EXTERNAL_FINALIZER = "external-provisioner.volume.kubernetes.io/finalizer"
LOCAL_NODE = "local-path.navarch.dev/node"
"""On a volume: the node that it is on."""
LOCAL_DIRECTORY = "local-path.navarch.dev/directory"
"""On a Node: below which directory its volumes are. A node without it takes none."""
LOCAL_REMOVE = "local-path.navarch.dev/remove"
"""On a Node, written by the provisioner: names of volumes to remove, separated by commas."""
LOCAL_REMOVED = "local-path.navarch.dev/removed"
"""On a Node, written by the node: those of them that are dealt with, each with what went wrong,
as JSON. So neither side writes what is the other's."""

ZERO = parse_quantity("0")


def local_answers(node: Node) -> dict[str, str]:
    """What became of the volumes that the node was asked to remove, as far as it can be read."""
    try:
        found = json.loads(node.metadata.annotations.get(LOCAL_REMOVED, "{}"))
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def claim_name(pod: Pod, volume: Volume) -> str:
    """The claim behind a pod's volume: named, or made for the pod (KEP-1698); `""` for none."""
    if volume.persistentVolumeClaim is not None:
        return volume.persistentVolumeClaim.claimName
    return f"{pod.metadata.name}-{volume.name}" if volume.ephemeral is not None else ""


def claim_class(claim: PersistentVolumeClaim) -> str:
    return claim.metadata.annotations.get(BETA_CLASS, claim.spec.storageClassName or "")


def has_class(claim: PersistentVolumeClaim) -> bool:
    """Whether the claim says which class it wants; `""` wants none."""
    return BETA_CLASS in claim.metadata.annotations or claim.spec.storageClassName is not None


def volume_class(volume: PersistentVolume) -> str:
    return volume.metadata.annotations.get(BETA_CLASS, volume.spec.storageClassName)


def requested(claim: PersistentVolumeClaim) -> Quantity:
    return _storage(claim.spec.resources.requests)


def capacity(volume: PersistentVolume) -> Quantity:
    return _storage(volume.spec.capacity)


def _storage(amounts: dict[str, str]) -> Quantity:
    return parse_quantity(amounts["storage"]) if "storage" in amounts else ZERO


def is_fully_bound(claim: PersistentVolumeClaim) -> bool:
    return bool(claim.spec.volumeName) and BIND_COMPLETED in claim.metadata.annotations


def is_to_grow(claim: PersistentVolumeClaim) -> bool:
    """Whether a bound claim asks for more than it has."""
    return claim.status.phase == "Bound" and _storage(claim.status.capacity) < requested(claim)


def names_claim(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    """Whether the volume is bound to the claim, or reserved for it (then without a uid)."""
    ref, meta = volume.spec.claimRef, claim.metadata
    return (
        ref is not None
        and (ref.namespace, ref.name) == (meta.namespace, meta.name)
        and ref.uid in ("", meta.uid)
    )


def waits_for_consumer(storage_class: StorageClass | None) -> bool:
    """Whether claims of the class are bound only when a pod that uses them has a node."""
    return storage_class is not None and storage_class.volumeBindingMode == "WaitForFirstConsumer"


def matches_topology(storage_class: StorageClass, labels: Mapping[str, str]) -> bool:
    """Whether volumes of the class may be on a node with these labels."""
    terms = storage_class.allowedTopologies
    return not terms or any(
        term.matchLabelExpressions
        and all(labels.get(each.key) in each.values for each in term.matchLabelExpressions)
        for term in terms
    )


def default_class(classes: Iterable[StorageClass]) -> StorageClass | None:
    """The class for claims that name none: the newest of those that are marked."""
    marked = [
        each
        for each in classes
        if any(each.metadata.annotations.get(key) == "true" for key in DEFAULT_CLASS)
    ]
    marked.sort(key=lambda each: each.metadata.name)
    return max(marked, key=lambda each: each.metadata.creationTimestamp or "", default=None)


def is_same_mode(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    return (claim.spec.volumeMode or "Filesystem") == (volume.spec.volumeMode or "Filesystem")


def misfit(volume: PersistentVolume, claim: PersistentVolumeClaim) -> str:
    """Why a volume that a claim asks for by name cannot be had; empty when it can."""
    if volume.metadata.deletionTimestamp:
        return f'the volume is marked for deletion "{volume.metadata.name}"'
    if capacity(volume).value() < requested(claim).value():
        return "requested PV is too small"
    if volume_class(volume) != claim_class(claim):
        return "storageClassName does not match"
    if not _same_attributes(volume, claim):
        return "volumeAttributesClassName does not match"
    if not is_same_mode(volume, claim):
        return "incompatible volumeMode"
    if not _has_modes(volume, claim):
        return "incompatible accessMode"
    return ""


def can_hold(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    """What even a volume that is reserved for the claim must fulfil."""
    return (
        not capacity(volume) < requested(claim)
        and is_same_mode(volume, claim)
        and _same_attributes(volume, claim)
        and not volume.metadata.deletionTimestamp
        and _has_modes(volume, claim)
    )


def free_matches(
    claim: PersistentVolumeClaim, volumes: Iterable[PersistentVolume]
) -> list[PersistentVolume]:
    """The volumes that are free and would do: those that offer the fewest access modes first, of
    these the smallest."""
    wanted = claim.spec.selector
    selector = label_selector_from_object(wanted) if wanted is not None else None
    found = [
        volume
        for volume in volumes
        if volume.spec.claimRef is None
        and volume.status.phase == "Available"
        and volume_class(volume) == claim_class(claim)
        and can_hold(volume, claim)
        and (selector is None or selector.matches(volume.metadata.labels))
    ]
    sizes = {volume.metadata.name: capacity(volume).milli_value() for volume in found}
    found.sort(
        key=lambda each: (len(each.spec.accessModes), sizes[each.metadata.name], each.metadata.name)
    )
    return found


def claim_reference(claim: PersistentVolumeClaim) -> Object:
    """What a volume's `spec.claimRef` is to be when it is bound to the claim."""
    meta = claim.metadata
    return {
        "kind": "PersistentVolumeClaim",
        "apiVersion": "v1",
        "namespace": meta.namespace,
        "name": meta.name,
        "uid": meta.uid,
        "resourceVersion": meta.resourceVersion,
    }


def reservation(volume: PersistentVolume, claim: PersistentVolumeClaim) -> Object | None:
    """The merge patch that binds the volume's side to the claim; None if it is bound. Whoever
    writes it adds the version that it is for."""
    ref = volume.spec.claimRef
    if names_claim(volume, claim):
        if ref is not None and ref.uid:
            return None
        return {"spec": {"claimRef": claim_reference(claim)}}
    annotations = {BOUND_BY_CONTROLLER: "yes"}
    return {"metadata": {"annotations": annotations}, "spec": {"claimRef": claim_reference(claim)}}


def _same_attributes(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    wanted = claim.spec.volumeAttributesClassName or ""
    return wanted == (volume.spec.volumeAttributesClassName or "")


def _has_modes(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    return set(claim.spec.accessModes) <= set(volume.spec.accessModes)
