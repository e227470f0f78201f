"""Nobody hands out rights beyond the own ones (KEP-less, as old as RBAC): the escalation check.

Whoever writes a role must hold its rules already, or the verb `escalate` on it; whoever writes a
binding must hold the rules of the role it names, or the verb `bind` on that role. An aggregation
rule can gather anything, so it takes full authority. The check is an admission plug-in that only
refuses, and sees the object as it will be stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from navarch.api.errors import forbidden
from navarch.apiserver.authorization import Authorization
from navarch.apiserver.authorization.combined import SYSTEM_MASTERS
from navarch.apiserver.authorization.rbac import RoleRef
from navarch.apiserver.authorization.rules import (
    GROUP,
    Rule,
    missing_rules,
    parse_rules,
    quoted,
    quoted_list,
)
from navarch.apiserver.contracts import (
    AdmissionRequest,
    Attributes,
    Decision,
    Object,
    RequestInfo,
    UserInfo,
)

_ROLES = ("roles", "clusterroles")
_BINDINGS = ("rolebindings", "clusterrolebindings")
_FULL_AUTHORITY = (Rule(("*",), ("*",), ("*",)), Rule(("*",), urls=("*",)))


class RbacEscalation:
    """Implements `AdmissionPlugin` for writes of roles and bindings."""

    name = "RBACEscalation"
    admits = False
    is_static = True
    """What it handles depends on operation and resource alone."""

    def __init__(self, authorization: Authorization) -> None:
        self._authorization = authorization

    def handles(self, request: AdmissionRequest) -> bool:
        return (
            request.info.group == GROUP
            and request.operation in ("CREATE", "UPDATE")
            and request.info.resource in _ROLES + _BINDINGS
        )

    async def admit(self, request: AdmissionRequest) -> None:
        return None

    async def validate(self, request: AdmissionRequest) -> None:
        if SYSTEM_MASTERS in request.user.groups or request.obj is None:
            return
        if request.old is not None and _only_housekeeping(request.obj, request.old):
            return
        if request.info.resource in _ROLES:
            self._check_role(request, request.obj)
        else:
            self._check_binding(request, request.obj)

    def _check_role(self, request: AdmissionRequest, role: Object) -> None:
        info = request.info
        if self._allowed(request.user, replace(info, verb="escalate", version="*", subresource="")):
            return
        self._confirm(request, parse_rules(role.get("rules")))
        if not (_aggregates(role) or _aggregates(request.old)):
            return
        if self._missing(request.user, info.namespace, _FULL_AUTHORITY):
            why = "must have cluster-admin privileges to use the aggregationRule"
            raise forbidden(info.resource, GROUP, role["metadata"]["name"], why)

    def _check_binding(self, request: AdmissionRequest, binding: Object) -> None:
        role, namespace = RoleRef.from_object(binding), request.info.namespace
        resource = {"Role": "roles", "ClusterRole": "clusterroles"}.get(role.kind, "")
        bind = RequestInfo(
            True, "", "bind", GROUP, "*", resource, namespace=namespace, name=role.name
        )
        if resource and self._allowed(request.user, bind):
            return
        self._confirm(request, self._authorization.rbac.role_rules(role, namespace))

    def _allowed(self, user: UserInfo, info: RequestInfo) -> bool:
        return self._authorization.authorize(Attributes(user, info))[0] is Decision.ALLOW

    def _missing(self, user: UserInfo, namespace: str, rules: Iterable[Rule]) -> list[Rule]:
        held = self._authorization.rbac.permissions(user, namespace).rules
        return missing_rules([rule for rule, _ in held], rules)

    def _confirm(self, request: AdmissionRequest, rules: Iterable[Rule]) -> None:
        user, info = request.user, request.info
        missing = self._missing(user, info.namespace, rules)
        if not missing:
            return
        described = "\n".join(sorted(str(rule) for rule in missing))
        why = (
            f"user {quoted(user.name)} (groups={quoted_list(user.groups)}) is attempting to grant "
            f"RBAC permissions not currently held:\n{described}"
        )
        errors = self._authorization.rbac.permissions(user, info.namespace).errors
        if errors:
            why += f"; resolution errors: [{' '.join(errors)}]"
        name = (request.obj or {})["metadata"].get("name", "")
        raise forbidden(info.resource, GROUP, name, why)


def _aggregates(role: Object | None) -> bool:
    rule = (role or {}).get("aggregationRule") or {}
    return bool(rule.get("clusterRoleSelectors"))


def _only_housekeeping(new: Object, old: Object) -> bool:
    """Whether the write changes nothing but what garbage collection needs to change."""
    ignored = ("ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation")

    def rest(obj: Object) -> Object:
        metadata = {k: v for k, v in obj["metadata"].items() if k not in ignored}
        return {**obj, "metadata": metadata}

    return rest(new) == rest(old)
