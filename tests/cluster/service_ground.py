"""A stage for everything that Services and names promise: pods on every node of a cluster of one
node or of three, which answer over HTTP, TLS and UDP and ask each other.

- `net-0` to `net-2`, spread over the nodes, are what Services select (`app=net`);
- `host-0`..., one on each node, are in the network of their node;
- `port-1` to `port-3`, all on the last node, share the number of a host port.

The pods' image has a busybox and nothing else; they run `netexec.py` by this machine's Python,
which is mounted.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.certificates import authority
from tests.cluster.machine import SHELL_IMAGE, Machine, a_cluster
from tests.cluster.three_nodes import NAME as TRIO
from tests.cluster.three_nodes import Trio

import dns
from navarch.api.errors import ApiError
from navarch.client import Client
from navarch.client.config import ClientConfig, make_ssl_context

Object = dict[str, Any]
Question = tuple[Any, ...]

SOLO = "solo"
SPACE = "stage"
HOST_PORT = 54323
LINK, TLS_LINK = '<a href="/rewriteme">test</a>', '<a href="/tlsrewriteme">test</a>'
NET_PORTS = [
    ("http", 80, LINK),
    ("http", 1080, LINK),
    ("http", 160, "foo"),
    ("http", 162, "bar"),
    ("https", 443, TLS_LINK),
    ("https", 460, "tls baz"),
    ("https", 462, "tls qux"),
    ("udp", 80, ""),
]
HOST_HTTP = 18083
NAMED = [
    {"containerPort": 80},
    {"containerPort": 160, "name": "dest1"},
    {"containerPort": 460, "name": "tlsdest1"},
]
HERE = Path(__file__).parent


def _mounts() -> dict[str, str]:
    """Directories of this machine that Python needs, by where pods see them."""
    found = {path: path for path in ("/usr", "/lib", "/lib64") if Path(path).exists()}
    if not sys.base_prefix.startswith("/usr"):
        found[sys.base_prefix] = sys.base_prefix
    return {**found, "/netexec": str(HERE), "/site": str(Path(dns.__file__).parents[1])}


def member(name: str, node: str, ports: list[tuple[str, int, str]], **fields: Any) -> Object:
    """A pod that serves these ports; `labels` and `container` go where they belong."""
    python = Path(sys.base_prefix, "bin", "python3")
    script = (
        "echo 'hosts: files dns' > /etc/nsswitch.conf;"
        f'exec {python} -S /netexec/netexec.py "$0" "$1"'
    )
    container = {
        "name": "main",
        "image": SHELL_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script, name, json.dumps(ports)],
        "env": [
            {"name": "PYTHONPATH", "value": "/site"},
            {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
            {"name": "CERTIFICATE", "value": b"".join(authority()).decode()},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/hostname", "port": ports[0][1]},
            "periodSeconds": 1,
            "timeoutSeconds": 10,
        },
        "volumeMounts": [
            {"name": f"v{number}", "mountPath": inside, "readOnly": True}
            for number, inside in enumerate(_mounts())
        ],
        **fields.pop("container", {}),
    }
    volumes = [
        {"name": f"v{number}", "hostPath": {"path": path}}
        for number, path in enumerate(_mounts().values())
    ]
    metadata = {"name": name, "namespace": SPACE, "labels": fields.pop("labels", {"app": name})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "containers": [container],
            "volumes": volumes,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            **fields,
        },
    }


def _cast(nodes: Mapping[str, str], dns_address: str) -> list[Object]:
    names = [*nodes]
    pods = [
        member(f"host-{number}", node, [("http", HOST_HTTP, "")], hostNetwork=True)
        for number, node in enumerate(names)
    ]
    for number in range(3):
        more: Object = {"hostname": "dns-querier-1", "subdomain": "headless"} if not number else {}
        labels = {"app": "net", "number": str(number)}
        node = names[number % len(names)]
        pods.append(
            member(f"net-{number}", node, NET_PORTS, labels=labels, container={"ports": NAMED},
                   **more)
        )  # fmt: skip
    last = names[-1]
    own_dns = {
        "nameservers": [dns_address, "192.0.2.53"],
        "searches": ["default.svc.cluster.local", "resolv.conf.local"],
        "options": [{"name": "ndots", "value": "2"}],
    }
    for number, protocol, address in ((1, "TCP", "127.0.0.1"), (2, "TCP", nodes[last]),
                                      (3, "UDP", nodes[last])):  # fmt: skip
        port = {"containerPort": 8080, "hostPort": HOST_PORT, "protocol": protocol}
        serves = [("http", 80, ""), ("udp" if protocol == "UDP" else "http", 8080, "")]
        more = {"dnsPolicy": "None", "dnsConfig": own_dns} if number == 1 else {}
        pods.append(
            member(f"port-{number}", last, serves,
                   container={"ports": [{**port, "hostIP": address}]}, **more)
        )  # fmt: skip
    return pods


@dataclass
class Stage:
    """The cluster and where its members are."""

    machine: Machine
    profile: str
    pods: dict[str, str] = field(default_factory=dict)
    """Pods' addresses, by name."""
    nodes: dict[str, str] = field(init=False)
    """Nodes' addresses, by name."""

    def __post_init__(self) -> None:
        profile = self.machine.profile(self.profile)
        self.nodes = {name: profile.node_address(name) for name in profile.node_names()}

    def fill(self) -> None:
        self.bring(_cast(self.nodes, self.machine.profile(self.profile).dns_address))

    def bring(self, members: Sequence[Object]) -> None:
        """The cast, and where everybody is when all are ready."""
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}}
        made = {"apiVersion": "v1", "kind": "List", "items": [space, *members]}
        self.machine.kubectl("create", "-f", "-", feed=json.dumps(made))
        names = [pod["metadata"]["name"] for pod in members]
        everything = ["-n", SPACE, *(f"pod/{name}" for name in names)]
        self.machine.kubectl("wait", "--for=condition=Ready", *everything, "--timeout=120s")
        found = self.machine.get("pods", "-n", SPACE)["items"]
        self.pods = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in found}

    @property
    def hosts(self) -> list[str]:
        return [f"host-{number}" for number in range(len(self.nodes))]


NET = ["net-0", "net-1", "net-2"]
ONE_OF_NET = frozenset(NET)


def netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_error(answer: object) -> bool:
    return isinstance(answer, str) and answer.startswith("error")


def fits(wanted: object, answer: Any) -> bool:
    """A frozenset stands for one of its members, a function for what it is true of."""
    if callable(wanted):
        return bool(wanted(answer))
    return answer in wanted if isinstance(wanted, frozenset) else bool(answer == wanted)


class Ground:
    """The stage, as a test plays on it."""

    def __init__(self, stage: Stage, client: Client, web: aiohttp.ClientSession) -> None:
        self.stage, self.client, self.web = stage, client, web
        self.services = client.dynamic("", "v1", "services")
        self.slices = client.dynamic("discovery.k8s.io", "v1", "endpointslices")

    async def ask(self, pod: str, *questions: Question) -> list[Any]:
        port = HOST_HTTP if pod.startswith("host-") else 80
        url = f"http://{netloc(self.stage.pods[pod], port)}/ask"
        async with self.web.post(url, data=json.dumps(questions)) as response:
            answers = json.loads(await response.text())
        assert len(answers) == len(questions)
        return list(answers)

    async def expect(self, askers: Iterable[str], wanted: Mapping[Question, object]) -> None:
        """All of them soon get the answers that are wanted."""

        async def wrong(asker: str) -> dict[Question, Any]:
            answers = await self.ask(asker, *wanted)
            pairs = zip(wanted.items(), answers, strict=True)
            return {question: found for (question, want), found in pairs if not fits(want, found)}

        async def one(asker: str) -> None:
            last: dict[Question, Any] = {}

            async def none_is_wrong() -> bool:
                last.clear()
                last.update(await wrong(asker))
                return not last

            await soon(none_is_wrong, lambda: f"{asker} got {last}")

        await asyncio.gather(*(one(asker) for asker in askers))

    async def service(self, name: str, *ports: Object, **spec: Any) -> Object:
        """A new Service; without a word on it, of the net pods and their ports for HTTP."""
        spec.setdefault("selector", {"app": "net"})
        spec["ports"] = [*ports] or [{"name": "http", "port": 80}]
        metadata = {"name": name, "namespace": SPACE}
        made = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
        return await self.services.create(made)

    async def update(self, name: str, change: Callable[[Object], object]) -> Object:
        """Changes a Service's spec as an application would: read, change, write."""
        while True:
            service = await self.services.get(name, SPACE)
            change(service["spec"])
            try:
                return await self.services.update(service)
            except ApiError as error:
                if not error.is_conflict:
                    raise

    async def endpoints(self, service: str) -> set[tuple[str, int]]:
        """Pods and ports behind a Service."""
        selector = f"kubernetes.io/service-name={service}"
        found = await self.slices.list(SPACE, label_selector=selector)
        return {
            (endpoint["targetRef"]["name"], port["port"])
            for each in found.items
            for endpoint, port in itertools.product(each["endpoints"] or (), each["ports"] or ())
        }

    def url(self, host: str, port: int = 80) -> Question:
        return ("http", f"http://{netloc(host, port)}")

    def node_ports(self, service: Object) -> list[tuple[str, int]]:
        port = service["spec"]["ports"][0]["nodePort"]
        return [(address, port) for address in self.stage.nodes.values()]


async def soon(
    condition: Callable[[], Awaitable[bool]], what: Callable[[], str], seconds: float = 60.0
) -> None:
    """Asks until it is true."""
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, what()
        await asyncio.sleep(0.1)


@pytest.fixture(scope="module", params=[1, 3], ids=["one node", "three nodes"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if request.param == 3:
        trio: Trio = request.getfixturevalue("three_nodes")
        found = Stage(trio.machine, TRIO)
        try:
            found.fill()
            yield found
        finally:
            trio.machine.kubectl("delete", "namespace", SPACE, "--wait=false", expect=None)
        return
    with a_cluster(SOLO) as machine:
        found = Stage(machine, SOLO)
        found.fill()
        yield found


@asynccontextmanager
async def playing(stage: Stage) -> AsyncIterator[Ground]:
    before = len(os.listdir("/proc/self/fd"))
    config = ClientConfig.from_kubeconfig(stage.machine.kubeconfig)
    connector = aiohttp.TCPConnector(ssl=make_ssl_context(config), force_close=True)
    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        Client(config) as client,
        aiohttp.ClientSession(connector=connector, timeout=timeout) as web,
    ):
        yield Ground(stage, client, web)

    async def is_closed() -> bool:
        return len(os.listdir("/proc/self/fd")) <= before

    # Connections say farewell in TLS, for which nobody waits.
    await soon(is_closed, lambda: "connections that do not end", 10.0)
