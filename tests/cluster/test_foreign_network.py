"""A cluster whose pods' network is somebody else's: Debian's `bridge`, `host-local` and `portmap`.
Services, names and NetworkPolicies hold there, too. And what its user can forbid or allow: the
metadata service of a cloud, and Services that claim further addresses.

The tests are a story: the last ones go on where all that was forbidden is allowed.
"""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.cluster.machine import a_cluster
from tests.cluster.service_ground import (
    HOST_HTTP,
    SPACE,
    Ground,
    Object,
    Question,
    Stage,
    is_error,
    member,
    playing,
)
from tests.cluster.three_nodes import marks

from navarch.api.errors import ApiError

pytestmark = [
    *marks,
    pytest.mark.skipif(
        not all(Path("/usr/lib/cni", each).exists() for each in ("bridge", "portmap")),
        reason="containernetworking-plugins is not installed",
    ),
]

NAME, BRIDGE, CLOUD = "guest", "stray0", "navarch-test-cloud"
RANGE, FIRST = "10.199.0.0/16", "10.199.0.200"
HOST_PORT, METADATA, EXTERNAL = 54325, "169.254.169.254", "198.51.100.99"
GATEWAY = "169.254.169.255"
PODS = ("net-0", "net-1")
CONFIGURATION = {
    "cniVersion": "1.0.0",
    "name": "stranger",
    "plugins": [
        {
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.199.0.0/24", "rangeStart": FIRST}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    ],
}


def fill(stage: Stage) -> None:
    serves = [("http", 80, ""), ("udp", 80, "")]
    ports = [{"containerPort": 80, "hostPort": HOST_PORT}]
    cast = [
        member("net-0", NAME, serves, labels={"app": "net"}),
        member("net-1", NAME, serves, labels={"app": "net", "place": "last"},
               container={"ports": ports}),
        member("host-0", NAME, [("http", HOST_HTTP, "")], hostNetwork=True,
               dnsPolicy="ClusterFirstWithHostNet"),
    ]  # fmt: skip
    stage.bring(cast)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    file = tmp_path_factory.mktemp("cni") / "stranger.conflist"
    file.write_text(json.dumps(CONFIGURATION))
    forbidden = ("--block-metadata", "--enable-admission-plugins", "DenyServiceExternalIPs")
    with a_cluster(NAME, "--cni", str(file), "--pod-cidr", RANGE, *forbidden) as machine:
        found = Stage(machine, NAME)
        fill(found)
        yield found


@pytest.fixture
async def ground(stage: Stage) -> AsyncIterator[Ground]:
    async with playing(stage) as found:
        yield found


def inside(stage: Stage, *command: str) -> str:
    """Run a command in the node's network."""
    pin = stage.machine.paths(NAME).pins / f"{NAME}.net"
    enter = ["nsenter", f"--net={pin}", *command]
    return subprocess.run(enter, capture_output=True, text=True, check=True).stdout


def test_pods_are_where_the_plug_in_puts_them(stage: Stage) -> None:
    for name in PODS:
        address = ipaddress.IPv4Address(stage.pods[name])
        assert address in ipaddress.IPv4Network(RANGE)
        assert address >= ipaddress.IPv4Address(FIRST)
    links = json.loads(inside(stage, "ip", "-j", "link", "show", "master", BRIDGE))
    assert len(links) == len(PODS)
    directory = stage.machine.paths(NAME).node(NAME) / "cni"
    assert [each.name for each in directory.iterdir()] == ["05-user.conflist"]


async def test_services_and_names(ground: Ground) -> None:
    """Among pods of one bridge, and each with itself; from the node, and by host port."""
    ports = [{"name": each.lower(), "port": 80, "protocol": each} for each in ("TCP", "UDP")]
    made = await ground.service("web", *ports, type="NodePort")
    address = made["spec"]["clusterIP"]
    ((node, port),) = ground.node_ports(made)
    wanted: dict[Question, object] = {
        ground.url(address): frozenset(PODS),
        ("udp", address, 80): frozenset(PODS),
        ground.url(node, port): frozenset(PODS),
        ground.url(node, HOST_PORT): "net-1",
        ("dns", f"web.{SPACE}.svc.cluster.local.", "A", "udp"): [address],
    }
    for number, name in enumerate(PODS):
        selector = {"place": "last"} if number else {"app": "net"}
        only = (await ground.service(f"only-{name}", selector=selector))["spec"]["clusterIP"]
        wanted[ground.url(only)] = name if number else frozenset(PODS)
        wanted[ground.url(ground.stage.pods[name])] = name
    await ground.expect([*PODS, "host-0"], wanted)
    await ground.expect(PODS, {("addresses", "web"): [address]})
    assert await ground.client.request(
        "GET", f"/api/v1/namespaces/{SPACE}/pods/net-1:80/proxy/hostname"
    ) == b"net-1"  # fmt: skip


@pytest.fixture(scope="module")
def closed(stage: Stage) -> None:
    """Nobody may come to the last pod."""
    selector = {"matchLabels": {"place": "last"}}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": SPACE},
        "spec": {"podSelector": selector, "policyTypes": ["Ingress"]},
    }
    stage.machine.kubectl("apply", "-f", "-", feed=json.dumps(policy))


def knocks(ground: Ground) -> list[Question]:
    return [("knock", ground.stage.pods["net-1"], 80)]


async def test_network_policies_are_enforced(ground: Ground, closed: None) -> None:
    await ground.expect(["net-0"], dict.fromkeys(knocks(ground), is_error))
    await ground.expect(["host-0"], dict.fromkeys(knocks(ground), "open"))  # its own node


SERVER = f"""
import socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.0 200 OK\\r\\n\\r\\nmetadata")
server = socketserver.ThreadingTCPServer(("{METADATA}", 80), Handler)
print("ready", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def cloud(stage: Stage) -> Iterator[None]:
    """A metadata service on a link of the node's, so that nothing is asked outside."""
    pin = stage.machine.paths(NAME).pins / f"{NAME}.net"
    node, cloudy = ["nsenter", f"--net={pin}"], ["nsenter", f"--net=/run/netns/{CLOUD}"]
    subprocess.run(["ip", "netns", "add", CLOUD], check=True)
    try:
        link = ["ip", "link", "add", "up0", "type", "veth", "peer", "cloud0", "netns", str(pin)]
        for command in (
            [*cloudy, *link],
            [*cloudy, "ip", "address", "add", f"{METADATA}/31", "dev", "up0"],
            [*cloudy, "ip", "link", "set", "up0", "up"],
            [*node, "ip", "address", "add", f"{GATEWAY}/31", "dev", "cloud0"],
            [*node, "ip", "link", "set", "cloud0", "up"],
            [*cloudy, "ip", "route", "add", "default", "via", GATEWAY],
        ):
            subprocess.run(command, check=True)
        words = [*cloudy, sys.executable, "-S", "-c", SERVER]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
                yield
            finally:
                server.kill()
    finally:
        subprocess.run(["ip", "netns", "del", CLOUD], check=False)


async def test_metadata_is_kept_from_pods(ground: Ground, cloud: None) -> None:
    """They are refused at once. The node itself may need it, and so may pods in its network."""
    question: Question = ("http", f"http://{METADATA}/latest")
    await ground.expect(["net-0"], {question: lambda said: "refused" in said})
    await ground.expect(["host-0"], {question: "metadata"})


def claiming(name: str) -> Object:
    spec = {"selector": {"app": "net"}, "ports": [{"port": 80}], "externalIPs": [EXTERNAL]}
    metadata = {"name": name, "namespace": SPACE}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


async def test_further_addresses_are_refused(ground: Ground) -> None:
    """At creation and in a change; other changes of a Service are none of the plug-in's affair."""
    with pytest.raises(ApiError, match="external IPs is denied") as refused:
        await ground.services.create(claiming("claim"))
    assert refused.value.status == 403
    await ground.service("modest")
    with pytest.raises(ApiError, match="external IPs is denied"):
        await ground.update("modest", lambda spec: spec.update(externalIPs=[EXTERNAL]))
    await ground.update("modest", lambda spec: spec.update(sessionAffinity="ClientIP"))


async def test_what_was_forbidden_is_allowed(ground: Ground, closed: None, cloud: None) -> None:
    """By another start of the running cluster, whose pods stay."""
    stage, metadata = ground.stage, ("http", f"http://{METADATA}/latest")
    before = stage.machine.get("pod", "net-0", "-n", SPACE)["status"]["containerStatuses"]
    allowed = ("--allow-metadata", "--enable-admission-plugins", "", "--network-policy", "off")
    said = stage.machine.navarch("start", "-p", NAME, *allowed)
    assert "NetworkPolicies are left to your network plug-in" in said
    await ground.expect([*PODS, "host-0"], {metadata: "metadata"})
    await ground.expect(["net-0"], dict.fromkeys(knocks(ground), "open"))
    assert "navarch-policy" not in inside(stage, "nft", "list", "tables")
    await ground.services.create(claiming("claim"))
    wanted: dict[Question, object] = {ground.url(EXTERNAL): frozenset(PODS)}
    await ground.expect([*PODS, "host-0"], wanted)
    after = stage.machine.get("pod", "net-0", "-n", SPACE)["status"]["containerStatuses"]
    assert after == before


@pytest.mark.skipif(os.geteuid() != 0, reason="real nodes need root")
async def test_policies_return(ground: Ground, closed: None) -> None:
    ground.stage.machine.navarch("start", "-p", NAME, "--network-policy", "auto")
    await ground.expect(["net-0"], dict.fromkeys(knocks(ground), is_error))
