"""What processes use, as the kernel counts it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Processes:
    """Processes of this machine that serve together: an API server, perhaps with its etcd."""

    pids: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pids)

    def cpu(self) -> float:
        """The seconds of CPU that they have used."""
        ticks = 0
        for pid in self.pids:
            stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(stat[11]) + int(stat[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Megabytes of memory that are their own, and their share of what is not."""
        total = 0
        for pid in self.pids:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            line = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
            total += int(line.split()[1])
        return total / 1024
