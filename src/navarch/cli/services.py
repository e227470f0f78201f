"""`navarch service` and `navarch tunnel`: how Services are reached from this machine.

minikube needs both because its nodes are behind something. Here the host reaches every address of
a Service by itself, so `service` says which, and `tunnel` has nothing to carry: it is there for
fingers and scripts that type it, shows what can be reached, and sees to addresses of pools outside
of the nodes' subnet, which need a route.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from navarch.cli.options import Existing, Output, ProfileOption, owned, running
from navarch.cli.output import fail
from navarch.cli.table import table
from navarch.cluster.profile import ClusterError

if TYPE_CHECKING:
    from navarch.cluster.api import Api
    from navarch.cluster.exposure import Exposed

NOT_FOUND = 115
"""minikube's exit code for a Service that does not exist."""
FORMAT = "http://{{.IP}}:{{.Port}}"


def service(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Of the Service; `list` lists all of them.")],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Default: default; of list: all.")
    ] = None,
    url: Annotated[bool, typer.Option("--url", help="Print the URL, open nothing.")] = False,
    https: Annotated[bool, typer.Option("--https", help="With https instead of http.")] = False,
    template: Annotated[
        str, typer.Option("--format", help="Of a URL, with {{.IP}}, {{.Port}} and {{.Name}}.")
    ] = FORMAT,
    wait: Annotated[float, typer.Option(help="For the Service, in seconds.")] = 2.0,
    interval: Annotated[float, typer.Option(help="Between two looks, in seconds.")] = 1.0,
    output: Annotated[Output, typer.Option("--output", "-o", help="Of list.")] = Output.TABLE,
    profile: ProfileOption = None,
) -> None:
    """Print the URL of a Service, or open it in the browser; `navarch service list` shows all."""
    from navarch.cluster.api import Api

    there = running(context, profile)
    if unknown := set(re.findall(r"\{\{(.*?)\}\}", template)) - {".IP", ".Port", ".Name"}:
        raise ClusterError(
            f"--format: there is no {{{{{min(unknown)}}}}}", "There are .IP, .Port and .Name"
        )
    if not name:
        raise ClusterError("the Service's name is missing", "All of them: navarch service list")
    api = Api(there.profile, there.paths)
    if name == "list":
        _list(api, there, namespace or "", template, output)
        return
    found = _find(api, there, (namespace or "default", name), wait, interval)
    urls = [_url(template, each, https=https) for each in found.places]
    if not url:
        print(table([_row(found, urls)]))
    if not urls:
        fail(
            f"service {found.namespace}/{found.name} has no address",
            "It is headless, an ExternalName or pending: kubectl describe service "
            f"-n {found.namespace} {found.name}",
        )
        raise typer.Exit(1)
    for each in urls:
        if url:
            print(each)
        else:
            print(f"* Opening service {found.namespace}/{found.name} in default browser...")
            _open(each)


def _find(api: Api, there: Existing, key: tuple[str, str], wait: float, interval: float) -> Exposed:
    """The Service, once it is there and has the address that its type promises."""
    from navarch.cluster import exposure, processes

    namespace, name = key
    found: list[Exposed] = []

    def is_there() -> bool:
        place = quote(namespace, safe="")
        value = api.find(f"/api/v1/namespaces/{place}/services/{quote(name, safe='')}")
        if value is None:
            return False
        found[:] = [exposure.exposed(value, _node_address(there))]
        return not found[0].is_pending

    processes.wait_until(is_there, wait, max(interval, 0.1))
    if not found:
        fail(
            f"Exiting due to SVC_NOT_FOUND: Service '{name}' was not found in '{namespace}' "
            "namespace.",
            f"You may select another namespace by using 'navarch service {name} -n <namespace>'. "
            "Or list out all the services using 'navarch service list'",
        )
        raise typer.Exit(NOT_FOUND)
    return found[0]


def _list(api: Api, there: Existing, namespace: str, template: str, output: Output) -> None:
    from navarch.cluster import exposure

    within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    services = [
        exposure.exposed(value, _node_address(there))
        for value in api.get(f"/api/v1{within}/services")["items"]
    ]
    rows = [(each, [_url(template, place) for place in each.outside]) for each in services]
    if output is Output.JSON:
        values = [
            {
                "Namespace": each.namespace,
                "Name": each.name,
                "URLs": urls,
                "PortNames": [place.name for place in each.outside] or ["No node port"],
            }
            for each, urls in rows
        ]
        print(json.dumps(values))
        return
    print(table([_row(each, urls) for each, urls in rows]))


def _row(found: Exposed, urls: list[str]) -> dict[str, str]:
    names = [place.name for place in (found.places if urls else ())]
    return {
        "Namespace": found.namespace,
        "Name": found.name,
        "Target port": ",".join(names) or "No node port",
        "URL": " ".join(urls),
    }


def _url(template: str, place: object, *, https: bool = False) -> str:
    from navarch.cluster.exposure import ExposedPort

    assert isinstance(place, ExposedPort)
    shown = f"[{place.address}]" if ":" in place.address else place.address
    text = template.replace("{{.IP}}", shown).replace("{{.Port}}", str(place.port))
    text = text.replace("{{.Name}}", place.name)
    return re.sub("^http:", "https:", text) if https else text


def _node_address(there: Existing) -> str:
    names = there.profile.node_names()
    return there.profile.node_address(names[0]) if names else ""


def _open(url: str) -> None:
    import webbrowser

    if not url.startswith(("http://", "https://")) or not webbrowser.open(url):
        print(f"  {url}")


def tunnel(
    context: typer.Context,
    cleanup: Annotated[
        bool, typer.Option("--cleanup", "-c", help="Only remove what a killed tunnel left.")
    ] = False,
    profile: ProfileOption = None,
) -> None:
    """Show at which addresses LoadBalancer Services are reached, until Ctrl-C."""
    from navarch.cluster import tunnel as tunnels

    if cleanup:
        there = owned(context, profile)
        for address in tunnels.clean(there.paths):
            print(f"* Removed the route to {address}")
        return
    there = running(context, profile)
    with tunnels.Tunnel(there.profile, there.paths) as opened:
        print("* Tunnel: the addresses below are reached from this machine; Ctrl-C ends it.")
        last = ""
        try:
            while True:
                text = _report(opened)
                if text != last:
                    print(text, flush=True)
                    last = text
                opened.wait()
        except KeyboardInterrupt:
            print("\n* Stopped tunnel")


def _report(opened: object) -> str:
    from navarch.cluster.api import ApiUnavailableError
    from navarch.cluster.tunnel import Tunnel

    assert isinstance(opened, Tunnel)
    try:
        rows = opened.look()
    except ApiUnavailableError as error:
        return f"X The cluster does not answer: {error}"
    if not rows:
        return "* There is no Service of type LoadBalancer yet."
    return table(
        [
            {
                "Namespace": row.exposed.namespace,
                "Name": row.exposed.name,
                "Address": row.address or "<pending>",
                "Ports": row.ports,
                "Reachable": row.state,
            }
            for row in rows
        ]
    )
