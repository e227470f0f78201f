"""Ingress and Gateways are served by every node: their addresses outlive the one that announces
them, as those of a controller do that upstream's users run on several nodes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.machine import pod
from tests.cluster.three_nodes import NAME, Trio, eventually, marks, three_nodes

from navarch.network.nginx.process import PROGRAM

__all__ = ["three_nodes"]
pytestmark = [
    *marks,
    pytest.mark.skipif(not Path(PROGRAM).exists(), reason="run: navarch setup --ingress"),
]

HOST = "web.example"
ADDONS = ("ingress", "gateway-api")
ASK = """
import sys, urllib.request
request = urllib.request.Request(f"http://{sys.argv[1]}/", headers={"Host": sys.argv[2]})
print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5).status)
"""
OBJECTS: list[dict[str, Any]] = [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    },
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "web"},
        "spec": {
            "rules": [
                {
                    "host": HOST,
                    "http": {
                        "paths": [
                            {
                                "path": "/",
                                "pathType": "Prefix",
                                "backend": {"service": {"name": "web", "port": {"number": 80}}},
                            }
                        ]
                    },
                }
            ]
        },
    },
    {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "web"},
        "spec": {
            "gatewayClassName": "navarch",
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        },
    },
    {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "web"},
        "spec": {
            "parentRefs": [{"name": "web"}],
            "hostnames": [HOST],
            "rules": [{"backendRefs": [{"name": "web", "port": 80}]}],
        },
    },
]


@pytest.fixture
def trio(three_nodes: Trio) -> Iterator[Trio]:
    machine = three_nodes.machine
    machine.navarch("addons", "enable", *ADDONS, "-p", NAME)
    serve = "mkdir /tmp/w; echo hello > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"
    machine.kubectl("apply", "-f", "-", feed=pod("web", serve, node=f"{NAME}-m03"))
    machine.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=120s")
    feed = "\n".join(map(json.dumps, OBJECTS))
    machine.kubectl("apply", "-f", "-", feed=feed)
    try:
        yield three_nodes
    finally:
        machine.navarch("node", "start", "-p", NAME, NAME, expect=None)
        machine.kubectl("delete", "-f", "-", "--ignore-not-found", feed=feed, expect=None)
        machine.kubectl("delete", "pod", "web", "--ignore-not-found", expect=None)
        machine.navarch("addons", "disable", *ADDONS, "-p", NAME, expect=None)


def answers(address: str) -> bool:
    """Whether the host is answered."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"http://{address}/", headers={"Host": HOST})
    try:
        with opener.open(request, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        pass
    return False


def address_of(trio: Trio, kind: str) -> str:
    status = trio.machine.get(kind, "web").get("status") or {}
    if kind == "gateway":
        return next((str(each["value"]) for each in status.get("addresses", ())), "")
    balanced = (status.get("loadBalancer") or {}).get("ingress") or [{}]
    return str(balanced[0].get("ip", ""))


def asked_by_pods(trio: Trio, address: str, *names: str) -> None:
    clients = {name: trio.enter(name, ASK, address, HOST) for name in names}
    heard = {name: each.communicate(timeout=60)[0] for name, each in clients.items()}
    assert heard == dict.fromkeys(names, "200\n")


def served_by(trio: Trio, nodes: Iterable[str]) -> bool:
    """Whether it is these nodes to which both Services lead."""
    found: dict[str, set[str]] = {}
    for each in trio.machine.get("endpointslices", "-A")["items"]:
        name = each["metadata"]["labels"].get("kubernetes.io/service-name", "")
        for endpoint in each.get("endpoints") or ():
            found.setdefault(name, set()).add(endpoint.get("nodeName", ""))
    services = ("ingress-nginx-controller", "web-navarch")
    return all(found.get(name) == {*nodes} for name in services)


def told_of(trio: Trio, name: str) -> list[str]:
    """The reasons of an Ingress' events."""
    about = f"involvedObject.kind=Ingress,involvedObject.name={name}"
    return [
        each["reason"] for each in trio.machine.get("events", f"--field-selector={about}")["items"]
    ]


def test_addresses_outlive_a_node(trio: Trio) -> None:
    """From the host and from pods of all nodes; then without the first node."""
    machine = trio.machine
    nodes = trio.profile.node_names()
    eventually(partial(served_by, trio, nodes), "all nodes")
    eventually(lambda: all(address_of(trio, kind) for kind in ("ingress", "gateway")), "addresses")
    addresses = [address_of(trio, kind) for kind in ("ingress", "gateway")]
    assert not {*addresses} & {trio.profile.node_address(name) for name in nodes}
    for address in (*addresses, *map(trio.profile.node_address, nodes)):
        eventually(partial(answers, address), f"the host, asking {address}")
    for address in addresses:
        asked_by_pods(trio, address, *nodes)

    machine.navarch("node", "stop", "-p", NAME, NAME)
    eventually(partial(served_by, trio, nodes[1:]), "without the first node")
    for address in (*addresses, *map(trio.profile.node_address, nodes[1:])):
        eventually(partial(answers, address), f"{address} without the first node")
    for address in addresses:
        asked_by_pods(trio, address, *nodes[1:])
    # Another one leads now, and does what is new.
    feed = json.dumps(OBJECTS[1] | {"metadata": {"name": "later"}})
    machine.kubectl("apply", "-f", "-", feed=feed.replace(HOST, "later.example"))
    try:
        eventually(
            lambda: (machine.get("ingress", "later")["status"].get("loadBalancer") or {}).get(
                "ingress"
            ),
            "an address for a later Ingress",
            40,
        )
        # Of three controllers one tells, and the next one does not say again what is known.
        eventually(lambda: told_of(trio, "later") == ["Sync"], "an event of one node", 10)
    finally:
        machine.kubectl("delete", "ingress", "later")
    assert told_of(trio, "web") == ["Sync"]
    assert [address_of(trio, kind) for kind in ("ingress", "gateway")] == addresses

    machine.navarch("node", "start", "-p", NAME, NAME)
    eventually(partial(served_by, trio, nodes), "it is back")
    machine.navarch("addons", "disable", "ingress", "-p", NAME)
    assert address_of(trio, "ingress") == ""
    assert answers(addresses[1])
    machine.navarch("addons", "disable", "gateway-api", "-p", NAME)
    assert leftovers(trio) == []


def leftovers(trio: Trio) -> list[str]:
    """What reminds of the addons when they are off."""
    root = trio.machine.paths(NAME).root
    found = [str(each) for name in ("ingress", "gateway") for each in root.glob(f"nodes/*/{name}")]
    for node in trio.profile.node_names():
        found += [each for each in trio.inside(node, "ls", "/run").split() if "nginx" in each]
        listening = trio.inside(node, "ss", "-Htlnp").splitlines()
        found += [each for each in listening if "nginx" in each]
    kinds = "leases,clusterroles,clusterrolebindings,roles,rolebindings,services"
    objects = trio.machine.kubectl("get", kinds, "-A", "-o", "name").split()
    return found + [each for each in objects if "ingress" in each or "gateway" in each]
