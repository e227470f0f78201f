"""Pods leave devices that are tainted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from navarch.api.objects import from_object
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.resource_v1 import (
    DeviceRequestAllocationResult,
    DeviceTaint,
    DeviceToleration,
    ResourceClaim,
    ResourceSlice,
)
from navarch.client import Client
from navarch.controllers.device_taint_eviction import eviction_time

from .conftest import eventually, make_namespace, running
from .test_resource_claims import SPEC, allocate, user

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BROKEN = DeviceTaint(key="broken", effect="NoExecute", timeAdded=format_time(NOW))


def tolerating(*seconds: int | None, key: str = "broken") -> DeviceRequestAllocationResult:
    return DeviceRequestAllocationResult(
        tolerations=[
            DeviceToleration(key=key, operator="Exists", effect="NoExecute", tolerationSeconds=each)
            for each in seconds
        ]
    )


@pytest.mark.parametrize(
    ("result", "taint", "after"),
    [
        pytest.param(tolerating(), BROKEN, 0, id="not tolerated"),
        pytest.param(tolerating(None), BROKEN, None, id="tolerated for ever"),
        pytest.param(tolerating(60, 30), BROKEN, 30, id="the shortest time"),
        pytest.param(tolerating(60, None), BROKEN, None, id="for ever beside a time"),
        pytest.param(tolerating(None, key="other"), BROKEN, 0, id="another taint tolerated"),
        pytest.param(
            tolerating(), DeviceTaint(key="broken", effect="NoSchedule"), None, id="may stay"
        ),
    ],
)
def test_when_pods_have_to_go(
    result: DeviceRequestAllocationResult, taint: DeviceTaint, after: int | None
) -> None:
    expected = None if after is None else NOW + timedelta(seconds=after)
    assert eviction_time(result, [taint], NOW + timedelta(hours=1)) == expected


def gpus(*taints: dict[str, Any]) -> ResourceSlice:
    spec = {
        "driver": "gpu.example.com",
        "nodeName": "n1",
        "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "gpu-0", "taints": [*taints]}],
    }
    return from_object(ResourceSlice, {"metadata": {"name": "gpus"}, "spec": spec})


async def test_a_pod_leaves_its_tainted_device(client: Client) -> None:
    pods, slices = client.resource(Pod), client.resource(ResourceSlice)
    claims = client.resource(ResourceClaim)
    made = await slices.create(gpus())
    async with running(client, "device-taint-eviction-controller", "serviceaccount"):
        await make_namespace(client, "ns")
        meta = ObjectMeta(name="mine", namespace="ns")
        claim = await claims.create(ResourceClaim(metadata=meta, spec=SPEC))
        using = user("using", claim="mine")
        using.metadata.finalizers = ["test.example/keep"]
        using = await pods.create(using)
        waiting = await pods.create(user("waiting", claim="mine"))
        await allocate(client, claim, using)
        made.spec.devices = gpus({"key": "broken", "effect": "NoExecute"}).spec.devices
        await slices.update(made)

        async def is_leaving() -> Pod | None:
            found = await pods.get("using", "ns")
            return found if found.metadata.deletionTimestamp else None

        leaving = await eventually(is_leaving, "the eviction")
        (condition,) = [c for c in leaving.status.conditions if c.type == "DisruptionTarget"]
        assert (condition.reason, condition.message) == (
            "DeletionByDeviceTaintManager",
            "Device Taint manager: deleting due to NoExecute taint",
        )

        async def is_told() -> bool:
            events = (await client.dynamic("", "v1", "events").list("ns")).items
            told = {(each["source"].get("component"), each["reason"]) for each in events}
            return ("device-taint-eviction-controller", "DeviceTaintManagerEviction") in told

        await eventually(is_told, "the event")
        # Who has no part in the claim stays.
        assert not (await pods.get("waiting", "ns")).metadata.deletionTimestamp
        assert waiting.metadata.uid
