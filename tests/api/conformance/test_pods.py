"""What the server makes of pods, and of what they read, before a node has seen them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.conftest import Api

CORE = "/api/v1/namespaces/default"


def pod(name: str, container: dict[str, Any], **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "registry.example/c:1", **container}]
    return {"metadata": {"name": name}, "spec": {"containers": containers, **spec}}


@pytest.mark.conformance(
    "ConfigMap should fail to create ConfigMap with empty key",
    "Secrets should fail to create secret due to empty secret key",
)
@pytest.mark.parametrize("plural", ["configmaps", "secrets"])
async def test_keys_are_not_empty(api: Api, plural: str) -> None:
    body = {"metadata": {"name": "keyless"}, "data": {"": "dmFsdWUtMQ=="}}
    refused = await api.post(f"{CORE}/{plural}", body)
    assert (refused.status, refused.json["reason"]) == (422, "Invalid")
    assert refused.json["details"]["causes"][0]["field"] == "data[]"
    assert (await api.get(f"{CORE}/{plural}/keyless")).status == 404


@pytest.mark.conformance("Sysctls [LinuxOnly] [NodeConformance] should reject invalid sysctls")
async def test_names_of_sysctls(api: Api) -> None:
    """Whether they are safe is for the node to judge."""
    names = ("foo-", "kernel.shmmax", "safe-and-unsafe", "bar..")
    sysctls = [{"name": name, "value": "1"} for name in names]
    refused = await api.post(f"{CORE}/pods", pod("s", {}, securityContext={"sysctls": sysctls}))
    assert refused.status == 422
    message = refused.json["message"]
    found = {name: f'Invalid value: "{name}"' in message for name in names}
    assert found == {"foo-": True, "kernel.shmmax": False, "safe-and-unsafe": False, "bar..": True}
    assert "shmmax" not in message and "safe-and-unsafe" not in message


@pytest.mark.conformance(
    "Pods Extended Pods Set QOS Class should be set on Pods with matching resource requests and "
    "limits for memory and cpu"
)
async def test_quality_of_service(api: Api) -> None:
    both = {"cpu": "100m", "memory": "100Mi"}
    cases: dict[str, dict[str, Any]] = {
        "Guaranteed": {"limits": both, "requests": both},
        "Burstable": {"limits": both, "requests": {"cpu": "50m"}},
        "BestEffort": {},
    }
    for name, resources in cases.items():
        document = pod(name.lower(), {"resources": resources})
        (await api.post(f"{CORE}/pods", document)).ok(201)
        found = (await api.get(f"{CORE}/pods/{name.lower()}")).ok()
        assert found["status"]["qosClass"] == name
