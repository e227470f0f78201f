"""`navarch start`: its flags, and what they ask of the cluster."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from navarch.cli import network, simulation
from navarch.cli.addons import start_change as addon_change
from navarch.cli.options import ProfileOption, profile_name, spread
from navarch.cli.output import Steps


@dataclass(frozen=True, slots=True)
class Files:
    """Configuration of Kubernetes' own kinds, by the names that `StartRequest` has for them."""

    audit_policy: Annotated[
        str | None,
        typer.Option(help="Audit requests by this policy file (audit.k8s.io/v1); off ends it."),
    ] = None
    encryption_config: Annotated[
        str | None,
        typer.Option(help="Encrypt what is stored by this EncryptionConfiguration file."),
    ] = None
    kubelet_config: Annotated[
        str | None, typer.Option(help="Run nodes by this KubeletConfiguration file; off ends it.")
    ] = None
    scheduler_config: Annotated[
        str | None,
        typer.Option(help="Schedule by this KubeSchedulerConfiguration file; off ends it."),
    ] = None


@dataclass(frozen=True, slots=True)
class Manner:
    """How the command goes about it."""

    boot: Annotated[
        bool | None,
        typer.Option(
            help="Start the cluster when this machine boots, where systemd is.", show_default=False
        ),
    ] = None
    keep_context: Annotated[
        bool, typer.Option("--keep-context", help="Leave kubectl's current context as it is.")
    ] = False
    wait: Annotated[bool, typer.Option(help="Return when the cluster is usable, not before.")] = (
        True
    )
    wait_timeout: Annotated[float, typer.Option(help="How long to wait, in seconds.")] = 120.0
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False


@spread
def start(
    context: typer.Context,
    *,
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", "-n", help="Number of nodes; 0 is the API alone. Default: 1."),
    ] = None,
    simulated: simulation.Simulated = None,
    simulated_config: simulation.Config = None,
    group: simulation.Flags,
    files: Files,
    addons: Annotated[
        list[str] | None,
        typer.Option(help="Enable addons, several with commas; see `navarch addons list`."),
    ] = None,
    wires: network.Flags,
    manner: Manner,
    profile: ProfileOption = None,
) -> None:
    """Start the cluster, or mend it: what runs already is left alone."""
    from navarch.cluster.start import StartRequest
    from navarch.cluster.start import start as start_cluster

    name = profile_name(context, profile)
    request = StartRequest(
        name=name,
        nodes=nodes,
        settings=wires.settings if wires != network.Flags() else None,
        creation=wires.creation,
        cni=wires.cni,
        simulation=simulation.start_change(simulated, simulated_config, group),
        addons=addon_change(addons),
        boot=manner.boot,
        switch_context=not manner.keep_context,
        wait=manner.wait,
        timeout=manner.wait_timeout,
        **asdict(files),
    )
    with Steps(quiet=manner.quiet) as steps:
        started = start_cluster(request, steps)
        steps.done(
            f"Done! This machine is the node {started.joined_node} again"
            if started.joined
            else "Done! kubectl works as it is now"
            if manner.keep_context
            else f'Done! kubectl is now configured to use "{name}" cluster and "default" '
            "namespace by default"
        )
