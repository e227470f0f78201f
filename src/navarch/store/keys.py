"""Keys in order, for ranges by prefix.

One sorted list would do, but an insertion into a list of 150 000 keys moves a megabyte. So the keys
lie in blocks of bounded size: an insertion moves at most one block, and a range is a few slices.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
from collections.abc import Iterable
from itertools import chain

BLOCK = 512
"""Keys in a block after a split; a block splits when it has reached twice as many."""


def prefix_end(prefix: str) -> str | None:
    """The first key that is greater than every key with this prefix; None when there is none."""
    stem = prefix.rstrip(chr(sys.maxunicode))
    return stem[:-1] + chr(ord(stem[-1]) + 1) if stem else None


class SortedKeys:
    """A set of keys that lists them in order."""

    __slots__ = ("_blocks", "_lasts")

    def __init__(self, keys: Iterable[str] = ()) -> None:
        ordered = sorted(keys)
        self._blocks = [ordered[at : at + BLOCK] for at in range(0, len(ordered), BLOCK)]
        self._lasts = [block[-1] for block in self._blocks]
        """The last key of each block, in order: tells the block where a key belongs."""

    def add(self, key: str) -> None:
        """Add a key that is not there yet."""
        if not self._blocks:
            self._blocks.append([key])
            self._lasts.append(key)
            return
        at = min(bisect_left(self._lasts, key), len(self._blocks) - 1)
        block = self._blocks[at]
        insort(block, key)
        self._lasts[at] = block[-1]
        if len(block) >= 2 * BLOCK:
            self._blocks[at : at + 1] = [block[:BLOCK], block[BLOCK:]]
            self._lasts[at : at + 1] = [block[BLOCK - 1], block[-1]]

    def remove(self, key: str) -> None:
        """Remove a key that is there."""
        at = bisect_left(self._lasts, key)
        block = self._blocks[at]
        del block[bisect_left(block, key)]
        if block:
            self._lasts[at] = block[-1]
        else:
            del self._blocks[at], self._lasts[at]

    def between(self, low: str, high: str | None) -> list[str]:
        """All keys from `low` (inclusive) to `high` (exclusive; None: to the end), in order."""
        first = bisect_left(self._lasts, low)
        last = len(self._blocks) if high is None else bisect_left(self._lasts, high)
        blocks = self._blocks[first : last + 1]
        if not blocks:
            return []
        if high is not None and last < len(self._blocks):
            blocks[-1] = blocks[-1][: bisect_left(blocks[-1], high)]
        blocks[0] = blocks[0][bisect_left(blocks[0], low) :]
        return list(chain.from_iterable(blocks))

    def count(self, low: str, high: str | None) -> int:
        """How many keys lie between, without listing them."""
        return max(0, self._rank(high) - self._rank(low))

    def page(self, low: str, high: str | None, limit: int) -> list[str]:
        """The first `limit` keys between."""
        found: list[str] = []
        at = bisect_left(self._lasts, low)
        while at < len(self._blocks) and len(found) < limit:
            block = self._blocks[at]
            begin = bisect_left(block, low)
            end = len(block) if high is None else bisect_left(block, high)
            found += block[begin : min(end, begin + limit - len(found))]
            if end < len(block):
                break
            at += 1
        return found

    def _rank(self, key: str | None) -> int:
        """How many keys come before `key`."""
        at = len(self._blocks) if key is None else bisect_left(self._lasts, key)
        rank = sum(map(len, self._blocks[:at]))
        if key is not None and at < len(self._blocks):
            rank += bisect_left(self._blocks[at], key)
        return rank
