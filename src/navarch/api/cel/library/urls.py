"""URLs: `url(string)` and what can be asked of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.functions import Library, call, estimate_traversal, method, traversal
from navarch.api.cel.library.go_url import Url, UrlError, check_request_uri, parse_url
from navarch.api.cel.types import BOOL, STRING, list_of, map_of, opaque
from navarch.api.cel.values import OpaqueValue

URL = opaque("kubernetes.URL")


class UrlValue(OpaqueValue):
    """A URL; equal to one that prints the same."""

    cel_type = URL

    def __init__(self, url: Url) -> None:
        self.url = url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UrlValue) and str(self.url) == str(other.url)

    def __hash__(self) -> int:
        return hash(str(self.url))


def to_url(text: str) -> UrlValue:
    try:
        return UrlValue(parse_url(text))
    except UrlError as error:
        raise EvaluationError(f"URL parse error during conversion from string: {error}") from None


def is_url(text: str) -> bool:
    try:
        check_request_uri(text)
    except UrlError:
        return False
    return True


def _part(get: Callable[[Url], bytes]) -> Callable[[Any], str]:
    return lambda value: get(value.url).decode("utf-8", "replace")


_TEXTS: tuple[tuple[str, str, Callable[[Url], bytes]], ...] = (
    ("getScheme", "url_get_scheme", lambda url: url.scheme),
    ("getHost", "url_get_host", lambda url: url.host),
    ("getHostname", "url_get_hostname", lambda url: url.hostname),
    ("getPort", "url_get_port", lambda url: url.port),
    ("getEscapedPath", "url_get_escaped_path", Url.escaped_path),
)

URLS = Library(
    name="kubernetes.urls",
    functions=(
        call(
            "url",
            "string_to_url",
            (STRING,),
            URL,
            to_url,
            traversal(),
            estimate_traversal(result_size=True),
        ),
        call("isURL", "is_url_string", (STRING,), BOOL, is_url),
        *(method(name, id, (URL,), STRING, _part(get)) for name, id, get in _TEXTS),
        method(
            "getQuery",
            "url_get_query",
            (URL,),
            map_of(STRING, list_of(STRING)),
            lambda value: value.url.query_values(),
        ),
    ),
)
