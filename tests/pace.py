"""How fast this machine is, for tests of what must be quick: a limit that was found on one machine
says nothing on another, nor on the same one while it does other work."""

from __future__ import annotations

import time

REFERENCE_SECONDS = 4e-7
"""What one round of the work below takes where the limits of the tests come from."""


def slowness() -> float:
    """How many times longer than there the same work takes here; 1 if it takes less."""
    return max(1.0, min(_round() for _ in range(5)) / REFERENCE_SECONDS)


def _round() -> float:
    began = time.perf_counter()
    for _ in range(500):
        "".join(sorted({"a": 1, "b": [1, 2, 3]}))
    return (time.perf_counter() - began) / 500
