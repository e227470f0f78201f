"""Semantic versions: `semver('1.2.3')`, with an optional tolerant reading."""

from __future__ import annotations

from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.functions import (
    Library,
    comparisons,
    estimate_traversal,
    function,
    method,
    overload,
    succeeds,
    traversal,
)
from navarch.api.cel.library.versions import Version, VersionError, parse_tolerant, parse_version
from navarch.api.cel.types import BOOL, INT, STRING, opaque
from navarch.api.cel.values import Wrapped

SEMVER = opaque("kubernetes.Semver")


class SemverValue(Wrapped[Version]):
    cel_type = SEMVER


def to_semver(text: str, is_tolerant: bool = False) -> SemverValue:
    try:
        return SemverValue(parse_tolerant(text) if is_tolerant else parse_version(text))
    except VersionError as error:
        raise EvaluationError(str(error)) from None


_PARSE = (traversal(), estimate_traversal())
_V = SEMVER

SEMVERS = Library(
    name="kubernetes.Semver",
    since=(1, 33),
    functions=(
        function(
            "semver",
            overload("string_to_semver", (STRING,), _V, to_semver, *_PARSE),
            overload("string_bool_to_semver", (STRING, BOOL), _V, to_semver, *_PARSE),
        ),
        function(
            "isSemver",
            overload("is_semver_string", (STRING,), BOOL, succeeds(to_semver), *_PARSE),
            overload("is_semver_string_bool", (STRING, BOOL), BOOL, succeeds(to_semver), *_PARSE),
        ),
        method("major", "semver_major", (_V,), INT, lambda v: v.value.major),
        method("minor", "semver_minor", (_V,), INT, lambda v: v.value.minor),
        method("patch", "semver_patch", (_V,), INT, lambda v: v.value.patch),
        *comparisons("semver", _V),
    ),
)
