"""nft's language to netlink: what is compiled, what is refused; and what the twin in memory refuses
as the kernel does."""

import pytest

from navarch.network.nftables.dialect import (
    DELETE_ELEMENT,
    ELEMENTS_PER_MESSAGE,
    NEW_ELEMENT,
    NEW_RULE,
    NEW_SET,
    DialectError,
    compile_commands,
)
from navarch.network.nftables.memory import MemoryTables, Refused
from navarch.network.nftables.netlink import attribute, attributes, messages, number, pack

T = "ip kube-proxy"
TABLE = [f"add table {T}", f"add chain {T} c", f"add chain {T} d"]
MAP = f"add map {T} m {{ type ipv4_addr . inet_proto . inet_service : verdict ; }}"


def test_attributes_are_padded_and_found_again() -> None:
    data = attribute(1, b"abc") + number(2, 7)
    assert len(data) == 16
    assert [(kind, bytes(value)) for kind, value in attributes(data)] == [
        (1, b"abc"),
        (2, b"\0\0\0\7"),
    ]


def test_a_message_is_found_again() -> None:
    (change,) = compile_commands([f"add chain {T} c"])
    ((_, sequence, found),) = messages(pack(change, 10, 42))
    assert (sequence, found.kind, found.family, found.body) == (42, 3, 2, change.body)


def test_many_elements_are_several_messages() -> None:
    keys = ", ".join(f"10.0.{n // 256}.{n % 256}" for n in range(ELEMENTS_PER_MESSAGE + 1))
    compiled = compile_commands(
        [f"add element {T} s {{ {keys} }}", f"delete element {T} s {{ {keys} }}"]
    )
    assert [m.kind for m in compiled] == [NEW_ELEMENT] * 2 + [DELETE_ELEMENT] * 2
    assert max(len(m.body) for m in compiled) < 1 << 16


def test_a_choice_among_many_is_a_map_of_its_own() -> None:
    rule = "dnat ip addr . port to numgen random mod 2 map { 0 : 10.0.0.1 . 1, 1 : 10.0.0.2 . 2 }"
    kinds = [m.kind for m in compile_commands([f"add rule {T} c meta l4proto tcp {rule}"])]
    assert kinds == [NEW_SET, NEW_ELEMENT, NEW_RULE]


@pytest.mark.parametrize(
    "command",
    [
        "add table bridge t",
        "list table ip t",
        f"add rule {T} c ip saddr {{ 10.0.0.1, 10.0.0.2 }} drop",
        f"add rule {T} c counter",
        f"add rule {T} c ct state established accept",
        f"add rule {T} c ip daddr nonsense drop",
        f"add element {T} m {{ 10.0.0.1 . tcp . 80 : queue }}",
        f"add set {T} s {{ type ipv4_addr ; flags interval ; }}",
        f"add chain {T} c {{ type filter hook input priority 0 ; policy drop ; }}",
    ],
)
def test_what_the_language_lacks_is_refused(command: str) -> None:
    with pytest.raises(DialectError):
        compile_commands([command])


@pytest.mark.parametrize(
    ("commands", "refused"),
    [
        pytest.param([f"delete chain {T} x"], "no chain", id="no such chain"),
        pytest.param([f"add rule {T} x drop"], "no chain", id="a rule for no chain"),
        pytest.param([f"add rule {T} c goto x"], "no chain", id="a way to no chain"),
        pytest.param([f"add rule {T} c ip daddr @x drop"], "no set", id="a look into no set"),
        pytest.param(
            [f"add rule {T} c goto d", f"delete chain {T} d"], "in use", id="a chain in use"
        ),
        pytest.param([f"delete element {T} m {{ 1.1.1.1 . tcp . 1 }}"], "no 1.1", id="no element"),
        pytest.param(
            [
                f"add element {T} m {{ 1.1.1.1 . tcp . 1 : goto c }}",
                f"add element {T} m {{ 1.1.1.1 . tcp . 1 : goto d }}",
            ],
            "not goto d",
            id="another value",
        ),
        pytest.param(
            [f"add map {T} m {{ type inet_proto . inet_service : verdict ; }}"],
            "another",
            id="another map of the name",
        ),
    ],
)
def test_nothing_of_a_refused_transaction_is_done(commands: list[str], refused: str) -> None:
    tables = MemoryTables()
    tables.apply([*TABLE, MAP])
    before = tables.tables[("ip", "kube-proxy")].listing(frozenset("m"))
    with pytest.raises(Refused, match=refused):
        tables.apply([f"add chain {T} new", *commands])
    assert tables.tables[("ip", "kube-proxy")].listing(frozenset("m")) == before
