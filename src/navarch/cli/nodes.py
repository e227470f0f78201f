"""`navarch node`: the machines of a cluster."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from navarch.cli.options import Output, ProfileOption, existing

app = typer.Typer(help="List the nodes of a cluster.", no_args_is_help=True)


@app.command("list")
def list_nodes(
    context: typer.Context,
    output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE,
    profile: ProfileOption = None,
) -> None:
    """List nodes and their addresses."""
    found = existing(context, profile).profile
    nodes = [(name, found.node_address(name)) for name in found.node_names()]
    if output is Output.JSON:
        print(json.dumps([{"Name": name, "IP": address} for name, address in nodes]))
        return
    for name, address in nodes:
        print(f"{name}\t{address}")
    if found.simulated:
        print(f"and {found.simulated} simulated nodes: kubectl get nodes")
