"""The admission plug-ins of policies: who is asked, about what, with which parameters.

What an expression needs is imported when the first policy is asked: most servers have none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from navarch.api.errors import ApiError, not_found
from navarch.apiserver.admission.base import AdmissionAccess, Plugin
from navarch.apiserver.admission.matching import Subject, Versions, subject_of
from navarch.apiserver.admission.policy.hooks import Binding, Hook, Policies, is_exempt
from navarch.apiserver.admission.policy.params import ConfigurationProblem, Parameters
from navarch.apiserver.contracts import AdmissionRequest, Authorizer, Object
from navarch.apiserver.registry.context import SYSTEM
from navarch.apiserver.registry.resource import Catalog
from navarch.apiserver.webhooks.metrics import WebhookMetrics

if TYPE_CHECKING:
    from navarch.apiserver.admission.policy.mutator import Mutator
    from navarch.apiserver.admission.policy.validator import Validator

Compiled = TypeVar("Compiled")


@dataclass(frozen=True, slots=True)
class PolicyParts:
    """What both plug-ins work with."""

    access: AdmissionAccess
    catalog: Catalog
    authorizer: Authorizer
    metrics: WebhookMetrics


@dataclass(frozen=True, slots=True)
class Invocation(Generic[Compiled]):
    """A policy that has a say, in one binding, with all the parameters that binding gives it;
    or what keeps it from having one."""

    hook: Hook[Compiled]
    binding: Binding | None
    seen: Subject
    params: tuple[Object | None, ...] = ()
    problem: str = ""


class PolicyPlugin(Plugin, Generic[Compiled]):
    """Walks through the policies in force. Without any a write costs one test."""

    def __init__(self, parts: PolicyParts, policies: Policies[Compiled]) -> None:
        self.parts = parts
        self.policies = policies
        self.versions = Versions(parts.catalog)
        self._parameters = Parameters(parts.catalog)

    def handles(self, request: AdmissionRequest) -> bool:
        return (
            bool(self.policies.hooks)
            and request.operation in self.operations
            and request.user is not SYSTEM
            and not is_exempt(request)
        )

    async def invocations(
        self, request: AdmissionRequest, asked: Subject
    ) -> AsyncIterator[Invocation[Compiled]]:
        """Every policy and binding that matches."""
        for hook in self.policies.hooks:
            try:
                seen = await hook.criteria.match(request, asked, self.versions, self.parts.access)
                if seen is None:
                    continue
                self._parameters.check_kind(hook.spec.get("paramKind"))
            except (ApiError, ConfigurationProblem) as error:
                text = f"failed to configure policy: {error}"
                yield Invocation(hook, None, asked, problem=text)
                continue
            for binding in hook.bindings:
                try:
                    if binding.criteria is not None and (
                        await binding.criteria.match(
                            request, asked, self.versions, self.parts.access
                        )
                        is None
                    ):
                        continue
                    params = await self._parameters.collect(
                        hook.spec.get("paramKind"), binding.param_ref, request.info.namespace
                    )
                except (ApiError, ConfigurationProblem) as error:
                    text = f"failed to configure binding: {error}"
                    yield Invocation(hook, binding, seen, problem=text)
                    continue
                yield Invocation(hook, binding, seen, tuple(params))

    def observe(
        self, hook: Hook[Compiled], binding: Binding, message: str, seconds: float, *action: str
    ) -> None:
        """Count one check, by what was wrong (if anything) and what was done about it."""
        labels = {"policy": hook.name, "policy_binding": binding.name}
        labels["error_type"] = "no_error" if not message else "invalid_error"
        if message.startswith("compilation"):
            labels["error_type"] = "compile_error"
        elif message.startswith("validation failed due to running out of cost budget"):
            labels["error_type"] = "out_of_budget"
        if action:
            labels["enforcement_action"] = action[0]
        self.parts.metrics.checked(self.policies.kind, labels, seconds)

    async def in_version(self, obj: Object | None, asked: Subject, seen: Subject) -> Object | None:
        """An object in the version that the matching rule names."""
        if obj is None or asked.kind == seen.kind:
            return obj
        return await self.versions.convert(obj, asked, seen)

    async def namespace_of(self, request: AdmissionRequest) -> Object | None:
        """The namespace of what is written; none for namespaces themselves. Raises 404."""
        info = request.info
        if not info.namespace or (info.group, info.resource) == ("", "namespaces"):
            return None
        found = await self.parts.access.find("namespaces", "", info.namespace)
        if found is None:
            raise not_found("namespaces", "", info.namespace)
        return found


def _validator(policy: Object) -> Validator:
    from navarch.apiserver.admission.policy.validator import Validator

    return Validator(policy)


def _mutator(policy: Object) -> Mutator:
    from navarch.apiserver.admission.policy.mutator import Mutator

    return Mutator(policy)


class MutatingPolicies(PolicyPlugin["Mutator"]):
    """MutatingAdmissionPolicy, before the webhooks that mutate."""

    name = "MutatingAdmissionPolicy"
    operations = ("CREATE", "UPDATE", "CONNECT")

    def __init__(self, parts: PolicyParts) -> None:
        super().__init__(parts, Policies(parts.access.lookup, "mutating", _mutator))

    async def admit(self, request: AdmissionRequest) -> None:
        from navarch.apiserver.admission.policy.mutating import mutate

        await mutate(self, request, subject_of(request))


class ValidatingPolicies(PolicyPlugin["Validator"]):
    """ValidatingAdmissionPolicy, which sees what is to be stored."""

    name = "ValidatingAdmissionPolicy"
    operations = ("CREATE", "UPDATE", "DELETE", "CONNECT")

    def __init__(self, parts: PolicyParts) -> None:
        super().__init__(parts, Policies(parts.access.lookup, "validating", _validator))

    async def validate(self, request: AdmissionRequest) -> None:
        from navarch.apiserver.admission.policy.validating import judge

        await judge(self, request, subject_of(request))
