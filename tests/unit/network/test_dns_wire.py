"""The wire's rules (RFC 1035, 6891, 8482), and what hostile bytes can do: nothing."""

from __future__ import annotations

import struct
import time

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.network.dns_builders import BASE, ask, query, responder, slice_of

from navarch.network.dns import wire
from navarch.network.dns.responder import Via, Waiting

WEB = f"web.shop.{BASE}"
TCP = Via(tcp=True)
QUESTION = query(WEB).to_wire()


def answer_to(packet: bytes) -> dns.message.Message:
    answer = responder().begin(packet, Via())
    assert isinstance(answer, bytes)
    return dns.message.from_wire(answer)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"rdclass": "CH"}, dns.rcode.REFUSED, id="class CH"),
        pytest.param({"rdclass": "ANY"}, dns.rcode.REFUSED, id="class ANY"),
        pytest.param({"type_": "AXFR"}, dns.rcode.REFUSED, id="zone transfer"),
        pytest.param({"type_": "IXFR"}, dns.rcode.REFUSED, id="incremental transfer"),
        pytest.param({"type_": "OPT"}, dns.rcode.FORMERR, id="OPT as a question"),
        pytest.param({"use_edns": 0}, dns.rcode.NOERROR, id="EDNS"),
        pytest.param({"use_edns": 1}, dns.rcode.BADVERS, id="EDNS of another version"),
        pytest.param({"want_dnssec": True}, dns.rcode.NOERROR, id="DO"),
    ],
)
def test_result_codes(change: dict[str, object], code: dns.rcode.Rcode) -> None:
    type_ = str(change.pop("type_", "A"))
    asked = query(WEB, type_, **change)
    answer = answer_to(asked.to_wire())
    assert (answer.rcode(), answer.id) == (code, asked.id)
    assert (answer.edns >= 0) == (asked.edns >= 0)
    if asked.edns >= 0:
        assert (answer.edns, answer.payload) == (0, wire.MAX_UDP_SIZE)
        assert answer.ednsflags & dns.flags.DO == asked.ednsflags & dns.flags.DO


@pytest.mark.parametrize("opcode", [dns.opcode.STATUS, dns.opcode.NOTIFY, dns.opcode.UPDATE])
def test_other_opcodes(opcode: dns.opcode.Opcode) -> None:
    packet = QUESTION[:2] + struct.pack("!H", opcode << 11) + QUESTION[4:]
    answer = responder().begin(packet, Via())
    assert isinstance(answer, bytes)
    flags = struct.unpack_from("!H", answer, 2)[0]
    assert (flags >> 11 & 15, flags & 15) == (opcode, dns.rcode.NOTIMP)


def test_any_gets_the_least() -> None:
    answer = ask(responder(), WEB, "ANY")
    assert [str(each[0]) for each in answer.answer] == ['"RFC8482" ""']


def counted(*counts: int, body: bytes = QUESTION[12:]) -> bytes:
    return struct.pack("!6H", 7, 0x0100, *counts) + body


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(counted(0, 0, 0, 0, body=b""), id="no question"),
        pytest.param(counted(2, 0, 0, 0, body=QUESTION[12:] * 2), id="two questions"),
        pytest.param(counted(1, 2, 0, 0), id="answers in a question"),
        pytest.param(counted(1, 0, 0, 65535), id="more records than bytes"),
        pytest.param(counted(1, 0, 0, 0, body=b"\xc0\x0c\0\1\0\1"), id="a pointer to itself"),
        pytest.param(counted(1, 0, 0, 0, body=b"\x3fabc"), id="a label cut short"),
        pytest.param(counted(1, 0, 0, 0, body=b"\x80a\0\0\1\0\1"), id="a reserved label type"),
        pytest.param(counted(1, 0, 0, 0, body=b"\1a" * 200 + b"\0\0\1\0\1"), id="a long name"),
        pytest.param(counted(1, 0, 0, 0, body=b"\1a\0\0\1"), id="no class"),
        pytest.param(counted(1, 0, 0, 1), id="a promised record is missing"),
        pytest.param(
            counted(1, 0, 0, 2, body=QUESTION[12:] + b"\0\0\x29\2\0\0\0\0\0\0\0" * 2),
            id="EDNS twice",
        ),
    ],
)
def test_broken_questions_are_format_errors(packet: bytes) -> None:
    answer = responder().begin(packet, Via())
    assert isinstance(answer, bytes)
    assert answer[:2] == packet[:2]
    assert (answer[2] & 0x80, answer[3] & 15) == (0x80, dns.rcode.FORMERR)


@pytest.mark.parametrize(
    "packet", [b"", b"x", QUESTION[:11], QUESTION[:2] + b"\x80" + QUESTION[3:]], ids=len
)
def test_what_is_no_question_gets_no_answer(packet: bytes) -> None:
    assert responder().begin(packet, Via()) is None


def test_long_answers_are_cut_for_udp_only() -> None:
    target = responder()
    target.zone.put_slice(slice_of("db", *((f"10.244.1.{i}", "", True) for i in range(1, 201))))
    name = f"db.shop.{BASE}"
    for size, limit in ((None, 512), (4096, 1232), (100, 512)):
        asked = query(name) if size is None else query(name, payload=size)
        answer = target.begin(asked.to_wire(), Via())
        assert isinstance(answer, bytes)
        cut = dns.message.from_wire(answer)
        assert len(answer) <= limit
        assert cut.flags & dns.flags.TC
        # As much as fits: some resolvers never come again by TCP.
        assert len(answer) > limit - 40
    whole = ask(target, name, via=TCP)
    assert not whole.flags & dns.flags.TC
    assert len(whole.answer[0]) == 200


def test_further_information_goes_before_answers_are_cut() -> None:
    target = responder()
    target.zone.put_slice(slice_of("db", *((f"10.244.1.{i}", "", True) for i in range(1, 8))))
    answer = ask(target, f"_http._tcp.db.shop.{BASE}", "SRV")
    assert not answer.flags & dns.flags.TC
    assert (len(answer.answer[0]), len(answer.additional) < 7) == (7, True)
    whole = ask(target, f"_http._tcp.db.shop.{BASE}", "SRV", via=TCP)
    assert len(whole.additional) == 7


def test_big_sets_are_compressed() -> None:
    target = responder()
    target.zone.put_slice(
        slice_of("db", *((f"10.244.{i // 250}.{i % 250 + 1}", "", True) for i in range(500)))
    )
    answer = target.begin(query(f"db.shop.{BASE}").to_wire(), TCP)
    assert isinstance(answer, bytes)
    assert len(answer) < 500 * 16 + 100


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=600))
@example(b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\1." * 100 + b"\0\0\1\0\1")
def test_no_bytes_do_harm(packet: bytes) -> None:
    target = responder(upstreams=(("192.0.2.1", 53),))
    for candidate in (
        packet,
        QUESTION[:12] + packet,
        QUESTION[:11] + b"\1" + QUESTION[12:] + packet,
    ):
        answer = target.begin(candidate, Via())
        if isinstance(answer, bytes):
            assert answer[:2] == candidate[:2]
            assert answer[2] & 0x80
            assert len(answer) <= wire.MAX_UDP_SIZE


labels = st.lists(
    st.binary(min_size=1, max_size=20)
    | st.sampled_from([b"web", b"shop", b"svc", b"_tcp", b"db", b"*"]),
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(
    labels,
    st.sampled_from([b"\7cluster\5local\0", b"\7in-addr\4arpa\0", b"\3ip6\4arpa\0", b"\0"]),
    st.sampled_from([1, 5, 12, 28, 33, 255, 65280]),
)
def test_every_name_can_be_asked_for(parts: list[bytes], zone: bytes, type_: int) -> None:
    name = b"".join(bytes([len(part)]) + part for part in parts) + zone
    packet = QUESTION[:12] + name + struct.pack("!2H", type_, 1)
    answer = responder(upstreams=(("192.0.2.1", 53),)).begin(packet, Via())
    if isinstance(answer, bytes):
        parsed = dns.message.from_wire(answer)
        assert parsed.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
    else:
        assert isinstance(answer, Waiting)


def test_a_maze_of_pointers_ends_soon() -> None:
    """Every pointer leads to one before it: thousands of steps for each of thousands of names."""
    chain = b"".join(struct.pack("!H", 0xC000 | 12 + 2 * max(i - 1, 0)) for i in range(8000))
    record = struct.pack("!2HIH", 1, 1, 0, 0)
    body = b"\0\0\1\0\1" + chain + (struct.pack("!H", 0xC000 | 8000) + record) * 3000
    packet = struct.pack("!6H", 7, 0x8180, 1, 3000, 0, 0) + body
    started = time.process_time()
    with pytest.raises(wire.Malformed):
        wire.parse_reply(packet)
    assert time.process_time() - started < 2


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 3), st.integers(0, 3))
def test_no_answer_of_a_stranger_does_harm(body: bytes, answers: int, authority: int) -> None:
    packet = struct.pack("!6H", 7, 0x8180, 1, answers, authority, 0) + body
    try:
        reply = wire.parse_reply(packet)
    except wire.Malformed:
        return
    asked = wire.parse_query(QUESTION)
    wire.render(asked, reply, wire.MAX_MESSAGE)


def test_answers_of_others_are_read_and_written_again() -> None:
    text = """id 7
opcode QUERY
rcode NOERROR
flags QR RD RA
;QUESTION
www.example.com. IN A
;ANSWER
www.example.com. 60 IN CNAME web.example.com.
web.example.com. 60 IN A 192.0.2.1
;AUTHORITY
example.com. 60 IN NS ns1.example.com.
example.com. 60 IN SOA ns1.example.com. admin.example.com. 1 2 3 4 5
;ADDITIONAL
ns1.example.com. 60 IN AAAA 2001:db8::1
example.com. 60 IN MX 10 mail.example.com.
_x._tcp.example.com. 60 IN SRV 1 2 3 ns1.example.com.
example.com. 60 IN TXT "a" "b"
"""
    message = dns.message.from_text(text)
    reply = wire.parse_reply(message.to_wire())
    asked = wire.parse_query(dns.message.make_query("www.example.com", "A", id=7).to_wire())
    again = dns.message.from_wire(asked.id + wire.render(asked, reply, wire.MAX_MESSAGE))
    for before, after in zip(message.sections, again.sections, strict=True):
        assert before == after
