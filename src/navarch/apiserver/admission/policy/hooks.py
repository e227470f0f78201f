"""The policies in force: each with its bindings, compiled when it is first needed.

A policy without a binding does nothing and is not here. What changes takes effect with the write
that changes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from navarch.apiserver.admission.matching import CONFIGURATIONS, Criteria
from navarch.apiserver.contracts import AdmissionRequest, Lookup, Object

Compiled = TypeVar("Compiled")

EXEMPT = frozenset(
    [
        *(
            (CONFIGURATIONS, f"{kind}admissionpolic{end}")
            for kind in ("validating", "mutating")
            for end in ("ies", "ybindings")
        ),
        ("authentication.k8s.io", "selfsubjectreviews"),
        ("authentication.k8s.io", "tokenreviews"),
        ("authorization.k8s.io", "localsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authorization.k8s.io", "subjectaccessreviews"),
    ]
)
"""What no policy applies to: itself, and questions that change nothing."""


def is_exempt(request: AdmissionRequest) -> bool:
    return (request.info.group, request.info.resource) in EXEMPT


@dataclass(frozen=True)
class Binding:
    """A binding of a policy."""

    obj: Object

    @property
    def name(self) -> str:
        return str(self.obj["metadata"]["name"])

    @cached_property
    def criteria(self) -> Criteria | None:
        """What it narrows the policy down to, None if to nothing."""
        match = self.obj["spec"].get("matchResources")
        return None if match is None else Criteria.of(match, "resourceRules")

    @property
    def param_ref(self) -> Object | None:
        reference: Object | None = self.obj["spec"].get("paramRef")
        return reference

    @property
    def actions(self) -> tuple[str, ...]:
        return tuple(self.obj["spec"].get("validationActions") or ())


class Hook(Generic[Compiled]):
    """A policy in force."""

    def __init__(
        self, obj: Object, bindings: tuple[Binding, ...], compile: Callable[[Object], Compiled]
    ) -> None:
        self.obj = obj
        self.bindings = bindings
        self._compile = compile

    @property
    def name(self) -> str:
        return str(self.obj["metadata"]["name"])

    @property
    def spec(self) -> Object:
        spec: Object = self.obj["spec"]
        return spec

    @property
    def fails_open(self) -> bool:
        return self.spec.get("failurePolicy") == "Ignore"

    @cached_property
    def criteria(self) -> Criteria:
        return Criteria.of(self.spec.get("matchConstraints") or {}, "resourceRules")

    @cached_property
    def compiled(self) -> Compiled:
        return self._compile(self.obj)


class Policies(Generic[Compiled]):
    """All policies of one kind, kept in step with what is stored."""

    def __init__(self, lookup: Lookup, kind: str, compile: Callable[[Object], Compiled]) -> None:
        self.hooks: tuple[Hook[Compiled], ...] = ()
        self.kind = kind
        self._compile = compile
        self._policies: dict[str, Object] = {}
        self._bindings: dict[str, Binding] = {}
        self._compiled: dict[str, Hook[Compiled]] = {}
        for plural, keep in (("ies", self._keep_policy), ("ybindings", self._keep_binding)):
            lookup.subscribe(f"{kind}admissionpolic{plural}.{CONFIGURATIONS}", keep)

    def _keep_policy(self, old: Object | None, new: Object | None) -> None:
        self._put(self._policies, old, new, lambda obj: obj)

    def _keep_binding(self, old: Object | None, new: Object | None) -> None:
        self._put(self._bindings, old, new, Binding)

    def _put(
        self,
        into: dict[str, Any],
        old: Object | None,
        new: Object | None,
        make: Callable[[Object], Any],
    ) -> None:
        obj = new or old
        assert obj is not None
        name = obj["metadata"]["name"]
        if new is None:
            into.pop(name, None)
        else:
            into[name] = make(new)
        self._rebuild()

    def _rebuild(self) -> None:
        """A policy stays compiled as long as its spec is the same."""
        bindings: dict[str, list[Binding]] = {}
        for _, binding in sorted(self._bindings.items()):
            bindings.setdefault(binding.obj["spec"].get("policyName") or "", []).append(binding)
        hooks: dict[str, Hook[Compiled]] = {}
        for name, obj in sorted(self._policies.items()):
            if name not in bindings:
                continue
            hook = hooks[name] = Hook(obj, tuple(bindings[name]), self._compile)
            before = self._compiled.get(name)
            if before is not None and before.spec == obj["spec"] and "compiled" in vars(before):
                vars(hook)["compiled"] = before.compiled
        self._compiled = hooks
        self.hooks = tuple(hooks.values())
