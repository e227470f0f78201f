"""Kinds as objects: each is found in discovery and can be created, read, listed, watched, patched,
updated and deleted, alone and in collections, and so can its status. What the objects do is tested
elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.api.conftest import Api
from tests.api.controllers.conftest import eventually

Object = dict[str, Any]
SELECTED = "labelSelector=example%3De2e"
AT_ONCE = "gracePeriodSeconds=0&propagationPolicy=Background"
OTHER_NAMESPACE = "kube-system"


@dataclass(frozen=True)
class Row:
    """A kind, an object of it, and what changes."""

    names: tuple[str, ...]
    """Conformance tests."""

    path: str
    """Group, version and resource; `*` before it says that it has no namespaces."""

    body: Object
    changes: tuple[Object, Object] = ({}, {})
    """What is patched, and what an update writes then."""

    status: tuple[Object, Object] | None = None
    """The same of the status."""

    objects: tuple[str, ...] = ("", "", "", "")
    """Names of the objects, if the server cannot make them up."""

    keeps_metadata: bool = False
    """Whether who writes the status cannot change metadata."""


def policy(kind: str, body: Object, changes: tuple[Object, Object], **more: Any) -> Row:
    base = kind.removesuffix("Binding")
    plural = kind.lower() + "s" if base != kind else kind.lower().removesuffix("y") + "ies"
    title = f"{base} [Privileged:ClusterAdmin] should support {kind} API operations"
    path = f"*admissionregistration.k8s.io/v1/{plural}"
    spec_changes = ({"spec": changes[0]}, {"spec": changes[1]})
    return Row((title,), path, {"spec": body}, spec_changes, **more)


RULE = {
    "operations": ["CREATE"],
    "apiGroups": ["apps"],
    "apiVersions": ["v1"],
    "resources": ["deployments"],
}
CONSTRAINTS = {"matchConstraints": {"resourceRules": [RULE]}}
EXPRESSION = "Object{spec: Object.spec{replicas: 100}}"
MUTATION = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": EXPRESSION}}
FAILURE = ({"failurePolicy": "Ignore"}, {"failurePolicy": "Fail"})


def conditions(**more: str) -> tuple[Object, Object]:
    """A status with one condition, and one with another."""
    one = {"status": "False", "reason": "E2E", "message": "Set from a test", **more}
    first = {**one, "type": "StatusPatched"}
    return {"conditions": [first]}, {"conditions": [first, {**one, "type": "StatusUpdated"}]}


SINCE = {"lastTransitionTime": "2024-01-01T00:00:00Z"}
LABELS = {"app": "e2e"}
POD: Object = {"containers": [{"name": "c", "image": "registry.example/c:1"}]}
TEMPLATE: Object = {"metadata": {"labels": LABELS}, "spec": POD}
WORKLOAD: Object = {
    "spec": {"replicas": 1, "selector": {"matchLabels": LABELS}, "template": TEMPLATE}
}
SCALED = ({"spec": {"replicas": 2}}, {"spec": {"replicas": 3}})
CSI_VOLUME = {"name": "v", "csi": {"driver": "e2e.example.com", "volumeAttributes": {"a": "b"}}}

VOLUMES = tuple(
    f"PersistentVolumes CSI Conformance should {what}"
    for what in ("apply changes to a pv/pvc status", "run through the lifecycle of a PV and a PVC")
)


def addresses(*values: str) -> Object:
    return {"loadBalancer": {"ingress": [{"ip": value} for value in values]}}


def shares(number: int) -> Object:
    limited = {"nominalConcurrencyShares": number, "limitResponse": {"type": "Reject"}}
    return {"spec": {"type": "Limited", "limited": limited}}


SOMEBODY = {"kind": "User", "user": {"name": "e2e"}}
EVERYTHING = {"verbs": ["*"], "nonResourceURLs": ["*"]}


def limits(cpu: str) -> Object:
    return {"spec": {"limits": [{"type": "Container", "default": {"cpu": cpu}}]}}


DEVICES = "[DRA] CRUD Tests resource.k8s.io/v1 "
REQUEST = {"name": "req-0", "exactly": {"deviceClassName": "dra.example.com"}}
CLAIM = {"devices": {"requests": [REQUEST]}}


def selecting(expression: str) -> Object:
    return {"spec": {"selectors": [{"cel": {"expression": expression}}]}}


ROWS = [
    policy(
        "ValidatingAdmissionPolicy",
        {**CONSTRAINTS, "validations": [{"expression": "object.spec.replicas <= 100"}]},
        FAILURE,
        status=conditions(**SINCE),
        keeps_metadata=True,
    ),
    policy(
        "ValidatingAdmissionPolicyBinding",
        {"policyName": "replicalimit", "validationActions": ["Deny"]},
        ({"validationActions": ["Warn"]}, {"validationActions": ["Deny", "Audit"]}),
    ),
    policy(
        "MutatingAdmissionPolicy",
        {**CONSTRAINTS, "reinvocationPolicy": "Never", "mutations": [MUTATION]},
        FAILURE,
    ),
    policy(
        "MutatingAdmissionPolicyBinding",
        {"policyName": "replicalimit"},
        ({"policyName": "first"}, {"policyName": "second"}),
    ),
    Row(
        ("API priority and fairness should support FlowSchema API operations",),
        "*flowcontrol.apiserver.k8s.io/v1/flowschemas",
        {
            "spec": {
                "matchingPrecedence": 10000,
                "priorityLevelConfiguration": {"name": "global-default"},
                "distinguisherMethod": {"type": "ByUser"},
                "rules": [{"subjects": [SOMEBODY], "nonResourceRules": [EVERYTHING]}],
            }
        },
        ({"spec": {"matchingPrecedence": 9999}}, {"spec": {"matchingPrecedence": 9998}}),
        conditions(**SINCE),
        keeps_metadata=True,
    ),
    Row(
        ("API priority and fairness should support PriorityLevelConfiguration API operations",),
        "*flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
        shares(2),
        (shares(4), shares(5)),
        conditions(**SINCE),
        keeps_metadata=True,
    ),
    Row(
        ("Ingress API should support creating Ingress API operations",),
        "networking.k8s.io/v1/ingresses",
        {"spec": {"defaultBackend": {"service": {"name": "b", "port": {"number": 80}}}}},
        ({"spec": {"ingressClassName": "one"}}, {"spec": {"ingressClassName": "two"}}),
        (addresses("169.1.1.1"), addresses("169.1.1.2")),
    ),
    Row(
        ("IngressClass API should support creating IngressClass API operations",),
        "*networking.k8s.io/v1/ingressclasses",
        {"spec": {"controller": "example.com/controller"}},
    ),
    Row(
        ("ServiceCIDR and IPAddress API should support IPAddress API operations",),
        "*networking.k8s.io/v1/ipaddresses",
        {"spec": {"parentRef": {"resource": "services", "name": "s", "namespace": "default"}}},
        objects=("192.168.1.1", "192.168.1.2", "192.168.1.3", "2001:db8::1"),
    ),
    Row(
        ("ServiceCIDR and IPAddress API should support ServiceCIDR API operations",),
        "*networking.k8s.io/v1/servicecidrs",
        {"spec": {"cidrs": ["2001:db1::/64"]}},
        status=conditions(**SINCE),
        keeps_metadata=True,
    ),
    Row(
        ("EndpointSlice should support creating EndpointSlice API operations",),
        "discovery.k8s.io/v1/endpointslices",
        {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": []},
        (
            {"endpoints": [{"addresses": ["10.0.0.2"]}]},
            {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        ),
    ),
    Row(
        ("Endpoints should test the lifecycle of an Endpoint",),
        "v1/endpoints",
        {"subsets": [{"addresses": [{"ip": "10.0.0.24"}], "ports": [{"port": 80}]}]},
        (
            {"subsets": [{"addresses": [{"ip": "10.0.0.25"}], "ports": [{"port": 8080}]}]},
            {"subsets": [{"addresses": [{"ip": "10.0.0.26"}], "ports": [{"port": 81}]}]},
        ),
    ),
    Row(
        (
            "Services should delete a collection of services",
            "Services should complete a service status lifecycle",
        ),
        "v1/services",
        {"spec": {"ports": [{"port": 80}], "type": "LoadBalancer", "selector": LABELS}},
        ({"spec": {"selector": {"app": "one"}}}, {"spec": {"selector": {"app": "two"}}}),
        (addresses("203.0.113.1"), addresses("203.0.113.2")),
    ),
    Row(
        (
            "ConfigMap should run through a ConfigMap lifecycle",
            "ConfigMap should update ConfigMap successfully [NodeConformance]",
        ),
        "v1/configmaps",
        {"data": {"valueName": "value"}},
        ({"data": {"valueName": "value1"}}, {"data": {"valueName": "value2"}}),
    ),
    Row(
        ("Secrets should patch a secret",),
        "v1/secrets",
        {"data": {"key": "dmFsdWU="}},
        ({"data": {"key": "dmFsdWUx"}}, {"data": {"key": "dmFsdWUy"}}),
    ),
    Row(
        ("LimitRange should list, patch and delete a LimitRange by collection",),
        "v1/limitranges",
        limits("300m"),
        (limits("400m"), limits("500m")),
    ),
    Row(
        (
            "PodTemplates should run the lifecycle of PodTemplates",
            "PodTemplates should replace a pod template",
            "PodTemplates should delete a collection of pod templates",
        ),
        "v1/podtemplates",
        {"template": TEMPLATE},
        (
            {"template": {"spec": {"hostname": "a"}}},
            {"template": {"spec": {**POD, "hostname": "b"}}},
        ),
    ),
    Row(
        (
            "CSIInlineVolumes should support CSIVolumeSource in Pod API",
            "Pods should delete a collection of pods",
        ),
        "v1/pods",
        {"spec": {**POD, "volumes": [CSI_VOLUME]}},
        status=({"message": "patched", "reason": "E2E"}, {"message": "updated"}),
    ),
    Row(
        ("Node Lifecycle should run through the lifecycle of a node",),
        "*v1/nodes",
        {"spec": {"unschedulable": True}},
        status=conditions(),
    ),
    Row(
        (
            "ReplicaSet should list and delete a collection of ReplicaSets",
            "ReplicaSet should validate Replicaset Status endpoints",
        ),
        "apps/v1/replicasets",
        WORKLOAD,
        SCALED,
        conditions(),
    ),
    Row(
        ("ReplicationController should test the lifecycle of a ReplicationController",),
        "v1/replicationcontrollers",
        {"spec": {"replicas": 1, "selector": LABELS, "template": TEMPLATE}},
        SCALED,
        ({"replicas": 1, "readyReplicas": 1}, {"replicas": 2, "readyReplicas": 1}),
    ),
    Row(
        VOLUMES,
        "v1/persistentvolumeclaims",
        {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}},
        status=conditions(),
    ),
    Row(
        VOLUMES,
        "*v1/persistentvolumes",
        {
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "1Gi"},
                "hostPath": {"path": "/tmp/e2e"},
            }
        },
        status=({"message": "patched", "reason": "E2E"}, {"message": "updated", "reason": "E2E"}),
    ),
    Row(
        ("Deployment should validate Deployment Status endpoints",),
        "apps/v1/deployments",
        WORKLOAD,
        SCALED,
        conditions(),
    ),
    Row(
        (
            "Job should manage the lifecycle of a job",
            "Job should apply changes to a job status",
        ),
        "batch/v1/jobs",
        {"spec": {"suspend": True, "template": {"spec": {**POD, "restartPolicy": "Never"}}}},
        ({"spec": {"parallelism": 2}}, {"spec": {"parallelism": 3}}),
        conditions(),
    ),
    Row(
        ("Lease lease API should be available",),
        "coordination.k8s.io/v1/leases",
        {"spec": {"holderIdentity": "holder", "leaseDurationSeconds": 30, "leaseTransitions": 0}},
        ({"spec": {"holderIdentity": "holder2"}}, {"spec": {"leaseDurationSeconds": 50}}),
    ),
    Row(
        ("RuntimeClass should support RuntimeClasses API operations",),
        "*node.k8s.io/v1/runtimeclasses",
        {"handler": "e2e"},
    ),
    Row(
        ("CSIInlineVolumes should run through the lifecycle of a CSIDriver",),
        "*storage.k8s.io/v1/csidrivers",
        {"spec": {"attachRequired": False}},
        ({"spec": {"storageCapacity": True}}, {"spec": {"storageCapacity": False}}),
    ),
    Row(
        ("CSINodes CSI Conformance should run through the lifecycle of a csinode",),
        "*storage.k8s.io/v1/csinodes",
        {"spec": {"drivers": []}},
    ),
    Row(
        ("CSIStorageCapacity should support CSIStorageCapacities API operations",),
        "storage.k8s.io/v1/csistoragecapacities",
        {"storageClassName": "fast", "capacity": "1Gi"},
        ({"capacity": "2Gi"}, {"maximumVolumeSize": "1Gi"}),
    ),
    Row(
        ("StorageClasses CSI Conformance should run through the lifecycle of a StorageClass",),
        "*storage.k8s.io/v1/storageclasses",
        {"provisioner": "e2e-fake-provisioner"},
        ({"allowVolumeExpansion": True}, {"allowVolumeExpansion": False}),
    ),
    Row(
        (
            "VolumeAttachment Conformance should run through the lifecycle of a VolumeAttachment",
            "VolumeAttachment Conformance should apply changes to a volumeattachment status",
        ),
        "*storage.k8s.io/v1/volumeattachments",
        {"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "pv"}}},
        status=({"attached": True}, {"attached": False}),
        keeps_metadata=True,
    ),
    Row(
        (
            "VolumeAttributesClass [FeatureGate:VolumeAttributesClass] should run through the "
            "lifecycle of a VolumeAttributesClass",
        ),
        "*storage.k8s.io/v1/volumeattributesclasses",
        {"driverName": "e2e.example.com", "parameters": {"iops": "100"}},
    ),
    Row(
        (DEVICES + "DeviceClass",),
        "*resource.k8s.io/v1/deviceclasses",
        selecting("false"),
        (selecting("1 == 0"), selecting("2 == 0")),
    ),
    Row(
        (DEVICES + "ResourceClaim",),
        "resource.k8s.io/v1/resourceclaims",
        {"spec": CLAIM},
        status=({"allocation": {}}, {"allocation": {}}),
        keeps_metadata=True,
    ),
    Row(
        (DEVICES + "ResourceClaimTemplate",),
        "resource.k8s.io/v1/resourceclaimtemplates",
        {"spec": {"spec": CLAIM}},
    ),
    Row(
        (DEVICES + "ResourceSlice",),
        "*resource.k8s.io/v1/resourceslices",
        {
            "spec": {
                "driver": "dra.example.com",
                "pool": {"name": "cluster", "generation": 1, "resourceSliceCount": 1},
                "nodeName": "no-such-node",
            }
        },
        (
            {"spec": {"devices": [{"name": "device-0"}]}},
            {"spec": {"devices": [{"name": "device-1"}]}},
        ),
    ),
]


async def is_discovered(api: Api, group: str, plural: str, has_status: bool) -> str:
    """The kind of the resource, found on the way from the top."""
    root = "/api/v1"
    if group != "v1":
        name, _, version = group.partition("/")
        root = f"/apis/{group}"
        listed = {each["name"]: each for each in (await api.get("/apis")).ok()["groups"]}
        for document in (listed[name], (await api.get(f"/apis/{name}")).ok()):
            assert version in [each["version"] for each in document["versions"]]
    resources = {each["name"]: each for each in (await api.get(root)).ok()["resources"]}
    verbs = {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
    assert verbs <= set(resources[plural]["verbs"])
    assert (f"{plural}/status" in resources) >= has_status
    kind: str = resources[plural]["kind"]
    return kind


async def make(api: Api, path: str, row: Row, number: int, label: str = "e2e") -> Object:
    name = row.objects[number]
    metadata = {"name": name} if name else {"generateName": "e2e-example-"}
    metadata["labels"] = {"example": label}  # type: ignore[assignment]
    made: Object = (await api.post(path, {**row.body, "metadata": metadata})).ok(201)
    return made


def includes(found: Any, wanted: Any) -> bool:
    """Whether everything that is wanted is there, with whatever the server added."""
    if isinstance(wanted, dict):
        return all(key in found and includes(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return all(any(includes(each, one) for each in found) for one in wanted)
    return bool(found == wanted)


async def updated(api: Api, path: str, annotation: str, change: Object) -> Object:
    """An update of what is there, again and again while others write."""

    async def update() -> Object | None:
        current = (await api.get(path)).ok()
        current["metadata"].setdefault("annotations", {})[annotation] = "true"
        for key, value in change.items():
            both = isinstance(value, dict) and key in current
            current[key] = {**current[key], **value} if both else value
        answer = await api.put(path, current)
        return None if answer.status == 409 else answer.ok()

    return await eventually(update, f"an update of {path}")


async def taken(events: AsyncIterator[Object], name: str, until: str) -> set[str]:
    """What happened to an object until that."""
    seen: set[str] = set()
    async with asyncio.timeout(60):
        async for event in events:
            if event["object"]["metadata"]["name"] == name:
                seen.add(event["type"])
            if until in seen:
                break
    return seen


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=pytest.mark.conformance(*row.names), id=row.path.rpartition("/")[2])
        for row in ROWS
    ],
)
async def test_operations(api: Api, row: Row) -> None:
    group, _, plural = row.path.lstrip("*").rpartition("/")
    is_namespaced = not row.path.startswith("*")
    root = "/api/v1" if group == "v1" else f"/apis/{group}"
    path = f"{root}/namespaces/default/{plural}" if is_namespaced else f"{root}/{plural}"
    everywhere = f"{root}/{plural}?{SELECTED}"
    kind = await is_discovered(api, group, plural, row.status is not None)
    if is_namespaced:
        elsewhere = f"{root}/namespaces/{OTHER_NAMESPACE}/{plural}"
        await make(api, elsewhere, row, 3)
    else:
        await make(api, path, row, 3, label="other")
    first, _ = [await make(api, path, row, number) for number in range(2)]
    listed = (await api.get(f"{path}?{SELECTED}")).ok()
    assert (listed["kind"], len(listed["items"])) == (f"{kind}List", 2)
    assert len((await api.get(everywhere)).ok()["items"]) == 2 + is_namespaced
    revision = listed["metadata"]["resourceVersion"]
    name = first["metadata"]["name"]
    async with api.watch(f"{path}?watch=1&{SELECTED}&resourceVersion={revision}") as events:
        third = await make(api, path, row, 2)
        await changes(api, f"{path}/{name}", row, first)
        if row.status:
            await status_changes(api, f"{path}/{name}", row, kind, first)
        await gone(api, f"{path}/{name}")
        assert len((await api.get(f"{path}?{SELECTED}")).ok()["items"]) == 2
        assert await taken(events, third["metadata"]["name"], "ADDED")
        assert await taken(events, name, "DELETED") == {"MODIFIED", "DELETED"}
    (await api.delete(f"{path}?{SELECTED}&{AT_ONCE}")).ok()
    assert (await api.get(f"{path}?{SELECTED}")).ok()["items"] == []
    left = f"{elsewhere}?{SELECTED}" if is_namespaced else f"{path}?labelSelector=example%3Dother"
    assert len((await api.get(left)).ok()["items"]) == 1


async def changes(api: Api, one: str, row: Row, made: Object) -> None:
    read = (await api.get(one)).ok()
    assert read["metadata"]["uid"] == made["metadata"]["uid"]
    assert includes(read, row.body)
    patch = {"metadata": {"annotations": {"patched": "true"}}, **row.changes[0]}
    patched = (await api.patch(one, patch)).ok()
    assert int(read["metadata"]["resourceVersion"]) < int(patched["metadata"]["resourceVersion"])
    await updated(api, one, "updated", row.changes[1])
    found = (await api.get(one)).ok()
    for obj, wanted in ((patched, patch), (found, row.changes[1])):
        assert includes(obj, wanted)
    assert includes(found["metadata"]["annotations"], {"patched": "true", "updated": "true"})


async def status_changes(api: Api, one: str, row: Row, kind: str, made: Object) -> None:
    path = f"{one}/status"
    read = (await api.get(path)).ok()
    assert (read["kind"], read["metadata"]["uid"]) == (kind, made["metadata"]["uid"])
    first, second = row.status or ({}, {})
    patch = {"metadata": {"annotations": {"patchedstatus": "true"}}, "status": first}
    patched = (await api.patch(path, patch)).ok()
    assert includes(patched["status"], first)
    assert includes((await api.get(path)).ok()["status"], first)
    assert patched["spec"] == read["spec"]
    await updated(api, path, "updatedstatus", {"status": second})
    found = (await api.get(one)).ok()
    assert includes(found["status"], second)
    annotations = {"patchedstatus", "updatedstatus"} & {*found["metadata"]["annotations"]}
    assert len(annotations) == (0 if row.keeps_metadata else 2)


async def gone(api: Api, path: str) -> None:
    (await api.delete(f"{path}?{AT_ONCE}")).ok()
    assert (await api.get(path)).status == 404


IMMUTABLE = "should be immutable if `immutable` field is set"


@pytest.mark.conformance(f"ConfigMap {IMMUTABLE}", f"Secrets {IMMUTABLE}")
@pytest.mark.parametrize("plural", ["configmaps", "secrets"])
async def test_immutable_content(api: Api, plural: str) -> None:
    path = f"/api/v1/namespaces/default/{plural}"
    one = f"{path}/fixed"
    (await api.post(path, {"metadata": {"name": "fixed"}, "data": {"k": "YQ=="}})).ok(201)
    (await api.patch(one, {"data": {"k": "Yg=="}})).ok()
    (await api.patch(one, {"immutable": True})).ok()
    for patch in ({"data": {"k": "Yw=="}}, {"immutable": False}):
        refused = await api.patch(one, patch)
        assert (refused.status, refused.json["reason"]) == (422, "Invalid")
        assert "field is immutable when `immutable` is set" in refused.json["message"]
    found = (await api.patch(one, {"metadata": {"labels": {"a": "b"}}})).ok()
    assert (found["data"], found["immutable"]) == ({"k": "Yg=="}, True)
    await gone(api, one)


@pytest.mark.conformance(
    "SchedulerPreemption [Serial] PriorityClass endpoints verify PriorityClass endpoints can be "
    "operated with different HTTP methods"
)
async def test_priority_classes(api: Api) -> None:
    path = "/apis/scheduling.k8s.io/v1/priorityclasses"
    for name, value in (("p1", 2), ("p2", 1)):
        (await api.post(path, {"metadata": {"name": name}, "value": value})).ok(201)
    assert {"p1", "p2"} <= {
        each["metadata"]["name"] for each in (await api.get(path)).ok()["items"]
    }
    for method in ("patch", "put"):

        async def change(method: str = method, **fields: Any) -> int:
            if method == "patch":
                return (await api.patch(f"{path}/p1", fields)).status
            current = (await api.get(f"{path}/p1")).ok()
            return (await api.put(f"{path}/p1", {**current, **fields})).status

        assert await change(description=method) == 200
        assert await change(value=10) == 422
        assert await change(preemptionPolicy="Never") == 422
        found = (await api.get(f"{path}/p1")).ok()
        assert (found["description"], found["value"]) == (method, 2)
