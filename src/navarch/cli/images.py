"""`navarch image`: images in and out of the cluster's nodes."""

from __future__ import annotations

import json
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from navarch.cli.options import ProfileOption, existing
from navarch.cli.output import Steps, printable
from navarch.cli.table import table
from navarch.cluster.profile import ClusterError

if TYPE_CHECKING:
    from navarch.node.cri.values import Credentials, ImageRecord

app = typer.Typer(help="Load, pull, build, list, save and remove images.", no_args_is_help=True)

FROM_STDIN = Path("-")
Names = Annotated[list[str], typer.Argument(help="[REGISTRY/]PATH[:TAG]")]


class Format(StrEnum):
    """How images are listed."""

    TABLE = "table"
    SHORT = "short"
    JSON = "json"
    YAML = "yaml"


@app.command("load")
def load(
    context: typer.Context,
    archives: Annotated[
        list[Path],
        typer.Argument(help="Archives (docker save, OCI), OCI directories, or - for one to read."),
    ],
    name: Annotated[
        str, typer.Option(help="Name the image; needed for the tar file of a root file system.")
    ] = "",
    profile: ProfileOption = None,
) -> None:
    """Load images into every node."""
    from navarch.cluster import images

    found = existing(context, profile)
    nodes = images.running_nodes(found.profile, found.paths)
    record = images.LoadRecord(found.paths.root / "loaded.json")
    with Steps() as steps, tempfile.TemporaryDirectory(prefix="navarch-load-") as scratch:
        for archive in archives:
            steps.step(f"Loading {archive}")
            if archive == FROM_STDIN:
                archive = images.spool(sys.stdin.buffer, Path(scratch, "image"))
            if names := record.still_there(nodes, archive, name):
                steps.done(f"{', '.join(names)}: there already")
                continue
            names = images.load(nodes, archive, name)
            if archive.parent != Path(scratch):
                record.note(nodes, archive, name, names)
            steps.done(f"Loaded {', '.join(names)}")
        if hint := images.missing_there(found.profile, found.paths):
            steps.note(hint)


@app.command("pull")
def pull(
    context: typer.Context,
    names: Names,
    username: Annotated[str, typer.Option(help="Who you are to the registry.")] = "",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    profile: ProfileOption = None,
) -> None:
    """Pull images from their registries into every node.

    Without --username, what `docker login` has left behind is used."""
    from navarch.cluster import image_service, images

    found = existing(context, profile)
    nodes = images.running_nodes(found.profile, found.paths)
    given = _given_credentials(username, password_stdin)
    with Steps() as steps:
        for name in names:
            wanted = images.normalized(name)
            steps.step(f"Pulling {wanted}")
            credentials = given or image_service.own_credentials(wanted)
            image_service.pull(found.paths, nodes, wanted, credentials)
            if "@" not in wanted:
                images.pin(nodes, [wanted])
            steps.done(f"Pulled {wanted}")


def _given_credentials(username: str, password_stdin: bool) -> Credentials | None:
    if bool(username) != password_stdin:
        raise ClusterError(
            "a user and a password belong together",
            "Give both: echo PASSWORD | navarch image pull --username NAME --password-stdin IMAGE",
        )
    if not username:
        return None
    from navarch.node.cri.values import Credentials

    return Credentials(username=username, password=sys.stdin.readline().rstrip("\r\n"))


@app.command("ls")
@app.command("list", hidden=True)
def list_images(
    context: typer.Context,
    output: Annotated[
        Format, typer.Option("--format", "--output", "-o", help="How to write them.")
    ] = Format.TABLE,
    profile: ProfileOption = None,
) -> None:
    """List the images of the nodes."""
    from navarch.cluster import image_service, images

    found = existing(context, profile)
    nodes = images.running_nodes(found.profile, found.paths)
    listed = image_service.list_images(found.paths, nodes)
    if output is Format.SHORT:
        for name in sorted(name for image in listed for name in image.tags or image.digests):
            print(printable(name))
    elif output is Format.TABLE:
        print(table([row for image in listed for row in _rows(image)]))
    else:
        _print_document(output, [_document(image) for image in listed])


def _rows(image: ImageRecord) -> list[dict[str, str]]:
    return [
        {
            "image": printable(name),
            "image id": image.id.removeprefix("sha256:")[:13],
            "size": _size(image.size),
        }
        for name in image.tags or image.digests or ("<none>",)
    ]


def _size(size: int) -> str:
    """A size as docker's table has it: decimal units."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g}{unit}"


def _document(image: ImageRecord) -> dict[str, object]:
    """minikube's form, which scripts know."""
    return {
        "id": image.id.removeprefix("sha256:"),
        "repoDigests": list(image.digests),
        "repoTags": list(image.tags),
        "size": str(image.size),
    }


def _print_document(output: Format, document: list[dict[str, object]]) -> None:
    if output is Format.JSON:
        print(json.dumps(document))
        return
    import yaml

    print(yaml.safe_dump(document, sort_keys=False), end="")


@app.command("save")
def save(
    context: typer.Context,
    names: Annotated[
        list[str], typer.Argument(help="Images; without --output, the last one is the file.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file, or - to write it out.")
    ] = None,
    profile: ProfileOption = None,
) -> None:
    """Save images as an archive that `navarch image load` and `docker load` read."""
    from navarch.cluster import images

    if output is None and len(names) > 1:
        output = Path(names.pop())
    if output is None:
        raise ClusterError("no file to save to", "Name it: navarch image save IMAGE FILE")
    found = existing(context, profile)
    nodes = images.running_nodes(found.profile, found.paths)
    if output == FROM_STDIN:
        if sys.stdout.isatty():
            raise ClusterError("an archive is nothing for a terminal", "Name a file: -o FILE")
        images.save(nodes, names, sys.stdout.buffer)
        return
    with Steps() as steps:
        steps.step(f"Saving {', '.join(names)}")
        images.save_as(nodes, names, output)
        steps.done(f"Saved {output}")


@app.command("tag")
def tag(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="An image of the nodes.")],
    new: Annotated[str, typer.Argument(help="Its further name.")],
    profile: ProfileOption = None,
) -> None:
    """Give an image one more name on every node."""
    from navarch.cluster import images

    found = existing(context, profile)
    images.tag(images.running_nodes(found.profile, found.paths), name, new)


@app.command("rm")
def remove(context: typer.Context, names: Names, profile: ProfileOption = None) -> None:
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
    images.pin(nodes, [name])
    print(f"* Built {name}")
    if hint := images.missing_there(found.profile, found.paths):
        print(f"  - {hint}")
