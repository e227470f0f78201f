"""Certificates: one purpose each, made only when due."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from navarch.cluster import pki
from navarch.cluster.profile import Paths, Profile

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PROFILE = Profile("dev", nodes=2)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path / "dev")
    found.create()
    return found


def certificate(paths: Paths, path: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((paths.root / f"{path}.crt").read_bytes())


def purposes(found: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_every_certificate_is_signed_and_has_one_purpose(paths: Paths) -> None:
    pki.ensure(PROFILE, paths, NOW)
    for request in pki.requests(PROFILE):
        found = certificate(paths, request.path)
        found.verify_directly_issued_by(certificate(paths, f"pki/{request.authority}"))
        expected = (
            ExtendedKeyUsageOID.SERVER_AUTH if request.server else ExtendedKeyUsageOID.CLIENT_AUTH
        )
        assert purposes(found) == [expected], request.path
        assert isinstance(found.public_key(), ec.EllipticCurvePublicKey)
        assert (paths.root / f"{request.path}.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("path", "user", "groups"),
    [
        ("pki/admin", "kubernetes-admin", ["system:masters"]),
        ("pki/controllers", "system:kube-controller-manager", []),
        ("pki/scheduler", "system:kube-scheduler", []),
        ("pki/front-proxy-client", "front-proxy-client", []),
        ("nodes/dev-m02/pki/kubelet", "system:node:dev-m02", ["system:nodes"]),
        ("nodes/dev/pki/proxy", "system:kube-proxy", []),
    ],
)
def test_identities(paths: Paths, path: str, user: str, groups: list[str]) -> None:
    pki.ensure(PROFILE, paths, NOW)
    subject = certificate(paths, path).subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    organizations = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert [name.value for name in names] == [user]
    assert [name.value for name in organizations] == groups


def test_the_api_server_is_known_by_every_address(paths: Paths) -> None:
    pki.ensure(PROFILE, paths, NOW)
    names = certificate(paths, "pki/apiserver").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    addresses = names.value.get_values_for_type(x509.IPAddress)
    assert addresses == [
        ipaddress.ip_address(address) for address in ("127.0.0.1", "192.168.49.1", "10.96.0.1")
    ]
    assert "kubernetes.default.svc.cluster.local" in names.value.get_values_for_type(x509.DNSName)


def test_nothing_is_made_twice(paths: Paths) -> None:
    assert pki.ensure(PROFILE, paths, NOW).authority
    before = (paths.pki / "admin.crt").read_bytes()
    again = pki.ensure(PROFILE, paths, NOW + timedelta(days=300))
    assert not again.made and not again.authority
    assert (paths.pki / "admin.crt").read_bytes() == before


def test_a_certificate_near_its_end_is_renewed_and_the_authority_kept(paths: Paths) -> None:
    pki.ensure(PROFILE, paths, NOW)
    authority = (paths.pki / "ca.crt").read_bytes()
    later = NOW + timedelta(days=340)
    renewal = pki.ensure(PROFILE, paths, later)
    assert renewal.made == {request.path for request in pki.requests(PROFILE)}
    assert not renewal.authority
    assert (paths.pki / "ca.crt").read_bytes() == authority
    assert certificate(paths, "pki/admin").not_valid_after_utc == later + pki.LIFETIME


def test_the_front_proxy_authority_is_one_of_its_own(paths: Paths) -> None:
    pki.ensure(PROFILE, paths, NOW)
    assert (paths.pki / "front-proxy-ca.crt").read_bytes() != (paths.pki / "ca.crt").read_bytes()
    with pytest.raises(ValueError, match="issuer"):
        certificate(paths, "pki/front-proxy-client").verify_directly_issued_by(
            certificate(paths, "pki/ca")
        )
    (paths.pki / "front-proxy-ca.key").unlink()
    renewal = pki.ensure(PROFILE, paths, NOW)
    assert renewal.made == {"pki/front-proxy-client"} and not renewal.authority


def test_an_authority_near_its_end_takes_everything_with_it_but_the_token_key(
    paths: Paths,
) -> None:
    pki.ensure(PROFILE, paths, NOW)
    token_key = (paths.pki / "sa.key").read_bytes()
    renewal = pki.ensure(PROFILE, paths, NOW + timedelta(days=3300))
    assert renewal.authority
    certificate(paths, "pki/admin").verify_directly_issued_by(certificate(paths, "pki/ca"))
    assert (paths.pki / "sa.key").read_bytes() == token_key


@pytest.mark.parametrize(
    ("changed", "made"),
    [
        pytest.param(
            replace(PROFILE, nodes=3),
            {
                f"nodes/dev-m03/pki/{name}"
                for name in ("kubelet-serving", "kubelet", "proxy", "ingress", "gateway")
            },
            id="a node more",
        ),
        pytest.param(
            replace(PROFILE, service_cidr="10.97.0.0/16"),
            {"pki/apiserver"},
            id="another service range",
        ),
        pytest.param(replace(PROFILE, nodes=1), set(), id="a node less"),
    ],
)
def test_only_what_has_changed_is_made(paths: Paths, changed: Profile, made: set[str]) -> None:
    pki.ensure(PROFILE, paths, NOW)
    assert pki.ensure(changed, paths, NOW).made == made


@pytest.mark.parametrize("lost", ["admin.crt", "admin.key"])
def test_a_lost_file_is_made_again(paths: Paths, lost: str) -> None:
    pki.ensure(PROFILE, paths, NOW)
    (paths.pki / lost).unlink()
    assert pki.ensure(PROFILE, paths, NOW).made == {"pki/admin"}


def test_a_damaged_index_only_costs_new_certificates(paths: Paths) -> None:
    pki.ensure(PROFILE, paths, NOW)
    (paths.pki / "index.json").write_text("garbage")
    assert pki.ensure(PROFILE, paths, NOW).authority
    assert not pki.ensure(PROFILE, paths, NOW).made
