"""Whoever writes a policy or binding must be allowed to read its parameters.

The API server reads parameters for everybody's requests, and what a policy says when it refuses can
tell of them: so nobody may point at what is closed to them.
"""

from __future__ import annotations

from navarch.api.errors import forbidden_field, invalid_object
from navarch.apiserver.admission.base import AdmissionAccess, Plugin, spec_of
from navarch.apiserver.admission.matching import CONFIGURATIONS
from navarch.apiserver.authorization import Authorization
from navarch.apiserver.authorization.combined import SYSTEM_MASTERS
from navarch.apiserver.contracts import (
    AdmissionRequest,
    Attributes,
    Decision,
    Object,
    RequestInfo,
    UserInfo,
)
from navarch.apiserver.registry.resource import Catalog

_POLICIES = ("validatingadmissionpolicies", "mutatingadmissionpolicies")
_BINDINGS = ("validatingadmissionpolicybindings", "mutatingadmissionpolicybindings")
_EVERYTHING = ("*", "*", "*")


class PolicyParameters(Plugin):
    """Looks at policies and bindings whose parameters are new."""

    name = "PolicyParameters"
    resources = frozenset((CONFIGURATIONS, each) for each in (*_POLICIES, *_BINDINGS))

    def __init__(
        self, access: AdmissionAccess, catalog: Catalog, authorization: Authorization
    ) -> None:
        self._access = access
        self._catalog = catalog
        self._authorization = authorization

    async def validate(self, request: AdmissionRequest) -> None:
        spec, old = spec_of(request.obj), spec_of(request.old)
        if SYSTEM_MASTERS in request.user.groups:
            return
        if request.info.resource in _POLICIES:
            kind = spec.get("paramKind")
            if kind is not None and kind != old.get("paramKind"):
                self._check_policy(request, kind)
            return
        reference = spec.get("paramRef")
        is_same = (reference, spec.get("policyName")) == (
            old.get("paramRef"),
            old.get("policyName"),
        )
        if reference is not None and not is_same:
            await self._check_binding(request, spec.get("policyName") or "", reference)

    def _check_policy(self, request: AdmissionRequest, kind: Object) -> None:
        place = self._place(kind) or (*_group_version(kind), "*")
        if not self._allowed(request.user, "get", place, ("*", "*")):
            raise _refused(
                request,
                "paramKind",
                f'user {_shown(request.user)} must have "get" permission on all objects of the '
                f"referenced paramKind (kind={kind.get('kind')}, "
                f"apiVersion={kind.get('apiVersion')})",
            )

    async def _check_binding(
        self, request: AdmissionRequest, policy_name: str, reference: Object
    ) -> None:
        policies = request.info.resource.removesuffix("ybindings") + "ies"
        policy = await self._access.find(f"{policies}.{CONFIGURATIONS}", "", policy_name)
        kind = spec_of(policy).get("paramKind")
        place = self._place(kind) if kind is not None else None
        wanted = place or ((*_group_version(kind), "*") if kind is not None else _EVERYTHING)
        verb = "get" if reference.get("name") else "list"
        target = reference.get("namespace") or "", reference.get("name") or ""
        if self._allowed(request.user, verb, wanted, target):
            return
        who = f'user {_shown(request.user)} does not have "{verb}" permission'
        everything = "for all groups, versions and resources"
        if policy is None:
            why = f"unable to get policy {policy_name} to determine minimum required permissions"
            why = f"{why} and {who} {everything}"
        elif kind is not None and place is None:
            shown = f"&ParamKind{{APIVersion:{kind.get('apiVersion')},Kind:{kind.get('kind')},}}"
            why = f"unable to resolve paramKind {shown} to determine minimum required permissions"
            why = f"{why} and {who} {everything}"
        else:
            why = f"{who} on the object referenced by paramRef"
        raise _refused(request, "paramRef", why)

    def _place(self, kind: Object) -> tuple[str, str, str] | None:
        """Group, version and resource of a kind, None if it is not served."""
        wanted = str(kind.get("apiVersion") or ""), str(kind.get("kind") or "")
        for each in self._catalog:
            if (each.kind.api_version, each.kind.kind) == wanted:
                return each.kind.group, each.kind.version, each.kind.plural
        return None

    def _allowed(
        self, user: UserInfo, verb: str, place: tuple[str, str, str], target: tuple[str, str]
    ) -> bool:
        info = RequestInfo(True, "", verb, *place, "", *target)
        decision, _ = self._authorization.authorize(Attributes(user, info))
        return decision is Decision.ALLOW


def _group_version(kind: Object) -> tuple[str, str]:
    group, _, version = str(kind.get("apiVersion") or "").rpartition("/")
    return group, version


def _shown(user: UserInfo) -> str:
    """As Go prints the struct."""
    extra = " ".join(f"{key}:[{' '.join(values)}]" for key, values in sorted(user.extra.items()))
    return f"&{{{user.name} {user.uid} [{' '.join(user.groups)}] map[{extra}]}}"


def _refused(request: AdmissionRequest, field: str, why: str) -> Exception:
    name = ((request.obj or {}).get("metadata") or {}).get("name") or ""
    error = forbidden_field(f"spec.{field}", why)
    return invalid_object(request.kind, request.info.group, name, [error])
