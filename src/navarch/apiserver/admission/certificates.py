"""The plug-ins of certificate signing requests: CertificateApproval, CertificateSigning and
CertificateSubjectRestriction.

Approving and signing take a right on the signer, by its name or for its whole domain
(`example.com/*`). And no client certificate for `system:masters` is to be had this way."""

from __future__ import annotations

from navarch.api.pem import parse_signing_request
from navarch.apiserver.admission.base import Plugin, denied, spec_of
from navarch.apiserver.contracts import (
    AdmissionRequest,
    Attributes,
    Authorizer,
    Decision,
    Object,
    RequestInfo,
    UserInfo,
)

GROUP = "certificates.k8s.io"
_REQUESTS = frozenset({(GROUP, "certificatesigningrequests")})
CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client"


class CertificateApproval(Plugin):
    name = "CertificateApproval"
    operations = ("UPDATE",)
    resources = _REQUESTS
    subresources = ("approval",)

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def validate(self, request: AdmissionRequest) -> None:
        signer = spec_of(request.old).get("signerName", "")
        if not may_use_signer(self._authorizer, request.user, "approve", signer):
            why = f'user not permitted to approve requests with signerName "{signer}"'
            raise denied(request, why)


class CertificateSigning(Plugin):
    name = "CertificateSigning"
    operations = ("UPDATE",)
    resources = _REQUESTS
    subresources = ("status",)

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def validate(self, request: AdmissionRequest) -> None:
        new, old = _outcome(request.obj), _outcome(request.old)
        signer = spec_of(request.old).get("signerName", "")
        if new != old and not may_use_signer(self._authorizer, request.user, "sign", signer):
            raise denied(request, f'user not permitted to sign requests with signerName "{signer}"')


class CertificateSubjectRestriction(Plugin):
    name = "CertificateSubjectRestriction"
    operations = ("CREATE",)
    resources = _REQUESTS

    async def validate(self, request: AdmissionRequest) -> None:
        spec = spec_of(request.obj)
        if spec.get("signerName") != CLIENT_SIGNER:
            return
        try:
            _, organizations = requested_subject(spec)
        except ValueError as error:
            raise denied(request, f"failed to parse CSR: {error}") from error
        if "system:masters" in organizations:
            why = f"use of {CLIENT_SIGNER} signer with system:masters group is not allowed"
            raise denied(request, why)


def may_use_signer(authorizer: Authorizer, user: UserInfo, verb: str, signer: str) -> bool:
    """Whether the user has the verb on the signer, or on all signers of its domain."""
    for name in (signer, f"{signer.partition('/')[0]}/*"):
        info = RequestInfo(True, "", verb, GROUP, "*", "signers", name=name)
        if authorizer.authorize(Attributes(user, info))[0] is Decision.ALLOW:
            return True
    return False


def requested_subject(spec: Object) -> tuple[str, list[str]]:
    """The common name and the organisations a signing request asks for. Raises ValueError."""
    from cryptography.x509.oid import NameOID

    subject = parse_signing_request(spec.get("request") or "").subject
    names = [str(a.value) for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    organizations = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return names[-1] if names else "", [str(a.value) for a in organizations]


def _outcome(obj: Object | None) -> tuple[object, object]:
    status = (obj or {}).get("status") or {}
    return status.get("certificate") or None, status.get("conditions") or []
