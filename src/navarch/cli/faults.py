"""`navarch node fault`: what befalls simulated nodes on demand.

Each is an annotation on Node objects, so other clients can do the same (see
docs/simulated-nodes.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from navarch.cli.options import ProfileOption, owned
from navarch.cluster.profile import ClusterError

if TYPE_CHECKING:
    from navarch.cluster.api import Api

app = typer.Typer(help="Let simulated nodes fail and come back.", no_args_is_help=True)
ZONE_LABEL = "topology.kubernetes.io/zone"

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Nodes by name.")]
ZoneOption = Annotated[str, typer.Option("--zone", help="All nodes of this zone.")]
SelectorOption = Annotated[
    str, typer.Option("--selector", "-l", help="All nodes that this label selector chooses.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All simulated nodes.")]


Settings = dict[str, str | None]


def _command(settings: Settings, done: str) -> Callable[..., None]:
    def command(
        context: typer.Context,
        names: Names = None,
        zone: ZoneOption = "",
        selector: SelectorOption = "",
        every: AllOption = False,
        profile: ProfileOption = None,
    ) -> None:
        _annotate(context, profile, _Chosen(names, zone, selector, every), settings, done)

    return command


FAULTS: tuple[tuple[str, str, Settings, str], ...] = (
    (
        "kill",
        "Cut the power: heartbeats end, and what runs there is lost when the node comes back.",
        {"fault": "dead"},
        "killed",
    ),
    (
        "hang",
        "Cut the node off: heartbeats end, and containers run on unseen.",
        {"fault": "hung"},
        "hung",
    ),
    (
        "restore",
        "Mend everything: faults and conditions.",
        {"fault": None, "conditions": None},
        "restored",
    ),
)
for _name, _help, _settings, _done in FAULTS:
    app.command(_name, help=_help)(_command(_settings, _done))


@app.command("condition")
def condition(
    context: typer.Context,
    names: Names = None,
    conditions: Annotated[
        list[str] | None,
        typer.Option("--set", help="Such as MemoryPressure or Ready=False; may be repeated."),
    ] = None,
    zone: ZoneOption = "",
    selector: SelectorOption = "",
    every: AllOption = False,
    profile: ProfileOption = None,
) -> None:
    """Let nodes report conditions, instead of those they report on demand so far."""
    from navarch.node.simulated.faults import parse_conditions

    text = ",".join(conditions or ())
    try:
        found = parse_conditions(text)
    except ValueError as error:
        raise ClusterError(str(error)) from error
    if not found:
        raise ClusterError("which condition?", "For example: --set MemoryPressure")
    chosen = _Chosen(names, zone, selector, every)
    _annotate(context, profile, chosen, {"conditions": text}, f"told to report {text}")


class _Chosen:
    """Which nodes are meant."""

    def __init__(self, names: Sequence[str] | None, zone: str, selector: str, every: bool) -> None:
        self.names = [*(names or ())]
        given = [bool(self.names), bool(zone), bool(selector), every]
        if sum(given) != 1:
            raise ClusterError(
                "which nodes?", "Give names, or one of --zone ZONE, --selector LABELS, --all."
            )
        self.selector = f"{ZONE_LABEL}={zone}" if zone else selector

    def nodes(self, api: Api) -> list[str]:
        """The names of the simulated nodes meant. Raises ClusterError when there are none."""
        from navarch.cluster.simulation import SELECTOR

        selector = ",".join(filter(None, (SELECTOR, self.selector)))
        items: list[dict[str, Any]] = api.get(f"/api/v1/nodes?labelSelector={quote(selector)}")[
            "items"
        ]
        found = [item["metadata"]["name"] for item in items]
        missing = [name for name in self.names if name not in found]
        if missing:
            raise ClusterError(
                f"no simulated nodes: {', '.join(missing)}", "See: navarch node list"
            )
        if not found:
            raise ClusterError("there are no such simulated nodes", "See: navarch node list")
        return self.names or found


def _annotate(
    context: typer.Context,
    profile: str | None,
    chosen: _Chosen,
    values: dict[str, str | None],
    said: str,
) -> None:
    from navarch.cluster.api import Api

    found = owned(context, profile)
    annotations = {f"simulated.navarch.dev/{key}": value for key, value in values.items()}
    with closing(Api(found.profile, found.paths)) as api:
        nodes = chosen.nodes(api)
        for name in nodes:
            api.merge(f"/api/v1/nodes/{name}", {"metadata": {"annotations": annotations}})
    listed = ", ".join(nodes[:5]) + (f" and {len(nodes) - 5} more" if len(nodes) > 5 else "")
    print(f"* {said}: {listed}")
