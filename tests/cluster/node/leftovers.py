"""What pods may leave behind on a machine: everything of a containerd and an agent, as text."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

from tests.cluster.node.environment import RuntimeEnvironment, run

NO_POD = {"last_reserved_ip.0", "lock"}


def leftovers(environment: RuntimeEnvironment) -> dict[str, set[str]]:
    """Mounts, links, addresses, cgroups, processes, and what containerd knows of."""
    ctr = ("ctr", "-a", str(environment.socket), "-n", "k8s.io")
    base = str(environment.directory)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    links = json.loads(run("ip", "-n", environment.namespace, "-j", "link"))
    addresses = environment.directory / "ipam/test"
    return {
        "mounts": {each for each in mounts if each.startswith(f"{base}/")},
        "links": {each["ifname"] for each in links if each["ifname"].startswith("veth")},
        "addresses": {each.name for each in _inside(addresses)} - NO_POD,
        "cgroups": {each for each in _cgroups(environment) if "/pod" in each},
        "shims": {str(pid) for pid in shims(environment)},
        "containers": set(run(*ctr, "containers", "ls", "-q").split()),
        "tasks": set(run(*ctr, "tasks", "ls", "-q").split()),
        "networks": {each for each in networks(environment) if Path(each).exists()},
        "pods": {
            str(each)
            for place in ("kubelet/pods", "logs")
            for each in environment.directory.glob(f"*/{place}/*")
        },
    }


def _inside(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _cgroups(environment: RuntimeEnvironment) -> set[str]:
    found = set()
    for tree in Path("/sys/fs/cgroup").iterdir():
        for directory, _, _ in os.walk(f"{tree}{environment.cgroup_root}"):
            found.add(directory)
    return found


def shims(environment: RuntimeEnvironment) -> list[int]:
    """The processes that hold the sandboxes."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (OSError, ValueError):
            continue
        if "containerd-shim" in words[0] and str(environment.socket) in " ".join(words):
            found.append(int(entry.name))
    return found


_known: dict[str, set[str]] = {}


def networks(environment: RuntimeEnvironment) -> set[str]:
    """The network namespaces that sandboxes of this containerd have had whenever this was asked."""
    ctr = ("ctr", "-a", str(environment.socket), "-n", "k8s.io", "containers")
    known = _known.setdefault(str(environment.directory), set())
    for container in run(*ctr, "ls", "-q").split():
        shown = subprocess.run([*ctr, "info", container], capture_output=True, check=False)
        if shown.returncode == 0:
            spec = json.loads(shown.stdout).get("Spec") or {}
            spaces = spec.get("linux", {}).get("namespaces", [])
            paths = {each.get("path", "") for each in spaces if each["type"] == "network"}
            known |= {each for each in paths if "/netns/cni-" in each}
    return known


async def until_clean(
    environment: RuntimeEnvironment, before: dict[str, set[str]], without: str = ""
) -> None:
    """Waits until there is nothing that was not there before."""
    left = before
    try:
        async with asyncio.timeout(60):
            while left:
                found = await asyncio.to_thread(leftovers, environment)
                left = {what: names - before[what] for what, names in found.items()
                        if names - before[what] and what != without}  # fmt: skip
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(left) from None
