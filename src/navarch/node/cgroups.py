"""The cgroups above the containers': one per pod, one per quality-of-service class.

`<root>/kubepods/{burstable,besteffort}/pod<uid>`, Guaranteed pods directly under `kubepods`. The
runtime makes each container's cgroup inside its pod's. cgroup v1 (a tree per controller) and v2
(one tree) are both served; which one, the file system says.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from navarch.api.types.core_v1 import Pod

from .podspec import qos_class
from .resources import CPU_PERIOD, MINIMUM_SHARES, CgroupLimits, cpu_weight, pod_cgroup_limits

_V2_CONTROLLERS = ("cpu", "memory", "pids", "cpuset", "io", "hugetlb")
_REMOVAL_SECONDS = 1.0
_UNLIMITED = 1 << 62
""" cgroup v1 has a number for "no limit": the largest one of whole pages."""


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The cgroup trees of this machine, seen from `root`, this node's own place in them."""

    root: str = ""
    mount: Path = Path("/sys/fs/cgroup")

    @property
    def unified(self) -> bool:
        return (self.mount / "cgroup.controllers").exists()

    def class_path(self, quality: str) -> str:
        below = {"Burstable": "/burstable", "BestEffort": "/besteffort"}.get(quality, "")
        return f"{self.root}/kubepods{below}"

    def pod_path(self, pod: Pod) -> str:
        """The pod's cgroup, as the runtime is told (relative to the mount)."""
        return f"{self.class_path(qos_class(pod))}/pod{pod.metadata.uid}"

    def ensure_classes(self) -> None:
        """Makes the class cgroups; pods that asked for nothing get what the others leave."""
        for quality in ("Guaranteed", "Burstable", "BestEffort"):
            path = self.class_path(quality)
            self._make(path)
            if quality == "BestEffort":
                self._apply(path, CgroupLimits(MINIMUM_SHARES))

    def set_burstable_shares(self, shares: int) -> None:
        """The Burstable class weighs as much as its pods have requested together."""
        self._apply(self.class_path("Burstable"), CgroupLimits(shares))

    def ensure_pod(self, pod: Pod) -> str:
        """Makes the pod's cgroup with its limits (also after a resize); returns its path."""
        path = self.pod_path(pod)
        self._make(path)
        self._apply(path, pod_cgroup_limits(pod))
        return path

    def remove_pod(self, uid: str) -> None:
        """Removes the pod's cgroup wherever it is, once the last process has left."""
        for base in self._pod_directories(uid):
            _remove_tree(base)

    def pods(self) -> set[str]:
        """The uids of the pods that have a cgroup."""
        found = set()
        for quality in ("Guaranteed", "Burstable", "BestEffort"):
            for tree in self._trees():
                base = Path(f"{tree}{self.class_path(quality)}")
                if base.is_dir():
                    names = (entry.name for entry in os.scandir(base) if entry.is_dir())
                    found |= {name[3:] for name in names if name.startswith("pod")}
        return found

    def processes(self, pod: Pod) -> int:
        """How many processes and threads the pod has."""
        return _number(self._file("pids", self.pod_path(pod), "pids.current")) or 0

    def memory_of_pods(self) -> tuple[int, int] | None:
        """The limit of all pods together and their working set; None where there is no limit."""
        path = self.class_path("Guaranteed")
        limit = _number(self._file("memory", path, "memory.max", "memory.limit_in_bytes"))
        used = _number(self._file("memory", path, "memory.current", "memory.usage_in_bytes"))
        if limit is None or used is None or limit >= _UNLIMITED:
            return None
        name = "inactive_file" if self.unified else "total_inactive_file"
        inactive = 0
        try:
            for line in self._file("memory", path, "memory.stat").read_text().splitlines():
                if line.startswith(name + " "):
                    inactive = int(line.rpartition(" ")[2])
        except OSError:
            return None
        return limit, max(0, used - inactive)

    def _file(self, controller: str, path: str, name: str, old_name: str = "") -> Path:
        if self.unified:
            return Path(f"{self.mount}{path}/{name}")
        return Path(f"{self.mount}/{controller}{path}/{old_name or name}")

    def _pod_directories(self, uid: str) -> Iterator[Path]:
        for tree in self._trees():
            for quality in ("Guaranteed", "Burstable", "BestEffort"):
                base = Path(f"{tree}{self.class_path(quality)}/pod{uid}")
                if base.is_dir():
                    yield base

    def _trees(self) -> list[Path]:
        if self.unified:
            return [self.mount]
        if not self.mount.is_dir():
            return []
        entries = (Path(entry.path) for entry in os.scandir(self.mount) if entry.is_dir())
        # Names such as "cpu,cpuacct" have symbolic links for their parts; one of each is enough.
        return [path for path in entries if not path.is_symlink()]

    def _make(self, path: str) -> None:
        if self.unified:
            level = self.mount
            for part in path.strip("/").split("/"):
                _enable_controllers(level)
                level = level / part
                level.mkdir(exist_ok=True)
            _enable_controllers(level)
            return
        for controller in ("cpu", "memory"):
            Path(f"{self.mount}/{controller}{path}").mkdir(parents=True, exist_ok=True)

    def _apply(self, path: str, limits: CgroupLimits) -> None:
        for file, text in self.settings(path, limits):
            _write(file, text)

    def settings(self, path: str, limits: CgroupLimits) -> list[tuple[Path, str]]:
        """Which file gets which text."""
        if self.unified:
            base = Path(f"{self.mount}{path}")
            quota = str(limits.quota) if limits.quota else "max"
            return [
                (base / "cpu.weight", str(cpu_weight(limits.shares))),
                (base / "cpu.max", f"{quota} {CPU_PERIOD}"),
                (base / "memory.max", str(limits.memory or "max")),
            ]
        cpu, memory = Path(f"{self.mount}/cpu{path}"), Path(f"{self.mount}/memory{path}")
        return [
            (cpu / "cpu.shares", str(limits.shares)),
            (cpu / "cpu.cfs_period_us", str(CPU_PERIOD)),
            (cpu / "cpu.cfs_quota_us", str(limits.quota or -1)),
            (memory / "memory.limit_in_bytes", str(limits.memory or -1)),
        ]


def _number(file: Path) -> int | None:
    """A figure of the kernel's; None for "max" and for what is not there."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _enable_controllers(directory: Path) -> None:
    try:
        available = (directory / "cgroup.controllers").read_text().split()
    except FileNotFoundError:
        return
    for controller in _V2_CONTROLLERS:
        if controller in available:
            _write(directory / "cgroup.subtree_control", f"+{controller}")


def _write(file: Path, text: str) -> None:
    """Writes one setting. A kernel without a controller, or a parent with a smaller limit, must
    not keep a pod from running: the container's own limits are set by the runtime and do count."""
    try:
        with open(file, "w") as stream:
            stream.write(text)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL, errno.EBUSY, errno.EACCES, errno.EPERM):
            raise


def _remove_tree(base: Path) -> None:
    directories = [Path(directory) for directory, _, _ in os.walk(base, topdown=False)]
    deadline = time.monotonic() + _REMOVAL_SECONDS
    for directory in directories:
        while True:
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                # Killed processes need a moment to be gone from their cgroup.
                if error.errno == errno.EBUSY and time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
            break
