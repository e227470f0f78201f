"""Navarch's scheduler decides as the reference does.

A fixed choice of examples, the same at every run, so that this fails only for what was changed.
`python -m tests.equivalence` draws new ones, as many as one likes.
"""

from __future__ import annotations

import pytest

from .checks import CHECKS, run

EXAMPLES = 50


@pytest.mark.parametrize("check", CHECKS)
def test_decides_as_the_reference(check: str) -> None:
    run(check, EXAMPLES)
