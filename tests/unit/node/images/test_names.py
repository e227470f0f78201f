"""Image references."""

from __future__ import annotations

import pytest

from navarch.node.images.names import (
    InvalidImageName,
    parse_image_name,
    with_default_tag,
    without_tag,
)


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app:latest"),
        ("index.docker.io/app", "docker.io/library/app:latest"),
        ("UPPER/app", "UPPER/app:latest"),
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


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "invalid reference format"),
        ("a:b:c", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("-a", "invalid reference format"),
        (" a", "invalid reference format"),
        ("a:1\n", "invalid reference format"),
        ("a@sha256:12", "invalid reference format"),
        ("busy/Box", r"repository name \(busy/Box\) must be lowercase"),
        ("f" * 64, "cannot specify 64-byte hexadecimal strings"),
        ("a" * 250, "more than 255 characters"),
        ("a-" * 500_000, "more than 255 characters"),
        ("a@sha256:" + "0" * 63, "invalid checksum digest length"),
        ("a@md5:" + "0" * 32, "unsupported digest algorithm"),
    ],
)
def test_what_is_no_name(text: str, problem: str) -> None:
    with pytest.raises(InvalidImageName, match=problem):
        parse_image_name(text)


def test_the_default_tag() -> None:
    assert with_default_tag("host:5000/a") == "host:5000/a:latest"
    assert with_default_tag("a:1") == "a:1"


def test_names_without_tag_and_digest() -> None:
    digest = "@sha256:" + "0" * 64
    for text in ("host:5000/a", "host:5000/a:1", "host:5000/a:1" + digest, "host:5000/a" + digest):
        assert without_tag(text) == "host:5000/a"
