"""SPDY framing: what one side sends, the other side reads, however the bytes are cut."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from navarch.streaming.channels import Channel, parse_message
from navarch.streaming.spdy import (
    DICTIONARY,
    DataReceived,
    GoAwayReceived,
    PingReceived,
    SpdyConnection,
    SpdyError,
    StreamOpened,
    StreamReplied,
    StreamReset,
)

HEADERS = st.dictionaries(
    st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12),
    st.text(st.characters(max_codepoint=255), max_size=20),
    max_size=5,
)


def test_dictionary_is_the_one_of_the_protocol() -> None:
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


@given(headers=st.lists(HEADERS, max_size=4), body=st.binary(max_size=300), cut=st.integers(1, 40))
def test_frames_survive_any_cut(headers: list[dict[str, str]], body: bytes, cut: int) -> None:
    client, server = SpdyConnection(), SpdyConnection()
    wire = b""
    expected: list[object] = []
    for number, header in enumerate(headers):
        stream_id = 2 * number + 1
        wire += client.open_stream(stream_id, header) + client.reply(stream_id, header)
        wire += client.data(stream_id, body, fin=number % 2 == 0)
        expected += [
            StreamOpened(stream_id, header, False),
            StreamReplied(stream_id, header, False),
            DataReceived(stream_id, body, number % 2 == 0),
        ]
    wire += client.reset(1) + client.ping(7)
    wire += b"\x80\x03\0\x07\0\0\0\x08\0\0\0\x03\0\0\0\0"  # GOAWAY
    expected += [StreamReset(1, 5), PingReceived(7), GoAwayReceived(3)]
    seen: list[object] = []
    for start in range(0, len(wire), cut):
        seen += server.receive(wire[start : start + cut])
    assert seen == expected


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"\x80\x02\x00\x01\x00\x00\x00\x00", id="another version"),
        pytest.param(b"\x80\x03\x00\x01\x00\x00\x00\x02ab", id="a short frame"),
        pytest.param(b"\x80\x03\x00\x01\x00\x00\x00\x0c" + b"x" * 12, id="not compressed"),
        pytest.param(b"\x00\x00\x00\x01\x00\xff\xff\xff" + b"x" * 16, id="cut short is no event"),
    ],
)
def test_broken_frames(wire: bytes, request: pytest.FixtureRequest) -> None:
    if "no event" in request.node.name:
        assert list(SpdyConnection().receive(wire)) == []
        return
    with pytest.raises(SpdyError):
        list(SpdyConnection().receive(wire))


def test_header_bombs_are_refused() -> None:
    bomb = zlib.compressobj(zdict=DICTIONARY)
    block = bomb.compress(b"\0" * 50_000_000) + bomb.flush(zlib.Z_SYNC_FLUSH)
    frame = SpdyConnection._control_frame(2, 0, b"\0\0\0\1" + block)  # type: ignore[arg-type]
    with pytest.raises(SpdyError, match="too large"):
        list(SpdyConnection().receive(frame))


def test_channel_messages() -> None:
    assert parse_message(b"\x01out") == (Channel.STDOUT, b"out")
    assert parse_message(bytes((Channel.CLOSE, Channel.STDIN))) == (Channel.CLOSE, b"\x00")
    with pytest.raises(ValueError):
        parse_message(b"")
    with pytest.raises(ValueError):
        parse_message(b"\x09x")


@given(garbage=st.binary(max_size=200), kind=st.integers(0, 12), at=st.integers(0, 60))
def test_whatever_comes_is_an_event_or_an_error(garbage: bytes, kind: int, at: int) -> None:
    """Bytes at random, bare and as the payload of each type of frame, and good frames spoiled."""
    good = bytearray(SpdyConnection().open_stream(1, {"streamtype": "stdin"}))
    good[at % len(good)] ^= 0x55
    head = (1 << 31 | 3 << 16 | kind).to_bytes(4, "big") + len(garbage).to_bytes(4, "big")
    for wire in (garbage, head + garbage, bytes(good)):
        try:
            list(SpdyConnection().receive(wire))
        except SpdyError:
            continue
