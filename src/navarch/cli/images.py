"""`navarch image`: bring images into the cluster's nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from navarch.cli.options import Output, ProfileOption, existing
from navarch.cli.output import Steps, printable
from navarch.cli.table import table

app = typer.Typer(help="Load, build, list and remove images.", no_args_is_help=True)


@app.command("load")
def load(
    context: typer.Context,
    archives: Annotated[
        list[Path], typer.Argument(help="Archives (docker save, OCI) or OCI directories.")
    ],
    name: Annotated[
        str,
        typer.Option(help="Name the image; needed for the tar file of a root file system."),
    ] = "",
    profile: ProfileOption = None,
) -> None:
    """Load images into every node."""
    from navarch.cluster import images

    found = existing(context, profile)
    nodes = images.running_nodes(found.profile, found.paths)
    record = images.LoadRecord(found.paths.root / "loaded.json")
    with Steps() as steps:
        for archive in archives:
            steps.step(f"Loading {archive}")
            if names := record.still_there(nodes, archive, name):
                steps.done(f"{', '.join(names)}: there already")
                continue
            names = images.load(nodes, archive, name)
            record.note(nodes, archive, name, names)
            steps.done(f"Loaded {', '.join(names)}")


@app.command("ls")
@app.command("list", hidden=True)
def list_images(
    context: typer.Context,
    output: Annotated[Output | None, typer.Option("--output", "-o")] = None,
    profile: ProfileOption = None,
) -> None:
    """List the images of the first node."""
    from navarch.cluster import images

    found = existing(context, profile)
    node = images.running_nodes(found.profile, found.paths)[0]
    if output is None:
        for name in images.names(node):
            print(printable(name))
        return
    rows = images.describe(node)
    print(json.dumps(rows) if output is Output.JSON else printable_table(rows))


def printable_table(rows: list[dict[str, object]]) -> str:
    return table([{key: printable(str(value)) for key, value in row.items()} for row in rows])


@app.command("rm")
def remove(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument()],
    profile: ProfileOption = None,
) -> None:
    """Remove images from every node."""
    from navarch.cluster import images

    found = existing(context, profile)
    nodes = images.running_nodes(found.profile, found.paths)
    for name in names:
        images.remove(nodes, name)


@app.command("build")
def build(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="The build context.")],
    tag: Annotated[str, typer.Option("--tag", "-t", help="Name of the image.")],
    file: Annotated[Path | None, typer.Option("--file", "-f", help="The Dockerfile.")] = None,
    build_arg: Annotated[list[str] | None, typer.Option("--build-arg", help="NAME=VALUE")] = None,
    target: Annotated[str, typer.Option(help="Stop at this stage.")] = "",
    no_cache: Annotated[bool, typer.Option("--no-cache")] = False,
    profile: ProfileOption = None,
) -> None:
    """Build an image from a Dockerfile and bring it into every node."""
    from navarch.cluster import building, images

    found = existing(context, profile)
    nodes = images.running_nodes(found.profile, found.paths)
    request = building.BuildRequest(
        context=directory,
        tag=tag,
        dockerfile=file,
        arguments=build_arg or (),
        target=target,
        use_cache=not no_cache,
    )
    name = building.build(
        found.paths, nodes, request, lambda line: print(printable(line), flush=True)
    )
    print(f"* Built {name}")
