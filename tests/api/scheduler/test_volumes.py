"""Pods whose claims wait for them: the scheduler, the binder and the provisioner together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import secured_server
from tests.api.controllers.conftest import client_as, eventually, running
from tests.api.controllers.test_persistent_volumes import Storage, volume
from tests.api.controllers.test_persistent_volumes import claim as claim_in_ns

from navarch.api.types.core_v1 import Node, PersistentVolumeClaim, Pod, ServiceAccount
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.storage_v1 import CSIDriver
from navarch.apiserver.server import Server
from navarch.client import Client, ClientConfig, InformerFactory
from navarch.node.volumes.local_path import LocalPathVolumes, make

from .test_binding import add_node, node, scheduling, when

Object = dict[str, Any]
HOSTNAME = "kubernetes.io/hostname"
CONTROLLERS = (
    "persistentvolume-binder",
    "local-path-provisioner",
    "local-path-reclaimer",
    "persistentvolume-expander",
    "pvc-protection",
    "pv-protection",
)


@pytest.fixture
async def client(api_server: Server) -> AsyncIterator[Client]:
    async with Client(ClientConfig(api_server.url)) as client:
        yield client


@pytest.fixture
async def storage(client: Client) -> AsyncIterator[Storage]:
    async with running(client, *CONTROLLERS), scheduling(client):
        yield Storage(client)


def claim(name: str, size: str = "1Gi", **spec: Any) -> Object:
    made = claim_in_ns(name, size, **spec)
    made["metadata"]["namespace"] = "default"
    return made


def storage_class(name: str, provisioner: str = "navarch.dev/local-path", **fields: Any) -> Object:
    late = {"volumeBindingMode": "WaitForFirstConsumer"}
    return {"metadata": {"name": name}, "provisioner": provisioner, **late, **fields}


def local(name: str, on: str, size: str = "1Gi") -> Object:
    terms = [{"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [on]}]}]
    affinity = {"required": {"nodeSelectorTerms": terms}}
    source = {"path": f"/mnt/{name}"}
    return volume(name, size, storageClassName="local", local=source, nodeAffinity=affinity)


async def add_nodes(client: Client, *names: str, kind: str = "simulated") -> None:
    for name in names:
        labels = {HOSTNAME: name, "navarch.dev/node-kind": kind, "zone": f"zone-{name}"}
        made = node(name)
        made.metadata.labels = labels
        await add_node(client, made)


async def add_pod(client: Client, name: str, *claims: str, **spec: Any) -> None:
    volumes = [
        {"name": f"v{number}", "persistentVolumeClaim": {"claimName": each}}
        for number, each in enumerate(claims)
    ]
    container = {"name": "c", "image": "registry.example/x"}
    body = {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [container], "volumes": volumes, **spec},
    }
    await client.dynamic("", "v1", "pods").create(body)


async def bound(client: Client, name: str) -> str:
    """The node of the pod, once it has one."""
    return (await when(client, name, lambda pod: bool(pod.spec.nodeName))).spec.nodeName


async def refused(client: Client, name: str, text: str) -> None:
    await when(
        client,
        name,
        lambda pod: any(text in condition.message for condition in pod.status.conditions),
    )


async def of(client: Client, name: str) -> PersistentVolumeClaim:
    return await client.resource(PersistentVolumeClaim).get(name, "default")


async def test_a_volume_is_made_where_the_pod_goes(client: Client, storage: Storage) -> None:
    await add_nodes(client, "n1", "n2")
    await storage.make(storage_class("late"), claim("data", storageClassName="late"))
    await storage.event("data", "WaitForFirstConsumer")
    await add_pod(client, "p", "data", nodeSelector={HOSTNAME: "n2"})
    assert await bound(client, "p") == "n2"
    found = await of(client, "data")
    assert found.metadata.annotations["volume.kubernetes.io/selected-node"] == "n2"
    assert found.status.phase == "Bound"
    assert found.status.capacity == {"storage": "1Gi"}
    assert found.spec.volumeName == f"pvc-{found.metadata.uid}"
    made = await storage.volume(found.spec.volumeName, "Bound")
    annotations = made.metadata.annotations
    assert annotations["pv.kubernetes.io/provisioned-by"] == "navarch.dev/local-path"
    assert made.spec.persistentVolumeReclaimPolicy == "Delete"
    assert "external-provisioner.volume.kubernetes.io/finalizer" in made.metadata.finalizers
    affinity = made.spec.nodeAffinity
    assert affinity is not None and affinity.required is not None
    requirement = affinity.required.nodeSelectorTerms[0].matchExpressions[0]
    assert (requirement.key, requirement.values) == (HOSTNAME, ["n2"])
    await storage.event("data", "ExternalProvisioning", "'navarch.dev/local-path'")
    await storage.event("data", "ProvisioningSucceeded", made.metadata.name)
    # Whoever uses the volume later has to go there.
    await add_pod(client, "q", "data")
    assert await bound(client, "q") == "n2"
    await add_pod(client, "elsewhere", "data", nodeSelector={HOSTNAME: "n1"})
    await refused(client, "elsewhere", "node(s) didn't match PersistentVolume's node affinity")
    for name in ("p", "q", "elsewhere"):
        await client.resource(Pod).delete(name, "default", grace_period=0)
    await storage.claims.delete("data", "default")

    async def is_gone() -> bool:
        return not (await storage.volumes.list()).items

    await eventually(is_gone, "the end of the volume")


async def test_free_volumes_go_before_new_ones(client: Client, storage: Storage) -> None:
    """Two claims of one pod need two volumes of one node, the small claim the small volume."""
    await add_nodes(client, "n1", "n2", "n3")
    await storage.make(
        storage_class("local", "kubernetes.io/no-provisioner"),
        local("a1", "n1", "5Gi"),
        local("b1", "n2", "1Gi"),
        local("b2", "n2", "3Gi"),
        local("b3", "n2", "9Gi"),
    )
    for name in ("a1", "b1", "b2", "b3"):
        await storage.volume(name, "Available")
    await storage.make(
        claim("large", "2Gi", storageClassName="local"),
        claim("small", "1Gi", storageClassName="local"),
    )
    await add_pod(client, "p", "large", "small")
    assert await bound(client, "p") == "n2"
    assert (await of(client, "small")).spec.volumeName == "b1"
    assert (await of(client, "large")).spec.volumeName == "b2"
    await storage.make(claim("huge", "10Gi", storageClassName="local"))
    await add_pod(client, "q", "huge")
    await refused(
        client,
        "q",
        "0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind.",
    )
    await storage.make(local("c1", "n3", "10Gi"))
    assert await bound(client, "q") == "n3"


async def test_many_pods_at_once_get_volumes_of_their_own(client: Client, storage: Storage) -> None:
    await add_nodes(client, "n1", "n2", "n3")
    count = 12
    await storage.make(
        storage_class("local", "kubernetes.io/no-provisioner"),
        *(local(f"v{n}", f"n{n % 3 + 1}") for n in range(count)),
    )
    for number in range(count):
        await storage.volume(f"v{number}", "Available")
    for number in range(count):
        await storage.make(claim(f"c{number}", storageClassName="local"))
        await add_pod(client, f"p{number}", f"c{number}")
    nodes = [await bound(client, f"p{number}") for number in range(count)]
    names = [(await of(client, f"c{number}")).spec.volumeName for number in range(count)]
    assert len({*names}) == count
    assert nodes == [f"n{int(name[1:]) % 3 + 1}" for name in names]


async def test_topology_and_capacity_decide_where_volumes_can_be_made(
    client: Client, storage: Storage
) -> None:
    await add_nodes(client, "n1", "n2")
    only = [{"matchLabelExpressions": [{"key": "zone", "values": ["zone-n2"]}]}]
    await storage.make(
        storage_class("zonal", allowedTopologies=only),
        storage_class("limited", "csi.example"),
        claim("zonal", storageClassName="zonal"),
        claim("limited", "5Gi", storageClassName="limited"),
        claim("elsewhere", storageClassName="zonal"),
    )
    driver = CSIDriver(metadata=ObjectMeta(name="csi.example"))
    driver.spec.storageCapacity = True
    await client.resource(CSIDriver).create(driver)
    await add_pod(client, "zonal", "zonal")
    assert await bound(client, "zonal") == "n2"
    await add_pod(client, "elsewhere", "elsewhere", nodeSelector={HOSTNAME: "n1"})
    await refused(client, "elsewhere", "1 node(s) didn't find available persistent volumes to bind")
    await add_pod(client, "limited", "limited")
    await refused(client, "limited", "2 node(s) did not have enough free storage")
    capacities = client.dynamic("storage.k8s.io", "v1", "csistoragecapacities")
    await capacities.create(
        {
            "metadata": {"name": "room", "namespace": "default"},
            "storageClassName": "limited",
            "nodeTopology": {"matchLabels": {"zone": "zone-n1"}},
            "capacity": "5Gi",
        }
    )

    async def is_chosen() -> bool:
        annotations = (await of(client, "limited")).metadata.annotations
        return annotations.get("volume.kubernetes.io/selected-node") == "n1"

    await eventually(is_chosen, "the node for the volume")
    # Nobody makes it; the pod waits for that, and holds up no other.
    await add_pod(client, "other")
    await bound(client, "other")
    waiting = await when(client, "limited", lambda pod: bool(pod.status.nominatedNodeName))
    chosen = (await of(client, "limited")).metadata.annotations[
        "volume.kubernetes.io/selected-node"
    ]
    assert (waiting.spec.nodeName, waiting.status.nominatedNodeName) == ("", chosen)
    # The driver gives up on this node, and the scheduler begins anew.
    gone = {"metadata": {"annotations": {"volume.kubernetes.io/selected-node": None}}}
    await storage.raw_claims.patch("limited", "default", gone)
    await storage.event("limited", "FailedScheduling", 'provisioning failed for PVC "limited"')
    await eventually(is_chosen, "another choice")


async def test_what_the_provisioner_refuses(client: Client, storage: Storage) -> None:
    await add_nodes(client, "n1")
    await storage.make(
        storage_class("late"),
        storage_class("odd", parameters={"speed": "high"}),
        claim("block", storageClassName="late", volumeMode="Block"),
        claim("odd", storageClassName="odd"),
    )
    for name in ("block", "odd"):
        await add_pod(client, name, name)
    await storage.event(
        "block",
        "ProvisioningFailed",
        'failed to provision volume with StorageClass "late": block volumes are not supported',
    )
    await storage.event("odd", "ProvisioningFailed", "unknown parameters: speed")
    # A pod that is deleted meanwhile leaves nothing behind.
    await client.resource(Pod).delete("odd", "default", grace_period=0)
    await storage.claims.delete("odd", "default")


async def test_immediate_classes_retained_and_grown(client: Client, storage: Storage) -> None:
    await storage.make(
        storage_class(
            "now",
            volumeBindingMode="Immediate",
            reclaimPolicy="Retain",
            allowVolumeExpansion=True,
        ),
        claim("data", storageClassName="now"),
    )
    await storage.event("data", "ProvisioningFailed", "no node takes it")
    await add_nodes(client, "n1")
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    nodes = client.dynamic("", "v1", "nodes", namespaced=False)
    await nodes.patch("n1", "", {"status": ready}, subresource="status")

    async def is_bound() -> PersistentVolumeClaim:
        found = await of(client, "data")
        assert found.status.phase == "Bound"
        return found

    found = await eventually(is_bound, "the claim")
    more = {"spec": {"resources": {"requests": {"storage": "3Gi"}}}}
    await storage.raw_claims.patch("data", "default", more)

    async def is_grown() -> bool:
        return (await of(client, "data")).status.capacity == {"storage": "3Gi"}

    await eventually(is_grown, "the larger volume")
    await storage.event(
        "data", "ExternalExpanding", "waiting for an external controller to expand this PVC"
    )
    await storage.event("data", "VolumeResizeSuccessful")
    name = found.spec.volumeName
    assert (await storage.volumes.get(name)).spec.capacity == {"storage": "3Gi"}
    await storage.claims.delete("data", "default")
    kept = await storage.volume(name, "Released")
    assert kept.metadata.finalizers == ["kubernetes.io/pv-protection"]
    # Until the user has seen what was in it.
    policy = {"spec": {"persistentVolumeReclaimPolicy": "Delete"}}
    await storage.raw_volumes.patch(name, "", policy)

    async def is_gone() -> bool:
        return not (await storage.volumes.list()).items

    await eventually(is_gone, "the end of a retained volume")


async def test_a_node_is_asked_to_remove_what_it_holds(client: Client, storage: Storage) -> None:
    """The test plays the node."""
    await add_nodes(client, "n1", kind="real")
    nodes = client.resource(Node)
    place = {"local-path.navarch.dev/directory": "/var/lib/x"}
    await nodes.patch("n1", "", {"metadata": {"annotations": place}})
    await storage.make(storage_class("late"), claim("data", storageClassName="late"))
    await add_pod(client, "p", "data")
    await bound(client, "p")
    name = (await of(client, "data")).spec.volumeName
    made = await storage.volume(name, "Bound")
    assert made.spec.local is not None and made.spec.local.path == f"/var/lib/x/{name}"
    await client.resource(Pod).delete("p", "default", grace_period=0)
    await storage.claims.delete("data", "default")

    async def is_asked() -> bool:
        annotations = (await nodes.get("n1")).metadata.annotations
        return annotations.get("local-path.navarch.dev/remove") == name

    await eventually(is_asked, "the request to remove")
    await storage.volume(name, "Released")

    async def answer(text: str) -> None:
        found = {"local-path.navarch.dev/removed": f'{{"{name}": "{text}"}}'}
        await nodes.patch("n1", "", {"metadata": {"annotations": found}})

    await answer("disk on fire")
    assert (await storage.volume(name, "Failed")).status.message == "disk on fire"
    await storage.event(name, "VolumeFailedDelete", "disk on fire")
    # Somebody deletes the node's object, and its agent makes it anew: the disk has been there all
    # the time, and what is on it must not be forgotten.
    await nodes.delete("n1")
    await storage.make(volume("other", persistentVolumeReclaimPolicy="Retain"))
    await storage.volume("other", "Available")
    await storage.volume(name, "Failed")
    await nodes.create(Node(metadata=ObjectMeta(name="n1", annotations=place)))
    await eventually(is_asked, "the request to a node that is back")
    await storage.raw_volumes.delete("other", "")
    await answer("")

    async def is_gone() -> bool:
        annotations = (await nodes.get("n1")).metadata.annotations
        no_request = "local-path.navarch.dev/remove" not in annotations
        return no_request and not (await storage.volumes.list()).items

    await eventually(is_gone, "the end of the volume")


async def test_a_driver_attaches_so_many_volumes(client: Client, storage: Storage) -> None:
    await add_nodes(client, "n1")
    csi_nodes = client.dynamic("storage.k8s.io", "v1", "csinodes", namespaced=False)
    driver: Object = {"name": "csi.example", "nodeID": "n1", "topologyKeys": []}
    driver["allocatable"] = {"count": 1}
    await csi_nodes.create({"metadata": {"name": "n1"}, "spec": {"drivers": [driver]}})
    for name in ("a", "b"):
        source = {"driver": "csi.example", "volumeHandle": name}
        await storage.make(
            volume(name, storageClassName=name, csi=source), claim(name, storageClassName=name)
        )
        await storage.volume(name, "Bound")
    for pod in ("p", "q"):
        await add_pod(client, pod, "a")
        await bound(client, pod)
    await add_pod(client, "r", "b")
    await refused(client, "r", "1 node(s) exceed max volume count")
    for pod in ("p", "q"):
        await client.resource(Pod).delete(pod, "default", grace_period=0)
    assert await bound(client, "r") == "n1"


def is_there(path: str) -> bool:
    return os.path.isdir(path)


async def test_everyone_with_the_rights_of_a_cluster(tmp_path: Path) -> None:
    """RBAC and admission are on, and each side is the user it is in a cluster; the node is real."""
    async with (
        secured_server(tmp_path) as server,
        client_as(server, "root", "system:masters") as admin,
        client_as(server, "system:kube-controller-manager") as manager,
        client_as(server, "system:kube-scheduler") as scheduler,
        client_as(server, "system:node:n1", "system:nodes") as agent,
        InformerFactory(agent) as informers,
        running(manager, *CONTROLLERS, "serviceaccount", "nodelifecycle"),
        scheduling(scheduler),
        asyncio.TaskGroup() as tasks,
    ):
        storage = Storage(admin)
        await add_nodes(admin, "n1", kind="real")
        volumes = LocalPathVolumes(agent, informers, tmp_path, "n1", agent.clock)
        await informers.start()
        serving = tasks.create_task(volumes.run())
        await storage.make(storage_class("late", allowVolumeExpansion=True))

        async def has_account() -> ServiceAccount:
            return await admin.resource(ServiceAccount).get("default", "default")

        await eventually(has_account)
        ready = {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}
        nodes = admin.dynamic("", "v1", "nodes", namespaced=False)
        await nodes.patch("n1", "", {"status": ready}, subresource="status")
        await storage.make(claim("data", storageClassName="late"))
        await add_pod(admin, "p", "data")
        assert await bound(admin, "p") == "n1"
        found = await of(admin, "data")
        made = await storage.volumes.get(found.spec.volumeName)
        make(tmp_path, made)
        assert made.spec.local is not None
        path = made.spec.local.path
        assert is_there(path)
        more = {"spec": {"resources": {"requests": {"storage": "3Gi"}}}}
        await storage.raw_claims.patch("data", "default", more)
        await storage.event("data", "VolumeResizeSuccessful")
        await admin.resource(Pod).delete("p", "default", grace_period=0)
        await storage.claims.delete("data", "default")

        async def is_gone() -> bool:
            return not is_there(path) and not (await storage.volumes.list()).items

        await eventually(is_gone, "the end of the volume")
        serving.cancel()
