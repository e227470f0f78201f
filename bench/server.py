"""The API server alone: how fast it starts and answers, what a request costs it, and how much
memory a full store takes.

`python -m bench.server` runs one API server in a process of its own, as `navarch start` would (same
certificates, RBAC, SQLite on the disk); `python -m bench.api` measures servers that run already.
`--against KUBECONFIG` measures another server in turns with it. On a machine that does other work,
compare the seconds of CPU: rates fall with the load, they do not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench import api
from bench.process import Processes
from bench.report import Row, show
from navarch.client.config import ClientConfig, Pem
from navarch.cluster import pki
from navarch.cluster.composition import DAEMON_ENVIRONMENT, apiserver_options
from navarch.cluster.profile import Paths, Profile

STARTS = 5
READY_SECONDS = 90.0


class Server:
    """One API server process over a directory."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.profile = profile = Profile("bench", nodes=0, simulated=1, api_port=self.port)
        self.paths = paths = Paths(directory / "bench")
        paths.create()
        pki.ensure(profile, paths)
        self.client = ClientConfig(
            server=profile.server,
            ca=Pem(path=str(paths.pki / "ca.crt")),
            certificate=Pem(path=str(paths.pki / "admin.crt")),
            key=Pem(path=str(paths.pki / "admin.key")),
        )
        self._tls = ssl.create_default_context(cafile=paths.pki / "ca.crt")
        self._tls.load_cert_chain(paths.pki / "admin.crt", paths.pki / "admin.key")
        self._log = directory / "log"
        self._config = directory / "apiserver.json"
        options = apiserver_options(profile, paths)
        self._config.write_text(json.dumps({"components": {"apiserver": options}}))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it; the seconds until it says that it is ready."""
        began = time.perf_counter()
        argv = [sys.executable, "-m", "navarch.cluster.daemon", str(self._config)]
        with self._log.open("ab") as log:
            environment = {**os.environ, **DAEMON_ENVIRONMENT}
            self._process = subprocess.Popen(argv, stderr=log, env=environment)
        while not self._is_ready():
            if self._process.poll() is not None or time.perf_counter() - began > READY_SECONDS:
                raise RuntimeError(f"the server did not start:\n{self._log.read_text()}")
            time.sleep(0.005)
        return time.perf_counter() - began

    def _is_ready(self) -> bool:
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), 1.0) as plain,
                self._tls.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
            ):
                secure.sendall(b"GET /readyz HTTP/1.1\r\nHost: bench\r\n\r\n")
                return secure.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    @property
    def processes(self) -> Processes:
        assert self._process is not None
        return Processes((self._process.pid,))


Side = tuple[ClientConfig, Processes]


def measure(directory: Path, large: bool, others: Sequence[Side]) -> list[Row]:
    """The figures, beside those of another server if there is one."""
    server = Server(directory)
    try:
        server.start()
        starts = []
        for _ in range(STARTS):
            server.stop()
            starts.append(server.start())
        rows = [
            Row("API server, start to ready", sorted(starts)[STARTS // 2], "s", 0.5, 2.75),
            Row("memory, API server idle", server.processes.memory(), "MB"),
        ]
        rows += uvloop.run(api.measure((server.client, server.processes), *others))
        if not large:
            return rows
        # What the rates left behind is not part of the large store.
        server.stop()
        shutil.rmtree(directory)
        directory.mkdir()
        server = Server(directory)
        server.start()
        side = server.client, server.processes
        return rows + uvloop.run(api.measure(side, *others, rates=False, large=True))
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="without the large store")
    api.add_side(parser, "against")
    arguments = parser.parse_args()
    api.allow_connections()
    others = [api.side_of(arguments, "against")] if arguments.against else []
    home = Path(tempfile.mkdtemp(prefix="navarch-bench-"))
    try:
        show(measure(home / "server", not arguments.small, others))
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
