"""A CSI driver's node service, over gRPC to its unix socket.

Source: the Container Storage Interface, version 1; the mapping of access modes is that of
upstream's `pkg/volume/csi/csi_client.go`.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from ..cri.calls import Calls
from . import csi_pb2 as pb
from .csi_values import CsiVolume, NodeInfo
from .plugin import VolumeUsage

CSI_SECONDS = 120.0
"""How long a driver may take for one call."""
FIGURES_SECONDS = 10.0
"""And how long the statistics of the whole node wait for it."""
_SERVICE = "/csi.v1.Node/"
_ACCESS_MODES = {
    "ReadWriteOnce": "SINGLE_NODE_WRITER",
    "ReadOnlyMany": "MULTI_NODE_READER_ONLY",
    "ReadWriteMany": "MULTI_NODE_MULTI_WRITER",
    "ReadWriteOncePod": "SINGLE_NODE_WRITER",
}
_SINGLE_NODE_MODES = {
    "ReadWriteOnce": "SINGLE_NODE_MULTI_WRITER",
    "ReadWriteOncePod": "SINGLE_NODE_SINGLE_WRITER",
}
"""What these two are to drivers that tell pods of one node apart."""

M = TypeVar("M", bound=Message)


class CsiDriver:
    """One registered driver."""

    def __init__(self, name: str, endpoint: str, version: tuple[int, ...]) -> None:
        self.name, self.endpoint, self.version = name, endpoint, version
        self._calls = Calls(endpoint, CSI_SECONDS)
        self._calls.open()

    async def close(self) -> None:
        await self._calls.close()

    async def info(self) -> NodeInfo:
        answer = await self._call("NodeGetInfo", pb.NodeGetInfoRequest(), pb.NodeGetInfoResponse)
        topology = dict(answer.accessible_topology.segments)
        return NodeInfo(answer.node_id, answer.max_volumes_per_node, topology)

    async def capabilities(self) -> frozenset[str]:
        """The names of what the node service can do, for instance `STAGE_UNSTAGE_VOLUME`."""
        request = pb.NodeGetCapabilitiesRequest()
        answer = await self._call("NodeGetCapabilities", request, pb.NodeGetCapabilitiesResponse)
        kinds = pb.NodeServiceCapability.RPC.Type
        known = set(kinds.values())
        return frozenset(
            kinds.Name(each.rpc.type) for each in answer.capabilities if each.rpc.type in known
        )

    async def stage(self, volume: CsiVolume, staging: str, capabilities: frozenset[str]) -> None:
        request = pb.NodeStageVolumeRequest(
            volume_id=volume.handle,
            publish_context=volume.publish_context,
            staging_target_path=staging,
            volume_capability=_capability(volume, capabilities),
            secrets=volume.secrets,
            volume_context=volume.context,
        )
        await self._call("NodeStageVolume", request, pb.NodeStageVolumeResponse)

    async def publish(
        self,
        volume: CsiVolume,
        staging: str,
        target: str,
        capabilities: frozenset[str],
        *,
        read_only: bool,
    ) -> None:
        request = pb.NodePublishVolumeRequest(
            volume_id=volume.handle,
            publish_context=volume.publish_context,
            staging_target_path=staging,
            target_path=target,
            volume_capability=_capability(volume, capabilities),
            readonly=read_only,
            secrets=volume.secrets,
            volume_context=volume.context,
        )
        await self._call("NodePublishVolume", request, pb.NodePublishVolumeResponse)

    async def unpublish(self, handle: str, target: str) -> None:
        request = pb.NodeUnpublishVolumeRequest(volume_id=handle, target_path=target)
        await self._call("NodeUnpublishVolume", request, pb.NodeUnpublishVolumeResponse)

    async def unstage(self, handle: str, staging: str) -> None:
        request = pb.NodeUnstageVolumeRequest(volume_id=handle, staging_target_path=staging)
        await self._call("NodeUnstageVolume", request, pb.NodeUnstageVolumeResponse)

    async def expand(
        self, volume: CsiVolume, path: str, staging: str, size: int, capabilities: frozenset[str]
    ) -> None:
        request = pb.NodeExpandVolumeRequest(
            volume_id=volume.handle,
            volume_path=path,
            capacity_range=pb.CapacityRange(required_bytes=size),
            staging_target_path=staging,
            volume_capability=_capability(volume, capabilities),
            secrets=volume.secrets,
        )
        await self._call("NodeExpandVolume", request, pb.NodeExpandVolumeResponse)

    async def usage(self, handle: str, path: str) -> VolumeUsage | None:
        """None where the driver tells of the volume's condition only."""
        request = pb.NodeGetVolumeStatsRequest(volume_id=handle, volume_path=path)
        answer = await self._calls.call(
            _SERVICE + "NodeGetVolumeStats",
            request,
            pb.NodeGetVolumeStatsResponse,
            timeout=FIGURES_SECONDS,
        )
        by_unit = {each.unit: each for each in answer.usage}
        size, inodes = by_unit.get(pb.VolumeUsage.BYTES), by_unit.get(pb.VolumeUsage.INODES)
        if size is None and inodes is None:
            return None
        size, inodes = size or pb.VolumeUsage(), inodes or pb.VolumeUsage()
        return VolumeUsage(
            used=size.used,
            capacity=size.total,
            available=size.available,
            inodes_used=inodes.used,
            inodes=inodes.total,
            inodes_free=inodes.available,
        )

    async def _call(self, method: str, request: Message, response: type[M]) -> M:
        return await self._calls.call(_SERVICE + method, request, response)


def _capability(volume: CsiVolume, capabilities: frozenset[str]) -> pb.VolumeCapability:
    modes = _ACCESS_MODES
    if "SINGLE_NODE_MULTI_WRITER" in capabilities:
        modes = {**_ACCESS_MODES, **_SINGLE_NODE_MODES}
    name = modes.get(volume.access_mode, "UNKNOWN")
    mode = pb.VolumeCapability.AccessMode(mode=name)
    if volume.is_block:
        return pb.VolumeCapability(access_mode=mode, block=pb.VolumeCapability.BlockVolume())
    group = ""
    if volume.fs_group is not None and "VOLUME_MOUNT_GROUP" in capabilities:
        group = str(volume.fs_group)
    mount = pb.VolumeCapability.MountVolume(
        fs_type=volume.fs_type, mount_flags=volume.mount_options, volume_mount_group=group
    )
    return pb.VolumeCapability(access_mode=mode, mount=mount)
