"""What signers let through, what they sign, and when requests are taken away."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.certificates import alternatives, authority, signing_request

from navarch.api.pem import parse_certificates, parse_signing_request
from navarch.api.times import format_time
from navarch.api.types.certificates_v1 import (
    CertificateSigningRequest,
    CertificateSigningRequestCondition,
    CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
)
from navarch.api.types.core_v1 import Node, NodeAddress, NodeStatus
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.csr_approving import rights_for, serving_problem
from navarch.controllers.csr_checks import (
    CLIENT,
    KUBELET_CLIENT,
    KUBELET_SERVING,
    LEGACY,
    Wanted,
    problem_for,
    read,
)
from navarch.controllers.csr_cleaner import due
from navarch.controllers.csr_signing import Authority, SigningError, lifetime, sign, validity

NOW = datetime(2026, 1, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
NODE = ("system:node:n1", ("system:nodes",))
SIGNATURE, CIPHER = "digital signature", "key encipherment"


@pytest.mark.parametrize(
    ("signer", "wanted", "usages", "problem"),
    [
        (CLIENT, Wanted("ann", ("dev",)), ["client auth"], ""),
        (
            CLIENT,
            Wanted("ann", ()),
            ["client auth", "server auth"],
            "invalid usage for client certificate: server auth",
        ),
        (
            CLIENT,
            Wanted("ann", ()),
            [SIGNATURE],
            "missing required usage for client certificate: client auth",
        ),
        (KUBELET_CLIENT, Wanted(*NODE), [SIGNATURE, "client auth"], ""),
        (KUBELET_CLIENT, Wanted(*NODE), [SIGNATURE, CIPHER, "client auth"], ""),
        (
            KUBELET_CLIENT,
            Wanted(*NODE),
            ["client auth"],
            "usages did not match [client auth digital signature key encipherment]",
        ),
        (
            KUBELET_CLIENT,
            Wanted("system:node:n1", ("system:nodes", "system:masters")),
            [SIGNATURE, "client auth"],
            "subject organization is not system:nodes",
        ),
        (
            KUBELET_CLIENT,
            Wanted("n1", ("system:nodes",)),
            [SIGNATURE, "client auth"],
            "subject common name does not begin with system:node:",
        ),
        (
            KUBELET_CLIENT,
            Wanted(*NODE, dns_names=("n1",)),
            [SIGNATURE, "client auth"],
            "DNS subjectAltNames are not allowed",
        ),
        (
            KUBELET_SERVING,
            Wanted(*NODE),
            [SIGNATURE, "server auth"],
            "DNS or IP subjectAltName is required",
        ),
        (
            KUBELET_SERVING,
            Wanted(*NODE, ip_addresses=("10.0.0.1",)),
            [SIGNATURE, "server auth"],
            "",
        ),
        (
            KUBELET_SERVING,
            Wanted(*NODE, dns_names=("n1",), uris=("a://b",)),
            [SIGNATURE, "server auth"],
            "URI subjectAltNames are not allowed",
        ),
        (
            KUBELET_SERVING,
            Wanted(*NODE, dns_names=("n1",)),
            [SIGNATURE, "client auth"],
            "usages did not match [digital signature key encipherment server auth]",
        ),
        (LEGACY, Wanted("", ()), ["any"], ""),
    ],
)
def test_what_signers_let_through(
    signer: str, wanted: Wanted, usages: list[str], problem: str
) -> None:
    assert problem_for(signer, wanted, usages) == problem


def test_a_request_is_read_whole() -> None:
    names = ("a.example.com", "10.0.0.1", "ann@example.com", "spiffe://a/b")
    parsed = parse_signing_request(signing_request("ann", "dev", "ops", names=names))
    assert read(parsed) == Wanted("ann", ("dev", "ops"), *((name,) for name in names))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "PEM block type must be CERTIFICATE REQUEST"),
        ("-----BEGIN THING-----\nAAAA\n-----END THING-----\n", "PEM block type must be"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----", "asn1"),
    ],
)
def test_what_is_no_request(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_signing_request(base64.b64encode(text.encode()).decode())


def test_a_certificate_has_what_was_asked_for_and_no_more() -> None:
    issuer = Authority(*authority())
    names = ("n1.example.com", "10.0.0.1", "::1", "ann@example.com", "spiffe://a/b")
    parsed = parse_signing_request(signing_request("ann", "dev", names=names))
    now = datetime.now(UTC).replace(microsecond=0)
    usages = [SIGNATURE, CIPHER, "client auth", "encipher only"]
    (made,) = parse_certificates(sign(parsed, usages, issuer, YEAR, now).decode())
    made.verify_directly_issued_by(issuer.certificate)
    assert made.subject == parsed.subject
    assert made.public_key() == parsed.public_key()
    assert made.not_valid_before_utc == now - timedelta(minutes=5)
    assert made.not_valid_after_utc == now + YEAR - timedelta(minutes=5)
    usage = made.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert usage.value.key_encipherment
    assert not usage.value.key_cert_sign
    extended = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [*extended] == [ExtendedKeyUsageOID.CLIENT_AUTH]
    basic = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca) == (True, False)
    found = made.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert not found.critical
    assert set(found.value) == set(alternatives(*names))


@pytest.mark.parametrize(
    ("seconds", "life"),
    [
        (None, YEAR),
        (3600, timedelta(hours=1)),
        (1, timedelta(minutes=10)),
        (10**9, YEAR),
    ],
)
def test_how_long_a_certificate_lives(seconds: int | None, life: timedelta) -> None:
    assert lifetime(seconds, YEAR) == life


def test_from_when_to_when() -> None:
    five = timedelta(minutes=5)
    short, late = timedelta(hours=1), NOW + 2 * YEAR
    assert validity(short, late, NOW) == (NOW - five, NOW + short)
    assert validity(YEAR, late, NOW) == (NOW - five, NOW + YEAR - five)
    assert validity(YEAR, NOW + short, NOW) == (NOW - five, NOW + short)
    with pytest.raises(SigningError, match="expired in the past"):
        validity(YEAR, NOW, NOW)


@pytest.mark.parametrize(
    ("signer", "asker", "usages", "rights"),
    [
        (KUBELET_CLIENT, "bootstrap", [SIGNATURE, "client auth"], ["nodeclient"]),
        (KUBELET_CLIENT, NODE[0], [SIGNATURE, "client auth"], ["selfnodeclient", "nodeclient"]),
        (KUBELET_CLIENT, NODE[0], ["client auth"], []),
        (KUBELET_SERVING, NODE[0], [SIGNATURE, "server auth"], []),
        (CLIENT, NODE[0], [SIGNATURE, "client auth"], []),
    ],
)
def test_who_has_to_be_allowed_what(
    signer: str, asker: str, usages: list[str], rights: list[str]
) -> None:
    spec = CertificateSigningRequestSpec(signerName=signer, username=asker, usages=usages)
    assert rights_for(CertificateSigningRequest(spec=spec), Wanted(*NODE)) == rights


def at(hours: float) -> str:
    return format_time(NOW + timedelta(hours=hours))


@pytest.mark.parametrize(
    ("types", "is_issued", "hours"),
    [
        ([], False, 24),
        (["Approved"], False, 25),
        (["Approved"], True, 2),
        (["Denied"], False, 2),
        (["Approved", "Failed"], False, 2),
        (["Foreign"], False, None),
    ],
)
def test_when_a_request_goes(types: list[str], is_issued: bool, hours: float | None) -> None:
    certificate = base64.b64encode(authority()[0]).decode() if is_issued else ""
    conditions = [
        CertificateSigningRequestCondition(type=each, status="True", lastUpdateTime=at(1))
        for each in types
    ]
    request = CertificateSigningRequest(
        metadata=ObjectMeta(creationTimestamp=at(0)),
        status=CertificateSigningRequestStatus(conditions=conditions, certificate=certificate),
    )
    assert due(request) == (None if hours is None else NOW + timedelta(hours=hours))


def test_a_certificate_that_has_expired_is_reason_enough() -> None:
    certificate = authority(timedelta(minutes=-1))[0]
    request = CertificateSigningRequest(
        status=CertificateSigningRequestStatus(
            conditions=[CertificateSigningRequestCondition(type="Approved", status="True")],
            certificate=base64.b64encode(certificate).decode(),
        )
    )
    expires = parse_certificates(certificate.decode())[0].not_valid_after_utc
    assert due(request) == expires


SERVING = [SIGNATURE, "server auth"]
PROXY = "system:kube-proxy"


@pytest.mark.parametrize(
    ("signer", "wanted", "user", "rights"),
    [
        pytest.param(CLIENT, Wanted(PROXY, ()), NODE[0], ["nodeproxyclient"], id="proxy"),
        pytest.param(CLIENT, Wanted(PROXY, ("system:masters",)), NODE[0], [], id="more"),
        pytest.param(CLIENT, Wanted("ann", ()), NODE[0], [], id="somebody"),
        pytest.param(CLIENT, Wanted(PROXY, ()), "ann", [], id="by no node"),
        pytest.param(
            KUBELET_SERVING, Wanted(*NODE, dns_names=("n1",)), NODE[0], ["selfnodeserver"], id="own"
        ),
        pytest.param(
            KUBELET_SERVING, Wanted(*NODE, dns_names=("n1",)), "system:node:n2", [], id="other"
        ),
        pytest.param(KUBELET_SERVING, Wanted(*NODE), NODE[0], [], id="for nothing"),
    ],
)
def test_what_nodes_get_without_anybody_s_doing(
    signer: str, wanted: Wanted, user: str, rights: list[str]
) -> None:
    groups = ["system:nodes"] if user.startswith("system:node:") else []
    usages = SERVING if signer == KUBELET_SERVING else [SIGNATURE, "client auth"]
    request = CertificateSigningRequest(
        spec=CertificateSigningRequestSpec(
            signerName=signer, usages=usages, username=user, groups=groups
        )
    )
    assert rights_for(request, wanted) == rights


@pytest.mark.parametrize(
    ("names", "addresses", "problem"),
    [
        (("n1",), ("10.0.0.1", "fd00::1"), ""),
        (("n1", "n2"), (), "names of others"),
        (("n1",), ("10.0.0.2",), "addresses of the node n2"),
        (("n1",), ("10.0.0.9",), "addresses of the API server"),
        (("n1",), ("127.0.0.1",), "addresses that are nobody's"),
    ],
)
def test_a_node_serves_as_itself_only(
    names: tuple[str, ...], addresses: tuple[str, ...], problem: str
) -> None:
    nodes = [
        Node(
            metadata=ObjectMeta(name=name),
            status=NodeStatus(addresses=[NodeAddress(type="InternalIP", address=address)]),
        )
        for name, address in (("n1", "10.0.0.1"), ("n2", "10.0.0.2"))
    ]
    wanted = Wanted(*NODE, dns_names=names, ip_addresses=addresses)
    assert serving_problem(wanted, nodes, ["10.0.0.9"]) == problem
