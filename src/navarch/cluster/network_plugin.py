"""Somebody else's network plug-in in place of ours: `navarch start --cni FILE|false|bridge`.

A CNI configuration is put into every node's directory, before which nothing of ours is there. A
manifest, as the authors of plug-ins publish them, is applied when the API server answers; its
DaemonSet writes into the nodes' `/etc/cni/net.d` and `/opt/cni/bin`, which are each node's own.
With `false` the user does either of it, and nodes become ready when they have.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from navarch.cluster.api import Api
from navarch.cluster.profile import (
    CNI_CONFIGURATIONS,
    ClusterError,
    Paths,
    Profile,
    update_file,
    write_file,
)
from navarch.cluster.progress import Progress

OURS, NOBODY = "bridge", "false"
MANIFESTS = (".yaml", ".yml")
INTERVAL = 0.1
BRIDGE_FILTER = Path("/proc/sys/net/bridge")


def adopt(profile: Profile, paths: Paths, given: str) -> Profile:
    """The profile as the flag wants it. A file is copied, since the user's own may go away."""
    if given in (OURS, "auto"):
        return replace(profile, cni="")
    if given == NOBODY:
        return replace(profile, cni=NOBODY)
    source = Path(given).expanduser()
    if source.suffix not in CNI_CONFIGURATIONS + MANIFESTS:
        raise ClusterError(
            f"--cni {given}: neither bridge nor false nor a file of a known kind",
            f"Files end with {', '.join(CNI_CONFIGURATIONS + MANIFESTS)}.",
        )
    try:
        content = source.read_bytes()
        if source.suffix in CNI_CONFIGURATIONS:
            _check(json.loads(content))
    except (OSError, ValueError) as error:
        raise ClusterError(f"--cni {given}: {error}", "Mend the file.") from error
    paths.create()
    name = f"cni{source.suffix}"
    write_file(paths.root / name, content, 0o644)
    return replace(profile, cni=name)


def _check(found: object) -> None:
    """Raises ValueError for what no runtime would take."""
    is_one = isinstance(found, dict) and isinstance(found.get("name"), str)
    if not is_one or not (found.get("plugins") or found.get("type")):  # type: ignore[attr-defined]
        raise ValueError("a CNI configuration has a name, and plugins or a type")


def place(profile: Profile, paths: Paths, node: str) -> None:
    """Bring a node's directory of configurations to what the profile says."""
    directory = paths.node(node) / "cni"
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    if profile.cni:
        (directory / "10-navarch.conflist").unlink(missing_ok=True)
    suffix = Path(profile.cni).suffix
    for old in CNI_CONFIGURATIONS:
        if old != suffix:
            (directory / f"05-user{old}").unlink(missing_ok=True)
    if suffix in CNI_CONFIGURATIONS:
        content = (paths.root / profile.cni).read_bytes()
        update_file(directory / f"05-user{suffix}", content, 0o644)


def notes(profile: Profile, paths: Paths, has_filter: bool) -> list[str]:
    """What the user should know of the network that was chosen. `has_filter`: the kernel shows
    bridged packets to nftables (br_netfilter)."""
    found = []
    if not profile.enforces_policies:
        found.append(
            "NetworkPolicies are left to your network plug-in (--network-policy on: enforced here)"
        )
    if profile.cni.endswith(CNI_CONFIGURATIONS) and not has_filter:
        content = json.loads((paths.root / profile.cni).read_bytes())
        if "bridge" in [each.get("type") for each in content.get("plugins") or [content]]:
            found.append(
                "pods on one bridge reach each other past Services and NetworkPolicies, until "
                "you run: modprobe br_netfilter"
            )
    return found


def install(profile: Profile, paths: Paths, progress: Progress, timeout: float) -> None:
    """Apply the manifest, if that is what the user gave."""
    if Path(profile.cni).suffix not in MANIFESTS:
        return
    program = shutil.which("kubectl")
    if program is None:
        raise ClusterError("kubectl is not installed, which applies the manifest", "navarch setup")
    progress.step("Installing the network plug-in")
    api = Api(profile, paths)
    deadline = time.monotonic() + timeout
    while not api.is_ready():
        if time.monotonic() > deadline:
            raise ClusterError("the API server is not ready in time", f"See {paths.logs}")
        time.sleep(INTERVAL)
    api.close()
    config = str(paths.kubeconfig("admin"))
    done = subprocess.run(
        [program, "--kubeconfig", config, "apply", "-f", str(paths.root / profile.cni)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ClusterError(f"the manifest cannot be applied: {done.stderr.strip()}")
