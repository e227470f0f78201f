"""The keys that the writers of a storm write, and what is known of each.

Every key is a register: it is created, replaced, deleted and read by several clients at once, each
value is unique, and every change names the revision that it replaces. So what was replaced or
deleted, and acknowledged, may never be seen again by whoever asks later.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.reliability.linear import NEVER, Kind, Operation, is_linearizable

LENGTH = 50
"""Operations of one key; then another key takes its place, for histories must be short to judge."""


@dataclass(slots=True)
class Register:
    name: str
    history: list[Operation] = field(default_factory=list)
    seen: tuple[str, str] | None = None
    """A value that some client was told, and its revision: the next change may name it."""
    newest: tuple[int, str] = (0, "")
    """The acknowledged value with the highest revision."""
    dead: set[str] = field(default_factory=set)
    """Values that were replaced or deleted, and acknowledged so."""
    doubtful: set[str] = field(default_factory=set)
    """Values which a change without answer may have replaced."""
    begun: int = 0

    @property
    def is_used_up(self) -> bool:
        return self.begun >= LENGTH

    def lost(self, operation: Operation) -> None:
        """The answer never came."""
        self.history.append(operation)
        if operation.expected is not None:
            self.doubtful.add(operation.expected)

    def refused(self, operation: Operation) -> None:
        self.history.append(operation)
        if self.seen is not None and self.seen[0] == operation.expected:
            self.seen = None

    def acknowledged(self, operation: Operation, revision: int) -> None:
        """A change was made; a deletion has no revision that its client hears of."""
        self.history.append(operation)
        if operation.expected is not None:
            self.dead.add(operation.expected)
        if operation.value is None:
            self.seen = None
        elif operation.value not in self.dead:
            self.seen = (operation.value, str(revision))
            self.newest = max(self.newest, (revision, operation.value))

    def read(self, called: float, returned: float, found: tuple[str, str] | None) -> None:
        value = found[0] if found is not None else None
        self.history.append(Operation(Kind.READ, called, returned, value))
        self.seen = found

    def is_lost(self, value: str | None) -> bool:
        """Whether the acknowledged value is gone, though nothing can have replaced it."""
        newest = self.newest[1]
        if not newest or newest in self.dead or newest in self.doubtful:
            return False
        return value != newest

    def is_right(self) -> bool:
        return is_linearizable(self.history)

    @property
    def unknown(self) -> int:
        return sum(each.returned == NEVER for each in self.history)
