"""Kubeconfig files: what is read, what is refused, and rotation of what lies in files."""

from __future__ import annotations

import base64
import datetime
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from navarch.client.clock import FakeClock
from navarch.client.config import ClientConfig, ConfigError, Credentials, make_ssl_context


def make_certificate(name: str) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


CERTIFICATE, KEY = make_certificate("someone")


def write_kubeconfig(
    directory: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None
) -> Path:
    document = {
        "current-context": "here",
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "ns"}},
            {"name": "elsewhere", "context": {"cluster": "none"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "https://h:1/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user}],
    }
    path = directory / "config"
    path.write_text(yaml.safe_dump(document))
    return path


def test_inline_data_and_files_next_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "client.key").write_bytes(KEY)
    user = {
        "client-certificate-data": base64.b64encode(CERTIFICATE).decode(),
        "client-key": "client.key",
    }
    ca = {"certificate-authority-data": base64.b64encode(CERTIFICATE).decode()}
    config = ClientConfig.from_kubeconfig(write_kubeconfig(tmp_path, user, ca))
    assert (config.server, config.namespace) == ("https://h:1", "ns")
    assert config.certificate.read() == CERTIFICATE
    assert config.key.path == str(tmp_path / "client.key")
    assert make_ssl_context(config).get_ca_certs()
    assert "PRIVATE" not in repr(config)


@pytest.mark.parametrize(
    ("user", "cluster", "context", "complaint"),
    [
        pytest.param({"exec": {"command": "x"}}, {}, "", "exec is not supported", id="exec"),
        pytest.param({"username": "x"}, {}, "", "username is not supported", id="basic"),
        pytest.param({}, {"proxy-url": "http://p"}, "", "proxy-url is not supported", id="proxy"),
        pytest.param({}, {"server": "h:1"}, "", "not an http", id="server"),
        pytest.param({}, {}, "nowhere", "no context named 'nowhere'", id="context"),
        pytest.param({}, {}, "elsewhere", "no cluster named 'none'", id="cluster"),
        pytest.param({"client-key": "k"}, {}, "", "belong together", id="half a pair"),
        pytest.param({"client-key-data": "*"}, {}, "", "not base64", id="base64"),
        pytest.param({"as-groups": ["g"]}, {}, "", "as-groups", id="impersonated groups"),
    ],
)
def test_refusals(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], context: str, complaint: str
) -> None:
    path = write_kubeconfig(tmp_path, user, cluster)
    with pytest.raises(ConfigError, match=complaint):
        ClientConfig.from_kubeconfig(path, context)


@pytest.mark.parametrize("content", ["[", "- a list", "{}"])
def test_files_that_are_no_kubeconfig(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ConfigError, match=str(path)):
        ClientConfig.from_kubeconfig(path)
    with pytest.raises(ConfigError, match="cannot read"):
        ClientConfig.from_kubeconfig(tmp_path / "missing")


def test_in_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(ConfigError, match="no service-account token"):
        ClientConfig.in_cluster(tmp_path)
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "namespace").write_text("apps")
    config = ClientConfig.in_cluster(tmp_path)
    assert (config.server, config.namespace) == ("https://[fd00::1]:443", "apps")


def test_missing_credentials_are_named(tmp_path: Path) -> None:
    config = ClientConfig("http://h", token_file=str(tmp_path / "token"))
    with pytest.raises(ConfigError, match=r"cannot read the credentials: .*token"):
        Credentials(config, FakeClock())


async def test_tokens_are_read_again_when_their_file_changes(tmp_path: Path) -> None:
    clock = FakeClock()
    token = tmp_path / "token"
    token.write_text("one\n")
    credentials = Credentials(ClientConfig("http://h", token_file=str(token)), clock)
    assert credentials.headers["Authorization"] == "Bearer one"
    token.write_text("second\n")
    assert not credentials.refresh()
    await clock.advance(11)
    assert credentials.refresh()
    assert credentials.headers["Authorization"] == "Bearer second"
    token.write_text("")
    assert not credentials.refresh(force=True)
    token.unlink()
    assert not credentials.refresh(force=True)
    assert credentials.headers["Authorization"] == "Bearer second"


def test_a_half_done_rotation_keeps_the_old_certificate_until_the_key_fits(tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_bytes(CERTIFICATE)
    key.write_bytes(KEY)
    user = {"client-certificate": "tls.crt", "client-key": "tls.key"}
    config = ClientConfig.from_kubeconfig(write_kubeconfig(tmp_path, user))
    credentials = Credentials(config, FakeClock())
    old = credentials.ssl_context
    new_certificate, new_key = make_certificate("someone new")
    replace(certificate, new_certificate)
    assert not credentials.refresh(force=True)
    assert credentials.ssl_context is old
    replace(key, new_key)
    assert credentials.refresh(force=True)
    assert credentials.ssl_context is not old


def replace(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    os.replace(fresh, path)
