"""The cgroups above the containers': one per pod, one per quality-of-service class.

`<root>/kubepods/{burstable,besteffort}/pod<uid>`, Guaranteed pods directly under `kubepods`. The
runtime makes each container's cgroup inside its pod's. cgroup v1 (a tree per controller) and v2
(one tree) are both served; which one, the file system says. Where the runtime leaves cgroups to
systemd (the "systemd driver"), each of these is a slice, made and limited through systemd, which
otherwise would undo what it has not done itself; the runtime is told the slice's name.

What is to be written is worked out first (`settings`, `commands`), then written.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from navarch.api.types.core_v1 import Pod

from .machine import huge_page_sizes
from .podspec import qos_class
from .resources import (
    CPU_PERIOD,
    MINIMUM_QUOTA,
    MINIMUM_SHARES,
    CgroupLimits,
    Classes,
    ResourcePolicy,
    cpu_weight,
    pod_cgroup_limits,
    pod_requests,
)

log = logging.getLogger(__name__)

_V2_CONTROLLERS = ("cpu", "memory", "pids", "cpuset", "io", "hugetlb")
_V1_CONTROLLERS = ("cpu", "memory", "pids", "hugetlb")
_REMOVAL_SECONDS = 1.0
_SYSTEMD_SECONDS = 30.0
_UNLIMITED = 1 << 62
""" cgroup v1 has a number for "no limit": the largest one of whole pages."""
_CLASSES = {"Guaranteed": (), "Burstable": ("burstable",), "BestEffort": ("besteffort",)}


class CgroupProblem(Exception):
    """A cgroup is not as the configuration wants it."""


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The cgroup trees of this machine, seen from `root`, this node's own place in them."""

    root: str = ""
    mount: Path = Path("/sys/fs/cgroup")
    systemd: bool = False
    policy: ResourcePolicy = field(default_factory=ResourcePolicy)

    @property
    def unified(self) -> bool:
        return (self.mount / "cgroup.controllers").exists()

    # Names

    def path(self, *parts: str) -> str:
        """The cgroup of these names below the node's root, relative to the mount. A slice's name
        repeats those above it, so names of their own cannot have a dash."""
        names = [each for each in self.root.split("/") if each] + list(parts)
        if not self.systemd:
            return "".join(f"/{each}" for each in names)
        names = [each.replace("-", "_") for each in names]
        return "".join(f"/{'-'.join(names[: end + 1])}.slice" for end in range(len(names)))

    def class_path(self, quality: str) -> str:
        return self.path("kubepods", *_CLASSES.get(quality, ()))

    def pod_path(self, pod: Pod) -> str:
        """The pod's cgroup, as the runtime is told (relative to the mount)."""
        return self._pod_path(qos_class(pod), pod.metadata.uid)

    def _pod_path(self, quality: str, uid: str) -> str:
        return self.path("kubepods", *_CLASSES[quality], f"pod{uid}")

    # Making and limiting

    def ensure_classes(self, whole: CgroupLimits | None = None) -> None:
        """Makes the class cgroups; pods that asked for nothing get what the others leave. `whole`
        is what all pods together may have. Raises `CgroupProblem` if they have more already."""
        for quality in _CLASSES:
            path = self.class_path(quality)
            self._make(path)
            if quality == "BestEffort":
                self._apply(path, CgroupLimits(MINIMUM_SHARES))
        if whole is not None:
            path = self.class_path("Guaranteed")
            problems = self._apply(path, whole)
            if problems:
                raise CgroupProblem(f'"{path}": {"; ".join(problems)}')

    def enforce_existing(self, name: str, limits: CgroupLimits, *, compressible: bool) -> None:
        """Limits a cgroup of the system's own (kubeReserved, systemReserved), which has to be
        there; `compressible` is what can be had less of without harm, processor time."""
        names = [each for each in name.split("/") if each]
        path = Cgroups("", self.mount, self.systemd).path(*names)
        base = Path(f"{self.mount}{path}" if self.unified else f"{self.mount}/cpu{path}")
        if not base.is_dir():
            raise CgroupProblem(f'"{name}": cgroup does not exist')
        wanted = self.settings(path, limits)
        for file, text in wanted:
            if not compressible or file.name.startswith("cpu."):
                problem = _write(file, text)
                if problem:
                    raise CgroupProblem(f'"{name}": {problem}')

    def set_classes(self, classes: Classes) -> None:
        """The Burstable class weighs as much as its pods have requested together."""
        limits = {
            "Burstable": CgroupLimits(classes.burstable_shares, memory=classes.burstable_memory),
            "BestEffort": CgroupLimits(MINIMUM_SHARES, memory=classes.best_effort_memory),
        }
        for quality, each in limits.items():
            self._apply(self.class_path(quality), each)
        if self.unified:
            for quality, files in classes.kept.items():
                for name, text in files.items():
                    _write(Path(f"{self.mount}{self.class_path(quality)}/{name}"), text)

    def ensure_pod(self, pod: Pod, limits: CgroupLimits | None = None) -> str:
        """Makes the pod's cgroup with its (or other) limits, also after a resize; returns its
        path."""
        path = self.pod_path(pod)
        self._make(path)
        self._apply(path, limits or pod_cgroup_limits(pod))
        for file, text in self.pod_settings(path, pod):
            _write(file, text)
        return path

    def pod_settings(self, path: str, pod: Pod) -> list[tuple[Path, str]]:
        """What a pod's cgroup has beside processor time and memory."""
        requests, policy = pod_requests(pod), self.policy
        result = []
        if policy.pids:
            result.append((self._file("pids", path, "pids.max"), str(policy.pids)))
        for size, name in huge_page_sizes():
            limit = f"hugetlb.{name}.max", f"hugetlb.{name}.limit_in_bytes"
            result.append((self._file("hugetlb", path, *limit), str(requests.get(size, 0))))
        request = requests.get("memory", 0)
        if self.unified and policy.memory_qos and policy.reserves_memory and request:
            name = "memory.min" if qos_class(pod) == "Guaranteed" else "memory.low"
            result.append((self._file("memory", path, name), str(request)))
        return result

    def settings(self, path: str, limits: CgroupLimits) -> list[tuple[Path, str]]:
        """Which file gets which text."""
        period = self.policy.period
        quota = self._quota(limits)
        if self.unified:
            base = Path(f"{self.mount}{path}")
            return [
                (base / "cpu.weight", str(cpu_weight(limits.shares))),
                (base / "cpu.max", f"{quota or 'max'} {period}"),
                (base / "memory.max", str(limits.memory or "max")),
            ]
        cpu, memory = Path(f"{self.mount}/cpu{path}"), Path(f"{self.mount}/memory{path}")
        return [
            (cpu / "cpu.shares", str(limits.shares)),
            (cpu / "cpu.cfs_period_us", str(period)),
            (cpu / "cpu.cfs_quota_us", str(quota or -1)),
            (memory / "memory.limit_in_bytes", str(limits.memory or -1)),
        ]

    def commands(self, path: str, limits: CgroupLimits) -> list[list[str]]:
        """What systemd is told of a slice."""
        unit = path.rpartition("/")[2]
        quota = self._quota(limits)
        share = (
            f"CPUWeight={cpu_weight(limits.shares)}"
            if self.unified
            else f"CPUShares={limits.shares}"
        )
        memory = "MemoryMax" if self.unified else "MemoryLimit"
        properties = [
            share,
            f"CPUQuota={_percent(quota, self.policy.period) if quota else ''}",
            f"{memory}={limits.memory or 'infinity'}",
        ]
        if self.policy.pids:
            properties.append(f"TasksMax={self.policy.pids}")
        return [["systemctl", "--runtime", "set-property", unit, *properties]]

    def _quota(self, limits: CgroupLimits) -> int:
        if not limits.quota or not self.policy.enforces_quota:
            return 0
        return max(MINIMUM_QUOTA, limits.quota * self.policy.period // CPU_PERIOD)

    def _make(self, path: str) -> None:
        if self.systemd:
            if not Path(f"{self.mount}{path if self.unified else '/cpu' + path}").is_dir():
                _systemctl(["systemctl", "start", path.rpartition("/")[2]])
            return
        if self.unified:
            level = self.mount
            for part in path.strip("/").split("/"):
                _enable_controllers(level)
                level = level / part
                level.mkdir(exist_ok=True)
            _enable_controllers(level)
            return
        for controller in _V1_CONTROLLERS:
            if controller in ("cpu", "memory") or (self.mount / controller).is_dir():
                Path(f"{self.mount}/{controller}{path}").mkdir(parents=True, exist_ok=True)

    def _apply(self, path: str, limits: CgroupLimits) -> list[str]:
        if self.systemd:
            for command in self.commands(path, limits):
                _systemctl(command)
        written = [_write(file, text) for file, text in self.settings(path, limits)]
        return [each for each in written if each]

    # Figures

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

    # Removing

    def remove_pod(self, uid: str) -> None:
        """Removes the pod's cgroup wherever it is; what still runs in it is killed."""
        for quality in _CLASSES:
            path = self._pod_path(quality, uid)
            bases = [Path(f"{tree}{path}") for tree in self._trees()]
            present = [each for each in bases if each.is_dir()]
            if present and self.systemd:
                _systemctl(["systemctl", "stop", path.rpartition("/")[2]])
            for base in present:
                _remove_tree(base)

    def pods(self) -> set[str]:
        """The uids of the pods that have a cgroup."""
        found = set()
        for quality in _CLASSES:
            for tree in self._trees():
                base = Path(f"{tree}{self.class_path(quality)}")
                if base.is_dir():
                    names = (entry.name for entry in os.scandir(base) if entry.is_dir())
                    found |= {uid for name in names if (uid := self._uid(name))}
        return found

    def _uid(self, name: str) -> str:
        if self.systemd:
            name = name.removesuffix(".slice").rpartition("-")[2].replace("_", "-")
        return name[3:] if name.startswith("pod") else ""

    def _trees(self) -> Iterator[Path]:
        if self.unified:
            yield self.mount
        elif self.mount.is_dir():
            for entry in os.scandir(self.mount):
                # Names such as "cpu,cpuacct" have symbolic links for their parts; one is enough.
                if entry.is_dir() and not entry.is_symlink():
                    yield Path(entry.path)


def _percent(quota: int, period: int) -> str:
    """Processor time as systemd writes it: of one processor, in hundredths of a per cent."""
    return f"{quota * 100 / period:.2f}".rstrip("0").rstrip(".") + "%"


def _systemctl(command: list[str]) -> None:
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_SYSTEMD_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.error("%s: %s", " ".join(command), error)
        return
    if result.returncode != 0:
        log.error("%s: %s", " ".join(command), result.stderr.strip())


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


def _write(file: Path, text: str) -> str:
    """Writes one setting and says what was wrong with it. A kernel without a controller, or a
    parent with a smaller limit, must not keep a pod from running: the container's own limits are
    set by the runtime and do count."""
    try:
        with open(file, "w") as stream:
            stream.write(text)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL, errno.EBUSY, errno.EACCES, errno.EPERM):
            raise
        return f"{file.name} cannot be {text}: {error.strerror}"
    return ""


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
                    _kill_all(directory)
                    time.sleep(0.01)
                    continue
            break


def _kill_all(directory: Path) -> None:
    """Kills what is left in a cgroup whose containers are over: nobody else knows of it."""
    try:
        pids = [int(each) for each in (directory / "cgroup.procs").read_text().split()]
    except (OSError, ValueError):
        return
    for pid in pids:
        # 0 stands for a process of another PID namespace, and for our own group with kill(2).
        if pid > 1 and pid != os.getpid():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
