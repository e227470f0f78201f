"""From results to bytes."""

from __future__ import annotations

from navarch.apiserver.http.respond import encode_json


def test_bytes_of_a_header_that_are_no_text() -> None:
    """They come as halves of surrogate pairs, and a client is shown what stands for the unknown."""
    name = b"ann\xff".decode("utf-8", "surrogateescape")
    shown = encode_json({"groups": [name, "ä"], name: 1})
    assert shown.decode() == '{"groups":["ann\ufffd","ä"],"ann\ufffd":1}'
