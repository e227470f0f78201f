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
    rf"^(?P<name>(?:{_HOST}/)?{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?$"
)
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
    match = _REFERENCE.match(text)
    if match is None:
        raise InvalidImageName(f'couldn\'t parse image name "{text}": invalid reference format')
    name = match["name"]
    first, _, rest = name.partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        registry, path = first, rest
    else:
        registry, path = DOCKER_HUB, name
    if registry == "index.docker.io":
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    tag = match["tag"] or ("" if match["digest"] else "latest")
    return ImageName(registry, path, tag, match["digest"] or "")


def with_default_tag(text: str) -> str:
    """The reference as written, with `:latest` where it names neither tag nor digest."""
    parse_image_name(text)
    match = _REFERENCE.match(text)
    assert match is not None
    return text if match["tag"] or match["digest"] else f"{text}:latest"
