"""The arithmetic of cost and size estimates.

Both are ranges of unsigned 64-bit numbers; sums and products stick at the maximum, which stands for
"unbounded". One unit of cost is about one simple operation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from navarch.api.cel.errors import CostExceeded

UNBOUNDED = (1 << 64) - 1
TRAVERSAL = 0.1
REGEX = 0.25
LIST_CREATE, MAP_CREATE, STRUCT_CREATE = 10, 30, 40
MAX_RESULT = 16_000_000
"""How many elements or characters one evaluation may make beyond what it pays for. Upstream charges
some results less than they take (joined lists are not even copied there), and a small expression
could fill the memory with them."""


def allow(size: int) -> None:
    """Refuse to make a result of that many elements or characters if it is too large."""
    if size > MAX_RESULT:
        raise CostExceeded(0)


def scaled(size: int, factor: float) -> int:
    """`size` times `factor`, rounded up: one call's charge for walking over its operand."""
    return min(math.ceil(float(size) * factor), UNBOUNDED)


class Estimate(NamedTuple):
    """A range, of sizes or of costs."""

    min: int
    max: int

    def plus(self, other: Estimate) -> Estimate:
        return Estimate(min(self.min + other.min, UNBOUNDED), min(self.max + other.max, UNBOUNDED))

    def times(self, other: Estimate) -> Estimate:
        return Estimate(min(self.min * other.min, UNBOUNDED), min(self.max * other.max, UNBOUNDED))

    def scaled(self, factor: float) -> Estimate:
        return Estimate(scaled(self.min, factor), scaled(self.max, factor))

    def union(self, other: Estimate) -> Estimate:
        return Estimate(min(self.min, other.min), max(self.max, other.max))


def fixed(value: int) -> Estimate:
    return Estimate(value, value)


ZERO = fixed(0)
ONE = fixed(1)
UNKNOWN = Estimate(0, UNBOUNDED)


class CallEstimate(NamedTuple):
    """What a call costs, without its arguments, and how large its result is (None: unknown)."""

    cost: Estimate
    result_size: Estimate | None = None
