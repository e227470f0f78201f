"""The log files of a profile's own processes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from navarch.cluster.profile import ClusterError, Paths
from navarch.cluster.readiness import tail

INTERVAL = 0.2


def files(paths: Paths, prefix: str = "") -> list[Path]:
    """The logs whose names begin with `prefix`: those of processes, and what an ingress node's
    nginx was asked (`ingress-access`)."""
    nodes = paths.root.glob("nodes/*/ingress/*.log")
    found = [*sorted(paths.logs.glob("*.log")), *sorted(nodes)]
    chosen = [file for file in found if file.name.startswith(prefix)]
    if prefix and not chosen:
        names = ", ".join(file.stem for file in found) or "none"
        raise ClusterError(f"there is no log {prefix!r}", f"There are: {names}")
    return chosen


def last(logs: Sequence[Path], lines: int) -> Iterator[str]:
    """The end of every log, under a heading, as minikube prints them."""
    for file in logs:
        yield ""
        yield f"==> {file.stem} <=="
        yield from tail(file, lines).splitlines()


def follow(logs: Sequence[Path]) -> Iterator[str]:
    """Lines as they are written, for ever. A log that was emptied is read from its beginning."""
    positions = {file: file.stat().st_size for file in logs}
    while True:
        for file, position in positions.items():
            size = file.stat().st_size
            if size == position:
                continue
            with file.open("rb") as source:
                source.seek(position if size > position else 0)
                complete, newline, _ = source.read().rpartition(b"\n")
            start = position if size > position else 0
            positions[file] = start + len(complete) + len(newline)
            for line in complete.decode(errors="replace").splitlines():
                yield f"{file.stem}: {line}" if len(logs) > 1 else line
        time.sleep(INTERVAL)
