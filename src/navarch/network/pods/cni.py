"""A node's CNI configuration, and the addresses that lost containers have left behind.

The configuration is a chain: a link from each pod to its node with an address from the node's own
ranges, bandwidth limits by a pod's annotations, host ports. Whoever wants another plug-in puts its
file beside this one: the runtime takes the first by name.

Pods of a node share no bridge. What one sends to another is routed, so that it passes the rules for
Services and policies in any kernel: bridged frames pass them only where the module br_netfilter is
loaded, which a container's user often cannot do. Nor can a pod answer for another's address.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG_NAME = "10-navarch.conflist"
NETWORK = "navarch"
ADDRESSES = Path("/var/lib/cni/networks", NETWORK)
"""Where the `host-local` plug-in notes which address is whose: a file per address, with the
container's id in its first line."""
PREPARE = "navarch-prepare"
PREPARE_PROGRAM = """\
#!/bin/sh
# The first plug-in of the pod network: makes a pod's network namespace ready for the others.
# Nobody looks for duplicates of IPv6 addresses, which are given out by the node: `ptp` waits until
# that is done, about two seconds for every pod.
case "$CNI_COMMAND" in
ADD) nsenter "--net=$CNI_NETNS" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad' &&
    echo '{"cniVersion": "1.0.0"}' ;;
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
esac
"""
YOUNGEST = 120.0
"""A younger note may be of a container that is just being made, in seconds."""


def config(
    cidrs: Iterable[str], mtu: int = 0, *, bandwidth: bool = True, prepare: bool = False
) -> str:
    """The pod network of a node. One address of each range: of two families, a pod has both.

    Packets to the world are masqueraded by the node's own table, not by the plug-in. The
    limits come before the host ports, whose plug-in takes over what it finds. `prepare`: the
    program for IPv6 is there."""
    ranges = list(cidrs)
    everywhere = ["::/0" if ":" in each else "0.0.0.0/0" for each in ranges]
    plugins: list[dict[str, Any]] = []
    if prepare and any(":" in each for each in ranges):
        plugins.append({"type": PREPARE})
    plugins.append(
        {
            "type": "ptp",
            "ipMasq": False,
            **({"mtu": mtu} if mtu else {}),
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": each}] for each in ranges],
                "routes": [{"dst": each} for each in everywhere],
            },
        }
    )
    if bandwidth:
        plugins.append({"type": "bandwidth", "capabilities": {"bandwidth": True}})
    plugins.append({"type": "portmap", "capabilities": {"portMappings": True}, "snat": True})
    network = {"cniVersion": "1.0.0", "name": NETWORK, "plugins": plugins}
    return json.dumps(network, indent=2) + "\n"


def write(directory: Path, content: str) -> bool:
    """Put the configuration into place, if it differs. Returns whether it did."""
    path = directory / CONFIG_NAME
    encoded = content.encode()
    if path.is_file() and path.read_bytes() == encoded:
        return False
    # The runtime loads the directory anew when a file in it is written or renamed, but not when
    # one is moved in. So the file is written elsewhere, whole, and renamed once inside.
    beside = directory.parent / CONFIG_NAME
    beside.write_bytes(encoded)
    beside.chmod(0o644)
    beside.replace(path.with_suffix(".new")).replace(path)
    return True


@dataclass(frozen=True, slots=True)
class Note:
    """That an address is taken."""

    name: str
    container: str
    age: float


def stale(notes: Iterable[Note], containers: Iterable[str]) -> list[str]:
    """The notes of containers that are no more. One without an id is what a crash has left while it
    was written: nobody's, like the others."""
    alive = set(containers)
    return [note.name for note in notes if note.container not in alive and note.age > YOUNGEST]


def clean(sandboxes: Path, now: float, directory: Path = ADDRESSES) -> list[str]:
    """Give back addresses of sandboxes that the runtime no longer knows, whose deletion was lost.
    Returns them. `sandboxes` has a directory for each one that the runtime knows."""
    if not directory.is_dir() or not sandboxes.is_dir():
        return []
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # The plug-in holds it while it chooses; it does so for moments.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        found = stale(_notes(directory, now), [entry.name for entry in sandboxes.iterdir()])
        for name in found:
            (directory / name).unlink(missing_ok=True)
        return found
    finally:
        os.close(descriptor)


def _notes(directory: Path, now: float) -> list[Note]:
    return [
        Note(
            entry.name,
            (entry.read_text(errors="replace").split() or [""])[0],
            now - entry.stat().st_mtime,
        )
        for entry in directory.iterdir()
        if entry.name != "lock" and not entry.name.startswith("last_reserved_ip")
    ]
