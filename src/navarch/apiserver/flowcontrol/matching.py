"""Which FlowSchema a request falls under.

The schemas are asked in the order of their precedence, then by name; the first with a rule whose
subjects and resources (or paths) match takes the request. A schema whose priority level does not
exist takes none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from navarch.apiserver.contracts import RequestInfo, UserInfo

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Schema:
    """A FlowSchema. `distinguisher` is "", ByUser or ByNamespace."""

    name: str
    uid: str
    precedence: int
    level: str
    distinguisher: str
    rules: tuple[Object, ...]

    def matches(self, user: UserInfo, info: RequestInfo) -> bool:
        return any(_matches(rule, user, info) for rule in self.rules)

    def flow_of(self, user: UserInfo, info: RequestInfo) -> str:
        """What tells the flows of this schema apart."""
        if self.distinguisher == "ByUser":
            return user.name
        return info.namespace if self.distinguisher == "ByNamespace" else ""


def schema_of(obj: Object) -> Schema:
    """Read a FlowSchema."""
    spec = obj.get("spec") or {}
    return Schema(
        name=obj["metadata"]["name"],
        uid=obj["metadata"].get("uid", ""),
        precedence=spec.get("matchingPrecedence") or 1000,
        level=(spec.get("priorityLevelConfiguration") or {}).get("name", ""),
        distinguisher=(spec.get("distinguisherMethod") or {}).get("type", ""),
        rules=tuple(spec.get("rules") or ()),
    )


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
