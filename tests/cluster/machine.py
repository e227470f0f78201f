"""A machine's state as tests of whole clusters look at it, and the commands they run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.images.busybox import build_busybox

from navarch.cluster import namespaces, processes
from navarch.cluster.namespaces import Pins
from navarch.cluster.profile import Paths, Profile

SHELL_IMAGE = "navarch.local/test-shell:1"


@dataclass
class Machine:
    """Runs `navarch` and `kubectl` with a home of its own."""

    home: Path
    kubeconfig: Path
    namespaces: dict[str, set[int]] = field(default_factory=dict)
    """Namespaces of nodes, by profile, to look for survivors. The kernel uses their numbers again,
    so they are to be noted right before they shall go."""

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "NAVARCH_HOME": str(self.home),
            "KUBECONFIG": str(self.kubeconfig),
        }

    def navarch(self, *words: str, expect: int | None = 0) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "navarch.cli.main", *words],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        output = result.stdout + result.stderr
        assert expect is None or result.returncode == expect, f"{words}: {output}"
        return output

    def kubectl(self, *words: str, feed: str | None = None, expect: int | None = 0) -> str:
        result = subprocess.run(
            ["kubectl", *words],
            env=self.environment(),
            input=feed,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert expect is None or result.returncode == expect, f"{words}: {result.stderr}"
        return result.stdout

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def paths(self, profile: str) -> Paths:
        return Paths(self.home / profile)

    def profile(self, name: str) -> Profile:
        return Profile(**json.loads(self.paths(name).profile.read_bytes()))

    def cgroup(self, profile: Profile) -> str:
        """The profile's control group, as the commands see it, which have this home."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NAVARCH_HOME", str(self.home))
            return profile.cgroup

    def pid(self, profile: str, process: str) -> int:
        found = processes.read_pid_file(self.paths(profile).run / f"{process}.pid")
        return found.pid if found else 0

    def pids(self, profile: str) -> dict[str, int]:
        """Every process of the cluster itself that lives."""
        files = self.paths(profile).run.glob("*.pid")
        found = {file.stem: self.pid(profile, file.stem) for file in files}
        return {name: pid for name, pid in found.items() if pid}

    def kill(self, profile: str, names: Sequence[str]) -> None:
        pids = [self.pid(profile, name) for name in names]
        assert all(pids), names
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert not processes.wait_gone(pids, 60)

    def hasten_loss(self, profile: str) -> None:
        """Have nodes be held for lost soon after their last sign of life; they give one every ten
        seconds."""
        file = self.paths(profile).run / "controllers.json"
        options = json.loads(file.read_bytes())
        options["components"]["controllers"]["node_monitor_grace_seconds"] = 12.0
        file.write_text(json.dumps(options))
        self.kill(profile, ["controllers"])

    def remember_namespaces(self, profile: str) -> None:
        paths = self.paths(profile)
        self.namespaces[profile] = {
            number
            for file in paths.pins.glob("*.mnt")
            for number in namespaces.identities(Pins(paths.pins, file.stem)).values()
        }

    def traces(self, profile: Profile) -> list[str]:
        """Everything on this machine that belongs to a cluster, as lines of text."""
        root = self.paths(profile.name).root
        found = [f"file {path}" for path in root.rglob("*")] if root.exists() else []
        found += [f"mount {line}" for line in namespaces.mount_points() if f"{root}/" in line]
        group = self.cgroup(profile)
        found += [f"cgroup {path}" for path in processes.cgroup_directories(group)]
        found += [
            f"link {link['ifname']}"
            for link in self._json("ip", "-j", "link")
            if link["ifname"].startswith(profile.bridge)
        ]
        found += [
            f"route {route['dst']}"
            for route in self._json("ip", "-j", "route", "show", "table", "all")
            if route.get("dst") in (profile.service_cidr, profile.pod_cidr, profile.subnet)
        ]
        tables = subprocess.run(
            ["nft", "list", "tables"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        found += [f"nftables {line}" for line in tables if line.endswith(f" {profile.bridge}")]
        return found + self._processes(profile)

    def _json(self, *command: str) -> Any:
        return json.loads(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout
        )

    def _processes(self, profile: Profile) -> list[str]:
        """Processes in the nodes' namespaces count where they inherited our control group, or are
        in the profile's. A container of somebody else may have got the number of a namespace that
        is gone, but has a group of its own."""
        root = str(self.paths(profile.name).root)
        known = self.namespaces.get(profile.name, set())
        inherited = Path("/proc/self/cgroup").read_text()
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                command = (
                    (directory / "cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode(errors="replace")
                )
                groups = (directory / "cgroup").read_text()
                inside = (directory / "ns" / "mnt").stat().st_ino in known and groups == inherited
            except OSError:
                continue
            ours = root in command and int(directory.name) != os.getpid()
            if ours or inside or f"{self.cgroup(profile)}/" in groups:
                found.append(f"process {directory.name} {command}")
        return found


def pod(name: str, command: str, node: str = "", **spec: Any) -> str:
    """A manifest of a pod that runs a line of shell, as JSON."""
    container = {
        "name": "main",
        "image": SHELL_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", command],
    }
    body: dict[str, Any] = {
        "containers": [container],
        "terminationGracePeriodSeconds": 1,
        **spec,
    }
    if node:
        body["nodeName"] = node
    metadata = {"name": name, "labels": {"app": name}}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body})


@contextmanager
def a_cluster(name: str, *flags: str) -> Iterator[Machine]:
    """A machine with a cluster that has the shell's image; in the end there is nothing of it."""
    home = Path(tempfile.mkdtemp(prefix="navarch-test-"))
    machine = Machine(home / "home", home / "kubeconfig")
    try:
        machine.navarch("start", "-p", name, *flags)
        archive = build_busybox(home / "shell.tar", SHELL_IMAGE)
        machine.navarch("image", "load", "-p", name, str(archive))
        yield machine
    finally:
        machine.navarch("delete", "--all", expect=None)
        shutil.rmtree(home, ignore_errors=True)
