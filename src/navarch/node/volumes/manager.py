"""Sets up, refreshes and takes down the volumes of pods.

The layout under the agent's root is upstream's: `pods/<uid>/volumes/<plugin>/<name>`. Nothing is
remembered between calls: setting up is idempotent, and taking down finds what there is in the mount
table and on disk, so a restarted agent cleans up after the one before it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from navarch.api.errors import ApiError
from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import ConfigMap, Pod, Secret, Volume
from navarch.client.clock import Clock

from ..objects import Objects
from ..resources import NodeResources, pod_limits
from .atomic import FileContent, Ownership, give_to_group, write_payload
from .host_path import prepare_host_path
from .kernel import mount_tmpfs, mounts_under, unmount
from .payload import (
    VolumeReferences,
    VolumeSources,
    payload_of,
    references,
)
from .plugin import PreparedVolume, VolumeProblem
from .subpath import bind_subpath
from .tokens import PodTokens


class VolumesFailed(Exception):
    """Some of a pod's volumes are not there (yet): one text per volume, for events."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__("; ".join(self.problems.values()))


_PLUGIN_DIRECTORY = {
    "emptyDir": "kubernetes.io~empty-dir",
    "configMap": "kubernetes.io~configmap",
    "secret": "kubernetes.io~secret",
    "downwardAPI": "kubernetes.io~downward-api",
    "projected": "kubernetes.io~projected",
}


class VolumeManager:
    """The volumes of all pods on this node."""

    def __init__(self, root: Path, objects: Objects, node: NodeResources, clock: Clock) -> None:
        self._pods = root / "pods"
        self._objects = objects
        self._node = node
        self._tokens = PodTokens(objects, clock)

    def pod_directory(self, uid: str) -> Path:
        return self._pods / uid

    def known_pods(self) -> list[str]:
        """The uids of pods that something lies on disk of."""
        try:
            return os.listdir(self._pods)
        except FileNotFoundError:
            return []

    async def prepare(self, pod: Pod, *, fresh: bool = True) -> dict[str, PreparedVolume]:
        """Sets up every volume of the pod, or raises `VolumesFailed` naming those that fail.

        Called again for a running pod it refreshes the files (`fresh=False` may then use what was
        read for another pod moments ago).
        """
        outcomes = await asyncio.gather(
            *(self._prepare_one(pod, volume, fresh) for volume in pod.spec.volumes)
        )
        problems = {}
        prepared = {}
        for volume, outcome in zip(pod.spec.volumes, outcomes, strict=True):
            if isinstance(outcome, PreparedVolume):
                prepared[volume.name] = outcome
            else:
                problems[volume.name] = outcome
        if problems:
            raise VolumesFailed(problems)
        return prepared

    async def _prepare_one(self, pod: Pod, volume: Volume, fresh: bool) -> PreparedVolume | str:
        prefix = f'MountVolume.SetUp failed for volume "{volume.name}" : '
        try:
            if volume.persistentVolumeClaim is not None:
                claim = volume.persistentVolumeClaim
                return await self._claimed(pod, claim.claimName, claim.readOnly)
            sources = await self._sources(pod, references(volume), fresh)
            return await asyncio.to_thread(self._set_up, pod, volume, sources)
        except VolumeProblem as problem:
            return prefix + str(problem)
        except ApiError as error:
            return prefix + error.message
        except OSError as error:
            return f"{prefix}{error}"

    async def _sources(self, pod: Pod, wanted: VolumeReferences, fresh: bool) -> VolumeSources:
        namespace = pod.metadata.namespace
        config_maps, secrets, tokens = await asyncio.gather(
            asyncio.gather(
                *(
                    self._objects.config_map(namespace, name, fresh=fresh)
                    for name in sorted(wanted.config_maps)
                )
            ),
            asyncio.gather(
                *(
                    self._objects.secret(namespace, name, fresh=fresh)
                    for name in sorted(wanted.secrets)
                )
            ),
            self._tokens.get(pod, wanted.tokens),
        )
        found_maps: list[ConfigMap] = [each for each in config_maps if each is not None]
        found_secrets: list[Secret] = [each for each in secrets if each is not None]
        return VolumeSources(
            {each.metadata.name: each for each in found_maps},
            {each.metadata.name: each for each in found_secrets},
            tokens,
            self._node,
        )

    async def _claimed(self, pod: Pod, name: str, read_only: bool) -> PreparedVolume:
        claim = await self._objects.claim(pod.metadata.namespace, name)
        if claim is None:
            raise VolumeProblem(f'persistentvolumeclaim "{name}" not found')
        if not claim.spec.volumeName or claim.status.phase not in ("Bound", ""):
            raise VolumeProblem(f"PVC {pod.metadata.namespace}/{name} is not bound")
        volume = await self._objects.volume(claim.spec.volumeName)
        if volume is None:
            raise VolumeProblem(f'persistentvolume "{claim.spec.volumeName}" not found')
        owner = volume.spec.claimRef
        if owner is None or (owner.uid and owner.uid != claim.metadata.uid):
            raise VolumeProblem(
                f"PV {volume.metadata.name} is not bound to PVC {pod.metadata.namespace}/{name}"
            )
        read_only = read_only or claim.spec.accessModes == ["ReadOnlyMany"]
        if volume.spec.hostPath is not None:
            kind = volume.spec.hostPath.type or ""
            path = await asyncio.to_thread(
                prepare_host_path, Path(volume.spec.hostPath.path), kind or "DirectoryOrCreate"
            )
            return PreparedVolume(path, read_only)
        if volume.spec.local is not None:
            path = Path(volume.spec.local.path)
            if not await asyncio.to_thread(path.exists):
                raise VolumeProblem(f'path "{path}" does not exist')
            ownership = _ownership(pod)
            if ownership.group is not None and not read_only:
                await asyncio.to_thread(give_to_group, path, ownership)
            return PreparedVolume(path, read_only)
        raise VolumeProblem(
            f"persistent volume {volume.metadata.name} is of a type that this node does not support"
            " (hostPath and local are)"
        )

    def _set_up(self, pod: Pod, volume: Volume, sources: VolumeSources) -> PreparedVolume:
        if volume.hostPath is not None:
            path = Path(volume.hostPath.path)
            return PreparedVolume(prepare_host_path(path, volume.hostPath.type or ""))
        kind = next((name for name in _PLUGIN_DIRECTORY if getattr(volume, name)), "")
        if volume.emptyDir is not None:
            kind = "emptyDir"
        if not kind:
            kinds = [
                name
                for name in volume.__struct_fields__
                if name != "name" and getattr(volume, name) is not None
            ]
            described = kinds[0] if kinds else "unknown"
            raise VolumeProblem(f"volumes of type {described} are not supported by this node")
        target = (
            self.pod_directory(pod.metadata.uid) / "volumes" / _PLUGIN_DIRECTORY[kind] / volume.name
        )
        payload = payload_of(pod, volume, sources)
        if payload is None:
            return self._empty_dir(pod, volume, target)
        return self._files(pod, target, payload, in_memory=kind in ("secret", "projected"))

    def _empty_dir(self, pod: Pod, volume: Volume, target: Path) -> PreparedVolume:
        assert volume.emptyDir is not None
        new = not target.exists()
        target.mkdir(parents=True, exist_ok=True)
        medium = volume.emptyDir.medium
        if medium == "Memory":
            if not mounts_under(target):
                mount_tmpfs(target, mode=0o777, size=self._memory_size(pod, volume))
                new = True
        elif medium:
            raise VolumeProblem(f"emptyDir medium {medium} is not supported by this node")
        if new:
            target.chmod(0o777)
            ownership = _ownership(pod)
            if ownership.group is not None:
                give_to_group(target, ownership)
        return PreparedVolume(target)

    def _memory_size(self, pod: Pod, volume: Volume) -> int:
        assert volume.emptyDir is not None
        sizes = [self._node.memory_bytes]
        limits = pod_limits(pod)
        if all("memory" in each.resources.limits for each in pod.spec.containers):
            sizes.append(limits.get("memory", 0))
        if volume.emptyDir.sizeLimit:
            sizes.append(parse_quantity(volume.emptyDir.sizeLimit).value())
        return min((size for size in sizes if size > 0), default=0)

    def _files(
        self, pod: Pod, target: Path, payload: Mapping[str, FileContent], *, in_memory: bool
    ) -> PreparedVolume:
        target.mkdir(parents=True, exist_ok=True)
        if in_memory and not mounts_under(target):
            mount_tmpfs(target, mode=0o777)
        ownership = _ownership(pod, writable=False)
        if ownership.group is not None:
            os.chown(target, -1, ownership.group)
            target.chmod(0o2777)
        else:
            target.chmod(0o777)
        write_payload(target, payload, ownership)
        return PreparedVolume(target, read_only=True)

    async def bind_subpath(
        self, pod: Pod, volume: PreparedVolume, name: str, subpath: str, place: str
    ) -> Path:
        """Makes a part of a volume mountable; `place` is `<container>/<number of the mount>`."""
        target = self.pod_directory(pod.metadata.uid) / "volume-subpaths" / name / place
        return await asyncio.to_thread(bind_subpath, volume.path, subpath, target)

    async def release(self, uid: str) -> None:
        """Takes down the volumes of a pod that has ended; its termination messages stay."""
        self._tokens.forget(uid)
        for part in ("volumes", "volume-subpaths"):
            await asyncio.to_thread(_remove_mounted, self.pod_directory(uid) / part)

    async def take_down(self, uid: str) -> None:
        """Unmounts and deletes everything of a pod."""
        self._tokens.forget(uid)
        await asyncio.to_thread(_remove_mounted, self.pod_directory(uid))


def _ownership(pod: Pod, *, writable: bool = True) -> Ownership:
    context = pod.spec.securityContext
    return Ownership(context.fsGroup if context is not None else None, writable)


def _remove_mounted(directory: Path) -> None:
    if not directory.exists():
        return
    for point in mounts_under(directory):
        unmount(point)
    # A mount that has come back meanwhile would be somebody's data: never delete through it.
    if mounts_under(directory):
        raise OSError(f"{directory} is still mounted")
    shutil.rmtree(directory, ignore_errors=False)
