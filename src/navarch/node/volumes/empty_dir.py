"""emptyDir: a directory that lives and dies with its pod, on disk, in memory or of huge pages."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Pod

from ..resources import NodeResources, pod_limits
from .kernel import mount, mount_memory, mounts_under
from .ownership import Ownership
from .plugin import PreparedVolume, VolumePlugin, VolumeProblem, VolumeSpec, VolumeUsage
from .trees import is_directory, measure, remove_tree

HUGE_PAGES = "HugePages"


class EmptyDirPlugin(VolumePlugin):
    """All media. A directory on disk is finished under another name first, and one in memory is
    made with its final mode and group: there is no moment at which a half-made one looks whole."""

    name = "kubernetes.io/empty-dir"
    field = "emptyDir"
    owns_files = True

    async def set_up(self, spec: VolumeSpec, target: Path) -> PreparedVolume:
        await asyncio.to_thread(self._set_up, spec, target)
        return PreparedVolume(target, relabel=True)

    def _set_up(self, spec: VolumeSpec, target: Path) -> None:
        source = spec.volume.emptyDir
        assert source is not None
        group = spec.fs_group
        if not source.medium:
            if not is_directory(target):
                _make_directory(target, group)
            return
        options = ""
        if source.medium != "Memory":
            options = page_size_option(source.medium, spec.pod)
        target.mkdir(parents=True, exist_ok=True)
        if target in mounts_under(target):
            return
        mode = 0o777 if group is None else 0o2777
        if source.medium == "Memory":
            size = memory_size(spec.pod, self.host.node, source.sizeLimit)
            # A tmpfs has the sticky bit unless told otherwise, and programs have come to see it.
            mount_memory(target, mode=mode | stat.S_ISVTX, size=size, group=group)
        else:
            options += f",mode={mode:o}" + (f",gid={group}" if group is not None else "")
            mount("nodev", target, "hugetlbfs", 0, options)

    async def usage(self, target: Path) -> VolumeUsage | None:
        return await asyncio.to_thread(measure, target)


def _make_directory(target: Path, group: int | None) -> None:
    made = target.with_name(f".{target.name}.new")
    if is_directory(made):
        remove_tree(made)
    made.mkdir(parents=True)
    made.chmod(0o777)
    Ownership(group).give(made)
    made.rename(target)


def memory_size(pod: Pod, node: NodeResources, limit: str | None) -> int:
    """The smallest of the volume's limit, the pod's memory limit and the node's memory."""
    sizes = [node.memory_bytes]
    containers = [*pod.spec.containers, *pod.spec.initContainers]
    whole = pod.spec.resources.limits if pod.spec.resources is not None else {}
    if "memory" in whole or all("memory" in each.resources.limits for each in containers):
        sizes.append(pod_limits(pod).get("memory", 0))
    if limit:
        sizes.append(parse_quantity(limit).value())
    return min((size for size in sizes if size > 0), default=0)


def page_size_option(medium: str, pod: Pod) -> str:
    """The mount option for huge pages, which the pod's containers must ask for as a resource."""
    if medium != HUGE_PAGES and not medium.startswith(f"{HUGE_PAGES}-"):
        raise VolumeProblem(f'unknown storage medium "{medium}"')
    wanted = medium.removeprefix(HUGE_PAGES).removeprefix("-")
    requests = [
        each.resources.requests for each in (*pod.spec.containers, *pod.spec.initContainers)
    ]
    if pod.spec.resources is not None:
        requests.append(pod.spec.resources.requests)
    sizes = {
        parse_quantity(name.removeprefix("hugepages-")).value()
        for each in requests
        for name in each
        if name.startswith("hugepages-")
    }
    if wanted:
        sizes &= {parse_quantity(wanted).value()}
    elif len(sizes) > 1:
        raise VolumeProblem(
            f"medium: {medium} can't be used if container requests multiple huge page sizes"
        )
    if not sizes:
        raise VolumeProblem(
            f"medium {medium}: hugePages storage requested, but there is no resource request for "
            "huge pages"
        )
    return f"pagesize={sizes.pop()}"
