"""`examples/testing` runs as a user would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "testing"


def test_the_example() -> None:
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(EXAMPLE)]
    result = subprocess.run(
        [*command, "-q", "-p", "no:cacheprovider", str(EXAMPLE)],
        capture_output=True,
        text=True,
        timeout=230,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 passed" in result.stdout
