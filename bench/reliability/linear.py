"""Whether a history of concurrent operations could have come from one register, used by one client
at a time.

That is linearizability (Herlihy and Wing, 1990): each operation seems to take effect at one moment
between its call and its return, and what it returned fits the order of these moments. The search is
the one of Wing and Gong with Lowe's memory of what was tried already: take any operation that was
called before all others that are left have returned, see whether its answer fits, go on with the
rest, go back where nothing fits. Exponential at worst, so histories are kept short: each key of the
server is a register of its own, and a key is written some dozens of times.

An operation without an answer may take effect at any moment after its call, or never.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

NEVER = math.inf


class Kind(Enum):
    READ = "read"
    """`value` is what was read; None is an absent key."""
    SWAP = "swap"
    """Write `value` if `expected` is there; None on either side is an absent key, so this covers
    creation, update and deletion with a precondition."""
    DELETE = "delete"
    """Remove whatever is there."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. Times come from one clock; `returned` is `NEVER` for a lost answer."""

    kind: Kind
    called: float
    returned: float
    value: str | None = None
    expected: str | None = None
    succeeded: bool = True

    @property
    def is_known(self) -> bool:
        return self.returned != NEVER

    def applied(self, state: str | None) -> tuple[bool, str | None]:
        """Whether the answer fits a register in this state, and the state afterwards."""
        if self.kind is Kind.READ:
            return self.value == state, state
        if self.kind is Kind.DELETE:
            fits, after = state is not None, None
        else:
            fits, after = state == self.expected, self.value
        if self.succeeded:
            return fits, after
        return not fits, state


def is_linearizable(history: Sequence[Operation], initial: str | None = None) -> bool:
    """Whether some order of the operations explains every answer."""
    operations = sorted(history, key=lambda each: each.called)
    known = sum(1 << at for at, each in enumerate(operations) if each.is_known)
    everything = (1 << len(operations)) - 1
    stack: list[tuple[int, str | None]] = [(0, initial)]
    tried = set(stack)
    while stack:
        done, state = stack.pop()
        if done & known == known:
            return True
        left = everything & ~done
        deadline = NEVER
        # Only what was called before the first return of the rest can be next.
        while left:
            bit = left & -left
            left ^= bit
            operation = operations[bit.bit_length() - 1]
            if operation.called > deadline:
                break
            deadline = min(deadline, operation.returned)
        for at, operation in enumerate(operations):
            if operation.called > deadline:
                break
            bit = 1 << at
            if done & bit:
                continue
            fits, after = operation.applied(state)
            step = (done | bit, after)
            if fits and step not in tried:
                tried.add(step)
                stack.append(step)
    return False
