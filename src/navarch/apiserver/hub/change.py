"""One change of one object, as watchers are told of it.

Each form of a change (event type, requested version, table or plain) is encoded once and shared by
all watchers that want it.
"""

from __future__ import annotations

from collections.abc import Callable

from navarch.apiserver.hub.entry import Entry

OVERHEAD_BYTES = 600
"""What a change takes in memory beside the object itself; with Leases it is most of it."""


class Change:
    """`old` is None for a creation, `new` is None for a deletion."""

    __slots__ = ("new", "old", "rendered", "revision", "when")

    def __init__(self, revision: int, old: Entry | None, new: Entry | None, when: float) -> None:
        self.revision = revision
        self.old = old
        self.new = new
        self.when = when
        self.rendered: dict[tuple[str, str], bytes] | None = None

    @property
    def entry(self) -> Entry:
        """The entry that tells which object this is about."""
        entry = self.new or self.old
        assert entry is not None
        return entry

    @property
    def size(self) -> int:
        """The bytes that only history keeps alive once the change is superseded."""
        return self.entry.tail_size + OVERHEAD_BYTES

    def deleted_entry(self) -> Entry:
        """The last matching state with the revision of this change: what a DELETED event carries,
        both for a deletion and for an object that stops matching a selector."""
        old = self.old
        assert old is not None
        return old.at_revision(self.revision)

    def render(self, event: str, form: str, encode: Callable[[str, Entry], bytes]) -> bytes:
        """The bytes of this change as `event` in `form`, encoded at the first call."""
        if self.rendered is None:
            self.rendered = {}
        line = self.rendered.get((event, form))
        if line is None:
            entry = self.deleted_entry() if event == "DELETED" else self.entry
            line = self.rendered[event, form] = encode(event, entry)
        return line
