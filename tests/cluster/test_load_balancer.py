"""LoadBalancer addresses of a real cluster as its user meets them: from the host, at once.

The tests are a story: each goes on where the one before it ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.machine import SHELL_IMAGE, Machine, a_cluster

from navarch.cluster import processes

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="real nodes need root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="run: navarch setup"),
]

NAME = "balance"
SERVE = (
    "mkdir -p /tmp/w/cgi-bin; printf '#!/bin/sh\\necho; echo $REMOTE_ADDR\\n' > /tmp/w/cgi-bin/who;"
    " chmod +x /tmp/w/cgi-bin/who; exec httpd -f -p 8080 -h /tmp/w"
)
FAR = "198.51.100.7"
"""Of a pool that is on none of the nodes' subnets."""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with a_cluster(NAME) as found:
        container = {"name": "web", "image": SHELL_IMAGE, "command": ["sh", "-c", SERVE]}
        container["readinessProbe"] = {  # type: ignore[assignment]
            "httpGet": {"path": "/cgi-bin/who", "port": 8080},
            "periodSeconds": 1,
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
        }
        found.kubectl("apply", "-f", "-", feed=json.dumps(pod))
        found.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=120s")
        yield found


def eventually(condition: Callable[[], object], what: str, timeout: float = 60.0) -> None:
    assert processes.wait_until(lambda: bool(condition()), timeout, 0.05), what


def balancer(name: str, port: int, annotations: dict[str, str] | None = None, **spec: Any) -> str:
    ports = [{"port": port, "targetPort": 8080}]
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "annotations": annotations or {}},
            "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": ports, **spec},
        }
    )


def address_of(machine: Machine, name: str) -> str:
    found: list[str] = []

    def is_there() -> bool:
        ingress = machine.get("service", name)["status"]["loadBalancer"].get("ingress", [])
        found[:] = [each["ip"] for each in ingress]
        return bool(found)

    eventually(is_there, f"an address for {name}")
    return found[0]


def caller(address: str, port: int = 80, timeout: float = 2.0) -> str:
    """Whom the server saw, or why there was no answer."""
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/cgi-bin/who", timeout=timeout) as it:
            text: str = it.read().decode()
    except OSError as error:
        return f"error: {error}"
    return text.strip().strip("[]").removeprefix("::ffff:")


def says(wanted: str, address: str, port: int = 80, timeout: float = 2.0) -> bool:
    """Whether the answer has this in it; every answer has nothing, and is no error."""
    answer = caller(address, port, timeout)
    return wanted in answer if wanted else not answer.startswith("error")


def test_the_host_reaches_it_at_once(machine: Machine) -> None:
    machine.kubectl(
        "expose", "pod", "web", "--port=80", "--target-port=8080", "--type=LoadBalancer"
    )
    address = address_of(machine, "web")
    assert not caller(address, timeout=10.0).startswith("error"), address
    eventually(
        lambda: (
            {"IPAllocated", "nodeAssigned"}
            <= {each["reason"] for each in machine.get("events")["items"]}
        ),
        "events",
    )


def test_pods_reach_it(machine: Machine) -> None:
    address = address_of(machine, "web")
    ask = f"printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80"
    assert "200 OK" in machine.kubectl("exec", "web", "--", "sh", "-c", ask)


def test_what_it_does_not_serve_is_refused_at_once(machine: Machine) -> None:
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address_of(machine, "web"), 81), 30.0)
    assert time.monotonic() - began < 20.0


def test_the_local_policy_keeps_the_source(machine: Machine) -> None:
    address = address_of(machine, "web")
    host = machine.profile(NAME).host_address
    assert caller(address) != host
    machine.kubectl("patch", "svc", "web", "-p", '{"spec":{"externalTrafficPolicy":"Local"}}')
    eventually(lambda: caller(address) == host, "the host's own address")


def test_source_ranges_are_enforced(machine: Machine) -> None:
    address, host = address_of(machine, "web"), machine.profile(NAME).host_address
    for ranges, passes in (["192.0.2.0/24"], False), ([f"{host}/32"], True):
        body = json.dumps({"spec": {"loadBalancerSourceRanges": ranges}})
        machine.kubectl("patch", "svc", "web", "-p", body)
        wanted = host if passes else "timed out"
        eventually(partial(says, wanted, address, timeout=0.5), str(ranges))


def test_an_address_is_shared_by_those_who_agree(machine: Machine) -> None:
    keys = {"metallb.io/allow-shared-ip": "both"}
    for name, port in ("one", 81), ("two", 82):
        machine.kubectl("apply", "-f", "-", feed=balancer(name, port, keys))
    address = address_of(machine, "one")
    assert address_of(machine, "two") == address != address_of(machine, "web")
    for port in (81, 82):
        eventually(partial(says, "", address, port), str(port))


def test_service_says_where(machine: Machine) -> None:
    url = f"http://{address_of(machine, 'web')}:80"
    assert machine.navarch("service", "web", "--url", "-p", NAME) == f"{url}\n"
    listed = json.loads(machine.navarch("service", "list", "-o", "json", "-p", NAME))
    assert {"Namespace": "default", "Name": "web", "URLs": [url], "PortNames": ["80"]} in listed
    machine.navarch("service", "none", "--wait", "0", "-p", NAME, expect=115)


@pytest.mark.skipif(not Path("/usr/sbin/nginx").exists(), reason="run: navarch setup --ingress")
def test_the_ingress_addon(machine: Machine) -> None:
    """Its Service has one of the addresses, the node's own ports lead there too, and traffic goes
    on while the node's processes are killed."""
    machine.navarch("addons", "enable", "ingress", "-p", NAME)
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    paths = [{"path": "/cgi-bin", "pathType": "Prefix", "backend": backend}]
    ingress = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "web"},
        "spec": {"rules": [{"host": "web.example", "http": {"paths": paths}}]},
    }
    machine.kubectl("apply", "-f", "-", feed=json.dumps(ingress))

    def status_of() -> Any:
        return machine.get("ingress", "web")["status"].get("loadBalancer", {}).get("ingress")

    eventually(status_of, "an address in the Ingress' status")
    balanced = status_of()[0]["ip"]
    assert machine.get("ingress", "web")["spec"]["ingressClassName"] == "nginx"
    node = machine.navarch("ip", "-p", NAME).strip()

    def answers(address: str, host: str = "web.example") -> bool:
        request = urllib.request.Request(f"http://{address}/cgi-bin/who", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=10.0) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            pass
        return False

    for address in (node, balanced):
        eventually(partial(answers, address), f"the pod behind {address}")
    assert not answers(node, "other.example")
    events = {each["reason"] for each in machine.get("events")["items"]}
    assert "Sync" in events
    assert "GET /cgi-bin/who" in machine.navarch("logs", "-p", NAME, "--file", "ingress-access")

    file = machine.home / NAME / "run" / f"node-{NAME}.pid"
    daemon = processes.read_pid_file(file)
    assert daemon is not None
    daemon.signal(signal.SIGKILL)
    assert all(answers(node) for _ in range(20))
    machine.kubectl("annotate", "ingress", "web", "nginx.ingress.kubernetes.io/app-root=/x;}")
    eventually(lambda: not answers(node), "what is refused by the new controller")
    machine.navarch("addons", "disable", "ingress", "-p", NAME)
    assert not answers(node)
    eventually(lambda: not status_of(), "no address in the Ingress' status")
    machine.kubectl("delete", "ingress", "web")


def test_a_tunnel_leads_to_pools_elsewhere(machine: Machine) -> None:
    words = ("addons", "configure", "metallb", "-p", NAME)
    subnet = machine.profile(NAME).subnet.removesuffix(".0/24")
    machine.navarch(*words, "--set", f"ranges={subnet}.205-{subnet}.254, 198.51.100.0/28")
    machine.kubectl("apply", "-f", "-", feed=balancer("far", 80, loadBalancerIP=FAR))
    assert address_of(machine, "far") == FAR
    tunnel = subprocess.Popen(
        [sys.executable, "-m", "navarch.cli.main", "tunnel", "-p", NAME],
        env=machine.environment(),
        stdout=subprocess.PIPE,
        text=True,
        # A run of tests in the background of a shell ignores Ctrl-C, and what it starts as well.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert tunnel.stdout is not None
        row = next(line for line in tunnel.stdout if line.startswith("default     far "))
        assert FAR in row
        eventually(partial(says, "", FAR, timeout=1.0), "the far address")
        tunnel.send_signal(signal.SIGINT)
        said, _ = tunnel.communicate(timeout=60)
    finally:
        tunnel.kill()
        tunnel.wait()
    assert tunnel.returncode == 0
    assert "Stopped tunnel" in said
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    assert FAR not in routes


def test_killed_controllers_give_no_address_twice(machine: Machine) -> None:
    before = {name: address_of(machine, name) for name in ("web", "one", "two", "far")}
    machine.kill(NAME, ["controllers"])
    machine.kubectl("apply", "-f", "-", feed=balancer("new", 80))
    assert address_of(machine, "new") not in before.values()
    assert {name: address_of(machine, name) for name in before} == before


def test_switched_off_everything_is_given_back(machine: Machine) -> None:
    machine.navarch("addons", "disable", "metallb", "-p", NAME)
    assert "disabled" in machine.navarch("addons", "list", "-p", NAME).split("metallb")[1][:40]

    def is_cleared() -> bool:
        listed = machine.get("services")["items"]
        return not any(
            each["metadata"].get("finalizers") or each["status"]["loadBalancer"] for each in listed
        )

    eventually(is_cleared, "no address is left")
    machine.kubectl("delete", "service", "web", "one", "two", "far", "new", "--timeout=120s")
