"""Front proxies: whose certificates they are, what their headers say, and what others are told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from navarch.api.errors import ApiError
from navarch.apiserver.authentication.front_proxy import Authorities, FrontProxies, RequestHeaders
from navarch.apiserver.authentication.trust import joined
from navarch.apiserver.contracts import PeerCertificate, UserInfo
from navarch.cluster import pki
from navarch.cluster.profile import Paths, Profile

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    paths = Paths(tmp_path_factory.mktemp("pki") / "x")
    paths.create()
    pki.ensure(Profile("x", nodes=0), paths, NOW)
    return paths


def der(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


def peer(paths: Paths, name: str, root: str = "") -> PeerCertificate:
    chain = der(paths.pki / f"{root}.crt") if root else b""
    return PeerCertificate(der(paths.pki / f"{name}.crt"), chain)


@pytest.mark.parametrize(
    ("name", "root", "is_one"),
    [
        ("front-proxy-client", "front-proxy-ca", True),
        ("admin", "ca", False),
        # TLS no longer knows the chain of a resumed session: the issuer's signature decides.
        ("front-proxy-client", "", True),
        ("admin", "", False),
        ("ca", "", False),
    ],
)
def test_whose_certificate_it_is(paths: Paths, name: str, root: str, is_one: bool) -> None:
    authorities = Authorities(paths.pki / "front-proxy-ca.crt")
    assert authorities.vouch_for(peer(paths, name, root)) is is_one
    assert not Authorities(None).vouch_for(peer(paths, name, root))


@pytest.mark.parametrize(
    ("headers", "user"),
    [
        ({}, None),
        ({"X-Remote-Group": "devs"}, None),
        ({"X-Remote-User": ""}, None),
        ({"x-remote-user": "ann"}, UserInfo("ann")),
        (
            {
                "X-Remote-User": "ann",
                "X-Remote-Uid": "7",
                "X-Remote-Group": "devs",
                "X-Remote-Extra-Example.com%2fScope": "a",
            },
            UserInfo("ann", "7", ("devs",), {"example.com/scope": ("a",)}),
        ),
    ],
)
def test_what_headers_say(paths: Paths, headers: dict[str, str], user: UserInfo | None) -> None:
    authorities = Authorities(paths.pki / "front-proxy-ca.crt")
    proxies = FrontProxies(authorities, frozenset({"front-proxy-client"}), RequestHeaders())
    assert proxies.user(headers, peer(paths, "front-proxy-client", "front-proxy-ca")) == user
    for allowed, name, root in (
        ({"another"}, "front-proxy-client", "front-proxy-ca"),
        (set(), "admin", "ca"),
    ):
        others = FrontProxies(authorities, frozenset(allowed), RequestHeaders())
        with pytest.raises(ApiError):
            others.user(headers, peer(paths, name, root))


def test_several_servers_share_one_note(paths: Paths, tmp_path: Path) -> None:
    """Authorities and names are joined; what has expired or makes no sense goes."""
    old = Paths(tmp_path / "old")
    old.create()
    pki.ensure(Profile("old", nodes=0), old, NOW - timedelta(days=4000))
    ours, theirs, gone = (
        (each.pki / name).read_text()
        for each, name in ((paths, "ca.crt"), (paths, "front-proxy-ca.crt"), (old, "ca.crt"))
    )
    key, names = "client-ca-file", "requestheader-allowed-names"
    wanted = {key: ours, names: '["a"]'}
    assert joined({}, wanted, NOW) == wanted
    assert joined(wanted, wanted, NOW) == wanted
    found = joined({key: theirs + gone, names: '["b"]', "more": "x"}, wanted, NOW)
    assert found["more"] == "x"
    assert json.loads(found[names]) == ["b", "a"]
    assert len(x509.load_pem_x509_certificates(found[key].encode())) == 2
    assert joined(found, wanted, NOW) == found
    for damaged in ("garbage", "{}", "[1]"):
        assert joined({key: damaged, names: damaged}, wanted, NOW) == wanted
