"""Semantic versions (semver.org, 2.0.0) with the messages of the Go library upstream uses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from navarch.api.errors import go_quoted

_WORD = re.compile(r"[0-9A-Za-z-]+", re.ASCII)
_MAX = 2**64


class VersionError(ValueError):
    """The text is no semantic version."""


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """A version; build metadata does not count in comparisons."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[int | str, ...] = ()

    def _order(self) -> tuple[object, ...]:
        """Numbers sort before words, a release after its prereleases."""
        words = tuple((isinstance(each, str), each) for each in self.prerelease)
        return (self.major, self.minor, self.patch, not words, words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._order() == other._order()

    def __lt__(self, other: Version) -> bool:
        return self._order() < other._order()

    def __hash__(self) -> int:
        return hash(self._order())


def _is_number(text: str) -> bool:
    return all("0" <= each <= "9" for each in text)


def _number(text: str, what: str) -> int:
    if not _is_number(text):
        raise VersionError(f"Invalid character(s) found in {what} number {go_quoted(text)}")
    if len(text) > 1 and text[0] == "0":
        raise VersionError(
            f"{what.capitalize()} number must not contain leading zeroes {go_quoted(text)}"
        )
    return _integer(text)


def _integer(text: str) -> int:
    if not text:
        raise VersionError('strconv.ParseUint: parsing "": invalid syntax')
    if len(text) > 20 or int(text) >= _MAX:
        raise VersionError(f"strconv.ParseUint: parsing {go_quoted(text)}: value out of range")
    return int(text)


def _prerelease(text: str) -> int | str:
    if not text:
        raise VersionError("Prerelease is empty")
    if _is_number(text):
        if len(text) > 1 and text[0] == "0":
            raise VersionError(
                f"Numeric PreRelease version must not contain leading zeroes {go_quoted(text)}"
            )
        return _integer(text)
    if not _WORD.fullmatch(text):
        raise VersionError(f"Invalid character(s) found in prerelease {go_quoted(text)}")
    return text


def parse_version(text: str) -> Version:
    """Strictly three numbers, and what follows them. Raises VersionError."""
    if not text:
        raise VersionError("Version string empty")
    parts = text.split(".", 2)
    if len(parts) != 3:
        raise VersionError("No Major.Minor.Patch elements found")
    major, minor = _number(parts[0], "major"), _number(parts[1], "minor")
    rest, plus, build = parts[2].partition("+")
    number, dash, prerelease = rest.partition("-")
    patch = _number(number, "patch")
    words = tuple(_prerelease(each) for each in prerelease.split(".")) if dash else ()
    for each in build.split(".") if plus else ():
        if not each:
            raise VersionError("Build meta data is empty")
        if not _WORD.fullmatch(each):
            raise VersionError(f"Invalid character(s) found in build meta data {go_quoted(each)}")
    return Version(major, minor, patch, words)


def parse_tolerant(text: str) -> Version:
    """A version that may start with "v", be short or have leading zeros. Raises VersionError."""
    parts = text.removeprefix("v").split(".", 2)
    for index, part in enumerate(parts):
        if len(part) > 1:
            short = part.lstrip("0")
            parts[index] = short if short and _is_number(short[0]) else f"0{short}"
    if len(parts) < 3:
        if "+" in parts[-1] or "-" in parts[-1]:
            raise VersionError("short version cannot contain PreRelease/Build meta data")
        parts += ["0"] * (3 - len(parts))
    return parse_version(".".join(parts))
