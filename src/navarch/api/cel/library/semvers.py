"""Semantic versions: `semver('1.2.3')`, with an optional tolerant reading."""

from __future__ import annotations

from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.functions import (
    Library,
    estimate_traversal,
    function,
    member,
    overload,
    traversal,
)
from navarch.api.cel.library.versions import Version, VersionError, parse_tolerant, parse_version
from navarch.api.cel.types import BOOL, INT, STRING, opaque
from navarch.api.cel.values import OpaqueValue

SEMVER = opaque("kubernetes.Semver")


class SemverValue(OpaqueValue):
    cel_type = SEMVER

    def __init__(self, version: Version) -> None:
        self.version = version

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SemverValue) and self.version == other.version

    def __hash__(self) -> int:
        return hash(self.version)


def to_semver(text: str, is_tolerant: bool = False) -> SemverValue:
    try:
        return SemverValue(parse_tolerant(text) if is_tolerant else parse_version(text))
    except VersionError as error:
        raise EvaluationError(str(error)) from None


def is_semver(text: str, is_tolerant: bool = False) -> bool:
    try:
        to_semver(text, is_tolerant)
    except EvaluationError:
        return False
    return True


def compare(left: SemverValue, right: SemverValue) -> int:
    return (left.version > right.version) - (left.version < right.version)


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
            overload("is_semver_string", (STRING,), BOOL, is_semver, *_PARSE),
            overload("is_semver_string_bool", (STRING, BOOL), BOOL, is_semver, *_PARSE),
        ),
        member("major", overload("semver_major", (_V,), INT, lambda v: v.version.major)),
        member("minor", overload("semver_minor", (_V,), INT, lambda v: v.version.minor)),
        member("patch", overload("semver_patch", (_V,), INT, lambda v: v.version.patch)),
        member(
            "isGreaterThan",
            overload("semver_is_greater_than", (_V, _V), BOOL, lambda a, b: compare(a, b) > 0),
        ),
        member(
            "isLessThan",
            overload("semver_is_less_than", (_V, _V), BOOL, lambda a, b: compare(a, b) < 0),
        ),
        member("compareTo", overload("semver_compare_to", (_V, _V), INT, compare)),
    ),
)
