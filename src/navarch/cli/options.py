"""Options and look-ups that commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Annotated, Any, get_type_hints

import typer

from navarch.cluster import profile as profiles
from navarch.cluster.profile import NOT_FOUND, ClusterError, Paths, Profile

ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", "-p", help="The cluster meant; see `navarch profile list`.", show_default=False
    ),
]


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Lets a command take dataclasses: each of their fields is a flag of the command."""
    taken = inspect.signature(command, eval_str=True).parameters
    kinds: dict[str, Any] = {
        name: each.annotation for name, each in taken.items() if is_dataclass(each.annotation)
    }
    flags = []
    for name, each in taken.items():
        if name not in kinds:
            flags.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        hints = get_type_hints(kinds[name], include_extras=True)
        flags += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in fields(kinds[name])
        ]

    def run(**values: Any) -> None:
        made = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in kinds.items()
        }
        command(**values, **made)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    run.__annotations__ = {flag.name: flag.annotation for flag in flags}
    return run


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


def owned(context: typer.Context, given: str | None) -> Existing:
    """A profile whose control plane is on this machine."""
    found = existing(context, given)
    if found.profile.joined:
        raise elsewhere(found.profile)
    return found


def elsewhere(profile: Profile) -> ClusterError:
    """What needs an administrator, on a machine that is only a node."""
    return ClusterError(
        f"this machine is the node {profile.joined_node} of a cluster that runs elsewhere",
        f"Run the command there, on the machine of the API server {profile.joined}.",
    )


def running(context: typer.Context, given: str | None) -> Existing:
    """A profile of this machine, whose cluster must be at work."""
    from navarch.cluster import processes

    found = owned(context, given)
    if not processes.is_running(found.paths.run, "apiserver"):
        raise ClusterError(
            f"the cluster {found.profile.name} is stopped", "Start it first: navarch start"
        )
    return found


def node_named(profile: Profile, name: str) -> str:
    """A node of this machine, the first one if none is named."""
    names = profile.node_names()
    if name in names or (not name and names):
        return name or names[0]
    raise ClusterError(
        f'The node "{name}" does not exist in the cluster "{profile.name}" on this machine.',
        f"Here are: {', '.join(names) or 'none'}. All of them: navarch node list",
        NOT_FOUND,
    )


def _outer(context: typer.Context) -> str | None:
    root = context.find_root().obj
    return root if isinstance(root, str) else None
