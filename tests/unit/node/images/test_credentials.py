"""Which credentials fit an image, and in which order they are tried."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.api.types.core_v1 import Secret
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.node.images.credentials import (
    BrokenCredentials,
    TrackedCredentials,
    keyring_of,
    matches,
)
from navarch.node.images.lookup import CredentialSources
from navarch.node.images.names import parse_image_name


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def docker_config(auths: Mapping[str, Any] | None = None, name: str = "pull") -> Secret:
    return Secret(
        metadata=ObjectMeta(name=name, namespace="default", uid=f"uid-{name}"),
        type="kubernetes.io/dockerconfigjson",
        data={".dockerconfigjson": encoded(json.dumps({"auths": dict(auths or {})}))},
    )


def users(image: str, *secrets: Secret) -> list[str]:
    found = keyring_of(secrets).lookup(parse_image_name(image))
    return [each.credentials.username for each in found]


@pytest.mark.parametrize(
    ("key", "image", "fits"),
    [
        ("registry.example", "registry.example/a", True),
        ("https://registry.example/v1/", "registry.example/a", True),
        ("registry.example/team", "registry.example/team/a", True),
        ("registry.example/team/", "registry.example/teams/a", False),
        ("registry.example/other", "registry.example/team/a", False),
        ("*.registry.example", "eu.registry.example/a", True),
        ("*.registry.example", "registry.example/a", False),
        ("*.registry.example", "a.eu.registry.example/a", False),
        ("r*y.example", "registry.example/a", True),
        ("*", "registry.example/a", False),
        ("https://index.docker.io/v1/", "busybox", True),
        ("docker.io", "busybox", True),
        ("docker.io/library/busybox", "busybox", True),
        ("other.example", "busybox", False),
        ("registry.example:5000", "registry.example/a", False),
        ("registry.example:5000", "registry.example:5000/a", True),
        ("registry.example", "registry.example:5000/a", False),
        ("[::1]:5000", "[::1]:5000/a", True),
    ],
)
def test_entries_fit(key: str, image: str, fits: bool) -> None:
    auth = encoded("me:secret:with:colons")
    found = keyring_of([docker_config({key: {"auth": auth}})]).lookup(parse_image_name(image))
    assert bool(found) == fits
    if fits:
        shown = found[0].credentials
        assert (shown.username, shown.password) == ("me", "secret:with:colons")


def test_longer_paths_come_first_and_then_the_order_of_secrets() -> None:
    first = docker_config(
        {"r.example": {"username": "wide"}, "r.example/team": {"username": "narrow"}}
    )
    second = docker_config({"r.example": {"username": "second"}}, "second")
    assert users("r.example/team/a", first, second) == ["narrow", "wide", "second"]


def test_both_formats_of_secrets_and_no_others() -> None:
    entry = {"r.example": {"username": "old", "password": "p"}}
    flat = {".dockercfg": encoded(json.dumps(entry))}
    old = Secret(type="kubernetes.io/dockercfg", data=flat)
    assert users("r.example/a", old) == ["old"]
    assert users("r.example/a", Secret(type="Opaque", data=flat), Secret()) == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("{", "not a docker configuration"),
        ('{"auths": {"r.example": "x"}}', "not a docker configuration"),
        ('{"auths": {"r.example": {"auth": "%%"}}}', "illegal base64"),
        ('{"auths": {"r.example": {"auth": "bm9jb2xvbg=="}}}', "unable to parse auth field"),
    ],
)
def test_broken_secrets_are_named_and_not_quoted(data: str, problem: str) -> None:
    broken = docker_config()
    broken.data[".dockerconfigjson"] = encoded(data)
    with pytest.raises(BrokenCredentials, match=f"secret default/pull: .*{problem}") as error:
        keyring_of([broken])
    assert "r.example" not in str(error.value)


def test_credentials_do_not_show_in_logs() -> None:
    found = keyring_of([docker_config({"r.example": {"username": "u", "password": "hidden"}})])
    (tracked,) = found.lookup(parse_image_name("r.example/a"))
    assert isinstance(tracked, TrackedCredentials)
    assert "hidden" not in repr(tracked)
    assert tracked.hash != "" and "hidden" not in tracked.hash


async def test_the_nodes_own_configuration_comes_after_the_pods(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    sources = CredentialSources(path)
    secret = docker_config({"r.example": {"username": "pod"}})
    image = parse_image_name("r.example/a")
    assert [
        each.credentials.username for each in await sources.lookup(make_pod(), image, [secret])
    ] == ["pod"]
    path.write_text(json.dumps({"auths": {"r.example": {"username": "node"}}, "credsStore": "x"}))
    found = await sources.lookup(make_pod(), image, [secret])
    assert [(each.credentials.username, each.source is None) for each in found] == [
        ("pod", False),
        ("node", True),
    ]
    path.write_text("{")
    assert len(await sources.lookup(make_pod(), image, [secret])) == 1


def test_patterns_take_time_in_proportion() -> None:
    assert not matches("*a" * 200 + "b.example", "a" * 2000 + ".example/x")
