"""Namespaces, nodes, storage, ingresses and certificates."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from navarch.api.errors import ApiError
from navarch.apiserver.admission.base import denied
from navarch.apiserver.admission.certificates import (
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
)
from navarch.apiserver.admission.claim_resize import PersistentVolumeClaimResize
from navarch.apiserver.admission.default_class import DefaultIngressClass, DefaultStorageClass
from navarch.apiserver.admission.namespace_lifecycle import NamespaceLifecycle
from navarch.apiserver.admission.pod_resize import PodResizeValidator
from navarch.apiserver.admission.storage_protection import StorageObjectInUseProtection
from navarch.apiserver.admission.taint_nodes import TaintNodesByCondition
from navarch.apiserver.contracts import (
    AdmissionRequest,
    Attributes,
    Decision,
    RequestInfo,
    UserInfo,
)

Object = dict[str, Any]


def named(name: str = "x", namespace: str = "ns", **fields: Any) -> Object:
    metadata = {"name": name, **fields.pop("metadata", {})}
    if namespace:
        metadata["namespace"] = namespace
    return {"metadata": metadata, **fields}


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-public"])
async def test_some_namespaces_stay(world: Any, name: str) -> None:
    plugin = NamespaceLifecycle(world.access)
    old = named(name, "")
    with pytest.raises(ApiError) as raised:
        await world.run(plugin, "namespaces", None, old, operation="DELETE")
    assert raised.value.status == 403
    assert raised.value.message.endswith("this namespace may not be deleted")
    await world.run(plugin, "namespaces", None, named("other", ""), operation="DELETE")


async def test_a_missing_namespace(world: Any) -> None:
    plugin = NamespaceLifecycle(world.access)
    with pytest.raises(ApiError) as raised:
        await world.run(plugin, "configmaps", named())
    assert raised.value.status == 404
    assert raised.value.message == 'namespaces "ns" not found'
    await world.run(plugin, "nodes", named(namespace=""))
    await world.run(plugin, "authorization.k8s.io:localsubjectaccessreviews", named())


def test_a_name_that_is_generated_is_not_told_before_it_is_settled() -> None:
    """Whoever tries again would else get another complaint each time."""
    info = RequestInfo(True, "", "create", "", "v1", "pods", "", "ns", "")
    made = named("web-x7x2q", metadata={"generateName": "web-"})
    request = AdmissionRequest("CREATE", info, "Pod", UserInfo("alice"), made, None)
    for is_generated, name in ((True, "web-"), (False, "web-x7x2q")):
        request.is_name_generated = is_generated
        assert denied(request, "no").message == f'pods "{name}" is forbidden: no'


async def test_a_namespace_that_ends(world: Any) -> None:
    world.add("namespaces", "ns", status={"phase": "Terminating"})
    plugin = NamespaceLifecycle(world.access)
    with pytest.raises(ApiError) as raised:
        await world.run(plugin, "configmaps", named())
    error = raised.value
    assert (error.status, error.reason) == (403, "Forbidden")
    assert error.message == (
        'configmaps "x" is forbidden: unable to create new content in namespace ns '
        "because it is being terminated"
    )
    assert (error.details or {})["causes"] == [
        {
            "reason": "NamespaceTerminating",
            "message": "namespace ns is being terminated",
            "field": "metadata.namespace",
        }
    ]
    await world.run(plugin, "configmaps", named(), named())
    await world.run(plugin, "configmaps", None, named(), operation="DELETE")


async def test_after_a_deletion_the_cache_is_not_trusted(world: Any) -> None:
    """The namespace ends in the store already while the cache still shows it active."""
    clock = [0.0]
    plugin = NamespaceLifecycle(world.access, lambda: clock[0])
    world.add("namespaces", "ns", status={"phase": "Active"})
    reads = []

    async def newest(resource: str, namespace: str, name: str) -> Object:
        reads.append(name)
        return {"metadata": {"name": name}, "status": {"phase": "Terminating"}}

    object.__setattr__(world.access, "get", newest)
    await world.run(plugin, "configmaps", named())
    await world.run(plugin, "namespaces", None, named("ns", ""), operation="DELETE")
    with pytest.raises(ApiError, match="being terminated"):
        await world.run(plugin, "configmaps", named())
    clock[0] = 31
    await world.run(plugin, "configmaps", named())
    assert reads == ["ns"]


async def test_a_new_node_is_tainted_once(world: Any) -> None:
    node = named(namespace="")
    await world.run(TaintNodesByCondition(), "nodes", node)
    await world.run(TaintNodesByCondition(), "nodes", node)
    taint = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
    assert node["spec"]["taints"] == [taint]


@pytest.mark.parametrize(
    ("path", "finalizer"),
    [
        ("persistentvolumes", "kubernetes.io/pv-protection"),
        ("persistentvolumeclaims", "kubernetes.io/pvc-protection"),
        ("storage.k8s.io:volumeattributesclasses", "kubernetes.io/vac-protection"),
    ],
)
async def test_storage_is_born_with_a_finalizer(world: Any, path: str, finalizer: str) -> None:
    obj = named(metadata={"finalizers": ["own/one"]})
    for _ in range(2):
        await world.run(StorageObjectInUseProtection(), path, obj)
    assert obj["metadata"]["finalizers"] == ["own/one", finalizer]


def storage_class(world: Any, name: str, created: str, default: str = "true") -> None:
    annotations = {"storageclass.kubernetes.io/is-default-class": default}
    metadata = {"annotations": annotations, "creationTimestamp": created}
    world.add("storageclasses.storage.k8s.io", name, metadata=metadata, allowVolumeExpansion=True)


async def test_the_newest_default_class(world: Any) -> None:
    storage_class(world, "old", "2026-01-01T00:00:00Z")
    storage_class(world, "b", "2026-02-01T00:00:00Z")
    storage_class(world, "a", "2026-02-01T00:00:00Z")
    storage_class(world, "newest", "2026-03-01T00:00:00Z", "false")
    plugin = DefaultStorageClass(world.access)
    claim = named(spec={})
    await world.run(plugin, "persistentvolumeclaims", claim)
    assert claim["spec"]["storageClassName"] == "a"
    for wish in ("", "x"):
        claim = named(spec={"storageClassName": wish})
        await world.run(plugin, "persistentvolumeclaims", claim)
        assert claim["spec"] == {"storageClassName": wish}


async def test_the_default_ingress_class(world: Any) -> None:
    annotations = {"ingressclass.kubernetes.io/is-default-class": "true"}
    metadata = {"annotations": annotations}
    world.add("ingressclasses.networking.k8s.io", "nginx", metadata=metadata)
    plugin, path = DefaultIngressClass(world.access), "networking.k8s.io:ingresses"
    ingress = named(spec={})
    await world.run(plugin, path, ingress)
    assert ingress["spec"] == {"ingressClassName": "nginx"}
    old_way = named(spec={}, metadata={"annotations": {"kubernetes.io/ingress.class": "x"}})
    await world.run(plugin, path, old_way)
    assert old_way["spec"] == {}


def claim(size: str, phase: str = "Bound", klass: str = "fast") -> Object:
    spec = {"resources": {"requests": {"storage": size}}, "storageClassName": klass}
    return named(spec=spec, status={"phase": phase})


@pytest.mark.parametrize(
    ("new", "old", "why"),
    [
        (claim("2Gi"), claim("1Gi"), ""),
        (claim("1Gi"), claim("2Gi"), ""),
        (claim("2Gi"), claim("1Gi", "Pending"), "Only bound persistent volume claims"),
        (claim("2Gi", klass="x"), claim("1Gi", klass="x"), "must support resize"),
        (claim("2Gi", klass=""), claim("1Gi", klass=""), "must support resize"),
    ],
)
async def test_growing_claims(world: Any, new: Object, old: Object, why: str) -> None:
    storage_class(world, "fast", "2026-01-01T00:00:00Z")
    plugin = PersistentVolumeClaimResize(world.access)
    if not why:
        await world.run(plugin, "persistentvolumeclaims", new, old)
        return
    with pytest.raises(ApiError, match=why):
        await world.run(plugin, "persistentvolumeclaims", new, old)


@pytest.mark.parametrize(
    ("cpu", "os", "why", "reason"),
    [
        ("1", "linux", "", ""),
        ("3", "linux", "cpu, requested: 3000, allocatable: 2000", "NodeCapacity"),
        ("1", "windows", "only supported on linux nodes", "UnsupportedPlatform"),
    ],
)
async def test_resize_within_the_node(world: Any, cpu: str, os: str, why: str, reason: str) -> None:
    labels = {"labels": {"kubernetes.io/os": os}}
    allocatable = {"cpu": "2", "memory": "1Gi"}
    world.add("nodes", "n1", metadata=labels, status={"allocatable": allocatable})

    def sized(amount: str) -> Object:
        container = {"name": "c", "resources": {"requests": {"cpu": amount}}}
        return named(spec={"nodeName": "n1", "containers": [container]})

    plugin = PodResizeValidator(world.access)
    if not why:
        await world.run(plugin, "pods/resize", sized(cpu), sized("100m"))
        return
    with pytest.raises(ApiError, match=why) as raised:
        await world.run(plugin, "pods/resize", sized(cpu), sized("100m"))
    assert (raised.value.details or {})["causes"] == [{"reason": reason}]


class Signers:
    """Allows one verb on one signer name."""

    def __init__(self, verb: str, name: str) -> None:
        self.allowed = (verb, name)

    def authorize(self, attributes: Attributes) -> tuple[Decision, str]:
        info = attributes.info
        assert (info.group, info.resource) == ("certificates.k8s.io", "signers")
        allowed = (info.verb, info.name) == self.allowed
        return (Decision.ALLOW if allowed else Decision.NO_OPINION), ""


CSR = "certificates.k8s.io:certificatesigningrequests"


@pytest.mark.parametrize(
    ("grant", "allowed"),
    [
        (("approve", "example.com/s"), True),
        (("approve", "example.com/*"), True),
        (("approve", "other.com/*"), False),
        (("sign", "example.com/s"), False),
    ],
)
async def test_approving_takes_a_right_on_the_signer(
    world: Any, grant: tuple[str, str], allowed: bool
) -> None:
    obj = named(namespace="", spec={"signerName": "example.com/s"})
    plugin = CertificateApproval(Signers(*grant))
    if allowed:
        await world.run(plugin, f"{CSR}/approval", obj, obj)
        return
    with pytest.raises(ApiError, match='approve requests with signerName "example'):
        await world.run(plugin, f"{CSR}/approval", obj, obj)


async def test_signing_takes_a_right_only_when_the_outcome_changes(world: Any) -> None:
    plugin = CertificateSigning(Signers("sign", "none"))
    old = named(namespace="", spec={"signerName": "example.com/s"}, status={})
    await world.run(plugin, f"{CSR}/status", old, old)
    signed = {**old, "status": {"certificate": "eA=="}}
    with pytest.raises(ApiError, match="not permitted to sign"):
        await world.run(plugin, f"{CSR}/status", signed, old)


def signing_request(organization: str, signer: str) -> Object:
    names = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
        x509.NameAttribute(NameOID.COMMON_NAME, "eve"),
    ]
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    spec = {"signerName": signer, "request": base64.b64encode(pem).decode()}
    return named(namespace="", spec=spec)


async def test_nobody_becomes_a_master_by_certificate(world: Any) -> None:
    plugin, client = CertificateSubjectRestriction(), "kubernetes.io/kube-apiserver-client"
    with pytest.raises(ApiError, match="with system:masters group is not allowed"):
        await world.run(plugin, CSR, signing_request("system:masters", client))
    await world.run(plugin, CSR, signing_request("devs", client))
    await world.run(plugin, CSR, signing_request("system:masters", "example.com/s"))
    broken = named(namespace="", spec={"signerName": client, "request": "eA=="})
    with pytest.raises(ApiError, match="failed to parse CSR"):
        await world.run(plugin, CSR, broken)
