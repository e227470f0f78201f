"""What is computed from each node by itself, kept and followed node by node.

How much room a node has for pods of one template, and how it scores for them, depends on nothing
but the node and the sum of its pods. Between two decisions few nodes change, so few are computed
anew: a log tells which. A decision that looks at some nodes only leaves the others for later.

A change that outgrows the log costs no more than computing everything once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Rows = slice | Numbers
"""Some slots, or all."""
One = Callable[[int], object]
A = TypeVar("A", bound=NDArray[Any])

LOG_LIMIT = 4096
ENTRIES_KEPT = 128
FEW = 6
"""As long as it takes to ask of so many slots one by one, operations on arrays take for any few."""


class _Entry:
    """Something of each slot (the last axis), and up to where in the log it is up to date but for
    the slots that are stale."""

    def __init__(self, values: NDArray[Any], seen: int) -> None:
        self.values = values
        self.seen = seen
        self.stale = np.zeros(values.shape[-1], np.bool_)

    def refresh(self, stale: Numbers, compute: Callable[[Rows], Any], one: One | None) -> None:
        if one is not None and len(stale) <= FEW:
            for slot in stale.tolist():
                self.values[..., slot] = one(slot)
        else:
            self.values[..., stale] = compute(stale)
        self.stale[stale] = False


class Following:
    """`compute` is given slots and says something of each from its row alone; the key holds
    everything else that it depends on. Mostly a slot or two have changed, and a dozen operations on
    arrays so short cost more than the numbers: `one` says the same of one slot, in plain Python."""

    def __init__(self) -> None:
        self._log: list[int] = []
        """Slots that changed, oldest first."""
        self._start = 0
        """The number of the first entry of the log."""
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def changed(self, slot: int) -> None:
        self._log.append(slot)
        if len(self._log) > LOG_LIMIT:
            self._start += LOG_LIMIT // 2
            del self._log[: LOG_LIMIT // 2]

    def clear(self) -> None:
        self._entries.clear()

    def all(self, key: Hashable, compute: Callable[[Rows], A], one: One | None = None) -> A:
        """Of all slots. What is handed out stays as it is, whatever changes later: verdicts may
        outlast a change that is undone."""
        entry = self._entry(key, compute)
        stale = entry.stale.nonzero()[0]
        if len(stale):
            entry.values = entry.values.copy()
            entry.refresh(stale, compute, one)
        return cast("A", entry.values)

    def at(
        self, slots: Numbers, key: Hashable, compute: Callable[[Rows], A], one: One | None = None
    ) -> A:
        """Of some slots, in their order."""
        entry = self._entry(key, compute)
        stale = slots[entry.stale[slots]]
        if len(stale):
            entry.refresh(stale, compute, one)
        return cast("A", entry.values[..., slots])

    def _entry(self, key: Hashable, compute: Callable[[Rows], A]) -> _Entry:
        end = self._start + len(self._log)
        entry = self._entries.get(key)
        if entry is None or entry.seen < self._start:
            if entry is None and len(self._entries) >= ENTRIES_KEPT:
                self._entries.popitem(last=False)
            entry = self._entries[key] = _Entry(compute(slice(None)), end)
        elif entry.seen < end:
            entry.stale[self._log[entry.seen - self._start :]] = True
            entry.seen = end
        self._entries.move_to_end(key)
        return entry
