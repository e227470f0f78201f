"""The running nginx: started, told what to serve, reloaded, verified.

nginx is a child in a session of its own. It serves on when the controller is killed, and the next
controller finds it by its pid file and goes on with it. Three things change what it serves:

* documents, endpoints and certificates, posted over the control socket: in force with the answer,
  nothing is reloaded;
* the configuration file (a listener, a policy that no route had before): written beside the old
  one, tested, renamed, and a HUP sent. Clients are asked a moment before to come with new
  connections, since nginx closes idle ones of old workers without asking. The new generation must
  answer on the control socket before the document that needs it is posted;
* if the test or the reload fails, the old configuration stays, and with it the old document.

Everything posted is kept in files first, from which a new nginx serves before any controller
speaks to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pwd
import signal
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from navarch.client.clock import Clock, timeout
from navarch.network.nginx import selfsigned
from navarch.network.nginx.document import (
    checks_clients,
    digest,
    document,
    encode,
    endpoint_changes,
    policies,
    policy_name,
)
from navarch.network.nginx.model import DataPlane, Listener, Policy, Value
from navarch.network.nginx.render import Settings, render

log = logging.getLogger("navarch.network.nginx")

PROGRAM = "/usr/sbin/nginx"
DRAIN_SECONDS = 0.5
RELOAD_SECONDS = 10.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.02
POLICIES_KEPT = 64
"""So many policies that no route uses any more stay in the configuration: taking one out is no
reason to reload."""
LOG_LIMIT = 16 << 20


class NginxError(RuntimeError):
    """nginx could not be started, or did not accept what it was given."""


class Configured(Value, frozen=True):
    """What the configuration file in force was made from."""

    listeners: tuple[Listener, ...]
    policies: Mapping[str, Policy]


class Nginx:
    """One nginx and what it serves. `run` keeps it running; `apply` may be called at any time
    after `start`, by one task at a time."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._served = DataPlane()
        self._document = b""
        self._policies: dict[str, Policy] = {}
        self._generation = ""
        self._session: aiohttp.ClientSession | None = None
        self._known_certificates: set[str] = set()
        self.reloads = 0
        self.failed_reloads = 0
        if pid := self._running():
            self._remember()
        self._pid = pid

    # -- life ---------------------------------------------------------------------------------

    async def start(self, plane: DataPlane) -> None:
        """Have nginx run and serve `plane`: the one that runs already, or a new one."""
        self._prepare()
        await self.leave()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(self.settings.control_socket), force_close=True),
            timeout=aiohttp.ClientTimeout(total=RELOAD_SECONDS),
        )
        self._pid = self._running()
        if self._pid:
            log.info("nginx runs already (process %d)", self._pid)
            self._remember()
            await self.apply(plane)
            return
        await self._end_orphans()
        # With the one that most routes have: the first of them shall take no reload.
        self._policies = {policy_name(Policy()): Policy(), **policies(plane)}
        self._write_files(plane, self._policies)
        text, generation = render(
            self.settings, plane.listeners, self._policies, not checks_clients(plane)
        )
        self._check_ports(_ports(plane) | {self.settings.health_port})
        self._served, self._document = plane, document(plane)
        self._save()
        await self._test(text)
        await self._launch()
        await self._wait_for(generation)
        self._generation = generation
        self._known_certificates = set(plane.certificates)

    async def run(self, tell: Callable[[str], object]) -> None:
        """Start nginx again whenever it ends, with growing pauses; returns never. What keeps it
        from serving is told, and "" once it serves."""
        pause = 0.1
        while True:
            began = self._clock.monotonic()
            await self._until_ended()
            if self._clock.monotonic() - began > 10.0:
                pause = 0.1
            log.error("nginx has ended; starting it again")
            await self._clock.sleep(pause)
            pause = min(pause * 2, 10.0)
            self._pid = self._running()
            if not self._pid:
                await self._end_orphans()
                try:
                    self._check_ports(_ports(self._served) | {self.settings.health_port})
                except NginxError as error:
                    tell(str(error))
                else:
                    await self._launch()
                    tell("")

    async def stop(self) -> None:
        """End nginx after the requests that are under way, or after a few seconds."""
        await self.leave()
        self._served = DataPlane()
        pid = self._running()
        for number in (signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL):
            if not pid:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            with contextlib.suppress(TimeoutError):
                async with timeout(self._clock, STOP_SECONDS):
                    await self._until_ended()
            pid = self._running()

    async def leave(self) -> None:
        """Let nginx serve on without this controller."""
        if self._session is not None:
            await self._session.close()

    # -- what is served -----------------------------------------------------------------------

    async def apply(self, plane: DataPlane) -> list[dict[str, Any]]:
        """Serve `plane` from now on. Answers which routes nginx finds broken. Raises NginxError
        if it cannot be; then what was served before is served on."""
        needed = policies(plane)
        await self._add_certificates(plane)
        self._write_files(plane, needed)
        changes = endpoint_changes(self._served.upstreams, plane.upstreams)
        new = {name: text for name, text in changes.items() if text}
        if new:
            # Before the routes that lead there.
            await self._post("endpoints", encode(new))
        await self._configure(plane, needed)
        text = document(plane)
        broken: list[dict[str, Any]] = []
        if text != self._document:
            answer = await self._post("document", text)
            broken = answer.get("broken", [])
        gone = {name: text for name, text in changes.items() if not text}
        if gone:
            await self._post("endpoints", encode(gone))
        self._served, self._document = plane, text
        self._save()
        await self._forget(plane)
        return broken

    async def apply_endpoints(self, upstreams: Mapping[str, tuple[str, ...]]) -> None:
        """Other endpoints, and nothing else."""
        changes = endpoint_changes(self._served.upstreams, upstreams)
        if not changes:
            return
        await self._post("endpoints", encode(changes))
        self._served = msgspec.structs.replace(self._served, upstreams=dict(upstreams))
        self._write("endpoints.json", encode(endpoint_changes({}, upstreams)))

    async def _configure(self, plane: DataPlane, needed: Mapping[str, Policy]) -> None:
        """Reload if the configuration in force lacks something that is needed."""
        unused = self._policies.keys() - needed.keys()
        keeps = len(unused) <= POLICIES_KEPT
        wanted = {**self._policies, **needed} if keeps else dict(needed)
        text, generation = render(self.settings, plane.listeners, wanted, not checks_clients(plane))
        if generation == self._generation:
            return
        if generation != (await self.status()).get("generation"):
            await self._reload(plane, text, generation)
        self._policies, self._generation = wanted, generation

    async def _reload(self, plane: DataPlane, text: str, generation: str) -> None:
        try:
            self._check_ports(_ports(plane))
            await self._test(text)
            await self._post("draining", str(DRAIN_SECONDS + RELOAD_SECONDS).encode())
            await self._clock.sleep(DRAIN_SECONDS)
            old = _workers(self._pid)
            os.kill(self._pid, signal.SIGHUP)
            await self._wait_for(generation)
            await self._wait_until_shutting_down(old)
        except (NginxError, ProcessLookupError) as error:
            self.failed_reloads += 1
            raise NginxError(f"the configuration was not taken: {error}") from error
        finally:
            with contextlib.suppress(NginxError):
                await self._post("draining", b"0")
        self.reloads += 1
        log.info("nginx serves generation %s", generation)

    def _check_ports(self, ports: set[int]) -> None:
        """nginx finds out that a port is taken when it is too late to say so."""
        for port in sorted(ports - self.listening()):
            if problem := self.obstacle(port):
                raise NginxError(problem)

    def listening(self) -> set[int]:
        """The ports that nginx has."""
        return _ports(self._served) if _is_alive(self._pid) else set()

    def obstacle(self, port: int) -> str:
        """Why nginx could not listen on another port."""
        for address in self.settings.addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((address, port))
                except OSError as error:
                    return f"{address} port {port}: {error.strerror}"
        return ""

    async def status(self) -> dict[str, Any]:
        return await self._request("GET", "status", b"")

    # -- certificates and files ---------------------------------------------------------------

    async def _add_certificates(self, plane: DataPlane) -> None:
        new = plane.certificates.keys() - self._known_certificates
        if new:
            pairs = {name: plane.certificates[name] for name in new}
            await self._post("certificates", encode(pairs))
            self._known_certificates |= new

    async def _forget(self, plane: DataPlane) -> None:
        """What the old document alone needed."""
        gone = self._known_certificates - plane.certificates.keys()
        if gone:
            await self._post("certificates", encode({name: {} for name in gone}))
        self._known_certificates = set(plane.certificates)
        configured = _configured_files(self._policies)
        for directory in self._file_directories:
            for file in directory.iterdir():
                if file.name not in plane.files and file.name not in configured:
                    file.unlink(missing_ok=True)

    @property
    def _file_directories(self) -> tuple[Path, Path]:
        """For what the master reads with its configuration, and for what workers read."""
        return self.settings.directory / "files", self.settings.shared / "files"

    def _prepare(self) -> None:
        """Directories: the private one is root's alone, workers may pass through the shared one."""
        user = pwd.getpwnam(self.settings.user)
        for directory, mode in (
            (self.settings.directory, 0o700),
            (self.settings.directory / "files", 0o700),
            (self.settings.shared, 0o711),
            (self.settings.shared / "files", 0o750),
            (self.settings.shared / "temporary", 0o711),
        ):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(mode)
        os.chown(self.settings.shared / "files", 0, user.pw_gid)
        if not (self.settings.directory / "default.key").exists():
            pair = selfsigned.certificate(self._clock.now())
            self._write("default.crt", pair.chain.encode())
            self._write("default.key", pair.key.encode())

    def _write_files(self, plane: DataPlane, needed: Mapping[str, Policy]) -> None:
        """Keys and authorities for the master alone, password files for workers."""
        group = pwd.getpwnam(self.settings.user).pw_gid
        names = _configured_files(needed)
        private, shared = self._file_directories
        for name, text in plane.files.items():
            if name != digest(text):
                raise NginxError(f"{name} is not the name of that file")
            if name in names and not (private / name).exists():
                _write_atomically(private / name, text.encode(), 0o600)
            elif name not in names and not (shared / name).exists():
                _write_atomically(shared / name, text.encode(), 0o640, group)

    def _remember(self) -> None:
        """What the nginx that runs was told by another controller."""
        directory = self.settings.directory
        with contextlib.suppress(OSError, msgspec.DecodeError):
            data = (directory / "configured.json").read_bytes()
            configured = msgspec.json.decode(data, type=Configured)
            self._policies = dict(configured.policies)
            endpoints = json.loads((directory / "endpoints.json").read_bytes())
            self._served = DataPlane(
                listeners=configured.listeners,
                upstreams={name: tuple(text.split(",")) for name, text in endpoints.items()},
            )

    def _save(self) -> None:
        """What a new nginx, or another controller, begins with."""
        plane = self._served
        self._write(
            "configured.json",
            encode(Configured(listeners=plane.listeners, policies=self._policies)),
        )
        self._write("certificates.json", encode(plane.certificates))
        self._write("endpoints.json", encode(endpoint_changes({}, plane.upstreams)))
        self._write("document.json", self._document)

    def _write(self, name: str, data: bytes) -> None:
        file = self.settings.directory / name
        with contextlib.suppress(FileNotFoundError):
            if file.read_bytes() == data:
                return
        _write_atomically(file, data, 0o600)

    # -- the process --------------------------------------------------------------------------

    def _running(self) -> int:
        """The process of a nginx of ours that runs, 0 if there is none."""
        try:
            pid = int(self.settings.pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return 0
        return pid if str(self._config).encode() in command else 0

    @property
    def _config(self) -> Path:
        return self.settings.directory / "nginx.conf"

    def _arguments(self, config: Path) -> list[str]:
        return ["-e", "stderr", "-p", f"{self.settings.directory}/", "-c", str(config)]

    async def _end_orphans(self) -> None:
        """Workers outlive a master that is killed, and keep its ports: they would serve what was
        last known for ever. They finish what they have been asked, and make room for others."""
        try:
            master = int(self.settings.pid_file.read_text())
        except (OSError, ValueError):
            return
        orphans = _workers_of(master)
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)
        await self._wait_until_shutting_down(orphans)

    async def _launch(self) -> None:
        # What a killed nginx left would keep the new one from listening.
        self.settings.control_socket.unlink(missing_ok=True)
        self.settings.idle_socket.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            PROGRAM,
            *self._arguments(self._config),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        self._pid = process.pid

    async def _test(self, text: str) -> None:
        """Whether nginx takes a configuration; if so it becomes the one in force at next start.
        Nothing in it comes from users, so that testing it is no risk."""
        candidate = self._config.with_suffix(".candidate")
        _write_atomically(candidate, text.encode(), 0o600)
        process = await asyncio.create_subprocess_exec(
            PROGRAM,
            *self._arguments(candidate),
            "-t",
            "-q",
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, problem = await process.communicate()
        if process.returncode != 0:
            raise NginxError(problem.decode(errors="replace").strip()[-2000:])
        candidate.replace(self._config)

    async def _wait_for(self, generation: str) -> None:
        """Until workers of a generation answer."""
        try:
            async with timeout(self._clock, RELOAD_SECONDS):
                while True:
                    if not _is_alive(self._pid):
                        raise NginxError("nginx has ended; its messages are in the log")
                    with contextlib.suppress(NginxError):
                        if (await self.status()).get("generation") == generation:
                            return
                    await self._clock.sleep(POLL_SECONDS)
        except TimeoutError as error:
            raise NginxError(f"generation {generation} does not answer") from error

    async def _wait_until_shutting_down(self, workers: Iterable[int]) -> None:
        """The master lets old workers accept for a tenth of a second beside the new ones. Until
        they have stopped, requests could still be answered by the old document."""
        try:
            async with timeout(self._clock, RELOAD_SECONDS):
                for pid in workers:
                    while _accepts(pid):
                        await self._clock.sleep(POLL_SECONDS)
        except TimeoutError as error:
            raise NginxError("old workers do not stop accepting") from error

    async def _until_ended(self) -> None:
        if not self._pid:
            return
        try:
            descriptor = os.pidfd_open(self._pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def rotate_log(self) -> None:
        """Begin a new access log when this one is large."""
        file = Path(self.settings.access_log)
        if file.is_file() and file.stat().st_size > LOG_LIMIT:
            file.replace(file.with_suffix(".old"))
            os.kill(self._pid, signal.SIGUSR1)

    async def _post(self, action: str, data: bytes) -> dict[str, Any]:
        return await self._request("POST", action, data)

    async def _request(self, method: str, action: str, data: bytes) -> dict[str, Any]:
        if self._session is None:
            raise NginxError("not started")
        try:
            async with self._session.request(
                method, f"http://nginx/{action}", data=data
            ) as response:
                body = await response.read()
                if response.status != 200:
                    raise NginxError(f"{action}: {body.decode(errors='replace').strip()}")
                answer: dict[str, Any] = json.loads(body)
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NginxError(f"{action}: {error}") from error


def _ports(plane: DataPlane) -> set[int]:
    return {each.port for each in plane.listeners}


def _workers(master: int) -> list[int]:
    try:
        return [int(each) for each in _proc(master, f"task/{master}/children").split()]
    except OSError:
        return []


def _workers_of(master: int) -> list[int]:
    """What is left of a master that was started as the leader of a session, by its number."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            # The name in brackets may be anything; the session is the fourth word after it.
            name, _, rest = (directory / "stat").read_text().rpartition(") ")
            is_ours = name.endswith("(nginx") and int(rest.split()[3]) == master
        except OSError:
            continue
        if is_ours and int(directory.name) != master:
            found.append(int(directory.name))
    return found


def _accepts(pid: int) -> bool:
    """Whether a worker has not been told to shut down: its title says so."""
    try:
        title = _proc(pid, "cmdline")
    except OSError:
        return False
    return "worker process" in title and "shutting down" not in title


def _proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def _is_alive(pid: int) -> bool:
    try:
        return _proc(pid, "stat").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _configured_files(policies: Mapping[str, Policy]) -> set[str]:
    return {name for each in policies.values() for name in (each.trusted, each.client_certificate)}


def _write_atomically(file: Path, data: bytes, mode: int, group: int = 0) -> None:
    """The whole file or none of it, also after a crash."""
    temporary = file.with_name(f".{file.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "wb") as target:
        os.fchmod(descriptor, mode)
        os.fchown(descriptor, 0, group)
        target.write(data)
        target.flush()
        os.fsync(descriptor)
    temporary.replace(file)
