"""What a cgroup has used: cgroup v1 and v2 read into one value. Reads small files; call it in a
thread where there are many.

Working set is what the kernel cannot simply drop: usage without the file pages nobody has touched
lately. That is upstream's definition, which eviction and autoscalers go by.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

UNLIMITED = 1 << 62
"""cgroup v1 has a large number for "no limit"."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """One line of a pressure file (PSI): averages in percent, and microseconds in all."""

    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0
    total: int = 0


@dataclass(frozen=True, slots=True)
class CgroupUsage:
    """Cumulative or present use; None: the kernel does not say."""

    cpu_nanoseconds: int | None = None
    memory: int | None = None
    working_set: int | None = None
    rss: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    memory_limit: int | None = None
    swap: int | None = None
    swap_limit: int | None = None
    processes: int = 0
    details: Mapping[str, float] = field(default_factory=dict)
    """Figures that only `/metrics/cadvisor` shows, by the metric's name."""
    pressure: Mapping[str, Mapping[str, Pressure]] = field(default_factory=dict)
    """By resource (`cpu`, `memory`, `io`), then `some` and `full`."""


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdecimal() else None


def _table(path: str) -> dict[str, int]:
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def read_pressure(directory: str, suffix: str = "") -> dict[str, dict[str, Pressure]]:
    """The pressure files of a cgroup, or (without a suffix) of the machine in `/proc/pressure`."""
    result: dict[str, dict[str, Pressure]] = {}
    for resource in ("cpu", "memory", "io"):
        for line in _text(f"{directory}/{resource}{suffix}").splitlines():
            kind, *figures = line.split()
            values = dict(each.partition("=")[::2] for each in figures)
            result.setdefault(resource, {})[kind] = Pressure(
                float(values["avg10"]),
                float(values["avg60"]),
                float(values["avg300"]),
                int(values["total"]),
            )
    return result


@dataclass(frozen=True, slots=True)
class CgroupReader:
    """Reads cgroups of one machine by their path, such as `/kubepods/pod1/abc`."""

    mount: Path = Path("/sys/fs/cgroup")

    @property
    def unified(self) -> bool:
        return (self.mount / "cgroup.controllers").exists()

    def directory(self, path: str, controller: str = "memory") -> str:
        return f"{self.mount}{path}" if self.unified else f"{self.mount}/{controller}{path}"

    def children(self, path: str) -> list[str]:
        """The names of the cgroups inside one."""
        try:
            with os.scandir(self.directory(path)) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []

    def pids(self, path: str) -> list[int]:
        """The processes of a cgroup itself, not of those inside."""
        return [int(each) for each in _text(self.directory(path) + "/cgroup.procs").split()]

    def read(self, path: str, *, full: bool = False) -> CgroupUsage:
        """Without `full` only processor time and memory, for those who ask often."""
        return self._read_v2(path, full) if self.unified else self._read_v1(path, full)

    def _read_v2(self, path: str, full: bool) -> CgroupUsage:
        base = self.directory(path)
        cpu, stat = _table(f"{base}/cpu.stat"), _table(f"{base}/memory.stat")
        memory = _number(f"{base}/memory.current")
        microseconds = cpu.get("usage_usec")
        swap_limit = _number(f"{base}/memory.swap.max")
        details: dict[str, float] = {}
        if full:
            quota, _, period = _text(f"{base}/cpu.max").strip().partition(" ")
            events = _table(f"{base}/memory.events")
            details = {
                **_cpu_details(cpu, cpu.get("throttled_usec", 0) / 1e6),
                "container_cpu_user_seconds_total": cpu.get("user_usec", 0) / 1e6,
                "container_cpu_system_seconds_total": cpu.get("system_usec", 0) / 1e6,
                "container_memory_cache": stat.get("file", 0),
                "container_memory_mapped_file": stat.get("file_mapped", 0),
                "container_memory_total_active_file_bytes": stat.get("active_file", 0),
                "container_memory_total_inactive_file_bytes": stat.get("inactive_file", 0),
                "container_memory_kernel_usage": stat.get("kernel", 0),
                "container_memory_failcnt": events.get("max", 0),
                "container_memory_max_usage_bytes": _number(f"{base}/memory.peak") or 0,
                "container_oom_events_total": events.get("oom_kill", 0),
                "container_spec_cpu_shares": _shares(_number(f"{base}/cpu.weight") or 100),
                "container_spec_cpu_period": int(period or 100_000),
                **({"container_spec_cpu_quota": int(quota)} if quota.isdecimal() else {}),
                **_io_details(f"{base}/io.stat"),
            }
        return CgroupUsage(
            cpu_nanoseconds=None if microseconds is None else microseconds * 1000,
            memory=memory,
            working_set=_working_set(memory, stat.get("inactive_file", 0)),
            rss=stat.get("anon", 0),
            page_faults=stat.get("pgfault", 0),
            major_page_faults=stat.get("pgmajfault", 0),
            memory_limit=_number(f"{base}/memory.max"),
            swap=_number(f"{base}/memory.swap.current"),
            swap_limit=swap_limit,
            processes=_number(f"{base}/pids.current") or 0 if full else 0,
            details=details,
            pressure=read_pressure(base, ".pressure") if full else {},
        )

    def _read_v1(self, path: str, full: bool) -> CgroupUsage:
        base = self.directory(path)
        stat = _table(f"{base}/memory.stat")
        memory = _number(f"{base}/memory.usage_in_bytes")
        limit = _limit(_number(f"{base}/memory.limit_in_bytes"))
        both = _limit(_number(f"{base}/memory.memsw.limit_in_bytes"))
        details: dict[str, float] = {}
        if full:
            cpu = self.directory(path, "cpu")
            account = self.directory(path, "cpuacct")
            scheduled, ticks = _table(f"{cpu}/cpu.stat"), _table(f"{account}/cpuacct.stat")
            oom = _table(f"{base}/memory.oom_control")
            quota = _number(f"{cpu}/cpu.cfs_quota_us") or 0
            tick = os.sysconf("SC_CLK_TCK")
            details = {
                **_cpu_details(scheduled, scheduled.get("throttled_time", 0) / 1e9),
                "container_cpu_user_seconds_total": ticks.get("user", 0) / tick,
                "container_cpu_system_seconds_total": ticks.get("system", 0) / tick,
                "container_memory_cache": stat.get("total_cache", 0),
                "container_memory_mapped_file": stat.get("total_mapped_file", 0),
                "container_memory_total_active_file_bytes": stat.get("total_active_file", 0),
                "container_memory_total_inactive_file_bytes": stat.get("total_inactive_file", 0),
                "container_memory_kernel_usage": _number(f"{base}/memory.kmem.usage_in_bytes") or 0,
                "container_memory_failcnt": _number(f"{base}/memory.failcnt") or 0,
                "container_memory_max_usage_bytes": (
                    _number(f"{base}/memory.max_usage_in_bytes") or 0
                ),
                "container_oom_events_total": oom.get("oom_kill", 0),
                "container_spec_cpu_shares": _number(f"{cpu}/cpu.shares") or 0,
                "container_spec_cpu_period": _number(f"{cpu}/cpu.cfs_period_us") or 0,
                **({"container_spec_cpu_quota": quota} if quota > 0 else {}),
            }
        return CgroupUsage(
            cpu_nanoseconds=_number(self.directory(path, "cpuacct") + "/cpuacct.usage"),
            memory=memory,
            working_set=_working_set(memory, stat.get("total_inactive_file", 0)),
            rss=stat.get("total_rss", 0),
            page_faults=stat.get("total_pgfault", stat.get("pgfault", 0)),
            major_page_faults=stat.get("total_pgmajfault", stat.get("pgmajfault", 0)),
            memory_limit=limit,
            swap=stat.get("total_swap"),
            swap_limit=both - limit if both is not None and limit is not None else None,
            processes=_number(self.directory(path, "pids") + "/pids.current") or 0 if full else 0,
            details=details,
        )


def _limit(value: int | None) -> int | None:
    return None if value is None or value >= UNLIMITED or value < 0 else value


def _working_set(memory: int | None, inactive: int) -> int | None:
    return None if memory is None else max(0, memory - inactive)


def _shares(weight: int) -> int:
    """cgroup v1's shares for cgroup v2's weight."""
    return 2 + (weight - 1) * 262_142 // 9999


def _cpu_details(stat: Mapping[str, int], throttled: float) -> dict[str, float]:
    return {
        "container_cpu_cfs_periods_total": stat.get("nr_periods", 0),
        "container_cpu_cfs_throttled_periods_total": stat.get("nr_throttled", 0),
        "container_cpu_cfs_throttled_seconds_total": throttled,
    }


def _io_details(path: str) -> dict[str, float]:
    total = dict.fromkeys(("rbytes", "wbytes", "rios", "wios"), 0)
    for line in _text(path).splitlines():
        for each in line.split()[1:]:
            name, _, value = each.partition("=")
            if name in total and value.isdecimal():
                total[name] += int(value)
    return {
        "container_fs_reads_bytes_total": total["rbytes"],
        "container_fs_writes_bytes_total": total["wbytes"],
        "container_fs_reads_total": total["rios"],
        "container_fs_writes_total": total["wios"],
    }
