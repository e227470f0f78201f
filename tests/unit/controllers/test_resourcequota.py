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
        ("requests.example.com/dongle", ["pods"]),
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
