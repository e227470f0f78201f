"""Tries once more what failed in the last run of the tests, as pytest remembers it.

Most tests stand for themselves, and are tried alone. Those of whole clusters are stories, file by
file: a test that goes on where the one before it ended has nothing to go on with when it is alone,
and would fail again whatever the first reason was. Of these the whole file is told again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

MEMORY = Path(".pytest_cache/v/cache/lastfailed")
STORIES = "tests/cluster/test_"


def chosen(failed: Iterable[str], paths: Sequence[str]) -> list[str]:
    """What to give to pytest for the failed tests below these paths."""
    found: dict[str, None] = {}
    for test in failed:
        file = test.partition("::")[0]
        if any(Path(file).is_relative_to(each) for each in paths):
            found[file if file.startswith(STORIES) else test] = None
    return list(found)


def main() -> int:
    tests = chosen(json.loads(MEMORY.read_text()), sys.argv[1:]) if MEMORY.exists() else []
    if not tests:
        print("no test has failed, but the run of them has", file=sys.stderr)
        return 1
    print("tried again:", *tests, sep="\n  ", flush=True)
    return pytest.main(tests)


if __name__ == "__main__":
    sys.exit(main())
