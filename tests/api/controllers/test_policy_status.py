"""Type checking of ValidatingAdmissionPolicies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from navarch.api.types.admissionregistration_v1 import TypeChecking, ValidatingAdmissionPolicy
from navarch.apiserver.server import Server
from navarch.client import Client

from .conftest import client_as, eventually, running

pytestmark = pytest.mark.secured

Object = dict[str, Any]
POLICIES = ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies")
DEFINITIONS = ("apiextensions.k8s.io", "v1", "customresourcedefinitions")


@pytest.fixture
async def client(api_server: Server) -> AsyncIterator[Client]:
    async with (
        client_as(api_server, "root", "system:masters") as client,
        client_as(api_server, "system:kube-controller-manager") as manager,
        running(manager, "validatingadmissionpolicy-status"),
    ):
        yield client


def policy(group: str, resource: str, *validations: Object, **spec: Any) -> Object:
    rule = {
        "apiGroups": [group],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": [resource],
    }
    body = {"matchConstraints": {"resourceRules": [rule]}, "validations": [*validations], **spec}
    return {"metadata": {"name": "p"}, "spec": body}


async def checked(client: Client, made: Object) -> TypeChecking:
    """What the status says once the policy has been checked."""
    await client.dynamic(*POLICIES, namespaced=False).create(made)
    policies = client.resource(ValidatingAdmissionPolicy)

    async def is_checked() -> TypeChecking | None:
        found = await policies.get("p")
        assert found.status.observedGeneration in (0, found.metadata.generation)
        return found.status.typeChecking

    return await eventually(is_checked, "the check")


async def test_no_warnings(client: Client) -> None:
    validation = {
        "expression": "variables.r > 1 && object.metadata.creationTimestamp != null",
        "messageExpression": "string(object.spec.replicas) + namespaceObject.metadata.name",
    }
    variables = [{"name": "r", "expression": "object.spec.replicas"}]
    result = await checked(client, policy("apps", "deployments", validation, variables=variables))
    assert not result.expressionWarnings


async def test_warnings(client: Client) -> None:
    validation = {
        "expression": "object.spec.replicas > '1'",
        "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas",
    }
    result = await checked(client, policy("apps", "deployments", validation))
    first, second = result.expressionWarnings
    assert first.fieldRef == "spec.validations[0].expression"
    assert first.warning == (
        "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' "
        "applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n"
    )
    assert second.fieldRef == "spec.validations[0].messageExpression"
    assert "found no matching overload for '_+_' applied to '(string, int)'" in second.warning


@pytest.mark.parametrize(
    ("resource", "expression", "expected"),
    [
        ("pods", "object.spec.containers.all(c, c.image.startsWith('x'))", ""),
        ("pods", "object.spec.containers.all(c, c.imag == '')", "undefined field 'imag'"),
        ("pods", "object.spec.volumes.exists(v, has(v.configMap.items[0].key))", ""),
        ("services", "object.spec.ports.all(p, p.targetPort == 'a' || p.targetPort == 1)", ""),
        ("configmaps", "object.data['a'] == 1", "applied to '(string, int)'"),
        ("configmaps", "object.binaryData['a'] == b'x'", ""),
        ("secrets", "object.nothing", "undefined field 'nothing'"),
    ],
)
async def test_types_of_built_in_kinds(
    client: Client, resource: str, expression: str, expected: str
) -> None:
    result = await checked(client, policy("", resource, {"expression": f"bool({expression})"}))
    texts = [each.warning for each in result.expressionWarnings]
    assert (expected in texts[0] and texts[0].startswith("/v1, Kind=")) if expected else not texts


async def test_types_of_custom_resources(client: Client) -> None:
    spec = {"type": "object", "properties": {"maxRetries": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"spec": spec}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    names = {"plural": "tries", "singular": "try", "kind": "Try"}
    definition = {
        "metadata": {"name": "tries.types.example"},
        "spec": {
            "group": "types.example",
            "scope": "Namespaced",
            "names": names,
            "versions": [version],
        },
    }
    await client.dynamic(*DEFINITIONS, namespaced=False).create(definition)
    made = policy(
        "types.example",
        "tries",
        {"expression": "object.spec.maxRetries < 10"},
        {"expression": "object.spec.minRetries < params.spec.maxRetries"},
        paramKind={"apiVersion": "types.example/v1", "kind": "Try"},
    )
    (only,) = (await checked(client, made)).expressionWarnings
    assert only.fieldRef == "spec.validations[1].expression"
    assert only.warning.startswith("types.example/v1, Kind=Try: ERROR: <input>:1:12: ")
    assert "undefined field 'minRetries'" in only.warning
