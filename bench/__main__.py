"""All figures of the budgets that one machine can show: `python -m bench`, as root."""

from __future__ import annotations

import subprocess
import sys

STEPS = (
    ("The store", ("bench/store.py",)),
    ("The API server", ("-m", "bench.server")),
    ("A cluster with one real node", ("-m", "bench.cluster")),
)


def main() -> None:
    for title, command in STEPS:
        print(f"\n== {title}", flush=True)
        subprocess.run([sys.executable, *command], check=True)


if __name__ == "__main__":
    main()
