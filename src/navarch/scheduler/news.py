"""Whoever waits for the news of some objects is woken by each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class News:
    """By key of a claim, or uid of a pod."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def tell(self, key: str) -> None:
        for event in self._waiting.get(key, ()):
            event.set()

    @contextmanager
    def of(self, keys: Iterable[str]) -> Iterator[asyncio.Event]:
        """An event that is set when there are news of one of these."""
        woken = asyncio.Event()
        keys = {*keys}  # a pod may name a claim twice
        for key in keys:
            self._waiting.setdefault(key, set()).add(woken)
        try:
            yield woken
        finally:
            for key in keys:
                self._waiting[key].discard(woken)
                if not self._waiting[key]:
                    del self._waiting[key]
