"""NodeRestriction: a kubelet writes its own node, its pods' status, mirror pods, pod tokens."""

from __future__ import annotations

import base64
import copy
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from navarch.api.errors import ApiError
from navarch.apiserver.admission.node_restriction import NodeRestriction
from navarch.apiserver.authorization import build_authorizer
from navarch.apiserver.contracts import UserInfo

NODE = UserInfo("system:node:n1", groups=("system:nodes",))
MIRROR = "kubernetes.io/config.mirror"

Object = dict[str, Any]


@pytest.fixture
def plugin(world: Any) -> NodeRestriction:
    world.add("nodes", "n1", metadata={"uid": "node-uid"})
    world.add("pods", "mine", "ns", metadata={"uid": "u1"}, spec={"nodeName": "n1"})
    world.add("pods", "theirs", "ns", metadata={"uid": "u2"}, spec={"nodeName": "n2"})
    return NodeRestriction(world.access, build_authorizer(world.lookup))


def node(name: str = "n1", **fields: Any) -> Object:
    return {"metadata": {"name": name, **fields.pop("metadata", {})}, **fields}


def with_labels(**labels: str) -> Object:
    return node(metadata={"labels": {k.replace("__", "/"): v for k, v in labels.items()}})


NODE_CASES: list[Any] = [
    pytest.param(node(), None, "", id="create own"),
    pytest.param(node("n2"), None, 'not allowed to modify node "n2"', id="create other"),
    pytest.param(node("n2"), node("n2"), 'not allowed to modify node "n2"', id="update other"),
    pytest.param(
        node(metadata={"labels": {"kubernetes.io/hostname": "n1", "own.example/x": "1"}}),
        None,
        "",
        id="allowed labels",
    ),
    pytest.param(
        node(metadata={"labels": {"node.kubernetes.io/x": "1", "a.kubelet.kubernetes.io/b": "1"}}),
        node(),
        "",
        id="kubelet domains",
    ),
    pytest.param(
        node(metadata={"labels": {"node-restriction.kubernetes.io/x": "1"}}),
        None,
        "not allowed to set the following labels: node-restriction.kubernetes.io/x",
        id="restricted label",
    ),
    pytest.param(
        node(metadata={"labels": {"a.node-restriction.kubernetes.io/x": "1"}}),
        node(),
        "is not allowed to modify labels: a.node-restriction",
        id="restricted subdomain",
    ),
    pytest.param(
        node(),
        node(metadata={"labels": {"node-role.kubernetes.io/control-plane": ""}}),
        "is not allowed to modify labels: node-role",
        id="removed label",
    ),
    pytest.param(
        node(spec={"taints": []}),
        node(spec={"taints": [{"key": "a", "effect": "NoSchedule"}]}),
        "not allowed to modify taints",
        id="taints",
    ),
    pytest.param(
        node(metadata={"ownerReferences": [{"name": "x"}]}),
        node(),
        "not allowed to modify ownerReferences",
        id="owners",
    ),
]


@pytest.mark.parametrize(("new", "old", "why"), NODE_CASES)
async def test_its_node(
    world: Any, plugin: NodeRestriction, new: Object, old: Object | None, why: str
) -> None:
    if not why:
        await world.run(plugin, "nodes", new, old, user=NODE)
        return
    with pytest.raises(ApiError, match=why) as raised:
        await world.run(plugin, "nodes", new, old, user=NODE)
    assert raised.value.status == 403
    await world.run(plugin, "nodes", new, old)


def mirror(**spec: Any) -> Object:
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-uid"}
    metadata = {
        "name": "static-n1",
        "namespace": "ns",
        "annotations": {MIRROR: "hash"},
        "ownerReferences": [{**owner, "controller": True}],
    }
    return {"metadata": metadata, "spec": {"nodeName": "n1", **spec}}


def changed(*path: Any, value: Any) -> Object:
    obj = mirror()
    target: Any = obj
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return obj


SECRET = {"name": "s", "secret": {"secretName": "s"}}
TOKEN = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}
ENV = {"name": "c", "envFrom": [{"configMapRef": {"name": "cm"}}]}


@pytest.mark.parametrize(
    ("pod", "why"),
    [
        (mirror(), ""),
        (mirror(volumes=[{"name": "h", "hostPath": {"path": "/x"}}]), ""),
        (changed("metadata", "annotations", value={}), "can only create mirror pods"),
        (changed("spec", "nodeName", value="n2"), "spec.nodeName set to itself"),
        (changed("metadata", "ownerReferences", value=[]), "an owner reference set to itself"),
        (changed("metadata", "ownerReferences", 0, "uid", value="x"), "UID mismatch"),
        (changed("metadata", "ownerReferences", 0, "name", value="n2"), "an owner reference"),
        (
            changed("metadata", "ownerReferences", 0, "controller", value=False),
            "a controller owner reference",
        ),
        (
            changed("metadata", "ownerReferences", 0, "blockOwnerDeletion", value=True),
            "must not set blockOwnerDeletion",
        ),
        (mirror(serviceAccountName="x"), "reference serviceaccounts"),
        (mirror(volumes=[SECRET]), "reference secrets"),
        (mirror(volumes=[TOKEN]), "via projected volumes"),
        (mirror(ephemeralContainers=[ENV]), "reference configmaps"),
        (
            mirror(volumes=[{"name": "p", "persistentVolumeClaim": {"claimName": "c"}}]),
            "reference persistentvolumeclaims",
        ),
    ],
)
async def test_mirror_pods(world: Any, plugin: NodeRestriction, pod: Object, why: str) -> None:
    if not why:
        await world.run(plugin, "pods", pod, user=NODE)
        return
    with pytest.raises(ApiError, match=why):
        await world.run(plugin, "pods", pod, user=NODE)


@pytest.mark.parametrize(("name", "allowed"), [("mine", True), ("theirs", False)])
async def test_status_deletion_and_eviction_of_its_pods(
    world: Any, plugin: NodeRestriction, name: str, allowed: bool
) -> None:
    old = world.lookup.get("pods", "ns", name)
    new = {**copy.deepcopy(old), "status": {"phase": "Running"}}
    eviction = {"metadata": {"name": name, "namespace": "ns"}}
    runs: tuple[Callable[[], Awaitable[Any]], ...] = (
        lambda: world.run(plugin, "pods/status", new, old, user=NODE),
        lambda: world.run(plugin, "pods", None, old, operation="DELETE", user=NODE),
        lambda: world.run(plugin, "pods/eviction", eviction, operation="CREATE", user=NODE),
    )
    for run in runs:
        if allowed:
            await run()
        else:
            with pytest.raises(ApiError) as raised:
                await run()
            assert raised.value.status == 403


async def test_status_may_not_smuggle(world: Any, plugin: NodeRestriction) -> None:
    old = world.lookup.get("pods", "ns", "mine")
    relabelled = copy.deepcopy(old)
    relabelled["metadata"]["labels"] = {"app": "x"}
    with pytest.raises(ApiError, match="cannot update labels through pod status"):
        await world.run(plugin, "pods/status", relabelled, old, user=NODE)
    claims = {**old, "status": {"resourceClaimStatuses": [{"name": "a"}]}}
    with pytest.raises(ApiError, match="cannot update resource claim"):
        await world.run(plugin, "pods/status", claims, old, user=NODE)
    with pytest.raises(ApiError, match="can only create and delete mirror pods"):
        await world.run(plugin, "pods", old, old, user=NODE)
    with pytest.raises(ApiError, match="unexpected pod subresource"):
        await world.run(plugin, "pods/resize", old, old, user=NODE)


def token(name: str = "mine", uid: str = "u1", **spec: Any) -> Object:
    ref = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
    return {
        "metadata": {"name": "robot", "namespace": "ns"},
        "spec": {"boundObjectRef": ref, **spec},
    }


def projecting(world: Any, audience: str) -> None:
    sources = [{"serviceAccountToken": {"path": "t", "audience": audience}}]
    volumes = [{"name": "t", "projected": {"sources": sources}}]
    spec = {"nodeName": "n1", "volumes": volumes}
    world.add("pods", "mine", "ns", metadata={"uid": "u1"}, spec=spec)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (token(audiences=["vault"]), ""),
        (token(boundObjectRef=None), "not bound to a pod"),
        (token(uid=""), "without a uid"),
        (token(uid="old"), "does not match the UID in record"),
        (token("theirs", "u2"), "pod scheduled on a different node"),
        (token("none"), 'pods "none" not found'),
        (token(), "not found in pod spec volume"),
        (token(audiences=["other"]), "not authorized to request tokens for this audience"),
        (token(audiences=["vault", "other"]), "may only request 0 or 1 audiences"),
    ],
)
async def test_tokens(world: Any, plugin: NodeRestriction, request_: Object, why: str) -> None:
    projecting(world, "vault")
    path = "serviceaccounts/token"
    if not why:
        await world.run(plugin, path, request_, operation="CREATE", user=NODE)
        return
    with pytest.raises(ApiError, match=why):
        await world.run(plugin, path, request_, operation="CREATE", user=NODE)


async def test_tokens_for_csi_drivers(world: Any, plugin: NodeRestriction) -> None:
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]
    spec = {"nodeName": "n1", "volumes": volumes}
    world.add("pods", "mine", "ns", metadata={"uid": "u1"}, spec=spec)
    world.add("persistentvolumeclaims", "c", "ns", spec={"volumeName": "pv"})
    world.add("persistentvolumes", "pv", spec={"csi": {"driver": "d"}})
    requests = [{"audience": "vault"}]
    world.add("csidrivers.storage.k8s.io", "d", spec={"tokenRequests": requests})
    asked = token(audiences=["vault"])
    await world.run(plugin, "serviceaccounts/token", asked, operation="CREATE", user=NODE)


@pytest.mark.parametrize(
    ("path", "obj", "old", "why"),
    [
        (
            "coordination.k8s.io:leases",
            {"metadata": {"name": "n1", "namespace": "kube-node-lease"}},
            None,
            "",
        ),
        (
            "coordination.k8s.io:leases",
            {"metadata": {"name": "n2", "namespace": "kube-node-lease"}},
            None,
            "same name as the requesting node",
        ),
        (
            "coordination.k8s.io:leases",
            {"metadata": {"name": "n1", "namespace": "kube-system"}},
            None,
            '"kube-node-lease" system namespace',
        ),
        ("storage.k8s.io:csinodes", node("n1"), None, ""),
        ("storage.k8s.io:csinodes", node("n2"), None, "same name as the requesting node"),
        ("resource.k8s.io:resourceslices", node("s", spec={"nodeName": "n1"}), None, ""),
        (
            "resource.k8s.io:resourceslices",
            node("s", spec={"nodeName": "n2"}),
            None,
            "can only create ResourceSlice",
        ),
        ("persistentvolumeclaims", node("c"), node("c"), "may only update PVC status"),
        (
            "persistentvolumeclaims/status",
            node("c", status={"capacity": {"storage": "2Gi"}}),
            node("c", status={"capacity": {"storage": "1Gi"}}),
            "",
        ),
        (
            "persistentvolumeclaims/status",
            node("c", status={"phase": "Bound"}),
            node("c", status={"phase": "Lost"}),
            "not allowed to update fields other than",
        ),
    ],
)
async def test_its_other_objects(
    world: Any, plugin: NodeRestriction, path: str, obj: Object, old: Object | None, why: str
) -> None:
    if not why:
        await world.run(plugin, path, obj, old, user=NODE)
        return
    with pytest.raises(ApiError, match=why):
        await world.run(plugin, path, obj, old, user=NODE)


@pytest.mark.parametrize(("name", "why"), [("n1", ""), ("n2", "can only create a node CSR")])
async def test_its_certificates(world: Any, plugin: NodeRestriction, name: str, why: str) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{name}")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    pem = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    text = base64.b64encode(pem.public_bytes(Encoding.PEM)).decode()
    spec = {"signerName": "kubernetes.io/kubelet-serving", "request": text}
    path = "certificates.k8s.io:certificatesigningrequests"
    if not why:
        await world.run(plugin, path, node("csr", spec=spec), user=NODE)
        return
    with pytest.raises(ApiError, match=why):
        await world.run(plugin, path, node("csr", spec=spec), user=NODE)
