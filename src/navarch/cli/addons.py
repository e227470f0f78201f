"""`navarch addons`: what can be switched on and off, with minikube's words."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from navarch.cli.options import Existing, Output, ProfileOption, owned
from navarch.cli.output import Steps
from navarch.cli.table import table
from navarch.cluster.profile import ClusterError

if TYPE_CHECKING:
    from navarch.cluster.addons import Choices

app = typer.Typer(help="List addons, switch them on and off.", no_args_is_help=True)

Names = Annotated[list[str], typer.Argument(metavar="NAME")]


def start_change(given: Sequence[str] | None) -> Callable[[Choices], Choices] | None:
    """What `navarch start --addons a,b` makes of the choices."""
    names = [name.strip() for entry in given or () for name in entry.split(",") if name.strip()]
    return _switch(names, on=True) if names else None


def _switch(names: Sequence[str], *, on: bool) -> Callable[[Choices], Choices]:
    from navarch.cluster import addons

    for name in names:
        addons.find(name)
        if on:
            addons.check_packages(name)
    return lambda choices: addons.switched(choices, names, on)


@app.command("list")
def list_addons(
    context: typer.Context,
    output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE,
    profile: ProfileOption = None,
) -> None:
    """List all addons and whether they are enabled."""
    from navarch.cluster import addons

    there = owned(context, profile)
    choices = addons.load(there.paths)
    rows = []
    for name in sorted(addons.ADDONS):
        status = "enabled" if addons.is_enabled(choices, name) else "disabled"
        rows.append((name, status, addons.ADDONS[name].description))
    if output is Output.JSON:
        values = {
            name: {"Profile": there.profile.name, "Status": status} for name, status, _ in rows
        }
        print(json.dumps(values))
        return
    headings = ("Addon name", "Profile", "Status", "Description")
    lines = [(name, there.profile.name, status, text) for name, status, text in rows]
    print(table([dict(zip(headings, line, strict=True)) for line in lines]))


@app.command("enable")
def enable(context: typer.Context, names: Names, profile: ProfileOption = None) -> None:
    """Switch addons on, at once if the cluster is at work."""
    change = _switch(names, on=True)
    said = [f"The '{name}' addon is enabled" for name in names]
    _bring_about(owned(context, profile), change, said)


@app.command("disable")
def disable(context: typer.Context, names: Names, profile: ProfileOption = None) -> None:
    """Switch addons off, with everything that they brought."""
    change = _switch(names, on=False)
    said = [f"The '{name}' addon is disabled" for name in names]
    _bring_about(owned(context, profile), change, said)


@app.command("configure")
def configure(
    context: typer.Context,
    name: str,
    given: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Answers, instead of being asked."),
    ] = None,
    profile: ProfileOption = None,
) -> None:
    """Set an addon up: asks what it needs to know."""
    from navarch.cluster import addons

    there = owned(context, profile)
    questions = addons.find(name).questions
    if not questions:
        print(f"* {name} has no available configuration options")
        return
    if given:
        if wrong := [entry for entry in given if "=" not in entry]:
            raise ClusterError(f"--set {wrong[0]}: not of the form KEY=VALUE")
        answers = dict(entry.partition("=")[::2] for entry in given)
    else:
        answers = {each.key: _ask(each.text) for each in questions if each.is_asked}
    # What cannot be is said before anything is done.
    chosen = addons.configured(addons.load(there.paths), there.profile, name, answers)
    for doubt in addons.find(name).doubts(there.profile, chosen.settings[name]):
        print(f"! {doubt}", file=sys.stderr)
    _bring_about(
        there,
        lambda choices: addons.configured(choices, there.profile, name, answers),
        [f"{name} was successfully configured"],
    )


def _ask(text: str) -> str:
    print(f"-- {text}: ", end="", flush=True)
    line = sys.stdin.readline()
    if not line:
        raise ClusterError("there is nobody to answer", "Give the answers with --set KEY=VALUE")
    return line.strip()


def _bring_about(
    there: Existing, change: Callable[[Choices], Choices], said: Sequence[str]
) -> None:
    """Change the choices, and the cluster with them if it is at work."""
    from navarch.cluster import addons, processes
    from navarch.cluster.start import StartRequest, exclusive
    from navarch.cluster.start import start as start_cluster

    name = there.profile.name
    with Steps() as steps:
        if not processes.is_running(there.paths.run, "apiserver"):
            with exclusive(name):
                addons.save(there.paths, change(addons.load(there.paths)))
            later = " from the next start on"
        else:
            start_cluster(StartRequest(name, addons=change, switch_context=False), steps)
            later = ""
        for line in said:
            steps.done(line + later)
