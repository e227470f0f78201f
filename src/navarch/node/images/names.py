"""Image references: their grammar, their registry, their default tag. Pure.

`[registry/]path[:tag][@digest]`; a first component with a dot, a colon or the name localhost is the
registry, everything else is on Docker Hub (github.com/distribution/reference).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"  # noqa: E501
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>{_HOST}/{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_DIGEST_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_LONGEST_NAME = 255
_LONGEST_REFERENCE = 1024
DOCKER_HUB = "docker.io"


class InvalidImageName(Exception):
    """The text is no image reference."""


@dataclass(frozen=True, slots=True)
class ImageName:
    """A reference taken apart and completed."""

    registry: str
    path: str
    tag: str
    digest: str

    @property
    def repository(self) -> str:
        return f"{self.registry}/{self.path}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def parse_image_name(text: str) -> ImageName:
    """The complete reference `text` stands for: `web` is docker.io/library/web:latest."""
    try:
        return _parse(text)
    except ValueError as error:
        raise InvalidImageName(f'couldn\'t parse image name "{text}": {error}') from None


def _parse(text: str) -> ImageName:
    if len(text) > _LONGEST_REFERENCE:  # before the patterns, whose time grows with the length
        raise ValueError(f"repository name must not be more than {_LONGEST_NAME} characters")
    if _IDENTIFIER.fullmatch(text):
        raise ValueError(
            f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
        )
    first, slash, rest = text.partition("/")
    # An upper-case letter is allowed in a host only, so what has one is a host.
    if slash and (set(".:") & set(first) or first == "localhost" or first != first.lower()):
        registry, remainder = first, rest
    else:
        registry, remainder = DOCKER_HUB, text
    path = remainder.partition(":")[0]
    if path != path.lower():
        raise ValueError(f"invalid reference format: repository name ({path}) must be lowercase")
    if registry == "index.docker.io":
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in remainder:
        remainder = f"library/{remainder}"
    match = _REFERENCE.fullmatch(f"{registry}/{remainder}")
    if match is None:
        raise ValueError("invalid reference format")
    if len(match["name"]) > _LONGEST_NAME:
        raise ValueError(f"repository name must not be more than {_LONGEST_NAME} characters")
    digest = match["digest"] or ""
    algorithm, _, sum_ = digest.partition(":")
    if digest and algorithm not in _DIGEST_LENGTHS:
        raise ValueError("unsupported digest algorithm")
    if digest and (len(sum_) != _DIGEST_LENGTHS[algorithm] or sum_ != sum_.lower()):
        raise ValueError("invalid checksum digest length")
    tag = match["tag"] or ("" if digest else "latest")
    return ImageName(registry, match["name"].partition("/")[2], tag, digest)


def with_default_tag(text: str) -> str:
    """The reference as written, with `:latest` where it names neither tag nor digest."""
    name = parse_image_name(text)
    is_bare = not name.digest and not text.endswith(f":{name.tag}")
    return f"{text}:latest" if is_bare else text


def without_tag(text: str) -> str:
    """The reference as written, without tag and digest."""
    name = parse_image_name(text)
    text = text.removesuffix(f"@{name.digest}") if name.digest else text
    return text.removesuffix(f":{name.tag}") if name.tag else text
