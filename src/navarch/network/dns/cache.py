"""Answers of other name servers, kept for as long as they allow (RFC 2308 for denials). No I/O.

Sizes are bounded, and what was kept first goes first when there is no room: a flood of made-up
names can push answers out, but never fill the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from navarch.network.dns.corefile import CacheRules
from navarch.network.dns.wire import NOERROR, NXDOMAIN, OPT, SERVFAIL, SOA, Reply, labels_of
from navarch.network.dns.zone import in_domain, split_zone

Question = tuple[bytes, int, bool, bool]
"""Name in lower case, type, and whether signatures (DO) and unchecked data (CD) were wanted."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer and when it was given."""

    reply: Reply
    since: float
    until: float

    def age(self, now: float) -> int:
        return max(int(now - self.since), 0)


@dataclass(slots=True)
class AnswerCache:
    """One block's cache."""

    rules: CacheRules
    hits: int = 0
    misses: int = 0
    success: dict[Question, Kept] = field(default_factory=dict)
    denial: dict[Question, Kept] = field(default_factory=dict)

    def get(self, question: Question, now: float) -> Kept | None:
        kept = self.success.get(question) or self.denial.get(question)
        if kept is None or kept.until <= now:
            self.misses += 1
            return None
        self.hits += 1
        return kept

    def put(self, question: Question, reply: Reply, now: float) -> Kept:
        """Keep an answer, if it may be, and return it as it would be."""
        code = reply.flags & 15
        denied = code == NXDOMAIN or (code == NOERROR and not reply.answers)
        seconds = lifetime(reply, self.rules)
        kept = Kept(capped(reply, seconds), now, now + seconds)
        self.success.pop(question, None)
        self.denial.pop(question, None)
        sort, store, room = (
            ("denial", self.denial, self.rules.denial)
            if denied or code == SERVFAIL
            else ("success", self.success, self.rules.success)
        )
        if seconds > 0 and room > 0 and not self._is_disabled(sort, question[0]):
            while len(store) >= room:
                store.pop(next(iter(store)))
            store[question] = kept
        return kept

    def _is_disabled(self, sort: str, name: bytes) -> bool:
        return any(
            sort == each and in_domain(labels_of(name), split_zone(zone))
            for each, zone in self.rules.disabled
        )


def lifetime(reply: Reply, rules: CacheRules) -> int:
    """How many seconds an answer may be kept; 0 is not at all."""
    code = reply.flags & 15
    if code == SERVFAIL:
        return rules.servfail_ttl
    if code not in (NOERROR, NXDOMAIN):
        return 0
    if code == NOERROR and reply.answers:
        least = min(record.ttl for record in (*reply.answers, *reply.authority))
        return min(max(least, rules.min_ttl), rules.success_ttl)
    starts = [
        min(record.ttl, int.from_bytes(record.data[-4:], "big"))
        for record in reply.authority
        if record.type == SOA
    ]
    if not starts:
        return 0  # a denial without a start of authority is not to be kept
    return min(max(min(starts), rules.denial_min_ttl), rules.denial_ttl)


def capped(reply: Reply, seconds: int) -> Reply:
    """The answer as it is given out: nothing in it lives longer than the whole."""
    sections = (
        [
            replace(record, ttl=seconds) if record.type != OPT and seconds else record
            for record in section
        ]
        for section in (reply.answers, reply.authority, reply.additional)
    )
    return Reply(reply.flags, *sections)
