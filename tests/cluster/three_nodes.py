"""A cluster of three real nodes with a pod on each, and packets sent from inside these pods.

Import the fixture `three_nodes` into a test module to have such a cluster; one module hands it on
to the next. The pods' image has no tools to speak of, so a pod's part is played by a process of the
test that enters the pod's network namespace: its packets are the pod's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.machine import SHELL_IMAGE, Machine, pod
from tests.images.busybox import build_busybox

from navarch.cluster import processes
from navarch.cluster.profile import Profile

NAME = "trio"
PORT = 7000

ECHO = """
import socketserver, sys, threading
class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        size = int(self.rfile.readline())
        data = self.rfile.read(size)
        self.wfile.write(f"{self.client_address[0]}\\n{len(data)}\\n".encode())
class Udp(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        sock.sendto(data, self.client_address)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
udp = socketserver.ThreadingUDPServer(("0.0.0.0", int(sys.argv[1])), Udp)
udp.max_packet_size = 65535
threading.Thread(target=udp.serve_forever, daemon=True).start()
server = Server(("0.0.0.0", int(sys.argv[1])), Tcp)
print("ready", flush=True)
server.serve_forever()
"""

ASK = """
import errno, json, socket, sys
port, *targets = sys.argv[1:]
found = {}
for target in targets:
    try:
        with socket.create_connection((target, int(port)), 5) as tcp:
            tcp.settimeout(5)
            tcp.sendall(b"1000000\\n" + bytes(1000000))
            lines = tcp.makefile("rb")
            peer, size = lines.readline().decode().strip(), int(lines.readline())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(1)
            udp.connect((target, int(port)))
            sizes = []
            for length in (20, 1472, 8000):
                for attempt in range(4):
                    # A link on the way that takes less is told to the sender once, as an error.
                    try:
                        udp.send(bytes(length))
                        sizes.append(len(udp.recv(65535)))
                        break
                    except OSError as error:
                        if not isinstance(error, TimeoutError) and error.errno != errno.EMSGSIZE:
                            raise
        found[target] = [peer, size, *sizes]
    except OSError as error:
        found[target] = [str(error)]
print(json.dumps(found))
"""
WHOLE = [1_000_000, 20, 1472, 8000]
"""What comes back of a long TCP stream, and of datagrams within and beyond a link's size."""


def eventually(condition: Callable[[], object], what: str, timeout: float = 60.0) -> None:
    assert processes.wait_until(lambda: bool(condition()), timeout, 0.1), what


def control_group(pid: str) -> str:
    try:
        return Path("/proc", pid, "cgroup").read_text()
    except OSError:
        return ""


def heard_by(client: subprocess.Popen[str]) -> dict[str, list[Any]]:
    output, _ = client.communicate(timeout=60)
    return dict(json.loads(output))


@dataclass
class Trio:
    """The cluster, and a pod with an echo server on each node."""

    machine: Machine
    pods: dict[str, str] = field(default_factory=dict)
    """Pods' addresses, by name; a pod is called as its node."""
    servers: list[subprocess.Popen[str]] = field(default_factory=list)
    processes: dict[str, tuple[int, str]] = field(default_factory=dict)
    """A process of each pod, and the container that it is of."""

    @property
    def profile(self) -> Profile:
        return self.machine.profile(NAME)

    def add_pod(self, name: str, node: str, **metadata: Any) -> str:
        """Run a pod with an echo server; returns its address."""
        manifest = json.loads(pod(name, "sleep 1000000", node=node))
        manifest["metadata"] |= metadata
        manifest["metadata"].setdefault("labels", {})["app"] = "echo"
        self.machine.kubectl("apply", "-f", "-", feed=json.dumps(manifest))
        self.machine.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s")
        self.serve(name)
        self.pods[name] = str(self.machine.get("pod", name)["status"]["podIP"])
        return self.pods[name]

    def serve(self, name: str) -> None:
        server = self.enter(name, ECHO, str(PORT))
        self.servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n", name

    def enter(self, name: str, script: str, *words: str) -> subprocess.Popen[str]:
        """Run a script in the network of a pod."""
        command = ["nsenter", "-t", str(self.pid(name)), "-n", sys.executable, "-S", "-c", script]
        return subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True)

    def pid(self, name: str) -> int:
        """A process of the pod's container."""
        known, identity = self.processes.get(name, (0, ""))
        if known and identity in control_group(str(known)):
            return known
        status = self.machine.get("pod", name)["status"]["containerStatuses"][0]
        identity = status["containerID"].partition("://")[2]
        for directory in Path("/proc").glob("[0-9]*"):
            if identity in control_group(directory.name):
                self.processes[name] = int(directory.name), identity
                return int(directory.name)
        raise AssertionError(f"{name} has no process")

    def ask(self, name: str, targets: list[str], port: int = PORT) -> dict[str, list[Any]]:
        """What a pod hears from echo servers: the address they see, and how much arrives."""
        return heard_by(self.enter(name, ASK, str(port), *targets))

    def is_served(self, name: str, address: str) -> bool:
        """Whether a pod hears from a Service, in whole."""
        return bool(self.ask(name, [address])[address][1:] == WHOLE)

    def matrix(self) -> dict[tuple[str, str], list[Any]]:
        """From every pod to every pod, what is not as it should be."""
        targets = [*self.pods.values()]
        clients = {name: self.enter(name, ASK, str(PORT), *targets) for name in self.pods}
        return {
            (name, target): heard
            for name, client in clients.items()
            for target, heard in heard_by(client).items()
            if heard != [self.pods[name], *WHOLE]
        }

    def expose(self) -> str:
        """A Service of all pods, with node port 30700; returns its address."""
        ports = [
            {"name": protocol.lower(), "port": PORT, "protocol": protocol, "nodePort": 30700}
            for protocol in ("TCP", "UDP")
        ]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "echo"},
            "spec": {"type": "NodePort", "selector": {"app": "echo"}, "ports": ports},
        }
        self.machine.kubectl("apply", "-f", "-", feed=json.dumps(service))
        return str(self.machine.get("service", "echo")["spec"]["clusterIP"])

    def close(self) -> None:
        """End the echo servers, which keep their pods' networks alive."""
        for server in self.servers:
            server.kill()
            server.communicate()
        self.servers.clear()

    def end(self) -> None:
        home = self.machine.home.parent
        if home.exists():
            self.close()
            self.machine.navarch("delete", "--all", expect=None)
            shutil.rmtree(home, ignore_errors=True)

    def inside(self, node: str, *command: str, expect: int | None = 0) -> str:
        return self.machine.navarch("ssh", "-p", NAME, "-n", node, "--", *command, expect=expect)


_kept: list[Trio] = []
"""The cluster that a module leaves to the next one."""


@pytest.fixture(scope="module")
def three_nodes(request: pytest.FixtureRequest) -> Iterator[Trio]:
    """One cluster serves all modules that ask for it, since it takes long to start."""
    trio = _kept.pop() if _kept else _start(request.config)
    yield trio
    items = request.session.items
    asking = [item.path for item in items if "three_nodes" in getattr(item, "fixturenames", ())]
    if asking and asking[-1] != request.path:
        _kept.append(trio)
    else:
        trio.end()


def _start(config: pytest.Config) -> Trio:
    home = Path(tempfile.mkdtemp(prefix="navarch-test-"))
    trio = Trio(Machine(home / "home", home / "kubeconfig"))
    config.add_cleanup(trio.end)  # also where the next module never comes to its turn
    trio.machine.navarch("start", "-p", NAME, "--nodes", "3")
    archive = build_busybox(home / "shell.tar", SHELL_IMAGE)
    trio.machine.navarch("image", "load", "-p", NAME, str(archive))
    for node in trio.profile.node_names():
        trio.add_pod(node, node)
    return trio


marks = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="real nodes need root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="run: navarch setup"),
]
