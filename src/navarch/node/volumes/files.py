"""configMap, secret, downwardAPI and projected: volumes whose files are made from API objects.

They are read-only to containers and follow their objects while the pod runs. Whatever may hold a
secret lies in memory, never on a disk.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from navarch.api.types.core_v1 import Pod
from navarch.client.batches import together

from .atomic import FileContent, write_payload
from .claims import all_containers
from .empty_dir import memory_size
from .kernel import mount_memory, mounts_under
from .ownership import Ownership
from .payload import VolumeReferences, VolumeSources, payload_of, references
from .plugin import PreparedVolume, VolumeHost, VolumePlugin, VolumeProblem, VolumeSpec, VolumeUsage
from .tokens import PodTokens
from .trees import measure


class FilesPlugin(VolumePlugin):
    """What the four types have in common."""

    is_refreshed = True
    owns_files = True
    in_memory = True

    def __init__(self, host: VolumeHost, tokens: PodTokens) -> None:
        super().__init__(host)
        self._tokens = tokens

    async def set_up(self, spec: VolumeSpec, target: Path) -> PreparedVolume:
        sources = await self._sources(spec, references(spec.volume))
        payload = payload_of(spec.pod, spec.volume, sources)
        assert payload is not None, "the type is one of files"
        await asyncio.to_thread(self._write, spec, target, payload)
        return PreparedVolume(target, read_only=True, relabel=True)

    async def _sources(self, spec: VolumeSpec, wanted: VolumeReferences) -> VolumeSources:
        namespace, objects = spec.pod.metadata.namespace, self.host.objects
        fresh = spec.is_fresh
        config_maps, secrets, tokens = await together(
            together(
                *(
                    objects.config_map(namespace, name, fresh=fresh)
                    for name in sorted(wanted.config_maps)
                )
            ),
            together(
                *(objects.secret(namespace, name, fresh=fresh) for name in sorted(wanted.secrets))
            ),
            self._tokens.get(spec.pod, wanted.tokens),
        )
        return VolumeSources(
            {each.metadata.name: each for each in config_maps if each is not None},
            {each.metadata.name: each for each in secrets if each is not None},
            tokens,
            self.host.node,
        )

    def _write(self, spec: VolumeSpec, target: Path, payload: Mapping[str, FileContent]) -> None:
        ownership = Ownership(spec.fs_group, writable=False)
        mode = 0o777 if ownership.group is None else 0o2777
        target.mkdir(parents=True, exist_ok=True)
        if self.in_memory and target not in mounts_under(target):
            size = memory_size(spec.pod, self.host.node, None)
            mount_memory(target, mode=mode | stat.S_ISVTX, size=size, group=ownership.group)
        elif not self.in_memory:
            ownership.give(target)
            target.chmod(mode)
        nested = {path.split("/", 1)[0] for path in nested_mount_points(spec.volume.name, spec.pod)}
        nested -= {name.split("/", 1)[0] for name in payload}
        for path in nested_mount_points(spec.volume.name, spec.pod):
            if path.split("/", 1)[0] in nested:
                (target / path).mkdir(parents=True, exist_ok=True, mode=0o755)
        stamp = self.host.clock.now().strftime("%Y_%m_%d_%H_%M_%S")
        write_payload(target, payload, ownership, stamp)

    async def usage(self, target: Path) -> VolumeUsage | None:
        return await asyncio.to_thread(measure, target)


class ConfigMapPlugin(FilesPlugin):
    name, field, in_memory = "kubernetes.io/configmap", "configMap", False


class SecretPlugin(FilesPlugin):
    name, field = "kubernetes.io/secret", "secret"


class DownwardPlugin(FilesPlugin):
    name, field = "kubernetes.io/downward-api", "downwardAPI"


class ProjectedPlugin(FilesPlugin):
    name, field = "kubernetes.io/projected", "projected"


def nested_mount_points(name: str, pod: Pod) -> list[str]:
    """Where other volumes are mounted inside this one, relative to it: the directories must be
    there already, for nobody can make them in a read-only volume."""
    found = set()
    for container in all_containers(pod):
        mounts = [
            (each.name, PurePosixPath("/", each.mountPath)) for each in container.volumeMounts
        ]
        for own in [path for volume, path in mounts if volume == name]:
            below = sorted(path for _, path in mounts if own in path.parents)
            for path in below:
                if ".." in path.parts:
                    raise VolumeProblem(f"invalid container mount point {path}")
                if not any(other in path.parents for other in below):
                    found.add(path.relative_to(own).as_posix())
    return sorted(found)
