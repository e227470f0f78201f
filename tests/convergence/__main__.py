"""`python -m tests.convergence [--examples N] [--seed S]`: many random histories of a cluster.

Of each that does not end well, the seed and the shortest script that was found are printed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pprint import pformat

from .runner import run, shrink
from .steps import draw


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.convergence", description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="histories to try")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--length", type=int, default=60, help="steps of each")
    parser.add_argument("--whole", action="store_true", help="do not look for shorter scripts")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets is a part of what a seed stands for.
        arguments = [sys.executable, "-m", "tests.convergence", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "PYTHONHASHSEED": "0"})
    logging.getLogger("navarch").setLevel(logging.CRITICAL)
    failed = 0
    for seed in range(options.seed, options.seed + options.examples):
        began = time.monotonic()
        script = draw(seed, options.length)
        outcome = run(script, seed)
        figures = f"{outcome.requests} requests, {outcome.seconds:.0f} s in virtual time"
        print(f"seed {seed}: {figures}, {time.monotonic() - began:.1f} s", flush=True)
        if outcome.problems:
            failed += 1
            print("\n".join(f"  {each}" for each in outcome.problems), flush=True)
            if not options.whole:
                script = shrink(script, seed)
                print(pformat(script, width=140, compact=True))
                print("\n".join(f"  {each}" for each in run(script, seed).problems), flush=True)
    print(f"{failed} of {options.examples} did not end well")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
