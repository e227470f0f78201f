"""nft's language to netlink: the part of it that our tables are written in. No I/O.

Text is what decides, tests and people read; the kernel wants expressions over registers. Each
command becomes messages of one batch, each rule a list of expressions (what `nft --debug=netlink`
shows). Anything beyond this part of the language is refused, never guessed.

    add|delete table FAMILY TABLE
    add|delete|flush chain FAMILY TABLE NAME [{ type T hook H priority P ; }]
    add|delete|flush map|set FAMILY TABLE NAME { type K . K [: verdict] ; [flags dynamic,timeout ;
        timeout Ns ; size N ;] }
    add|delete element FAMILY TABLE NAME { KEY [: VERDICT], ... }
    add rule FAMILY TABLE CHAIN STATEMENTS
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterable, Sequence

from navarch.network.nftables.netlink import (
    APPEND,
    CREATE,
    FAMILIES,
    REQUEST,
    Message,
    attribute,
    nested,
    number,
    text,
)

NEW_TABLE, DELETE_TABLE, NEW_CHAIN, DELETE_CHAIN, NEW_RULE, DELETE_RULE = 0, 2, 3, 5, 6, 8
NEW_SET, DELETE_SET, NEW_ELEMENT, DELETE_ELEMENT = 9, 11, 12, 14
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
TYPES = {"ipv4_addr": (7, 4), "ipv6_addr": (8, 16), "inet_proto": (12, 1), "inet_service": (13, 2)}
"""nft's number of a data type, and its length."""
INTEGER, VERDICT_TYPE, TYPE_BITS = 4, 0xFFFFFF00, 6
ANONYMOUS, CONSTANT, MAP, TIMEOUT, EVALUATED = 0x1, 0x2, 0x8, 0x10, 0x20
ACCEPT, DROP, CONTINUE, JUMP, GOTO, RETURN = 1, 0, -1, -3, -4, -5
VERDICTS = {"accept": ACCEPT, "drop": DROP, "continue": CONTINUE, "return": RETURN}
REGISTERS = 8
"""The first of the 32-bit registers. The verdict has its own, 0."""
ELEMENTS_PER_MESSAGE = 400
"""A list of elements is one attribute, whose length has 16 bits."""
ANONYMOUS_NAME = "__map%d"


class DialectError(ValueError):
    """Text that this part of the language does not have."""


def compile_commands(commands: Iterable[str]) -> list[Message]:
    """The batch that these commands are. Raises DialectError."""
    batch = _Batch()
    for command in commands:
        batch.add(command)
    return batch.messages


@functools.lru_cache(4096)
def address_bytes(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.inet_pton(family, address)
    except OSError as error:
        raise DialectError(f"not an address: {address!r}") from error


def field_bytes(field: str) -> bytes:
    """One part of a key: an address, a protocol or a port, in whole registers."""
    if field in PROTOCOLS:
        return bytes((PROTOCOLS[field], 0, 0, 0))
    if field.isdigit():
        return int(field).to_bytes(2, "big") + b"\0\0"
    return address_bytes(field)


def key_bytes(key: str) -> bytes:
    return b"".join([field_bytes(field) for field in key.split(" . ")])


def verdict(words: str) -> bytes:
    """A verdict as the value of an element or of an immediate expression."""
    action, _, chain = words.strip().partition(" ")
    if action in ("goto", "jump") and chain:
        code = GOTO if action == "goto" else JUMP
        return nested(2, number(1, code), text(2, chain))
    if action not in VERDICTS:
        raise DialectError(f"not a verdict: {words!r}")
    return nested(2, number(1, VERDICTS[action]))


class _Batch:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._sets = 0

    def add(self, command: str) -> None:
        action, what, family, rest = command.split(" ", 3)
        handler = self._HANDLERS.get((action, what))
        if handler is None or family not in FAMILIES:
            raise DialectError(f"not a command of ours: {command!r}")
        handler(self, family, rest)

    def _message(self, kind: int, family: str, *parts: bytes, flags: int = 0) -> None:
        body = b"".join(parts)
        self.messages.append(Message(kind, FAMILIES[family], body, REQUEST | flags))

    def _add_table(self, family: str, rest: str) -> None:
        self._message(NEW_TABLE, family, text(1, rest.strip()), flags=CREATE)

    def _delete_table(self, family: str, rest: str) -> None:
        self._message(DELETE_TABLE, family, text(1, rest.strip()))

    def _add_chain(self, family: str, rest: str) -> None:
        table, name, options = _named(rest)
        parts = [text(1, table), text(3, name)]
        if options:
            words = options.replace(";", " ").split()
            given = dict(zip(words[::2], words[1::2], strict=True))
            if given.keys() != {"type", "hook", "priority"}:
                raise DialectError(f"not a base chain of ours: {options!r}")
            hook = nested(4, number(1, HOOKS[given["hook"]]), number(2, int(given["priority"])))
            parts += [hook, text(7, given["type"])]
        self._message(NEW_CHAIN, family, *parts, flags=CREATE)

    def _delete_chain(self, family: str, rest: str) -> None:
        table, name, _ = _named(rest)
        self._message(DELETE_CHAIN, family, text(1, table), text(3, name))

    def _flush_chain(self, family: str, rest: str) -> None:
        table, name, _ = _named(rest)
        self._message(DELETE_RULE, family, text(1, table), text(2, name))

    def _add_set(self, family: str, rest: str) -> None:
        table, name, options = _named(rest)
        parts = [text(1, table), text(2, name)]
        flags, more = 0, []
        for option in options.split(";"):
            match option.split():
                case []:
                    pass
                case ["type", *_]:
                    keys, _, value = option.strip()[5:].partition(" : ")
                    flags |= MAP if value else 0
                    more += _key_types(keys.strip())
                    if value:
                        more += [number(6, VERDICT_TYPE), number(7, 0)]
                case ["flags", names]:
                    if set(names.split(",")) != {"dynamic", "timeout"}:
                        raise DialectError(f"flags of a set: {names!r}")
                    flags |= TIMEOUT | EVALUATED
                case ["timeout", duration]:
                    milliseconds = int(duration.removesuffix("s")) * 1000
                    more.append(attribute(11, milliseconds.to_bytes(8, "big")))
                case ["size", size]:
                    more.append(nested(9, number(1, int(size))))
                case _:
                    raise DialectError(f"option of a set: {option!r}")
        identity = self._next_set()
        self._message(NEW_SET, family, *parts, number(3, flags), *more, identity, flags=CREATE)

    def _delete_set(self, family: str, rest: str) -> None:
        table, name, _ = _named(rest)
        self._message(DELETE_SET, family, text(1, table), text(2, name))

    def _flush_set(self, family: str, rest: str) -> None:
        table, name, _ = _named(rest)
        self._message(DELETE_ELEMENT, family, text(1, table), text(2, name))

    def _add_elements(self, family: str, rest: str) -> None:
        self._elements(NEW_ELEMENT, family, rest)

    def _delete_elements(self, family: str, rest: str) -> None:
        self._elements(DELETE_ELEMENT, family, rest)

    def _elements(self, kind: int, family: str, rest: str) -> None:
        table, name, inside = _named(rest)
        where = text(1, table) + text(2, name)
        elements = []
        for element in inside.split(","):
            key, _, value = element.partition(" : ")
            parts = nested(1, attribute(1, key_bytes(key.strip())))
            if value:
                parts += nested(2, verdict(value))
            elements.append(nested(1, parts))
        flags = CREATE if kind == NEW_ELEMENT else 0
        for at in range(0, len(elements), ELEMENTS_PER_MESSAGE):
            some = nested(3, *elements[at : at + ELEMENTS_PER_MESSAGE])
            self._message(kind, family, where, some, flags=flags)

    def _add_rule(self, family: str, rest: str) -> None:
        if family == "inet":
            # There every address would need a test of the packet's family before it.
            raise DialectError("rules of an inet table")
        table, chain, statements = rest.split(" ", 2)
        if "{" not in statements:
            expressions = rule_bytes(family, statements)
        else:
            head, _, inside = statements.partition("{")
            expressions = self._rule_with_braces(family, table, head, inside)
        body = (text(1, table), text(2, chain), attribute(4 | 0x8000, expressions))
        self._message(NEW_RULE, family, *body, flags=CREATE | APPEND)

    def _rule_with_braces(self, family: str, table: str, head: str, inside: str) -> bytes:
        """The three statements with something in braces: a set that learns, and a choice by number
        among endpoints or chains, which is a map without a name."""
        words = head.split()
        inside = inside.strip().removesuffix("}").strip()
        match words:
            case ["update", name] if inside == f"{family} saddr":
                load = _selector((family, "saddr"), family, REGISTERS)
                parts = (text(1, name[1:]), number(3, 1), number(4, REGISTERS))
                return load + _expression("dynset", *parts)
            case ["numgen", "random", "mod", count, "vmap"]:
                identity = self._numbered_map(family, table, inside, _verdict_value, int(count))
                return _numgen(int(count)) + _lookup(ANONYMOUS_NAME, identity, target=0)
            case [*before, "dnat", "ip" | "ip6", "addr", ".", "port", "to", "numgen", "random",
                  "mod", count, "map"]:  # fmt: skip
                identity = self._numbered_map(family, table, inside, _socket_value, int(count))
                chosen = _lookup(ANONYMOUS_NAME, identity, target=REGISTERS)
                start = rule_bytes(family, " ".join(before))
                return start + _numgen(int(count)) + chosen + _dnat(family)
        raise DialectError(f"not a statement of ours: {head!r}")

    def _numbered_map(
        self, family: str, table: str, inside: str, value: Callable[[str], bytes], count: int
    ) -> bytes:
        identity = self._next_set()
        where = (text(1, table), text(2, ANONYMOUS_NAME))
        width = 20 if family == "ip6" else 8
        data = [number(6, VERDICT_TYPE), number(7, 0)]
        if value is _socket_value:
            address = TYPES["ipv6_addr" if family == "ip6" else "ipv4_addr"][0]
            data = [number(6, address << TYPE_BITS | TYPES["inet_service"][0]), number(7, width)]
        self._message(
            NEW_SET,
            family,
            *where,
            number(3, ANONYMOUS | CONSTANT | MAP),
            number(4, INTEGER),
            number(5, 4),
            *data,
            identity,
            nested(9, number(1, count)),
            attribute(13, b"\0\4\1\0\0\0"),
            flags=CREATE,
        )
        elements = []
        for element in inside.split(","):
            index, _, target = element.partition(" : ")
            key = nested(1, attribute(1, int(index).to_bytes(4, "little")))
            elements.append(nested(1, key, value(target.strip())))
        for at in range(0, len(elements), ELEMENTS_PER_MESSAGE):
            some = nested(3, *elements[at : at + ELEMENTS_PER_MESSAGE])
            known = number(4, self._sets)
            self._message(NEW_ELEMENT, family, *where, known, some, flags=CREATE)
        return number(4, self._sets)

    def _next_set(self) -> bytes:
        self._sets += 1
        return number(10, self._sets)

    _HANDLERS: dict[tuple[str, str], Callable[[_Batch, str, str], None]] = {
        ("add", "table"): _add_table,
        ("delete", "table"): _delete_table,
        ("add", "chain"): _add_chain,
        ("delete", "chain"): _delete_chain,
        ("flush", "chain"): _flush_chain,
        ("add", "set"): _add_set,
        ("add", "map"): _add_set,
        ("delete", "set"): _delete_set,
        ("delete", "map"): _delete_set,
        ("flush", "set"): _flush_set,
        ("flush", "map"): _flush_set,
        ("add", "element"): _add_elements,
        ("delete", "element"): _delete_elements,
        ("add", "rule"): _add_rule,
    }


def _named(rest: str) -> tuple[str, str, str]:
    """Table, name and what the braces hold."""
    head, _, inside = rest.partition("{")
    table, name = head.split()
    return table, name, inside.strip().removesuffix("}").strip()


def _key_types(keys: str) -> list[bytes]:
    number_, length = 0, 0
    for key in keys.split(" . "):
        type_, width = TYPES[key]
        number_ = number_ << TYPE_BITS | type_
        length += (width + 3) & ~3 if " . " in keys else width
    return [number(4, number_), number(5, length)]


def _verdict_value(target: str) -> bytes:
    return nested(2, verdict(target))


def _socket_value(target: str) -> bytes:
    return nested(2, attribute(1, key_bytes(target)))


@functools.lru_cache(1024)
def _expression(name: str, *parts: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *parts))


def _numgen(count: int) -> bytes:
    parts = (number(1, REGISTERS), number(2, count), number(3, 1), number(4, 0))
    return _expression("numgen", *parts)


def _lookup(name: str, identity: bytes = b"", target: int | None = None) -> bytes:
    where = b"" if target is None else number(3, target)
    return _expression("lookup", number(2, REGISTERS), where, text(1, name), identity)


def _dnat(family: str) -> bytes:
    port = REGISTERS + (4 if family == "ip6" else 1)
    parts = (number(1, 1), number(2, FAMILIES[family]), number(3, REGISTERS), number(5, port))
    return _expression("nat", *parts)


def _immediate(register: int, value: bytes) -> bytes:
    return nested(
        1, text(1, "immediate"), nested(2, number(1, register), nested(2, attribute(1, value)))
    )


def _masked(register: int, mask: bytes, flip: bytes) -> bytes:
    return _expression(
        "bitwise",
        number(1, register),
        number(2, register),
        number(3, len(mask)),
        nested(4, attribute(1, mask)),
        nested(5, attribute(1, flip)),
    )


def _compare(value: bytes, *, equal: bool = True) -> bytes:
    operation = number(2, 0 if equal else 1)
    return _expression("cmp", number(1, REGISTERS), operation, nested(3, attribute(1, value)))


def _selector(words: tuple[str, str], family: str, register: int) -> bytes:
    match words:
        case ("ip" | "ip6", "saddr" | "daddr" as which):
            offset, width = ((8 if which == "saddr" else 24), 16)
            if family == "ip":
                offset, width = (12 if which == "saddr" else 16), 4
            base = 1
        case ("meta", "l4proto"):
            return _expression("meta", number(2, 16), number(1, register))
        case ("th", "dport"):
            base, offset, width = 2, 2, 2
        case _:
            raise DialectError(f"not a selector of ours: {' '.join(words)!r}")
    parts = (number(1, register), number(2, base), number(3, offset), number(4, width))
    return _expression("payload", *parts)


def _width(words: tuple[str, str]) -> int:
    return 4 if words[0] == "ip6" else 1


def _load_mark() -> bytes:
    return _expression("meta", number(2, 3), number(1, REGISTERS))


def _mark(words: list[str]) -> bytes:
    """`mark and M != 0`, `mark set mark or M` and `mark set mark xor M`."""
    zero = bytes(4)
    match words:
        case ["and", mask, "!=", "0"]:
            wanted = int(mask, 0).to_bytes(4, "little")
            return _load_mark() + _masked(REGISTERS, wanted, zero) + _compare(zero, equal=False)
        case ["set", "mark", "or" | "xor" as operation, mask]:
            bits = int(mask, 0)
            kept = 0xFFFFFFFF ^ bits if operation == "or" else 0xFFFFFFFF
            changed = _masked(REGISTERS, kept.to_bytes(4, "little"), bits.to_bytes(4, "little"))
            return _load_mark() + changed + _expression("meta", number(2, 3), number(3, REGISTERS))
    raise DialectError(f"not something with marks of ours: {words!r}")


def _bit(load: bytes, bit: int) -> bytes:
    return (
        load
        + _masked(REGISTERS, bit.to_bytes(4, "little"), bytes(4))
        + _compare(bytes(4), equal=False)
    )


_CT_NEW = _bit(_expression("ct", number(2, 0), number(1, REGISTERS)), 8)
_CT_DNAT = _bit(_expression("ct", number(2, 2), number(1, REGISTERS)), 0x20)
_PROTOCOL_OF = {name: bytes((value,)) for name, value in PROTOCOLS.items()}
_UNREACHABLE = {"ip": 3, "ip6": 4}
"""The code of ICMP's "port unreachable"."""


def rule_bytes(family: str, statements: str) -> bytes:
    """The expressions of a rule without braces. Raises DialectError."""
    words = statements.split()
    found: list[bytes] = []
    position = 0
    while position < len(words):
        length, expressions = _statement(family, words[position : position + 16])
        found.append(expressions)
        position += length
    return b"".join(found)


def _statement(family: str, words: Sequence[str]) -> tuple[int, bytes]:
    """The first statement: how many words it has, and its expressions."""
    match words:
        case ["goto" | "jump" as action, chain, *_]:
            decided = verdict(f"{action} {chain}")
            return 2, nested(1, text(1, "immediate"), nested(2, number(1, 0), nested(2, decided)))
        case ["drop" | "accept" | "return" as action, *_]:
            return 1, _expression("immediate", number(1, 0), nested(2, verdict(action)))
        case ["reject", "with", "tcp", "reset", *_]:
            return 4, _expression("reject", number(1, 1), attribute(2, b"\0"))
        case ["reject", *_]:
            code = attribute(2, bytes((_UNREACHABLE[family],)))
            return 1, _expression("reject", number(1, 0), code)
        case ["ct", "state", "new", *_]:
            return 3, _CT_NEW
        case ["ct", "status", "dnat", *_]:
            return 3, _CT_DNAT
        case ["mark", "and", *_]:
            return 5, _mark(list(words[1:5]))
        case ["mark", "set", *_]:
            return 5, _mark(list(words[1:5]))
        case ["fib", "saddr" | "daddr" as which, "type", "local", *_]:
            flags = number(3, 1 if which == "saddr" else 2)
            result = _expression("fib", flags, number(2, 3), number(1, REGISTERS))
            return 4, result + _compare((2).to_bytes(4, "little"))
        case ["masquerade", "fully-random", *_]:
            return 2, _expression("masq", number(1, 16))
        case ["dnat", "to", target, *_]:
            address, _, port = target.rpartition(":")
            to = _immediate(REGISTERS, address_bytes(address.strip("[]")))
            at = REGISTERS + (4 if family == "ip6" else 1)
            return 3, to + _immediate(at, int(port).to_bytes(2, "big")) + _dnat(family)
        case ["numgen", "random", "mod", count, value, *_]:
            return 5, _numgen(int(count)) + _compare(int(value).to_bytes(4, "little"))
        case ["meta" | "ip" | "ip6" | "th", *_]:
            return _match(family, words)
    raise DialectError(f"not a statement of ours: {' '.join(words)!r}")


def _match(family: str, words: Sequence[str]) -> tuple[int, bytes]:
    """`SELECTOR [. SELECTOR ...]`, then `vmap @MAP`, `@SET`, `[!=] VALUE`."""
    register, position, found = REGISTERS, 0, b""
    first = (words[0], words[1])
    while True:
        selector = (words[position], words[position + 1])
        found += _selector(selector, family, register)
        register += _width(selector)
        position += 2
        if words[position] != ".":
            break
        position += 1
    word = words[position]
    if word == "vmap":
        return position + 2, found + _lookup(words[position + 1][1:], target=0)
    if word.startswith("@"):
        return position + 1, found + _lookup(word[1:])
    equal = word != "!="
    value = word if equal else words[position + 1]
    end = position + (1 if equal else 2)
    return end, found + _comparison(first, value, equal=equal)


def _comparison(selector: tuple[str, str], value: str, *, equal: bool) -> bytes:
    if selector == ("meta", "l4proto"):
        return _compare(_PROTOCOL_OF[value], equal=equal)
    address, _, length = value.partition("/")
    wanted = address_bytes(address)
    bits = len(wanted) * 8
    prefix = int(length) if length else bits
    if prefix == bits:
        return _compare(wanted, equal=equal)
    mask = ((1 << bits) - (1 << (bits - prefix))).to_bytes(len(wanted), "big")
    network = bytes(a & b for a, b in zip(wanted, mask, strict=True))
    return _masked(REGISTERS, mask, bytes(len(mask))) + _compare(network, equal=equal)
