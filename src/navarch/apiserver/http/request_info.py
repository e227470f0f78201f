"""What a request is about, read off its method and path.

The rules are upstream's `RequestInfoFactory`: `/api/<version>/...` and
`/apis/<group>/<version>/...` are resources, everything else is not. The path is split before it is
percent-decoded, so an escaped slash never makes one resource out of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs, unquote

from navarch.apiserver.contracts import RequestInfo

_VERBS = {
    "GET": "get",
    "HEAD": "get",
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
MAX_KEPT_LENGTH = 512
"""Of a path: a client must not fill the memory with long ones."""
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})
_COLLECTION_VERBS = {"get": "list", "delete": "deletecollection"}


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed request line. `rest` is the raw path behind a subresource (`proxy/<rest>`), None
    when there is not even a slash; `is_malformed` marks paths no resource can have."""

    info: RequestInfo
    query: dict[str, list[str]]
    rest: str | None = None
    is_malformed: bool = False
    is_item: bool = False
    """The path itself names the object (a field selector may name one as well)."""


_NO_QUERY: dict[str, list[str]] = {}


def query_flag(values: list[str] | None) -> bool:
    """A boolean query parameter as upstream reads it: present and not "false" or "0"."""
    return bool(values) and values is not None and values[0].lower() not in ("false", "0")


def parse_target(method: str, raw_path: str) -> Target:
    """Split a request line. Raises nothing: what makes no sense is simply not a resource. Programs
    ask the same again and again, so results of ordinary length are kept; nobody may change one."""
    return (_kept_target if len(raw_path) < MAX_KEPT_LENGTH else _parse_target)(method, raw_path)


def _parse_target(method: str, raw_path: str) -> Target:
    path, _, query_string = raw_path.partition("?")
    query = parse_qs(query_string, keep_blank_values=True) if query_string else _NO_QUERY
    parts = path.split("/")
    prefix = parts[1] if len(parts) > 1 else ""
    skip = {"api": 2, "apis": 3}.get(prefix, 0)
    segments = parts[1:]
    while segments and not segments[-1]:
        segments.pop()
    if not skip or len(segments) <= skip:
        info = RequestInfo(False, unquote(path), method.lower())
        return Target(info, query)
    return _resource_target(method, path, segments, query)


_kept_target = lru_cache(4096)(_parse_target)


def _resource_target(
    method: str, path: str, segments: list[str], query: dict[str, list[str]]
) -> Target:
    group = unquote(segments[1]) if segments[0] == "apis" else ""
    version = unquote(segments[2 if segments[0] == "apis" else 1])
    consumed = 3 if segments[0] == "apis" else 2
    verb = _VERBS.get(method, "")
    legacy_watch = segments[consumed] == "watch" and len(segments) > consumed + 1
    if legacy_watch:
        consumed += 1
        verb = "watch"
    namespace = ""
    if segments[consumed] == "namespaces" and len(segments) > consumed + 1:
        namespace = unquote(segments[consumed + 1])
        if len(segments) > consumed + 2 and segments[consumed + 2] not in _NAMESPACE_SUBRESOURCES:
            consumed += 2
    resource, name, subresource = (
        unquote(segments[consumed + index]) if len(segments) > consumed + index else ""
        for index in range(3)
    )
    rest: str | None = None
    if len(segments) > consumed + 2:
        # The raw text after the subresource, its slashes untouched.
        pieces = path.split("/", consumed + 4)
        rest = pieces[consumed + 4] if len(pieces) > consumed + 4 else None
    is_malformed = "" in segments[: consumed + 3] or (
        rest not in (None, "") and subresource != "proxy"
    )
    is_item = bool(name)
    if legacy_watch or (not name and verb in _COLLECTION_VERBS):
        verb = _COLLECTION_VERBS.get(verb, verb)
        if verb == "list" and query_flag(query.get("watch")):
            verb = "watch"
        name = name or _selected_name(query)
    info = RequestInfo(
        True, unquote(path), verb, group, version, resource, subresource, namespace, name
    )
    return Target(info, query, rest, is_malformed, is_item)


def _selected_name(query: dict[str, list[str]]) -> str:
    """The one name that a field selector asks for: authorization treats such a list or watch as one
    of that object."""
    selectors = query.get("fieldSelector")
    if not selectors or "metadata.name" not in selectors[0]:
        return ""
    for requirement in selectors[0].split(","):
        key, separator, value = requirement.partition("=")
        if separator and key == "metadata.name":
            return value.removeprefix("=")
    return ""
