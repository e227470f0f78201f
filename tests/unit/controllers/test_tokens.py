"""Lasting tokens and bootstrap tokens as values."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.certificates import key_pem, new_key

from navarch.api.times import format_time
from navarch.api.types.core_v1 import (
    Container,
    EnvFromSource,
    EnvVar,
    EnvVarSource,
    ObjectReference,
    Pod,
    PodSpec,
    Secret,
    SecretEnvSource,
    SecretKeySelector,
    SecretVolumeSource,
    ServiceAccount,
    Volume,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.bootstrap_tokens import (
    detached_signature,
    expiry,
    signed,
    signing_tokens,
)
from navarch.controllers.legacy_token_cleaner import Fate, fate, mounted_secrets
from navarch.controllers.service_account_tokens import belongs, claims, filled, signer
from navarch.controllers.ttl import next_step

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NAME, UID = (f"kubernetes.io/service-account.{each}" for each in ("name", "uid"))
ACCOUNT = ServiceAccount(
    metadata=ObjectMeta(name="build", namespace="a", uid="u1"),
    secrets=[ObjectReference(name="token")],
)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def secret(annotations: dict[str, str] | None = None, /, **data: str) -> Secret:
    metadata = ObjectMeta(name="token", namespace="a", annotations=annotations or {NAME: "build"})
    return Secret(metadata=metadata, data={key: encoded(text) for key, text in data.items()})


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({NAME: "build"}, True),
        ({NAME: "build", UID: "u1"}, True),
        ({NAME: "build", UID: "u0"}, False),
        ({NAME: "other", UID: "u1"}, False),
        ({"a": "b"}, False),
    ],
)
def test_whose_a_secret_is(annotations: dict[str, str], expected: bool) -> None:
    assert belongs(secret(annotations), ACCOUNT) is expected


def test_a_secret_is_filled_once_and_its_ca_kept_right() -> None:
    key = new_key()
    sign = signer(key_pem(key))
    first = filled(secret(), ACCOUNT, "ca", sign)
    assert first.metadata.annotations == {NAME: "build", UID: "u1"}
    assert {"ca.crt": encoded("ca"), "namespace": encoded("a")}.items() <= first.data.items()
    token = base64.b64decode(first.data["token"]).decode()
    assert jwt.decode(token, key.public_key(), ["ES256"]) == claims(ACCOUNT, secret())
    assert jwt.get_unverified_header(token).keys() == {"alg", "kid"}
    assert filled(first, ACCOUNT, "ca", sign).data == first.data
    second = filled(first, ACCOUNT, "new", sign)
    assert second.data == {**first.data, "ca.crt": encoded("new")}
    assert load_pem_private_key(key_pem(key), None)


def labelled(created: int, **labels: str) -> Secret:
    names = {name: f"kubernetes.io/legacy-token-{name}" for name in ("last-used", "invalid-since")}
    made = secret()
    made.metadata.creationTimestamp = format_time(NOW - timedelta(days=created))
    made.metadata.labels = {names[key.replace("_", "-")]: text for key, text in labels.items()}
    return made


@pytest.mark.parametrize(
    ("given", "mounted", "expected"),
    [
        (labelled(300), False, Fate.KEEP),
        (labelled(400), False, Fate.MARK),
        (labelled(400), True, Fate.KEEP),
        (labelled(400, last_used="2026-05-01"), False, Fate.KEEP),
        (labelled(900, last_used="2025-01-01"), False, Fate.MARK),
        (labelled(900, last_used="yesterday"), False, Fate.KEEP),
        (labelled(900, invalid_since="2026-05-01"), False, Fate.KEEP),
        (labelled(900, invalid_since="2025-01-01"), False, Fate.DELETE),
        (labelled(900, invalid_since="once"), False, Fate.MARK),
    ],
)
def test_what_becomes_of_an_old_token(given: Secret, mounted: bool, expected: Fate) -> None:
    assert fate(given, ACCOUNT, mounted, NOW) is expected
    assert fate(given, None, mounted, NOW) is Fate.KEEP
    assert fate(given, ServiceAccount(), mounted, NOW) is Fate.KEEP


def test_all_secrets_that_a_pod_uses() -> None:
    variable = EnvVar(
        name="A", valueFrom=EnvVarSource(secretKeyRef=SecretKeySelector(name="one", key="k"))
    )
    container = Container(
        name="main", env=[variable], envFrom=[EnvFromSource(secretRef=SecretEnvSource(name="two"))]
    )
    volume = Volume(name="v", secret=SecretVolumeSource(secretName="three"))
    pod = Pod(spec=PodSpec(containers=[container], volumes=[volume]))
    assert mounted_secrets([pod, Pod()]) == {"one", "two", "three"}


def token(name: str = "abcdef", **data: Any) -> Secret:
    content = {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-signing": "true",
    }
    content |= {key.replace("_", "-"): text for key, text in data.items()}
    made = secret(**content)
    made.metadata.name = f"bootstrap-token-{name}"
    return made


@pytest.mark.parametrize(
    ("given", "signs"),
    [
        (token(), True),
        (token(expiration="2030-01-01T00:00:00Z"), True),
        (token(expiration="2020-01-01T00:00:00Z"), False),
        (token(expiration="soon"), False),
        (token("ghijkl"), False),
        (token(token_secret=""), False),
        (token(usage_bootstrap_signing="false"), False),
    ],
)
def test_which_tokens_sign(given: Secret, signs: bool) -> None:
    assert signing_tokens([given], NOW) == ({"abcdef": "0123456789abcdef"} if signs else {})


def test_a_token_without_an_end_stays() -> None:
    assert expiry(token()) is None


def test_signatures_can_be_verified_and_old_ones_go() -> None:
    data = {"kubeconfig": "text", "jws-kubeconfig-older0": "x", "other": "stays"}
    key = "0123456789abcdef" * 2
    result = signed(data, {"abcdef": key})
    assert result.keys() == {"kubeconfig", "other", "jws-kubeconfig-abcdef"}
    head, payload, mark = result["jws-kubeconfig-abcdef"].split(".")
    assert payload == ""
    content = base64.urlsafe_b64encode(b"text").rstrip(b"=").decode()
    whole = f"{head}.{content}.{mark}"
    assert jwt.PyJWS().decode(whole, key.encode(), ["HS256"]) == b"text"
    assert jwt.get_unverified_header(whole) == {"alg": "HS256", "kid": "abcdef"}
    assert signed(result, {"abcdef": key}) == result
    assert signed({"other": "stays"}, {"abcdef": "x"}) == {"other": "stays"}
    assert detached_signature("a", "b", "c") != detached_signature("a", "b", "d")


@pytest.mark.parametrize(
    ("step", "nodes", "expected"),
    [(0, 100, 0), (0, 101, 1), (1, 90, 1), (1, 89, 0), (0, 5000, 4), (4, 3, 0), (2, 950, 2)],
)
def test_the_ttl_of_a_cluster_s_size(step: int, nodes: int, expected: int) -> None:
    assert next_step(step, nodes) == expected
