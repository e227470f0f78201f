"""Clients that watch, whose connections break all the time, and what they must have been told.

What etcd promises of a watch, seen through HTTP: events come *ordered* by revision, each is
*unique*, none is missing (*reliable*) also after a break (*resumable*), and a *bookmark* says that
everything up to its revision has been delivered. All followers together know what happened; from
that follows what each must have seen, given its selector and where it began.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import aiohttp
import msgspec

from bench.reliability.process import FAILURES

PAUSE_SECONDS = 0.05
ADDED, MODIFIED, DELETED = range(3)
TYPES = {"ADDED": ADDED, "MODIFIED": MODIFIED, "DELETED": DELETED}
SELECTORS: dict[str, Callable[[str], bool]] = {
    "": lambda part: True,
    "part=a": lambda part: part == "a",
    "part!=b": lambda part: part != "b",
    "part in (b,c)": lambda part: part in ("b", "c"),
}


class Metadata(msgspec.Struct):
    resourceVersion: str
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}


class Seen(msgspec.Struct):
    metadata: Metadata
    data: dict[str, str] = {}


class Told(msgspec.Struct):
    type: str
    object: msgspec.Raw


OBJECT = msgspec.json.Decoder(Seen)
EVENT = msgspec.json.Decoder(Told)


@dataclass(frozen=True, slots=True)
class Happened:
    """One revision: which value a name got, None for its deletion, and its label."""

    name: str
    value: str | None
    part: str


@dataclass(slots=True)
class Truth:
    """All that happened since the revision `start`, when there was nothing."""

    start: int
    log: dict[int, Happened] = field(default_factory=dict)
    contradictions: int = 0
    hearsay: dict[int, str] = field(default_factory=dict)
    """Names that watches with a selector were told to be gone: deleted, or no longer selected."""

    def believe(self, witnessed: Callable[[int], bool]) -> None:
        """What nobody has seen who sees everything, because all of them had to list anew, and what
        was not acknowledged either, is a deletion for all that is known."""
        for revision, name in self.hearsay.items():
            if revision not in self.log and not witnessed(revision):
                self.log[revision] = Happened(name, None, "")

    def add(self, revision: int, happened: Happened) -> None:
        known = self.log.setdefault(revision, happened)
        self.contradictions += known != happened

    def expected(self, selector: str) -> list[int]:
        """The events that a watch with this selector is told, as codes."""
        matches = SELECTORS[selector]
        state: dict[str, str] = {}
        codes = []
        for revision in sorted(self.log):
            happened = self.log[revision]
            old = state.pop(happened.name, None)
            was = old is not None and matches(old)
            now = happened.value is not None and matches(happened.part)
            if happened.value is not None:
                state[happened.name] = happened.part
            if now or was:
                kind = (MODIFIED if was else ADDED) if now else DELETED
                codes.append(code(revision, kind))
        return codes


def code(revision: int, kind: int) -> int:
    return revision * 4 + kind


@dataclass(slots=True)
class Segment:
    """A stretch that one list began and watches went on with."""

    start: int
    end: int
    codes: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Verdict:
    events: int = 0
    cuts: int = 0
    broken: int = 0
    """Connections that the server's end broke."""
    relists: int = 0
    bookmarks: int = 0
    missing: int = 0
    repeated: int = 0
    disordered: int = 0
    wrong: int = 0
    """Events that no watch with this selector should be told, and bookmarks that go back."""
    notes: list[str] = field(default_factory=list)

    def add(self, other: Verdict) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class Follower:
    """One client that follows the ConfigMaps of a namespace through all breaks."""

    def __init__(self, truth: Truth, namespace: str, selector: str, chance: random.Random) -> None:
        self._truth = truth
        self._namespace = namespace
        self.selector = selector
        self._chance = chance
        self._is_everywhere = chance.random() < 0.3
        self._wants_bookmarks = bool(selector) or chance.random() < 0.5
        self.verdict = Verdict()
        self.segments: list[Segment] = []
        self.cut_after = 0
        """Events after which a connection is cut, on average; 0 is never."""

    @property
    def revision(self) -> int:
        return self.segments[-1].end if self.segments else 0

    @property
    def _path(self) -> str:
        inside = "" if self._is_everywhere else f"/namespaces/{self._namespace}"
        return f"/api/v1{inside}/configmaps"

    def begin(self, start: int) -> None:
        self.segments.append(Segment(start, start))

    async def run(self, session: aiohttp.ClientSession, start: int) -> None:
        """Follow from a revision on, until cancelled."""
        self.begin(start)
        while True:
            try:
                await self._watch(session)
            except FAILURES:
                self.verdict.broken += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        query = {
            "watch": "1",
            "resourceVersion": str(self.revision),
            "labelSelector": self.selector,
            "allowWatchBookmarks": str(self._wants_bookmarks).lower(),
        }
        left = self._chance.randint(1, 2 * self.cut_after) if self.cut_after else -1
        async with session.get(self._path, params=query) as response:
            if response.status != 200:
                return
            async for line in response.content:
                if not line.endswith(b"\n"):
                    break
                event = EVENT.decode(line)
                if event.type == "ERROR":
                    await self._start_over(session, event.object)
                    return
                self.take(event)
                left -= 1
                if not left:
                    # What is under way, or has arrived and was not read, is lost with it.
                    self.verdict.cuts += 1
                    response.close()
                    return

    async def _start_over(self, session: aiohttp.ClientSession, status: msgspec.Raw) -> None:
        """As an informer does: list, and watch from there."""
        if msgspec.json.decode(status)["code"] != 410:
            self._fault(f"a watch ended with {bytes(status)!r}")
            self.verdict.wrong += 1
            return
        self.verdict.relists += 1
        async with session.get(self._path, params={"labelSelector": self.selector}) as response:
            answer: dict[str, Any] = await response.json()
        revision = int(answer["metadata"]["resourceVersion"])
        if revision < self.revision:
            self._fault(f"the list after 410 went back from {self.revision} to {revision}")
            self.verdict.wrong += 1
        self.begin(revision)

    def take(self, event: Told) -> None:
        obj = OBJECT.decode(event.object)
        revision, segment = int(obj.metadata.resourceVersion), self.segments[-1]
        if event.type == "BOOKMARK":
            self.verdict.bookmarks += 1
            if revision < segment.end or not self._wants_bookmarks:
                self.verdict.wrong += 1
                self._fault(f"bookmark {revision} after {segment.end}")
            segment.end = max(segment.end, revision)
            return
        if revision <= segment.end:
            # Told below as repeated or disordered; a bookmark that promised too much is neither.
            self.verdict.wrong += 1
            self._fault(f"{event.type} {revision} after {segment.end}")
        segment.end = max(segment.end, revision)
        if obj.metadata.namespace != self._namespace:
            return
        self.verdict.events += 1
        kind = TYPES[event.type]
        segment.codes.append(code(revision, kind))
        if kind != DELETED:
            value, part = obj.data["value"], obj.metadata.labels["part"]
            self._truth.add(revision, Happened(obj.metadata.name, value, part))
        elif not self.selector:
            self._truth.add(revision, Happened(obj.metadata.name, None, ""))
        else:
            self._truth.hearsay[revision] = obj.metadata.name

    def has_seen(self, revision: int) -> bool:
        """Whether this one has been told all that happened then."""
        within = any(each.start < revision <= each.end for each in self.segments)
        return within and not self.selector

    def _fault(self, note: str) -> None:
        self.verdict.notes.append(f"watch of {self._path} {self.selector!r}: {note}")

    def judge(self, expected: list[int]) -> Verdict:
        """Compare what was told with what a watch like this one had to be told."""
        verdict = self.verdict
        for segment in self.segments:
            first = bisect_right(expected, code(segment.start, DELETED))
            last = bisect_right(expected, code(segment.end, DELETED))
            due, told = set(expected[first:last]), set(segment.codes)
            verdict.missing += len(due - told)
            verdict.wrong += len(told - due)
            verdict.repeated += len(segment.codes) - len(told)
            verdict.disordered += sum(a > b for a, b in pairwise(segment.codes))
            for each in [*sorted(due - told)[:2], *sorted(told - due)[:2]]:
                word = "not told" if each in due else "told without reason"
                self._fault(f"revision {each // 4} (type {each % 4}) was {word}")
        return verdict
