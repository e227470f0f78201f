"""Reads what the machine is: capacity, identity, pressure. No other module reads these files."""

from __future__ import annotations

import os
import platform
import socket
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class MachineFacts:
    """What does not change while the agent runs."""

    cpus: int
    memory_bytes: int
    disk_bytes: int
    huge_pages: dict[str, int] = field(default_factory=dict)
    """Bytes by resource name, such as `hugepages-2Mi`."""
    machine_id: str = ""
    system_uuid: str = ""
    boot_id: str = ""
    kernel: str = ""
    os_image: str = ""
    architecture: str = ""
    swap_bytes: int = 0


def read_facts(root_directory: Path) -> MachineFacts:
    """The machine's facts; `root_directory` lies on the file system that pods fill."""
    disk = os.statvfs(root_directory)
    machine_id = _text("/etc/machine-id") or _text("/var/lib/dbus/machine-id")
    return MachineFacts(
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=_meminfo().get("MemTotal", 0),
        disk_bytes=disk.f_blocks * disk.f_frsize,
        huge_pages=_huge_pages(),
        machine_id=machine_id,
        system_uuid=_text("/sys/class/dmi/id/product_uuid") or machine_id,
        boot_id=_text("/proc/sys/kernel/random/boot_id"),
        swap_bytes=_meminfo().get("SwapTotal", 0),
        kernel=platform.release(),
        os_image=_os_image(),
        architecture={"x86_64": "amd64", "aarch64": "arm64"}.get(
            platform.machine(), platform.machine()
        ),
    )


def memory_total_and_available() -> tuple[int, int]:
    """Bytes of memory, and how many of them could be had without swapping: what the kernel counts
    as available, which is the machine's whatever share of it this node calls its own."""
    figures = _meminfo()
    return figures.get("MemTotal", 0), figures.get("MemAvailable", 0)


def swap_capacity(*, unified: bool, mount: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of swap; None where the kernel has no controller for it."""
    if unified:
        own = _text("/proc/self/cgroup").rpartition(":")[2].splitlines()
        # The root of the tree has no limits to look at; any cgroup below it will do.
        below = [mount / each.lstrip("/") for each in own]
        below += [each for each in mount.iterdir() if each.is_dir()]
        known = any((each / "memory.swap.max").exists() for each in below)
    else:
        known = (mount / "memory/memory.memsw.limit_in_bytes").exists()
    return _meminfo().get("SwapTotal", 0) if known else None


def process_limits() -> tuple[int, int]:
    """How many processes and threads there may be, and are."""
    limits = (_text("/proc/sys/kernel/pid_max"), _text("/proc/sys/kernel/threads-max"))
    used = _text("/proc/loadavg").split()
    # The fourth field of loadavg is "running/all" threads.
    running = int(used[3].partition("/")[2]) if len(used) > 3 else 0
    return min((int(each) for each in limits if each), default=32768), running


def default_address() -> str:
    """The address of this machine that packets to elsewhere would carry (nothing is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _meminfo() -> dict[str, int]:
    result = {}
    for line in _text("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words:
            result[name] = int(words[0]) * (1024 if len(words) > 1 else 1)
    return result


def _huge_pages() -> dict[str, int]:
    base = Path("/sys/kernel/mm/hugepages")
    return {
        resource: int(_text(f"{base}/hugepages-{kilobytes}kB/nr_hugepages") or 0) * kilobytes * 1024
        for kilobytes, (resource, _) in _page_sizes().items()
    }


def huge_page_sizes() -> list[tuple[str, str]]:
    """The sizes of huge pages, as resources (`hugepages-2Mi`) and cgroups (`2MB`) name them."""
    return list(_page_sizes().values())


@cache
def _page_sizes() -> dict[int, tuple[str, str]]:
    sizes = sorted(
        int(each.name.removeprefix("hugepages-").removesuffix("kB"))
        for each in Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB")
    )
    result = {}
    for kilobytes in sizes:
        large = f"{kilobytes >> 20}G" if kilobytes >= 1 << 20 else f"{kilobytes >> 10}M"
        result[kilobytes] = f"hugepages-{large}i", f"{large}B"
    return result


def _os_image() -> str:
    for line in (_text("/etc/os-release") or _text("/usr/lib/os-release")).splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip('"')
    return "Linux"


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
