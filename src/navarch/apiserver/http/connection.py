"""One client connection: aiohttp's protocol, with what an API server needs besides.

The peer's certificate is read once per connection, handlers learn when the client leaves, a client
that sends half a request is not waited for, and broken requests get the status they deserve.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import ERROR, RequestHandler, _ErrInfo

from navarch.apiserver.contracts import PeerCertificate

REQUEST_HEAD_SECONDS = 32.0
IDLE_SECONDS = 90.0
STALL_SECONDS = 30.0
"""So long may a client leave what we send it unread."""
MAX_HEADER_BYTES = 1024 * 1024
MAX_HEADERS = 2048
LINGER_SECONDS = 0.5
SAMPLE = 256

log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connection(RequestHandler):
    """A connection and what is known about its peer."""

    __slots__ = (
        "_head_bytes",
        "_head_lines",
        "_head_timer",
        "_is_begun",
        "_refused",
        "_stalled",
        "front",
        "on_lost",
        "peer",
    )

    def __init__(self, front: FrontServer, **options: Any) -> None:
        super().__init__(front, **options)
        self.front = front
        self.peer: PeerCertificate | None = None
        self.on_lost: set[Callable[[], object]] = set()
        """Called once when the connection is gone."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_begun = False
        """Part of a head has come."""
        self._refused = b""
        """The beginning of what could not be parsed; what follows it is not looked at."""
        self._head_bytes = self._head_lines = 0
        """Of a head that is not complete yet."""
        self._stalled = (0.0, 0)
        """Since when nothing more can be written, and how much waited then."""

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
        self.front.make_room()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
                self._refused = data[:4096]
                self._head_lines += data.count(b"\n")
            else:
                self._head_bytes = self._head_lines = 0
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
                self._is_begun = False
        elif self._waits_for_request:
            # Bytes came and no request was complete: its head has this long to arrive.
            self._is_begun = True
            self._head_bytes += len(data)
            self._head_lines += data.count(b"\n")
            if self._head_bytes > MAX_HEADER_BYTES:
                self._refused = data[:1]
                self._say_and_close(431)
            elif self._head_timer is None:
                self._head_timer = self._loop.call_later(REQUEST_HEAD_SECONDS, self._head_late)

    async def start(self) -> None:
        """One request after the other, each handled in the connection's own task. aiohttp's loop
        makes a task for each and waits for its end: three turns of the event loop more."""
        manager, loop = self._manager, self._loop
        assert manager is not None
        task = self._task_handler or asyncio.current_task()
        assert task is not None
        while not (self._force_close or self._close):
            while not self._messages:
                self._waiter = loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            message, payload = self._messages.popleft()
            self._parser_goes_on()
            manager.requests_count += 1
            handler: Handler = manager.request_handler
            if isinstance(message, _ErrInfo):
                handler, message = self._make_error_handler(message), ERROR
            writer = StreamWriter(self, loop)
            request = manager.request_factory(message, payload, self, writer, task)
            try:
                response, is_cut = await self._handle_request(request, None, handler)
            except ConnectionError:
                break
            except BaseException:
                self.force_close()
                raise
            if is_cut:
                break
            self._keepalive = bool(response.keep_alive)
            if not payload.is_eof():
                await self._linger(payload)
            if not self._keepalive:
                break
            self._next_keepalive_close_time = loop.time() + IDLE_SECONDS
            if self._keepalive_handle is None:
                self._keepalive_handle = loop.call_at(
                    self._next_keepalive_close_time, self._process_keepalive
                )
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    def _parser_goes_on(self) -> None:
        """A request was taken: of those that a client sends ahead, few are parsed."""
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    async def _linger(self, payload: StreamReader) -> None:
        """Take in what is left of a body that nobody read, for a while: a connection that is closed
        while its client sends may lose the answer. It ends if there is more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._lingering_time):
                while not (payload.is_eof() or self._force_close):
                    await payload.readany()
        if not payload.is_eof() and not self._force_close:
            self.close()

    def _say_and_close(self, status: int) -> None:
        """A bare status where no request is being handled."""
        if self.transport is not None:
            text = f"{status} {HTTPStatus(status).phrase}"
            self.transport.write(
                f"HTTP/1.1 {text}\r\nContent-Type: text/plain; charset=utf-8\r\n"
                f"Connection: close\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
            )
            self.close()
            self.transport.close()

    @property
    def is_idle(self) -> bool:
        """Nobody would miss an answer if the connection ended now."""
        return self._waits_for_request and not self.is_taken_over

    # ---- clients that do not read

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None:
            self._stalled = (self._loop.time(), self.transport.get_write_buffer_size())
            self.front.paused.add(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.front.paused.discard(self)

    def check_progress(self, now: float) -> None:
        """Break off a connection whose client has read nothing for too long: its answer, or its
        watch, would be kept for it for ever."""
        transport = self.transport
        if transport is None:
            return
        since, size = self._stalled
        left = transport.get_write_buffer_size()
        if left < size:
            self._stalled = (now, left)
        elif now - since >= STALL_SECONDS:
            transport.abort()

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
            self._say_and_close(400)
        else:
            self.close()
            self.transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self.front.paused.discard(self)
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
            status = 431 if self._head_lines > MAX_HEADERS else _status_of(self._refused)
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

    def __init__(self, handler: Handler, max_connections: int = 0) -> None:
        super().__init__(handler)
        self.max_connections = max_connections
        """0 is as many as come."""
        self.paused: set[Connection] = set()
        """Connections that can take no more for the moment."""
        self.options: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "keepalive_timeout": IDLE_SECONDS,
            "access_log": None,
            "auto_decompress": False,
            "max_line_size": MAX_HEADER_BYTES,
            "max_field_size": MAX_HEADER_BYTES,
            "max_headers": MAX_HEADERS,
            "lingering_time": 2.0,
            "read_bufsize": 256 * 1024,
        }

    def __call__(self) -> Connection:
        return Connection(self, **self.options)

    def make_room(self) -> None:
        """One more has come. When there are too many, one that does nothing makes room: the newest
        must not be kept out by those who only hold a connection."""
        found = cast(list[Connection], self.connections)
        if not self.max_connections or len(found) <= self.max_connections:
            return
        sample = random.sample(found, min(len(found), SAMPLE))
        idle = next((each for each in sample if each.is_idle), None)
        victim = idle or found[-1]
        if victim.transport is not None:
            victim.transport.abort()

    def check_progress(self) -> None:
        """To be called every second or so."""
        now = asyncio.get_running_loop().time()
        for connection in list(self.paused):
            connection.check_progress(now)
