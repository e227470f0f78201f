"""A node's container runtime: its configuration, and bringing images into it.

Each node runs a containerd of its own inside the node's namespaces. Because the node's `/run` is
its own, the socket, the shims' sockets and the pinned pod networks are all at their usual paths
(`/run/containerd/containerd.sock`), and `ctr` or `crictl` in the node need no options. What must
outlive a reboot (images, snapshots, metadata) is in the node's directory.

The configuration is format version 2, which containerd 1.6 (Debian 12) and 2.x both read; 2.x
translates it by itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from navarch.cluster import kernel
from navarch.cluster.namespaces import Pins
from navarch.cluster.profile import ClusterError, update_file
from navarch.network.pods.cni import PREPARE, PREPARE_PROGRAM

SOCKET = "/run/containerd/containerd.sock"
ADDRESS = f"unix://{SOCKET}"
CAP_SYS_RESOURCE = 24
CNI_DIRECTORIES = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")

CHECK_SECONDS = 0.2
LEAST_ROOM = 1 << 30

ENVIRONMENT = {"GOGC": "40", "GOMEMLIMIT": "96MiB"}
"""A runtime for one machine's pods need not keep garbage about."""

UNUSED_PLUGINS = (
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.nri.v1.nri",
)


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """What a node's containerd is told."""

    root: Path
    cni_conf: Path
    cni_bin: str
    pause_image: str
    snapshotter: str
    restrict_oom_score: bool
    """Without CAP_SYS_RESOURCE a container's score cannot be lowered below its parent's."""


def config(settings: RuntimeSettings) -> str:
    """The configuration file."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    disabled = "".join(f"  {json.dumps(plugin)},\n" for plugin in UNUSED_PLUGINS)
    return f"""\
version = 2
root = {json.dumps(str(settings.root))}
state = "/run/containerd"
oom_score = 0
disabled_plugins = [
{disabled}]

[grpc]
  address = "{SOCKET}"

[{cri}]
  sandbox_image = {json.dumps(settings.pause_image)}
  restrict_oom_score_adj = {json.dumps(settings.restrict_oom_score)}
  enable_cdi = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  tolerate_missing_hugetlb_controller = true
  [{cri}.cni]
    bin_dir = {json.dumps(settings.cni_bin)}
    conf_dir = {json.dumps(str(settings.cni_conf))}
    max_conf_num = 1
  [{cri}.containerd]
    snapshotter = {json.dumps(settings.snapshotter)}
    default_runtime_name = "runc"
    [{cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [{cri}.containerd.runtimes.runc.options]
        SystemdCgroup = false
  [{cri}.registry]
    config_path = "/etc/containerd/certs.d"
"""


def settings(directory: Path, pause_image: str) -> RuntimeSettings:
    """Settings that fit this machine. `directory` is the node's."""
    root = directory / "containerd"
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    conf = directory / "cni"
    conf.mkdir(mode=0o755, exist_ok=True)
    return RuntimeSettings(
        root=root,
        cni_conf=conf,
        cni_bin=str(plugins(directory / "cni-bin")),
        pause_image=pause_image,
        snapshotter="overlayfs" if overlay_works(root) else "native",
        restrict_oom_score=not has_capability(CAP_SYS_RESOURCE),
    )


def cni_directory() -> str:
    """Where the CNI plug-ins are installed."""
    for directory in CNI_DIRECTORIES:
        if Path(directory, "host-local").is_file():
            return directory
    raise ClusterError("the CNI plug-ins are not installed", "Run: navarch setup")


def has_plugin(name: str) -> bool:
    """Whether a CNI plug-in is installed."""
    return any(Path(directory, name).is_file() for directory in CNI_DIRECTORIES)


def plugins(directory: Path) -> Path:
    """A node's own directory of CNI plug-ins: those of the machine, the one of ours, and what the
    user's network plug-in puts beside them."""
    directory.mkdir(mode=0o755, exist_ok=True)
    for program in Path(cni_directory()).iterdir():
        link = directory / program.name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(program)
    update_file(directory / PREPARE, PREPARE_PROGRAM.encode(), 0o755)
    return directory


def sandboxes(directory: Path) -> Path:
    """Where the runtime has a directory for each pod sandbox that it knows."""
    return directory / "containerd" / "io.containerd.grpc.v1.cri" / "sandboxes"


def has_capability(number: int) -> bool:
    """Whether this process has a capability, by its number in capabilities(7)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def overlay_works(directory: Path) -> bool:
    """Whether overlays can be mounted on the file system of `directory`: not where it is an
    overlay itself, as inside another container. Found out by trying."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".overlay-") as scratch:
        for name in ("lower", "upper", "work", "merged"):
            Path(scratch, name).mkdir()
        options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
        try:
            kernel.mount("overlay", f"{scratch}/merged", "overlay", data=options)
        except OSError:
            return False
        kernel.umount(f"{scratch}/merged")
        return True


def prepare(directory: Path, pause_image: str) -> Path:
    """Write the node's containerd configuration; returns its path."""
    path = directory / "containerd.toml"
    update_file(path, config(settings(directory, pause_image)).encode())
    return path


def program() -> str:
    found = shutil.which("containerd")
    if found is None:
        raise ClusterError("containerd is not installed", "Run: navarch setup")
    return found


def run_in_node(
    pins: Pins,
    command: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> subprocess.CompletedProcess[str]:
    """Run a program inside the node and collect what it prints. A small helper process enters
    the node first, since this one may have threads. While it runs, `check` is called every now and
    then; if it raises, the program is ended."""
    helper = [sys.executable, "-P", "-S", "-m", "navarch.cluster.enter"]
    with subprocess.Popen(
        [*helper, str(pins.directory), pins.node, "--", *command],
        stdin=stdin if stdin is not None else subprocess.DEVNULL,
        stdout=stdout if stdout is not None else subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    printed, complaint = process.communicate(timeout=CHECK_SECONDS)
                    break
                check()
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, printed, complaint)


def ctr(
    pins: Pins,
    arguments: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> str:
    """Run containerd's own client against the node's runtime, among Kubernetes' images."""
    command = ["ctr", "--address", SOCKET, "--namespace", "k8s.io", *arguments]
    result = run_in_node(pins, command, stdin=stdin, stdout=stdout, check=check)
    if result.returncode != 0:
        complaint = result.stderr.strip().removeprefix("ctr: ")
        raise ClusterError(
            f"node {pins.node}: {complaint}", "See the node's log: navarch logs --file containerd"
        )
    return result.stdout or ""


class NoRoom(ClusterError):
    """The disk is nearly full."""


def check_room(pins: Pins) -> None:
    """Raises `NoRoom` when images have nearly filled the disk: one that was made to unpack
    without end must not take the machine with it."""
    disk = shutil.disk_usage(pins.directory)
    if disk.free < min(LEAST_ROOM, disk.total // 20):
        raise NoRoom(
            f"node {pins.node}: the image does not fit on the disk",
            "Make room: navarch image ls, navarch image rm IMAGE",
        )


def import_archive(pins: Pins, archive: Path) -> list[str]:
    """Bring an OCI or Docker archive into the node. The file is handed over as an open
    descriptor, since the node may not see its path. Returns the names of the images."""
    command = ["images", "import", "--digests=false", "-"]
    began = datetime.now(UTC).replace(microsecond=0)
    try:
        with archive.open("rb") as file:
            output = ctr(pins, command, stdin=file.fileno(), check=lambda: check_room(pins))
    except NoRoom:
        _drop_leases(pins, began)
        raise
    return imported(output)


def imported(output: str) -> list[str]:
    """The names of the images that `ctr images import` says it has brought: containerd 1 tells of
    each that it unpacks it, containerd 2 that it is saved."""
    found = re.findall(r"^(?:unpacking (\S+)|(\S+)\s+saved\b)", output, re.MULTILINE)
    return [*dict.fromkeys((unpacked or saved).rstrip(".") for unpacked, saved in found)]


def _drop_leases(pins: Pins, since: datetime) -> None:
    """Let go of what a client that was ended has brought; it would be kept for a day."""
    for line in ctr(pins, ["leases", "ls"]).splitlines()[1:]:
        lease, created, *_ = line.split()
        if datetime.fromisoformat(created) >= since:
            ctr(pins, ["leases", "rm", "--sync", lease])
