"""SPDY/3.1 framing, as the remote-command protocols of Kubernetes use it (no I/O).

Source: the SPDY protocol draft 3.1. Many logical streams share one connection; a stream opens with
SYN_STREAM, carries DATA frames and ends in each direction with a FIN flag. Headers are compressed
by one zlib stream a direction, so frames must be fed and sent in order. The peers in Kubernetes
(moby/spdystream) do no flow control at this level, so WINDOW_UPDATE and SETTINGS are read over.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

VERSION = 3
MAX_FRAME = 16 * 1024 * 1024
MAX_HEADER_BLOCK = 1 << 20
FLAG_FIN = 0x01

_NAMES = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language "
    "accept-ranges age allow authorization cache-control connection content-base content-encoding "
    "content-language content-length content-location content-md5 content-range content-type date "
    "etag expect expires from host if-match if-modified-since if-none-match if-range "
    "if-unmodified-since last-modified location max-forwards pragma proxy-authenticate "
    "proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url "
    "public set-cookie keep-alive origin"
)
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
    "503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, "
    "Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
    "application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch"
    "charset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = (
    b"".join(
        struct.pack(">I", len(name)) + name.replace("_", " ").encode() for name in _NAMES.split()
    )
    + _TAIL.encode()
)
"""The zlib dictionary of SPDY/3 header blocks (draft, section 2.6.10.1)."""


class FrameType(IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class SpdyError(Exception):
    """The peer broke the protocol; the connection has to be closed."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    stream_id: int
    headers: dict[str, str]
    fin: bool


@dataclass(frozen=True, slots=True)
class StreamReplied:
    stream_id: int
    headers: dict[str, str]
    fin: bool


@dataclass(frozen=True, slots=True)
class DataReceived:
    stream_id: int
    data: bytes
    fin: bool


@dataclass(frozen=True, slots=True)
class StreamReset:
    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class PingReceived:
    ping_id: int


@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    last_stream_id: int


SpdyEvent = (
    StreamOpened | StreamReplied | DataReceived | StreamReset | PingReceived | GoAwayReceived
)


def _deflater() -> zlib._Compress:
    return zlib.compressobj(zdict=DICTIONARY)


def _inflater() -> zlib._Decompress:
    return zlib.decompressobj(zdict=DICTIONARY)


@dataclass(slots=True)
class SpdyConnection:
    """One side of a connection. `receive` turns bytes into events; the other methods return the
    bytes to send. Clients use odd stream ids, servers even ones."""

    _buffer: bytearray = field(default_factory=bytearray)
    _deflate: zlib._Compress = field(default_factory=_deflater)
    _inflate: zlib._Decompress = field(default_factory=_inflater)

    def receive(self, data: bytes) -> Iterator[SpdyEvent]:
        """Events of every whole frame in the bytes received so far. Raises SpdyError."""
        self._buffer += data
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            length = second & 0xFFFFFF
            if length > MAX_FRAME:
                raise SpdyError(f"a frame of {length} bytes")
            if len(self._buffer) < 8 + length:
                return
            payload = bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            flags = second >> 24
            if not first >> 31:
                yield DataReceived(first, payload, bool(flags & FLAG_FIN))
                continue
            if (first >> 16) & 0x7FFF != VERSION:
                raise SpdyError(f"version {(first >> 16) & 0x7FFF}")
            event = self._control(first & 0xFFFF, flags, payload)
            if event is not None:
                yield event

    def _control(self, kind: int, flags: int, payload: bytes) -> SpdyEvent | None:
        try:
            if kind == FrameType.SYN_STREAM:
                (stream_id,) = struct.unpack_from(">I", payload)
                return StreamOpened(
                    stream_id & 0x7FFFFFFF, self._headers(payload[10:]), bool(flags & FLAG_FIN)
                )
            if kind == FrameType.SYN_REPLY:
                (stream_id,) = struct.unpack_from(">I", payload)
                return StreamReplied(
                    stream_id & 0x7FFFFFFF, self._headers(payload[4:]), bool(flags & FLAG_FIN)
                )
            if kind == FrameType.RST_STREAM:
                return StreamReset(*struct.unpack_from(">II", payload))
            if kind == FrameType.PING:
                return PingReceived(struct.unpack_from(">I", payload)[0])
            if kind == FrameType.GOAWAY:
                return GoAwayReceived(struct.unpack_from(">I", payload)[0])
            if kind == FrameType.HEADERS:
                self._headers(payload[4:])  # keeps the shared zlib stream in step
        except struct.error as error:
            raise SpdyError(f"a short frame of type {kind}") from error
        return None

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, MAX_HEADER_BLOCK)
            if self._inflate.unconsumed_tail:
                raise SpdyError("a header block that is too large")
            (count,) = struct.unpack_from(">I", plain)
            texts: list[str] = []
            position = 4
            for _ in range(2 * count):
                (size,) = struct.unpack_from(">I", plain, position)
                texts.append(plain[position + 4 : position + 4 + size].decode("latin-1"))
                position += 4 + size
        except (zlib.error, struct.error) as error:
            raise SpdyError("a header block that cannot be read") from error
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def _header_block(self, headers: Mapping[str, str]) -> bytes:
        plain = [struct.pack(">I", len(headers))]
        for pair in headers.items():
            for text in pair:
                encoded = text.encode("latin-1")
                plain += (struct.pack(">I", len(encoded)), encoded)
        return self._deflate.compress(b"".join(plain)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    @staticmethod
    def _control_frame(kind: FrameType, flags: int, payload: bytes) -> bytes:
        head = struct.pack(">II", 1 << 31 | VERSION << 16 | kind, flags << 24 | len(payload))
        return head + payload

    def open_stream(self, stream_id: int, headers: Mapping[str, str]) -> bytes:
        """SYN_STREAM: a new stream with its headers."""
        payload = struct.pack(">IIBB", stream_id, 0, 0, 0) + self._header_block(headers)
        return self._control_frame(FrameType.SYN_STREAM, 0, payload)

    def reply(self, stream_id: int, headers: Mapping[str, str]) -> bytes:
        """SYN_REPLY: the peer's stream is accepted."""
        payload = struct.pack(">I", stream_id) + self._header_block(headers)
        return self._control_frame(FrameType.SYN_REPLY, 0, payload)

    @staticmethod
    def data(stream_id: int, data: bytes, *, fin: bool = False) -> bytes:
        """DATA on a stream; `fin` ends this direction of it."""
        return struct.pack(">II", stream_id, (FLAG_FIN if fin else 0) << 24 | len(data)) + data

    def reset(self, stream_id: int, status: int = 5) -> bytes:
        """RST_STREAM: end a stream at once (5 is CANCEL)."""
        return self._control_frame(FrameType.RST_STREAM, 0, struct.pack(">II", stream_id, status))

    def ping(self, ping_id: int) -> bytes:
        """PING; the answer to a ping is the same frame."""
        return self._control_frame(FrameType.PING, 0, struct.pack(">I", ping_id))
