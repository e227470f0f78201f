"""The server under test, in a process of its own over a database on the disk."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import apsw

from navarch.cluster import pki
from navarch.cluster.composition import apiserver_options
from navarch.cluster.profile import Paths, Profile

READY_SECONDS = 90.0
FIRST_REVISION = 1
"""The revision of a store without any writes, as etcd's."""
FAILURES = (aiohttp.ClientError, ConnectionError, TimeoutError)
"""How a request ends whose answer is lost."""


class Process:
    """One API server, with the certificates of a cluster of its own."""

    def __init__(self, directory: Path, compact_seconds: float = 4.0) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        profile = Profile("reliability", nodes=0, api_port=port)
        paths = Paths(directory / "state")
        paths.create()
        pki.ensure(profile, paths)
        self.url = profile.server
        self._compact_seconds = compact_seconds
        self.log = directory / "log"
        options = apiserver_options(profile, paths)
        self.database = paths.store / "store.db"
        self._copy = directory / "copy"
        self._config = directory / "apiserver.json"
        self._config.write_text(json.dumps({"components": {"apiserver": options}}))
        self.tls = ssl.create_default_context(cafile=paths.pki / "ca.crt")
        self.tls.load_cert_chain(paths.pki / "admin.crt", paths.pki / "admin.key")
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=self.tls, limit=0)
        return aiohttp.ClientSession(self.url, connector=connector)

    async def start(self, session: aiohttp.ClientSession) -> float:
        """Start it; the seconds until it says that it is ready."""
        began = time.perf_counter()
        often = str(self._compact_seconds)
        argv = [sys.executable, "-m", "bench.reliability.child", often, str(self._config)]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*argv, stderr=log)
        async with asyncio.timeout(READY_SECONDS):
            while True:
                if self._process.returncode is not None:
                    raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-3000:]}")
                try:
                    async with session.get("/readyz") as response:
                        if response.status == 200:
                            return time.perf_counter() - began
                except FAILURES:
                    pass
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """Kill it as a failing machine would, without a word."""
        if self._process is not None:
            if self._process.returncode is None:
                os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    async def fail_syncs(self) -> bool:
        """Let every sync of the disk fail from now on; whether the server ended because of that.
        Needs strace, and to be allowed to trace."""
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(self.pid)]
        fault = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO"]
        tracer = await asyncio.create_subprocess_exec(*strace, *fault)
        assert self._process is not None
        try:
            async with asyncio.timeout(READY_SECONDS):
                return await self._process.wait() != 0
        except TimeoutError:
            return False
        finally:
            if tracer.returncode is None:
                tracer.terminate()
            await tracer.wait()

    def look(self) -> Records:
        """What the killed server left on the disk. Looks at a copy: whoever opens the database
        itself would mend it before the server does."""
        shutil.rmtree(self._copy, ignore_errors=True)
        self._copy.mkdir()
        copy = self._copy / "store.db"
        for suffix in ("", "-wal"):
            source = Path(f"{self.database}{suffix}")
            if source.exists():
                shutil.copyfile(source, f"{copy}{suffix}")
        connection = apsw.Connection(str(copy))
        rows = connection.execute(
            "SELECT first, ifnull(max(log.revision), first), count(log.key) FROM"
            " (SELECT max(compacted, ?) AS first FROM state) LEFT JOIN log ON revision > first",
            (FIRST_REVISION,),
        ).fetchall()
        compacted, newest, count = (int(str(each)) for each in rows[0])
        is_whole = connection.pragma("quick_check", 1) == "ok"
        connection.close()
        return Records(compacted, newest, newest - compacted - count, is_whole)


@dataclass(frozen=True, slots=True)
class Records:
    """What a log holds: each revision after the compacted one stands in it exactly once."""

    compacted: int
    newest: int
    missing: int
    is_whole: bool
