"""The network's figures: `python -m bench.network [STEP...] [--write]`, as root.

Steps: `paths` (throughput and latency along all ways, and how fast changes take effect, on a
cluster of two nodes), `flat` (connections through a ClusterIP among many), and the parts alone:
`proxy`, `dns`, `policy`, `ingress`. Without a step, all. `--write` puts the figures into
`docs/performance.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from bench.network import flat, paths
from bench.report import figures, markdown, rows_of, show, write_section

STEPS = {
    "paths": "Along all ways",
    "flat": "Connections among many Services",
    "proxy": "The Service proxy",
    "dns": "The name server",
    "policy": "Network policies",
    "ingress": "The ingress",
}


def measure(step: str) -> str:
    """Shows what comes of a step; returns it as tables of the page."""
    if step == "paths":
        lines, rows = paths.measure()
        print()
        for what, *values in lines:
            print(f"{what:<30}" + "".join(f"{value:>16}" for value in values))
        show(rows)
        return f"{markdown(lines)}\n\n{figures(rows)}"
    if step == "flat":
        rows = asyncio.run(flat.measure())
        show(rows)
        return figures(rows)
    return figures(rows_of(f"bench.{step}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.steps) - STEPS.keys():
        parser.error(f"no step {', '.join(unknown)}; there are {', '.join(STEPS)}")
    # Whoever ends this, namespaces and clusters go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parts = []
    for step in arguments.steps or STEPS:
        print(f"\n-- {STEPS[step]}", flush=True)
        parts.append(f"### {STEPS[step]}\n\n{measure(step)}")
    if arguments.write:
        if len(parts) < len(STEPS):
            parser.error("only all steps together are written")
        write_section("bench.network", "\n\n".join(parts))


if __name__ == "__main__":
    main()
