"""`navarch node`: the machines of a cluster, real and simulated."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from navarch.cli import faults
from navarch.cli import simulation as flags
from navarch.cli.options import Existing, Output, ProfileOption, existing
from navarch.cli.output import Steps
from navarch.cluster.profile import ClusterError

app = typer.Typer(help="List, add and delete the nodes of a cluster.", no_args_is_help=True)
app.add_typer(faults.app, name="fault")

WaitOption = Annotated[bool, typer.Option(help="Return when the nodes are ready.")]


@app.command("list")
def list_nodes(
    context: typer.Context,
    output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE,
    profile: ProfileOption = None,
) -> None:
    """List nodes and their addresses."""
    from navarch.cluster import simulation

    there = existing(context, profile)
    found = there.profile
    nodes = [(name, found.node_address(name)) for name in found.node_names()]
    groups = simulation.load(there.paths).fleet.nodes if found.simulated else ()
    if output is Output.JSON:
        listed = [{"Name": name, "IP": address, "Simulated": False} for name, address in nodes]
        simulated = [name for group in groups for name in group.node_names()]
        listed += [{"Name": name, "IP": "", "Simulated": True} for name in simulated]
        print(json.dumps(listed))
        return
    for name, address in nodes:
        print(f"{name}\t{address}")
    for group in groups:
        names = group.node_names()
        print(names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}", end="\t")
        print(f"{len(names)} simulated")


@app.command("add")
def add(
    context: typer.Context,
    simulated: flags.Simulated = None,
    name: flags.Name = flags.DEFAULT_NAME,
    capacity: flags.Capacity = None,
    labels: flags.Labels = None,
    taints: flags.Taints = None,
    zones: flags.Zones = None,
    region: flags.Region = None,
    timetable: flags.Timetable = None,
    wait: WaitOption = True,
    profile: ProfileOption = None,
) -> None:
    """Add a node to a running cluster, or as many simulated nodes as are asked for."""
    from navarch.cluster.start import StartRequest

    there = running(context, profile)
    given = flags.Flags(name, capacity, labels, taints, zones, region, timetable)
    if simulated is None:
        flags.lonely(given)
        request = StartRequest(there.profile.name, nodes=there.profile.nodes + 1)
    else:
        change = flags.add_change(simulated, given)
        request = StartRequest(there.profile.name, simulation=change)
    _bring_about(there, request, "Added.", wait=wait)


@app.command("delete")
def delete(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
    profile: ProfileOption = None,
) -> None:
    """Delete nodes: simulated ones, or the last real one."""
    from navarch.cluster import simulation
    from navarch.cluster.start import StartRequest

    there = running(context, profile)
    real = there.profile.node_names()
    chosen = [name for name in names if name in real]
    if not chosen:
        request = StartRequest(there.profile.name, simulation=simulation.without(names))
    elif chosen == names and chosen == [*real][-len(chosen) :] and len(chosen) < len(real):
        request = StartRequest(there.profile.name, nodes=len(real) - len(chosen))
    else:
        raise ClusterError(
            f"of the real nodes only the last can be deleted: {real[-1]}",
            "The whole cluster goes with: navarch delete. Simulated nodes go by themselves.",
        )
    _bring_about(there, request, "Deleted.", wait=True)


def running(context: typer.Context, profile: str | None) -> Existing:
    """The profile, whose cluster must be at work."""
    from navarch.cluster import processes

    found = existing(context, profile)
    if processes.read_pid_file(found.paths.run / "apiserver.pid") is None:
        raise ClusterError(
            f"the cluster {found.profile.name} is stopped", "Start it first: navarch start"
        )
    return found


def _bring_about(there: Existing, request: object, said: str, *, wait: bool) -> None:
    from dataclasses import replace

    from navarch.cluster.start import StartRequest
    from navarch.cluster.start import start as start_cluster

    assert isinstance(request, StartRequest)
    with Steps() as steps:
        start_cluster(replace(request, switch_context=False, wait=wait), steps)
        steps.done(said)
