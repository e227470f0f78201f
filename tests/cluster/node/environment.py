"""A private containerd in a network namespace of its own, for tests of the node agent.

The test process itself enters that namespace: the API server of the test, the agent and the pods
then see each other as on a real node, and nothing leaves it.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.images.busybox import build_busybox

from navarch.node.images.pause import PAUSE_IMAGE, build_pause_image

CGROUP_ROOT = f"/navarch-test-{os.getpid()}"
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class RuntimeEnvironment:
    """A running containerd."""

    directory: Path
    socket: Path
    namespace: str
    cgroup_root: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """containerd, without the containers: those have shims."""
        return self.processes[-1]

    def start(self) -> None:
        """Starts containerd (again)."""
        with (self.directory / "containerd.log").open("ab") as log:
            started = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.namespace}", "containerd", "--config",
                 str(self.directory / "config.toml")],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.processes.append(started)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)

    def wait_until_serving(self) -> None:
        deadline = time.monotonic() + 60
        command = ["ctr", "-a", str(self.socket), "version"]
        while subprocess.run(command, capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < deadline, (self.directory / "containerd.log").read_text()
            time.sleep(0.05)


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout


def enter_network(path: str) -> None:
    """Moves the calling thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path) as namespace:
        assert libc.setns(namespace.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def import_image(environment: RuntimeEnvironment, archive: Path) -> None:
    """Brings an image archive into containerd."""
    run("ctr", "-a", str(environment.socket), "-n", "k8s.io", "images", "import", str(archive))


@contextmanager
def network() -> Iterator[str]:
    """A network namespace, by its name."""
    name = f"nvtest-{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "del", name)


@contextmanager
def containerd(directory: Path, namespace: str, subnet: str) -> Iterator[RuntimeEnvironment]:
    """Starts containerd with two images and takes everything of it away at the end."""
    socket = directory / "containerd.sock"
    environment = RuntimeEnvironment(directory, socket, namespace, CGROUP_ROOT)
    _write_configuration(environment, subnet)
    environment.start()
    try:
        environment.wait_until_serving()
        for archive in (
            build_pause_image(directory / "pause.tar"),
            build_busybox(directory / "busybox.tar"),
        ):
            import_image(environment, archive)
        yield environment
    finally:
        _tear_down(environment)


def _write_configuration(environment: RuntimeEnvironment, subnet: str) -> None:
    directory = environment.directory
    cni = directory / "cni"
    cni.mkdir(parents=True, exist_ok=True)
    bridge = {
        "type": "bridge",
        "bridge": "nvt0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(directory / "ipam"),
            "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    document = {"cniVersion": "0.4.0", "name": "test", "plugins": [bridge, portmap]}
    (cni / "10-bridge.conflist").write_text(json.dumps(document))
    (directory / "config.toml").write_text(f"""
version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
  address = "{environment.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  enable_cdi = true
  cdi_spec_dirs = ["{directory}/cdi"]
  stream_server_address = "127.0.0.1"
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
""")


def _tear_down(environment: RuntimeEnvironment) -> None:
    """Shims outlive containerd, so what the tests have left running is ended through it."""
    ctr = ["ctr", "-a", str(environment.socket), "-n", "k8s.io"]
    listed = subprocess.run([*ctr, "tasks", "ls", "-q"], capture_output=True, text=True,
                            check=False).stdout.split()  # fmt: skip
    for task in listed:
        subprocess.run([*ctr, "tasks", "rm", "-f", task], capture_output=True, check=False)
    environment.process.terminate()
    try:
        environment.process.wait(60)
    finally:
        base = str(environment.directory)
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in reversed([point for point in points if point.startswith(base + "/")]):
            subprocess.run(["umount", "-l", point], check=False)
        _remove_cgroups(environment.cgroup_root)


def _remove_cgroups(root: str) -> None:
    """Shims may still be about to do the same, and processes about to end. The kernel tells nobody
    when a group can go, so it is tried again and again."""
    deadline = time.monotonic() + 60
    roots = [Path(f"{tree}{root}") for tree in Path("/sys/fs/cgroup").iterdir()]
    while left := [own for own in roots if own.exists()]:
        assert time.monotonic() < deadline, left
        for own in left:
            for directory, _, _ in os.walk(own, topdown=False):
                with suppress(OSError):
                    Path(directory).rmdir()
        time.sleep(0.05)
