"""What is taken back when the addons with nginx are switched off, and what nodes may do while they
are on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from navarch.cluster import ingress_addon, processes
from navarch.cluster.api import Api, ApiUnavailableError, Connection
from navarch.cluster.gateway_addon import gateway_objects
from navarch.cluster.ingress_addon import end_nginx, ingress_objects, take_back
from navarch.cluster.processes import ProcessId
from navarch.cluster.profile import ClusterError, Paths
from navarch.cluster.supervisor import Description, Spec
from navarch.network.gateway.controller import GatewayServing
from navarch.network.ingress.controller import IngressServing

INGRESSES = "/apis/networking.k8s.io/v1"
SERVICE = "/api/v1/namespaces/ingress-nginx/services/ingress-nginx-controller"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/ingress-nginx/endpointslices"


def balanced(name: str, *addresses: str) -> dict[str, Any]:
    status = {"loadBalancer": {"ingress": [{"ip": each} for each in addresses]}}
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": {}, "status": status}


class Answers(Connection):
    """An API with some objects, which notes what is patched."""

    def __init__(self, objects: dict[str, Any]) -> None:
        self.objects = objects
        self.patched: dict[str, Any] = {}

    def get(self, path: str) -> Any:
        if path not in self.objects:
            raise ApiUnavailableError(path, 404)
        return self.objects[path]

    def merge(self, path: str, value: dict[str, Any]) -> None:
        self.patched[path] = value


def test_only_addresses_of_ours_are_taken_out_of_statuses() -> None:
    ingresses = [
        balanced("balanced", "10.0.0.9"),
        balanced("by-node", "10.0.0.1"),
        balanced("of-another-controller", "10.7.7.7"),
        balanced("of-both", "10.0.0.9", "10.7.7.7"),
        balanced("without"),
        {"metadata": {"name": "new", "namespace": "shop"}},
    ]
    slices = [{"endpoints": [{"addresses": ["10.0.0.1"]}]}, {"endpoints": None}]
    api = Answers(
        {
            SERVICE: balanced("ingress-nginx-controller", "10.0.0.9"),
            SLICES: {"items": slices},
            f"{INGRESSES}/ingresses": {"items": ingresses},
        }
    )
    take_back(cast(Api, api))
    assert api.patched == {
        f"{INGRESSES}/namespaces/shop/ingresses/{name}/status": {"status": {"loadBalancer": None}}
        for name in ("balanced", "by-node")
    }


def test_without_the_service_nothing_is_known_and_nothing_taken_back() -> None:
    api = Answers({})
    take_back(cast(Api, api))
    assert api.patched == {}


@pytest.mark.parametrize(
    ("placed", "serving"),
    [
        (ingress_objects(), IngressServing),
        ([*gateway_objects()], GatewayServing),
    ],
)
def test_a_node_may_hold_its_component_s_lease_and_no_other(
    placed: list[tuple[str, dict[str, Any]]], serving: type[IngressServing | GatewayServing]
) -> None:
    """Every node has these credentials, and the control plane's leases are in kube-system."""
    rules = [
        (path.rpartition("/")[0].rpartition("/")[2], rule)
        for path, each in placed
        for rule in (each.get("rules") or ())
        if "leases" in rule["resources"]
    ]
    assert {(where, *rule["verbs"], *rule.get("resourceNames", ())) for where, rule in rules} == {
        (serving.lease_namespace, "create"),
        (serving.lease_namespace, "get", "update", serving.lease),
    }


NGINX = """
import os, signal, sys, time
controller, told = int(sys.argv[2]), sys.argv[3]
def end(number, frame):
    there = os.path.exists(f"/proc/{controller}/exe")
    open(told, "w").write(f"{signal.Signals(number).name} {'beside' if there else 'after'}")
    sys.exit()
for number in (signal.SIGQUIT, signal.SIGTERM):
    signal.signal(number, end)
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def controller(paths: Paths, seconds: float) -> Iterator[int]:
    """A node's process that began before the addon was off, and goes on for so long."""
    spec = Spec("node-dev", ["true"], {}, node="dev", log="", level=1, digest="new")
    described = Description(str(paths.run), str(paths.pins), [spec])
    (paths.run / "supervisor.json").write_bytes(described.encode())
    with subprocess.Popen(["sleep", str(seconds)]) as process:
        started = processes.start_time(process.pid) or 0
        old = ProcessId(process.pid, started, "old")
        processes.write_pid_file(paths.run / "node-dev.pid", old)
        try:
            yield process.pid
        finally:
            process.kill()


def test_nginx_ends_after_those_who_would_start_it_again(tmp_path: Path) -> None:
    """And in its own time; nothing stays behind."""
    paths = Paths(tmp_path / "dev")
    paths.create()
    directory, told = paths.node("dev") / "ingress", tmp_path / "told"
    directory.mkdir(parents=True)
    (directory / "certificates.json").write_text("keys")
    with controller(paths, 0.5) as old:
        words = [sys.executable, "-S", "-c", NGINX, str(directory), str(old), str(told)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as nginx:
            assert nginx.stdout is not None and nginx.stdout.readline() == b"ready\n"
            (directory / "nginx.pid").write_text(str(nginx.pid))
            end_nginx(paths, "ingress")
    assert told.read_text() == "SIGQUIT after"
    assert not directory.exists()


def test_what_a_controller_would_start_again_is_left_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress_addon, "REPLACED_SECONDS", 0.1)
    paths = Paths(tmp_path / "dev")
    paths.create()
    directory = paths.node("dev") / "ingress"
    directory.mkdir(parents=True)
    with controller(paths, 600), pytest.raises(ClusterError, match="still run the ingress"):
        end_nginx(paths, "ingress")
    assert directory.exists()
