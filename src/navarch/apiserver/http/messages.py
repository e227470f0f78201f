"""Watches and logs for clients that ask for a WebSocket: what would be the body, as messages.

Browsers cannot read a response piece by piece, but they can receive messages. Everything a handler
writes to the response becomes messages; what the client sends is ignored, until it says goodbye.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from aiohttp import WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from navarch.api.errors import bad_request
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.respond import base_headers

BINARY = "binary.k8s.io"
BASE64 = "base64.binary.k8s.io"
TOKEN = "base64url.bearer.authorization.k8s.io."
CLOSE_SECONDS = 5.0

Cut = Callable[[bytes], Sequence[bytes]]


def wants_messages(call: Call) -> bool:
    """Whether the client asks for a WebSocket."""
    headers = call.request.headers
    asked = {each.strip().lower() for each in headers.get("Connection", "").split(",")}
    return "upgrade" in asked and headers.get("Upgrade", "").lower() == "websocket"


def lines(data: bytes) -> Sequence[bytes]:
    """One message for each line: each is an event."""
    return data.splitlines(keepends=True)


class MessageResponse(web.WebSocketResponse):
    """A response whose writes are messages: of text (events are JSON) or as the client's
    subprotocol says."""

    def __init__(self, call: Call, protocols: Sequence[str], cut: Cut | None = None) -> None:
        offered = call.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        offered = [each.strip() for each in offered if each.strip()]
        offered = [each for each in offered if not each.startswith(TOKEN)]
        if protocols and offered and not set(offered) & set(protocols):
            raise bad_request("requested protocol(s) are not supported")
        super().__init__(timeout=CLOSE_SECONDS, protocols=protocols or offered[:1], compress=False)
        self.headers.update(base_headers(call))
        self._cut = cut
        self._listener: asyncio.Task[None] | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        try:
            writer = await super().prepare(request)
        except web.HTTPBadRequest as error:
            raise bad_request(error.text or "not a WebSocket handshake") from error
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(request))
        return writer

    async def write(self, data: Any) -> None:  # a `Buffer`, a name that Python 3.11 lacks
        if self._cut is not None:
            for piece in self._cut(bytes(data)):
                await self.send_str(piece.decode())
        elif self.ws_protocol == BASE64:
            await self.send_str(base64.b64encode(bytes(data)).decode())
        else:
            await self.send_bytes(bytes(data))

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof()
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener

    async def _listen(self, request: web.BaseRequest) -> None:
        """Until the client says goodbye; then the connection ends, as if it had been cut."""
        while (await self.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
            pass
        if request.transport is not None:
            request.transport.close()
