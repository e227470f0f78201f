"""The aggregation of ClusterRoles: a role with `aggregationRule` is the sum of others.

The rules of every role that one of its selectors matches are put together, each once, in the order
of the selectors and the roles' names, and applied over whatever stands there: `admin`, `edit` and
`view` grow with the labels of the roles that custom resources bring along.
Source: upstream's `pkg/controller/clusterroleaggregation`.
"""

from __future__ import annotations

from collections.abc import Iterable

from navarch.api.objects import to_object
from navarch.api.selectors import label_selector_from_object
from navarch.api.types.rbac_v1 import ClusterRole, PolicyRule
from navarch.client import Controller, ControllerContext, PatchType

MANAGER = "clusterrole-aggregation-controller"


def aggregated(role: ClusterRole, roles: Iterable[ClusterRole]) -> list[PolicyRule]:
    """The rules that the role ought to have."""
    ordered = sorted(roles, key=lambda other: other.metadata.name)
    rules: list[PolicyRule] = []
    for selector in role.aggregationRule.clusterRoleSelectors if role.aggregationRule else ():
        chosen = label_selector_from_object(selector)
        for other in ordered:
            is_itself = other.metadata.name == role.metadata.name
            if is_itself or not chosen.matches(other.metadata.labels):
                continue
            for rule in other.rules:
                # One by one: a role may well say the same thing twice itself.
                if rule not in rules:
                    rules.append(rule)
    return rules


class ClusterRoleAggregationController(Controller):
    """Watches: ClusterRoles, any of which may be part of any that aggregates."""

    name = "clusterrole-aggregation"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.roles = context.informers.informer(ClusterRole)
        self.watch(self.roles, self._aggregating)

    def _aggregating(self, _: ClusterRole) -> list[str]:
        return [role.metadata.name for role in self.roles.cache.list() if role.aggregationRule]

    async def reconcile(self, key: str) -> None:
        role = self.roles.cache.get(key)
        if role is None or role.aggregationRule is None:
            return
        rules = aggregated(role, self.roles.cache.list())
        if rules == role.rules:
            return
        body = {
            "apiVersion": role.apiVersion,
            "kind": role.kind,
            "metadata": {"name": key},
            "rules": [to_object(rule) for rule in rules],
        }
        await self.client.resource(ClusterRole).patch(
            key, "", body, patch_type=PatchType.APPLY, field_manager=MANAGER, force=True
        )
