"""The channels of exec and attach over WebSocket (no I/O).

Every binary message starts with one byte that names the channel. Since v5 a message on channel 255
whose next byte names a channel says that this channel is at its end (KEP-4006): the only way for a
client to end standard input. Source: `remotecommand` protocol constants of apimachinery.
"""

from __future__ import annotations

from enum import IntEnum

V5 = "v5.channel.k8s.io"
PORT_FORWARD_TUNNEL = "SPDY/3.1+portforward.k8s.io"
"""Sub-protocol of a WebSocket whose messages are the bytes of a SPDY connection (KEP-4006)."""


class Channel(IntEnum):
    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4
    CLOSE = 255


STREAM_TYPES = {
    Channel.STDIN: "stdin",
    Channel.STDOUT: "stdout",
    Channel.STDERR: "stderr",
    Channel.ERROR: "error",
    Channel.RESIZE: "resize",
}
"""What the same stream is called in the `streamType` header of a SPDY stream."""


def parse_message(message: bytes) -> tuple[Channel, bytes]:
    """Channel and payload of a message. Raises ValueError for a channel that does not exist."""
    if not message:
        raise ValueError("an empty message")
    return Channel(message[0]), message[1:]
