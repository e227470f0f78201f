"""The status of ValidatingAdmissionPolicies: warnings of expressions that cannot be right.

A policy's expressions are checked against the types of the kinds it names, once per generation. The
types of built-in kinds are the facts the server decodes them by, those of custom resources are in
their definitions, so no OpenAPI document has to be fetched and kept.
Source: upstream's `pkg/controller/validatingadmissionpolicystatus`, KEP-3488.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from navarch.api.kinds import kind_by_name, kind_by_resource
from navarch.api.schema.facts import schema_for
from navarch.api.types.admissionregistration_v1 import ValidatingAdmissionPolicy
from navarch.client import Controller, ControllerContext

MANAGER = "validatingadmissionpolicy-status"
DEFINITIONS = ("apiextensions.k8s.io", "v1", "customresourcedefinitions")
MAX_KINDS = 10


def resources_to_check(policy: ValidatingAdmissionPolicy) -> Iterator[tuple[str, str, str]]:
    """(group, version, resource) of the rules that name what they mean."""
    match = policy.spec.matchConstraints
    for rule in match.resourceRules if match is not None else ():
        wildcards = [*rule.apiGroups, *rule.apiVersions]
        if any("*" in each for each in wildcards):
            continue
        for group in sorted(rule.apiGroups):
            for version in sorted(rule.apiVersions):
                for resource in sorted(rule.resources):
                    if "*" not in resource and "/" not in resource:
                        yield group, version, resource


class PolicyStatusController(Controller):
    """Watches: ValidatingAdmissionPolicies. Writes their status alone, and never its conditions."""

    name = "validatingadmissionpolicy-status"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.definitions = context.client.dynamic(*DEFINITIONS, namespaced=False)
        self.policies = context.informers.informer(ValidatingAdmissionPolicy)
        self.watch(self.policies)

    async def reconcile(self, key: str) -> None:
        policy = self.policies.cache.get(key)
        if policy is None or policy.metadata.generation <= policy.status.observedGeneration:
            return
        checking: dict[str, Any] = {}
        warnings = await self._warnings(policy)
        if warnings:
            checking["expressionWarnings"] = warnings
        status = {"observedGeneration": policy.metadata.generation, "typeChecking": checking}
        resource = self.client.resource(ValidatingAdmissionPolicy)
        await resource.apply_status(policy, status, MANAGER)

    async def _warnings(self, policy: ValidatingAdmissionPolicy) -> list[dict[str, str]]:
        # Late: CEL is for clusters that have policies.
        from navarch.api.cel.type_checking import Checked, CheckedKind, check_policy

        found: dict[tuple[str, str, str], CheckedKind] = {}
        for group, version, resource in resources_to_check(policy):
            named = await self._kind_of(group, version, resource)
            if named and named not in found and (type_ := await self._type(*named)) is not None:
                found[named] = CheckedKind(*named, type_)
            if len(found) == MAX_KINDS:
                break
        spec, params = policy.spec, None
        if spec.paramKind is not None:
            group, _, version = spec.paramKind.apiVersion.rpartition("/")
            params = await self._type(group, version, spec.paramKind.kind)
        checked = Checked(
            [(each.name, each.expression) for each in spec.variables],
            [(each.expression, each.messageExpression) for each in spec.validations],
            spec.paramKind is not None,
        )
        warnings = check_policy(checked, [found[key] for key in sorted(found)], params)
        return [{"fieldRef": each.field, "warning": each.text} for each in warnings]

    async def _kind_of(
        self, group: str, version: str, resource: str
    ) -> tuple[str, str, str] | None:
        built_in = kind_by_resource(group, version, resource)
        if built_in is not None:
            return group, version, built_in.kind
        definition = await self.definitions.find(f"{resource}.{group}") if group else None
        if definition is None:
            return None
        return group, version, definition["spec"]["names"]["kind"]

    async def _type(self, group: str, version: str, kind: str) -> Any:
        """The CEL type of a kind, None if nobody knows it."""
        from navarch.api.cel.type_checking import type_of_facts, type_of_schema

        if kind_by_name(group, version, kind) is not None:
            return type_of_facts(schema_for(group, version, kind))
        for definition in await self._definitions_of(group, kind):
            for each in definition["spec"]["versions"]:
                schema = (each.get("schema") or {}).get("openAPIV3Schema")
                if each["name"] == version and schema is not None:
                    return type_of_schema(schema, kind)
        return None

    async def _definitions_of(self, group: str, kind: str) -> list[dict[str, Any]]:
        page = await self.definitions.list()
        return [
            each
            for each in page.items
            if each["spec"]["group"] == group and each["spec"]["names"]["kind"] == kind
        ]
