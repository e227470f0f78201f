"""`navarch token`, `navarch join` and `navarch leave`: machines that join a cluster."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from navarch.cli.options import Existing, Output, ProfileOption, profile_name, running
from navarch.cli.output import Steps, printable
from navarch.cluster.profile import ClusterError

if TYPE_CHECKING:
    from navarch.cluster.api import Api

token_app = typer.Typer(
    help="Tokens by which other machines join the cluster.", no_args_is_help=True
)


def parse_ttl(text: str) -> timedelta:
    """A duration such as `24h` or `1h30m`; `0` is for ever. Raises ClusterError."""
    from navarch.api.times import parse_duration

    try:
        seconds = parse_duration(text)
        if seconds >= 0:
            return timedelta(seconds=seconds)
    except ValueError:
        pass
    raise ClusterError(f"--ttl: {text!r} is not a duration", "Such as 24h, 90m, or 0 for ever.")


def _speaking(there: Existing) -> closing[Api]:
    from navarch.cluster.api import Api

    return closing(Api(there.profile, there.paths))


@token_app.command("create")
def create(
    context: typer.Context,
    token: Annotated[str, typer.Argument(help="Default: a new one.")] = "",
    ttl: Annotated[str, typer.Option(help="How long it can be used; 0 is for ever.")] = "24h",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    print_join_command: Annotated[
        bool, typer.Option(help="Print the whole command, or the token alone.")
    ] = True,
    profile: ProfileOption = None,
) -> None:
    """Make a token, and print the command by which a machine joins with it."""
    from navarch.cluster import tokens

    there = running(context, profile)
    with _speaking(there) as api:
        tokens.prepare(api, there.profile, there.paths)
        made = tokens.create(api, token, parse_ttl(ttl), description)
    if there.profile.nodes and not there.profile.listen_addresses:
        print(
            "! The API server does not listen for other machines yet. Have it do so, and make the "
            "token after that: navarch start --listen-address ADDRESS",
            file=sys.stderr,
        )
    if print_join_command:
        print(tokens.join_command(there.profile, there.paths, made))
    else:
        print(made)


@token_app.command("list")
def list_tokens(
    context: typer.Context,
    output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE,
    profile: ProfileOption = None,
) -> None:
    """List the tokens there are."""
    from dataclasses import asdict

    from navarch.cli.table import table
    from navarch.cluster import tokens

    with _speaking(running(context, profile)) as api:
        found = tokens.listed(api)
    if output is Output.JSON:
        print(json.dumps([asdict(each) for each in found]))
        return
    rows = [
        {
            "token": each.token,
            "expires": each.expires or "<forever>",
            "usages": ",".join(each.usages),
            "description": each.description or "<none>",
        }
        for each in found
    ]
    if rows:
        print(printable(table(rows)))


@token_app.command("delete")
def delete(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="TOKEN", help="Or its first part.")],
    profile: ProfileOption = None,
) -> None:
    """Delete tokens: nobody can join with them any more. Who has joined stays."""
    from navarch.cluster import tokens

    with _speaking(running(context, profile)) as api:
        for each in names:
            tokens.delete(api, each)
            print(f'bootstrap token "{each.partition(".")[0]}" deleted')


def join(
    context: typer.Context,
    server: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The API server.")],
    token: Annotated[str, typer.Option(help="As `navarch token create` prints it.")],
    ca_hash: Annotated[
        list[str] | None,
        typer.Option(
            "--discovery-token-ca-cert-hash",
            help="The cluster's authority: sha256:... Repeatable, of which one must be right.",
        ),
    ] = None,
    unsafe: Annotated[
        bool,
        typer.Option(
            "--discovery-token-unsafe-skip-ca-verification",
            help="Believe whoever knows the token to be the cluster.",
        ),
    ] = False,
    node_name: Annotated[str, typer.Option(help="Default: this machine's name.")] = "",
    node_ip: Annotated[
        str,
        typer.Option(help="Where others reach this machine. Default: by the way to the server."),
    ] = "",
    boot: Annotated[
        bool, typer.Option(help="Start the node when this machine boots: a unit, where systemd is.")
    ] = True,
    wait_timeout: Annotated[float, typer.Option(help="How long to wait, in seconds.")] = 120.0,
    profile: ProfileOption = None,
) -> None:
    """Make this machine a node of a cluster that runs elsewhere."""
    from navarch.cluster import doctor
    from navarch.cluster.joining import JoinRequest
    from navarch.cluster.joining import join as join_cluster

    groups = doctor.cgroups()
    if groups.level is doctor.Level.BAD:
        raise ClusterError(
            f"control groups: {groups.found}",
            f"{groups.mend} `ip netns exec` hides them, `nsenter --net=FILE` does not.",
        )
    request = JoinRequest(
        name=profile_name(context, profile),
        server=server,
        token=token,
        hashes=tuple(ca_hash or ()),
        trust_anybody=unsafe,
        node_name=node_name,
        node_addresses=tuple(each for each in node_ip.split(",") if each),
        timeout=wait_timeout,
        boot=boot,
    )
    with Steps() as steps:
        found = join_cluster(request, steps)
        steps.done(f"This machine is the node {found.joined_node} of the cluster at {server}.")


def leave(
    context: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="Do not empty the node first.")] = False,
    profile: ProfileOption = None,
) -> None:
    """Leave the cluster this machine has joined, and remove everything of it here."""
    from navarch.cluster import leaving

    with Steps() as steps:
        found = leaving.leave(profile_name(context, profile), steps, empty=not force)
        steps.done(
            "Left. The cluster keeps the Node object until somebody there runs: "
            f"navarch node delete {found.joined_node}"
        )
