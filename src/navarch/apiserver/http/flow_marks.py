"""Which flow schema and priority level a request falls under, as its response headers say.

Requests are not queued; clients and people read the marks to learn how they would be.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from navarch.apiserver.contracts import Lookup, RequestInfo, UserInfo
from navarch.apiserver.flow_objects import LEVELS, SCHEMAS

Object = dict[str, Any]
Marks = tuple[str, str]

MAX_KEPT = 2048
MAX_KEPT_LENGTH = 512


class FlowMarks:
    """The UIDs of the matching FlowSchema and its PriorityLevelConfiguration."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._kept: dict[tuple[Any, ...], Marks] = {}
        self._schemas: list[Object] = []
        for resource in (SCHEMAS, LEVELS):
            lookup.subscribe(resource, self._changed)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        self._kept.clear()
        self._schemas.clear()

    def of(self, user: UserInfo, info: RequestInfo) -> Marks:
        """The marks of a request; empty while the objects are not there yet."""
        where = info.resource if info.is_resource else info.path
        what = (info.verb, info.group, where, info.subresource, info.namespace)
        key = (user.name, user.groups, *what)
        marks = self._kept.get(key)
        if marks is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            marks = self._find(user, info)
            if len(info.path) < MAX_KEPT_LENGTH:
                self._kept[key] = marks
        return marks

    def _find(self, user: UserInfo, info: RequestInfo) -> Marks:
        if not self._schemas:
            self._schemas = sorted(self._lookup.list(SCHEMAS), key=_precedence)
        for schema in self._schemas:
            spec = schema.get("spec") or {}
            if any(_matches(rule, user, info) for rule in spec.get("rules") or ()):
                level = (spec.get("priorityLevelConfiguration") or {}).get("name", "")
                found = self._lookup.get(LEVELS, "", level)
                if found is not None:
                    return schema["metadata"]["uid"], found["metadata"]["uid"]
        return "", ""


def _precedence(schema: Object) -> tuple[int, str]:
    spec = schema.get("spec") or {}
    return spec.get("matchingPrecedence") or 0, schema["metadata"]["name"]


def _matches(rule: Object, user: UserInfo, info: RequestInfo) -> bool:
    if not any(_is_subject(each, user) for each in rule.get("subjects") or ()):
        return False
    if info.is_resource:
        return any(_is_resource(each, info) for each in rule.get("resourceRules") or ())
    return any(
        _has(each.get("verbs"), info.verb) and _is_path(each["nonResourceURLs"], info.path)
        for each in rule.get("nonResourceRules") or ()
    )


def _is_subject(subject: Object, user: UserInfo) -> bool:
    kind = subject.get("kind")
    if kind == "User":
        return (subject.get("user") or {}).get("name") in ("*", user.name)
    if kind == "Group":
        name = (subject.get("group") or {}).get("name")
        return name == "*" or name in user.groups
    account = subject.get("serviceAccount") or {}
    prefix = f"system:serviceaccount:{account.get('namespace')}:"
    name = account.get("name")
    return user.name.startswith(prefix) if name == "*" else user.name == f"{prefix}{name}"


def _is_resource(rule: Object, info: RequestInfo) -> bool:
    resource = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
    if not (
        _has(rule.get("verbs"), info.verb)
        and _has(rule.get("apiGroups"), info.group)
        and _has(rule.get("resources"), resource)
    ):
        return False
    if not info.namespace:
        return bool(rule.get("clusterScope"))
    return _has(rule.get("namespaces"), info.namespace)


def _has(values: Iterable[str] | None, wanted: str) -> bool:
    return any(each in ("*", wanted) for each in values or ())


def _is_path(patterns: Iterable[str], path: str) -> bool:
    return any(
        each in ("*", path) or (each.endswith("/*") and path.startswith(each[:-1]))
        for each in patterns
    )
