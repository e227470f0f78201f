"""The node's part of volumes that the built-in provisioner makes of directories.

Each is a directory of its own below the agent's, named like the volume. It is made when a pod first
uses the volume, and removed when the provisioner asks for it: with the volume's name in an
annotation of the node's object, which is answered with another one. Nothing is remembered here; a
restarted agent sees the same question and the same disk.

What is in a volume is the work of strangers: names come from the API and must be those of volumes
of the provisioner, and no link or mount in a volume leads out of it when it is removed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from navarch.api.errors import ApiError
from navarch.api.persistent_volumes import (
    LOCAL_DIRECTORY,
    LOCAL_PROVISIONER,
    LOCAL_REMOVE,
    LOCAL_REMOVED,
    PROVISIONED_BY,
    local_answers,
)
from navarch.api.types.core_v1 import Node, PersistentVolume
from navarch.client.client import Client
from navarch.client.clock import Clock
from navarch.client.informer import InformerFactory

from .trees import remove_tree

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
PROBLEM_LIMIT = 200
_NAME = re.compile(r"pvc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def directory_of(root: Path) -> Path:
    """Where all of them are, below the agent's own directory."""
    return root / "local-volumes"


def half_made(path: Path) -> Path:
    """What a directory is called before it is finished."""
    return path.with_name(f".{path.name}.new")


def make(root: Path, volume: PersistentVolume | None) -> None:
    """Make the directory of a volume of the provisioner, if it is one and not there yet. Whoever
    the pod's processes run as may write to it, from the moment that it has its name."""
    local = volume.spec.local if volume is not None else None
    if volume is None or local is None:
        return
    path = directory_of(root) / volume.metadata.name
    is_ours = volume.metadata.annotations.get(PROVISIONED_BY) == LOCAL_PROVISIONER
    if not is_ours or not _NAME.fullmatch(volume.metadata.name) or Path(local.path) != path:
        return
    path.parent.mkdir(mode=0o711, exist_ok=True)
    if path.exists():
        return
    new = half_made(path)
    new.mkdir(exist_ok=True)
    new.chmod(0o777)
    new.rename(path)


def asked(node: Node) -> list[str]:
    return [each for each in node.metadata.annotations.get(LOCAL_REMOVE, "").split(",") if each]


class LocalPathVolumes:
    """Tells where volumes can be, and removes those that are to go."""

    def __init__(
        self, client: Client, informers: InformerFactory, root: Path, name: str, clock: Clock
    ) -> None:
        self._nodes = client.resource(Node)
        self._root, self._name, self._clock = directory_of(root), name, clock
        self._woken = asyncio.Event()
        self._node: Node | None = None
        self._retry_at = 0.0
        informer = informers.informer(Node, field_selector=f"metadata.name={name}")
        informer.add_handler(self._seen, lambda _, new: self._seen(new))

    def _seen(self, node: Node) -> None:
        self._node = node
        self._woken.set()

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            if self._node is None:
                continue
            try:
                await self._serve(self._node)
            except ApiError as error:
                if not error.is_not_found:
                    log.warning("volumes of node %s: %s", self._name, error)
                    self._clock.call_later(RETRY_SECONDS, self._woken.set)

    async def _serve(self, node: Node) -> None:
        annotations: dict[str, str | None] = {}
        if node.metadata.annotations.get(LOCAL_DIRECTORY) != str(self._root):
            annotations[LOCAL_DIRECTORY] = str(self._root)
        before = local_answers(node)
        after = await self._removed(asked(node), before)
        if after != before or (LOCAL_REMOVED in node.metadata.annotations and not after):
            annotations[LOCAL_REMOVED] = json.dumps(after) if after else None
        if annotations:
            await self._nodes.patch(self._name, "", {"metadata": {"annotations": annotations}})

    async def _removed(self, names: list[str], before: Mapping[str, str]) -> dict[str, str]:
        """What became of each; those that failed are tried again after a while."""
        is_time = self._clock.monotonic() >= self._retry_at
        after = {}
        for name in names:
            known = before.get(name)
            is_known = known is not None and not (known and is_time)
            after[name] = known or "" if is_known else await self._remove(name)
        if is_time and any(after.values()):
            self._retry_at = self._clock.monotonic() + RETRY_SECONDS
            self._clock.call_later(RETRY_SECONDS, self._woken.set)
        return after

    async def _remove(self, name: str) -> str:
        """Remove one directory; what went wrong, empty when nothing is left of it."""
        if not _NAME.fullmatch(name):
            return f"{name[:64]!r} is no volume of {LOCAL_PROVISIONER}"
        try:
            for each in (self._root / name, half_made(self._root / name)):
                await asyncio.to_thread(remove_tree, each)
        except FileNotFoundError:
            pass  # no pod has ever used a volume of this node
        except OSError as error:
            log.warning("volume %s is not removed: %s", name, error)
            return str(error)[:PROBLEM_LIMIT]
        log.info("removed the volume %s", name)
        return ""
