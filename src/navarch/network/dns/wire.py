"""DNS messages as bytes (RFC 1035, EDNS RFC 6891): queries read, answers written. No I/O.

Written by hand because speed is decided here: a query is read without building a tree of objects,
and an answer is put together once and then only copied. Reading never follows a compression pointer
forwards, so no message can keep it busy for longer than its own length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

A, NS, CNAME, SOA, PTR, HINFO, MX, TXT = 1, 2, 5, 6, 12, 13, 15, 16
AAAA, SRV, DNAME, OPT = 28, 33, 39, 41
IXFR, AXFR, ANY = 251, 252, 255
TYPE_NAMES = {
    A: "A", NS: "NS", CNAME: "CNAME", SOA: "SOA", PTR: "PTR", MX: "MX", TXT: "TXT", AAAA: "AAAA",
    SRV: "SRV", 35: "NAPTR", 43: "DS", 48: "DNSKEY", 46: "RRSIG", 47: "NSEC", 65: "HTTPS",
    ANY: "ANY", AXFR: "AXFR", IXFR: "IXFR",
}  # fmt: skip
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
RCODE_NAMES = {
    NOERROR: "NOERROR", FORMERR: "FORMERR", SERVFAIL: "SERVFAIL", NXDOMAIN: "NXDOMAIN",
    NOTIMP: "NOTIMP", REFUSED: "REFUSED", BADVERS: "BADVERS",
}  # fmt: skip
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x400, 0x200, 0x100, 0x80, 0x20, 0x10
PLAIN_UDP_SIZE = 512
MAX_UDP_SIZE = 1232
"""What passes every link without fragments (DNS flag day 2020)."""
MAX_MESSAGE = 65535
HEADER = 12
MAX_HOPS = 64
NAMES_AT: dict[int, tuple[int, ...]] = {
    NS: (0,), CNAME: (0,), PTR: (0,), DNAME: (0,), MX: (2,), SRV: (6,), SOA: (0, -1),
}  # fmt: skip
"""Where names stand in the data of a record; -1: right behind the one before."""
COMPRESSED = (NS, CNAME, PTR, MX, SOA)
"""Types whose data may hold compressed names (RFC 3597 section 4)."""


class Ignored(Exception):
    """Bytes that deserve no answer: too short to have an id, or an answer themselves."""


class Malformed(Exception):
    """A message that breaks the rules."""


@dataclass(slots=True)
class Query:
    """A question as it came. `labels` are in lower case, `question` is its bytes."""

    id: bytes
    flags: int
    labels: tuple[str, ...]
    question: bytes
    type: int
    class_: int
    udp_size: int | None = None
    """What the asker takes by UDP; None without EDNS."""
    version: int = 0
    dnssec_ok: bool = False
    is_plain: bool = True
    """Whether an equal question will have equal bytes: lower case and no EDNS options."""

    @property
    def opcode(self) -> int:
        return self.flags >> 11 & 15

    @property
    def limit(self) -> int:
        """The longest answer the asker takes by UDP."""
        if self.udp_size is None:
            return PLAIN_UDP_SIZE
        return max(PLAIN_UDP_SIZE, min(self.udp_size, MAX_UDP_SIZE))


def parse_query(packet: bytes) -> Query:
    """Read a query. Raises Ignored and, for what is to be answered FORMERR, Malformed. A query of
    another opcode is read up to its header."""
    if len(packet) < HEADER:
        raise Ignored
    flags, questions, answers, authority, additional = struct.unpack_from("!5H", packet, 2)
    if flags & QR:
        raise Ignored
    query = Query(packet[:2], flags, (), b"", 0, IN)
    if query.opcode:
        return query
    # The same bounds as upstream's library: all a query can have is EDNS and a signature.
    if questions != 1 or answers > 1 or authority > 1 or additional > 2:
        raise Malformed
    try:
        position, labels = HEADER, []
        while size := packet[position]:
            if size > 63:
                raise Malformed
            labels.append(packet[position + 1 : position + 1 + size])
            position += size + 1
        position += 1
        if position - HEADER > 255 or position + 4 > len(packet):
            raise Malformed
        query.type, query.class_ = struct.unpack_from("!2H", packet, position)
        query.question = packet[HEADER : position + 4]
        name = query.question[:-4]
        query.is_plain = name == name.lower()
        query.labels = labels_of(name)
        if answers + authority + additional:
            _read_options(packet, position + 4, answers + authority + additional, query)
    except (IndexError, struct.error) as error:
        raise Malformed from error
    return query


def _labels_of(name: bytes) -> Iterable[bytes]:
    position = 0
    while size := name[position]:
        yield name[position + 1 : position + 1 + size]
        position += size + 1


def _read_options(packet: bytes, position: int, count: int, query: Query) -> None:
    for _ in range(count):
        start = position
        position = _skip_name(packet, position)
        type_, class_, extended, size = struct.unpack_from("!2HIH", packet, position)
        position += 10 + size
        if position > len(packet):
            raise Malformed
        if type_ != OPT:
            query.is_plain = False
            continue
        if query.udp_size is not None or packet[start]:
            raise Malformed  # one, and for the root (RFC 6891 section 6.1.1)
        query.udp_size, query.version = class_, extended >> 16 & 255
        query.dnssec_ok = bool(extended & 0x8000)
        query.is_plain = query.is_plain and not size


def _skip_name(packet: bytes, position: int) -> int:
    while size := packet[position]:
        if size >= 0xC0:
            return position + 2
        if size > 63:
            raise Malformed
        position += size + 1
    return position + 1


@lru_cache(4096)
def encode_name(name: str) -> bytes:
    """A name as bytes, with or without its last dot. Raises ValueError."""
    labels = [label.encode("latin-1") for label in name.rstrip(".").split(".")] if name else []
    if labels == [b""]:
        labels = []
    if any(not 0 < len(label) < 64 for label in labels):
        raise ValueError(f"{name!r} is no domain name")
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(encoded) > 255:
        raise ValueError(f"{name!r} is too long for a domain name")
    return encoded


def is_name(name: str) -> bool:
    """Whether it can be a name on the wire. The API's names have no limit for a label."""
    try:
        encode_name(name)
    except ValueError:
        return False
    return True


def labels_of(name: bytes) -> tuple[str, ...]:
    """The labels of a name's bytes, in lower case."""
    return tuple(label.decode("latin-1") for label in _labels_of(name.lower()))


def text_of(name: bytes) -> str:
    """A name's bytes as text without the last dot."""
    return ".".join(label.decode("latin-1") for label in _labels_of(name))


@dataclass(frozen=True, slots=True)
class Record:
    """A resource record; names in it are not compressed."""

    name: bytes
    type: int
    ttl: int
    data: bytes
    class_: int = IN


@dataclass(slots=True)
class Reply:
    """What is said to a question, before it is bytes."""

    flags: int
    """AA, AD and the result code."""
    answers: Sequence[Record] = ()
    authority: Sequence[Record] = ()
    additional: Sequence[Record] = ()


def parse_reply(packet: bytes) -> Reply:
    """Read another server's answer. Raises Malformed."""
    try:
        flags, questions, *counts = struct.unpack_from("!5H", packet, 2)
        if not flags & QR or questions != 1 or sum(counts) * 11 > len(packet):
            raise Malformed
        position = _skip_name(packet, HEADER) + 4
        sections: list[list[Record]] = []
        for count in counts:
            section: list[Record] = []
            for _ in range(count):
                position = _read_record(packet, position, section)
            sections.append(section)
    except (IndexError, struct.error) as error:
        raise Malformed from error
    return Reply(flags & (AA | AD | 15), *sections)


def _read_record(packet: bytes, position: int, section: list[Record]) -> int:
    name, position = _read_name(packet, position)
    type_, class_, ttl, size = struct.unpack_from("!2HIH", packet, position)
    start = position + 10
    end: int = start + size
    if end > len(packet):
        raise Malformed
    if type_ == OPT:
        return end  # about the hop it came over, not about the answer
    data = packet[start:end]
    if type_ in NAMES_AT:
        first = NAMES_AT[type_][0]
        data, at = packet[start : start + first], start + first
        for _ in NAMES_AT[type_]:
            part, at = _read_name(packet, at)
            data += part
        if at > end:
            raise Malformed
        data += packet[at:end]
    # A negative time to live counts as none (RFC 2181 section 8).
    section.append(Record(name, type_, ttl if ttl < 1 << 31 else 0, data, class_))
    return end


def _read_name(packet: bytes, position: int) -> tuple[bytes, int]:
    """A name without compression, and the position behind it."""
    parts: list[bytes] = []
    length, end, bound, hops = 1, 0, position, 0
    while size := packet[position]:
        if size >= 0xC0:
            end = end or position + 2
            target = (size & 0x3F) << 8 | packet[position + 1]
            hops += 1
            # Only ever backwards, so there can be no circle, and no long way either.
            if target >= bound or hops > MAX_HOPS:
                raise Malformed
            position = bound = target
            continue
        if size > 63:
            raise Malformed
        parts.append(packet[position : position + size + 1])
        length += size + 1
        if length > 255:
            raise Malformed
        position += size + 1
    return b"".join(parts) + b"\0", end or position + 1


class _Writer:
    """Appends records behind a question, pointing back to names that are already there."""

    def __init__(self, question: bytes) -> None:
        self.length = HEADER + len(question)
        self._known: dict[bytes, int] = {}
        self._remember(question[:-4], HEADER)

    def _remember(self, name: bytes, position: int) -> None:
        start = 0
        lowered = name.lower()
        while name[start] and position + start < 0x4000:
            self._known.setdefault(lowered[start:], position + start)
            start += name[start] + 1

    def _name(self, name: bytes, position: int) -> bytes:
        lowered, start = name.lower(), 0
        while name[start]:
            known = self._known.get(lowered[start:])
            if known is not None:
                self._remember_head(lowered, start, position)
                return name[:start] + struct.pack("!H", 0xC000 | known)
            start += name[start] + 1
        self._remember(name, position)
        return name

    def _remember_head(self, lowered: bytes, end: int, position: int) -> None:
        start = 0
        while start < end and position + start < 0x4000:
            self._known.setdefault(lowered[start:], position + start)
            start += lowered[start] + 1

    def write(self, record: Record, age: int) -> bytes:
        owner = self._name(record.name, self.length)
        at = self.length + len(owner) + 10
        data = record.data
        if record.type in COMPRESSED:
            first = NAMES_AT[record.type][0]
            data = record.data[:first]
            rest = record.data[first:]
            for _ in NAMES_AT[record.type]:
                size = _skip_name(rest, 0)
                data += self._name(rest[:size], at + len(data))
                rest = rest[size:]
            data += rest
        elif record.type == SRV:
            self._remember(record.data[6:], at + 6)
        ttl = max(record.ttl - age, 0)
        piece = owner + struct.pack("!2HIH", record.type, record.class_, ttl, len(data)) + data
        self.length += len(piece)
        return piece


def render(query: Query, reply: Reply, limit: int, age: int = 0) -> bytes:
    """An answer's bytes behind the id. What is too much is cut: further information first, then
    answers, which is marked so that the asker comes again by TCP."""
    writer = _Writer(query.question)
    options = option_record(query, reply.flags) if query.udp_size is not None else b""
    room = limit - len(options)
    flags = QR | (query.flags & (RD | CD)) | RA | (reply.flags & (AA | AD | 15))
    counts, pieces = [0, 0, 0], []
    for index, section in enumerate((reply.answers, reply.authority, reply.additional)):
        for record in section:
            piece = writer.write(record, age)
            if writer.length > room:
                if index < 2:
                    flags |= TC
                break
            pieces.append(piece)
            counts[index] += 1
        if writer.length > room:
            break
    counts[2] += 1 if options else 0
    head = struct.pack("!5H", flags, 1, *counts)
    return b"".join((head, query.question, *pieces, options))


def option_record(query: Query, code: int) -> bytes:
    """Our EDNS record: version 0, the asker's DO bit, the high bits of the result code."""
    extended = code >> 4 & 0xFF if code == BADVERS else 0
    flags = 0x8000 if query.dnssec_ok else 0
    return struct.pack("!BHHBBHH", 0, OPT, MAX_UDP_SIZE, extended, 0, flags, 0)


def failure(query: Query, code: int) -> bytes:
    """A whole answer that only says why there is none."""
    flags = QR | (query.flags & (0x7800 | RD | CD)) | RA | (code & 15)
    options = option_record(query, code) if query.udp_size is not None else b""
    counts = struct.pack("!5H", flags, 1 if query.question else 0, 0, 0, 1 if options else 0)
    return query.id + counts + query.question + options


def format_error(packet: bytes, code: int = FORMERR) -> bytes:
    """The answer to bytes whose question cannot be read."""
    flags = struct.unpack_from("!H", packet, 2)[0]
    return packet[:2] + struct.pack("!5H", QR | (flags & (0x7800 | RD)) | code, 0, 0, 0, 0)


def question_bytes(name: bytes, type_: int) -> bytes:
    return name + struct.pack("!2H", type_, IN)


def ask(identity: bytes, question: bytes, *, flags: int, dnssec_ok: bool) -> bytes:
    """A query for another server, with EDNS."""
    options = struct.pack("!BHHBBHH", 0, OPT, MAX_UDP_SIZE, 0, 0, 0x8000 if dnssec_ok else 0, 0)
    return identity + struct.pack("!5H", flags, 1, 0, 0, 1) + question + options
