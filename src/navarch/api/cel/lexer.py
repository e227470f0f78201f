"""The lexer: text to tokens, by one regular expression that mirrors upstream's grammar.

What cannot be a token is reported and skipped, as upstream's generated lexer does, so that one
wrong character does not hide what else is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

ESCAPE = (
    r"\\(?:[abfnrtv\"'\\?`]|[0-3][0-7][0-7]|[xX][0-9a-fA-F]{2}"
    r"|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})"
)
_TOKEN = re.compile(
    rf"""
    (?P<skip>[\t\ \r\n\f]+|//[^\n]*)
  | (?P<string>(?P<prefix>[bB]?(?P<raw>[rR])?)
      (?:(?(raw)(?:'''(?s:.*?)'''|\"\"\"(?s:.*?)\"\"\"|'[^'\n\r]*'|"[^"\n\r]*")
           |(?:'''(?:{ESCAPE}|[^\\])*?'''|\"\"\"(?:{ESCAPE}|[^\\])*?\"\"\"
              |'(?:{ESCAPE}|[^\\'\n\r])*'|"(?:{ESCAPE}|[^\\"\n\r])*"))))
  | (?P<float>[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+
      |\.[0-9]+(?:[eE][+-]?[0-9]+)?)
  | (?P<uint>(?:0x[0-9a-fA-F]+|[0-9]+)[uU])
  | (?P<int>0x[0-9a-fA-F]+|[0-9]+)
  | (?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
  | (?P<op>==|!=|<=|>=|&&|\|\||[<>\[\]{{}}().,\-!?:+*/%])
  | (?P<backtick>`[a-zA-Z0-9_.\-/ ]+`)
    """,
    re.VERBOSE,
)
KEYWORDS = frozenset(("true", "false", "null", "in"))


class Token(NamedTuple):
    """`kind` is the operator or keyword itself, or one of string, float, uint, int, name, end."""

    kind: str
    text: str
    position: int


def tokenize(text: str, report: Callable[[int, str], None]) -> list[Token]:
    """All tokens with an `end` at last. `report(position, message)` gets what is no token."""
    tokens: list[Token] = []
    position, length = 0, len(text)
    match_at = _TOKEN.match
    while position < length:
        match = match_at(text, position)
        if match is None:
            end = _unrecognized(text, position)
            bad = text[position:end].replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
            report(position, f"Syntax error: token recognition error at: '{bad}'")
            position = end
            continue
        kind = match.lastgroup or ""
        if kind != "skip":
            word = match.group()
            if kind == "op" or (kind == "name" and word in KEYWORDS):
                kind = word
            elif kind in ("prefix", "raw"):
                kind = "string"
            tokens.append(Token(kind, word, position))
        position = match.end()
    tokens.append(Token("end", "<EOF>", length))
    return tokens


_STRING_START = re.compile(r"""(?P<prefix>[bB]?(?P<raw>[rR])?)(?P<quote>'''|\"\"\"|'|")""")


def _unrecognized(text: str, position: int) -> int:
    """Where the lexer takes up again: after what looked like the beginning of a token."""
    start = _STRING_START.match(text, position)
    if start is None:  # `=`, `&`, `|` and the like swallow the character that disappoints them
        return min(position + (2 if text[position] in "=&|" else 1), len(text))
    position = start.end()
    quote, raw = start["quote"], start["raw"]
    while position < len(text):
        char = text[position]
        if len(quote) == 1 and char in "\r\n":
            return position + 1
        if char == "\\" and not raw:
            escape = re.compile(ESCAPE).match(text, position)
            if escape is None:
                return _bad_escape_end(text, position)
            position = escape.end()
            continue
        position += 1
    return position


def _bad_escape_end(text: str, position: int) -> int:
    """The end of the longest prefix of an escape, with the character that is wrong."""
    kind = text[position + 1 : position + 2]
    digits = {"x": 2, "X": 2, "u": 4, "U": 8}.get(kind, 2 if kind and kind in "0123" else 0)
    allowed = "01234567" if kind and kind in "0123" else "0123456789abcdefABCDEF"
    end = position + 2
    while digits and end < len(text) and text[end] in allowed:
        digits, end = digits - 1, end + 1
    return min(end + (1 if digits else 0), len(text))


_SIMPLE = dict(zip("abfnrtv\"'\\?`", "\a\b\f\n\r\t\v\"'\\?`", strict=True))


def unquote(token: str) -> str | bytes:
    """The value of a string or bytes literal. Raises ValueError with upstream's message."""
    prefix = token[: min(token.index(q) for q in "'\"" if q in token)]
    is_bytes = prefix[:1] in ("b", "B")
    width = len(prefix) + (3 if token[len(prefix) :][:3] in ("'''", '"""') else 1)
    width -= len(prefix)
    body = token[len(prefix) + width : len(token) - width]
    body = body.replace("\r\n", "\n").replace("\r", "\n")
    if "\\" not in body or prefix[-1:] in ("r", "R"):
        return body.encode() if is_bytes else body
    parts: list[bytes] = []
    index = 0
    for match in re.finditer(r"\\(?:([xX]..|u.{4}|U.{8})|([0-3]..)|(.))", body, re.DOTALL):
        parts.append(body[index : match.start()].encode())
        index = match.end()
        hexadecimal, octal, simple = match.groups()
        if simple:
            parts.append(_SIMPLE[simple].encode())
            continue
        if is_bytes and hexadecimal and hexadecimal[0] in "uU":
            raise ValueError("unable to unescape string")
        code = int(hexadecimal[1:], 16) if hexadecimal else int(octal, 8)
        if is_bytes:
            parts.append(bytes([code]))
        elif code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise ValueError("invalid unicode code point")
        else:
            parts.append(chr(code).encode())
    parts.append(body[index:].encode())
    joined = b"".join(parts)
    return joined if is_bytes else joined.decode()
