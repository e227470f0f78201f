"""RBAC policy rules as values: matching, covering, describing (rbac.authorization.k8s.io/v1).

A rule allows verbs either on resources (in API groups, perhaps only of certain names) or on
non-resource URLs. Permissions only add up: nothing in RBAC denies. "Covers" is the question behind
the escalation check: may somebody who holds these rules hand out those?
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from navarch.apiserver.contracts import RequestInfo

GROUP = "rbac.authorization.k8s.io"
ALL = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    """One PolicyRule. Empty `names` means every name; `urls` and `resources` exclude each other."""

    verbs: tuple[str, ...]
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()

    @classmethod
    def from_object(cls, rule: Mapping[str, Any]) -> Rule:
        return cls(
            tuple(rule.get("verbs") or ()),
            tuple(rule.get("apiGroups") or ()),
            tuple(rule.get("resources") or ()),
            tuple(rule.get("resourceNames") or ()),
            tuple(rule.get("nonResourceURLs") or ()),
        )

    def to_object(self) -> dict[str, list[str]]:
        result = {
            "verbs": list(self.verbs),
            "apiGroups": list(self.groups),
            "resources": list(self.resources),
            "resourceNames": list(self.names),
            "nonResourceURLs": list(self.urls),
        }
        return {key: value for key, value in result.items() if value or key == "verbs"}

    def allows_resource(self, verb: str, group: str, resource: str, subresource: str) -> bool:
        """Whether the rule speaks of this action, leaving the object's name aside."""
        return (
            (ALL in self.verbs or verb in self.verbs)
            and (ALL in self.groups or group in self.groups)
            and self._names_resource(resource, subresource)
        )

    def _names_resource(self, resource: str, subresource: str) -> bool:
        if ALL in self.resources:
            return True
        if not subresource:
            return resource in self.resources
        return f"{resource}/{subresource}" in self.resources or f"*/{subresource}" in self.resources

    def allows_path(self, verb: str, path: str) -> bool:
        if ALL not in self.verbs and verb not in self.verbs:
            return False
        return any(_url_covers(url, path) for url in self.urls)

    def allows(self, info: RequestInfo) -> bool:
        if not info.is_resource:
            return self.allows_path(info.verb, info.path)
        named = not self.names or info.name in self.names
        return named and self.allows_resource(
            info.verb, info.group, info.resource, info.subresource
        )

    def __str__(self) -> str:
        """The compact form of escalation messages: {APIGroups:["apps"], Verbs:["get" "list"]}."""
        parts = (
            ("APIGroups", self.groups),
            ("Resources", self.resources),
            ("NonResourceURLs", self.urls),
            ("ResourceNames", self.names),
            ("Verbs", self.verbs),
        )
        return "{" + ", ".join(f"{key}:{quoted_list(value)}" for key, value in parts if value) + "}"


def parse_rules(rules: Iterable[Mapping[str, Any]] | None) -> tuple[Rule, ...]:
    return tuple(Rule.from_object(rule) for rule in rules or ())


def quoted(text: str) -> str:
    """A string as upstream's messages quote it (Go's %q)."""
    return json.dumps(text, ensure_ascii=False)


def quoted_list(items: Iterable[str]) -> str:
    """A list as upstream's messages print it (Go's %q of a slice): ["a" "b"]."""
    return "[" + " ".join(quoted(item) for item in items) + "]"


def missing_rules(owned: Sequence[Rule], wanted: Iterable[Rule]) -> list[Rule]:
    """The atoms of `wanted` that `owned` does not cover, those of one resource joined again.

    A wanted rule is first broken down to one verb, group, resource and name each: such an atom is
    covered by a single owned rule or not at all."""
    joined: dict[tuple[str, str, tuple[str, ...], str], Rule] = {}
    for atom in (atom for rule in wanted for atom in _atoms(rule)):
        if any(_covers(rule, atom) for rule in owned):
            continue
        if atom.urls:
            joined[("", "", atom.verbs, atom.urls[0])] = atom
            continue
        key = (atom.groups[0], atom.resources[0], atom.names, "")
        before = joined.get(key)
        verbs = before.verbs + atom.verbs if before else atom.verbs
        joined[key] = Rule(verbs, atom.groups, atom.resources, atom.names)
    return list(joined.values())


def _atoms(rule: Rule) -> Iterable[Rule]:
    names: Sequence[tuple[str, ...]] = [(name,) for name in rule.names] or [()]
    for group, resource, verb, name in product(rule.groups, rule.resources, rule.verbs, names):
        yield Rule((verb,), (group,), (resource,), name)
    for url, verb in product(rule.urls, rule.verbs):
        yield Rule((verb,), urls=(url,))


def _covers(owner: Rule, atom: Rule) -> bool:
    if ALL not in owner.verbs and atom.verbs[0] not in owner.verbs:
        return False
    if atom.urls:
        return any(_url_covers(url, atom.urls[0]) for url in owner.urls)
    if ALL not in owner.groups and atom.groups[0] not in owner.groups:
        return False
    if owner.names and not (atom.names and atom.names[0] in owner.names):
        return False
    resource = atom.resources[0]
    if ALL in owner.resources or resource in owner.resources:
        return True
    _, slash, subresource = resource.partition("/")
    return bool(slash) and f"*/{subresource}" in owner.resources


def _url_covers(pattern: str, path: str) -> bool:
    return pattern == path or (pattern.endswith("*") and path.startswith(pattern.rstrip("*")))
