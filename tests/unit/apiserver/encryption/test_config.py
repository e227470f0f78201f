"""Encryption configurations: what they seal, by which key, and which files are none."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from navarch.apiserver.configuration_file import ConfigurationError
from navarch.apiserver.encryption.config import ConfiguredSealer, resource_of
from navarch.apiserver.encryption.providers import cipher_of
from navarch.store.sealing import Unsealable, mark_of

SECRET = "/registry/secrets/ns/a"
DEPLOYMENT = "/registry/deployments/ns/a"
CUSTOM = "/registry/example.com/pandas/ns/a"


def key(name: str, size: int = 32, fill: int = 1) -> dict[str, str]:
    return {"name": name, "secret": base64.b64encode(bytes([fill]) * size).decode()}


def configuration(*rules: tuple[list[str], list[Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": names, "providers": found} for names, found in rules],
    }


def provider(name: str, *keys: dict[str, str]) -> dict[str, Any]:
    return {name: {"keys": list(keys)}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "encryption.yaml"


def sealer_of(file: Path, *rules: tuple[list[str], list[Any]]) -> ConfiguredSealer:
    file.write_text(yaml.safe_dump(configuration(*rules)))
    return ConfiguredSealer(file)


@pytest.mark.parametrize(
    ("name", "size", "overhead"),
    [
        ("aescbc", 16, 16 + 16 - 13 % 16),
        ("aescbc", 24, 16 + 16 - 13 % 16),
        ("aescbc", 32, 16 + 16 - 13 % 16),
        ("aesgcm", 16, 12 + 16),
        ("aesgcm", 32, 12 + 16),
        ("secretbox", 32, 24 + 16),
    ],
)
def test_the_stored_form_is_upstreams(file: Path, name: str, size: int, overhead: int) -> None:
    sealer = sealer_of(file, (["secrets"], [provider(name, key("key1", size))]))
    plain = b'{"kind":"Se"}'
    sealed = sealer.seal(SECRET, plain)
    prefix = f"k8s:enc:{name}:v1:key1:".encode()
    assert sealed.startswith(prefix) and plain not in sealed
    assert len(sealed) == len(prefix) + len(plain) + overhead
    assert mark_of(sealed) == sealer.mark(SECRET) == prefix
    assert sealer.unseal(SECRET, sealed) == plain
    assert sealer.seal(SECRET, plain) != sealed
    other = cipher_of(name, b"\x02" * size)
    # CBC proves nothing: once in 256 times another key's noise ends in a valid padding.
    unproven = contextlib.suppress(Unsealable) if name == "aescbc" else pytest.raises(Unsealable)
    with unproven:
        assert other.unseal(SECRET, sealed[len(prefix) :]) != plain
    with pytest.raises(Unsealable):
        sealer.unseal(SECRET, prefix + b"short")


def test_only_gcm_binds_a_value_to_its_place(file: Path) -> None:
    sealer = sealer_of(file, (["secrets"], [provider("aesgcm", key("k"))]))
    with pytest.raises(Unsealable, match="authentication failed"):
        sealer.unseal("/registry/secrets/ns/b", sealer.seal(SECRET, b"{}"))


def test_known_answers() -> None:
    """Made by other hands: OpenSSL's AES-256-CBC, and NaCl's own test of secretbox."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    first = bytes(range(16))
    encryptor = Cipher(algorithms.AES(b"k" * 32), modes.CBC(first)).encryptor()
    sealed = first + encryptor.update(b"hello" + b"\x0b" * 11) + encryptor.finalize()
    assert cipher_of("aescbc", b"k" * 32).unseal("", sealed) == b"hello"
    # golang.org/x/crypto/nacl/secretbox: key of ones, nonce of twos, message of threes.
    expected = bytes.fromhex(
        "8442bc313f4626f1359e3b50122b6ce6fe66ddfe7d39d14e637eb4fd5b45beadab55198df6ab5368439792a2"
        "3c87db70acb6156dc5ef957ac04f6276cf6093b84be77ff0849cc33e34b7254d5a8f65ad"
    )
    opened = cipher_of("secretbox", b"\x01" * 32).unseal("", b"\x02" * 24 + expected)
    assert opened == b"\x03" * 64


@pytest.mark.parametrize(
    ("patterns", "sealed"),
    [
        (["secrets"], {SECRET}),
        (["deployments.apps"], {DEPLOYMENT}),
        (["deployments"], set()),
        (["*."], {SECRET}),
        (["*.apps"], {DEPLOYMENT}),
        (["pandas.example.com"], {CUSTOM}),
        (["*.*"], {SECRET, DEPLOYMENT, CUSTOM}),
    ],
)
def test_resources(file: Path, patterns: list[str], sealed: set[str]) -> None:
    sealer = sealer_of(file, (patterns, [provider("aesgcm", key("k"))]))
    found = {each for each in (SECRET, DEPLOYMENT, CUSTOM) if sealer.mark(each)}
    assert found == sealed


def test_earlier_rules_come_first(file: Path) -> None:
    one, two = provider("aesgcm", key("one")), provider("aesgcm", key("two"))
    sealer = sealer_of(file, (["secrets"], [one]), (["*.*"], [two]))
    assert sealer.mark(SECRET).endswith(b":one:")
    assert sealer.mark(DEPLOYMENT).endswith(b":two:")
    sealer = sealer_of(file, (["*.*"], [two]), (["secrets"], [one]))
    assert sealer.mark(SECRET).endswith(b":two:")


def test_the_first_provider_writes_and_all_read(file: Path) -> None:
    old = sealer_of(file, (["secrets"], [provider("aescbc", key("old"))]))
    by_old = old.seal(SECRET, b"{}")
    both = provider("aescbc", key("new", fill=2), key("old"))
    sealer = sealer_of(file, (["secrets"], [{"identity": {}}, both]))
    assert sealer.mark(SECRET) == b"" and sealer.seal(SECRET, b"{}") == b"{}"
    assert sealer.unseal(SECRET, by_old) == b"{}"
    with pytest.raises(Unsealable, match="no matching key"):
        sealer.unseal(SECRET, b"k8s:enc:aescbc:v1:lost:xxx")


def test_a_changed_file_is_read_again_and_a_bad_one_changes_nothing(file: Path) -> None:
    sealer = sealer_of(file, (["secrets"], [provider("aesgcm", key("one"))]))
    file.write_text("rubbish")
    with pytest.raises(ConfigurationError):
        sealer.reload()
    assert sealer.mark(SECRET).endswith(b":one:")
    rule = (["secrets"], [provider("aesgcm", key("two"), key("one"))])
    file.write_text(yaml.safe_dump(configuration(rule)))
    sealer.reload()
    assert sealer.mark(SECRET).endswith(b":two:")


GOOD = provider("aesgcm", key("k"))


def test_files_of_another_kind_are_refused(file: Path) -> None:
    file.write_text("apiVersion: v1\n")
    with pytest.raises(ConfigurationError, match="EncryptionConfiguration, not 'v1'; resources"):
        ConfiguredSealer(file)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ([], "at least one"),
        ([([], [GOOD])], "at least one"),
        ([(["secrets"], [])], "at least one"),
        ([(["secrets"], [{}])], "no provider"),
        ([(["secrets"], [{**GOOD, "identity": {}}])], "more than one provider"),
        ([(["secrets"], [{"kms": {"name": "x"}}])], "key management services"),
        ([(["secrets"], [provider("aesgcm")])], "at least one"),
        ([(["secrets"], [provider("aesgcm", key(""))])], "mandatory field"),
        ([(["secrets"], [provider("aesgcm", key("a:b"))])], "must not contain ':'"),
        ([(["secrets"], [provider("aesgcm", key("a", 31))])], "got 31, expected one of"),
        ([(["secrets"], [provider("secretbox", key("a", 16))])], "got 16, expected one of"),
        ([(["secrets"], [provider("aescbc", {"name": "a", "secret": "%%"})])], "base64"),
        ([(["secrets"], [provider("des", key("a"))])], "unknown field `des`"),
        ([(["secrets", "secrets"], [GOOD])], "multiple times"),
        ([(["secrets", "*."], [GOOD])], "overlapping"),
        ([(["*"], [GOOD])], "use '*.'"),
        ([(["Secrets"], [GOOD])], "capital letters"),
        ([(["secrets.*"], [GOOD])], "across groups"),
        ([(["*.events.k8s.io"], [GOOD])], "stored as 'events'"),
    ],
)
def test_files_that_are_refused(file: Path, rules: list[Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem.replace("*", r"\*")) as raised:
        sealer_of(file, *rules)
    for each in ("AQEB", "%%"):
        assert each not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "resource"),
    [
        ("/registry/services/specs/ns/a", ("services", "")),
        ("/registry/services/endpoints/ns/a", ("endpoints", "")),
        ("/registry/minions/n", ("nodes", "")),
        (
            "/registry/apiregistration.k8s.io/apiservices/x",
            ("apiservices", "apiregistration.k8s.io"),
        ),
        (CUSTOM, ("pandas", "example.com")),
    ],
)
def test_keys_tell_their_resource(key: str, resource: tuple[str, str]) -> None:
    assert resource_of(key) == resource
