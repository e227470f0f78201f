"""A cluster of simulated nodes in processes of their own, with state of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.load import Target
from bench.process import Processes
from bench.server import Server
from navarch.client.client import Client
from navarch.cluster import kubeconfig
from navarch.cluster.composition import (
    DAEMON_ENVIRONMENT,
    controllers_options,
    scheduler_options,
)

POD_RANGE = "100.64.0.0/10"
"""Room for a /24 on each of 16 000 nodes."""
API, CONTROL, NODES = "API server", "controllers and scheduler", "simulated nodes"
LOAD = "load generator"
"""This process."""
ACCOUNT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What each kind of process has used up to a moment."""

    at: float
    cpu: Mapping[str, float]

    def since(self, earlier: Usage) -> dict[str, float]:
        """Cores in use on average."""
        seconds = self.at - earlier.at
        return {name: (self.cpu[name] - earlier.cpu[name]) / seconds for name in self.cpu}


class Cluster:
    """API server (SQLite, TLS, RBAC), controllers with the scheduler, and simulated nodes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.server = Server(directory)
        kubeconfig.write_component_files(self.server.profile, self.server.paths)
        self.target = Target.of(self.server.client)
        self._running: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.nodes = 0

    def start(self) -> None:
        self.server.start()
        profile, paths = self.server.profile, self.server.paths
        controllers = {**controllers_options(profile, paths), "cluster_cidr": POD_RANGE}
        self._run(CONTROL, {"controllers": controllers, "scheduler": scheduler_options(paths)})

    def add_nodes(self, count: int) -> None:
        """In one process for all nodes, which is started anew: several would each follow all
        pods."""
        self.nodes += count
        self.stop_nodes()
        self.start_nodes()

    def stop_nodes(self) -> None:
        """Nobody plays them: what the API says of them stays, for as long as silence is taken for
        health."""
        for process in self._running.pop(NODES, ()):
            process.terminate()
            process.wait()

    def start_nodes(self) -> None:
        options = {
            "kubeconfig": str(self.server.paths.kubeconfig("simulated")),
            "names": [f"node-{number}" for number in range(self.nodes)],
            "capacity": {"cpu": "64", "memory": "256Gi", "pods": "250"},
            "zones": ["zone-a", "zone-b", "zone-c"],
        }
        self._run(NODES, {"simulated": options})

    def _run(self, name: str, components: Mapping[str, Any]) -> None:
        processes = self._running.setdefault(name, [])
        stem = f"{name.replace(' ', '-')}-{len(processes)}"
        config = self._directory / f"{stem}.json"
        config.write_text(json.dumps({"components": components, "log_level": "WARNING"}))
        argv = [sys.executable, "-m", "navarch.cluster.daemon", str(config)]
        with (self._directory / f"{stem}.log").open("ab") as log:
            processes.append(
                subprocess.Popen(argv, stderr=log, env={**os.environ, **DAEMON_ENVIRONMENT})
            )

    def stop(self) -> None:
        processes = [process for kind in self._running.values() for process in kind]
        self.resume(NODES)
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        self.server.stop()

    def pause(self, name: str) -> None:
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._signal(name, signal.SIGCONT)

    def _signal(self, name: str, number: signal.Signals) -> None:
        for process in self._running.get(name, ()):
            process.send_signal(number)

    def check(self) -> None:
        """Raises with the end of the log of a process that has ended."""
        for name, processes in self._running.items():
            for number, process in enumerate(processes):
                if process.poll() is not None:
                    log = self._directory / f"{name.replace(' ', '-')}-{number}.log"
                    raise RuntimeError(f"{name} ended:\n{log.read_text()[-3000:]}")

    @property
    def processes(self) -> dict[str, Processes]:
        found = {API: self.server.processes}
        for name, processes in self._running.items():
            found[name] = Processes(tuple(process.pid for process in processes))
        return found

    def usage(self) -> Usage:
        cpu = {name: each.cpu() for name, each in self.processes.items()}
        return Usage(time.perf_counter(), {**cpu, LOAD: time.process_time()})

    def memory(self) -> dict[str, float]:
        """Megabytes (PSS: shared pages count in part)."""
        return {name: each.memory() for name, each in self.processes.items()}

    def client(self) -> Client:
        return Client(self.server.client)


@contextmanager
def started() -> Iterator[Cluster]:
    """A cluster without nodes, which leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="navarch-scale-") as directory:
        cluster = Cluster(Path(directory))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


class _Meta(msgspec.Struct, rename={"continue_": "continue"}):
    continue_: str = ""
    remainingItemCount: int = 0


class Listed(msgspec.Struct):
    """A list of which only the number matters."""

    metadata: _Meta
    items: list[msgspec.Raw]

    @property
    def count(self) -> int:
        return len(self.items) + self.metadata.remainingItemCount


async def listed(client: Client, path: str, **query: str) -> Listed:
    return msgspec.json.decode(await client.request("GET", path, query=query), type=Listed)


async def until(
    cluster: Cluster | None, condition: Any, seconds: float, pause: float = 0.25
) -> float:
    """Wait for `await condition()`; how long it took."""
    began = time.perf_counter()
    while not await condition():
        if cluster is not None:
            cluster.check()
        if time.perf_counter() - began > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s")
        await asyncio.sleep(pause)
    return time.perf_counter() - began
