"""`python -m bench.reliability [--row N] [--seed S] [--kills N] [--events N] [--cuts N]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import uvloop

from bench.reliability import rows
from bench.reliability.rows import Sizes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=list(rows.ROWS), action="append", help="default: all")
    for name, default in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = vars(parser.parse_args())
    chosen = arguments.pop("row") or list(rows.ROWS)
    sizes = Sizes(**arguments)
    are_kept = True
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="navarch-reliability-") as directory:
            began = time.perf_counter()
            for figure in uvloop.run(rows.ROWS[name](Path(directory), sizes)):
                figure.seconds = time.perf_counter() - began
                print(figure, flush=True)
                are_kept &= figure.is_kept
    return 0 if are_kept else 1


if __name__ == "__main__":
    sys.exit(main())
