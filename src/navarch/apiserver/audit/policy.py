"""The audit policy: which requests leave a record, and how much of them stands in it.

The file is upstream's (`audit.k8s.io/v1`, kind Policy). The first rule that matches a request
counts, and what no rule matches leaves no record. A field that nobody knows is an error: what an
administrator believes to be audited must be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from navarch.api.names import dns1123_subdomain
from navarch.apiserver.configuration_file import Strict, read_configuration
from navarch.apiserver.contracts import Attributes, RequestInfo

LEVELS = ("None", "Metadata", "Request", "RequestResponse")
STAGES = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")


class GroupResources(Strict):
    """Resources of one API group: `pods`, `pods/log`, `pods/*`, `*/scale`, `*`."""

    group: str = ""
    resources: tuple[str, ...] = ()
    resourceNames: tuple[str, ...] = ()

    def match(self, info: RequestInfo) -> bool:
        if self.group not in ("*", info.group):
            return False
        if not self.resources:
            return True
        if self.resourceNames and info.name not in self.resourceNames:
            return False
        own = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
        wanted = {own, "*", f"{info.resource}/*"}
        if info.subresource:
            wanted.add(f"*/{info.subresource}")
        return not wanted.isdisjoint(self.resources)


class Rule(Strict):
    """One rule. An empty list matches everything; lists must all match."""

    level: str = ""
    users: tuple[str, ...] = ()
    userGroups: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    resources: tuple[GroupResources, ...] = ()
    namespaces: tuple[str, ...] = ()
    nonResourceURLs: tuple[str, ...] = ()
    omitStages: tuple[str, ...] = ()
    omitManagedFields: bool | None = None

    def match(self, attributes: Attributes) -> bool:
        user, info = attributes.user, attributes.info
        if self.users and user.name not in self.users:
            return False
        if self.userGroups and set(self.userGroups).isdisjoint(user.groups):
            return False
        if self.verbs and info.verb not in self.verbs:
            return False
        if self.namespaces or self.resources:
            if not info.is_resource or (self.namespaces and info.namespace not in self.namespaces):
                return False
            return not self.resources or any(each.match(info) for each in self.resources)
        if self.nonResourceURLs:
            return not info.is_resource and any(
                _path_matches(pattern, info.path) for pattern in self.nonResourceURLs
            )
        return True


class PolicyFile(Strict):
    apiVersion: str = ""
    kind: str = ""
    metadata: dict[str, Any] = {}
    rules: tuple[Rule, ...] = ()
    omitStages: tuple[str, ...] = ()
    omitManagedFields: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one request is recorded."""

    level: str
    omitted: frozenset[str] = frozenset()
    omits_managed_fields: bool = False

    def includes(self, level: str) -> bool:
        return LEVELS.index(self.level) >= LEVELS.index(level)


NOT_AUDITED = Verdict("None")


class Policy:
    """A policy, ready to judge."""

    def __init__(self, file: PolicyFile) -> None:
        self._rules = [
            (
                rule,
                Verdict(
                    rule.level,
                    frozenset((*file.omitStages, *rule.omitStages)),
                    file.omitManagedFields
                    if rule.omitManagedFields is None
                    else rule.omitManagedFields,
                ),
            )
            for rule in file.rules
        ]

    def judge(self, attributes: Attributes) -> Verdict:
        for rule, verdict in self._rules:
            if rule.match(attributes):
                return verdict
        return NOT_AUDITED


def load_policy(path: Path) -> Policy:
    """Read a policy file. Raises ConfigurationError."""
    return Policy(read_configuration(path, PolicyFile, "an audit policy", policy_problems))


def policy_problems(file: PolicyFile) -> Iterable[str]:
    found = f"{file.apiVersion} {file.kind}"
    if found != "audit.k8s.io/v1 Policy":
        yield f"expected audit.k8s.io/v1 Policy, not {found.strip()!r}"
    if not file.rules:
        yield "it has no rules"
    yield from _stage_problems(file.omitStages, "omitStages")
    for index, rule in enumerate(file.rules):
        where = f"rules[{index}]"
        if rule.level not in LEVELS:
            yield f"{where}.level: {rule.level!r} is none of {', '.join(LEVELS)}"
        yield from _stage_problems(rule.omitStages, f"{where}.omitStages")
        if rule.nonResourceURLs and (rule.resources or rule.namespaces):
            yield f"{where}: rules cannot apply to both regular resources and non-resource URLs"
        for url in rule.nonResourceURLs:
            if url == "*":
                continue
            if not url.startswith("/"):
                yield f"{where}: non-resource URL rules must begin with a '/' character: {url!r}"
            if "*" in url[:-1]:
                yield f"{where}: wildcards '*' must be the final character: {url!r}"
        for each in rule.resources:
            if each.group not in ("", "*") and dns1123_subdomain(each.group):
                yield f"{where}: {each.group!r} is no API group (a version does not belong there)"
            if each.resourceNames and not each.resources:
                yield f"{where}: using resourceNames requires at least one resource"


def _stage_problems(stages: Sequence[str], where: str) -> Iterable[str]:
    for stage in stages:
        if stage not in STAGES:
            yield f"{where}: {stage!r} is none of {', '.join(STAGES)}"


def _path_matches(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (
        pattern.endswith("*") and path.startswith(pattern.rstrip("*"))
    )
