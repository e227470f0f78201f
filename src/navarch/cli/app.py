"""The commands people type, with minikube's verbs, flags and habits where it has them."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from navarch.cli.addons import app as addon_app
from navarch.cli.images import app as image_app
from navarch.cli.join import join, leave, token_app
from navarch.cli.nodes import app as node_app
from navarch.cli.nodes import joined_nodes
from navarch.cli.options import Output, ProfileOption, existing, node_named, owned, profile_name
from navarch.cli.output import Steps, printable
from navarch.cli.profiles import app as profile_app
from navarch.cli.services import service, tunnel
from navarch.cli.start import start
from navarch.cli.why.command import why

app = typer.Typer(
    name="navarch",
    help="A complete Kubernetes on this machine. First steps: navarch start; kubectl get pods -A",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(addon_app, name="addons")
app.add_typer(image_app, name="image")
app.add_typer(profile_app, name="profile")
app.add_typer(node_app, name="node")
app.add_typer(token_app, name="token")
app.command()(start)
app.command()(join)
app.command()(leave)
app.command()(service)
app.command()(tunnel)
app.command()(why)


@app.callback()
def common(context: typer.Context, profile: ProfileOption = None) -> None:
    context.obj = profile


@app.command()
def stop(context: typer.Context, profile: ProfileOption = None) -> None:
    """Stop the cluster; `navarch start` brings it back with its workloads."""
    from navarch.cluster.stop import stop as stop_cluster

    name = profile_name(context, profile)
    with Steps() as steps:
        stop_cluster(name, steps)
        steps.done(f'The cluster "{name}" is stopped.')


@app.command()
def delete(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Delete all profiles.")] = False,
    profile: ProfileOption = None,
) -> None:
    """Delete the cluster and everything that belongs to it."""
    from navarch.cluster import profile as profiles
    from navarch.cluster.stop import delete as delete_cluster

    names = [profile_name(context, profile)]
    if every:
        names = [found.name for found in profiles.all_profiles()]
    with Steps() as steps:
        for name in names:
            there = delete_cluster(name, steps)
            steps.done(
                f'Removed all traces of the "{name}" cluster.'
                if there
                else f'There is no "{name}" cluster to delete.'
            )


class StatusOutput(StrEnum):
    TEXT = "text"
    JSON = "json"


@app.command()
def status(
    context: typer.Context,
    output: Annotated[StatusOutput, typer.Option("--output", "-o")] = StatusOutput.TEXT,
    node: Annotated[str, typer.Option("--node", "-n", help="One node only.")] = "",
    profile: ProfileOption = None,
) -> None:
    """Show how the cluster is. The exit code adds 1 (host), 2 (cluster) and 4 (kubeconfig) for
    what is not in order, as minikube's does."""
    from navarch.cluster import status as states

    there = existing(context, profile)
    machines = states.status(there.profile, there.paths)
    if node:
        node_named(there.profile, node)
        machines = [machine for machine in machines if machine.name == node]
    if output is StatusOutput.JSON:
        values = [machine.data() for machine in machines]
        print(json.dumps(values[0] if len(values) == 1 else values))
    else:
        print("\n".join(machine.text() for machine in machines))
    raise typer.Exit(states.exit_code(machines))


@app.command()
def logs(
    context: typer.Context,
    length: Annotated[int, typer.Option("--length", "-n", help="Lines to go back.")] = 60,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    file: Annotated[
        str, typer.Option(help="Only logs whose name begins so, such as apiserver.")
    ] = "",
    profile: ProfileOption = None,
) -> None:
    """Show the logs of the cluster's own processes."""
    from navarch.cluster import logs as cluster_logs

    paths = existing(context, profile).paths
    files = cluster_logs.files(paths, file)
    for line in cluster_logs.last(files, length):
        print(printable(line))
    if follow:
        for line in cluster_logs.follow(files):
            print(printable(line), flush=True)


@app.command()
def kubeconfig(context: typer.Context, profile: ProfileOption = None) -> None:
    """Print a kubeconfig for the cluster's administrator, complete in itself."""
    from navarch.cluster import kubeconfig as kubeconfigs

    found = owned(context, profile)
    print(kubeconfigs.render(kubeconfigs.embedded(found.profile, found.paths)), end="")


@app.command("update-context")
def update_context(context: typer.Context, profile: ProfileOption = None) -> None:
    """Put the cluster into your kubeconfig again and make it the current context."""
    from navarch.cluster import kubeconfig as kubeconfigs

    found = owned(context, profile)
    file = kubeconfigs.merge(found.profile, found.paths, kubeconfigs.user_files())
    print(f'* "{found.profile.name}" context has been updated to point to {found.profile.server}')
    print(f"  in {file}")


@app.command()
def ip(
    context: typer.Context,
    node: Annotated[str, typer.Option("--node", "-n", help="Default: the first one.")] = "",
    profile: ProfileOption = None,
) -> None:
    """Print the address of a node."""
    there = existing(context, profile)
    names = there.profile.node_names()
    if not names and not node:
        print("127.0.0.1")
    elif node and node not in names and (address := joined_nodes(there).get(node)):
        print(address)
    else:
        print(there.profile.node_address(node_named(there.profile, node)))


@app.command(context_settings={"ignore_unknown_options": True})
def ssh(
    context: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(help="Default: a shell.")] = None,
    node: Annotated[str, typer.Option("--node", "-n", help="Default: the first one.")] = "",
    profile: ProfileOption = None,
) -> None:
    """Run a command, or a shell, inside a node.

    One word is a line for the shell there, as with ssh: "ip route | grep eth0".
    """
    found = existing(context, profile)
    chosen = node_named(found.profile, node)
    program = command or [os.environ.get("SHELL", "/bin/sh")]
    if command and len(command) == 1:
        program = ["/bin/sh", "-c", *command]
    helper = [sys.executable, "-P", "-m", "navarch.cluster.enter", str(found.paths.pins), chosen]
    os.execv(sys.executable, [*helper, "--", *program])


@app.command()
def setup(
    build: Annotated[
        bool, typer.Option("--build", help="Also what `navarch image build` needs.")
    ] = False,
    ingress: Annotated[
        bool, typer.Option("--ingress", help="Also what the addon `ingress` needs: nginx.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be installed.")] = False,
) -> None:
    """Install the Debian packages that nodes need."""
    from navarch.cluster.setup import install, missing_packages

    packages = missing_packages(*["build"] * build, *["ingress"] * ingress)
    if not packages:
        print("* Everything is installed.")
        return
    print(f"* {'To be installed' if dry_run else 'Installing'}: {' '.join(packages)}", flush=True)
    if not dry_run:
        install(packages)


@app.command()
def doctor(output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE) -> None:
    """Check what this machine offers and say how to mend what is missing."""
    from navarch.cluster.doctor import Level, examine

    findings = examine()
    if output is Output.JSON:
        print(json.dumps([finding.data() for finding in findings], indent=2))
    else:
        for finding in findings:
            print(finding.text())
    raise typer.Exit(1 if any(finding.level is Level.BAD for finding in findings) else 0)


@app.command()
def version(
    short: Annotated[bool, typer.Option("--short", help="Only the number.")] = False,
) -> None:
    """Print the version."""
    from navarch import KUBERNETES_VERSION, __version__

    if short:
        print(f"v{__version__}")
        return
    print(f"navarch version: v{__version__}")
    print(f"kubernetes version: {KUBERNETES_VERSION}")


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
def kubectl() -> None:
    """Run kubectl against the cluster: navarch kubectl -- get pods."""
    raise AssertionError("main() runs kubectl before this application is built")
