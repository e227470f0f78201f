"""What the kernel holds of one table: chains, sets and the elements of the sets."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from navarch.network.nftables.dialect import (
    ANONYMOUS,
    GOTO,
    HOOKS,
    JUMP,
    PROTOCOLS,
    TYPE_BITS,
    TYPES,
    VERDICTS,
)
from navarch.network.nftables.netlink import (
    FAMILIES,
    NFTABLES,
    Connection,
    Message,
    NetlinkError,
    attributes,
    fields,
    integer,
    string,
    text,
)

GET_CHAIN, GET_SET, GET_ELEMENT = 4, 10, 13
_HOOK_NAMES = {value: name for name, value in HOOKS.items()}
_PROTOCOL_NAMES = {value: name for name, value in PROTOCOLS.items()}
_VERDICT_NAMES = {value & 0xFFFFFFFF: name for name, value in VERDICTS.items()}
_JUMPS = {GOTO & 0xFFFFFFFF: "goto", JUMP & 0xFFFFFFFF: "jump"}
_TYPE_NAMES = {value: (name, width) for name, (value, width) in TYPES.items()}


@dataclass(slots=True)
class Listing:
    """One table as the kernel has it."""

    chains: dict[str, str] = field(default_factory=dict)
    """Name to "type T hook H priority P ;", or "" for one that is only jumped to."""
    sets: set[str] = field(default_factory=set)
    """The names of sets and maps."""
    elements: dict[tuple[str, str], str] = field(default_factory=dict)
    """Of the sets that were asked for: the set and the key, to the verdict ("" in a set)."""


def list_table(
    connection: Connection, family: str, table: str, contents: frozenset[str]
) -> Listing:
    """A table, and the elements of the sets that `contents` names; empty where there is none.
    Raises NetlinkError."""
    listing = Listing()
    number = FAMILIES[family]
    for answer in connection.dump(NFTABLES, Message(GET_CHAIN, number, b"")):
        chain = fields(answer.body)
        if string(chain[1]) == table:
            listing.chains[string(chain[3])] = _hook(chain)
    for answer in connection.dump(NFTABLES, Message(GET_SET, number, b"")):
        found = fields(answer.body)
        name = string(found[2])
        if string(found[1]) != table or integer(found.get(3, b"")) & ANONYMOUS:
            continue
        listing.sets.add(name)
        if name in contents:
            types = _key_types(integer(found[4]))
            for key, value in _elements(connection, number, table, name):
                listing.elements[(name, _key_text(key, types))] = value
    return listing


def _hook(chain: dict[int, memoryview]) -> str:
    if 4 not in chain:
        return ""
    hook = fields(chain[4])
    priority = int.from_bytes(hook[2], "big", signed=True)
    where = _HOOK_NAMES.get(integer(hook[1]), "?")
    policy = "" if integer(chain.get(5, b"\1")) else " policy drop"
    return f"type {string(chain[7])} hook {where} priority {priority} ;{policy}"


def _elements(
    connection: Connection, family: int, table: str, name: str
) -> Iterator[tuple[memoryview, str]]:
    asked = Message(GET_ELEMENT, family, text(1, table) + text(2, name))
    try:
        answers = connection.dump(NFTABLES, asked)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return
        raise
    for answer in answers:
        for _, element in attributes(fields(answer.body).get(3, b"")):
            parts = fields(element)
            if 1 in parts:
                yield fields(parts[1])[1], _verdict(parts[2]) if 2 in parts else ""


def _verdict(data: memoryview) -> str:
    decided = fields(fields(data)[2])
    code = integer(decided[1])
    if code in _JUMPS:
        return f"{_JUMPS[code]} {string(decided[2])}"
    return _VERDICT_NAMES.get(code, "?")


def _key_types(number: int) -> list[tuple[str, int]]:
    types = []
    while number:
        types.append(_TYPE_NAMES.get(number & (1 << TYPE_BITS) - 1, ("?", 4)))
        number >>= TYPE_BITS
    return types[::-1]


def _key_text(key: memoryview, types: list[tuple[str, int]]) -> str:
    parts, position = [], 0
    for name, width in types:
        value = bytes(key[position : position + width])
        position += (width + 3) & ~3
        match name:
            case "ipv4_addr":
                parts.append(socket.inet_ntoa(value))
            case "ipv6_addr":
                parts.append(socket.inet_ntop(socket.AF_INET6, value))
            case "inet_proto":
                parts.append(_PROTOCOL_NAMES.get(value[0], str(value[0])))
            case _:
                parts.append(str(integer(value)))
    return " . ".join(parts)
