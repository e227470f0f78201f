"""What the API knows of the CSI drivers on a node: the CSINode object and marks on the Node.

The scheduler reads from CSINode which drivers a node has, how many volumes each can attach and by
which labels its storage is reached; attachers read the driver's own name of the node. The CSINode
belongs to its Node and exists also without drivers, from the start of the agent.
Source: upstream's `pkg/volume/csi/nodeinfomanager`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Node
from navarch.api.types.meta_v1 import ObjectMeta, OwnerReference
from navarch.api.types.storage_v1 import CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources
from navarch.client.client import Client
from navarch.client.ratelimit import Backoff

from .csi_values import NodeInfo

log = logging.getLogger(__name__)

NODE_ID = "csi.volume.kubernetes.io/nodeid"
MIGRATED = "storage.alpha.kubernetes.io/migrated-plugins"
MIGRATED_PLUGINS = ",".join(
    f"kubernetes.io/{name}"
    for name in (
        "aws-ebs",
        "azure-disk",
        "azure-file",
        "cinder",
        "gce-pd",
        "portworx-volume",
        "vsphere-volume",
    )
)
"""The types of volumes that only their CSI drivers serve any more."""
ATTEMPTS = 5
_LARGEST_COUNT = 2**31 - 1


class NodeInfoProblem(Exception):
    """What a driver says of its node cannot be written down."""


def with_driver(
    drivers: Sequence[CSINodeDriver], name: str, info: NodeInfo
) -> list[CSINodeDriver] | None:
    """The drivers of a CSINode with this one as it now is; None if nothing changes."""
    allocatable = None
    if info.limit > 0:
        allocatable = VolumeNodeResources(count=min(info.limit, _LARGEST_COUNT))
    wanted = CSINodeDriver(
        name=name, nodeID=info.node_id, topologyKeys=sorted(info.topology), allocatable=allocatable
    )
    if any(_same(each, wanted) for each in drivers):
        return None
    return [*(each for each in drivers if each.name != name), wanted]


def _same(one: CSINodeDriver, other: CSINodeDriver) -> bool:
    counts = [each.allocatable.count if each.allocatable else None for each in (one, other)]
    return (
        (one.name, one.nodeID, sorted(one.topologyKeys))
        == (other.name, other.nodeID, sorted(other.topologyKeys))
    ) and counts[0] == counts[1]


def node_change(node: Node, name: str, info: NodeInfo | None) -> dict[str, Any] | None:
    """The patch of a Node for a driver that is there (or gone, without `info`); None for none."""
    annotation = node.metadata.annotations.get(NODE_ID, "")
    try:
        ids = json.loads(annotation) if annotation else {}
    except ValueError as error:
        raise NodeInfoProblem(
            f'failed to parse node\'s "{NODE_ID}" annotation value ("{annotation}") err={error}'
        ) from error
    if not isinstance(ids, dict):
        ids = {}
    metadata: dict[str, Any] = {}
    if info is None:
        if ids.pop(name, None) is None:
            return None
        metadata["annotations"] = {NODE_ID: _compact(ids) if ids else None}
        return {"metadata": metadata}
    if ids.get(name) != info.node_id:
        metadata["annotations"] = {NODE_ID: _compact({**ids, name: info.node_id})}
    labels = node.metadata.labels
    for key, value in sorted(info.topology.items()):
        if labels.get(key, value) != value:
            raise NodeInfoProblem(
                f'detected topology value collision: driver reported "{key}":"{value}" '
                f'but existing label is "{key}":"{labels[key]}"'
            )
    missing = {key: value for key, value in info.topology.items() if key not in labels}
    if missing:
        metadata["labels"] = missing
    return {"metadata": metadata} if metadata else None


def _compact(ids: Mapping[str, str]) -> str:
    return json.dumps(ids, separators=(",", ":"), sort_keys=True)


class CsiNodeObject:
    """Keeps the node's CSINode and the marks on its Node."""

    def __init__(self, client: Client, node_name: str) -> None:
        self._client, self._node_name = client, node_name
        self._turn = asyncio.Lock()

    async def initialize(self) -> None:
        """Makes the CSINode, once there is a Node; waits for the API server as long as it takes."""
        backoff = Backoff(0.1, 5.0)
        while True:
            try:
                await self._change(lambda present: None)
                return
            except ApiError as error:
                log.debug("CSINode %s: %s", self._node_name, error)
                await self._client.clock.sleep(backoff.next())

    async def install(self, name: str, info: NodeInfo) -> None:
        """A driver is there. Raises ApiError or NodeInfoProblem."""
        if not info.node_id:
            raise NodeInfoProblem(
                "error adding CSI driver node info: driverNodeID must not be empty"
            )
        await self._mark(name, info)
        await self.update(name, info)

    async def update(self, name: str, info: NodeInfo) -> None:
        await self._change(lambda present: with_driver(present, name, info))

    async def uninstall(self, name: str) -> None:
        def without(present: Sequence[CSINodeDriver]) -> list[CSINodeDriver] | None:
            kept = [each for each in present if each.name != name]
            return kept if len(kept) < len(present) else None

        await self._change(without)
        await self._mark(name, None)

    async def _mark(self, name: str, info: NodeInfo | None) -> None:
        nodes = self._client.resource(Node)

        async def attempt() -> None:
            node = await nodes.get(self._node_name)
            patch = node_change(node, name, info)
            if patch is not None:
                patch["metadata"]["resourceVersion"] = node.metadata.resourceVersion
                await nodes.patch(self._node_name, "", patch)

        async with self._turn:
            await _retried(attempt)

    async def _change(
        self, decide: Callable[[Sequence[CSINodeDriver]], list[CSINodeDriver] | None]
    ) -> None:
        async with self._turn:
            await _retried(lambda: self._attempt_change(decide))

    async def _attempt_change(
        self, decide: Callable[[Sequence[CSINodeDriver]], list[CSINodeDriver] | None]
    ) -> None:
        objects = self._client.resource(CSINode)
        node = await self._client.resource(Node).get(self._node_name)
        found = await objects.find(self._node_name)
        uids = [each.uid for each in found.metadata.ownerReferences] if found else []
        if found is not None and node.metadata.uid not in uids:
            # It belongs to a Node of that name that is no more.
            await objects.delete(self._node_name, uid=found.metadata.uid)
            found = None
        drivers = decide(found.spec.drivers if found is not None else ())
        if found is None:
            await objects.create(self._new(node, drivers or []))
        elif drivers is not None or found.metadata.annotations.get(MIGRATED) != MIGRATED_PLUGINS:
            found.metadata.annotations[MIGRATED] = MIGRATED_PLUGINS
            if drivers is not None:
                found.spec.drivers = drivers
            await objects.update(found)

    def _new(self, node: Node, drivers: list[CSINodeDriver]) -> CSINode:
        owner = OwnerReference(
            apiVersion="v1", kind="Node", name=self._node_name, uid=node.metadata.uid
        )
        return CSINode(
            metadata=ObjectMeta(
                name=self._node_name,
                ownerReferences=[owner],
                annotations={MIGRATED: MIGRATED_PLUGINS},
            ),
            spec=CSINodeSpec(drivers=drivers),
        )


async def _retried(attempt: Callable[[], Awaitable[None]]) -> None:
    """A lost race is run again with what is there by now."""
    for left in reversed(range(ATTEMPTS)):
        try:
            await attempt()
            return
        except ApiError as error:
            if not (error.is_conflict or error.is_already_exists) or not left:
                raise
