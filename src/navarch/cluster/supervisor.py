"""Keeps a profile's processes running.

One small process per profile: it starts the others, starts them again when they end (at once the
first time, then with growing pauses), keeps their log files from growing without bound, and has
certificates renewed. It decides nothing: `run/supervisor.json` lists what shall run.

It may be killed at any moment. Its children are in sessions of their own and go on; each has
written its own pid file before it became its program, so the next supervisor finds and watches
them instead of starting them twice. A process found running from an older description (another
version, renewed certificates) is replaced.

Only the standard library is used: the supervisor costs as much memory as Python itself.

    state      event                    becomes
    waiting    its time has come        running
    running    ended, shall run         waiting (with a pause)
    running    description changed      stopping
    stopping   ended                    waiting, or forgotten if no longer described
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from navarch.cluster import processes
from navarch.cluster.processes import ProcessId

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 15.0
HEALTHY_AFTER = 20.0
"""A process that ran this long starts with the shortest pause again."""
LOG_LIMIT = 16 << 20
HOUSEKEEPING = 10.0
RENEWAL_INTERVAL = 6 * 3600.0
_TOLD = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


@dataclass(frozen=True, slots=True)
class Spec:
    """One process that shall run."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    node: str = ""
    """The node whose namespaces it enters, empty for the host's."""
    log: str = ""
    level: int = 0
    """Processes are stopped from the highest level down."""
    grace: float = 10.0
    drains: str = ""
    """A control group whose processes end before this one is stopped: a container runtime
    outlives its containers, so that it can say how they ended."""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """Everything a supervisor is told."""

    run: str
    pins: str
    processes: Sequence[Spec]
    renew: Sequence[str] = ()
    """The command that renews certificates and asks for a reload if it renewed any."""

    @staticmethod
    def read(path: Path) -> Description:
        data = json.loads(path.read_bytes())
        data["processes"] = [Spec(**spec) for spec in data["processes"]]
        return Description(**data)

    def encode(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()


def pause_after(failures: int) -> float:
    """How long to wait before the next start, after so many quick ends in a row."""
    return 0.0 if failures <= 1 else min(FIRST_PAUSE * 2.0 ** (failures - 2), LONGEST_PAUSE)


@dataclass(slots=True)
class Child:
    """One process as the supervisor sees it."""

    spec: Spec
    process: ProcessId | None = None
    descriptor: int = -1
    started: float = 0.0
    failures: int = 0
    restarts: int = 0
    due: float = 0.0
    kill_at: float = 0.0
    """When a stopping process is killed; 0 while it is not stopping."""
    last_exit: str = ""


class Supervisor:
    """The table of children and what happens to them. `run` is its loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._description = Description.read(path)
        self._run = Path(self._description.run)
        self._children: dict[str, Child] = {}
        self._poll = select.poll()
        self._renew_at = time.monotonic() + 60.0
        self._renewing = 0

    def adopt(self) -> None:
        """Take on every described process that is running already."""
        for spec in self._description.processes:
            child = self._children[spec.name] = Child(spec)
            process = processes.read_pid_file(self._pid_file(spec.name))
            if process is not None:
                self._watch(child, process)
        self._orphans()

    def _orphans(self) -> None:
        """Stop processes of earlier descriptions: their pid files are there, their names not."""
        for file in self._run.glob("*.pid"):
            if file.stem in self._children or file.stem == "supervisor":
                continue
            process = processes.read_pid_file(file)
            if process is not None:
                processes.end([process.pid], 10.0)
            file.unlink(missing_ok=True)

    def run(self) -> None:
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD)
        self._poll.register(wake_read, select.POLLIN)
        housekeeping = 0.0
        while True:
            now = time.monotonic()
            if now >= housekeeping:
                self._housekeeping(now)
                housekeeping = now + HOUSEKEEPING
            self._advance(now)
            wait = min([housekeeping, *self._times()]) - time.monotonic()
            for descriptor, _ in self._poll.poll(max(0.0, wait) * 1000 + 1):
                if descriptor != wake_read:
                    self._ended(descriptor)
                    continue
                received = set(os.read(wake_read, 4096))
                if received & {signal.SIGTERM, signal.SIGINT}:
                    self.stop_all()
                    say("everything has been stopped")
                    return
                if signal.SIGHUP in received:
                    self.reload()
                if signal.SIGCHLD in received:
                    self._reap()

    def reload(self) -> None:
        """Read the description again and replace what has changed."""
        self._description = Description.read(self._path)
        wanted = {spec.name: spec for spec in self._description.processes}
        for name, spec in wanted.items():
            child = self._children.setdefault(name, Child(spec))
            child.spec = spec
            if child.process is None:
                child.failures, child.due = 0, 0.0
        for name, child in list(self._children.items()):
            if name not in wanted:
                if child.process is None:
                    self._forget(child)
                else:
                    self._stop(child, time.monotonic())
        self._report()
        say("the description was read again")

    def stop_all(self) -> None:
        """End everything, level by level."""
        levels = sorted({child.spec.level for child in self._children.values()}, reverse=True)
        for level in levels:
            group = [child for child in self._children.values() if child.spec.level == level]
            for child in group:
                if child.spec.drains:
                    processes.drain_cgroup(child.spec.drains, child.spec.grace)
            pids = [child.process.pid for child in group if child.process is not None]
            processes.end(pids, max(child.spec.grace for child in group))
            for child in group:
                self._pid_file(child.spec.name).unlink(missing_ok=True)

    def _advance(self, now: float) -> None:
        """Start what is due, replace what is outdated, kill what does not stop."""
        wanted = {spec.name for spec in self._description.processes}
        for child in list(self._children.values()):
            if child.process is None:
                if child.spec.name in wanted and child.due <= now:
                    self._start(child, now)
            elif child.kill_at:
                if child.kill_at <= now:
                    child.process.signal(signal.SIGKILL)
                    child.kill_at = now + 5.0
            elif child.process.digest != child.spec.digest:
                # A node that is started anew has not come to its end, and nor have its pods.
                self._stop(child, now, signal.SIGINT)

    def _times(self) -> list[float]:
        """The moments at which `_advance` has something to do."""
        times = []
        for child in self._children.values():
            if child.process is None:
                times.append(child.due)
            elif child.kill_at:
                times.append(child.kill_at)
        return times

    def _start(self, child: Child, now: float) -> None:
        spec = child.spec
        pid = os.fork()
        if pid == 0:
            self._become(spec)
        child.started = now
        started = processes.start_time(pid)
        if started is None:  # it has ended already; SIGCHLD tells how
            started = 0
        self._watch(child, ProcessId(pid, started, spec.digest))
        say(f"{spec.name}: started as process {pid}")

    def _become(self, spec: Spec) -> None:  # pragma: no cover - runs in a child
        """The child's way to its program: session, log, limits, namespaces."""
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            log = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            processes.write_pid_file(self._pid_file(spec.name), processes.myself(spec.digest))
            os.closerange(3, 256)
            if spec.node:
                from navarch.cluster.namespaces import Pins, enter

                enter(Pins(Path(self._description.pins), spec.node))
            os.environ.pop("PYTHONPATH", None)  # the supervisor's own, which runs without site
            os.execvpe(spec.argv[0], list(spec.argv), {**os.environ, **spec.env})
        except BaseException as error:
            os.write(2, f"{spec.name} cannot be started: {error}\n".encode())
        finally:
            os._exit(126)

    def _watch(self, child: Child, process: ProcessId) -> None:
        """Learn of the process's end through its descriptor, be it a child or adopted."""
        child.process, child.kill_at = process, 0.0
        if not child.started:
            child.started = time.monotonic()
        try:
            child.descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            child.descriptor = -1
            self._over(child, "ended at once")
            return
        self._poll.register(child.descriptor, select.POLLIN)
        self._report()

    def _ended(self, descriptor: int) -> None:
        for child in self._children.values():
            if child.descriptor == descriptor and child.process is not None:
                self._over(child, _exit_text(child.process.pid))
                return

    def _over(self, child: Child, how: str) -> None:
        now = time.monotonic()
        if child.descriptor >= 0:
            self._poll.unregister(child.descriptor)
            os.close(child.descriptor)
        stopping = bool(child.kill_at)
        child.process, child.descriptor, child.kill_at = None, -1, 0.0
        self._pid_file(child.spec.name).unlink(missing_ok=True)
        if child.spec not in self._description.processes:
            say(f"{child.spec.name}: {how}; it is no longer wanted")
            self._forget(child)
            return
        if stopping or now - child.started > HEALTHY_AFTER:
            child.failures = 0
        if not stopping:
            child.failures += 1
            child.restarts += 1
            child.last_exit = how
        pause = pause_after(child.failures)
        child.due, child.started = now + pause, 0.0
        say(f"{child.spec.name}: {how}; starting again in {pause:g} s")
        self._report()

    def _stop(self, child: Child, now: float, number: int = signal.SIGTERM) -> None:
        if child.process is not None and not child.kill_at:
            child.kill_at = now + child.spec.grace
            child.process.signal(number)

    def _forget(self, child: Child) -> None:
        self._children.pop(child.spec.name, None)
        self._report()

    def _reap(self) -> None:
        """Bury children that are nobody's entry in the table: the renewal command."""
        if self._renewing:
            with contextlib.suppress(ChildProcessError):
                pid, _ = os.waitpid(self._renewing, os.WNOHANG)
                if pid:
                    self._renewing = 0

    def _housekeeping(self, now: float) -> None:
        for spec in self._description.processes:
            rotate(Path(spec.log), LOG_LIMIT)
        if self._description.renew and now >= self._renew_at and not self._renewing:
            self._renew_at = now + RENEWAL_INTERVAL
            argv = list(self._description.renew)
            self._renewing = os.posix_spawn(argv[0], argv, os.environ)

    def _report(self) -> None:
        """Write down how things stand, for `navarch start` and `navarch status`."""
        state = {
            name: {
                "pid": child.process.pid if child.process else 0,
                "restarts": child.restarts,
                "failures": child.failures,
                "last_exit": child.last_exit,
            }
            for name, child in self._children.items()
        }
        temporary = self._run / ".state.json"
        temporary.write_text(json.dumps(state))
        temporary.replace(self._run / "state.json")

    def _pid_file(self, name: str) -> Path:
        return self._run / f"{name}.pid"


def _exit_text(pid: int) -> str:
    """How a process ended; unknown for one that was adopted, whose parent is not this one."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return "has ended"
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"
    return f"has ended with code {code}"


def rotate(path: Path, limit: int) -> None:
    """Move a log that has grown too large to `.1` and empty it. The writer keeps its descriptor,
    which appends, so it goes on at the new beginning."""
    try:
        if path.stat().st_size <= limit:
            return
    except FileNotFoundError:
        return
    older = path.with_name(f"{path.name}.1")
    with path.open("rb") as source, older.open("wb") as target:
        os.fchmod(target.fileno(), 0o600)
        while block := source.read(1 << 20):
            target.write(block)
    os.truncate(path, 0)


def say(text: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f"{stamp} supervisor: {text}", file=sys.stderr, flush=True)


def lock(run: Path) -> int | None:
    """The right to be the profile's supervisor; None when another one has it."""
    descriptor = os.open(run / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def main(arguments: Sequence[str]) -> int:
    path = Path(arguments[0])
    run = path.parent
    held = lock(run) if run.is_dir() else None
    if held is None or not path.is_file():
        say("another supervisor is running, or the cluster has been stopped")
        return 1
    pid_file = run / "supervisor.pid"
    # Who reads the file may send signals at once: they wait until they can be handled.
    signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD)
    processes.write_pid_file(pid_file, processes.myself())
    supervisor = Supervisor(path)
    supervisor.adopt()
    try:
        supervisor.run()
    finally:
        pid_file.unlink(missing_ok=True)
        os.close(held)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
