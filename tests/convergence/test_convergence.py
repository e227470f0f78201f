"""Random histories of a cluster end well: `python -m tests.convergence` tries many more."""

from __future__ import annotations

from pprint import pformat

import pytest

from .runner import run, shrink
from .steps import Step, draw

SEEDS = range(6)
RETRIES = 12
"""Runs that may be spent on a shorter script; the command takes its time."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_history_ends_well(seed: int) -> None:
    script = draw(seed)
    outcome = run(script, seed)
    if outcome.problems:
        shorter = shrink(script, seed, RETRIES)
        told = "\n".join(outcome.problems)
        pytest.fail(f"seed {seed}:\n{told}\n{pformat(shorter, width=120)}", pytrace=False)


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
