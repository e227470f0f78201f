"""Admission policies and their bindings as objects; what they do is tested elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.api.conftest import Api
from tests.api.controllers.conftest import eventually

Object = dict[str, Any]
GROUP = "admissionregistration.k8s.io"
ROOT = f"/apis/{GROUP}/v1"
SELECTED = "labelSelector=example%3De2e"

RULE = {
    "operations": ["CREATE"],
    "apiGroups": ["apps"],
    "apiVersions": ["v1"],
    "resources": ["deployments"],
}
CONSTRAINTS = {"matchConstraints": {"resourceRules": [RULE]}}
VALIDATING = {**CONSTRAINTS, "validations": [{"expression": "object.spec.replicas <= 100"}]}
EXPRESSION = "Object{spec: Object.spec{replicas: 100}}"
MUTATION = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": EXPRESSION}}
MUTATING = {**CONSTRAINTS, "reinvocationPolicy": "Never", "mutations": [MUTATION]}
FAILURE = ({"failurePolicy": "Ignore"}, {"failurePolicy": "Fail"})
"""What is patched first, and what an update writes then."""


def conformance(kind: str) -> pytest.MarkDecorator:
    base = kind.removesuffix("Binding")
    title = f"{base} [Privileged:ClusterAdmin] should support {kind} API operations"
    return pytest.mark.conformance(title)


async def in_discovery(api: Api, plural: str) -> set[str]:
    """The names of the resource and its subresources, found on the way from the top."""
    groups = {each["name"]: each for each in (await api.get("/apis")).ok()["groups"]}
    single = (await api.get(f"/apis/{GROUP}")).ok()
    for group in (groups[GROUP], single):
        assert "v1" in [each["version"] for each in group["versions"]]
    names = [each["name"] for each in (await api.get(ROOT)).ok()["resources"]]
    return {name for name in names if name.partition("/")[0] == plural}


@pytest.mark.parametrize(
    ("kind", "spec", "changes"),
    [
        pytest.param(kind, spec, changes, marks=conformance(kind), id=kind)
        for kind, spec, changes in (
            ("ValidatingAdmissionPolicy", VALIDATING, FAILURE),
            (
                "ValidatingAdmissionPolicyBinding",
                {"policyName": "replicalimit", "validationActions": ["Deny"]},
                ({"validationActions": ["Warn"]}, {"validationActions": ["Deny", "Audit"]}),
            ),
            ("MutatingAdmissionPolicy", MUTATING, FAILURE),
            (
                "MutatingAdmissionPolicyBinding",
                {"policyName": "replicalimit"},
                ({"policyName": "first"}, {"policyName": "second"}),
            ),
        )
    ],
)
async def test_operations(
    api: Api, kind: str, spec: Object, changes: tuple[Object, Object]
) -> None:
    plural = kind.lower().removesuffix("policy") + ("policies" if kind.endswith("cy") else "s")
    has_status = kind == "ValidatingAdmissionPolicy"
    found = await in_discovery(api, plural)
    assert found == {plural, f"{plural}/status"} if has_status else found == {plural}
    path = f"{ROOT}/{plural}"
    metadata = {"generateName": "e2e-example-", "labels": {"example": "e2e"}}
    body = {"metadata": metadata, "spec": spec}
    *_, made = [(await api.post(path, body)).ok(201) for _ in range(3)]
    one = f"{path}/{made['metadata']['name']}"
    read = (await api.get(one)).ok()
    assert read["metadata"]["uid"] == made["metadata"]["uid"]
    listed = (await api.get(f"{path}?{SELECTED}")).ok()
    assert len(listed["items"]) == 3
    revision = listed["metadata"]["resourceVersion"]
    async with api.watch(f"{path}?watch=1&{SELECTED}&resourceVersion={revision}") as events:
        patch = {"metadata": {"annotations": {"patched": "true"}}, "spec": changes[0]}
        patched = (await api.patch(one, patch)).ok()
        assert patched["metadata"]["annotations"] == {"patched": "true"}
        assert changes[0].items() <= patched["spec"].items()
        before, after = (each["metadata"]["resourceVersion"] for each in (read, patched))
        assert int(before) < int(after)
        await updated(api, one, changes[1])
        async with asyncio.timeout(10):
            async for event in events:
                assert event["type"] == "MODIFIED"
                if "patched" in event["object"]["metadata"].get("annotations", {}):
                    break
    if has_status:
        await status_changes(api, one, kind, made["metadata"]["uid"])
    (await api.delete(one)).ok()
    assert (await api.get(one)).status == 404
    assert len((await api.get(f"{path}?{SELECTED}")).ok()["items"]) == 2
    (await api.delete(f"{path}?{SELECTED}")).ok()
    assert (await api.get(f"{path}?{SELECTED}")).ok()["items"] == []


async def updated(api: Api, one: str, change: Object) -> None:
    """An update, again and again while others write."""

    async def update() -> Object | None:
        current = (await api.get(one)).ok()
        current["metadata"]["annotations"]["updated"] = "true"
        current["spec"] |= change
        answer = await api.put(one, current)
        return None if answer.status == 409 else answer.ok()

    after = await eventually(update, "an update")
    assert after["metadata"]["annotations"] == {"patched": "true", "updated": "true"}
    assert change.items() <= after["spec"].items()


async def status_changes(api: Api, one: str, kind: str, uid: str) -> None:
    read = (await api.get(f"{one}/status")).ok()
    assert (read["apiVersion"], read["kind"]) == (f"{GROUP}/v1", kind)
    assert read["metadata"]["uid"] == uid
    condition = {
        "type": "PatchStatusFailed",
        "status": "False",
        "reason": "e2e",
        "message": "Set from a test",
        "lastTransitionTime": "2024-01-01T00:00:00Z",
    }
    patch = {"status": {"conditions": [condition]}}
    assert condition in (await api.patch(f"{one}/status", patch)).ok()["status"]["conditions"]
    other = {**condition, "type": "StatusUpdateFailed"}

    async def update() -> Object | None:
        current = (await api.get(one)).ok()
        current["status"]["conditions"].append(other)
        answer = await api.put(f"{one}/status", current)
        return None if answer.status == 409 else answer.ok()

    after = await eventually(update, "an update of the status")
    assert other in after["status"]["conditions"]
    assert other in (await api.get(one)).ok()["status"]["conditions"]
