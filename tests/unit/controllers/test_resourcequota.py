"""The count of a quota as values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from navarch.api.quota import resources_of
from navarch.api.types.core_v1 import ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus
from navarch.controllers.resourcequota import lacks_usage, next_status, tally

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "resources"),
    [
        ("pods", ["pods"]),
        ("limits.memory", ["pods"]),
        ("requests.hugepages-2Mi", ["pods"]),
        ("requests.example.com/dongle", ["pods", "resourceclaims.resource.k8s.io"]),
        ("services.nodeports", ["services"]),
        ("requests.storage", ["persistentvolumeclaims"]),
        ("gold.storageclass.storage.k8s.io/requests.storage", ["persistentvolumeclaims"]),
        ("gpu.deviceclass.resource.k8s.io/devices", ["resourceclaims.resource.k8s.io"]),
        ("secrets", ["secrets"]),
        ("count/widgets.example.com", ["widgets.example.com"]),
        ("count/events.events.k8s.io", []),
        ("nonsense", []),
    ],
)
def test_which_resources_a_name_counts(name: str, resources: list[str]) -> None:
    assert resources_of(name) == resources


def quota(hard: dict[str, str], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "q", "namespace": "a"}, "spec": {"hard": hard, **spec}}


def counted(limited: dict[str, Any], resource: str, *objects: dict[str, Any]) -> dict[str, str]:
    return {n: str(v) for n, v in tally(limited, resource, objects, NOW).items()}


def test_names_that_nothing_uses_are_zero() -> None:
    assert counted(quota({"pods": "1", "secrets": "2"}), "pods") == {"pods": "0"}


def test_claims_of_a_volume_attributes_class() -> None:
    selector = {"operator": "In", "scopeName": "VolumeAttributesClass", "values": ["fast"]}
    limited = quota({"requests.storage": "9Gi"}, scopeSelector={"matchExpressions": [selector]})

    def claim(**more: Any) -> dict[str, Any]:
        return {"spec": {"resources": {"requests": {"storage": "1Gi"}}, **more}}

    leaving = {**claim(), "status": {"currentVolumeAttributesClassName": "fast"}}
    objects = (claim(), claim(volumeAttributesClassName="fast"), leaving)
    found = counted(limited, "persistentvolumeclaims", *objects)
    assert found == {"requests.storage": "2Gi"}


def test_devices_of_claims() -> None:
    name = "gpu.deviceclass.resource.k8s.io/devices"
    gpu = {"deviceClassName": "gpu", "allocationMode": "ExactCount"}
    requests = [
        {"exactly": {**gpu, "count": 2}},
        {"firstAvailable": [{**gpu, "count": 1}, {**gpu, "count": 3}]},
    ]
    everything = [{"exactly": {"deviceClassName": "gpu", "allocationMode": "All"}}]
    objects = [{"spec": {"devices": {"requests": each}}} for each in (requests, everything)]
    limited = quota({name: "9", "count/resourceclaims.resource.k8s.io": "9"})
    found = counted(limited, "resourceclaims.resource.k8s.io", *objects)
    assert found == {name: "37", "count/resourceclaims.resource.k8s.io": "2"}


def test_the_status_keeps_what_was_not_counted_and_drops_what_is_not_limited() -> None:
    found = next_status(
        ResourceQuota(
            spec=ResourceQuotaSpec(hard={"pods": "3", "count/lost.example.com": "1"}),
            status=ResourceQuotaStatus(used={"count/lost.example.com": "1", "secrets": "4"}),
        ),
        tally(quota({"pods": "3"}), "pods", [{}], NOW),
    )
    assert found.hard == {"pods": "3", "count/lost.example.com": "1"}
    assert found.used == {"pods": "1", "count/lost.example.com": "1"}


@pytest.mark.parametrize(
    ("hard", "used", "lacks"),
    [
        ({}, {}, True),
        ({"cpu": "1000m"}, {"cpu": "0"}, False),
        ({"cpu": "2"}, {"cpu": "0"}, True),
        ({"cpu": "1"}, {}, True),
    ],
)
def test_what_is_urgent(hard: dict[str, str], used: dict[str, str], lacks: bool) -> None:
    status = ResourceQuotaStatus(hard=hard, used=used)
    given = ResourceQuota(spec=ResourceQuotaSpec(hard={"cpu": "1"}), status=status)
    assert lacks_usage(given) is lacks


POD = {
    "metadata": {"name": "p", "namespace": "a", "uid": "u"},
    "spec": {"containers": [{"resources": {"requests": {
        "example.com/gpu": "1", "deviceclass.resource.kubernetes.io/gpu": "2"}}}]},
}  # fmt: skip
EXTENDED = {
    "requests.example.com/gpu": "9",
    "requests.deviceclass.resource.kubernetes.io/gpu": "9",
    "gpu.deviceclass.resource.k8s.io/devices": "9",
}


def devices(name: str, count: int, uid: str = "", made: str = "1") -> dict[str, Any]:
    """A claim; with a `uid` one that says it is for the extended resources of that pod."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": True}
    marked = {
        "annotations": {"resource.kubernetes.io/extended-resource-claim": "true"},
        "ownerReferences": [owner],
    }
    exactly = {"deviceClassName": "gpu", "count": count}
    return {
        "metadata": {"name": name, "namespace": "a", "creationTimestamp": made}
        | (marked if uid else {}),
        "spec": {"devices": {"requests": [{"exactly": exactly}]}},
    }


class Store(dict[str, list[dict[str, Any]]]):
    def get(self, resource: str, namespace: str, name: str) -> Any:  # type: ignore[override]
        return next((each for each in self[resource] if each["metadata"]["name"] == name), None)

    def list(self, resource: str, namespace: str = "") -> Any:
        return self[resource]


@pytest.mark.parametrize(
    ("claims", "named", "expected"),
    [
        pytest.param([devices("c", 1)], "", "1 1 1", id="a claim"),
        pytest.param([devices("c", 4, "u")], "", "3 2 4", id="the pod counts with its own"),
        pytest.param([devices("c", 4, "u")], "c", "3 2 4", id="the pod names it"),
        pytest.param([devices("c", 4, "u")], "d", "4 4 4", id="the pod names another"),
        pytest.param([devices("c", 4, "other")], "", "4 4 4", id="of another pod of the name"),
        pytest.param([devices("c", 1, "u")], "", "0 0 1", id="less than the pod asks for"),
        pytest.param([devices("c", 4, "u"), devices("b", 4, "u", "2")], "", "7 6 8", id="first"),
    ],
)
def test_devices_count_as_extended_resources(
    claims: list[dict[str, Any]], named: str, expected: str
) -> None:
    status = {"extendedResourceClaimStatus": {"resourceClaimName": named}} if named else {}
    gpu = {"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "example.com/gpu"}}
    kind = "resourceclaims.resource.k8s.io"
    others = Store(
        {"pods": [{**POD, "status": status}], kind: claims, "deviceclasses.resource.k8s.io": [gpu]}
    )
    found = tally(quota(EXTENDED), kind, claims, NOW, others)
    assert " ".join(str(found[name]) for name in EXTENDED) == expected
