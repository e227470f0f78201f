"""An application and its users. `python bench/reliability/traffic.py serve` is the application. `…
ADDRESS [--name NAME --nameserver ADDRESS] [--rate N] [--held N]`, in a pod's network, is traffic to
it: says when it has begun, ends with SIGTERM and then prints, as JSON, what failed. Needs nothing
but Python's own library.

Each request asks the name server first if there is a name, as an application does that keeps no
addresses, opens a connection of its own to the Service and reads a page. Held connections are
opened once and echo a line ten times a second.

The servers have room for all that may come while they get no processor for a moment. Where they
have not (busybox' httpd: for nine), the kernel drops what begins new connections, and on a busy
machine that looks like a fault of the network: held connections go on, nobody is refused, and new
ones of one moment time out.

Both sides watch how late they are themselves. What times out while the asking process, or the
server's, got no processor is counted apart: it says nothing of the network.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import struct
import time
from collections import Counter

SECONDS = 5.0
WEB, ECHO, DNS = 80, 7, 53
PULSE = 0.1
ROOM = 4096
"""Connections that wait to be taken by a server."""
LATE = 1.0
"""Seconds of its own lateness that explain why something timed out."""


class Lag:
    """How late this process is: the time it should have been at work and was not."""

    def __init__(self) -> None:
        self._before, self._due = 0.0, time.monotonic()
        self.worst = 0.0

    async def watch(self) -> None:
        while True:
            self._due = time.monotonic() + PULSE
            await asyncio.sleep(PULSE)
            late = max(0.0, time.monotonic() - self._due)
            self._before += late
            self.worst = max(self.worst, late)

    @property
    def total(self) -> float:
        """Up to now: whoever asks may be woken before `watch` is."""
        return self._before + max(0.0, time.monotonic() - self._due)


lag = Lag()


async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n%f\n" % lag.worst)
        lag.worst = 0.0
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass  # its user has gone
    finally:
        writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve() -> None:
    for port, answer in ((WEB, page), (ECHO, echo)):
        await asyncio.start_server(answer, port=port, backlog=ROOM)
    await lag.watch()


def question(name: str, number: int) -> bytes:
    """A query for addresses (RFC 1035, section 4)."""
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    return (
        struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)
    )


def address_in(reply: bytes) -> str:
    """The address in a reply: a Service has one, at its very end. Raises ValueError."""
    _, flags, _, answers, _, _ = struct.unpack("!6H", reply[:12])
    if flags & 15 or answers != 1:
        raise ValueError(f"the name server answers {flags & 15} with {answers} addresses")
    return socket.inet_ntoa(reply[-4:])


async def resolve(name: str, nameserver: str) -> str:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.connect((nameserver, DNS))
        await loop.sock_sendall(asking, question(name, random.randrange(1 << 16)))
        return address_in(await loop.sock_recv(asking, 512))


class Traffic:
    """What was asked, and what failed, by kind."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.counts: Counter[str] = Counter()
        self.silence: Counter[str] = Counter()
        """Those of the failures that no answer told of."""
        self.notes: list[str] = []
        self.slowest = 0.0
        self.servers_late = 0.0
        """How late a server was at most, as pages tell."""

    async def request(self) -> None:
        options, began, late = self.options, time.monotonic(), lag.total
        try:
            async with asyncio.timeout(SECONDS):
                address = options.address
                if options.name:
                    address = await resolve(options.name, options.nameserver)
                reader, writer = await asyncio.open_connection(address, WEB)
                try:
                    writer.write(b"GET / HTTP/1.0\r\n\r\n")
                    reply = await reader.read()
                finally:
                    writer.close()
                if b" 200 " not in reply.split(b"\r\n")[0]:
                    raise ValueError(f"the server says {reply[:40]!r}")
                self.servers_late = max(self.servers_late, float(reply.split()[-1]))
        except (OSError, ValueError) as error:
            self.note("failed requests", error, lag.total - late)
        self.counts["requests"] += 1
        self.slowest = max(self.slowest, time.monotonic() - began)

    async def hold(self) -> None:
        reader, writer = await asyncio.open_connection(self.options.address, ECHO)
        self.counts["held"] += 1
        try:
            while True:
                late = lag.total
                async with asyncio.timeout(SECONDS):
                    line = b"%d\n" % self.counts["echoes"]
                    writer.write(line)
                    if await reader.readline() != line:
                        raise ConnectionResetError("another echo")
                self.counts["echoes"] += 1
                await asyncio.sleep(PULSE)
        except OSError as error:
            self.note("drops", error, lag.total - late)
        finally:
            writer.close()

    def note(self, what: str, error: Exception, late: float) -> None:
        is_silence = isinstance(error, TimeoutError)
        text = f"{time.strftime('%X')} {what}: {type(error).__name__} {error}"
        if is_silence and late >= LATE:
            self.counts["starved"] += 1
            text += f" (we ourselves were {late:.1f} s late)"
        else:
            self.counts[what] += 1
            self.silence[what] += is_silence
        self.notes.append(text)

    def excuse(self) -> None:
        """Of servers that were late, silence is no fault of the network's."""
        if self.servers_late >= LATE:
            for what, number in self.silence.items():
                self.counts[what] -= number
                self.counts["starved"] += number
            self.silence.clear()

    async def run(self) -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        watching = asyncio.create_task(lag.watch())
        print("begun", flush=True)
        holding = [asyncio.create_task(self.hold()) for _ in range(self.options.held)]
        requests: set[asyncio.Task[None]] = set()
        began, started = time.monotonic(), 0
        while not ended.is_set():
            started += 1
            requests.add(task := asyncio.create_task(self.request()))
            task.add_done_callback(requests.discard)
            wait = began + started / self.options.rate - time.monotonic()
            await asyncio.sleep(max(0.0, wait))
        await asyncio.gather(*requests)
        holding.append(watching)
        for each in holding:
            each.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
        seconds = time.monotonic() - began
        self.excuse()
        told = {
            "counts": self.counts,
            "silence": self.silence,
            "slowest": self.slowest,
            "late": lag.worst,
            "servers late": self.servers_late,
            "seconds": seconds,
        }
        print(json.dumps({**told, "notes": self.notes[:20]}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="where the application is; `serve`: be it")
    parser.add_argument("--name", default="")
    parser.add_argument("--nameserver", default="")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--held", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(serve() if options.address == "serve" else Traffic(options).run())
