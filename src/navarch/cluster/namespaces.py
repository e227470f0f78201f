"""A node's namespaces: made once, pinned by bind mounts, entered by its processes.

A node is a network, a mount and a UTS namespace. They are kept alive by bind mounts of the
kernel's handles onto files (`run/ns/<node>.net` and so on), so they outlive every process and an
agent that restarts finds its interfaces, rules and mounts as they were.

In the mount namespace the node sees the host's file system, with these differences:

* `/run` is the node's own: container runtime state, sockets and pinned pod namespaces live at
  their usual paths without touching the host's. It vanishes with the node, as at a reboot.
* So does `/var/lib/cni`, where the network plug-ins note addresses that are taken.
* `/var/lib/kubelet`, `/etc/cni/net.d` and `/opt/cni/bin` are the node's own, kept with the state of
  the cluster.
* `/etc/resolv.conf` names servers that can be reached from the node (never the host's loopback).
* Of the state of all clusters it sees its own directory only: neither the control plane's keys
  and database nor other nodes.

Mounts made on the host appear in the node and leave it again (slave propagation), but never the
other way round; inside the node they are shared among its own processes, which is what
`mountPropagation` of containers builds on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from navarch.cluster import kernel

CNI_STATE = Path("/var/lib/cni")
CNI_CONFIG, CNI_PROGRAMS = "/etc/cni/net.d", "/opt/cni/bin"
"""Where those who bring another network plug-in put their files. Each node has its own."""

KINDS = {"net": kernel.CLONE_NEWNET, "uts": kernel.CLONE_NEWUTS, "mnt": kernel.CLONE_NEWNS}
"""In the order in which a process enters them: the mount namespace last, since the pins are
files of the host's."""


@dataclass(frozen=True, slots=True)
class Pins:
    """Where a node's namespaces are held."""

    directory: Path
    node: str

    def file(self, kind: str) -> Path:
        return self.directory / f"{self.node}.{kind}"

    def are_alive(self) -> bool:
        """Whether all of them are there; after a reboot the files are left, but empty."""
        return all(is_namespace(self.file(kind)) for kind in self.kinds())

    def kinds(self) -> list[str]:
        """Those it has. A node that is a whole machine, one that has joined a cluster elsewhere,
        shares the machine's network and has no file for one of its own."""
        return [kind for kind in KINDS if kind != "net" or self.file(kind).exists()]


@dataclass(frozen=True, slots=True)
class NodeView:
    """What a node's mount namespace shows differently from the host's."""

    hostname: str
    resolv_conf: str
    hidden: Path
    """The directory of all clusters."""
    shown: Path
    """The one below it that is the node's own."""
    own_network: bool = True


def is_namespace(path: Path) -> bool:
    """Whether a namespace is mounted on `path`: only those lie on the kernel's own device."""
    try:
        return path.stat().st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def create_elsewhere(nodes: Sequence[tuple[Pins, NodeView]]) -> None:
    """`create` for several nodes in a process of its own: making a mount namespace takes a fork,
    which is safe only where there is one thread, and a command with a progress display has two."""
    request = [{"pins": asdict(pins), "view": asdict(view)} for pins, view in nodes]
    result = subprocess.run(
        [sys.executable, "-P", "-S", "-m", "navarch.cluster.namespaces"],
        input=json.dumps(request, default=str),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    if result.returncode != 0:
        raise OSError((result.stderr.strip().splitlines() or ["no reason given"])[-1])


def main() -> None:
    for entry in json.load(sys.stdin):
        pins, view = entry["pins"], entry["view"]
        paths = {name: Path(view[name]) for name in ("hidden", "shown")}
        create(Pins(Path(pins["directory"]), pins["node"]), NodeView(**view | paths))


def create(pins: Pins, view: NodeView) -> None:
    """Make and pin a node's namespaces, if they are not there.

    A child makes and furnishes them and then holds still while the parent pins them: a mount
    namespace can be pinned only from outside of it, and only on a mount that does not propagate."""
    if pins.are_alive():
        return
    destroy(pins)
    _private_directory(pins.directory)
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    child = os.fork()
    if child == 0:
        _furnish_and_wait(view, ready_write, (ready_read, done_write), done_read)
    os.close(ready_write)
    os.close(done_read)
    try:
        with os.fdopen(ready_read, "rb") as ready:
            message = ready.read()
        if message != b"ok":
            raise OSError(f"node {pins.node}: {message.decode(errors='replace') or 'killed'}")
        for kind in KINDS:
            if kind == "net" and not view.own_network:
                continue
            target = pins.file(kind)
            target.touch(mode=0o600)
            kernel.mount(f"/proc/{child}/ns/{kind}", target, flags=kernel.MS_BIND)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(done_write)
        os.waitpid(child, 0)


def _furnish_and_wait(
    view: NodeView, ready: int, unused: Sequence[int], done: int
) -> None:  # pragma: no cover - runs in a child
    """The child's part: report `ok` or what went wrong, and leave when the parent is through."""
    try:
        for descriptor in unused:
            os.close(descriptor)
        try:
            network = kernel.CLONE_NEWNET if view.own_network else 0
            kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS | network)
            _furnish(view)
            message = b"ok"
        except OSError as error:
            message = f"{error.strerror or error}: {error.filename or ''}".encode()
        os.write(ready, message)
        os.close(ready)
        os.read(done, 1)
    finally:
        os._exit(0)


def _furnish(view: NodeView) -> None:
    kernel.sethostname(view.hostname)
    # Slave first: from here on nothing reaches the host.
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_SLAVE)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_SHARED)
    resolver = Path("/etc/resolv.conf").resolve()
    kernel.mount("tmpfs", "/run", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    for directory in ("netns", "containerd", "lock"):
        Path("/run", directory).mkdir(mode=0o711 if directory != "lock" else 0o755)
    Path("/run/cni").mkdir(mode=0o700)
    CNI_STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    kernel.mount("/run/cni", CNI_STATE, flags=kernel.MS_BIND)
    _show_resolver(view.resolv_conf, resolver)
    _hide(view.hidden, view.shown)


def _hide(hidden: Path, shown: Path) -> None:
    """Cover `hidden` with an empty directory in which only `shown` appears, at its own path."""
    descriptor = os.open(shown, os.O_PATH | os.O_DIRECTORY)
    try:
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("tmpfs", hidden, "tmpfs", flags, "size=64k,mode=755")
        shown.mkdir(parents=True)
        kernel.mount(f"/proc/self/fd/{descriptor}", shown, flags=kernel.MS_BIND | kernel.MS_REC)
        # A peer group of its own: as a peer of the root, every volume mounted below would be
        # mounted a second time, in the covered place, and listed twice.
        kernel.mount("none", shown, flags=kernel.MS_PRIVATE)
        kernel.mount("none", shown, flags=kernel.MS_SHARED)
    finally:
        os.close(descriptor)


def _show_resolver(content: str, resolver: Path) -> None:
    """Let `/etc/resolv.conf` read `content`. Where it is a link into /run, the file is made
    there; a plain file gets another one mounted over it; a missing one stays missing."""
    if resolver.is_relative_to("/run"):
        resolver.parent.mkdir(parents=True, exist_ok=True)
        resolver.write_text(content)
    elif resolver.is_file():
        own = Path("/run/resolv.conf")
        own.write_text(content)
        kernel.mount(str(own), resolver, flags=kernel.MS_BIND)


def _private_directory(directory: Path) -> None:
    """Make `directory` a mount of its own that passes nothing on."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if str(directory) not in mount_points():
        kernel.mount(str(directory), directory, flags=kernel.MS_BIND)
        kernel.mount("none", directory, flags=kernel.MS_PRIVATE)


def show_at(directory: Path, place: Path) -> None:
    """Let what is in `directory` appear at `place` of this process's namespace, once and for all.
    What is mounted below appears there only: the place is a peer group of its own."""
    if str(place) in mount_points():
        return
    for each in (directory, place):
        each.mkdir(mode=0o750, parents=True, exist_ok=True)
    kernel.mount(str(directory), place, flags=kernel.MS_BIND | kernel.MS_REC)
    kernel.mount("none", place, flags=kernel.MS_PRIVATE)
    kernel.mount("none", place, flags=kernel.MS_SHARED)


def enter(pins: Pins) -> None:
    """Move this process into the node. It must have one thread only, or the kernel refuses."""
    descriptors = {
        kind: os.open(pins.file(kind), os.O_RDONLY | os.O_CLOEXEC) for kind in pins.kinds()
    }
    try:
        for kind, descriptor in descriptors.items():
            kernel.setns(descriptor, KINDS[kind])
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    os.chdir("/")


def destroy(pins: Pins) -> None:
    """Let go of a node's namespaces. They end with the last process inside."""
    for kind in KINDS:
        target = pins.file(kind)
        while is_namespace(target):
            kernel.umount(target, kernel.MNT_DETACH)
        target.unlink(missing_ok=True)


def release_directory(directory: Path) -> None:
    """Undo `_private_directory`, once the last pin is gone, and remove the place that nodes mount
    over if nothing else has ever used it."""
    while str(directory) in mount_points():
        kernel.umount(directory, kernel.MNT_DETACH)
    for place in (CNI_STATE, Path(CNI_PROGRAMS), Path(CNI_PROGRAMS).parent):
        with contextlib.suppress(OSError):
            place.rmdir()


def identities(pins: Pins) -> dict[str, int]:
    """The inode numbers by which processes inside the node are told."""
    return {kind: pins.file(kind).stat().st_ino for kind in KINDS if is_namespace(pins.file(kind))}


def processes_inside(pins: Pins) -> list[int]:
    """Every process in the node's mount or network namespace: agents, the container runtime and
    its shims, containers that use the node's network. Containers with namespaces of their own
    are found by their control group instead."""
    wanted = identities(pins)
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and _is_inside(entry.name, wanted):
            found.append(int(entry.name))
    return found


def _is_inside(pid: str, wanted: dict[str, int]) -> bool:
    for kind in ("mnt", "net"):
        try:
            if kind in wanted and os.stat(f"/proc/{pid}/ns/{kind}").st_ino == wanted[kind]:
                return True
        except OSError:
            return False  # it has ended meanwhile
    return False


def mount_points() -> list[str]:
    """Where something is mounted in this process's namespace, in the order of mounting."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4].encode().decode("unicode_escape") for line in lines]


def usable_resolver(texts: Sequence[str]) -> str:
    """The first resolver configuration that works from inside a node: one with at least one
    server that is not on the host's loopback, which the node cannot reach. Only such servers are
    kept. When there is none, the last resort is a configuration without servers, so that names
    outside the cluster fail at once instead of after a time-out."""
    for text in texts:
        lines = text.splitlines()
        kept = [line for line in lines if not _is_loopback_server(line)]
        if any(line.split()[:1] == ["nameserver"] for line in kept):
            return "\n".join(kept) + "\n"
    return "".join(
        f"{line}\n"
        for line in (texts[0].splitlines() if texts else [])
        if line.split()[:1] != ["nameserver"]
    )


def _is_loopback_server(line: str) -> bool:
    words = line.split()
    if words[:1] != ["nameserver"] or len(words) < 2:
        return False
    return words[1].startswith("127.") or words[1] in ("::1", "0.0.0.0")


def host_resolver() -> str:
    """The host's resolver configuration as nodes can use it."""
    files = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
    return usable_resolver([Path(file).read_text() for file in files if Path(file).is_file()])


if __name__ == "__main__":
    main()
