"""The attach-detach controller: volumes are attached to the nodes whose pods use them.

Only volumes of CSI drivers are attached, unless the driver's CSIDriver object says that there is no
need. The controller makes a VolumeAttachment, whose name follows from volume, driver and node, and
waits until the driver's external attacher has done the work; then it lists the volume in the
node's `status.volumesAttached`, which is what the kubelet waits for. VolumeAttachments with other
names are other people's and are left alone.

Everything is read off the objects, so nothing is lost with this process; only the time since when a
volume has not been wanted begins anew.
Source: upstream's `pkg/controller/volume/attachdetach` and `pkg/volume/csi/csi_attacher.go`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

from navarch.api.csi import attachment_name, parse_unique_name, unique_name
from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Node, PersistentVolume, PersistentVolumeClaim, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.storage_v1 import (
    CSIDriver,
    VolumeAttachment,
    VolumeAttachmentSource,
    VolumeAttachmentSpec,
)
from navarch.client import Controller, ControllerContext
from navarch.controllers.attach_detach_plan import (
    Attach,
    Detach,
    List,
    NodeView,
    Refuse,
    Wait,
    conflict_text,
    is_shareable,
    plan,
    uses_volumes,
)
from navarch.controllers.volume_protection import claims_of

REFUSED, ATTACHED = "refused", "attached"
T = TypeVar("T")
BY_CLAIM = "attached claims"
BY_NAME = "unique name"
BY_VOLUME = "persistent volume"
ATTACH_SECONDS = 120.0
"""After so long the pods are told that nobody attaches their volume."""


def unique_names(volume: PersistentVolume) -> list[str]:
    csi = volume.spec.csi
    return [unique_name(csi.driver, csi.volumeHandle)] if csi is not None else []


def _named_by(node: Node) -> set[str]:
    listed = {each.name for each in node.status.volumesAttached}
    return {name for name in listed.union(node.status.volumesInUse) if parse_unique_name(name)}


class AttachDetachController(Controller):
    """Watches: pods and claims, for who uses what; volumes; nodes, for what they have mounted;
    VolumeAttachments; CSIDrivers. Keys are the unique names of volumes."""

    name = "attachdetach"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.recorder = context.recorder("attachdetach-controller")
        informers = context.informers
        self.pods = informers.informer(Pod)
        self.claims = informers.informer(PersistentVolumeClaim)
        self.volumes = informers.informer(PersistentVolume)
        self.nodes = informers.informer(Node)
        self.attachments = informers.informer(VolumeAttachment)
        self.drivers = informers.informer(CSIDriver)
        self.pods.add_index(BY_CLAIM, lambda pod: claims_of(pod) if pod.spec.nodeName else [])
        self.volumes.add_index(BY_NAME, unique_names)
        self.nodes.add_index(BY_NAME, _named_by)
        self.attachments.add_index(
            BY_VOLUME, lambda each: filter(None, [each.spec.source.persistentVolumeName])
        )
        self.watch(self.volumes, unique_names)
        self.watch(self.pods, self._of_pod)
        self.watch(self.claims, lambda claim: self._of_volume(claim.spec.volumeName))
        self.watch(self.nodes, _named_by)
        self.watch(self.attachments, self._of_attachment)
        self.watch(self.drivers, self._of_driver)
        self._unwanted: dict[str, dict[str, float]] = {}
        """Since when (monotonic) a volume has not been wanted any more, by volume and node."""
        self._attaching: dict[str, dict[str, float]] = {}
        self._told: dict[str, dict[str, str]] = {}
        """What the pods of a node were told last about a volume."""
        self._node_turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._volume_of: dict[str, str] = {}
        self._made: defaultdict[str, set[str]] = defaultdict(set)
        """The attachments that were seen of each volume, by name: they may outlive it."""

    # Whom an object concerns

    def _of_pod(self, pod: Pod) -> list[str]:
        found = []
        for key in claims_of(pod) if pod.spec.nodeName else ():
            claim = self.claims.cache.get(key)
            if claim is not None:
                found += self._of_volume(claim.spec.volumeName)
        return found

    def _of_volume(self, name: str) -> list[str]:
        volume = self.volumes.cache.get(name) if name else None
        return unique_names(volume) if volume is not None else []

    def _of_attachment(self, attachment: VolumeAttachment) -> list[str]:
        spec, name = attachment.spec, attachment.metadata.name
        for unique in self._of_volume(spec.source.persistentVolumeName or ""):
            driver, handle = parse_unique_name(unique) or ("", "")
            if name == attachment_name(handle, driver, spec.nodeName):
                self._remember(name, unique)
        return [self._volume_of[name]] if name in self._volume_of else []

    def _remember(self, attachment: str, unique: str) -> None:
        self._volume_of[attachment] = unique
        self._made[unique].add(attachment)

    def _of_driver(self, driver: CSIDriver) -> list[str]:
        name = driver.metadata.name
        return [
            unique
            for unique in self.volumes.cache.index_values(BY_NAME)
            if (parse_unique_name(unique) or ("", ""))[0] == name
        ]

    # Deciding

    async def reconcile(self, key: str) -> None:
        driver, _ = parse_unique_name(key) or ("", "")
        volumes = self.volumes.cache.by_index(BY_NAME, key)
        found = self.drivers.cache.get(driver)
        views = self._views(key, volumes)
        actions = plan(
            views,
            is_attachable=found is None or found.spec.attachRequired is not False,
            is_shareable=all(is_shareable(volume) for volume in volumes),
        )
        by_node = {view.name: view for view in views}
        _keep_only(self._told, key, by_node)
        _keep_only(self._attaching, key, by_node)
        _keep_only(self._unwanted, key, by_node)
        for action in actions:
            match action:
                case List():
                    await self._list(action.node, key, action.is_attached)
                case Detach():
                    await self._detach(key, by_node[action.node], action)
                case Attach():
                    await self._attach(key, by_node[action.node], volumes[0])
                case Refuse():
                    self._refuse(key, action, by_node, volumes[0])
                case Wait():
                    self.queue.add_after(key, action.seconds)
        for view in views:
            if view.pods:
                self._tell(key, view, volumes[0])

    def _views(self, key: str, volumes: Iterable[PersistentVolume]) -> list[NodeView]:
        driver, handle = parse_unique_name(key) or ("", "")
        pods: defaultdict[str, list[Pod]] = defaultdict(list)
        attachments = {}
        for volume in volumes:
            for each in self.attachments.cache.by_index(BY_VOLUME, volume.metadata.name):
                attachments[each.metadata.name] = each
            for pod in self._users(volume):
                pods[pod.spec.nodeName].append(pod)
        listing = {node.metadata.name for node in self.nodes.cache.by_index(BY_NAME, key)}
        computed = {attachment_name(handle, driver, node) for node in listing}
        for name in computed | self._made.pop(key, set()):
            left = self.attachments.cache.get(name)
            if left is not None:
                self._remember(name, key)
                attachments[name] = left
            else:
                self._volume_of.pop(name, None)
        ours = {
            each.spec.nodeName: each
            for name, each in attachments.items()
            if name == attachment_name(handle, driver, each.spec.nodeName)
        }
        return [
            self._view(key, name, tuple(pods.get(name, ())), ours.get(name))
            for name in sorted({*pods, *ours, *listing})
        ]

    def _view(
        self, key: str, name: str, pods: tuple[Pod, ...], attachment: VolumeAttachment | None
    ) -> NodeView:
        node, now = self.nodes.cache.get(name), self.clock.monotonic()
        unwanted = self._unwanted.setdefault(key, {})
        if pods or attachment is None:
            unwanted.pop(name, None)
        else:
            unwanted.setdefault(name, now)
        return NodeView(
            name,
            node,
            pods,
            attachment,
            is_in_use=node is None or key in node.status.volumesInUse,
            is_listed=node is not None
            and any(each.name == key for each in node.status.volumesAttached),
            unwanted_for=now - unwanted.get(name, now),
        )

    def _users(self, volume: PersistentVolume) -> list[Pod]:
        """The pods that need a volume: of the claim it is bound to."""
        bound = volume.spec.claimRef
        if bound is None:
            return []
        key = f"{bound.namespace}/{bound.name}"
        claim = self.claims.cache.get(key)
        if (
            claim is None
            or claim.metadata.uid != bound.uid
            or claim.status.phase != "Bound"
            or claim.spec.volumeName != volume.metadata.name
        ):
            return []
        return [pod for pod in self.pods.cache.by_index(BY_CLAIM, key) if uses_volumes(pod)]

    # Acting

    async def _attach(self, key: str, view: NodeView, volume: PersistentVolume) -> None:
        csi = volume.spec.csi
        assert csi is not None
        name = attachment_name(csi.volumeHandle, csi.driver, view.name)
        self._remember(name, key)
        try:
            await self.client.resource(VolumeAttachment).create(
                VolumeAttachment(
                    metadata=ObjectMeta(name=name),
                    spec=VolumeAttachmentSpec(
                        attacher=csi.driver,
                        nodeName=view.name,
                        source=VolumeAttachmentSource(persistentVolumeName=volume.metadata.name),
                    ),
                )
            )
        except ApiError as error:
            if error.is_already_exists:
                return  # the informer is about to show it
            text = f"kubernetes.io/csi: attacher.Attach failed: {error.message}"
            self._fail(key, view, volume, text)
            raise

    async def _detach(self, key: str, view: NodeView, action: Detach) -> None:
        attachment = view.attachment
        assert attachment is not None
        if not action.is_forced and not await self._list(view.name, key, False, unless_used=True):
            return
        if action.is_forced:
            self.log.warning("detaching %s from %s, which may still have it", key, view.name)
        await self.client.resource(VolumeAttachment).remove(attachment)

    async def _list(
        self, name: str, key: str, is_attached: bool, *, unless_used: bool = False
    ) -> bool:
        """Writes into a node's status whether a volume is attached. False if, by what the API
        server says now, the node uses the volume although it was to be let go."""
        nodes = self.client.resource(Node)
        async with self._node_turns[name]:
            try:
                node = await nodes.get(name)
            except ApiError as error:
                if error.is_not_found:
                    return True
                raise
            if unless_used and key in node.status.volumesInUse:
                return False
            before = [each.name for each in node.status.volumesAttached]
            after = [each for each in before if each != key] + ([key] if is_attached else [])
            if sorted(after) != sorted(before):
                listed = [{"name": each, "devicePath": ""} for each in after]
                body = {"status": {"volumesAttached": listed}}
                await nodes.patch(name, "", body, subresource="status")
        return True

    # Telling

    def _refuse(
        self, key: str, action: Refuse, by_node: dict[str, NodeView], volume: PersistentVolume
    ) -> None:
        told = self._told.setdefault(key, {})
        if told.get(action.node) == REFUSED:
            return
        told[action.node] = REFUSED
        users = [pod for name in action.others for pod in by_node[name].pods]
        for pod in by_node[action.node].pods:
            text = f'Multi-Attach error for volume "{volume.metadata.name}" '
            text += conflict_text(pod, users)
            self.recorder.event(pod, "Warning", "FailedAttachVolume", text)

    def _tell(self, key: str, view: NodeView, volume: PersistentVolume) -> None:
        """Events for how it goes with an attachment: each outcome once."""
        attachment = view.attachment
        if attachment is None:
            return
        told = self._told.setdefault(key, {})
        attaching = self._attaching.setdefault(key, {})
        if view.is_attached:
            attaching.pop(view.name, None)
            if told.get(view.name) != ATTACHED and not view.is_listed:
                text = f'AttachVolume.Attach succeeded for volume "{volume.metadata.name}" '
                for pod in view.pods:
                    self.recorder.event(pod, "Normal", "SuccessfulAttachVolume", text)
            told[view.name] = ATTACHED
            return
        error, now = attachment.status.attachError, self.clock.monotonic()
        if attachment.metadata.deletionTimestamp:
            self._fail(key, view, volume, "volume attachment is being deleted")
        elif error is not None:
            self._fail(key, view, volume, error.message, stamp=error.time or "")
        else:
            left = attaching.setdefault(view.name, now) + ATTACH_SECONDS - now
            if left <= 0:
                attaching[view.name], left = now, ATTACH_SECONDS
                driver, handle = parse_unique_name(key) or ("", "")
                text = (
                    f"timed out waiting for external-attacher of {driver} CSI driver to attach "
                    f"volume {handle}"
                )
                self._fail(key, view, volume, text, stamp=str(now))
            self.queue.add_after(key, left)

    def _fail(
        self, key: str, view: NodeView, volume: PersistentVolume, text: str, stamp: str = ""
    ) -> None:
        told = self._told.setdefault(key, {})
        if told.get(view.name) == text + stamp:
            return
        told[view.name] = text + stamp
        text = f'AttachVolume.Attach failed for volume "{volume.metadata.name}" : {text}'
        for pod in view.pods:
            self.recorder.event(pod, "Warning", "FailedAttachVolume", text)


def _keep_only(memory: dict[str, dict[str, T]], key: str, views: Mapping[str, NodeView]) -> None:
    """Forgets what was noted of nodes that have nothing to do with the volume any more."""
    kept = {name: value for name, value in memory.pop(key, {}).items() if name in views}
    if kept:
        memory[key] = kept
