"""Which representation a client wants, from its Accept header.

JSON and YAML, optionally transformed (`as=Table`, `as=PartialObjectMetadata`). Protobuf is not
spoken: clients that ask for it list JSON as well and get that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from navarch.api.errors import ApiError

JSON = "application/json"
YAML = "application/yaml"
MAX_KEPT_LENGTH = 1024
"""Of a header: a client must not fill the memory with long ones."""
_TABLE_VERSIONS = frozenset({"v1", "v1beta1"})
_TRANSFORMS = frozenset({"Table", "PartialObjectMetadata", "PartialObjectMetadataList"})


@dataclass(frozen=True, slots=True)
class Representation:
    """What a response is written as. `transform` is "", Table or PartialObjectMetadata(List)."""

    media_type: str = JSON
    transform: str = ""
    transform_version: str = ""

    @property
    def is_plain(self) -> bool:
        """Stored bytes can be sent as they are."""
        return self.media_type == JSON and not self.transform


PLAIN = Representation()


@dataclass(frozen=True, slots=True)
class Clause:
    """One alternative of an Accept header."""

    media_type: str
    parameters: tuple[tuple[str, str], ...]
    quality: float

    def get(self, name: str) -> str:
        return dict(self.parameters).get(name, "")


def parse_accept(header: str) -> tuple[Clause, ...]:
    """The alternatives, best first. Broken ones are skipped."""
    return (_kept_clauses if len(header) < MAX_KEPT_LENGTH else _parse_accept)(header)


def _parse_accept(header: str) -> tuple[Clause, ...]:
    clauses = []
    for text in header.split(","):
        pieces = [piece.strip() for piece in text.split(";")]
        if pieces[0].count("/") != 1:
            continue
        parameters = []
        quality = 1.0
        for piece in pieces[1:]:
            name, separator, value = piece.partition("=")
            name, value = name.strip().lower(), value.strip().strip('"')
            if name == "q" and separator:
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
            elif separator:
                parameters.append((name, value))
        if quality > 0:
            clauses.append(Clause(pieces[0].lower(), tuple(parameters), quality))
    clauses.sort(key=lambda clause: -clause.quality)
    return tuple(clauses)


_kept_clauses = lru_cache(512)(_parse_accept)


def not_acceptable(accepted: str = "application/json, application/yaml") -> ApiError:
    return ApiError(
        406, "NotAcceptable", f"only the following media types are accepted: {accepted}"
    )


def negotiate(header: str | None, transforms: bool = True) -> Representation:
    """The representation for an object or a list. `transforms` is False for what has no other view
    than its own. Raises 406."""
    if not header or header in ("*/*", JSON):
        return PLAIN
    find = _kept_representation if len(header) < MAX_KEPT_LENGTH else _negotiate
    return find(header, transforms)


def _negotiate(header: str, transforms: bool) -> Representation:
    for clause in parse_accept(header):
        media_type = _media_type(clause.media_type)
        if not media_type or clause.get("stream") not in ("", "watch"):
            continue
        transform = clause.get("as")
        if not transform:
            return Representation(media_type)
        version = clause.get("v")
        known = clause.get("g") == "meta.k8s.io" and version in _TABLE_VERSIONS
        if transforms and transform in _TRANSFORMS and known:
            return Representation(media_type, transform, version)
    raise not_acceptable()


_kept_representation = lru_cache(512)(_negotiate)


def _media_type(wanted: str) -> str:
    if wanted in ("*/*", "application/*", JSON):
        return JSON
    return YAML if wanted == YAML else ""
