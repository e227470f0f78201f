"""Kernel settings that proxying relies on: forwarding and connection tracking.

Most belong to the network namespace; the size of the tracking table is the whole machine's and can
only be set outside any other namespace. A setting that is not there or not ours to change is told
once and lived without.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("navarch.network.proxy")
MAX_ENTRIES = 1 << 20
HASH_SIZE = Path("/sys/module/nf_conntrack/parameters/hashsize")


@dataclass(frozen=True, slots=True)
class Conntrack:
    """Connection tracking; 0 leaves a setting alone."""

    max_per_core: int = 32768
    min: int = 131072
    tcp_established_timeout: int = 86400
    tcp_close_wait_timeout: int = 3600
    udp_timeout: int = 0
    udp_stream_timeout: int = 0
    tcp_be_liberal: int = 1
    """Segments outside the window still belong to their connection: else an endpoint's late answer
    would reach the client from the endpoint's own address, and be answered by a reset."""

    def entries(self, cores: int) -> int:
        """How many connections to track at most; 0: as the kernel thinks."""
        if not self.max_per_core:
            return 0
        scaled = self.max_per_core * cores
        return MAX_ENTRIES if scaled > MAX_ENTRIES else max(scaled, self.min)


def sysctls(conntrack: Conntrack, families: tuple[str, ...], cores: int) -> dict[str, int]:
    """Every setting and its value."""
    tracked = {
        "max": conntrack.entries(cores),
        "tcp_timeout_established": conntrack.tcp_established_timeout,
        "tcp_timeout_close_wait": conntrack.tcp_close_wait_timeout,
        "udp_timeout": conntrack.udp_timeout,
        "udp_timeout_stream": conntrack.udp_stream_timeout,
        "tcp_be_liberal": conntrack.tcp_be_liberal,
    }
    settings = {f"net/netfilter/nf_conntrack_{name}": v for name, v in tracked.items() if v}
    if "ip" in families:
        settings |= {"net/ipv4/ip_forward": 1, "net/ipv4/conf/all/route_localnet": 0}
    if "ip6" in families:
        settings["net/ipv6/conf/all/forwarding"] = 1
    return settings


def apply(conntrack: Conntrack, families: tuple[str, ...]) -> None:
    """Set what is not set yet."""
    cores = os.cpu_count() or 1
    for name, value in sysctls(conntrack, families, cores).items():
        _write(Path("/proc/sys", name), value, at_least=name.endswith("_max"))
    entries = conntrack.entries(cores)
    if entries and os.access(HASH_SIZE, os.W_OK):
        _write(HASH_SIZE, entries // 4, at_least=True)


def _write(path: Path, value: int, *, at_least: bool) -> None:
    try:
        known = int(path.read_text())
        if known != value and not (at_least and known > value):
            path.write_text(str(value))
    except (OSError, ValueError) as error:
        log.info("%s stays as it is: %s", path, error)
