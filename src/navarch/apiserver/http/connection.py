"""One client connection: aiohttp's protocol, with what an API server needs besides.

The peer's certificate is read once per connection, handlers learn when the client leaves, a client
that sends half a request is not waited for, and broken requests get the status they deserve.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from navarch.apiserver.contracts import PeerCertificate

REQUEST_HEAD_SECONDS = 32.0
IDLE_SECONDS = 180.0
MAX_HEADER_BYTES = 1024 * 1024
LINGER_SECONDS = 0.5

log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connection(RequestHandler):
    """A connection and what is known about its peer."""

    __slots__ = ("_head_timer", "_is_begun", "_refused", "on_lost", "peer")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self.peer: PeerCertificate | None = None
        self.on_lost: set[Callable[[], object]] = set()
        """Called once when the connection is gone."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_begun = False
        """Part of a head has come."""
        self._refused = b""
        """The beginning of what could not be parsed; what follows it is not looked at."""

    @property
    def is_taken_over(self) -> bool:
        """The connection speaks another protocol now: nothing of HTTP may be written to it."""
        return self.transport is not None and self.transport.get_protocol() is not self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if isinstance(tls, ssl.SSLObject):
            self.peer = peer_of(tls)
        self._head_timer = self._loop.call_later(REQUEST_HEAD_SECONDS, self._head_late)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
                self._refused = data[:4096]
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
                self._is_begun = False
        elif self._waits_for_request:
            # Bytes came and no request was complete: its head has this long to arrive.
            self._is_begun = True
            if self._head_timer is None:
                self._head_timer = self._loop.call_later(REQUEST_HEAD_SECONDS, self._head_late)

    @property
    def _waits_for_request(self) -> bool:
        """No request is handled and none has arrived: what comes is the head of the next."""
        return self._waiter is not None and not self._waiter.done() and not self._messages

    def _head_late(self) -> None:
        """A request was begun, or a connection opened, and nothing complete followed."""
        self._head_timer = None
        if self.transport is None or not self._waits_for_request:
            return
        if self._is_begun:
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
                b"Connection: close\r\nContent-Length: 15\r\n\r\n400 Bad Request"
            )
        self.close()
        self.transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)
        callbacks, self.on_lost = self.on_lost, set()
        for callback in callbacks:
            callback()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What cannot be parsed as a request: a bare status, nothing about our insides."""
        if self.is_taken_over or request.writer.output_size > 0:
            raise ConnectionResetError("the response is under way already")
        if isinstance(exc, ConnectionError):
            raise exc  # The client has gone: there is nobody to answer.
        if isinstance(exc, LineTooLong):
            status = 431
        elif status == 500:
            log.error("failure outside of any handler", exc_info=exc)
        elif status == 400:
            status = _status_of(self._refused)
        return Refusal(self.transport, status)


def peer_of(tls: ssl.SSLObject) -> PeerCertificate | None:
    """The certificate of the other side. The chain that it was verified by is public since Python
    3.13, and there before."""
    der = tls.getpeercert(binary_form=True)
    if der is None:
        return None
    if hasattr(tls, "get_verified_chain"):
        chain: list[bytes] = tls.get_verified_chain()
    else:
        found = tls._sslobj.get_verified_chain() or ()  # type: ignore[attr-defined]
        chain = [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in found]
    return PeerCertificate(der, chain[-1] if chain else b"")


class Refusal(web.Response):
    """A bare status to a peer that does not speak HTTP well. The connection is closed a little
    later: to close it while the peer still sends would take the answer away from it."""

    def __init__(self, transport: asyncio.Transport | None, status: int) -> None:
        text = f"{status} {HTTPStatus(status).phrase}"
        super().__init__(status=status, text=text, content_type="text/plain")
        self.force_close()
        self._transport = transport

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        transport = self._transport
        if transport is not None and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
            await asyncio.sleep(LINGER_SECONDS)


_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ \S+ HTTP/(\d)\.\d\r?\n")
_OTHER_CODING = re.compile(rb"\ntransfer-encoding:(?![ \t]*chunked)", re.IGNORECASE)
_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"OPTIONS ", b"TRACE ")


def _status_of(head: bytes) -> int:
    """The status for a head that aiohttp finds bad: 400, unless it is well made and asks for what
    nobody here knows."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        return 400
    if line[1] != b"1":
        return 505
    if not head.startswith((*_METHODS, b"CONNECT ")):
        return 405
    return 501 if _OTHER_CODING.search(head) else 400


class FrontServer(web.Server):
    """aiohttp's low-level server with our connections."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler)
        self.options: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "keepalive_timeout": IDLE_SECONDS,
            "access_log": None,
            "auto_decompress": False,
            "max_line_size": MAX_HEADER_BYTES,
            "max_field_size": MAX_HEADER_BYTES,
            "lingering_time": 2.0,
            "read_bufsize": 256 * 1024,
        }

    def __call__(self) -> Connection:
        return Connection(self, **self.options)
