"""`navarch node`: the machines of a cluster, real and simulated."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from navarch.cli import faults, simulation
from navarch.cli.options import (
    Existing,
    Output,
    ProfileOption,
    existing,
    node_named,
    running,
    spread,
)
from navarch.cli.output import Steps
from navarch.cluster.profile import NOT_FOUND, ClusterError

if TYPE_CHECKING:
    from navarch.cluster.start import StartRequest

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
    from navarch.cluster import simulation as simulated_nodes

    there = existing(context, profile)
    found = there.profile
    nodes = [(name, found.node_address(name)) for name in found.node_names()]
    nodes += sorted(joined_nodes(there).items())
    groups = simulated_nodes.load(there.paths).fleet.nodes if found.simulated else ()
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
@spread
def add(
    context: typer.Context,
    *,
    simulated: simulation.Simulated = None,
    group: simulation.Flags,
    wait: WaitOption = True,
    profile: ProfileOption = None,
) -> None:
    """Add a node to a running cluster, or as many simulated nodes as are asked for."""
    from navarch.cluster.start import StartRequest

    there = running(context, profile)
    if simulated is None:
        simulation.lonely(group)
        request = StartRequest(there.profile.name, nodes=there.profile.nodes + 1)
    else:
        change = simulation.add_change(simulated, group)
        request = StartRequest(there.profile.name, simulation=change)
    _bring_about(request, "Added.", wait=wait)


@app.command("delete")
def delete(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME")],
    force: Annotated[bool, typer.Option("--force", help="Do not empty the nodes first.")] = False,
    profile: ProfileOption = None,
) -> None:
    """Delete nodes: what runs on real ones moves to others first."""
    from navarch.cluster import profile as profiles
    from navarch.cluster import simulation as simulated_nodes
    from navarch.cluster.start import StartRequest

    there = running(context, profile)
    real = there.profile.node_names()
    chosen = [name for name in dict.fromkeys(names) if name in real]
    others = [name for name in names if name not in real]
    joined = [name for name in others if name in joined_nodes(there)]
    simulated = [name for name in others if name not in joined]
    if simulated and not there.profile.simulated:
        raise ClusterError(
            f"there is no node {simulated[0]}",
            "Nothing was changed. Nodes: navarch node list",
            NOT_FOUND,
        )
    if chosen and len(chosen) == len(real):
        raise ClusterError(
            f"{real[-1]} is the last real node", "The whole cluster goes with: navarch delete"
        )
    _empty(there, chosen + joined, force=force)
    if simulated:
        request = StartRequest(there.profile.name, simulation=simulated_nodes.without(simulated))
        _bring_about(request, "Deleted.")
    if chosen:
        request = StartRequest(
            there.profile.name, settings=lambda found: profiles.without(found, chosen)
        )
        _bring_about(request, "Deleted.")
    for name in joined:
        print(f"Deleted {name}. If its machine has not left yet, run there: navarch leave")


def _empty(there: Existing, names: list[str], *, force: bool) -> None:
    """Drain nodes, and delete their objects."""
    from navarch.cluster import drain
    from navarch.cluster.api import Api, ApiUnavailableError

    api = Api(there.profile, there.paths)
    try:
        for name in names:
            if not force and name not in there.profile.stopped:
                with Steps() as steps:
                    steps.step(f"Moving the pods of {name} to other nodes")
                    drain.drain(api, name, steps.note)
            api.remove(f"/api/v1/nodes/{name}")
    except ApiUnavailableError as error:
        raise ClusterError(str(error), "To delete the node all the same, add --force") from error
    finally:
        api.close()


def joined_nodes(there: Existing) -> dict[str, str]:
    """Nodes that are on other machines, with their addresses."""
    from navarch.cluster import simulation as simulated_nodes
    from navarch.cluster.api import Api, ApiUnavailableError

    if there.profile.joined:
        return {}
    known = set(there.profile.node_names())
    if there.profile.simulated:
        known |= set(simulated_nodes.names(there.paths))
    api = Api(there.profile, there.paths, timeout=2.0)
    try:
        nodes = api.get("/api/v1/nodes")["items"]
    except ApiUnavailableError:
        return {}
    finally:
        api.close()
    return {
        node["metadata"]["name"]: next(
            (
                each["address"]
                for each in node["status"].get("addresses") or []
                if each["type"] == "InternalIP"
            ),
            "",
        )
        for node in nodes
        if node["metadata"]["name"] not in known
    }


@app.command("stop")
def stop(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME")],
    profile: ProfileOption = None,
) -> None:
    """Switch real nodes off; their disks stay."""
    _switch(context, names, profile, on=False)


@app.command("start")
def start(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME")],
    profile: ProfileOption = None,
) -> None:
    """Switch real nodes on again."""
    _switch(context, names, profile, on=True)


def _switch(context: typer.Context, names: list[str], profile: str | None, *, on: bool) -> None:
    from navarch.cluster import profile as profiles
    from navarch.cluster.start import StartRequest

    there = running(context, profile)
    own = there.profile.node_names()
    for name in names:
        if name not in own and name in joined_nodes(there):
            raise ClusterError(
                f"{name} is another machine", f"Run there: navarch {'start' if on else 'stop'}"
            )
        node_named(there.profile, name)
    request = StartRequest(
        there.profile.name, settings=lambda found: profiles.switched(found, names, on=on)
    )
    _bring_about(request, "Running." if on else "Stopped.")


def _bring_about(request: StartRequest, said: str, *, wait: bool = True) -> None:
    from navarch.cluster.start import start as start_cluster

    with Steps() as steps:
        start_cluster(replace(request, switch_context=False, wait=wait), steps)
        steps.done(said)
