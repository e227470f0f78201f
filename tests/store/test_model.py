"""Random lives of a store, compared with the simplest thing that could be right: a list of all
states that there ever were. Both engines live the same life."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from navarch.store import open_store
from navarch.store.contract import CasFailed, Compacted, Event, KeyValue, Store
from navarch.store.database import SqliteOptions
from navarch.store.memory import open_memory_store

T = TypeVar("T")
State = dict[str, KeyValue]

KEYS = st.sampled_from(["/a", "/a/1", "/a/2", "/a/20", "/b/1", "/b/2"])
STARTS = st.just("") | KEYS
PREFIXES = st.sampled_from(["", "/a", "/a/", "/a/2", "/b/", "/c"])


@dataclass
class Write:
    """`expected` relative to the truth: None anything, 0 absent, 1 as it is, 2 as it was not."""

    key: str
    value: bytes | None
    expected: int | None


WRITES = st.builds(
    Write,
    KEYS,
    st.none() | st.binary(max_size=3) | st.just(bytes(5000)),
    st.sampled_from([None, None, 0, 1, 1, 2]),
)


class Model:
    """All states by revision, and all events."""

    def __init__(self) -> None:
        self.states: list[State] = [{}, {}]
        self.events: list[Event] = []
        self.compacted = 0

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    @property
    def now(self) -> State:
        return self.states[-1]

    def write(self, write: Write, expected: int | None) -> int | KeyValue | None:
        """The new revision, or what stands in the way."""
        old = self.now.get(write.key)
        if expected is not None and expected != (old.mod_revision if old else 0):
            return old
        if write.value is None and old is None:
            return None
        state = dict(self.now)
        revision = len(self.states)
        new = None
        if write.value is None:
            del state[write.key]
        else:
            created = old.create_revision if old else revision
            state[write.key] = new = KeyValue(write.key, write.value, created, revision)
        self.states.append(state)
        self.events.append(Event(revision, write.key, new, old))
        return revision

    def told(self, prefix: str, after: int) -> list[Event]:
        return [e for e in self.events if e.revision > after and e.key.startswith(prefix)]


@dataclass
class Follower:
    """One who watches, and what was told."""

    prefix: str
    after: int
    events: Any
    told: list[Event] = field(default_factory=list)


class StoreLife(RuleBasedStateMachine):
    """One engine against the model."""

    engine = ""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp())
        self.model = Model()
        self.followers: list[Follower] = []
        self.store: Store = self.run(self.open())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    async def open(self) -> Store:
        if self.engine == "memory":
            return open_memory_store()
        options = SqliteOptions(
            self.directory / "store.db", reserve_bytes=0, checkpoint_pages=8, vacuum_pages=4
        )
        return await open_store(options)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
            self.followers.clear()
            self.runner.close()
            shutil.rmtree(self.directory)

    @rule(writes=st.lists(WRITES, min_size=1, max_size=6))
    def write(self, writes: list[Write]) -> None:
        """Several at once, so that they share a commit."""

        async def all_of_them() -> list[int | BaseException]:
            tasks = []
            for write, expected in zip(writes, expectations, strict=True):
                if write.value is None:
                    tasks.append(self.store.delete(write.key, expected=expected))
                else:
                    tasks.append(self.store.put(write.key, write.value, expected=expected))
            return await asyncio.gather(*tasks, return_exceptions=True)

        expectations, outcomes = [], []
        for write in writes:
            old = self.model.now.get(write.key)
            truth = old.mod_revision if old else 0
            expected = {None: None, 0: 0, 1: truth, 2: truth + 1}[write.expected]
            expectations.append(expected)
            outcomes.append(self.model.write(write, expected))
        for outcome, result in zip(outcomes, self.run(all_of_them()), strict=True):
            if isinstance(outcome, int):
                assert result == outcome
            else:
                assert isinstance(result, CasFailed)
                assert result.current == outcome

    @rule(
        prefix=PREFIXES, start=st.just("") | KEYS, limit=st.integers(0, 4), back=st.integers(0, 12)
    )
    def read(self, prefix: str, start: str, limit: int, back: int) -> None:
        revision = max(1, self.model.revision - back)
        reading = self.store.range(prefix, start=start, limit=limit, at_revision=revision)
        if revision < self.model.compacted:
            try:
                self.run(reading)
            except Compacted as error:
                assert error.compacted == self.model.compacted
                return
            raise AssertionError("compacted history was read")
        result = self.run(reading)
        state = self.model.states[revision]
        keys = sorted(key for key in state if key.startswith(prefix) and key >= start)
        shown = keys[:limit] if limit else keys
        assert list(result.items) == [state[key] for key in shown]
        assert result.remaining == len(keys) - len(shown)
        assert result.revision == revision
        for key in ("/a/1", "/b/1"):
            got = self.run(self.store.get(key, at_revision=revision))
            assert got == state.get(key)

    @rule(prefix=PREFIXES, back=st.integers(-2, 12))
    def follow(self, prefix: str, back: int) -> None:
        after = max(0, self.model.revision - back)

        async def begin() -> Any:
            return self.store.watch(prefix, after_revision=after)

        self.followers.append(Follower(prefix, after, self.run(begin())))

    @precondition(lambda self: self.followers)
    @rule(which=st.integers(0), batches=st.integers(1, 3), is_cut=st.booleans())
    def listen(self, which: int, batches: int, is_cut: bool) -> None:
        """Hear what is told by now; perhaps cut the watch and go on from the last revision."""
        follower = self.followers[which % len(self.followers)]

        async def hear() -> None:
            for _ in range(batches):
                last = follower.told[-1].revision if follower.told else follower.after
                if not self.model.told(follower.prefix, last):
                    break
                async with asyncio.timeout(60):
                    follower.told += await anext(follower.events)
            if is_cut:
                after = follower.told[-1].revision if follower.told else follower.after
                follower.events = self.store.watch(follower.prefix, after_revision=after)

        try:
            self.run(hear())
        except Compacted as error:
            assert error.compacted == self.model.compacted
            last = follower.told[-1].revision if follower.told else follower.after
            assert last < self.model.compacted
            self.followers.remove(follower)
        expected = self.model.told(follower.prefix, follower.after)
        assert follower.told == expected[: len(follower.told)]

    @rule(back=st.integers(0, 8))
    def compact(self, back: int) -> None:
        revision = max(1, self.model.revision - back)
        self.run(self.store.compact(revision))
        self.model.compacted = max(self.model.compacted, revision)

    @precondition(lambda self: self.engine == "sqlite")
    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.followers.clear()
        self.store = self.run(self.open())

    @invariant()
    def the_present_is_right(self) -> None:
        if hasattr(self, "store"):
            result = self.run(self.store.range(""))
            assert list(result.items) == [self.model.now[key] for key in sorted(self.model.now)]
            assert result.revision == self.model.revision


class MemoryLife(StoreLife):
    engine = "memory"


class SqliteLife(StoreLife):
    engine = "sqlite"


SETTINGS = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestMemoryLife = MemoryLife.TestCase
TestMemoryLife.settings = SETTINGS
TestSqliteLife = SqliteLife.TestCase
TestSqliteLife.settings = SETTINGS
