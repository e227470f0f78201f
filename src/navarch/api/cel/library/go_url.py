"""URLs as Go's `net/url` takes them apart: what it accepts, what it calls wrong, what it prints.

Python's `urllib` accepts nearly everything and unescapes nothing, so the rules are written out.
Texts are handled as bytes, for escapes may stand for any of them.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, field
from urllib.parse import quote_from_bytes, unquote_to_bytes

from navarch.api.cel.library.addresses import AddressError, parse_address
from navarch.api.errors import go_quoted

_UNRESERVED = b"-_.~"
_LETTERS_AND_DIGITS = (string.ascii_letters + string.digits).encode()
_IN_PATH = "$&+,/:;=@-_.~"
"""What Go leaves as it is when it escapes a path, besides letters and digits."""
_IN_RAW_PATH = b"!$&'()*+,;=:@[]%/"
"""What may stand in a path as it was written."""
_IN_HOST = b"!$&'()*+,;=:[]<>\""
_IN_USER = b"-._:~!$&'()*+,;=%@"
_BAD_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2})")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_SCHEME = re.compile(rb"[a-zA-Z][a-zA-Z0-9+.-]*")


class UrlError(ValueError):
    """The text is no URL; the message is Go's."""


@dataclass(slots=True)
class Url:
    """A URL in its parts. `path` is unescaped, `raw_path` how it was written."""

    scheme: bytes = b""
    opaque: bytes = b""
    user: bytes | None = None
    host: bytes = b""
    path: bytes = b""
    raw_path: bytes = b""
    query: bytes = b""
    has_query: bool = False
    fragment: bytes = b""
    omits_host: bool = field(default=False)

    @property
    def hostname(self) -> bytes:
        host = self._host_and_port()[0]
        return host[1:-1] if host.startswith(b"[") and host.endswith(b"]") else host

    @property
    def port(self) -> bytes:
        return self._host_and_port()[1]

    def _host_and_port(self) -> tuple[bytes, bytes]:
        before, colon, port = self.host.rpartition(b":")
        if colon and (not port or port.isdigit()):
            return before, port
        return self.host, b""

    def escaped_path(self) -> bytes:
        if self.raw_path and _is_valid(self.raw_path, _IN_RAW_PATH):
            return self.raw_path
        return self.path if self.path == b"*" else _escape(self.path)

    def query_values(self) -> dict[str, list[str]]:
        """The parameters; what is malformed is left out."""
        values: dict[str, list[str]] = {}
        for part in self.query.split(b"&"):
            if not part or b";" in part or _BAD_ESCAPE.search(part):
                continue
            name, _, value = part.replace(b"+", b" ").partition(b"=")
            values.setdefault(_text(unquote_to_bytes(name)), []).append(
                _text(unquote_to_bytes(value))
            )
        return values

    def __str__(self) -> str:
        text = self.scheme + b":" if self.scheme else b""
        if self.opaque:
            text += self.opaque
        else:
            text += self._authority()
            path = self.escaped_path()
            if path and not path.startswith(b"/") and self.host:
                text += b"/"
            text += path
        if self.has_query:
            text += b"?" + self.query
        if self.fragment:
            text += b"#" + self.fragment
        return _text(text)

    def _authority(self) -> bytes:
        if not (self.scheme or self.host or self.user is not None):
            return b""
        if self.omits_host and not self.host and self.user is None:
            return b""
        if not (self.host or self.path or self.user is not None):
            return b""
        user = b"" if self.user is None else self.user + b"@"
        return b"//" + user + quote_from_bytes(self.host, safe=_IN_HOST.decode()).encode()


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _escape(path: bytes) -> bytes:
    return quote_from_bytes(path, safe=_IN_PATH).encode()


def _is_valid(text: bytes, allowed: bytes) -> bool:
    return not text.translate(None, _LETTERS_AND_DIGITS + _UNRESERVED + allowed)


def _unescape(text: bytes) -> bytes:
    wrong = _BAD_ESCAPE.search(text)
    if wrong is not None:
        raise UrlError(f"invalid URL escape {go_quoted(_text(text[wrong.start() :][:3]))}")
    return unquote_to_bytes(text)


def _unescape_host(text: bytes) -> bytes:
    """In a host only bytes that are not ASCII may be escaped."""
    for match in re.finditer(rb"%[0-7].", text):
        if match[0] != b"%25":
            raise UrlError(f"invalid URL escape {go_quoted(_text(match[0]))}")
    for each in text:
        if each < 128 and each != 0x25 and not _is_valid(bytes([each]), _IN_HOST):
            raise UrlError(f"invalid character {go_quoted(chr(each))} in host name")
    return _unescape(text)


def _parse_host(host: bytes) -> bytes:
    if host.startswith(b"["):
        before, bracket, port = host.rpartition(b"]")
        if not bracket:
            raise UrlError("missing ']' in host")
        _check_port(port)
        address, percent, zone = before.partition(b"%25")
        try:
            parse_address(_text(_unescape_host(address[1:])))
        except AddressError as error:
            raise UrlError(f"invalid host: {error}") from None
        if percent:
            return _unescape_host(address) + _unescape(percent + zone) + b"]" + port
    elif b":" in host:
        _check_port(b":" + host.rpartition(b":")[2])
    return _unescape_host(host)


def _check_port(text: bytes) -> None:
    if text and not (text.startswith(b":") and (len(text) == 1 or text[1:].isdigit())):
        raise UrlError(f"invalid port {go_quoted(_text(text))} after host")


def _parse(text: bytes, is_request: bool) -> Url:
    if _CONTROL.search(text):
        raise UrlError("net/url: invalid control character in URL")
    if not text and is_request:
        raise UrlError("empty url")
    if text == b"*":
        return Url(path=b"*")
    url = Url()
    scheme = _SCHEME.match(text)
    rest = text
    if text.startswith(b":"):
        raise UrlError("missing protocol scheme")
    if scheme is not None and text[scheme.end() : scheme.end() + 1] == b":":
        url.scheme, rest = scheme[0].lower(), text[scheme.end() + 1 :]
    rest, mark, url.query = rest.partition(b"?")
    url.has_query = bool(mark)
    if not rest.startswith(b"/"):
        if url.scheme:
            url.opaque = rest
            return url
        if is_request:
            raise UrlError("invalid URI for request")
        if b":" in rest.partition(b"/")[0]:
            raise UrlError("first path segment in URL cannot contain colon")
    if (url.scheme or (not is_request and not rest.startswith(b"///"))) and rest.startswith(b"//"):
        authority, slash, path = rest[2:].partition(b"/")
        rest = slash + path
        user, at, host = authority.rpartition(b"@")
        url.host = _parse_host(host)
        if at:
            if not _is_valid(user, _IN_USER):
                raise UrlError("net/url: invalid userinfo")
            _unescape(user)
            url.user = user
    elif url.scheme and rest.startswith(b"/"):
        url.omits_host = True
    url.path = _unescape(rest)
    if _escape(url.path) != rest:
        url.raw_path = rest
    return url


def parse_url(text: str) -> Url:
    """An absolute URI or an absolute path, as in a request (`url.ParseRequestURI`, then
    `url.Parse`, which splits off the fragment). Raises UrlError."""
    check_request_uri(text)
    data = text.encode("utf-8", "replace")
    before, mark, fragment = data.partition(b"#")
    try:
        url = _parse(before, is_request=False)
        if mark:
            _unescape(fragment)
            url.fragment = fragment
    except UrlError as error:
        raise UrlError(f"parse {go_quoted(text)}: {error}") from None
    return url


def check_request_uri(text: str) -> None:
    """Raises UrlError for what is no absolute URI and no absolute path."""
    try:
        _parse(text.encode("utf-8", "replace"), is_request=True)
    except UrlError as error:
        raise UrlError(f"parse {go_quoted(text)}: {error}") from None
