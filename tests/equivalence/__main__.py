"""`python -m tests.equivalence [--examples N] [WORD...]`: compare many random worlds.

Words choose among the checks those whose names contain them all.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from .checks import CHECKS, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.equivalence", description=__doc__)
    parser.add_argument("--examples", type=int, default=1000, help="worlds per check")
    parser.add_argument("words", nargs="*", metavar="WORD")
    arguments = parser.parse_args()
    failed = 0
    for check in CHECKS:
        if not all(word in check for word in arguments.words):
            continue
        started = time.monotonic()
        try:
            run(check, arguments.examples, derandomize=False)
            outcome = "the same"
        except AssertionError as error:
            failed += 1
            traceback.print_exception(error, limit=1)
            outcome = "DIFFERENT"
        print(f"{check}: {outcome} ({time.monotonic() - started:.0f} s)", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
