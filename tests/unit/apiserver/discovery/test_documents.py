"""The order of versions and groups in discovery."""

from __future__ import annotations

import pytest

from navarch.api.kinds import Kind
from navarch.apiserver.discovery.documents import served_groups, version_order


def test_versions_by_maturity_then_number() -> None:
    versions = ["foo10", "v1alpha2", "v10", "v2", "v1beta1", "foo1", "v3beta2", "v11alpha1", "v1"]
    assert sorted(versions, key=version_order) == [
        "v10",
        "v2",
        "v1",
        "v3beta2",
        "v1beta1",
        "v11alpha1",
        "v1alpha2",
        "foo1",
        "foo10",
    ]


@pytest.mark.parametrize("group", ["apps", "batch", "ex.io"])
def test_the_preferred_version_is_served(group: str) -> None:
    custom = [Kind("ex.io", version, "Foo", "foos", "foo", True) for version in ("v1beta1", "v1")]
    found = next(each for each in served_groups(custom) if each.name == group)
    assert next(iter(found.versions)) == "v1"


def test_custom_groups_come_last() -> None:
    names = [group.name for group in served_groups([Kind("a.io", "v1", "A", "as", "a", True)])]
    assert names[0] == ""
    assert names.index("apps") < names.index("a.io") == len(names) - 1
