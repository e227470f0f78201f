"""What counts against a quota, and what a pod asks for in all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from navarch.api.pod_resources import is_best_effort, pod_limits, pod_requests
from navarch.api.quota import in_scope, matching_names, missing_compute, usage

NOW = datetime(2026, 11, 21, tzinfo=UTC)
Object = dict[str, Any]


def container(cpu: str = "", limit: str = "", **more: Any) -> Object:
    resources = {}
    if cpu:
        resources["requests"] = {"cpu": cpu}
    if limit:
        resources["limits"] = {"cpu": limit}
    return {"name": "c", "resources": resources, **more}


def pod(*containers: Object, **spec: Any) -> Object:
    return {"metadata": {"name": "p"}, "spec": {"containers": list(containers), **spec}}


SIDECAR = {"restartPolicy": "Always"}


@pytest.mark.parametrize(
    ("obj", "cpu"),
    [
        (pod(container("1"), container("500m")), "1500m"),
        (pod(container("1"), initContainers=[container("2")]), "2"),
        (pod(container("1"), initContainers=[container("2", **SIDECAR)]), "3"),
        (
            pod(container("1"), initContainers=[container("1", **SIDECAR), container("3")]),
            "4",
        ),
        (
            pod(container("1"), initContainers=[container("3"), container("1", **SIDECAR)]),
            "3",
        ),
        (pod(container("1"), overhead={"cpu": "250m"}), "1250m"),
        (pod(container("1"), resources={"requests": {"cpu": "5"}}), "5"),
    ],
)
def test_requests_of_a_pod(obj: Object, cpu: str) -> None:
    assert str(pod_requests(obj)["cpu"]) == cpu


def test_overhead_adds_only_to_limits_that_are_there() -> None:
    overhead = {"cpu": "1", "memory": "1Mi"}
    limits = pod_limits(pod(container(limit="2"), overhead=overhead))
    assert {name: str(value) for name, value in limits.items()} == {"cpu": "3"}
    assert str(pod_requests(pod(container("1"), overhead=overhead), overhead=False)["cpu"]) == "1"


def test_a_resize_under_way_counts_the_larger() -> None:
    status = {"name": "c", "allocatedResources": {"cpu": "3"}, "resources": {}}
    obj = {**pod(container("1")), "status": {"containerStatuses": [status]}}
    assert str(pod_requests(obj)["cpu"]) == "3"


@pytest.mark.parametrize(
    ("obj", "best_effort"),
    [
        (pod(container()), True),
        (pod(container("0")), True),
        (pod(container("1")), False),
        (pod(container(), initContainers=[container(limit="1")]), False),
        (pod(container(), resources={"limits": {"memory": "1"}}), False),
        (pod({"name": "c", "resources": {"requests": {"example.com/x": "1"}}}), True),
    ],
)
def test_best_effort(obj: Object, best_effort: bool) -> None:
    assert is_best_effort(obj) is best_effort


def used(resource: str, obj: Object) -> dict[str, str]:
    return {name: str(value) for name, value in usage(resource, obj, NOW).items()}


def test_usage_of_a_pod() -> None:
    requests = {
        "cpu": "1",
        "example.com/gpu": "2",
        "hugepages-2Mi": "4Mi",
        "a.kubernetes.io/b": "1",
    }
    obj = pod({"name": "c", "resources": {"requests": requests, "limits": {"memory": "1Gi"}}})
    assert used("pods", obj) == {
        "count/pods": "1",
        "pods": "1",
        "cpu": "1",
        "requests.cpu": "1",
        "limits.memory": "1Gi",
        "requests.example.com/gpu": "2",
        "hugepages-2Mi": "4Mi",
        "requests.hugepages-2Mi": "4Mi",
    }


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({"status": {"phase": "Running"}}, True),
        ({"status": {"phase": "Succeeded"}}, False),
        ({"status": {"phase": "Failed"}}, False),
        (
            {
                "metadata": {
                    "deletionTimestamp": "2026-11-20T23:59:50Z",
                    "deletionGracePeriodSeconds": 30,
                }
            },
            True,
        ),
        (
            {
                "metadata": {
                    "deletionTimestamp": "2026-11-20T23:59:20Z",
                    "deletionGracePeriodSeconds": 30,
                }
            },
            False,
        ),
    ],
)
def test_pods_that_are_over_count_only_as_objects(fields: Object, counts: bool) -> None:
    found = used("pods", {**pod(container("1")), **fields})
    assert found["count/pods"] == "1"
    assert ("pods" in found) is counts


@pytest.mark.parametrize(
    ("spec", "node_ports", "balancers"),
    [
        ({"type": "ClusterIP", "ports": [{}]}, "0", "0"),
        ({"type": "NodePort", "ports": [{}, {}]}, "2", "0"),
        ({"type": "LoadBalancer", "ports": [{}, {}]}, "2", "1"),
        (
            {
                "type": "LoadBalancer",
                "ports": [{"nodePort": 30000}, {}],
                "allocateLoadBalancerNodePorts": False,
            },
            "1",
            "1",
        ),
    ],
)
def test_usage_of_a_service(spec: Object, node_ports: str, balancers: str) -> None:
    assert used("services", {"spec": spec}) == {
        "count/services": "1",
        "services": "1",
        "services.nodeports": node_ports,
        "services.loadbalancers": balancers,
    }


def test_usage_of_a_claim() -> None:
    spec = {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}
    suffix = "gold.storageclass.storage.k8s.io"
    assert used("persistentvolumeclaims", {"spec": spec}) == {
        "count/persistentvolumeclaims": "1",
        "persistentvolumeclaims": "1",
        "requests.storage": "1Gi",
        f"{suffix}/persistentvolumeclaims": "1",
        f"{suffix}/requests.storage": "1Gi",
    }
    growing = {"spec": spec, "status": {"allocatedResources": {"storage": "3Gi"}}}
    assert used("persistentvolumeclaims", growing)["requests.storage"] == "3Gi"


def test_counts_of_objects() -> None:
    assert used("configmaps", {}) == {"count/configmaps": "1", "configmaps": "1"}
    assert used("deployments.apps", {}) == {"count/deployments.apps": "1"}


@pytest.mark.parametrize(
    ("resource", "names"),
    [
        ("pods", ["count/pods", "limits.cpu", "pods", "requests.example.com/x"]),
        ("services", ["services", "services.nodeports"]),
        ("persistentvolumeclaims", ["gold.storageclass.storage.k8s.io/requests.storage"]),
        ("secrets", ["secrets"]),
        ("replicasets.apps", ["count/replicasets.apps"]),
    ],
)
def test_names_of_a_quota(resource: str, names: list[str]) -> None:
    every = [
        "count/pods",
        "count/replicasets.apps",
        "gold.storageclass.storage.k8s.io/requests.storage",
        "limits.cpu",
        "pods",
        "requests.example.com/x",
        "secrets",
        "services",
        "services.nodeports",
    ]
    assert matching_names(resource, every) == names


def quota(scope: str, operator: str, *values: str) -> Object:
    expression = {"scopeName": scope, "operator": operator, "values": list(values)}
    return {"spec": {"scopeSelector": {"matchExpressions": [expression]}}}


HIGH = pod(container(), priorityClassName="high")
TERM: Object = {"namespaceSelector": {}}
CROSSING = pod(
    container(),
    affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [TERM]}},
)


@pytest.mark.parametrize(
    ("selector", "obj", "matches"),
    [
        (quota("PriorityClass", "In", "high", "low"), HIGH, True),
        (quota("PriorityClass", "In", "low"), HIGH, False),
        (quota("PriorityClass", "NotIn", "low"), HIGH, True),
        (quota("PriorityClass", "NotIn", "low"), pod(container()), True),
        (quota("PriorityClass", "Exists"), pod(container()), False),
        (quota("PriorityClass", "DoesNotExist"), pod(container()), True),
        (quota("CrossNamespacePodAffinity", "Exists"), CROSSING, True),
        (quota("CrossNamespacePodAffinity", "Exists"), HIGH, False),
        (quota("Unheard", "Exists"), HIGH, False),
    ],
)
def test_scope_selectors(selector: Object, obj: Object, matches: bool) -> None:
    assert in_scope(selector, "pods", obj) is matches
    assert in_scope(selector, "configmaps", {}) is False


def test_compute_must_be_said_by_every_container() -> None:
    obj = pod({"name": "a"}, {"name": "b"}, initContainers=[container("1")])
    assert missing_compute(obj, ["requests.cpu", "pods"]) == "requests.cpu for: a,b"
    whole = pod({"name": "a"}, resources={"requests": {"cpu": "1"}})
    assert missing_compute(whole, ["requests.cpu"]) == ""
