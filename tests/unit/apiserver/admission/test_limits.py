"""LimitRanger and ResourceQuota."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.apiserver.admission.limit_ranger import LimitRanger
from navarch.apiserver.admission.resource_quota import ResourceQuota

Object = dict[str, Any]
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def resources(requests: Object | None = None, limits: Object | None = None) -> Object:
    found = {"requests": requests, "limits": limits}
    return {"resources": {k: v for k, v in found.items() if v is not None}}


def pod(*containers: Object, **spec: Any) -> Object:
    named = [{"name": f"c{index}", **item} for index, item in enumerate(containers)]
    metadata = {"name": "web", "namespace": "ns"}
    return {"metadata": metadata, "spec": {"containers": named, **spec}}


def limit_range(world: Any, **limit: Any) -> None:
    world.add("limitranges", "lr", "ns", spec={"limits": [{"type": "Container", **limit}]})


async def test_defaults_are_set_and_noted(world: Any) -> None:
    limit_range(
        world,
        default={"cpu": "500m", "memory": "1Gi"},
        defaultRequest={"cpu": "100m"},
    )
    obj = pod(
        resources({"cpu": "1"}, {"memory": "2Gi"}),
        {},
        initContainers=[{"name": "i", **resources({"cpu": "1"}, {"cpu": "1", "memory": "1"})}],
    )
    await world.run(LimitRanger(world.access), "pods", obj)
    first, second = obj["spec"]["containers"]
    assert first["resources"] == {
        "requests": {"cpu": "1"},
        "limits": {"memory": "2Gi", "cpu": "500m"},
    }
    assert second["resources"] == {
        "requests": {"cpu": "100m"},
        "limits": {"cpu": "500m", "memory": "1Gi"},
    }
    assert obj["metadata"]["annotations"]["kubernetes.io/limit-ranger"] == (
        "LimitRanger plugin set: cpu limit for container c0; "
        "cpu request for container c1; cpu, memory limit for container c1"
    )


@pytest.mark.parametrize(
    ("limit", "quality"),
    [
        ({"default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}}, "Burstable"),
        ({"default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {}}, "Burstable"),
        ({k: {"cpu": "1", "memory": "1"} for k in ("default", "defaultRequest")}, "Guaranteed"),
        ({"maxLimitRequestRatio": {}}, "BestEffort"),
    ],
)
async def test_defaults_count_for_the_class_of_a_pod(
    world: Any, limit: Object, quality: str
) -> None:
    limit_range(world, **limit)
    obj = {**pod({}), "status": {"phase": "Pending", "qosClass": "BestEffort"}}
    await world.run(LimitRanger(world.access), "pods", obj)
    assert obj["status"] == {"phase": "Pending", "qosClass": quality}


@pytest.mark.parametrize(
    ("limit", "container", "why"),
    [
        ({"max": {"cpu": "2"}}, resources({"cpu": "1"}, {"cpu": "2"}), ""),
        (
            {"max": {"cpu": "2"}},
            resources({"cpu": "1"}, {"cpu": "3"}),
            "maximum cpu usage per Container is 2, but limit is 3",
        ),
        (
            {"max": {"cpu": "2"}},
            resources({"cpu": "1"}),
            "maximum cpu usage per Container is 2.  No limit is specified",
        ),
        (
            {"min": {"memory": "4Mi"}},
            resources({"memory": "1Mi"}),
            "minimum memory usage per Container is 4Mi, but request is 1Mi",
        ),
        (
            {"min": {"memory": "4Mi"}},
            {},
            "minimum memory usage per Container is 4Mi.  No request is specified",
        ),
        (
            {"maxLimitRequestRatio": {"cpu": "2"}},
            resources({"cpu": "1"}, {"cpu": "3"}),
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        ),
        ({"maxLimitRequestRatio": {"cpu": "3"}}, resources({"cpu": "1"}, {"cpu": "3"}), ""),
        (
            {"type": "Pod", "max": {"cpu": "1500m"}},
            resources({"cpu": "1"}, {"cpu": "1"}),
            "maximum cpu usage per Pod is 1500m, but limit is 2",
        ),
        (
            {"max": {"cpu": "1"}, "min": {"cpu": "1"}},
            resources({"cpu": "2"}, {"cpu": "2"}),
            "maximum cpu usage per Container is 1, but limit is 2",
        ),
    ],
)
async def test_bounds(world: Any, limit: Object, container: Object, why: str) -> None:
    limit_range(world, **limit)
    obj = pod(container, container)
    if not why:
        await world.run(LimitRanger(world.access), "pods", obj)
        return
    with pytest.raises(ApiError) as raised:
        await world.run(LimitRanger(world.access), "pods", obj)
    assert raised.value.message == f'pods "web" is forbidden: {why}'


async def test_bounds_of_claims(world: Any) -> None:
    limit_range(world, type="PersistentVolumeClaim", max={"storage": "5Gi"}, min={"storage": "1Gi"})

    async def claim(size: str) -> None:
        metadata = {"name": "c", "namespace": "ns"}
        spec = {"resources": {"requests": {"storage": size}}}
        obj = {"metadata": metadata, "spec": spec}
        await world.run(LimitRanger(world.access), "persistentvolumeclaims", obj)

    await claim("5Gi")
    with pytest.raises(ApiError, match=r"maximum storage usage .* is 5Gi, but request is 6Gi"):
        await claim("6Gi")
    with pytest.raises(ApiError, match=r"minimum storage usage .* is 1Gi, but request is 1Mi"):
        await claim("1Mi")


async def test_a_pod_is_bound_only_when_made_or_resized(world: Any) -> None:
    limit_range(world, max={"cpu": "1"})
    obj = pod(resources({"cpu": "2"}, {"cpu": "2"}))
    await world.run(LimitRanger(world.access), "pods", obj, obj)
    with pytest.raises(ApiError):
        await world.run(LimitRanger(world.access), "pods/resize", obj, obj)


def quota(world: Any, hard: Object, used: Object | None = None, **spec: Any) -> None:
    status = {"hard": hard, "used": dict.fromkeys(hard, "0") | (used or {})}
    metadata = {"resourceVersion": "1"}
    world.add(
        "resourcequotas", "q", "ns", metadata=metadata, spec={"hard": hard, **spec}, status=status
    )


def used(world: Any) -> Object:
    found: Object = world.lookup.get("resourcequotas", "ns", "q")["status"]["used"]
    return found


def plugin(world: Any) -> ResourceQuota:
    return ResourceQuota(world.access, lambda: NOW)


async def test_use_is_added(world: Any) -> None:
    quota(world, {"pods": "5", "requests.cpu": "2", "count/pods": "9", "memory": "1Gi"})
    obj = pod(resources({"cpu": "500m", "memory": "100Mi"}))
    await world.run(plugin(world), "pods", obj)
    await world.run(plugin(world), "pods", obj)
    assert used(world) == {
        "pods": "2",
        "requests.cpu": "1",
        "count/pods": "2",
        "memory": "200Mi",
    }


async def test_more_than_is_left(world: Any) -> None:
    quota(world, {"pods": "2", "requests.cpu": "2"}, {"pods": "2", "requests.cpu": "1500m"})
    with pytest.raises(ApiError) as raised:
        await world.run(plugin(world), "pods", pod(resources({"cpu": "1"})))
    assert raised.value.status == 403
    assert raised.value.message == (
        'pods "web" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=1, '
        "used: pods=2,requests.cpu=1500m, limited: pods=2,requests.cpu=2"
    )
    assert world.writes == 0


async def test_what_is_counted_must_be_said(world: Any) -> None:
    quota(world, {"cpu": "2", "limits.memory": "1Gi"})
    with pytest.raises(ApiError) as raised:
        await world.run(plugin(world), "pods", pod({}, resources({"cpu": "1"})))
    assert raised.value.message == (
        'pods "web" is forbidden: failed quota: q: must specify cpu for: c0; '
        "limits.memory for: c0,c1"
    )


async def test_a_quota_that_was_not_counted_yet(world: Any) -> None:
    metadata = {"resourceVersion": "1"}
    world.add("resourcequotas", "q", "ns", metadata=metadata, spec={"hard": {"pods": "0"}})
    await world.run(plugin(world), "pods", pod({}))
    status = {"hard": {"pods": "5"}, "used": {}}
    world.add("resourcequotas", "q", "ns", metadata=metadata, status=status)
    with pytest.raises(ApiError, match="status unknown for quota: q, resources: pods"):
        await world.run(plugin(world), "pods", pod({}))


async def test_dry_runs_reserve_nothing(world: Any) -> None:
    quota(world, {"configmaps": "1"})
    obj = {"metadata": {"name": "c", "namespace": "ns"}}
    await world.run(plugin(world), "configmaps", obj, dry_run=True)
    assert world.writes == 0


async def test_a_lost_race_is_run_again(world: Any) -> None:
    """Somebody else takes two between reading and writing."""
    quota(world, {"configmaps": "5"}, {"configmaps": "1"})

    def other() -> None:
        held = world.lookup.get("resourcequotas", "ns", "q")
        status = {**held["status"], "used": {"configmaps": "3"}}
        world.lookup.put(
            "resourcequotas",
            {**held, "metadata": {**held["metadata"], "resourceVersion": "7"}, "status": status},
        )

    world.before_write = other
    await world.run(plugin(world), "configmaps", {"metadata": {"name": "c", "namespace": "ns"}})
    assert used(world) == {"configmaps": "4"}


async def test_at_once_no_more_than_allowed(world: Any) -> None:
    quota(world, {"configmaps": "3"})
    one = plugin(world)
    runs = [
        world.run(one, "configmaps", {"metadata": {"name": f"c{index}", "namespace": "ns"}})
        for index in range(8)
    ]
    results = await asyncio.gather(*runs, return_exceptions=True)
    assert sum(isinstance(result, ApiError) for result in results) == 5
    assert used(world) == {"configmaps": "3"}


async def test_a_service_that_changes_its_type(world: Any) -> None:
    quota(world, {"services": "2", "services.nodeports": "1"}, {"services": "1"})

    def service(kind: str, ports: int) -> Object:
        metadata = {"name": "s", "namespace": "ns"}
        return {"metadata": metadata, "spec": {"type": kind, "ports": [{}] * ports}}

    await world.run(plugin(world), "services", service("NodePort", 1), service("ClusterIP", 1))
    assert used(world) == {"services": "1", "services.nodeports": "1"}
    with pytest.raises(ApiError, match=r"exceeded quota: q, requested: services.nodeports=1"):
        await world.run(plugin(world), "services", service("NodePort", 2), service("NodePort", 1))
    await world.run(plugin(world), "services", service("ClusterIP", 1), service("NodePort", 1))
    assert used(world) == {"services": "1", "services.nodeports": "1"}


@pytest.mark.parametrize(
    ("scopes", "spec", "counts"),
    [
        (["Terminating"], {"activeDeadlineSeconds": 5}, True),
        (["Terminating"], {}, False),
        (["NotTerminating"], {}, True),
        (["BestEffort"], {}, True),
        (["NotBestEffort"], {}, False),
        (["BestEffort", "Terminating"], {}, False),
    ],
)
async def test_scopes(world: Any, scopes: list[str], spec: Object, counts: bool) -> None:
    quota(world, {"pods": "5"}, scopes=scopes)
    await world.run(plugin(world), "pods", pod({}, **spec))
    assert used(world) == {"pods": "1" if counts else "0"}


async def test_a_pod_that_enters_a_scope(world: Any) -> None:
    quota(world, {"pods": "5"}, scopes=["Terminating"])
    await world.run(plugin(world), "pods", pod({}, activeDeadlineSeconds=5), pod({}))
    assert used(world) == {"pods": "1"}


@pytest.mark.parametrize(
    ("path", "counted"),
    [
        ("apps:deployments", True),
        ("events", False),
        ("serviceaccounts/token", False),
        ("apps:deployments/status", False),
    ],
)
async def test_what_is_counted(world: Any, path: str, counted: bool) -> None:
    quota(world, {"count/deployments.apps": "5", "count/events": "0", "count/serviceaccounts": "0"})
    obj = {"metadata": {"name": "x", "namespace": "ns"}}
    await world.run(plugin(world), path, obj, operation="CREATE")
    assert used(world)["count/deployments.apps"] == ("1" if counted else "0")
