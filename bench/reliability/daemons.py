"""A control plane of processes that can be killed, paused and doubled one by one.

API server (SQLite, TLS, RBAC), controllers, scheduler and simulated nodes each are a process with
the credentials that they have in a cluster. With `audit` the API server writes down who wrote what,
and in which order.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.server import Server
from navarch.client import Client
from navarch.cluster import kubeconfig, policies
from navarch.cluster.composition import DAEMON_ENVIRONMENT, controllers_options
from navarch.cluster.pki import Request, issue
from navarch.cluster.profile import Paths

CONTROLLERS, SCHEDULER, NODES = "controllers", "scheduler", "simulated"
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "verbs": ["get", "list", "watch"]},
        {"level": "None", "resources": [{"group": "", "resources": ["events"]}]},
        {"level": "Metadata"},
    ],
}
NEEDED = ("serviceaccount", "nodeipam", "nodelifecycle", "deployment", "replicaset")
"""Controllers without which there would be no pods. The fewer, the sooner they act after a kill."""
PATIENCE = 120.0


class Daemons:
    """Processes by name. A component's options are those of `navarch start`, unless overridden."""

    def __init__(self, directory: Path, *, audit: bool = False) -> None:
        self._directory = directory
        paths = Paths(directory / "bench")
        if audit:
            paths.create()
            policies.audit_policy(paths).parent.mkdir(parents=True, exist_ok=True)
            policies.audit_policy(paths).write_text(json.dumps(POLICY))
        self.server = Server(directory)
        self.paths = self.server.paths
        kubeconfig.write_component_files(self.server.profile, self.paths)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        self.kills = 0

    def client(self) -> Client:
        return Client(self.server.client)

    def options(self, component: str) -> dict[str, Any]:
        # Several of a kind run at once here, so none listens at a port.
        if component == CONTROLLERS:
            return {**controllers_options(self.server.profile, self.paths), "secure_port": 0}
        if component == SCHEDULER:
            return {"kubeconfig": str(self.paths.kubeconfig("scheduler"))}
        # What their own user may do is granted by `navarch start`.
        return {"kubeconfig": str(self.paths.kubeconfig("admin"))}

    def start(
        self, name: str, component: str, options: Mapping[str, Any] = {}, *, seed: int | None = None
    ) -> None:
        """Start it, or start it again. With a seed, what its watches tell is delayed, repeated and
        mixed up (`bench.reliability.late`)."""
        config = self._directory / f"{name}.json"
        components = {component: {**self.options(component), **options}}
        config.write_text(json.dumps({"components": components, "log_level": "WARNING"}))
        late = ["bench.reliability.late", f"{seed}"]
        module = ["navarch.cluster.daemon"] if seed is None else late
        self._commands[name] = [sys.executable, "-m", *module, str(config)]
        self.start_again(name)

    def start_again(self, name: str) -> None:
        with (self._directory / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                self._commands[name], stderr=log, env={**os.environ, **DAEMON_ENVIRONMENT}
            )

    def own_credentials(self, name: str, user: str) -> tuple[str, str]:
        """A kubeconfig with a certificate of its own for a user of the cluster's parts, and the
        name that the audit log gives this certificate."""
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256

        certificate, key = issue(Request(f"pki/{name}", user), self.paths)
        credentials = {"client-certificate": str(certificate), "client-key": str(key)}
        config = kubeconfig.for_user(self.server.profile, self.paths, name, credentials)
        file = self._directory / f"{name}.conf"
        file.write_text(kubeconfig.render(config))
        found = x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(SHA256())
        return str(file), f"X509SHA256={found.hex()}"

    def kill(self, name: str) -> None:
        """As a failing machine would, without a word. Raises if it had ended by itself."""
        process = self._running.pop(name)
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended by itself:\n{self.log(name)}")
        process.kill()
        process.wait()
        self.kills += 1

    def has_ended(self, name: str) -> bool:
        return self._running[name].poll() is not None

    def pause(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGCONT)

    def log(self, name: str) -> str:
        return (self._directory / f"{name}.log").read_text()[-3000:]

    def audited(self) -> list[dict[str, Any]]:
        """All writes so far, in the order in which they were answered."""
        lines = (self.paths.logs / "audit.log").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        self.server.stop()


@contextmanager
def daemons(*, audit: bool = False) -> Iterator[Daemons]:
    """A running API server, and whatever is started beside it; nothing is left of it all."""
    with tempfile.TemporaryDirectory(prefix="navarch-daemons-") as directory:
        found = Daemons(Path(directory), audit=audit)
        try:
            found.server.start()
            yield found
        finally:
            found.stop()


async def kill_again_and_again(
    found: Daemons, name: str, start: Callable[[], None], chance: random.Random, kills: int
) -> None:
    """The process lives for half a second to five each time: too short to be ready, too."""
    for _ in range(kills):
        start()
        await asyncio.sleep(chance.uniform(0.5, 5.0))
        await asyncio.to_thread(found.kill, name)
    start()


async def until(
    check: Callable[[], Coroutine[Any, Any, bool]], seconds: float = PATIENCE, pause: float = 0.2
) -> bool:
    """Whether it came true in time."""
    try:
        async with asyncio.timeout(seconds):
            while not await check():  # noqa: ASYNC110
                await asyncio.sleep(pause)
    except TimeoutError:
        return False
    return True
