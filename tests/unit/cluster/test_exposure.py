"""At which addresses a Service is reached, and what the commands print of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from navarch.cli import main as cli
from navarch.cli.options import Existing
from navarch.cluster import tunnel
from navarch.cluster.api import Api, ApiUnavailableError
from navarch.cluster.exposure import ExposedPort, exposed
from navarch.cluster.profile import ClusterError, Paths, Profile, paths_of, save

NODE = "192.168.49.2"


def service(kind: str, *addresses: str, **spec: Any) -> dict[str, Any]:
    ports = spec.pop("ports", [{"name": "http", "port": 80, "nodePort": 30080}])
    return {
        "metadata": {"namespace": "default", "name": spec.pop("name", "web")},
        "spec": {"type": kind, "clusterIP": "10.96.0.9", "ports": ports, **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": each} for each in addresses]}},
    }


@pytest.mark.parametrize(
    ("value", "outside", "inside"),
    [
        (service("ClusterIP", ports=[{"port": 80}]), [], [("10.96.0.9", 80, "80")]),
        (
            service("NodePort"),
            [(NODE, 30080, "http/80")],
            [("10.96.0.9", 80, "http/80")],
        ),
        (
            service("LoadBalancer", "192.168.49.205"),
            [("192.168.49.205", 80, "http/80")],
            [("10.96.0.9", 80, "http/80")],
        ),
        (service("ClusterIP", clusterIP="None", ports=[{"port": 80}]), [], []),
        (service("ExternalName", clusterIP="", ports=[]), [], []),
    ],
)
def test_where(value: dict[str, Any], outside: list[Any], inside: list[Any]) -> None:
    found = exposed(value, NODE)
    assert [(each.address, each.port, each.name) for each in found.outside] == outside
    assert [(each.address, each.port, each.name) for each in found.inside] == inside


def test_an_address_is_waited_for_and_the_node_serves_meanwhile() -> None:
    found = exposed(service("LoadBalancer"), NODE)
    assert found.is_pending and found.places == (ExposedPort(NODE, 30080, "http/80"),)
    proxied = service("LoadBalancer", "192.0.2.1")
    proxied["status"]["loadBalancer"]["ingress"][0]["ipMode"] = "Proxy"
    assert exposed(proxied, NODE).is_pending


class Cluster:
    """What the API of the commands under test answers."""

    def __init__(self) -> None:
        self.services = [
            service("LoadBalancer", "192.168.49.205"),
            service("LoadBalancer", "fd00::1", name="six"),
            service("ClusterIP", ports=[{"port": 80}], name="inner"),
            service("ClusterIP", clusterIP="None", name="headless", ports=[]),
        ]

    def get(self, path: str) -> Any:
        name = path.rpartition("/")[2]
        if name.startswith("services"):
            return {"items": self.services}
        for each in self.services:
            if each["metadata"]["name"] == name:
                return each
        raise ApiUnavailableError("not found", 404)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Cluster]:
    monkeypatch.setenv("NAVARCH_HOME", str(tmp_path))
    save(Profile("dev"))
    found = Cluster()
    monkeypatch.setattr(Api, "get", lambda self, path: found.get(path))
    there = Existing(Profile("dev"), paths_of("dev"))
    monkeypatch.setattr("navarch.cli.services.running", lambda context, name: there)
    yield found


def run(*words: str) -> int:
    try:
        return cli.main([*words, "-p", "dev"])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["web", "--url"], "http://192.168.49.205:80\n"),
        (["web", "--url", "--https"], "https://192.168.49.205:80\n"),
        (["six", "--url"], "http://[fd00::1]:80\n"),
        (["inner", "--url"], "http://10.96.0.9:80\n"),
        (
            ["web", "--url", "--format", "{{.Name}} {{.IP}} {{.Port}}"],
            "http/80 192.168.49.205 80\n",
        ),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_the_url(words: list[str], printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("service", *words) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["none", "--wait", "0"], 115, "Service 'none' was not found in 'default' namespace"),
        (["headless", "--url"], 1, "service default/headless has no address"),
        (["web", "--format", "{{.Colour}}"], 1, "--format: there is no {{.Colour}}"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_what_cannot_be(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("service", *words) == code
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("cluster")
def test_the_browser_is_opened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert run("service", "web") == 0
    assert opened == ["http://192.168.49.205:80"]
    assert capsys.readouterr().out == (
        "NAMESPACE   NAME   TARGET PORT   URL\n"
        "default     web    http/80       http://192.168.49.205:80\n"
        "* Opening service default/web in default browser...\n"
        "  http://192.168.49.205:80\n"
    )


@pytest.mark.usefixtures("cluster")
def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("service", "list", "-o", "json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(each["Name"], each["URLs"], each["PortNames"]) for each in listed] == [
        ("web", ["http://192.168.49.205:80"], ["http/80"]),
        ("six", ["http://[fd00::1]:80"], ["http/80"]),
        ("inner", [], ["No node port"]),
        ("headless", [], ["No node port"]),
    ]
    assert run("service", "list") == 0
    assert "inner      No node port" in capsys.readouterr().out


@contextmanager
def opened(paths: Paths) -> Iterator[tunnel.Tunnel]:
    with tunnel.Tunnel(Profile("dev"), paths) as found:
        yield found


def test_a_tunnel_tells_what_is_reached_and_leads_where_nobody_else_does(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[set[str], set[str]]] = []
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(
        "navarch.cluster.netns.lead_to_bridge",
        lambda bridge, wanted, unwanted: calls.append((set(wanted), set(unwanted))),
    )
    monkeypatch.setattr(tunnel, "_probe", lambda address, port: "" if "." in address else "refused")
    cluster.services.append(service("LoadBalancer", name="pending"))
    paths = paths_of("dev")
    with opened(paths) as found:
        states = {
            row.exposed.name: row.state for row in found.look() if row.exposed.name != "inner"
        }
        assert states["web"] == "yes" and states["six"] == "no: 80: refused"
        assert states["pending"].startswith("no: it has no address")
        assert calls == [({"fd00::1"}, set())]
        with pytest.raises(ClusterError, match="another tunnel is open"), opened(paths):
            pass
    assert calls[1:] == [(set(), {"fd00::1"})]
    assert tunnel.clean(paths) == []


@pytest.mark.usefixtures("cluster")
def test_a_route_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with (
        opened(paths_of("dev")) as found,
        pytest.raises(ClusterError, match="fd00::1: a route to the nodes needs root"),
    ):
        found.look()
