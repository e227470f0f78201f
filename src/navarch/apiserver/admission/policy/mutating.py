"""MutatingAdmissionPolicy: changes objects on their way in, as expressions say.

Every policy sees what those before it have made. When anything was changed, all mutating plug-ins
are asked a second time; a policy that wants it (reinvocationPolicy IfNeeded) then has another turn
if the object changed after its first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter

from navarch.api.errors import ApiError, internal_error, service_unavailable
from navarch.api.managedfields import FieldType, field_type
from navarch.api.patch.common import copy_json, json_equal
from navarch.api.schema.decode import FieldValidation
from navarch.api.schema.facts import schema_for
from navarch.apiserver.admission.base import denied
from navarch.apiserver.admission.expressions import Inputs, asking
from navarch.apiserver.admission.match_conditions import ConditionsFailed
from navarch.apiserver.admission.matching import Subject
from navarch.apiserver.admission.mutation import (
    Rounds,
    completed,
    hidden_metadata,
    restore,
    without,
)
from navarch.apiserver.admission.policy.hooks import Binding
from navarch.apiserver.admission.policy.mutator import NOT_TYPED, MutationFailed, Mutator
from navarch.apiserver.admission.policy.plugin import Invocation, PolicyPlugin
from navarch.apiserver.contracts import AdmissionRequest, Object
from navarch.apiserver.registry.resource import Catalog


@dataclass(frozen=True, slots=True)
class _Problem:
    policy: str
    binding: str
    message: str
    reason: str = ""

    def __str__(self) -> str:
        if self.binding:
            who = f"policy '{self.policy}' with binding '{self.binding}'"
        else:
            who = f'policy "{self.policy}"'
        return f"{who} denied request: {self.message}"


async def mutate(plugin: PolicyPlugin[Mutator], request: AdmissionRequest, asked: Subject) -> None:
    """Let all policies change the object. Raises the refusal of those that failed."""
    rounds = request.notes.setdefault(plugin.name, Rounds())
    if request.is_second_round and rounds.output != request.obj:
        rounds.object_changed()
    authorize = asking(plugin.parts.authorizer, request.user)
    problems: list[_Problem] = []
    # Who has a say is decided by the object as it came.
    invocations = [each async for each in plugin.invocations(request, asked)]
    namespace = await plugin.namespace_of(request) if invocations else None
    for each in invocations:
        if each.problem:
            if not each.hook.fails_open:
                name = each.binding.name if each.binding is not None else ""
                problems.append(_Problem(each.hook.name, name, each.problem))
            continue
        old = await plugin.in_version(request.old, asked, each.seen)
        for param in each.params:
            inputs = Inputs(request, asked, each.seen, None, old, authorize, namespace, param)
            problems += await _Turn(plugin, each, inputs, rounds).take()
    if request.is_rewritten and not request.is_second_round:
        rounds.output = copy_json(request.obj)
    if problems:
        raise _error(request, problems)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One policy with one binding and one parameter."""

    plugin: PolicyPlugin[Mutator]
    invocation: Invocation[Mutator]
    inputs: Inputs
    rounds: Rounds

    async def take(self) -> list[_Problem]:
        request, asked, seen = self.inputs.request, self.inputs.asked, self.inputs.seen
        policy = self.invocation.hook.compiled
        hidden = hidden_metadata(request, asked)
        visible = without(request.obj, hidden)
        before = await self.plugin.in_version(visible, asked, seen)
        inputs = replace(self.inputs, obj=before)
        try:
            if not policy.is_concerned(inputs):
                return []
        except ConditionsFailed as error:
            return self._failed(str(error))
        if request.is_second_round and self._key not in self.rounds.again:
            return []
        problems: list[_Problem] = []
        obj = before
        if before is not None:
            kind = _field_type(self.plugin.parts.catalog, seen)
            for mutation in policy.mutations:
                started = perf_counter()
                problem = ""
                try:
                    made = mutation.change(replace(inputs, obj=obj), kind)
                    obj = _complete(self.plugin.parts.catalog, made, seen, mutation.is_patch)
                except MutationFailed as error:
                    problem = str(error)
                    problems += self._failed(problem)
                seconds = perf_counter() - started
                self.plugin.observe(self.invocation.hook, self._binding, problem, seconds)
        if obj is not None and not json_equal(obj, before):
            self.rounds.object_changed()
            request.is_rewritten = True
            result = await self.plugin.in_version(obj, seen, asked)
            assert result is not None and request.obj is not None
            restore(result, hidden)
            request.obj.clear()
            request.obj.update(result)
        if policy.is_reinvoked:
            self.rounds.called.add(self._key)
        return problems

    @property
    def _binding(self) -> Binding:
        assert self.invocation.binding is not None
        return self.invocation.binding

    @property
    def _key(self) -> str:
        metadata = (self.inputs.params or {}).get("metadata") or {}
        param = f"{metadata.get('namespace') or ''}/{metadata.get('name') or ''}"
        return f"{self.invocation.hook.name}/{self._binding.name}/{param}"

    def _failed(self, message: str) -> list[_Problem]:
        if self.invocation.hook.fails_open:
            return []
        return [_Problem(self.invocation.hook.name, self._binding.name, message, "Invalid")]


def _field_type(catalog: Catalog, seen: Subject) -> FieldType:
    """How the fields of the kind merge. Raises ApiError 503 for a kind nobody knows (yet)."""
    resource = catalog.find(*seen.place)
    if resource is not None and resource.kind.gvk == seen.kind:
        return resource.field_type
    try:
        return field_type(schema_for(*seen.kind))
    except KeyError:
        group, version, kind = seen.kind
        raise service_unavailable(
            f"Resource kind {group}/{version}, Kind={kind} not found. There can be a delay between "
            "when CustomResourceDefinitions are created and when they are available."
        ) from None


def _complete(catalog: Catalog, made: Object, seen: Subject, is_patch: bool) -> Object:
    """A patch may have written anything, so its result is decoded strictly, and the failure policy
    is not asked. Raises MutationFailed, ApiError 500."""
    validation = FieldValidation.STRICT if is_patch else FieldValidation.IGNORE
    try:
        return completed(catalog, made, seen, validation)
    except ApiError as error:
        why = error.message.partition(f"cannot be handled as a {seen.kind[2]}: ")[2]
        if is_patch:
            raise internal_error(why or error.message) from error
        raise MutationFailed(NOT_TYPED + (why or error.message)) from error


def _error(request: AdmissionRequest, problems: list[_Problem]) -> ApiError:
    """403 with the first problem's words and reason, and all of them as causes."""
    error = denied(request, "admission request denied by policy")
    error.message = str(problems[0])
    error.reason = problems[0].reason or error.reason
    causes = [{"message": str(problem)} for problem in problems]
    error.details = {**(error.details or {}), "causes": causes}
    return error
