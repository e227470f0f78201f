"""Which ranges of cluster addresses are needed, which roles add up, which migration starts."""

from __future__ import annotations

import pytest

from navarch.api.types.meta_v1 import Condition, GroupResource, LabelSelector, ObjectMeta
from navarch.api.types.networking_v1 import ServiceCIDR, ServiceCIDRSpec
from navarch.api.types.rbac_v1 import AggregationRule, ClusterRole, PolicyRule
from navarch.api.types.storagemigration_v1beta1 import (
    StorageVersionMigration,
    StorageVersionMigrationSpec,
    StorageVersionMigrationStatus,
)
from navarch.controllers.clusterrole_aggregation import aggregated
from navarch.controllers.servicecidr import is_needed
from navarch.controllers.storage_version_migration import may_start


def cidr(*texts: str) -> ServiceCIDR:
    return ServiceCIDR(spec=ServiceCIDRSpec(cidrs=[*texts]))


@pytest.mark.parametrize(
    ("own", "others", "addresses", "needed"),
    [
        (["10.0.0.0/24"], [], [], False),
        (["10.0.0.0/24"], [], ["10.0.1.1"], False),
        (["10.0.0.0/24"], [], ["10.0.0.1"], True),
        (["10.0.0.0/24"], [["10.0.0.0/16"]], ["10.0.0.1"], False),
        (["10.0.0.0/16"], [["10.0.0.0/24"]], ["10.0.0.1"], False),
        (["10.0.0.0/16"], [["10.0.0.0/24"]], ["10.0.1.1"], True),
        (["10.0.0.0/24", "fd00::/112"], [["10.0.0.0/24"]], ["10.0.0.1", "fd00::1"], True),
        (["10.0.0.0/24"], [["fd00::/112"]], ["fd00::1"], False),
    ],
)
def test_which_ranges_are_needed(
    own: list[str], others: list[list[str]], addresses: list[str], needed: bool
) -> None:
    assert is_needed(cidr(*own), [cidr(*each) for each in others], addresses) is needed


def role(name: str, *verbs: str, **labels: str) -> ClusterRole:
    rules = [PolicyRule(verbs=[verb], resources=["pods"]) for verb in verbs]
    return ClusterRole(metadata=ObjectMeta(name=name, labels=labels), rules=rules)


def test_roles_add_up_in_order_and_once() -> None:
    sum_ = role("a", "old", to="a")
    selectors = [LabelSelector(matchLabels={"to": "a"}), LabelSelector(matchLabels={"and": "a"})]
    sum_.aggregationRule = AggregationRule(clusterRoleSelectors=selectors)
    others = [
        role("z", "watch", "get", to="a"),
        role("b", "get", "list", to="a"),
        role("c", "list", "patch", **{"and": "a"}),
        role("d", "delete"),
    ]
    found = [rule.verbs for rule in aggregated(sum_, [sum_, *others])]
    assert found == [["get"], ["list"], ["watch"], ["patch"]]


def migration(name: str, created: str, *conditions: str) -> StorageVersionMigration:
    resource = GroupResource(group="", resource="secrets")
    status = [Condition(type=each, status="True") for each in conditions]
    return StorageVersionMigration(
        metadata=ObjectMeta(name=name, creationTimestamp=f"2026-01-0{created}T00:00:00Z"),
        spec=StorageVersionMigrationSpec(resource=resource),
        status=StorageVersionMigrationStatus(conditions=status),
    )


def test_migrations_of_a_resource_go_one_by_one() -> None:
    first, second = migration("b", "1"), migration("a", "2")
    assert may_start(first, [first, second])
    assert not may_start(second, [first, second])
    running = migration("b", "1", "Running")
    assert not may_start(second, [running, second])
    over = migration("b", "1", "Running", "Succeeded")
    assert may_start(second, [over, second])
    other = migration("c", "1", "Running")
    other.spec.resource.resource = "pods"
    assert may_start(second, [other, second])
