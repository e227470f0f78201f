"""Scale: `python -m bench.scale [SIZE ...]`, nodes and pods by the thousand on this machine.

Without options at sizes that take two minutes; `--full` goes to 5000 nodes and 150,000 pods and
takes some twelve. `--rows` chooses: `idle`, `schedule`, `deployment` (on a cluster of their own),
`series` (memory, latency and cost as the cluster doubles). `--write` puts the figures and a picture
into `docs/performance.md`. Nothing but loopback is used, and no root is needed.
"""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import replace

import uvloop

from bench.report import Row, show
from bench.scale import plot
from bench.scale.rows import FULL, Scale, Step, base, series

ROWS = ("idle", "schedule", "deployment", "series")


async def measure(scale: Scale, chosen: frozenset[str], steps: list[Step]) -> list[Row]:
    rows: list[Row] = []
    if chosen - {"series"}:
        rows += await base(scale, chosen)
    if "series" in chosen:
        rows += await series(scale, steps)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", help="numbers of nodes of the series")
    parser.add_argument("--full", action="store_true", help="up to 5000 nodes and 150,000 pods")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    arguments = parser.parse_args()
    scale = FULL if arguments.full else Scale()
    if arguments.sizes:
        scale = replace(scale, sizes=tuple(sorted(arguments.sizes)))
    steps: list[Step] = []
    # Whoever ends this, all processes end and their state goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rows = uvloop.run(measure(scale, frozenset(arguments.rows), steps))
    show(rows)
    if arguments.write and steps:
        plot.write(steps, rows)


if __name__ == "__main__":
    main()
