"""A patch of the status shares what it cannot change with the old state, and changes none of it."""

from __future__ import annotations

import copy
from typing import Any

from navarch.api.patch.merge import apply_merge_patch
from navarch.apiserver.registry.status_patch import beside

OLD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}, "managedFields": [{"manager": "m"}]},
    "spec": {"containers": [{"name": "main", "env": [{"name": "A", "value": "1"}]}]},
    "status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]},
}


def test_what_a_status_patch_may_change_is_copied_and_the_rest_is_shared() -> None:
    old = copy.deepcopy(OLD)
    new = beside(old)
    assert new == old
    assert new["spec"] is old["spec"]
    assert new["metadata"]["managedFields"] is old["metadata"]["managedFields"]
    new["metadata"]["labels"]["app"] = "other"
    new["metadata"]["managedFields"] = []
    new["status"]["conditions"][0]["status"] = "True"
    new["status"]["phase"] = "Running"
    assert old == OLD


def test_a_patch_of_the_spec_through_the_status_leaves_the_old_spec_alone() -> None:
    old = copy.deepcopy(OLD)
    patched = apply_merge_patch(beside(old), {"spec": {"nodeName": "n"}, "status": {"phase": "X"}})
    assert patched["spec"]["nodeName"] == "n"
    assert old == OLD


def test_an_object_without_a_status_gets_none() -> None:
    assert "status" not in beside({"metadata": {}, "spec": {}})
