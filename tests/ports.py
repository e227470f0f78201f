"""Ports for servers that must know theirs before they are started."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

HOST = "127.0.0.1"


def free_port() -> int:
    """One that is free for TCP and UDP, below those the kernel gives out: it stays free while its
    server is started, or is away between two lives."""
    chance = random.SystemRandom()  # several processes run tests
    while True:
        port = chance.randrange(20_000, 30_000)
        with ExitStack() as sockets:
            try:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    sockets.enter_context(socket.socket(type=kind)).bind((HOST, port))
            except OSError:
                continue
        return port
