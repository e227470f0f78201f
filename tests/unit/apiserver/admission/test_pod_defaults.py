"""What fills a pod in: service account, priority, tolerations, runtime class, topology."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.apiserver.admission.default_toleration_seconds import DefaultTolerationSeconds
from navarch.apiserver.admission.priority import Priority
from navarch.apiserver.admission.runtime_class import RuntimeClass, merge_tolerations
from navarch.apiserver.admission.service_account import MOUNT_PATH, ServiceAccount
from navarch.apiserver.admission.topology_labels import PodTopologyLabels

Object = dict[str, Any]


def pod(**spec: Any) -> Object:
    metadata = {"name": "web", "namespace": "ns", **spec.pop("metadata", {})}
    return {"metadata": metadata, "spec": {"containers": [{"name": "c"}], **spec}}


async def test_the_token_is_mounted_as_upstream_does_it(world: Any) -> None:
    world.add("serviceaccounts", "default", "ns", imagePullSecrets=[{"name": "pull"}])
    own_mount = {"name": "mine", "mountPath": MOUNT_PATH}
    obj = pod(
        initContainers=[{"name": "i", "volumeMounts": [own_mount]}], volumes=[{"name": "mine"}]
    )
    await world.run(ServiceAccount(world.access), "pods", obj)
    spec = obj["spec"]
    assert spec["serviceAccountName"] == spec["serviceAccount"] == "default"
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    name = spec["volumes"][1]["name"]
    assert re.fullmatch("kube-api-access-[bcdfghjklmnpqrstvwxz2456789]{5}", name)
    assert spec["containers"][0]["volumeMounts"] == [
        {"name": name, "readOnly": True, "mountPath": MOUNT_PATH}
    ]
    assert spec["initContainers"][0]["volumeMounts"] == [own_mount]
    assert spec["volumes"][1]["projected"] == {
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {
                "configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }
            },
            {
                "downwardAPI": {
                    "items": [
                        {
                            "path": "namespace",
                            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                        }
                    ]
                }
            },
        ],
    }


@pytest.mark.parametrize(
    ("of_pod", "of_account", "mounted"),
    [(None, None, True), (None, False, False), (True, False, True), (False, True, False)],
)
async def test_the_pods_wish_about_the_token_wins(
    world: Any, of_pod: bool | None, of_account: bool | None, mounted: bool
) -> None:
    fields = {} if of_account is None else {"automountServiceAccountToken": of_account}
    world.add("serviceaccounts", "default", "ns", **fields)
    obj = pod() if of_pod is None else pod(automountServiceAccountToken=of_pod)
    await world.run(ServiceAccount(world.access), "pods", obj)
    assert bool(obj["spec"].get("volumes")) is mounted


async def test_a_missing_account(world: Any) -> None:
    with pytest.raises(ApiError) as raised:
        await world.run(ServiceAccount(world.access), "pods", pod(serviceAccountName="x"))
    assert raised.value.status == 403
    assert raised.value.message == (
        'pods "web" is forbidden: error looking up service account ns/x: '
        'serviceaccount "x" not found'
    )


async def test_a_pod_waits_for_the_default_account(world: Any) -> None:
    plugin = ServiceAccount(world.access)
    obj = pod()
    waiting = asyncio.create_task(world.run(plugin, "pods", obj))
    await asyncio.sleep(0)
    world.add("serviceaccounts", "default", "ns")
    await waiting
    assert obj["spec"]["volumes"]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"serviceAccountName": "x"}, "may not reference service accounts"),
        ({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}, "may not reference secrets"),
        (
            {"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {}}]}}]},
            "may not use ServiceAccountToken volume projections",
        ),
    ],
)
async def test_mirror_pods_get_nothing(world: Any, spec: Object, why: str) -> None:
    mirror = {"annotations": {"kubernetes.io/config.mirror": "x"}}
    plain = pod(metadata=mirror)
    await world.run(ServiceAccount(world.access), "pods", plain)
    assert "volumes" not in plain["spec"]
    with pytest.raises(ApiError, match=why):
        await world.run(ServiceAccount(world.access), "pods", pod(metadata=mirror, **spec))


@pytest.mark.parametrize("subresource", ["", "/ephemeralcontainers"])
async def test_accounts_that_list_their_secrets(world: Any, subresource: str) -> None:
    annotations = {"annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}
    world.add("serviceaccounts", "robot", "ns", metadata=annotations, secrets=[{"name": "ok"}])
    plugin = ServiceAccount(world.access)
    field = "ephemeralContainers" if subresource else "containers"
    for name, allowed in (("ok", True), ("other", False)):
        container = {"name": "c", "envFrom": [{"secretRef": {"name": name}}]}
        obj = pod(serviceAccountName="robot", **{field: [container]})
        old = pod(serviceAccountName="robot") if subresource else None
        if allowed:
            await world.run(plugin, f"pods{subresource}", obj, old)
            continue
        with pytest.raises(ApiError, match="does not reference that secret"):
            await world.run(plugin, f"pods{subresource}", obj, old)


def class_(value: int, **more: Any) -> Object:
    return {"value": value, **more}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, ("", 5, "PreemptLowerPriority")),
        ({"priorityClassName": "high"}, ("high", 100, "Never")),
        ({"priorityClassName": "high", "priority": 100}, ("high", 100, "Never")),
    ],
)
async def test_priority_from_the_class(
    world: Any, spec: Object, expected: tuple[str, int, str]
) -> None:
    resource = "priorityclasses.scheduling.k8s.io"
    world.add(resource, "high", **class_(100, preemptionPolicy="Never"))
    world.add(resource, "usual", **class_(5, globalDefault=True))
    world.add(resource, "lost-race", **class_(9, globalDefault=True))
    obj = pod(**spec)
    await world.run(Priority(world.access), "pods", obj)
    name, value, policy = expected
    assert obj["spec"]["priorityClassName"] == (name or "usual")
    assert (obj["spec"]["priority"], obj["spec"]["preemptionPolicy"]) == (value, policy)


async def test_priority_without_any_class(world: Any) -> None:
    obj = pod()
    await world.run(Priority(world.access), "pods", obj)
    assert "priorityClassName" not in obj["spec"]
    assert (obj["spec"]["priority"], obj["spec"]["preemptionPolicy"]) == (0, "PreemptLowerPriority")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"priorityClassName": "none"}, "no PriorityClass with name none was found"),
        ({"priority": 7}, r"the integer value of priority \(7\) must not be provided"),
        ({"preemptionPolicy": "Never"}, "the string value of PreemptionPolicy"),
    ],
)
async def test_priority_refusals(world: Any, spec: Object, why: str) -> None:
    with pytest.raises(ApiError, match=why) as raised:
        await world.run(Priority(world.access), "pods", pod(**spec))
    assert raised.value.status == 403


async def test_priority_survives_an_update_that_leaves_it_out(world: Any) -> None:
    obj = pod()
    await world.run(Priority(world.access), "pods", obj, pod(priority=9, preemptionPolicy="Never"))
    assert (obj["spec"]["priority"], obj["spec"]["preemptionPolicy"]) == (9, "Never")


async def test_one_default_priority_class(world: Any) -> None:
    resource = "priorityclasses.scheduling.k8s.io"
    world.add(resource, "usual", **class_(5, globalDefault=True))
    plugin, path = Priority(world.access), "scheduling.k8s.io:priorityclasses"
    second = {"metadata": {"name": "second"}, "value": 1, "globalDefault": True}
    with pytest.raises(ApiError, match="usual is already marked as default"):
        await world.run(plugin, path, second)
    same = {"metadata": {"name": "usual"}, "value": 5, "globalDefault": True}
    await world.run(plugin, path, same, same)


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ([], ["not-ready", "unreachable"]),
        ([{"operator": "Exists"}], []),
        ([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}], ["unreachable"]),
        (
            [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}],
            ["not-ready", "unreachable"],
        ),
    ],
)
async def test_default_tolerations(world: Any, given: list[Object], added: list[str]) -> None:
    obj = pod(tolerations=list(given))
    await world.run(DefaultTolerationSeconds(), "pods", obj)
    assert obj["spec"]["tolerations"] == given + [
        {
            "key": f"node.kubernetes.io/{name}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 300,
        }
        for name in added
    ]


async def test_runtime_class_lends_overhead_and_scheduling(world: Any) -> None:
    toleration = {"key": "sandbox", "operator": "Exists"}
    scheduling = {"nodeSelector": {"sandbox": "yes"}, "tolerations": [toleration]}
    world.add(
        "runtimeclasses.node.k8s.io",
        "gvisor",
        handler="runsc",
        overhead={"podFixed": {"cpu": "10m"}},
        scheduling=scheduling,
    )
    obj = pod(runtimeClassName="gvisor", nodeSelector={"disk": "ssd"})
    await world.run(RuntimeClass(world.access), "pods", obj)
    assert obj["spec"]["overhead"] == {"cpu": "10m"}
    assert obj["spec"]["nodeSelector"] == {"disk": "ssd", "sandbox": "yes"}
    assert obj["spec"]["tolerations"] == [toleration]
    conflicting = pod(runtimeClassName="gvisor", nodeSelector={"sandbox": "no"})
    with pytest.raises(ApiError, match="conflict: runtimeClass"):
        await world.run(RuntimeClass(world.access), "pods", conflicting)
    with pytest.raises(ApiError, match="doesn't match RuntimeClass's defined Overhead"):
        other = pod(runtimeClassName="gvisor", overhead={"cpu": "1"})
        await world.run(RuntimeClass(world.access), "pods", other)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"runtimeClassName": "none"}, 'pod rejected: RuntimeClass "none" not found'),
        ({"overhead": {"cpu": "1"}}, "Pod Overhead set without corresponding RuntimeClass"),
    ],
)
async def test_runtime_class_refusals(world: Any, spec: Object, why: str) -> None:
    with pytest.raises(ApiError, match=why):
        await world.run(RuntimeClass(world.access), "pods", pod(**spec))


def test_redundant_tolerations_are_dropped() -> None:
    narrow = {"key": "a", "operator": "Equal", "value": "1", "effect": "NoSchedule"}
    wide = {"key": "a", "operator": "Exists"}
    other = {"key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    longer = {**other, "tolerationSeconds": 9}
    assert merge_tolerations([narrow], [wide]) == [wide]
    assert merge_tolerations([wide], [narrow, wide]) == [wide]
    assert merge_tolerations([other], [longer]) == [longer]
    assert merge_tolerations([narrow], [other]) == [narrow, other]


async def test_topology_labels_come_with_the_binding(world: Any) -> None:
    labels = {"topology.kubernetes.io/zone": "z1", "other": "x"}
    world.add("nodes", "n1", metadata={"labels": labels})
    plugin = PodTopologyLabels(world.access)
    binding: Object = {
        "metadata": {"name": "web", "namespace": "ns"},
        "target": {"kind": "Node", "name": "n1"},
    }
    await world.run(plugin, "pods/binding", binding)
    assert binding["metadata"]["labels"] == {"topology.kubernetes.io/zone": "z1"}
    placed = pod(nodeName="n1", metadata={"labels": {"app": "web"}})
    await world.run(plugin, "pods", placed)
    assert placed["metadata"]["labels"] == {"app": "web", "topology.kubernetes.io/zone": "z1"}
