"""A client that sends what it is given, to the byte, and reads one answer after the other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.fuzz.generator import Request

ANSWER_SECONDS = 15.0


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    is_whole: bool = True


class Client:
    """One connection, opened again whenever the server has closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    def close(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None

    async def send(self, request: Request) -> Reply:
        """The answer. Of a watch only the beginning is awaited."""
        async with asyncio.timeout(ANSWER_SECONDS):
            if self.reader is None or self.reader.at_eof():
                self.close()
                self.reader, self.writer = await asyncio.open_connection(
                    "127.0.0.1", self.port, limit=1 << 24
                )
            assert self.writer is not None
            try:
                self.writer.write(request.wire())
                return await self._read(self.reader, request)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.close()
                raise

    async def _read(self, reader: asyncio.StreamReader, request: Request) -> Reply:
        status = 100
        while status == 100:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split(" ", 2)[1])
        headers = {}
        for line in filter(None, head[1:]):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if status == 101 or (request.is_watch and status == 200):
            self.close()
            return Reply(status, headers, b"", is_whole=False)
        body = b""
        if request.method == "HEAD" or status in (204, 304):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        elif "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body = await reader.read()
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Reply(status, headers, body)
