"""The file systems of images, through containerd's own interface: what CRI has no call for.

A view is a read-only snapshot on top of an image's layers. It bears the label that keeps
containerd's garbage collector away from it and, through its parents, from the layers, also when the
image itself is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol, TypeVar

import msgspec
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from . import containerd_pb2 as containerd
from . import runtime_pb2 as pb
from .calls import Calls
from .ends import CONTAINERD_NAMESPACE
from .values import RuntimeFailure

M = TypeVar("M", bound=Message)

_SNAPSHOTS = "/containerd.services.snapshots.v1.Snapshots/"
_KEPT = {"containerd.io/gc.root": "navarch"}
_PLUGIN_PREFIX = "io.containerd.snapshotter.v1."


@dataclass(frozen=True, slots=True)
class MountStep:
    """One mount(8) that makes a file system appear."""

    kind: str
    source: str
    options: tuple[str, ...]


class Snapshots(Protocol):
    """Views of images. Every method raises `RuntimeFailure`."""

    async def view(self, key: str, image_id: str) -> Sequence[MountStep]:
        """Makes the view if there is none of that key, and tells how to mount it."""
        ...

    async def remove(self, key: str) -> None:
        """No view of that key is no failure."""
        ...


class _Info(msgspec.Struct):
    chainID: str = ""


class ContainerdSnapshots:
    """`Snapshots` of containerd."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._snapshotter = ""

    async def view(self, key: str, image_id: str) -> Sequence[MountStep]:
        snapshotter = await self._find_snapshotter()
        request = containerd.ViewSnapshotRequest(
            snapshotter=snapshotter, key=key, parent=await self._chain(image_id), labels=_KEPT
        )
        try:
            made = await self._call("View", request, containerd.MountsResponse)
        except RuntimeFailure as failure:
            if failure.code != "ALREADY_EXISTS":
                raise
            known = containerd.SnapshotRequest(snapshotter=snapshotter, key=key)
            made = await self._call("Mounts", known, containerd.MountsResponse)
        return [MountStep(each.type, each.source, tuple(each.options)) for each in made.mounts]

    async def remove(self, key: str) -> None:
        request = containerd.SnapshotRequest(snapshotter=await self._find_snapshotter(), key=key)
        try:
            await self._call("Remove", request, Empty)
        except RuntimeFailure as failure:
            if not failure.is_not_found:
                raise

    async def _call(self, method: str, request: Message, response: type[M]) -> M:
        return await self._calls.call(
            _SNAPSHOTS + method, request, response, metadata=CONTAINERD_NAMESPACE
        )

    async def _find_snapshotter(self) -> str:
        """The one that CRI uses: the image file system is its directory."""
        if not self._snapshotter:
            found = await self._calls.ask(pb.ImageFsInfoRequest(), pb.ImageFsInfoResponse)
            for each in found.image_filesystems:
                name = PurePosixPath(each.fs_id.mountpoint).name
                if name.startswith(_PLUGIN_PREFIX):
                    self._snapshotter = name.removeprefix(_PLUGIN_PREFIX)
        if not self._snapshotter:
            raise RuntimeFailure("this container runtime cannot mount images", code="UNIMPLEMENTED")
        return self._snapshotter

    async def _chain(self, image_id: str) -> str:
        """The snapshot that is the image's topmost layer."""
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=image_id), verbose=True)
        found = await self._calls.ask(request, pb.ImageStatusResponse)
        try:
            chain = msgspec.json.decode(found.info.get("info", "{}"), type=_Info).chainID
        except msgspec.MsgspecError:
            chain = ""
        if not chain:
            raise RuntimeFailure(f"image {image_id} is not unpacked", code="NOT_FOUND")
        return chain
