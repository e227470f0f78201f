"""DNS messages: a query's bytes in, an answer's bytes out (RFC 1035, EDNS RFC 6891). No I/O.

Answers to repeated questions are kept as bytes until the zone changes: all of a query but its two
id bytes is the key.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from dnslib import (
    AAAA,
    CNAME,
    EDNS0,
    NS,
    PTR,
    QTYPE,
    RCODE,
    RD,
    RR,
    SOA,
    SRV,
    TXT,
    A,
    DNSError,
    DNSHeader,
    DNSRecord,
)

from navarch.network.dns.zone import Answer, Outcome, Record, Zone

TTL = 5
"""Seconds an answer may be kept; changes are to be seen soon."""
CACHE_SIZE = 20_000
PLAIN_UDP_SIZE = 512
MAX_UDP_SIZE = 4096
SOA_TIMES = (7200, 1800, 86400, TTL)
"""refresh, retry, expire and the time a negative answer may be kept."""


class NotForUs(Exception):
    """The question is about a name outside the zones; `alias` are records found on the way."""

    def __init__(self, query: DNSRecord, name: str, alias: Sequence[Record] = ()) -> None:
        super().__init__(name)
        self.query = query
        self.name = name
        self.alias = alias


def record_data(record: Record) -> RD:
    """A record's data in the library's terms."""
    if record.type == "A":
        return A(record.data)
    if record.type == "AAAA":
        return AAAA(record.data)
    if record.type == "SRV":
        priority, weight, port, target = record.data.split(" ")
        return SRV(int(priority), int(weight), int(port), target)
    if record.type == "SOA":
        return soa(record.data)
    simple = {"CNAME": CNAME, "PTR": PTR, "NS": NS, "TXT": TXT}
    return simple[record.type](record.data)


def soa(domain: str) -> SOA:
    """The start of authority that negative answers carry."""
    return SOA(f"ns.dns.{domain}", f"hostmaster.{domain}", (1, *SOA_TIMES))


def resource(record: Record) -> RR:
    return RR(record.name, getattr(QTYPE, record.type), ttl=TTL, rdata=record_data(record))


class Responder:
    """Answers queries from a zone."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self._cache: dict[tuple[bytes, bool], bytes] = {}
        self._shuffle = random.Random()

    def zone_changed(self) -> None:
        """Forget the answers that were kept."""
        self._cache.clear()

    def respond(self, packet: bytes, *, udp: bool) -> bytes:
        """The answer to a query. Raises NotForUs for a name that others answer, ValueError for
        bytes that are no query."""
        cached = self._cache.get((packet[2:], udp))
        if cached is not None:
            return packet[:2] + cached
        try:
            query = DNSRecord.parse(packet)
        except (DNSError, ValueError, IndexError) as error:
            raise ValueError("not a DNS message") from error
        if query.header.qr or not query.questions:
            raise ValueError("not a DNS query")
        if query.header.opcode:
            return failure(query, RCODE.NOTIMP)
        name = str(query.q.qname).rstrip(".")
        type_ = QTYPE[query.q.qtype] if query.q.qtype in QTYPE.forward else "OTHER"
        answer = self._follow_aliases(query, self.zone.lookup(name, type_), type_, name)
        reply = fit(self._build(query, answer), query, udp=udp)
        # Several addresses are shuffled for every asker, so only single ones may be kept.
        if len(answer.records) <= 1:
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            self._cache[(packet[2:], udp)] = reply[2:]
        return reply

    def _follow_aliases(self, query: DNSRecord, answer: Answer, type_: str, name: str) -> Answer:
        """An alias (ExternalName) is answered together with what it stands for."""
        if answer.outcome is Outcome.NOT_OURS:
            raise NotForUs(query, name)
        records = list(answer.records)
        if type_ in ("CNAME", "ANY"):
            return answer
        for _ in range(8):
            if not records or records[-1].type != "CNAME":
                break
            target = records[-1].data.rstrip(".")
            following = self.zone.lookup(target, type_)
            if following.outcome is Outcome.NOT_OURS:
                raise NotForUs(query, target, records)
            if not following.records:
                break
            records += following.records
        return Answer(answer.outcome, records, answer.additional)

    def _build(self, query: DNSRecord, answer: Answer) -> DNSRecord:
        reply = reply_to(query)
        reply.header.aa = 1
        if answer.outcome is Outcome.FOUND:
            records = list(answer.records)
            if len(records) > 1 and records[0].type != "CNAME":
                self._shuffle.shuffle(records)
            reply.add_answer(*map(resource, records))
            reply.add_ar(*map(resource, answer.additional))
        else:
            if answer.outcome is Outcome.NO_NAME:
                reply.header.rcode = RCODE.NXDOMAIN
            domain = self.zone.domain
            reply.add_auth(RR(domain, QTYPE.SOA, ttl=TTL, rdata=soa(domain)))
        return reply


def reply_to(query: DNSRecord) -> DNSRecord:
    """An empty reply to a query, with EDNS where the query has it."""
    header = DNSHeader(id=query.header.id, qr=1, ra=1, rd=query.header.rd)
    reply = DNSRecord(header, q=query.q)
    if any(extra.rtype == QTYPE.OPT for extra in query.ar):
        reply.add_ar(EDNS0(udp_len=MAX_UDP_SIZE))
    return reply


def failure(query: DNSRecord, code: int) -> bytes:
    """A reply that only says why there is none."""
    reply = reply_to(query)
    reply.header.rcode = code
    return bytes(reply.pack())


def fit(reply: DNSRecord, query: DNSRecord, *, udp: bool) -> bytes:
    """The reply as bytes; one that is too long for UDP is cut and marked, so that the asker comes
    again by TCP."""
    packed = bytes(reply.pack())
    if not udp:
        return packed
    limit = PLAIN_UDP_SIZE
    for extra in query.ar:
        if extra.rtype == QTYPE.OPT:
            limit = max(limit, min(extra.edns_len, MAX_UDP_SIZE))
    if len(packed) <= limit:
        return packed
    reply.rr, reply.auth = [], []
    reply.ar = [extra for extra in reply.ar if extra.rtype == QTYPE.OPT]
    reply.header.tc = 1
    return bytes(reply.pack())
