"""Image references and the credentials that fit them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from navarch.api.types.core_v1 import Secret
from navarch.node.images.credentials import credentials_for
from navarch.node.images.names import InvalidImageName, parse_image_name, with_default_tag


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app:latest"),
        ("index.docker.io/app", "docker.io/library/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("registry.example/e2e/agnhost:2.63.0", "registry.example/e2e/agnhost:2.63.0"),
        ("host:5000/a/b", "host:5000/a/b:latest"),
        ("a@sha256:" + "0" * 64, "docker.io/library/a@sha256:" + "0" * 64),
        ("a:1@sha256:" + "0" * 64, "docker.io/library/a:1@sha256:" + "0" * 64),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
    ],
)
def test_names_are_completed(text: str, complete: str) -> None:
    assert str(parse_image_name(text)) == complete


@pytest.mark.parametrize("text", ["", "Upper/Case", "a:b:c", "a//b", "-a", "a@sha256:12", " a"])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InvalidImageName, match="invalid reference format"):
        parse_image_name(text)


def test_the_default_tag() -> None:
    assert with_default_tag("host:5000/a") == "host:5000/a:latest"
    assert with_default_tag("a:1") == "a:1"


def docker_config(**auths: Any) -> Secret:
    text = json.dumps({"auths": auths}).encode()
    return Secret(data={".dockerconfigjson": base64.b64encode(text).decode()})


USER = base64.b64encode(b"me:secret:with:colons").decode()


@pytest.mark.parametrize(
    ("key", "image", "fits"),
    [
        ("registry.test", "registry.test/a", True),
        ("https://registry.test/v1/", "registry.test/a", True),
        ("registry.test/team", "registry.test/team/a", True),
        ("registry.test/team", "registry.test/teams/a", False),
        ("*.registry.test", "eu.registry.test/a", True),
        ("*.registry.test", "a.eu.registry.test/a", False),
        ("https://index.docker.io/v1/", "busybox", True),
        ("other.test", "busybox", False),
        ("registry.test:5000", "registry.test/a", False),
    ],
)
def test_credentials_fit(key: str, image: str, fits: bool) -> None:
    found = credentials_for(parse_image_name(image), [docker_config(**{key: {"auth": USER}})])
    assert bool(found) == fits
    if fits:
        assert (found[0].username, found[0].password) == ("me", "secret:with:colons")


def test_the_most_specific_credentials_come_first() -> None:
    secret = docker_config(
        **{"r.test": {"username": "wide"}, "r.test/team": {"username": "narrow"}}
    )
    found = credentials_for(parse_image_name("r.test/team/a"), [secret])
    assert [each.username for each in found] == ["narrow", "wide"]


def test_broken_secrets_are_no_credentials() -> None:
    broken = Secret(data={".dockerconfigjson": base64.b64encode(b"{").decode()})
    assert credentials_for(parse_image_name("r.test/a"), [broken, Secret()]) == []
