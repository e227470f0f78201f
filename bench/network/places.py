"""Network namespaces with a load generator in each: two bare ones with a wire between them, and
those of pods."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.node.environment import run

PEER = str(Path(__file__).with_name("peer.py"))
LEFT, RIGHT = "198.18.0.1", "198.18.0.2"
"""Of the range that RFC 2544 keeps for benchmarks."""


@dataclass
class Place:
    """A network namespace. Its server and its client are processes of their own, so that neither
    waits for the other's interpreter."""

    namespace: str
    """A path of it."""
    _processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def _process(self, role: str) -> subprocess.Popen[str]:
        if role not in self._processes:
            command = ["nsenter", f"--net={self.namespace}", sys.executable, "-S", PEER, role]
            self._processes[role] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        return self._processes[role]

    def serve(self) -> None:
        """Answer here; returns as soon as somebody does."""
        output = self._process("serve").stdout
        assert output is not None and output.readline() == "ready\n"

    def order(self, do: str, address: str, port: int, **options: Any) -> None:
        """Have the client do something. What comes of it is told by `answer`."""
        client = self._process("ask")
        assert client.stdin is not None
        order = {"do": do, "address": address, "port": port, **options}
        client.stdin.write(json.dumps(order) + "\n")
        client.stdin.flush()

    def answer(self) -> Any:
        output = self._process("ask").stdout
        assert output is not None
        line = output.readline()
        found = json.loads(line) if line else {"error": "the client ended"}
        if "error" in found:
            raise RuntimeError(found["error"])
        return found["value"]

    def ask(self, do: str, address: str, port: int, **options: Any) -> Any:
        self.order(do, address, port, **options)
        return self.answer()

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.communicate()
        self._processes.clear()


@contextmanager
def bare() -> Iterator[tuple[Place, Place]]:
    """Two namespaces joined by one veth pair, nothing else: what the kernel can do at best."""
    names = [f"bench-{uuid.uuid4().hex[:8]}-{side}" for side in ("left", "right")]
    places = [Place(f"/run/netns/{name}") for name in names]
    try:
        for name in names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0",
            "netns", names[1])  # fmt: skip
        for name, address in zip(names, (LEFT, RIGHT), strict=True):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
        for place in places:
            place.serve()
        yield places[0], places[1]
    finally:
        for place in places:
            place.close()
        listed = run("ip", "netns", "list").split()
        for name in names:
            if name in listed:
                run("ip", "netns", "delete", name)
