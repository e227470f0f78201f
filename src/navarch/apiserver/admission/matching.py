"""Whom a webhook or policy wants to be asked about: rules, selectors, equivalent resources.

The same words mean the same in webhook configurations (`rules`, `namespaceSelector`, ...) and in
admission policies (`matchConstraints`, `matchResources`). With matchPolicy Equivalent a rule for
`apps/v1 deployments` also catches a request through another version of the kind, and the object is
then shown in the version that the rule names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from navarch.api.errors import not_found
from navarch.api.patch.common import copy_json
from navarch.api.selectors import LabelSelector, label_selector_from_object
from navarch.apiserver.admission.base import AdmissionAccess, labels_of
from navarch.apiserver.contracts import AdmissionRequest, Object
from navarch.apiserver.registry.resource import Catalog, Resource

CONFIGURATIONS = "admissionregistration.k8s.io"


@dataclass(frozen=True, slots=True)
class Subject:
    """A request as rules and reviews name it. `kind` is (group, version, kind) of the object, which
    for a subresource may be another than the resource's own (`Scale`, `Eviction`)."""

    operation: str
    group: str
    version: str
    resource: str
    subresource: str
    kind: tuple[str, str, str]
    namespace: str
    name: str

    @property
    def place(self) -> tuple[str, str, str]:
        return self.group, self.version, self.resource


def subject_of(request: AdmissionRequest) -> Subject:
    """What a request is about. A Namespace is in itself; the name of an object that is named by the
    server is known to nobody while mutating plug-ins run, and the deletion of a collection is about
    no name (its objects are the old ones)."""
    info, obj = request.info, request.obj or request.old or {}
    api_version = str(obj.get("apiVersion") or "")
    if not api_version:
        api_version = f"{info.group}/{info.version}" if info.group else info.version
    group, _, version = api_version.rpartition("/")
    name = info.name if info.verb != "deletecollection" else ""
    if not name and request.operation != "DELETE" and not request.is_name_generated:
        name = (obj.get("metadata") or {}).get("name") or ""
    is_namespace = (info.group, info.resource) == ("", "namespaces")
    return Subject(
        request.operation,
        info.group,
        info.version,
        info.resource,
        info.subresource,
        (group, version, request.kind),
        info.namespace or (name if is_namespace else ""),
        name,
    )


def is_exempt(request: AdmissionRequest) -> bool:
    """Configurations of webhooks and policies are beyond the reach of webhooks: one that refuses
    its own removal could never be removed."""
    return request.info.group == CONFIGURATIONS


@dataclass(frozen=True, slots=True)
class Rule:
    """One of `rules`, `resourceRules` or `excludeResourceRules`."""

    operations: frozenset[str]
    groups: frozenset[str]
    versions: frozenset[str]
    resources: tuple[tuple[str, str], ...]
    """Resource and subresource, each "*" for any."""
    scope: str
    names: frozenset[str]

    @classmethod
    def of(cls, rule: Object) -> Rule:
        parts = (each.partition("/") for each in rule.get("resources") or ())
        return cls(
            frozenset(rule.get("operations") or ()),
            frozenset(rule.get("apiGroups") or ()),
            frozenset(rule.get("apiVersions") or ()),
            tuple((resource, subresource) for resource, _, subresource in parts),
            rule.get("scope") or "*",
            frozenset(rule.get("resourceNames") or ()),
        )

    def matches(self, subject: Subject) -> bool:
        return (
            _is_in(subject.operation, self.operations)
            and _is_in(subject.group, self.groups)
            and _is_in(subject.version, self.versions)
            and any(
                resource in ("*", subject.resource) and subresource in ("*", subject.subresource)
                for resource, subresource in self.resources
            )
            and self._covers_scope(subject)
            and (not self.names or subject.name in self.names)
        )

    def _covers_scope(self, subject: Subject) -> bool:
        if self.scope == "*":
            return True
        is_cluster = not subject.namespace or subject.place == ("", "v1", "namespaces")
        return is_cluster == (self.scope == "Cluster")


def _is_in(value: str, wanted: frozenset[str]) -> bool:
    return value in wanted or "*" in wanted


class Versions:
    """The versions of one kind that are served side by side, and objects moved between them."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._generation = -1
        self._others: dict[tuple[str, str, str], tuple[Resource, ...]] = {}

    def equivalents(self, subject: Subject) -> Iterable[Subject]:
        """The subject in each of the other versions."""
        for other in self._others_of(subject.place):
            kind = other.kind
            if subject.subresource and kind.subresource(subject.subresource) is None:
                continue
            is_own = subject.kind[:2] == (subject.group, subject.version)
            yield replace(
                subject,
                group=kind.group,
                version=kind.version,
                kind=(kind.group, kind.version, subject.kind[2]) if is_own else subject.kind,
            )

    def _others_of(self, place: tuple[str, str, str]) -> tuple[Resource, ...]:
        if self._generation != self._catalog.generation:
            self._generation = self._catalog.generation
            self._others = {}
        found = self._others.get(place)
        if found is None:
            own = self._catalog.find(*place)
            found = self._others[place] = tuple(
                each
                for each in (self._catalog if own is not None else ())
                if own is not None and each.cache is own.cache and each is not own
            )
        return found

    async def convert(self, obj: Object, source: Subject, target: Subject) -> Object:
        """An independent copy of an object of one subject's kind in the version of the other."""
        copied: Object = copy_json(obj)
        if source.kind == target.kind:
            return copied
        own, other = self._catalog.find(*source.place), self._catalog.find(*target.place)
        if own is None or other is None:
            raise not_found(source.resource, source.group, source.name)
        return await own.in_version_of(other, copied)


@dataclass(frozen=True, slots=True)
class Criteria:
    """All that decides whether a webhook or policy has a say in a request, but its conditions."""

    rules: tuple[Rule, ...]
    excluded: tuple[Rule, ...]
    is_equivalent: bool
    namespaces: LabelSelector
    objects: LabelSelector
    is_open: bool
    """Whether everything matches when there are no rules: a policy's, not a webhook's."""

    @classmethod
    def of(cls, source: Object, field: str = "rules") -> Criteria:
        """From a webhook, or from a policy's `matchConstraints` or `matchResources` (with `field`
        resourceRules)."""
        return cls(
            tuple(map(Rule.of, source.get(field) or ())),
            tuple(map(Rule.of, source.get("excludeResourceRules") or ())),
            source.get("matchPolicy", "Equivalent") == "Equivalent",
            label_selector_from_object(source.get("namespaceSelector") or {}),
            label_selector_from_object(source.get("objectSelector") or {}),
            field == "resourceRules",
        )

    async def match(
        self,
        request: AdmissionRequest,
        subject: Subject,
        versions: Versions,
        access: AdmissionAccess,
    ) -> Subject | None:
        """The subject as the matching rule names it, None when none matches. Raises 404 when the
        namespace that has to be looked at is not there."""
        found = self._match_rules(subject, versions)
        if found is None:
            return None
        if not self.objects.empty and not any(
            obj is not None and self.objects.matches(labels_of(obj))
            for obj in (request.obj, request.old)
        ):
            return None
        is_placed = subject.namespace or subject.resource == "namespaces"
        if is_placed and not self.namespaces.empty:
            labels = await self._namespace_labels(request, subject, access)
            return found if self.namespaces.matches(labels) else None
        return found

    def _match_rules(self, subject: Subject, versions: Versions) -> Subject | None:
        if self._catches(self.excluded, subject, versions) is not None:
            return None
        if not self.rules:
            return subject if self.is_open else None
        return self._catches(self.rules, subject, versions)

    def _catches(
        self, rules: tuple[Rule, ...], subject: Subject, versions: Versions
    ) -> Subject | None:
        if any(rule.matches(subject) for rule in rules):
            return subject
        if not self.is_equivalent or not rules:
            return None
        others = list(versions.equivalents(subject))
        return next((each for rule in rules for each in others if rule.matches(each)), None)

    async def _namespace_labels(
        self, request: AdmissionRequest, subject: Subject, access: AdmissionAccess
    ) -> Mapping[str, str]:
        is_namespaces = subject.resource == "namespaces" and not subject.group
        if is_namespaces and not subject.subresource and request.obj is not None:
            return labels_of(request.obj)
        namespace = await access.find("namespaces", "", subject.namespace)
        if namespace is None:
            raise not_found("namespaces", "", subject.namespace)
        return labels_of(namespace)
