"""What searches for devices have found, kept from one pod to the next.

Pods of one template ask the same of nodes that have hardly changed. What was found on a node holds
as long as its devices and what is taken of them are what they were, so of thousands of nodes only
those few are searched again where something happened. Only nodes take part whose devices nobody
else reaches.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from navarch.api.types.resource_v1 import ResourceClaim
from navarch.scheduler.dra.allocator import Taken

ANSWERS_KEPT = 20_000
"""Some kilobytes each at most."""

Answers = dict[str, tuple[Taken, ...] | None]
"""By node, what was found there; None: not enough."""


class KnownAnswers:
    """Answers by what was asked."""

    def __init__(self) -> None:
        self._by_question: dict[bytes, Answers] = {}

    def to(self, claims: Sequence[ResourceClaim]) -> Answers:
        """The answers for claims of this content, to be read and added to."""
        if sum(map(len, self._by_question.values())) > ANSWERS_KEPT:
            self._by_question.clear()
        question = msgspec.json.encode([claim.spec for claim in claims])
        return self._by_question.setdefault(question, {})

    def forget_node(self, name: str) -> None:
        for answers in self._by_question.values():
            answers.pop(name, None)

    def clear(self) -> None:
        self._by_question.clear()
