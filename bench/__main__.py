"""All figures of the budgets that one machine can show: `python -m bench`, as root.

Options are the API server step's: `--against KUBECONFIG` measures another server beside ours.
"""

from __future__ import annotations

import subprocess
import sys

STEPS = (
    ("The store", ("bench/store.py",)),
    ("The API server", ("-m", "bench.server")),
    ("A cluster with one real node", ("-m", "bench.cluster")),
    ("The node's agent", ("-m", "bench.node")),
    ("The network", ("-m", "bench.network")),
    ("Simulated nodes by the hundred", ("-m", "bench.scale")),
)


def main() -> None:
    for title, command in STEPS:
        print(f"\n== {title}", flush=True)
        options = sys.argv[1:] if "bench.server" in command else []
        subprocess.run([sys.executable, *command, *options], check=True)


if __name__ == "__main__":
    main()
