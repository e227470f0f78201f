"""The commands people type, with minikube's verbs, flags and habits where it has them."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from navarch.cli import network, simulation
from navarch.cli.addons import app as addon_app
from navarch.cli.addons import start_change as addon_change
from navarch.cli.images import app as image_app
from navarch.cli.join import join, leave, token_app
from navarch.cli.nodes import app as node_app
from navarch.cli.options import Output, ProfileOption, existing, profile_name
from navarch.cli.output import Steps, fail, printable
from navarch.cli.profiles import app as profile_app
from navarch.cli.services import service, tunnel
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
app.command()(join)
app.command()(leave)
app.command()(service)
app.command()(tunnel)
app.command()(why)

NO_SUCH_PROFILE = 85
"""minikube's exit code for a profile that does not exist."""


@app.callback()
def common(context: typer.Context, profile: ProfileOption = None) -> None:
    context.obj = profile


@app.command()
def start(
    context: typer.Context,
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", "-n", help="Number of nodes; 0 is the API alone. Default: 1."),
    ] = None,
    simulated: simulation.Simulated = None,
    simulated_config: simulation.Config = None,
    simulated_name: simulation.Name = simulation.DEFAULT_NAME,
    capacity: simulation.Capacity = None,
    labels: simulation.Labels = None,
    taints: simulation.Taints = None,
    zones: simulation.Zones = None,
    region: simulation.Region = None,
    timetable: simulation.Timetable = None,
    audit_policy: Annotated[
        str | None,
        typer.Option(help="Audit requests by this policy file (audit.k8s.io/v1); off ends it."),
    ] = None,
    encryption_config: Annotated[
        str | None,
        typer.Option(help="Encrypt what is stored by this EncryptionConfiguration file."),
    ] = None,
    kubelet_config: Annotated[
        str | None,
        typer.Option(help="Run nodes by this KubeletConfiguration file; off ends it."),
    ] = None,
    scheduler_config: Annotated[
        str | None,
        typer.Option(help="Schedule by this KubeSchedulerConfiguration file; off ends it."),
    ] = None,
    addons: Annotated[
        list[str] | None,
        typer.Option(help="Enable addons, several with commas; see `navarch addons list`."),
    ] = None,
    ip_family: network.IpFamily = "",
    service_range: network.ServiceRange = "",
    pod_range: network.PodRange = "",
    pod_network: network.PodNetwork = None,
    block_metadata: network.BlockMetadata = None,
    enable_admission_plugins: network.AdmissionPlugins = None,
    cni: network.Cni = None,
    network_policy: network.NetworkPolicies = None,
    cluster_signing_duration: network.SigningDuration = None,
    listen_address: network.Listen = None,
    apiserver_ips: network.ServerAddresses = None,
    apiserver_names: network.ServerNames = None,
    keep_context: Annotated[
        bool, typer.Option("--keep-context", help="Leave kubectl's current context as it is.")
    ] = False,
    wait: Annotated[
        bool, typer.Option(help="Return when the cluster is usable, not before.")
    ] = True,
    wait_timeout: Annotated[float, typer.Option(help="How long to wait, in seconds.")] = 120.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
    profile: ProfileOption = None,
) -> None:
    """Start the cluster, or mend it: what runs already is left alone."""
    from navarch.cluster.start import StartRequest
    from navarch.cluster.start import start as start_cluster

    name = profile_name(context, profile)
    flags = simulation.Flags(simulated_name, capacity, labels, taints, zones, region, timetable)
    wires = network.Flags(
        *(ip_family, service_range, pod_range, pod_network),
        *(listen_address, apiserver_ips, apiserver_names),
        *(block_metadata, enable_admission_plugins),
        *(network_policy, cluster_signing_duration),
    )
    request = StartRequest(
        name=name,
        nodes=nodes,
        settings=wires.settings,
        creation=wires.creation,
        cni=cni,
        simulation=simulation.start_change(simulated, simulated_config, flags),
        switch_context=not keep_context,
        wait=wait,
        timeout=wait_timeout,
        audit_policy=audit_policy,
        encryption_config=encryption_config,
        kubelet_config=kubelet_config,
        scheduler_config=scheduler_config,
        addons=addon_change(addons),
    )
    with Steps(quiet=quiet) as steps:
        started = start_cluster(request, steps)
        steps.done(
            f"Done! This machine is the node {started.joined_node} again"
            if started.joined
            else "Done! kubectl works as it is now"
            if keep_context
            else f'Done! kubectl is now configured to use "{name}" cluster and "default" '
            "namespace by default"
        )


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
    from navarch.cluster import profile as profiles
    from navarch.cluster import status as states

    name = profile_name(context, profile)
    found = profiles.load(name)
    if found is None:
        fail(
            f'Profile "{name}" not found. Run "navarch profile list" to view all profiles.',
            'To start a cluster, run: "navarch start"',
        )
        raise typer.Exit(NO_SUCH_PROFILE)
    machines = states.status(found, profiles.paths_of(name))
    if node:
        machines = [machine for machine in machines if machine.name == node]
        if not machines:
            fail(f'The node "{node}" does not exist in the cluster "{name}".')
            raise typer.Exit(NO_SUCH_PROFILE)
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

    found = existing(context, profile)
    print(kubeconfigs.render(kubeconfigs.embedded(found.profile, found.paths)), end="")


@app.command("update-context")
def update_context(context: typer.Context, profile: ProfileOption = None) -> None:
    """Put the cluster into your kubeconfig again and make it the current context."""
    from navarch.cluster import kubeconfig as kubeconfigs

    found = existing(context, profile)
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
    found = existing(context, profile).profile
    names = found.node_names()
    if not names:
        print("127.0.0.1")
        return
    if node and node not in names:
        fail(f'The node "{node}" does not exist.', f"Nodes: {', '.join(names)}")
        raise typer.Exit(NO_SUCH_PROFILE)
    print(found.node_address(node or names[0]))


@app.command(context_settings={"ignore_unknown_options": True})
def ssh(
    context: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(help="Default: a shell.")] = None,
    node: Annotated[str, typer.Option("--node", "-n", help="Default: the first one.")] = "",
    profile: ProfileOption = None,
) -> None:
    """Run a command, or a shell, inside a node."""
    found = existing(context, profile)
    names = found.profile.node_names()
    chosen = node or (names[0] if names else "")
    if chosen not in names:
        fail(f'The node "{chosen}" does not exist.', f"Nodes: {', '.join(names)}")
        raise typer.Exit(NO_SUCH_PROFILE)
    program = command or [os.environ.get("SHELL", "/bin/sh")]
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
def doctor(
    output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE,
) -> None:
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
