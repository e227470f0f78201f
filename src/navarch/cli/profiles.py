"""`navarch profile`: which clusters there are, and which one commands mean."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from navarch.cli.options import Output
from navarch.cli.table import table

app = typer.Typer(help="List profiles and choose the current one.", no_args_is_help=True)


@app.command("list")
def list_profiles(output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE) -> None:
    """List all profiles."""
    from navarch.cluster import profile as profiles
    from navarch.cluster import status as states

    current = profiles.current_name()
    rows = []
    for found in profiles.all_profiles():
        state = states.status(found, profiles.paths_of(found.name))[0]
        names = found.node_names()
        there = state.kubelet if found.joined else state.apiserver
        rows.append(
            {
                "Name": found.name,
                "Address": found.node_address(names[0]) if names else "127.0.0.1",
                "Port": found.api_port,
                "Nodes": found.nodes,
                "Simulated": found.simulated,
                "Status": there if state.host == states.RUNNING else state.host,
                "Active": found.name == current,
            }
        )
    if output is Output.JSON:
        print(json.dumps({"valid": rows}))
    elif not rows:
        print("* No profiles. Make one: navarch start")
    else:
        print(table([{**row, "Active": "*" if row["Active"] else ""} for row in rows]))


@app.command("use")
def use(name: str) -> None:
    """Make a profile the current one, for navarch and for kubectl."""
    from navarch.cluster import kubeconfig
    from navarch.cluster import profile as profiles
    from navarch.cluster.stop import missing

    found = profiles.load(name)
    if found is None:
        raise missing(name)
    profiles.set_current(name)
    if not found.joined:
        kubeconfig.merge(found, profiles.paths_of(name), kubeconfig.user_files())
    print(f"* navarch profile was successfully set to {name}")
