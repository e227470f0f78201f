"""A compiled MutatingAdmissionPolicy, and what it makes of an object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from navarch.api.cel.admission import EVALUATION_BUDGET
from navarch.api.cel.library.json_patches import (
    JSON_PATCH,
    OBJECT,
    BuiltObject,
    JsonPatchValue,
    type_problems,
)
from navarch.api.cel.schema import to_json
from navarch.api.cel.types import list_of
from navarch.api.cel.values import UInt
from navarch.api.errors import ApiError
from navarch.api.managedfields.applied import applied_problems
from navarch.api.managedfields.fieldtypes import ATOMIC, Fields, FieldType, Items
from navarch.api.managedfields.merge import merge
from navarch.api.patch.common import copy_json
from navarch.api.patch.json import FailedTest, apply_json_patch
from navarch.apiserver.admission.expressions import (
    Budget,
    Expression,
    Failed,
    Inputs,
    OutOfBudget,
    compiled,
)
from navarch.apiserver.admission.policy.validator import CompiledPolicy
from navarch.apiserver.contracts import Object

NOT_TYPED = "error applying patch: failed to convert patch object to typed object: "


class MutationFailed(Exception):
    """A mutation could not be made; the failure policy decides what that means."""


class Mutator(CompiledPolicy):
    """The mutations of a policy, each of which sees what the one before has made."""

    def __init__(self, policy: Object) -> None:
        super().__init__(policy)
        environment = self.environment(has_patch_types=True)
        self.is_reinvoked = self.spec.get("reinvocationPolicy") == "IfNeeded"
        self.mutations: list[Mutation] = []
        for each in self.spec.get("mutations") or ():
            is_patch = each.get("patchType") == "JSONPatch"
            source = each.get("jsonPatch" if is_patch else "applyConfiguration") or {}
            result = list_of(JSON_PATCH) if is_patch else OBJECT
            text = (source.get("expression") or "").strip()
            expression = compiled(environment, text, result)
            self.mutations.append(Mutation(self, expression, is_patch))


@dataclass(frozen=True, slots=True)
class Mutation:
    """One mutation: an expression, and what is done with its value."""

    policy: Mutator
    expression: Expression
    is_patch: bool

    def change(self, inputs: Inputs, kind: FieldType) -> Object:
        """The changed object, the caller's own. Raises MutationFailed."""
        obj = inputs.obj
        assert obj is not None
        try:
            own = self.policy.inputs(inputs)
            value = self.expression.evaluate(own, Budget(EVALUATION_BUDGET))
        except (Failed, OutOfBudget) as error:
            raise MutationFailed(str(error)) from error
        made = _patched(obj, value) if self.is_patch else _applied(obj, value, kind)
        copied: Object = copy_json(made)
        return copied


def _checked(value: Any, root: str = "Object") -> Any:
    """A value as JSON, if the types of what was built fit their places below the root's."""
    problems = type_problems(value, root)
    if problems:
        raise MutationFailed("type mismatch: " + "\n".join(problems))
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, BuiltObject):
        return {name: _plain(item) for name, item in value.fields.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise MutationFailed(f'map key "{key}" is not a string')
        return {key: _plain(item) for key, item in value.items()}
    return int(value) if isinstance(value, UInt) else to_json(value)


# ---- apply configurations


def _applied(obj: Object, value: Any, kind: FieldType) -> Object:
    """Merged as server-side apply does it; nothing is removed and nobody comes to own anything."""
    if not isinstance(value, BuiltObject):
        raise MutationFailed("unsupported return type from ApplyConfiguration expression")
    applied: Object = _checked(value)
    applied |= {name: obj[name] for name in ("apiVersion", "kind") if name in obj}
    problems = [*_untyped(value, ""), *applied_problems(applied, kind)]
    if problems:
        raise MutationFailed(NOT_TYPED + "; ".join(problems))
    atomics = list(_atomics(applied, kind, ""))
    if atomics:
        raise MutationFailed(
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps "
            f"or structs: {', '.join(atomics)}"
        )
    merged: Object = merge(obj, applied, kind)
    return merged


def _untyped(value: Any, path: str) -> Iterator[str]:
    """What no field of an object can be set to."""
    if isinstance(value, BuiltObject):
        value = value.fields
    if value is None or isinstance(value, bytes):
        yield f"{path}: expected a value of JSON, got {'null' if value is None else 'bytes'}"
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _untyped(item, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _untyped(item, f"{path}[{index}]")


def _atomics(value: Any, kind: FieldType, path: str) -> Iterator[str]:
    """The paths of what can only be set as a whole."""
    if isinstance(value, dict | list) and kind is ATOMIC:
        yield path
    elif isinstance(value, dict) and isinstance(kind, Fields):
        for name, item in value.items():
            if kind.is_declared(name):
                yield from _atomics(item, kind.of(name), f"{path}.{name}")
    elif isinstance(value, list) and isinstance(kind, Items):
        for index, item in enumerate(value):
            yield from _atomics(item, kind.item, f"{path}[{index}]")


# ---- JSON patches


def _patched(obj: Object, value: Any) -> Object:
    """A patch whose test fails changes nothing."""
    operations: list[Object] = []
    for each in value:
        if not isinstance(each, JsonPatchValue):
            raise MutationFailed(
                "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch"
            )
        operation: Object = {"op": each.get("op"), "path": each.get("path")}
        if each.get("from"):
            operation["from"] = each.get("from")
        if "value" in each.fields:
            given = each.fields["value"]
            root = given.type.name if isinstance(given, BuiltObject) else "Object"
            operation["value"] = _checked(given, root)
        operations.append(operation)
    try:
        return apply_json_patch(obj, operations)
    except ApiError as error:
        if isinstance(error.__cause__, FailedTest):
            return obj
        raise MutationFailed(f"JSON Patch: {error.__cause__ or error}") from error
