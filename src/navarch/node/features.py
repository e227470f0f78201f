"""What this machine cannot do for pods, found at start and named: in the log and by `doctor`.

Nothing of this keeps a node from running: each row says what is done without. What the kernel or
the runtime has a way around for is not a lack and is not listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CAP_SYS_RESOURCE = 24


@dataclass(frozen=True, slots=True)
class Lack:
    """Something the machine does not have, and what follows for pods."""

    what: str
    consequence: str

    def __str__(self) -> str:
        return f"{self.what}: {self.consequence}"


CONTROLLERS = {
    "cpu": "limits and requests of cpu have no effect",
    "memory": "limits of memory have no effect",
    "pids": "podPidsLimit has no effect",
    "hugetlb": "huge pages are not limited per pod",
}


def lacks(root: Path = Path("/")) -> Iterator[Lack]:
    """Everything this machine lacks; `root` is where its files are."""
    cgroups = root / "sys/fs/cgroup"
    unified = _text(cgroups / "cgroup.controllers")
    for name, consequence in CONTROLLERS.items():
        if not (name in unified.split() if unified else (cgroups / name).is_dir()):
            yield Lack(f"no {name} controller", consequence)
    if not unified and not (cgroups / "memory/memory.memsw.limit_in_bytes").exists():
        yield Lack("no control of swap", "containers may swap beyond their memory limit")
    if unified == "" and not (cgroups / "cgroup.procs").exists():
        yield Lack(
            "cgroup v1", "no memory.oom.group, no MemoryQoS, no LimitedSwap, no pressure figures"
        )
    if not (root / "proc/pressure").is_dir():
        yield Lack("no pressure stall information", "figures about pressure are left out")
    if _text(root / "proc/sys/user/max_user_namespaces") in ("", "0"):
        yield Lack("no user namespaces", "pods with hostUsers: false are not started")
    if _text(root / "sys/module/apparmor/parameters/enabled") != "Y":
        yield Lack("no AppArmor", "pods that ask for a profile are refused")
    if "Seccomp:" not in _text(root / "proc/self/status"):
        yield Lack("no seccomp", "containers run without a filter of system calls")
    if not _has_capability(_text(root / "proc/self/status"), CAP_SYS_RESOURCE):
        yield Lack(
            "no CAP_SYS_RESOURCE", "the order in which the kernel kills processes is its own"
        )
    if not os.access(root / "dev/kmsg", os.R_OK):
        yield Lack("no kernel log", "SystemOOM events are left out")


def _has_capability(status: str, number: int) -> bool:
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
