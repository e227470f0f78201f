"""What a certificate signing request asks for, and whether a built-in signer may grant it.

Pure. The rules are those of the documentation of the built-in signers
(https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/); the texts
are upstream's, for they end up in the conditions of requests.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from navarch.api.types.certificates_v1 import CertificateSigningRequest

if TYPE_CHECKING:
    from cryptography import x509

CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
LEGACY = "kubernetes.io/legacy-unknown"
"""No longer given in new requests, but stored ones are still signed."""
SIGNERS = (CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The parts of a request that are checked and, of its extensions, the only ones that are
    signed."""

    common_name: str
    organizations: tuple[str, ...]
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()


def read(request: x509.CertificateSigningRequest) -> Wanted:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    def named(oid: x509.ObjectIdentifier) -> list[str]:
        return [str(each.value) for each in request.subject.get_attributes_for_oid(oid)]

    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    return Wanted(
        (named(NameOID.COMMON_NAME) or [""])[-1],
        tuple(named(NameOID.ORGANIZATION_NAME)),
        tuple(names.get_values_for_type(x509.DNSName)),
        tuple(map(str, names.get_values_for_type(x509.IPAddress))),
        tuple(names.get_values_for_type(x509.RFC822Name)),
        tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
    )


def problem_for(signer: str, wanted: Wanted, usages: Sequence[str]) -> str:
    """Why a signer must not sign this; "" if it may."""
    match signer:
        case "kubernetes.io/kube-apiserver-client":
            return _client_problem(usages)
        case "kubernetes.io/kube-apiserver-client-kubelet":
            return kubelet_client_problem(wanted, usages)
        case "kubernetes.io/kubelet-serving":
            return _kubelet_serving_problem(wanted, usages)
    return ""


def _client_problem(usages: Sequence[str]) -> str:
    for usage in usages:
        if usage not in ("digital signature", "key encipherment", "client auth"):
            return f"invalid usage for client certificate: {usage}"
    if "client auth" not in usages:
        return "missing required usage for client certificate: client auth"
    return ""


def kubelet_client_problem(wanted: Wanted, usages: Sequence[str]) -> str:
    if wanted.organizations != ("system:nodes",):
        return "subject organization is not system:nodes"
    for label, names in (
        ("DNS", wanted.dns_names),
        ("Email", wanted.emails),
        ("IP", wanted.ip_addresses),
        ("URI", wanted.uris),
    ):
        if names:
            return f"{label} subjectAltNames are not allowed"
    return _node_name_problem(wanted) or _usages_problem(usages, "client auth")


def _kubelet_serving_problem(wanted: Wanted, usages: Sequence[str]) -> str:
    if wanted.organizations != ("system:nodes",):
        return "subject organization is not system:nodes"
    if not (wanted.dns_names or wanted.ip_addresses):
        return "DNS or IP subjectAltName is required"
    for label, names in (("Email", wanted.emails), ("URI", wanted.uris)):
        if names:
            return f"{label} subjectAltNames are not allowed"
    return _usages_problem(usages, "server auth") or _node_name_problem(wanted)


def _node_name_problem(wanted: Wanted) -> str:
    if wanted.common_name.startswith("system:node:"):
        return ""
    return "subject common name does not begin with system:node:"


def _usages_problem(usages: Collection[str], role: str) -> str:
    """Only RSA keys can encipher other keys, so that usage may be left out."""
    required = {"digital signature", role}
    if set(usages) in (required, required | {"key encipherment"}):
        return ""
    full = sorted(required | {"key encipherment"})
    return f"usages did not match [{' '.join(full)}]"


def has_condition(request: CertificateSigningRequest, *types: str) -> bool:
    """Whether it has one of these conditions, which are there only to be true."""
    return any(condition.type in types for condition in request.status.conditions)
