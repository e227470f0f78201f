"""Signing requests from the asking to the certificate, with real authorization."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.certificates import authority, signing_request

from navarch.api.errors import ApiError
from navarch.api.pem import decode_base64, parse_certificates
from navarch.api.types.certificates_v1 import (
    CertificateSigningRequest,
    CertificateSigningRequestCondition,
    CertificateSigningRequestSpec,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.rbac_v1 import ClusterRoleBinding, RoleRef, Subject
from navarch.apiserver.server import Server
from navarch.client import Client
from navarch.controllers.csr_checks import CLIENT, KUBELET_CLIENT, KUBELET_SERVING

from .conftest import client_as, eventually, running

pytestmark = pytest.mark.secured

NODE = "system:node:n1"
SIGNATURE = "digital signature"
APPROVED = CertificateSigningRequestCondition(type="Approved", status="True", reason="Test")


@pytest.fixture
async def client(api_server: Server) -> AsyncIterator[Client]:
    async with client_as(api_server, "root", "system:masters") as client:
        yield client


@pytest.fixture
async def issuer(api_server: Server, tmp_path: Path) -> AsyncIterator[bytes]:
    """The authority's certificate, while the controllers are at work."""
    certificate, key = authority()
    files = {"cluster_signing_cert_file": certificate, "cluster_signing_key_file": key}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    options = {name: str(tmp_path / name) for name in files}
    async with (
        client_as(api_server, "system:kube-controller-manager") as manager,
        running(manager, "csrapproving", "csrsigning", "csrcleaner", **options),
    ):
        yield certificate


async def ask(
    client: Client, signer: str, usages: list[str], *subject: str, **more: Any
) -> CertificateSigningRequest:
    request = CertificateSigningRequest(
        metadata=ObjectMeta(generateName="test-"),
        spec=CertificateSigningRequestSpec(
            signerName=signer,
            usages=usages,
            request=signing_request(*subject, names=more.pop("names", ())),
            **more,
        ),
    )
    return await client.resource(CertificateSigningRequest).create(request)


async def approve(client: Client, asked: CertificateSigningRequest) -> None:
    asked.status.conditions.append(APPROVED)
    await client.resource(CertificateSigningRequest).update(asked, subresource="approval")


async def find(client: Client, asked: CertificateSigningRequest) -> CertificateSigningRequest:
    return await client.resource(CertificateSigningRequest).get(asked.metadata.name)


async def issued(client: Client, asked: CertificateSigningRequest) -> CertificateSigningRequest:
    async def is_issued() -> CertificateSigningRequest:
        found = await find(client, asked)
        assert found.status.certificate, found.status
        return found

    return await eventually(is_issued, "the certificate")


def bind(name: str, user: str) -> ClusterRoleBinding:
    return ClusterRoleBinding(
        metadata=ObjectMeta(name=f"{name}:{user}"),
        roleRef=RoleRef(apiGroup="rbac.authorization.k8s.io", kind="ClusterRole", name=name),
        subjects=[Subject(kind="User", name=user, apiGroup="rbac.authorization.k8s.io")],
    )


async def test_an_approved_client_certificate_is_signed(client: Client, issuer: bytes) -> None:
    asked = await ask(client, CLIENT, ["client auth"], "ann", "dev", expirationSeconds=3600)
    assert asked.spec.username == "root"
    await approve(client, asked)
    found = await issued(client, asked)
    (certificate,) = parse_certificates(decode_base64(found.status.certificate))
    certificate.verify_directly_issued_by(parse_certificates(issuer.decode())[0])
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life.total_seconds() == 3900


async def test_kubelets_are_approved_if_they_may(
    api_server: Server, client: Client, issuer: bytes
) -> None:
    prefix = "system:certificates.k8s.io:certificatesigningrequests"
    usages = [SIGNATURE, "client auth"]
    resource = client.resource(ClusterRoleBinding)
    for user in ("boot", "stranger"):
        await resource.create(bind("system:node-bootstrapper", user))
    await resource.create(bind(f"{prefix}:nodeclient", "boot"))
    await resource.create(bind(f"{prefix}:selfnodeclient", NODE))
    async with (
        client_as(api_server, "boot") as boot,
        client_as(api_server, "stranger") as stranger,
        client_as(api_server, NODE, "system:nodes") as node,
    ):
        first = await ask(boot, KUBELET_CLIENT, usages, NODE, "system:nodes")
        renewed = await ask(node, KUBELET_CLIENT, usages, NODE, "system:nodes")
        other = await ask(stranger, KUBELET_CLIENT, usages, NODE, "system:nodes")
        names = ("n1", "10.0.0.1")
        serving = await ask(
            node, KUBELET_SERVING, [SIGNATURE, "server auth"], NODE, "system:nodes", names=names
        )
    (condition,) = (await issued(client, first)).status.conditions
    text = "Auto approving kubelet client certificate after SubjectAccessReview."
    assert (condition.reason, condition.message) == ("AutoApproved", text)
    (condition,) = (await issued(client, renewed)).status.conditions
    text = "Auto approving self kubelet client certificate after SubjectAccessReview."
    assert condition.message == text
    for waiting in (other, serving):
        assert not (await find(client, waiting)).status.conditions
    await approve(client, serving)
    await issued(client, serving)


async def test_what_breaks_the_signer_s_rules_fails(client: Client, issuer: bytes) -> None:
    asked = await ask(client, CLIENT, ["client auth", "server auth"], "ann")
    await approve(client, asked)

    async def has_failed() -> CertificateSigningRequestCondition:
        conditions = (await find(client, asked)).status.conditions
        failed = [c for c in conditions if c.type == "Failed"]
        assert failed
        return failed[0]

    condition = await eventually(has_failed, "the failure")
    assert (condition.status, condition.reason) == ("True", "SignerValidationFailure")
    assert condition.message == "invalid usage for client certificate: server auth"
    assert not (await find(client, asked)).status.certificate


async def test_other_signers_and_denied_requests_are_left_alone(
    client: Client, issuer: bytes
) -> None:
    foreign = await ask(client, "example.com/own", ["any"], "ann")
    await approve(client, foreign)
    denied = await ask(client, CLIENT, ["client auth"], "ann")
    denied.status.conditions = [
        CertificateSigningRequestCondition(type="Denied", status="True", reason="Test")
    ]
    await client.resource(CertificateSigningRequest).update(denied, subresource="approval")
    witness = await ask(client, CLIENT, ["client auth"], "ann")
    await approve(client, witness)
    await issued(client, witness)
    for asked in (foreign, denied):
        assert not (await find(client, asked)).status.certificate


async def test_old_requests_are_taken_away(client: Client, issuer: bytes) -> None:
    asked = await ask(client, "example.com/own", ["any"], "ann")
    asked.status.conditions = [
        CertificateSigningRequestCondition(
            type="Denied", status="True", lastUpdateTime="2020-01-01T00:00:00Z"
        )
    ]
    await client.resource(CertificateSigningRequest).update(asked, subresource="approval")

    async def is_gone() -> bool:
        return not (await client.resource(CertificateSigningRequest).list()).items

    await eventually(is_gone, "the request's end")


@pytest.mark.conformance(
    "Certificates API [Privileged:ClusterAdmin] should support CSR API operations"
)
async def test_the_api_of_signing_requests(client: Client) -> None:
    signer, usages = "example.com/e2e", [SIGNATURE, "key encipherment", "server auth"]
    resource = client.resource(CertificateSigningRequest)
    for _ in range(3):
        asked = await ask(client, signer, usages, "e2e.example.com", expirationSeconds=3600)
    name = asked.metadata.name
    found = await resource.get(name)
    assert (found.metadata.uid, found.spec.expirationSeconds) == (asked.metadata.uid, 3600)
    listed = await resource.list(field_selector=f"spec.signerName={signer}")
    assert len(listed.items) == 3
    patched = await resource.patch(name, "", {"metadata": {"annotations": {"patched": "true"}}})
    patched.metadata.annotations["updated"] = "true"
    patched.spec.signerName = "example.com/other"
    updated = await resource.update(patched)
    assert updated.metadata.annotations == {"patched": "true", "updated": "true"}
    assert updated.spec == found.spec
    watch = resource.watch(
        resource_version=listed.resource_version, field_selector=f"metadata.name={name}"
    )
    async with aclosing(watch) as events:
        event = await anext(events)
    assert event.type == "MODIFIED"
    assert event.object.metadata.annotations == {"patched": "true"}

    path = f"/apis/certificates.k8s.io/v1/certificatesigningrequests/{name}"
    for subresource in ("approval", "status"):
        got = resource.codec.decode(await client.request("GET", f"{path}/{subresource}"))
        assert (got.kind, got.metadata.uid) == (found.kind, found.metadata.uid)
    condition = {"type": "ApprovalPatch", "status": "True", "reason": "e2e"}
    body = {
        "metadata": {"annotations": {"patchedapproval": "true"}},
        "status": {"conditions": [condition], "certificate": "Zm9v"},
    }
    approved = await resource.patch(name, "", body, subresource="approval")
    assert [c.type for c in approved.status.conditions] == ["ApprovalPatch"]
    assert approved.metadata.annotations["patchedapproval"] == "true"
    assert not approved.status.certificate
    approved.status.conditions.append(APPROVED)
    approved = await resource.update(approved, subresource="approval")
    assert [c.type for c in approved.status.conditions] == ["ApprovalPatch", "Approved"]
    assert all(c.lastTransitionTime for c in approved.status.conditions)

    certificate = base64.b64encode(authority()[0]).decode()
    body = {
        "metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"certificate": certificate},
    }
    answered = await resource.patch(name, "", body, subresource="status")
    assert answered.status.certificate == certificate
    assert answered.metadata.annotations["patchedstatus"] == "true"
    answered.status.conditions.append(
        CertificateSigningRequestCondition(type="StatusUpdate", status="True", reason="E2E")
    )
    answered = await resource.update_status(answered)
    types = [c.type for c in answered.status.conditions]
    assert types == ["ApprovalPatch", "Approved", "StatusUpdate"]

    await resource.delete(name)
    with pytest.raises(ApiError) as caught:
        await resource.get(name)
    assert caught.value.is_not_found
    selector = f"spec.signerName={signer}"
    assert len((await resource.list(field_selector=selector)).items) == 2
    path = path.rpartition("/")[0]
    await client.request("DELETE", path, query={"fieldSelector": selector})
    assert not (await resource.list(field_selector=selector)).items


@pytest.mark.parametrize(
    ("subresource", "status", "problem"),
    [
        (
            "status",
            {"certificate": base64.b64encode(b"rubbish").decode()},
            'Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block',
        ),
        (
            "status",
            {"conditions": [{"type": "Approved", "status": "True"}]},
            'Forbidden: updates may not add a condition of type "Approved"',
        ),
        (
            "approval",
            {"conditions": [{"type": "Approved", "status": "False"}]},
            'Unsupported value: "False": supported values: "True"',
        ),
        ("approval", {"conditions": [{"status": "True"}]}, "type: Required value"),
        (
            "approval",
            {"conditions": [{"type": kind, "status": "True"} for kind in ("Approved", "Denied")]},
            'Invalid value: "Denied": Approved and Denied conditions are mutually exclusive',
        ),
        (
            "approval",
            {"conditions": [{"type": "A", "status": "True"}, {"type": "A", "status": "True"}]},
            'status.conditions[1].type: Duplicate value: "A"',
        ),
    ],
)
async def test_what_may_not_be_said(
    client: Client, subresource: str, status: dict[str, Any], problem: str
) -> None:
    asked = await ask(client, "example.com/own", ["any"], "ann")
    resource = client.resource(CertificateSigningRequest)
    with pytest.raises(ApiError) as caught:
        await resource.patch(asked.metadata.name, "", {"status": status}, subresource=subresource)
    assert caught.value.status == 422
    assert problem in caught.value.message


async def test_a_request_must_be_signed_by_its_key(client: Client) -> None:
    asked = base64.b64decode(signing_request("ann"))
    spoilt = asked.splitlines()
    last = bytearray(base64.b64decode(spoilt[-2] + b"=" * (-len(spoilt[-2]) % 4)))
    last[-1] ^= 1
    spoilt[-2] = base64.b64encode(bytes(last))
    spec = CertificateSigningRequestSpec(
        signerName=CLIENT,
        usages=["client auth"],
        request=base64.b64encode(b"\n".join(spoilt)).decode(),
    )
    with pytest.raises(ApiError, match="ECDSA verification failure"):
        await client.resource(CertificateSigningRequest).create(
            CertificateSigningRequest(metadata=ObjectMeta(name="spoilt"), spec=spec)
        )
