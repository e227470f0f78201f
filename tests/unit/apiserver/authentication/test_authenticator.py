"""The authenticator as the server uses it: certificates, bearer tokens, what is no credential."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID, ObjectIdentifier
from tests.pace import slowness
from tests.unit.apiserver.memory_lookup import MemoryLookup

from navarch.api.errors import ApiError
from navarch.apiserver.authentication import (
    Authentication,
    bearer_token,
    build_authenticator,
)
from navarch.apiserver.authentication.keys import KeyRing, PrivateKey
from navarch.apiserver.contracts import PeerCertificate, UserInfo
from navarch.apiserver.options import ServerOptions

Names = list[tuple[ObjectIdentifier, str]]


def certificate(key: PrivateKey, names: Names) -> bytes:
    subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in names])
    begin = datetime.fromtimestamp(1_800_000_000, UTC) - timedelta(hours=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(begin).not_valid_after(begin + timedelta(hours=2))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.fixture
def lookup() -> MemoryLookup:
    lookup = MemoryLookup()
    account = {"name": "robot", "namespace": "ns", "uid": "sa-uid"}
    lookup.put("serviceaccounts", {"metadata": account})
    return lookup


@pytest.fixture
def key_file(tmp_path: Path, rsa_key: PrivateKey) -> Path:
    path = tmp_path / "sa.key"
    pem = rsa_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem)
    return path


@pytest.fixture
def authentication(key_file: Path, lookup: MemoryLookup, clock: Any) -> Authentication:
    return build_authenticator(ServerOptions(service_account_signing_key=key_file), lookup, clock)


def token_of(authentication: Authentication) -> str:
    issuer = authentication.issuer
    return str(issuer.issue(issuer.prepare({}, "ns", "robot")).obj["status"]["token"])


async def test_a_certificate_names_user_and_groups(
    authentication: Authentication, ec_key: PrivateKey
) -> None:
    der = certificate(
        ec_key,
        [
            (NameOID.ORGANIZATION_NAME, "devs"),
            (NameOID.ORGANIZATION_NAME, "ops"),
            (NameOID.COMMON_NAME, "alice"),
            (ObjectIdentifier("1.3.6.1.4.1.57683.2"), "42"),
        ],
    )
    user = await authentication.authenticate(
        {"Authorization": "Bearer nonsense"}, PeerCertificate(der)
    )
    assert user is not None
    assert (user.name, user.uid) == ("alice", "42")
    assert user.groups == ("devs", "ops", "system:authenticated")
    [credential] = user.extra["authentication.kubernetes.io/credential-id"]
    assert credential.startswith("X509SHA256=")
    assert await authentication.authenticate({}, PeerCertificate(der)) is user


async def test_a_nameless_certificate_is_no_credential(
    authentication: Authentication, ec_key: PrivateKey
) -> None:
    der = certificate(ec_key, [(NameOID.ORGANIZATION_NAME, "devs")])
    assert await authentication.authenticate({}, PeerCertificate(der)) is None


async def test_an_expired_certificate_is_refused_on_its_old_connection(
    authentication: Authentication, ec_key: PrivateKey, clock: Any
) -> None:
    der = certificate(ec_key, [(NameOID.COMMON_NAME, "alice")])
    assert await authentication.authenticate({}, PeerCertificate(der)) is not None
    token = token_of(authentication)
    clock.now += 3600 + 1
    with pytest.raises(ApiError) as raised:
        await authentication.authenticate({}, PeerCertificate(der))
    assert raised.value.status == 401
    user = await authentication.authenticate(
        {"Authorization": f"Bearer {token}"}, PeerCertificate(der)
    )
    assert user is not None
    assert user.name == "system:serviceaccount:ns:robot"


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, None),
        ({"Authorization": ""}, None),
        ({"Authorization": "Bearer"}, None),
        ({"Authorization": "Bearer "}, None),
        ({"Authorization": "Basic YTpi"}, None),
        ({"X-Remote-User": "admin", "X-Remote-Group": "system:masters"}, None),
        ({"Authorization": "Bearer abc"}, "abc"),
        ({"Authorization": "bearer abc"}, "abc"),
        (
            {
                "Sec-WebSocket-Protocol": "v5.channel.k8s.io, base64url.bearer.authorization"
                ".k8s.io." + base64.urlsafe_b64encode(b"abc").decode().rstrip("=")
            },
            "abc",
        ),
    ],
)
def test_where_tokens_are(headers: Mapping[str, str], token: str | None) -> None:
    assert bearer_token(headers) == token


async def test_tokens(authentication: Authentication) -> None:
    assert await authentication.authenticate({}, None) is None
    headers = {"Authorization": f"Bearer {token_of(authentication)}"}
    user = await authentication.authenticate(headers, None)
    assert user is not None
    assert user.name == "system:serviceaccount:ns:robot"
    with pytest.raises(ApiError) as raised:
        await authentication.authenticate({"Authorization": "Bearer unknown"}, None)
    assert (raised.value.status, raised.value.message) == (401, "Unauthorized")


def test_discovery_documents(authentication: Authentication, keys: KeyRing) -> None:
    issuer = "https://kubernetes.default.svc.cluster.local"
    assert json.loads(authentication.openid_configuration) == {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/openid/v1/jwks",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }
    [key] = json.loads(authentication.jwks)["keys"]
    assert (key["kid"], key["kty"], key["use"]) == (keys.signing_key_id, "RSA", "sig")


def test_key_files(tmp_path: Path, key_file: Path, rsa_key: PrivateKey, ec_key: PrivateKey) -> None:
    public = tmp_path / "old.pub"
    pem = [
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for key in (rsa_key, ec_key)
    ]
    public.write_bytes(b"".join(pem))
    ring = KeyRing.load(key_file, [public])
    assert len(ring.verification_keys) == 2
    assert ring.candidates(ring.signing_key_id)[0].algorithm == "RS256"
    assert len(ring.candidates("")) == 2
    assert ring.candidates("unknown") == []
    broken = tmp_path / "broken.pub"
    broken.write_text("no key")
    with pytest.raises(ValueError, match="no PEM key"):
        KeyRing.load(key_file, [broken])


async def test_a_repeated_caller_is_quick(
    authentication: Authentication, ec_key: PrivateKey
) -> None:
    der = certificate(ec_key, [(NameOID.COMMON_NAME, "alice")])
    headers = {"Authorization": f"Bearer {token_of(authentication)}"}

    async def timed(peer: PeerCertificate | None) -> float:
        start = time.perf_counter()
        for _ in range(300):
            user = await authentication.authenticate(headers, peer)
        assert isinstance(user, UserInfo)
        return (time.perf_counter() - start) / 300

    limit = 20e-6 * slowness()
    assert min([await timed(PeerCertificate(der)) for _ in range(5)]) < limit
    assert min([await timed(None) for _ in range(5)]) < limit
