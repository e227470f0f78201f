"""Both ends of the load, as a program of its own: `python -S peer.py serve|ask`.

It is started inside a pod's network namespace, so that its packets are the pod's and no image needs
tools. All paths carry the same load: HTTP, because one of them leads through a proxy that speaks
nothing else. What is sent goes from the page cache to the socket (sendfile), what is received is
copied once, as in any program. Only the standard library is imported: it starts at once.

`ask` takes one order per line, JSON, and answers with one line each.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PORT, CONNECT_PORT = 8080, 8081
"""Where requests are answered, and where a connection is taken and let go, no more."""
BIG, SMALL = 16 << 20, 64
BUFFER = 1 << 20
PATIENCE = 10.0
SIZES = {b"/big": BIG, b"/small": SMALL}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"


def head(size: int) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"
        % (size)
    )


def serve() -> None:
    file = os.memfd_create("body")
    os.ftruncate(file, BIG)
    heads = {path: HEAD % size for path, size in SIZES.items()}
    small = heads[b"/small"] + bytes(SMALL)

    def answer(taken: socket.socket) -> None:
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with taken:
            try:
                while asked := taken.recv(BUFFER):
                    if not asked.startswith(b"GET /big"):
                        taken.sendall(small)
                        continue
                    taken.sendall(heads[b"/big"], socket.MSG_MORE)
                    left = BIG
                    while left:
                        left -= os.sendfile(taken.fileno(), file, BIG - left, left)
            except ConnectionError:
                pass

    listening = socket.create_server(("0.0.0.0", PORT), backlog=1024)
    letting_go = socket.create_server(("0.0.0.0", CONNECT_PORT), backlog=4096)

    def take() -> None:
        while True:
            letting_go.accept()[0].close()

    threading.Thread(target=take, daemon=True).start()
    print("ready", flush=True)
    while True:
        taken, _ = listening.accept()
        threading.Thread(target=answer, args=(taken,), daemon=True).start()


class Asker:
    """One kept connection, and what is measured over it."""

    def __init__(self, address: str, port: int, host: str = "") -> None:
        self._host = (host or address).encode()
        self._socket = socket.create_connection((address, port), PATIENCE)
        self._socket.settimeout(None)
        patience = int(PATIENCE).to_bytes(8, "little") + bytes(8)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(BUFFER))

    def get(self, path: bytes) -> None:
        self._socket.sendall(b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, self._host))
        got = 0
        end = -1
        while end < 0:
            got += self._receive(self._buffer[got:])
            end = bytes(self._buffer[: min(got, 4096)]).find(b"\r\n\r\n")
        if not bytes(self._buffer[:12]).endswith(b" 200"):
            raise RuntimeError(bytes(self._buffer[:got]).decode(errors="replace"))
        left = SIZES[path] - (got - end - 4)
        while left:
            left -= self._receive(self._buffer[: min(left, BUFFER)])

    def _receive(self, into: memoryview) -> int:
        size = self._socket.recv_into(into)
        if not size:
            raise ConnectionError("the other end is gone")
        return size

    def close(self) -> None:
        self._socket.close()


def throughput(address: str, port: int, host: str = "", seconds: float = 0.3) -> float:
    """Bytes a second of one stream."""
    asker = Asker(address, port, host)
    asker.get(b"/big")  # until the window is as large as it gets
    times, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        asker.get(b"/big")
        times += 1
    spent = time.perf_counter() - began
    asker.close()
    return times * BIG / spent


def latency(address: str, port: int, host: str = "", count: int = 300) -> list[float]:
    """The seconds of each of many small requests, one after the other."""
    asker = Asker(address, port, host)
    for _ in range(50):
        asker.get(b"/small")
    times = []
    for _ in range(count):
        began = time.perf_counter()
        asker.get(b"/small")
        times.append(time.perf_counter() - began)
    asker.close()
    return times


def connect(address: str, port: int, count: int = 1000) -> tuple[float, list[float]]:
    """How many connections a second are made and ended, one after the other; and the seconds of
    each, from its first packet to the other end's answer."""
    abort = (1).to_bytes(4, "little") + bytes(4)  # SO_LINGER: no TIME_WAIT that takes up a port
    times = []
    started = time.perf_counter()
    for _ in range(count):
        with socket.socket() as made:
            made.settimeout(PATIENCE)
            began = time.perf_counter()
            made.connect((address, port))
            times.append(time.perf_counter() - began)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
    return count / (time.perf_counter() - started), times


def reach(address: str, port: int, seconds: float = 30.0) -> float:
    """When a connection was had at last, on the clock that all processes share."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection((address, port), 0.02).close()
            return time.monotonic()
        except OSError:
            time.sleep(0.002)
    raise TimeoutError(f"{address}:{port} cannot be reached")


def refused(address: str, port: int, seconds: float = 30.0) -> None:
    """Returns as soon as no connection is to be had any more."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection((address, port), 0.2).close()
            time.sleep(0.01)
        except OSError:
            return
    raise TimeoutError(f"{address}:{port} can still be reached")


ORDERS: dict[str, Callable[..., Any]] = {
    "throughput": throughput,
    "latency": latency,
    "connect": connect,
    "reach": reach,
    "refused": refused,
}


def ask() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"value": ORDERS[order.pop("do")](**order)}
        except (OSError, RuntimeError) as error:
            answer = {"error": f"{order}: {error!r}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[1]]()
