"""Volumes that must be attached to the node before they can be mounted.

Attaching is done elsewhere: the attach-detach controller makes a VolumeAttachment, the driver's
attacher does the work, and the controller then lists the volume in the node's
`status.volumesAttached`. The kubelet's part is to wait for that, and to list in
`status.volumesInUse` what it mounts, from before it does so until it is done with it: the
controller detaches nothing that is in use.
Source: upstream's `pkg/kubelet/volumemanager` and `pkg/volume/csi/csi_attacher.go`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Node
from navarch.api.types.storage_v1 import VolumeAttachment
from navarch.client.client import Client
from navarch.client.clock import timeout
from navarch.client.ratelimit import Backoff

from .csi_records import CsiPaths
from .plugin import NotAttachedInTime

log = logging.getLogger(__name__)

ATTACH_SECONDS = 123.0
"""How long a pod waits before it says that it waits (upstream: 2m3s)."""
RESOURCE_EXHAUSTED = 8


class NotAttached(Exception):
    """The volume is not attached."""


class Attachments:
    """The node's list of volumes in use, and the wait for volumes to be attached."""

    def __init__(self, client: Client, node_name: str, paths: CsiPaths) -> None:
        self._client, self._node_name, self._paths = client, node_name, paths
        self._in_use: set[str] = set()
        self._reported: list[str] | None = None
        self._changed = asyncio.Event()
        self._told = asyncio.Condition()

    async def run(self) -> None:
        """Keeps the node's list as it should be, until cancelled."""
        backoff = Backoff(0.1, 10.0)
        while True:
            self._changed.clear()
            try:
                await self._report()
            except ApiError as error:
                log.debug("volumes in use of node %s: %s", self._node_name, error)
                await self._client.clock.sleep(backoff.next())
                continue
            backoff.reset()
            await self._changed.wait()

    async def _report(self) -> None:
        nodes = self._client.resource(Node)
        if self._reported is None:
            # What an agent before this one had mounted counts until it is taken down.
            left = await asyncio.to_thread(self._paths.in_use)
            self._reported = sorted((await nodes.get(self._node_name)).status.volumesInUse)
            self._in_use |= left & set(self._reported)
        wanted = sorted(self._in_use)
        if wanted != self._reported:
            patch = {"status": {"volumesInUse": wanted}}
            await nodes.patch(self._node_name, "", patch, subresource="status")
            self._reported = wanted
        async with self._told:
            self._told.notify_all()

    async def use(self, unique: str) -> None:
        """From now on the volume must not be detached; returns when the node's status says so."""
        if unique not in self._in_use:
            self._in_use.add(unique)
            self._changed.set()
        async with self._told:
            await self._told.wait_for(lambda: unique in (self._reported or ()))

    def release(self, unique: str) -> None:
        """The volume may be detached."""
        if unique in self._in_use:
            self._in_use.remove(unique)
            self._changed.set()

    async def wait(self, unique: str, handle: str, name: str) -> dict[str, str]:
        """Waits until a volume is attached; what the attacher says that the driver must be told.
        Raises NotAttached or NotAttachedInTime."""
        try:
            async with timeout(self._client.clock, ATTACH_SECONDS):
                await self.use(unique)
                await self._until_listed(unique)
        except TimeoutError:
            raise NotAttachedInTime(
                "context deadline exceeded", is_exhausted=await self._is_exhausted(name)
            ) from None
        try:
            attachment = await self._client.resource(VolumeAttachment).get(name)
        except ApiError as error:
            raise NotAttached(
                f"volume {handle} has GET error for volume attachment {name}: {error.message}"
            ) from error
        if attachment.metadata.deletionTimestamp:
            raise NotAttached("volume attachment is being deleted")
        if not attachment.status.attached:
            failure = attachment.status.attachError
            raise NotAttached(
                failure.message
                if failure is not None
                else f"volume {handle} is not attached for volume attachment {name}"
            )
        return dict(attachment.status.attachmentMetadata)

    async def _until_listed(self, unique: str) -> None:
        nodes = self._client.resource(Node)
        while True:
            node = await nodes.get(self._node_name)
            if _lists(node, unique):
                return
            version = node.metadata.resourceVersion
            selector = f"metadata.name={self._node_name}"
            try:
                watch = nodes.watch(resource_version=version, field_selector=selector)
                async with aclosing(watch) as events:
                    async for event in events:
                        if isinstance(event.object, Node) and _lists(event.object, unique):
                            return
            except ApiError as error:
                log.debug("watching node %s: %s", self._node_name, error)
                await self._client.clock.sleep(1.0)

    async def _is_exhausted(self, name: str) -> bool:
        try:
            attachment = await self._client.resource(VolumeAttachment).get(name)
        except ApiError:
            return False
        failure = attachment.status.attachError
        return failure is not None and failure.errorCode == RESOURCE_EXHAUSTED


def _lists(node: Node, unique: str) -> bool:
    return any(each.name == unique for each in node.status.volumesAttached)
