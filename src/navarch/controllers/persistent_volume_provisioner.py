"""Volumes made of directories on nodes: the provisioner of the class `standard`.

In a real cluster a provisioner is an add-on, such as an external-provisioner beside a CSI driver or
the local-path provisioner of kind. This one is built in and follows their protocol: the binder asks
for a volume by an annotation on the claim; the volume made is reserved for the claim; a finalizer
keeps a volume with policy Delete in the API until what is on disk is gone (KEP-2644).

The directory itself is the business of the node it is on, and both meet only at the API. It is made
when a pod first uses the volume. To have it removed, the name of the volume is put into an
annotation of the node, and the node answers with another one; each side writes its own, so that
neither has to trust the other's memory. A node that is gone took its directories along.

A size is kept for show and for quota: a directory has none, so nothing enforces it, and growing it
costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from navarch.api.errors import ApiError
from navarch.api.objects import Object, from_object, to_object
from navarch.api.persistent_volumes import (
    EXTERNAL_FINALIZER,
    LOCAL_DIRECTORY,
    LOCAL_NODE,
    LOCAL_PROVISIONER,
    PROVISIONED_BY,
    SELECTED_NODE,
    STORAGE_PROVISIONER,
    claim_class,
    claim_reference,
    is_to_grow,
    matches_topology,
    requested,
    waits_for_consumer,
)
from navarch.api.types.core_v1 import Node, PersistentVolume, PersistentVolumeClaim
from navarch.api.types.storage_v1 import StorageClass
from navarch.client import Controller, ControllerContext, object_key

HOSTNAME = "kubernetes.io/hostname"
NODE_KIND = "navarch.dev/node-kind"
RESIZE_CONDITIONS = ("Resizing", "FileSystemResizePending")


@dataclass(frozen=True, slots=True)
class Provision:
    """Make this volume."""

    volume: PersistentVolume


@dataclass(frozen=True, slots=True)
class Refuse:
    """It cannot be made, for this reason; with `reschedule` another node may do better."""

    message: str
    reschedule: bool = False


def wants_volume(claim: PersistentVolumeClaim, storage_class: StorageClass | None) -> bool:
    """Whether it is our turn to make a volume for the claim."""
    annotations = claim.metadata.annotations
    return (
        annotations.get(STORAGE_PROVISIONER) == LOCAL_PROVISIONER
        and not claim.spec.volumeName
        and not claim.metadata.deletionTimestamp
        and storage_class is not None
        and storage_class.provisioner == LOCAL_PROVISIONER
        and (SELECTED_NODE in annotations or not waits_for_consumer(storage_class))
    )


def plan(
    claim: PersistentVolumeClaim, storage_class: StorageClass, nodes: Mapping[str, Node]
) -> Provision | Refuse:
    """What to make for a claim that `wants_volume`."""
    spec, name = claim.spec, storage_class.metadata.name
    unsupported = (
        (spec.volumeMode == "Block", "block volumes are not supported, directories have no device"),
        (spec.dataSource or spec.dataSourceRef, "data sources are not supported"),
        (spec.selector, "claim.Spec.Selector is not supported"),
        (spec.volumeAttributesClassName, "volume attributes classes are not supported"),
        (
            storage_class.parameters,
            f"unknown parameters: {', '.join(sorted(storage_class.parameters))}",
        ),
        (storage_class.mountOptions, "mount options are not supported"),
    )
    for is_given, problem in unsupported:
        if is_given:
            return Refuse(f'failed to provision volume with StorageClass "{name}": {problem}')
    chosen = claim.metadata.annotations.get(SELECTED_NODE, "")
    if chosen and chosen not in nodes:
        return Refuse(f'node "{chosen}" not found', reschedule=True)
    node = nodes[chosen] if chosen else _some_node(claim, storage_class, [*nodes.values()])
    if node is None:
        return Refuse(f'failed to provision volume with StorageClass "{name}": no node takes it')
    directory = node.metadata.annotations.get(LOCAL_DIRECTORY, "")
    if not directory and not is_simulated(node):
        problem = f'node "{node.metadata.name}" takes no volumes of {LOCAL_PROVISIONER}'
        return Refuse(
            f'failed to provision volume with StorageClass "{name}": {problem}', reschedule=True
        )
    return Provision(_volume(claim, storage_class, node, directory or "/simulated"))


def _some_node(
    claim: PersistentVolumeClaim, storage_class: StorageClass, nodes: Sequence[Node]
) -> Node | None:
    """A node for a volume of a class that does not wait for a pod: one of those that could run
    one, by the claim's uid, so that a repetition comes to the same result."""
    able = [
        node
        for node in nodes
        if (LOCAL_DIRECTORY in node.metadata.annotations or is_simulated(node))
        and not node.spec.unschedulable
        and any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)
        and not any(taint.effect in ("NoSchedule", "NoExecute") for taint in node.spec.taints)
        and matches_topology(storage_class, node.metadata.labels)
    ]
    able.sort(key=lambda node: node.metadata.name)
    number = int(claim.metadata.uid.replace("-", "")[:8] or "0", 16)
    return able[number % len(able)] if able else None


def is_simulated(node: Node) -> bool:
    """Such a node has no disk: volumes on it are nothing but objects."""
    return node.metadata.labels.get(NODE_KIND) == "simulated"


def _volume(
    claim: PersistentVolumeClaim, storage_class: StorageClass, node: Node, directory: str
) -> PersistentVolume:
    name = f"pvc-{claim.metadata.uid}"
    policy = storage_class.reclaimPolicy or "Delete"
    host = {"key": HOSTNAME, "operator": "In", "values": [node.metadata.labels.get(HOSTNAME, "")]}
    body: Object = {
        "metadata": {
            "name": name,
            "annotations": {PROVISIONED_BY: LOCAL_PROVISIONER, LOCAL_NODE: node.metadata.name},
            "finalizers": [EXTERNAL_FINALIZER] if policy == "Delete" else [],
        },
        "spec": {
            "accessModes": claim.spec.accessModes,
            "capacity": {"storage": str(requested(claim))},
            "claimRef": claim_reference(claim),
            "local": {"path": f"{directory}/{name}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [host]}]}},
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": claim_class(claim),
            "volumeMode": "Filesystem",
        },
    }
    return from_object(PersistentVolume, body)


def growth(claim: PersistentVolumeClaim) -> Object:
    """The status of a claim that has got what it asks for."""
    wanted = {"storage": str(requested(claim))}
    kept = [each for each in claim.status.conditions if each.type not in RESIZE_CONDITIONS]
    return {
        "capacity": wanted,
        "allocatedResources": wanted,
        "allocatedResourceStatuses": None,
        "conditions": [to_object(each) for each in kept],
    }


class LocalProvisioner(Controller):
    """Watches: claims; classes and nodes, which wake the claims that wait for a volume."""

    name = "local-path-provisioner"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        informers = context.informers
        self.claims = informers.informer(PersistentVolumeClaim)
        self.volumes = informers.informer(PersistentVolume)
        self.classes = informers.informer(StorageClass)
        self.nodes = informers.informer(Node)
        self.claims.add_index(self.name, _asks_us)
        self.watch(self.claims)
        self.watch(self.classes, lambda _: self._waiting())
        self.depends_on(self.volumes)
        self.depends_on(self.nodes)
        wake = self._wake_waiting
        self.nodes.add_handler(wake, self._node_changed, wake)
        self.recorder = context.recorder(LOCAL_PROVISIONER)

    def _waiting(self) -> list[str]:
        return [object_key(each) for each in self.claims.cache.by_index(self.name, "")]

    def _wake_waiting(self, node: Node) -> None:
        self.enqueue(self._waiting())

    def _node_changed(self, old: Node, new: Node) -> None:
        if _usability(old) != _usability(new):
            self._wake_waiting(new)

    async def reconcile(self, key: str) -> None:
        claim = self.claims.cache.get(key)
        if claim is None:
            return
        if is_to_grow(claim):
            await self._grow(claim)
            return
        storage_class = self.classes.cache.get(claim_class(claim))
        if storage_class is None or not wants_volume(claim, storage_class):
            return
        nodes = {each.metadata.name: each for each in self.nodes.cache.list()}
        match plan(claim, storage_class, nodes):
            case Refuse(message, reschedule):
                self.recorder.event(claim, "Warning", "ProvisioningFailed", message)
                if reschedule and SELECTED_NODE in claim.metadata.annotations:
                    await self._reschedule(claim)
            case Provision(volume):
                await self._create(claim, volume)

    async def _create(self, claim: PersistentVolumeClaim, volume: PersistentVolume) -> None:
        key = object_key(claim)
        if self.volumes.cache.get(volume.metadata.name) is not None:
            return
        text = f'External provisioner is provisioning volume for claim "{key}"'
        self.recorder.event(claim, "Normal", "Provisioning", text)
        try:
            await self.client.resource(PersistentVolume).create(volume)
        except ApiError as error:
            if not error.is_already_exists:
                text = f"Error creating provisioned PV object for claim {key}: {error.message}."
                self.recorder.event(claim, "Warning", "ProvisioningFailed", text)
                raise
        else:
            text = f"Successfully provisioned volume {volume.metadata.name}"
            self.recorder.event(claim, "Normal", "ProvisioningSucceeded", text)

    async def _reschedule(self, claim: PersistentVolumeClaim) -> None:
        """Without the annotation the scheduler chooses anew."""
        meta = claim.metadata
        body = {
            "metadata": {
                "resourceVersion": meta.resourceVersion,
                "annotations": {SELECTED_NODE: None},
            }
        }
        await self.client.resource(PersistentVolumeClaim).patch(meta.name, meta.namespace, body)

    async def _grow(self, claim: PersistentVolumeClaim) -> None:
        volume = self.volumes.cache.get(claim.spec.volumeName)
        ref = volume.spec.claimRef if volume is not None else None
        if volume is None or ref is None or ref.uid != claim.metadata.uid or not is_ours(volume):
            return
        status = growth(claim)
        name = volume.metadata.name
        text = f"External resizer is resizing volume {name}"
        self.recorder.event(claim, "Normal", "Resizing", text)
        size = {"spec": {"capacity": status["capacity"]}}
        await self.client.resource(PersistentVolume).patch(name, "", size)
        meta = claim.metadata
        body = {"metadata": {"resourceVersion": meta.resourceVersion}, "status": status}
        claims = self.client.resource(PersistentVolumeClaim)
        await claims.patch(meta.name, meta.namespace, body, subresource="status")
        self.recorder.event(claim, "Normal", "VolumeResizeSuccessful", "Resize volume succeeded")


def _asks_us(claim: PersistentVolumeClaim) -> list[str]:
    asks = claim.metadata.annotations.get(STORAGE_PROVISIONER) == LOCAL_PROVISIONER
    return [""] if asks and not claim.spec.volumeName else []


def _usability(node: Node) -> object:
    """What of a node decides whether a volume may be put on it; its heartbeats do not."""
    ready = [c.status for c in node.status.conditions if c.type == "Ready"]
    meta, spec = node.metadata, node.spec
    directory = meta.annotations.get(LOCAL_DIRECTORY)
    return ready, directory, meta.labels, spec.unschedulable, spec.taints


def is_ours(volume: PersistentVolume) -> bool:
    return volume.metadata.annotations.get(PROVISIONED_BY) == LOCAL_PROVISIONER
