"""Reading what other servers answer: whole, but no more of it than is bearable."""

from __future__ import annotations

from aiohttp import StreamReader


async def read_answer(content: StreamReader, limit: int) -> bytes:
    """The body of an answer. One that is larger than `limit` bytes is cut off somewhere after it,
    for the caller to see by its length. A single read would give what the network brought first."""
    body = bytearray()
    while len(body) <= limit and (piece := await content.readany()):
        body += piece
    return bytes(body)
