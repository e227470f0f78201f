"""Who may look at devices that others use, and write which part of a claim's status."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.apiserver.admission.device_claims import DeviceClaims
from navarch.apiserver.contracts import (
    AdmissionRequest,
    Attributes,
    Decision,
    RequestInfo,
    UserInfo,
)

Object = dict[str, Any]
USER = UserInfo("system:serviceaccount:drivers:gpu", extra={
    "authentication.kubernetes.io/node-name": ("n1",)})  # fmt: skip
DRIVER = "gpu.example.com"


class Rights:
    def __init__(self, *rights: str) -> None:
        self.rights = rights

    def authorize(self, attributes: Attributes) -> tuple[Decision, str]:
        info = attributes.info
        asked = f"{info.verb} {info.subresource} {info.name}".strip()
        return (Decision.ALLOW if asked in self.rights else Decision.NO_OPINION), ""


def asked(
    obj: Object, old: Object | None = None, subresource: str = "", resource: str = "resourceclaims"
) -> AdmissionRequest:
    verb = "create" if old is None else "update"
    info = RequestInfo(True, "", verb, "resource.k8s.io", "v1", resource, subresource, "ns", "c")
    return AdmissionRequest(
        operation=verb.upper(), info=info, kind="ResourceClaim", user=USER, obj=obj, old=old
    )


def claim(**exactly: Any) -> Object:
    requests = [{"name": "r", "exactly": {"deviceClassName": "gpu", **exactly}}]
    return {"metadata": {"name": "c"}, "spec": {"devices": {"requests": requests}}}


@pytest.mark.parametrize("label", ["true", "false"])
@pytest.mark.parametrize("resource", ["resourceclaims", "resourceclaimtemplates"])
async def test_admin_access_takes_a_label(world: Any, label: str, resource: str) -> None:
    labels = {"resource.kubernetes.io/admin-access": label}
    world.add("namespaces", "ns", metadata={"labels": labels})
    plugin = DeviceClaims(world.access, Rights())
    await plugin.validate(asked(claim(), resource=resource))
    obj = claim(adminAccess=True)
    if resource != "resourceclaims":
        obj["spec"] = {"spec": obj["spec"]}
    if label == "true":
        await plugin.validate(asked(obj, resource=resource))
        return
    with pytest.raises(ApiError) as caught:
        await plugin.validate(asked(obj, resource=resource))
    assert caught.value.status == 422
    assert caught.value.message.endswith(
        "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the "
        "`resource.kubernetes.io/admin-access: true` label on the containing namespace"
    )


def allocated(*reported: Object) -> Object:
    result = {"driver": DRIVER, "pool": "n1", "device": "a", "request": "r"}
    where = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    allocation = {
        "devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [where]}]},
    }
    status: Object = {"allocation": allocation}
    if reported:
        status["devices"] = [*reported]
    return {**claim(), "status": status}


REPORT = {"driver": DRIVER, "pool": "n1", "device": "a"}


@pytest.mark.parametrize(
    ("rights", "new", "old", "problem"),
    [
        pytest.param(("update binding",), allocated(), claim(), "", id="may bind"),
        pytest.param((), allocated(), claim(), "resourceclaims/binding", id="may not bind"),
        pytest.param((), allocated(), allocated(), "", id="nothing changes"),
        pytest.param(
            (f"associated-node:update driver {DRIVER}",),
            allocated(REPORT),
            allocated(),
            "",
            id="a driver of the node",
        ),
        pytest.param(
            (f"arbitrary-node:update driver {DRIVER}",),
            allocated(REPORT),
            allocated(),
            "",
            id="a driver of all nodes",
        ),
        pytest.param(
            ("associated-node:update driver other.example.com",),
            allocated(REPORT),
            allocated(),
            "resourceclaims/driver",
            id="another driver",
        ),
    ],
)
async def test_parts_of_a_status(
    world: Any, rights: tuple[str, ...], new: Object, old: Object, problem: str
) -> None:
    plugin = DeviceClaims(world.access, Rights(*rights))
    request = asked(new, old, "status")
    if not problem:
        await plugin.validate(request)
        return
    with pytest.raises(ApiError) as caught:
        await plugin.validate(request)
    assert problem in caught.value.message
