"""What the machine itself uses, and its network interfaces, as `/proc` tells."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .cgroup import CgroupReader, CgroupUsage, read_pressure


@dataclass(frozen=True, slots=True)
class Interface:
    """Counters of one network interface."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


def interfaces(pid: int | str = "self") -> Sequence[Interface]:
    """The interfaces in a process's network namespace, without loopback."""
    try:
        with open(f"/proc/{pid}/net/dev") as file:
            lines = file.readlines()[2:]
    except (OSError, UnicodeDecodeError):
        return ()
    found = []
    for line in lines:
        name, _, rest = line.partition(":")
        counts = [int(each) for each in rest.split()]
        if name.strip() != "lo" and len(counts) >= 12:
            found.append(Interface(name.strip(), *counts[:4], *counts[8:12]))
    return found


def memory_information() -> dict[str, int]:
    """`/proc/meminfo` in bytes."""
    with open("/proc/meminfo") as file:
        rows = (line.split() for line in file)
        return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3}


def boot_time() -> float:
    """When the machine was started (Unix time)."""
    with open("/proc/stat") as file:
        for line in file:
            if line.startswith("btime "):
                return float(line.split()[1])
    return 0.0


def own_usage() -> CgroupUsage:
    """What this process uses: as of a cgroup, but from `/proc`."""
    with open("/proc/self/statm") as file:
        pages = [int(each) for each in file.read().split()]
    times = os.times()
    size = os.sysconf("SC_PAGE_SIZE")
    resident, shared = pages[1] * size, pages[2] * size
    return CgroupUsage(
        cpu_nanoseconds=int((times.user + times.system) * 1e9),
        memory=resident,
        working_set=resident,
        rss=resident - shared,
    )


def whole_machine(reader: CgroupReader) -> CgroupUsage:
    """The root cgroup. With v2 it has no figures of memory, so the kernel's own stand in."""
    usage = reader.read("/" if not reader.unified else "", full=True)
    memory = memory_information()
    total = memory["MemTotal"]
    used = usage.memory
    working_set, rss = usage.working_set, usage.rss
    if used is None:
        used = total - memory["MemFree"]
        working_set = max(0, used - memory.get("Inactive(file)", 0))
        rss = rss or memory.get("AnonPages", 0)
    return replace(
        usage,
        memory=used,
        working_set=working_set,
        rss=rss,
        memory_limit=total,
        swap=memory.get("SwapTotal", 0) - memory.get("SwapFree", 0),
        swap_limit=memory.get("SwapTotal", 0),
        pressure=read_pressure("/proc/pressure"),
    )
