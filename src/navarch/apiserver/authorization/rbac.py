"""The RBAC authorizer: who holds which rules, kept as an index while roles and bindings change.

Bindings are indexed by subject, so a check touches only the bindings of the caller and its groups.
What they add up to is worked out once per caller and namespace and kept until any role or binding
changes; a repeated check is then a few dictionary look-ups. An aggregated ClusterRole means the
union of the roles its selectors match; it is computed here, so it never lags behind the controller
that writes the union into the object for readers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from navarch.api.errors import not_found
from navarch.api.selectors import LabelSelector, label_selector_from_object
from navarch.apiserver.authorization.rules import GROUP, Rule, parse_rules, quoted
from navarch.apiserver.contracts import Attributes, Decision, Lookup, Object, UserInfo

MEMO_LIMIT = 4096
"""Callers (and actions per caller) remembered; past it the memory is dropped and built anew."""


@dataclass(frozen=True, slots=True)
class RoleRef:
    kind: str
    name: str

    @classmethod
    def from_object(cls, binding: Object) -> RoleRef:
        ref = binding.get("roleRef") or {}
        return cls(ref.get("kind", ""), ref.get("name", ""))


@dataclass(frozen=True, slots=True)
class _Binding:
    """A binding as one of its subjects sees it; `source` is what the decision's reason says."""

    namespace: str
    role: RoleRef
    source: str


@dataclass(slots=True)
class _ClusterRole:
    labels: dict[str, str]
    rules: tuple[Rule, ...]
    selectors: tuple[LabelSelector, ...]


@dataclass(slots=True)
class Permissions:
    """The rules one caller holds in one namespace, with the reason each would be allowed by."""

    rules: list[tuple[Rule, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memo: dict[tuple[str, str, str, str], tuple[str, list[tuple[Rule, str]]]] = field(
        default_factory=dict
    )
    """(verb, group, resource, subresource) -> the reason that allows it whatever the name ("" if
    none), and the rules that allow it for some names."""

    def reason(self, attributes: Attributes) -> str:
        """Why the request is allowed, or "" if it is not."""
        info = attributes.info
        if not info.is_resource:
            for rule, reason in self.rules:
                if rule.urls and rule.allows_path(info.verb, info.path):
                    return reason
            return ""
        key = (info.verb, info.group, info.resource, info.subresource)
        found = self.memo.get(key)
        if found is None:
            if len(self.memo) >= MEMO_LIMIT:
                self.memo.clear()
            found = self.memo[key] = self._look(*key)
        reason, named = found
        if reason or not named:
            return reason
        return next((why for rule, why in named if info.name in rule.names), "")

    def _look(
        self, verb: str, group: str, resource: str, subresource: str
    ) -> tuple[str, list[tuple[Rule, str]]]:
        named = []
        for rule, reason in self.rules:
            if rule.allows_resource(verb, group, resource, subresource):
                if not rule.names:
                    return reason, []
                named.append((rule, reason))
        return "", named


class RbacAuthorizer:
    """Implements `Authorizer`, and answers what rules a user or a role has."""

    def __init__(self, lookup: Lookup) -> None:
        self._roles: dict[tuple[str, str], tuple[Rule, ...]] = {}
        self._cluster_roles: dict[str, _ClusterRole] = {}
        self._aggregated: dict[str, tuple[Rule, ...]] = {}
        self._bindings: dict[tuple[str, str], dict[str, _Binding]] = {}
        """(namespace, subject) -> binding name -> binding; namespace "" for cluster bindings.
        A subject is `u:<user>` or `g:<group>`."""
        self._permissions: dict[tuple[str, tuple[str, ...], str], Permissions] = {}
        lookup.subscribe(f"roles.{GROUP}", self._role_changed)
        lookup.subscribe(f"clusterroles.{GROUP}", self._cluster_role_changed)
        lookup.subscribe(f"rolebindings.{GROUP}", self._binding_changed)
        lookup.subscribe(f"clusterrolebindings.{GROUP}", self._binding_changed)

    def authorize(self, attributes: Attributes) -> tuple[Decision, str]:
        info = attributes.info
        permissions = self.permissions(attributes.user, info.namespace)
        reason = permissions.reason(attributes)
        if reason:
            return Decision.ALLOW, reason
        if permissions.errors:
            return Decision.NO_OPINION, f"RBAC: {_aggregate(permissions.errors)}"
        return Decision.NO_OPINION, ""

    def permissions(self, user: UserInfo, namespace: str) -> Permissions:
        """Everything the bindings of the cluster and of `namespace` grant to `user`."""
        key = (user.name, user.groups, namespace)
        found = self._permissions.get(key)
        if found is None:
            found = self._collect(user, namespace)
            if len(self._permissions) >= MEMO_LIMIT:
                self._permissions.clear()
            self._permissions[key] = found
        return found

    def role_rules(self, role: RoleRef, namespace: str) -> tuple[Rule, ...]:
        """The rules of a role a binding in `namespace` ("": a cluster binding) refers to. Raises
        ApiError 404."""
        rules = self._resolve(role, namespace)
        if rules is None:
            raise not_found("roles" if role.kind == "Role" else "clusterroles", GROUP, role.name)
        return rules

    def _resolve(self, role: RoleRef, namespace: str) -> tuple[Rule, ...] | None:
        if role.kind == "Role":
            return self._roles.get((namespace, role.name))
        if role.kind == "ClusterRole":
            return self._cluster_role_rules(role.name, frozenset())
        return None

    def _cluster_role_rules(self, name: str, above: frozenset[str]) -> tuple[Rule, ...] | None:
        role = self._cluster_roles.get(name)
        if role is None or not role.selectors:
            return role.rules if role else None
        found = self._aggregated.get(name)
        if found is not None:
            return found
        below = above | {name}
        gathered: dict[Rule, None] = {}
        for other_name in sorted(self._cluster_roles):
            other = self._cluster_roles[other_name]
            if other_name not in below and any(s.matches(other.labels) for s in role.selectors):
                gathered.update(dict.fromkeys(self._cluster_role_rules(other_name, below) or ()))
        rules = tuple(gathered)
        if not above:  # inside a cycle of roles the union is not complete yet
            self._aggregated[name] = rules
        return rules

    def _collect(self, user: UserInfo, namespace: str) -> Permissions:
        """A namespace that adds nothing shares what the user has everywhere."""
        bindings = list(self._bindings_of(user, namespace))
        result = Permissions()
        if namespace:
            everywhere = self.permissions(user, "")
            if not bindings:
                return everywhere
            result = Permissions(list(everywhere.rules), list(everywhere.errors))
        for binding in bindings:
            rules = self._resolve(binding.role, binding.namespace)
            if rules is None:
                kind, name = binding.role.kind.lower(), quoted(binding.role.name)
                result.errors.append(f"{kind}.{GROUP} {name} not found")
                continue
            reason = f"RBAC: allowed by {binding.source}"
            result.rules.extend((rule, reason) for rule in rules)
        return result

    def _bindings_of(self, user: UserInfo, namespace: str) -> Iterator[_Binding]:
        seen: set[str] = set()
        for subject in (f"u:{user.name}", *(f"g:{group}" for group in user.groups)):
            for name, binding in self._bindings.get((namespace, subject), {}).items():
                if name not in seen:
                    seen.add(name)
                    yield binding

    def _role_changed(self, old: Object | None, new: Object | None) -> None:
        namespace, name = _identity(new or old)
        if new is None:
            self._roles.pop((namespace, name), None)
        else:
            self._roles[namespace, name] = parse_rules(new.get("rules"))
        self._permissions.clear()

    def _cluster_role_changed(self, old: Object | None, new: Object | None) -> None:
        _, name = _identity(new or old)
        if new is None:
            self._cluster_roles.pop(name, None)
        else:
            selectors = (new.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()
            self._cluster_roles[name] = _ClusterRole(
                new["metadata"].get("labels") or {},
                parse_rules(new.get("rules")),
                tuple(label_selector_from_object(selector) for selector in selectors),
            )
        self._aggregated.clear()
        self._permissions.clear()

    def _binding_changed(self, old: Object | None, new: Object | None) -> None:
        for subject, _ in _subjects(old):
            key = (_identity(old)[0], subject)
            held = self._bindings.get(key, {})
            held.pop(_identity(old)[1], None)
            if not held:
                self._bindings.pop(key, None)
        for subject, described in _subjects(new):
            namespace, name = _identity(new)
            held = self._bindings.setdefault((namespace, subject), {})
            held.setdefault(name, _describe(new or {}, described))
        self._permissions.clear()


def _identity(obj: Object | None) -> tuple[str, str]:
    metadata: dict[str, Any] = (obj or {}).get("metadata") or {}
    return metadata.get("namespace", ""), metadata.get("name", "")


def _subjects(binding: Object | None) -> Iterator[tuple[str, str]]:
    """The subjects of a binding as index keys, each with its description for the reason."""
    if binding is None:
        return
    for subject in binding.get("subjects") or ():
        kind, name = subject.get("kind", ""), subject.get("name", "")
        if kind == "ServiceAccount":
            namespace = subject.get("namespace") or _identity(binding)[0]
            if namespace:
                user = f"u:system:serviceaccount:{namespace}:{name}"
                yield user, f"{kind} {quoted(f'{name}/{namespace}')}"
        elif kind in ("User", "Group"):
            yield f"{kind[0].lower()}:{name}", f"{kind} {quoted(name)}"


def _describe(binding: Object, subject: str) -> _Binding:
    namespace, name = _identity(binding)
    role = RoleRef.from_object(binding)
    kind = "RoleBinding" if namespace else "ClusterRoleBinding"
    title = quoted(f"{name}/{namespace}" if namespace else name)
    return _Binding(
        namespace, role, f"{kind} {title} of {role.kind} {quoted(role.name)} to {subject}"
    )


def _aggregate(errors: list[str]) -> str:
    unique = list(dict.fromkeys(errors))
    return unique[0] if len(unique) == 1 else f"[{', '.join(unique)}]"
