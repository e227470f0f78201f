"""Options and look-ups that commands share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from navarch.cluster import profile as profiles
from navarch.cluster.profile import Paths, Profile

ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", "-p", help="The cluster meant; see `navarch profile list`.", show_default=False
    ),
]


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Existing:
    """A profile that exists, and where it lives."""

    profile: Profile
    paths: Paths


def profile_name(context: typer.Context, given: str | None) -> str:
    """The profile named behind the command, before it, or current."""
    return profiles.check_name(given or _outer(context) or profiles.current_name())


def existing(context: typer.Context, given: str | None) -> Existing:
    from navarch.cluster.stop import missing

    name = profile_name(context, given)
    found = profiles.load(name)
    if found is None:
        raise missing(name)
    return Existing(found, profiles.paths_of(name))


def _outer(context: typer.Context) -> str | None:
    root = context.find_root().obj
    return root if isinstance(root, str) else None
