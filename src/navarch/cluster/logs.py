"""The log files of a profile's own processes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from navarch.cluster.profile import ClusterError, Paths
from navarch.cluster.readiness import tail

INTERVAL = 0.2


def files(paths: Paths, prefix: str = "") -> list[Path]:
    """The logs whose names begin with `prefix`: those of processes, and what the nginx of each node
    was asked (`ingress-access-NODE`, `gateway-access-NODE`)."""
    nodes = paths.root.glob("nodes/*/*/*-access.log")
    found = [*sorted(paths.logs.glob("*.log")), *sorted(nodes)]
    chosen = [file for file in found if name_of(file).startswith(prefix)]
    if prefix and not chosen:
        names = ", ".join(map(name_of, found)) or "none"
        raise ClusterError(f"there is no log {prefix!r}", f"There are: {names}")
    return chosen


def name_of(log: Path) -> str:
    """What it is called here: an access log after its node, too."""
    node = log.parent.parent
    return f"{log.stem}-{node.name}" if node.parent.name == "nodes" else log.stem


def last(logs: Sequence[Path], lines: int) -> Iterator[str]:
    """The end of every log, under a heading, as minikube prints them."""
    for file in logs:
        yield ""
        yield f"==> {name_of(file)} <=="
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
                yield f"{name_of(file)}: {line}" if len(logs) > 1 else line
        time.sleep(INTERVAL)
