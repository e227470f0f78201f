"""`python -m tests.fuzz --requests N --seed S`: exit status 1 if anything was found."""

from __future__ import annotations

import argparse
import asyncio
import sys
from functools import partial

from tests.fuzz.runner import fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    show = partial(print, "---", flush=True)
    report = asyncio.run(fuzz(options.requests, options.seed, show))
    print(report)
    return 1 if report.findings else 0


sys.exit(main())
