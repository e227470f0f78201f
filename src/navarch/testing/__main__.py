"""A cluster in memory for tests in any language: `python -m navarch.testing`.

Writes a kubeconfig when the cluster is usable, runs in the foreground until it is told to end
(SIGTERM or Ctrl-C), and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from navarch.cluster import processes
from navarch.testing.cluster import Cluster


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m navarch.testing", description=__doc__)
    parser.add_argument("--nodes", type=int, default=0, help="simulated nodes")
    parser.add_argument(
        "--node",
        action="append",
        default=[],
        type=json.loads,
        metavar="JSON",
        help='a simulated node of its own kind: {"name": "gpu", "labels": {...}, "taints": [...]}',
    )
    parser.add_argument("--manifest", action="append", default=[], help="a file to apply at start")
    parser.add_argument("--kubeconfig", type=Path, help="the file to write (printed otherwise)")
    parser.add_argument("--pid-file", type=Path, help="where to say who runs the cluster")
    options = parser.parse_args(arguments)
    ends = {signal.SIGTERM, signal.SIGINT}
    # Before any thread starts, so that none of them takes the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with Cluster(nodes=options.nodes) as cluster:
        for node in options.node:
            cluster.add_node(**node)
        cluster.apply(*options.manifest)
        if options.pid_file:
            processes.write_pid_file(options.pid_file, processes.myself())
        if options.kubeconfig:
            written = options.kubeconfig.with_name(f".{options.kubeconfig.name}.new")
            written.touch(0o600)
            written.write_bytes(cluster.kubeconfig.read_bytes())
            written.replace(options.kubeconfig)
        else:
            print(f"export KUBECONFIG={cluster.kubeconfig}", flush=True)
        signal.sigwait(ends)
    if options.kubeconfig:
        options.kubeconfig.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
