"""Random histories of a cluster end well: `python -m tests.convergence` tries many more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .runner import run
from .steps import Step, draw

SEEDS = range(6)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_history_ends_well(seed: int) -> None:
    """In a process of its own: what a seed stands for depends on the order of sets."""
    command = [sys.executable, "-m", "tests.convergence", "--examples", "1", "--whole"]
    ended = subprocess.run([*command, "--seed", str(seed)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_history_can_be_told_again() -> None:
    """What a seed gives, it gives always: else nothing found here could be looked into."""
    script = draw(3, 12)
    assert run(script, 3) == run(script, 3)


def test_what_is_wrong_is_found() -> None:
    """An object that no controller may finish is told of."""
    broken: list[Step] = [
        Step("namespace_made", ("one",)),
        Step("own", ("one", "kept", ())),
        Step("hold", ("configmaps", "one", "kept")),
        Step("delete", ("configmaps", "one", "kept", "Background")),
    ]
    problems = run(broken, 0).problems
    assert problems == ("leftovers: ConfigMap one/kept is still being deleted: ['tests/hold']",)
