"""The warnings of an answer, which kubectl prints: `Warning` headers (RFC 7234, KEP-1693)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

ROOM, SHORT = 4096, 256
"""Characters: of all warnings together, and of each if there are more."""


class Warnings:
    """The texts that a request's client is warned with, each once. What can no longer be shown is
    not kept, so a hostile object is not gone through for more (see `is_full`)."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}
        self._shortened = 0

    @property
    def is_full(self) -> bool:
        return self._shortened >= ROOM

    def add(self, text: str) -> None:
        if not self.is_full and text not in self._texts:
            self._texts[text] = None
            self._shortened += len(text[:SHORT])

    def take(self, texts: Iterable[str]) -> None:
        """Adds all there is room for; the others are not even asked for."""
        for text in texts:
            self.add(text)
            if self.is_full:
                return

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def headers(self) -> list[str]:
        """What headers have room for: all as they are, or each shortened."""
        is_long = sum(map(len, self._texts)) > ROOM
        return [_header(text[:SHORT] if is_long else text) for text in self._texts]


def _header(text: str) -> str:
    """`299 - "text"`, the text on one line and its quotes escaped."""
    clean = "".join(each if each.isprintable() else " " for each in text)
    escaped = clean.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{escaped}"'
