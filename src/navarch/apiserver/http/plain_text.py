"""Plain HTTP on the port where TLS is spoken: told so, in the words of Go's server.

OpenSSL sees from the first bytes that they are no handshake. The answer goes out through the
buffer of the handshake that will never be; the peer reads it and leaves, or the time for a
handshake ends. (Go says no length and closes; here the length tells the peer that this is all.)
"""

from __future__ import annotations

import ssl
from typing import Any

TEXT = b"Client sent an HTTP request to an HTTPS server.\n"
ANSWER = b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (
    len(TEXT),
    TEXT,
)
HANDSHAKE_SECONDS = 15.0


class FrontHandshake(ssl.SSLObject):
    """A server's side of one handshake."""

    outgoing: ssl.MemoryBIO | None = None
    is_over = False

    def do_handshake(self) -> None:
        if self.is_over:
            raise ssl.SSLError("the peer speaks no TLS")
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            if error.reason != "HTTP_REQUEST" or self.outgoing is None:
                raise
            self.outgoing.write(ANSWER)
            self.is_over = True
            raise ssl.SSLWantReadError from error


class FrontContext(ssl.SSLContext):
    """A server's context whose handshakes know plain HTTP when they see it."""

    sslobject_class = FrontHandshake

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any
    ) -> ssl.SSLObject:
        handshake = super().wrap_bio(incoming, outgoing, *args, **options)
        assert isinstance(handshake, FrontHandshake)
        handshake.outgoing = outgoing
        return handshake
