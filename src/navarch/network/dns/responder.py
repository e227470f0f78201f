"""From a query's bytes to an answer's bytes. No sockets; only questions for others are awaited.

The order within a server block is CoreDNS': rewrite, hosts, the cluster's zone, then the hosts of
Ingresses, and at last the upstream resolvers. Answers are kept as bytes under the bytes of their
question, so a repeated question costs one look-up and one copy; the objects an answer rests on take
it away again when they change.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from navarch.client.clock import Clock
from navarch.network.dns import wire
from navarch.network.dns.cache import AnswerCache, Question
from navarch.network.dns.corefile import Block, Corefile, NameRewrite
from navarch.network.dns.figures import Figures, Kind
from navarch.network.dns.forward import Forwarder, LoopProbe, NoAnswer, TooMany
from navarch.network.dns.names import HOSTS_TAG, IngressHosts
from navarch.network.dns.wire import Query, Record, Reply
from navarch.network.dns.zone import (
    Answer,
    Outcome,
    Tag,
    Zone,
    encode,
    in_domain,
    soa_record,
    split_zone,
)

log = logging.getLogger("navarch.network.dns")

KEPT_ANSWERS = 16384
VARIANTS = 8
"""In how many orders the addresses of one answer are given out."""
FOREVER = float("inf")
MAX_ALIASES = 8
MINIMAL_ANY = b"\x07RFC8482\x00"


@dataclass(slots=True)
class Rendered:
    """An answer's bytes behind the id, in one or several orders."""

    payloads: tuple[bytes, ...]
    until: float
    """When it may no longer be given: its times to live have counted down by a second."""
    kind: Kind
    tags: tuple[Tag, ...]
    hits: int = 0


@dataclass(slots=True)
class Path:
    """The server block of a question, with what belongs to it while the configuration lasts."""

    block: Block
    forwarder: Forwarder | None = None
    cache: AnswerCache | None = None
    probe: LoopProbe | None = None


@dataclass(slots=True)
class Via:
    """How a question came."""

    tcp: bool = False
    family: int = 1

    @property
    def name(self) -> str:
        return "tcp" if self.tcp else "udp"


@dataclass(slots=True)
class Waiting:
    """A question that others are asked about: everything known up to there."""

    query: Query
    packet: bytes
    via: Via
    path: Path
    name: bytes
    """The name to ask about, at the end of all aliases."""
    alias: bytes
    """What that name was before the rewrites, and is again in the answer."""
    question: Question
    records: list[Record]
    tags: list[Tag]


@dataclass(slots=True)
class _Found:
    """What the look-up of a name has come to."""

    reply: Reply | None = None
    waits_for: tuple[Path, tuple[str, ...], tuple[str, ...]] | None = None
    """Whom to ask, for which name, and what that name was before the rewrites."""
    records: list[Record] = field(default_factory=list)
    tags: list[Tag] = field(default_factory=list)
    plugin: str = "kubernetes"
    is_final: bool = True
    """Whether it will be so until one of the tags changes."""


class Responder:
    """Answers questions from the zone, the Ingresses and what the Corefile says."""

    def __init__(self, zone: Zone, ingresses: IngressHosts, clock: Clock) -> None:
        self.zone = zone
        self.ingresses = ingresses
        self.clock = clock
        self.figures = Figures()
        self.quick: dict[bytes, Rendered] = {}
        """The answers to whole questions by UDP, less the id."""
        self.paths: list[Path] = []
        self._corefile = Corefile()
        self._tagged: dict[Tag, set[bytes]] = {}
        self._random = random.Random()
        zone.changed = ingresses.changed = self.forget

    # Configuration -------------------------------------------------------------------------------

    def configure(
        self, corefile: Corefile, make: Callable[[Block], Forwarder | None]
    ) -> list[Path]:
        """Answer by another Corefile from now on. Returns the paths that were used before, whose
        forwarders the caller closes."""
        old, self.paths = self.paths, []
        for block in corefile.blocks:
            forwarder = make(block)
            cache = AnswerCache(block.cache) if block.cache and forwarder else None
            kept = next((path for path in old if path.block == block and path.cache), None)
            path = Path(block, forwarder, kept.cache if kept else cache)
            if forwarder is not None and block.loop:
                path.probe = LoopProbe(forwarder)
            self.paths.append(path)
        self._corefile = corefile
        rules = corefile.kubernetes
        self.zone.pod_names, self.zone.ttl = rules.pods, rules.ttl
        self.forget_all()
        return old

    # Keeping -------------------------------------------------------------------------------------

    def forget(self, tags: Iterable[Tag]) -> None:
        """Something that answers rest on has changed."""
        for tag in tags:
            for key in self._tagged.pop(tag, ()):
                rendered = self.quick.pop(key, None)
                if rendered is not None:
                    self.figures.answered(rendered.kind, rendered.hits)

    def forget_all(self) -> None:
        self.flush()
        self.quick.clear()
        self._tagged.clear()

    def flush(self) -> None:
        """Count what was answered by copies."""
        for rendered in self.quick.values():
            self.figures.answered(rendered.kind, rendered.hits)
            rendered.hits = 0

    def _keep(self, packet: bytes, rendered: Rendered) -> None:
        key = packet[2:]
        self._drop(key)
        while len(self.quick) >= KEPT_ANSWERS:
            self._drop(next(iter(self.quick)))
        self.quick[key] = rendered
        for tag in rendered.tags:
            self._tagged.setdefault(tag, set()).add(key)

    def _drop(self, key: bytes) -> None:
        rendered = self.quick.pop(key, None)
        if rendered is None:
            return
        self.figures.answered(rendered.kind, rendered.hits)
        for tag in rendered.tags:
            keys = self._tagged.get(tag)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._tagged[tag]

    # Answering -----------------------------------------------------------------------------------

    def begin(self, packet: bytes, via: Via) -> bytes | Waiting | None:
        """The answer, or what has to be awaited for it; None where none is due."""
        try:
            query = wire.parse_query(packet)
        except wire.Ignored:
            return None
        except wire.Malformed:
            return wire.format_error(packet)
        if (code := _refusal(query)) is not None:
            return self._fail(query, packet, via, code)
        if query.type == wire.ANY:
            hint = Record(encode(query.labels), wire.HINFO, 3600, MINIMAL_ANY)
            found = _Found(Reply(wire.NOERROR, [hint]), plugin="any", is_final=False)
            return self._answer(query, packet, via, found)
        path = self._path(query.labels)
        if path is None:
            return self._fail(query, packet, via, wire.REFUSED)
        if path.block.log:
            log.info(
                "%s %s",
                wire.TYPE_NAMES.get(query.type, query.type),
                wire.text_of(query.question[:-4]),
            )
        if self._is_loop(query):
            return self._fail(query, packet, via, wire.SERVFAIL)
        found = self._find(query, path)
        if found.waits_for is None:
            return self._answer(query, packet, via, found)
        target, labels, alias = found.waits_for
        if target.forwarder is None:
            return self._fail(query, packet, via, wire.REFUSED)
        name = encode(labels)
        question = (name, query.type, query.dnssec_ok, bool(query.flags & wire.CD))
        waiting = Waiting(
            query, packet, via, target, name, encode(alias), question, found.records, found.tags
        )
        now = self.clock.monotonic()
        kept = target.cache.get(question, now) if target.cache else None
        if kept is None:
            return waiting
        return self._passed_on(waiting, kept.reply, kept.age(now), kept.until)

    async def finish(self, waiting: Waiting) -> bytes:
        """Ask the upstream resolvers and answer with what they say."""
        path, query = waiting.path, waiting.query
        assert path.forwarder is not None
        try:
            reply = await path.forwarder.ask(waiting.question)
        except TooMany:
            return self._fail(query, waiting.packet, waiting.via, wire.REFUSED, "forward")
        except NoAnswer:
            reply = Reply(wire.SERVFAIL)
        now = self.clock.monotonic()
        until = now
        if path.cache is not None:
            kept = path.cache.put(waiting.question, reply, now)
            reply, until = kept.reply, kept.until
        return self._passed_on(waiting, reply, 0, until)

    def _passed_on(self, waiting: Waiting, reply: Reply, age: int, until: float) -> bytes:
        query = waiting.query
        answers = [_renamed(record, waiting.name, waiting.alias) for record in reply.answers]
        whole = Reply(
            reply.flags & ~wire.AA if waiting.records else reply.flags,
            [*waiting.records, *answers],
            reply.authority,
            reply.additional,
        )
        found = _Found(whole, tags=waiting.tags, plugin="forward")
        return self._answer(query, waiting.packet, waiting.via, found, age, until)

    def _answer(
        self,
        query: Query,
        packet: bytes,
        via: Via,
        found: _Found,
        age: int = 0,
        until: float = FOREVER,
    ) -> bytes:
        reply = found.reply
        assert reply is not None
        limit = wire.MAX_MESSAGE if via.tcp else query.limit
        path = self._path(query.labels)
        keeps = not via.tcp and query.is_plain and found.is_final
        keeps = keeps and path is not None and not path.block.log
        starts = _starts(reply) if path and path.block.shuffle else [0]
        if not keeps:
            starts = [self._random.choice(starts)]
        payloads = tuple(wire.render(query, _turned(reply, start), limit, age) for start in starts)
        payload = payloads[0]
        kind = Kind(
            via.name, via.family, query.type, reply.flags & 15, found.plugin,
            len(packet), len(payload) + 2,
        )  # fmt: skip
        self.figures.answered(kind)
        if not keeps:
            return query.id + payload
        now = self.clock.monotonic()
        if until is not FOREVER:
            until = min(until, now + 1.0)
        if until > now:
            tags = tuple(dict.fromkeys(found.tags))
            self._keep(packet, Rendered(payloads, until, kind, tags))
        return query.id + payload

    def _fail(self, query: Query, packet: bytes, via: Via, code: int, plugin: str = "") -> bytes:
        answer = wire.failure(query, code)
        kind = Kind(via.name, via.family, query.type, code, plugin, len(packet), len(answer))
        self.figures.answered(kind)
        return answer

    def _path(self, labels: Sequence[str]) -> Path | None:
        block = self._corefile.block_for(labels)
        return next((path for path in self.paths if path.block is block), None)

    def _is_loop(self, query: Query) -> bool:
        for path in self.paths:
            probe = path.probe
            if probe and query.labels[:2] == probe.labels and query.type == wire.HINFO:
                if not probe.forwarder.looping:
                    probe.forwarder.looping = True
                    probe.seen()
                return True
        return False

    # Looking up ----------------------------------------------------------------------------------

    def _find(self, query: Query, path: Path) -> _Found:
        """Look a name up, and what its aliases stand for."""
        found = _Found()
        labels: tuple[str, ...] = query.labels
        at: Path | None = path
        for turn in range(MAX_ALIASES + 1):
            looked = rewritten(labels, at.block.rewrites) if at else labels
            answer, plugin = self._one(looked, query.type, at) if at else (_OTHERS, "")
            found.tags += answer.tags
            if answer.outcome is Outcome.UNKNOWN:
                found.reply, found.is_final = Reply(wire.SERVFAIL), False
                return found
            if answer.outcome is Outcome.NOT_OURS:
                found.tags.append(HOSTS_TAG)
                if at is None or not _forwards(at.block, looked):
                    code = wire.REFUSED if not found.records else wire.NOERROR
                    found.reply = Reply(code, found.records)
                else:
                    found.waits_for = (at, looked, labels)
                return found
            if turn == 0:
                found.plugin = plugin
            records: Sequence[Record] = answer.records
            if looked != labels:
                old, new = encode(looked), encode(labels)
                records = [_renamed(record, old, new) for record in records]
            found.records += records
            if query.type == wire.CNAME or not records or records[-1].type != wire.CNAME:
                found.reply = self._reply(answer, found.records)
                return found
            labels = wire.labels_of(records[-1].data)
            at = self._path(labels)
        found.reply = Reply(wire.SERVFAIL)  # aliases without end
        return found

    def _reply(self, answer: Answer, records: list[Record]) -> Reply:
        if answer.outcome is Outcome.FOUND:
            return Reply(wire.AA | wire.NOERROR, records, (), answer.additional)
        code = wire.NXDOMAIN if answer.outcome is Outcome.NO_NAME else wire.NOERROR
        authority = answer.additional or [soa_record(self.zone.domain, self.zone.ttl)]
        return Reply(wire.AA | code, records, authority)

    def _one(self, labels: tuple[str, ...], type_: int, path: Path) -> tuple[Answer, str]:
        """One name within one block, and who knew it."""
        block = path.block
        tags: tuple[Tag, ...] = ()
        if block.hosts is not None:
            answer = block.hosts.lookup(labels, type_)
            if answer.outcome is not Outcome.NOT_OURS:
                return answer, "hosts"
        rules = block.kubernetes
        if rules is not None and any(in_domain(labels, split_zone(zone)) for zone in rules.zones):
            answer = self.zone.lookup(labels, type_)
            goes_on = rules.fallthrough is not None and (
                not rules.fallthrough
                or any(in_domain(labels, split_zone(zone)) for zone in rules.fallthrough)
            )
            if answer.outcome is Outcome.NOT_OURS and not goes_on:
                answer = replace(answer, outcome=Outcome.NO_NAME)
            if answer.outcome not in (Outcome.NOT_OURS, Outcome.NO_NAME) or not goes_on:
                return answer, "kubernetes"
            tags = answer.tags
        if block.ingress is not None:
            answer = self.ingresses.lookup(labels, type_, block.ingress)
            return replace(answer, tags=(*tags, *answer.tags)), "ingress"
        return replace(_OTHERS, tags=tags), ""


_OTHERS = Answer(Outcome.NOT_OURS)


def _renamed(record: Record, old: bytes, new: bytes) -> Record:
    return replace(record, name=new) if record.name.lower() == old else record


def _starts(reply: Reply) -> Sequence[int]:
    """With which address an answer may begin: clients that take the first one are to spread over
    all (CoreDNS' loadbalance). Behind an alias nothing is moved."""
    count = len(reply.answers)
    if count < 2 or any(each.type not in (wire.A, wire.AAAA) for each in reply.answers):
        return [0]
    turns = min(count, VARIANTS)
    return [count * turn // turns for turn in range(turns)]


def _turned(reply: Reply, start: int) -> Reply:
    if not start:
        return reply
    answers = [*reply.answers[start:], *reply.answers[:start]]
    return Reply(reply.flags, answers, reply.authority, reply.additional)


def _refusal(query: Query) -> int | None:
    """The result code for what is not answered at all."""
    if query.opcode:
        return wire.NOTIMP
    if query.version:
        return wire.BADVERS
    if query.type == wire.OPT:
        return wire.FORMERR
    if query.class_ != wire.IN or query.type in (wire.AXFR, wire.IXFR):
        return wire.REFUSED
    return None


def _forwards(block: Block, labels: Sequence[str]) -> bool:
    rules = block.forward
    return (
        rules is not None
        and in_domain(labels, split_zone(rules.zone))
        and not any(in_domain(labels, split_zone(zone)) for zone in rules.excluded if zone)
    )


def rewritten(labels: tuple[str, ...], rules: Sequence[NameRewrite]) -> tuple[str, ...]:
    """The name that is looked up in place of the one asked for."""
    if not rules:
        return labels
    name = ".".join(labels)
    for rule in rules:
        changed = rule.apply(name)
        if changed is not None and changed != name:
            name = changed.lower()
            if rule.stop:
                break
    if not wire.is_name(name):
        return labels
    return tuple(name.split(".")) if name else ()
