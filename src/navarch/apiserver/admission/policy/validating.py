"""ValidatingAdmissionPolicy: refuses, warns of or notes what its expressions do not hold for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from navarch.api.errors import ApiError
from navarch.apiserver.admission.base import denied
from navarch.apiserver.admission.expressions import Inputs, asking
from navarch.apiserver.admission.matching import Subject
from navarch.apiserver.admission.policy.hooks import Binding, Hook
from navarch.apiserver.admission.policy.plugin import PolicyPlugin
from navarch.apiserver.admission.policy.validator import Denial, Validator
from navarch.apiserver.contracts import AdmissionRequest, Object

FAILURE_ANNOTATION = "validation.policy.admission.k8s.io/validation_failure"
_CODES: Mapping[str, int] = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413}


@dataclass(frozen=True, slots=True)
class _Refusal:
    policy: str
    binding: str
    denial: Denial

    @property
    def message(self) -> str:
        bound = f" with binding '{self.binding}'" if self.binding else ""
        who = f"ValidatingAdmissionPolicy '{self.policy}'{bound}"
        return f"{who} denied request: {self.denial.message}"


async def judge(plugin: PolicyPlugin[Validator], request: AdmissionRequest, asked: Subject) -> None:
    """Ask all policies. Raises the refusal of the first that refuses."""
    authorize = asking(plugin.parts.authorizer, request.user)
    refusals: list[_Refusal] = []
    notes: dict[str, dict[str, None]] = {}
    shown: dict[tuple[str, str, str], tuple[Object | None, Object | None]] = {}
    async for each in plugin.invocations(request, asked):
        hook, binding, seen = each.hook, each.binding, each.seen
        if each.problem:
            if not hook.fails_open:
                name = binding.name if binding is not None else ""
                refusals.append(_Refusal(hook.name, name, Denial(each.problem)))
            continue
        assert binding is not None
        if not each.params:
            continue
        if seen.kind not in shown:
            obj = await plugin.in_version(request.obj, asked, seen)
            shown[seen.kind] = obj, await plugin.in_version(request.old, asked, seen)
        namespace = await plugin.namespace_of(request)
        for param in each.params:
            inputs = Inputs(request, asked, seen, *shown[seen.kind], authorize, namespace, param)
            verdict = hook.compiled.validate(inputs)
            for denial in verdict.denials:
                for action in _act(request, hook, binding, denial, refusals):
                    plugin.observe(hook, binding, denial.message, denial.seconds, action)
            for key, value in verdict.annotations:
                notes.setdefault(f"{hook.name}/{key}", {})[value] = None
    for key, values in notes.items():
        request.annotate(key, ", ".join(values))
    if refusals:
        raise _error(request, refusals[0])


def _act(
    request: AdmissionRequest,
    hook: Hook[Validator],
    binding: Binding,
    denial: Denial,
    refusals: list[_Refusal],
) -> tuple[str, ...]:
    """Do with a failed validation what the binding asks for; returns what that was."""
    if denial.is_ignored:
        return ("allow",)
    if denial.is_final or "Deny" in binding.actions:
        refusals.append(_Refusal(hook.name, binding.name, denial))
    if denial.is_final:
        return ("deny",)
    if "Warn" in binding.actions:
        text = (
            f"Validation failed for ValidatingAdmissionPolicy '{hook.name}' with binding "
            f"'{binding.name}': {denial.message}"
        )
        request.warnings.add(text)
    if "Audit" in binding.actions:
        failure = {
            "message": denial.message,
            "policy": hook.name,
            "binding": binding.name,
            "expressionIndex": denial.index,
            "validationActions": list(binding.actions),
        }
        text = json.dumps([failure], separators=(",", ":"), ensure_ascii=False)
        request.annotate(FAILURE_ANNOTATION, text)
    return tuple(action.lower() for action in binding.actions)


def _error(request: AdmissionRequest, refusal: _Refusal) -> ApiError:
    error = denied(request, refusal.message)
    error.reason = refusal.denial.reason or "Invalid"
    error.status = _CODES.get(error.reason, 422)
    error.details = {**(error.details or {}), "causes": [{"message": refusal.message}]}
    return error
