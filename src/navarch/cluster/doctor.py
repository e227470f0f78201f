"""`navarch doctor`: what this machine offers, and how to mend what it lacks.

A table of checks. Each asks one question of the machine and answers with a level and, where
something is wrong, the way to mend it. Nothing is changed on the machine: kernel features are tried
out in a child process with namespaces of its own, which vanish with it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from navarch.cluster import containerd, kernel, profile
from navarch.cluster.setup import missing_packages


class Level(Enum):
    GOOD = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one check."""

    name: str
    level: Level
    found: str
    mend: str = ""

    def text(self) -> str:
        line = f"[{self.level.value:>4}] {self.name}: {self.found}"
        return f"{line}\n       {self.mend}" if self.mend else line

    def data(self) -> dict[str, str]:
        return {
            "name": self.name,
            "level": self.level.value,
            "found": self.found,
            "mend": self.mend,
        }


def examine() -> list[Finding]:
    """Every check's finding, in the order of the table."""
    return [check() for check in CHECKS]


def _good(name: str, found: str) -> Finding:
    return Finding(name, Level.GOOD, found)


def python_version() -> Finding:
    return _good("Python", f"{platform.python_version()}, {ssl.OPENSSL_VERSION}")


SQLITE_FIXED = (3, 51, 3)


def sqlite_version() -> Finding:
    """The store brings its own SQLite, since older ones can damage a write-ahead log that two
    connections reset at once (https://sqlite.org/wal.html#walresetbug)."""
    import apsw

    found = str(apsw.sqlite_lib_version())
    if version_numbers(found) < SQLITE_FIXED:
        return Finding("SQLite", Level.BAD, found, "Run: pip install --upgrade apsw")
    return _good("SQLite", f"{found} (apsw)")


def version_numbers(text: str) -> tuple[int, ...]:
    """The first dotted number in a text, for comparing."""
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def root() -> Finding:
    if os.geteuid() != 0:
        return Finding(
            "root",
            Level.NOTE,
            "not root: only --nodes 0 and --simulated work",
            "For real nodes: sudo navarch start",
        )
    return _good("root", "yes")


CAPABILITIES = {
    "CAP_SYS_ADMIN": (21, Level.BAD, "namespaces and mounts cannot be made"),
    "CAP_NET_ADMIN": (12, Level.BAD, "networks cannot be made"),
    "CAP_MKNOD": (27, Level.BAD, "containers get no devices"),
    "CAP_SYS_CHROOT": (18, Level.BAD, "containers cannot be started"),
    "CAP_SYS_RESOURCE": (24, Level.NOTE, "containers keep their parent's OOM score; tolerated"),
}


def capabilities() -> Finding:
    lacking = [
        name
        for name, (number, _, _) in CAPABILITIES.items()
        if not containerd.has_capability(number)
    ]
    if not lacking:
        return _good("capabilities", "complete")
    bad = [name for name in lacking if CAPABILITIES[name][1] is Level.BAD]
    text = "; ".join(f"no {name}: {CAPABILITIES[name][2]}" for name in lacking)
    if bad and os.geteuid() == 0:
        mend = "Run outside of the container, or give it these capabilities (--privileged)."
        return Finding("capabilities", Level.BAD, text, mend)
    return Finding("capabilities", Level.NOTE, text if os.geteuid() == 0 else "not root")


WANTED_CONTROLLERS = ("cpu", "cpuset", "memory", "pids")


def cgroups() -> Finding:
    """Version and controllers of the control groups (cgroups(7))."""
    mounts = {
        line.split()[2] + ":" + line.split()[1]
        for line in Path("/proc/mounts").read_text().splitlines()
        if line.split()[2] in ("cgroup", "cgroup2")
    }
    return judge_cgroups(mounts, Path("/proc/cgroups").read_text(), _unified_controllers())


def _unified_controllers() -> str:
    file = Path("/sys/fs/cgroup/cgroup.controllers")
    return file.read_text() if file.is_file() else ""


def judge_cgroups(mounts: set[str], table: str, unified: str) -> Finding:
    """The verdict on control groups from what the kernel's files say."""
    if not mounts:
        return Finding(
            "cgroups", Level.BAD, "not mounted", "Mount them: mount -t cgroup2 none /sys/fs/cgroup"
        )
    version = "v2" if "cgroup2:/sys/fs/cgroup" in mounts else "v1"
    if version == "v2":
        there = set(unified.split())
    else:
        rows = [line.split() for line in table.splitlines() if not line.startswith("#")]
        there = {row[0] for row in rows if row[3] == "1"}
    lacking = [name for name in WANTED_CONTROLLERS if name not in there]
    if lacking:
        return Finding(
            "cgroups",
            Level.BAD,
            f"{version} without {', '.join(lacking)}",
            "Boot the kernel with cgroup_enable=memory systemd.unified_cgroup_hierarchy=1.",
        )
    return _good("cgroups", f"{version} with {', '.join(WANTED_CONTROLLERS)}")


def tools() -> Finding:
    missing = missing_packages()
    if missing:
        return Finding(
            "packages", Level.BAD, f"missing: {', '.join(missing)}", "Run: sudo navarch setup"
        )
    return _good("packages", "all installed")


VERSIONS = (
    ("containerd", ("containerd", "--version"), (1, 6)),
    ("runc", ("runc", "--version"), (1, 1)),
    ("nft", ("nft", "--version"), (1, 0, 1)),
)


def _tool_version(name: str, command: tuple[str, ...], least: tuple[int, ...]) -> Finding:
    program = shutil.which(command[0])
    if program is None:
        return Finding(name, Level.BAD, "not installed", "Run: sudo navarch setup")
    result = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, timeout=10, check=False
    )
    found = version_numbers(result.stdout.replace("~", " "))
    text = ".".join(str(part) for part in found) or "unknown version"
    if found < least:
        wanted = ".".join(str(part) for part in least)
        return Finding(name, Level.BAD, text, f"Version {wanted} or newer is needed.")
    return _good(name, text)


def buildah() -> Finding:
    if shutil.which("buildah") is None:
        return Finding(
            "buildah", Level.NOTE, "not installed: no image build", "sudo navarch setup --build"
        )
    return _good("buildah", "installed")


def kubectl() -> Finding:
    program = shutil.which("kubectl")
    if program is None:
        return Finding(
            "kubectl", Level.NOTE, "not installed", "See https://kubernetes.io/docs/tasks/tools/"
        )
    return _good("kubectl", program)


def disk() -> Finding:
    place = profile.home()
    while not place.exists():
        place = place.parent
    return judge_disk(str(place), shutil.disk_usage(place).free)


def judge_disk(place: str, free: int) -> Finding:
    gigabytes = free / 2**30
    text = f"{gigabytes:.1f} GiB free at {place}"
    if gigabytes < 1:
        return Finding("disk", Level.BAD, text, "Make room, or set NAVARCH_HOME to another disk.")
    if gigabytes < 5:
        return Finding("disk", Level.NOTE, text, "Images need room: 5 GiB or more is good.")
    return _good("disk", text)


def forwarding_firewall() -> Finding:
    """A host firewall that drops forwarded packets cuts the nodes off from the world."""
    if os.geteuid() != 0 or shutil.which("nft") is None:
        return Finding("firewall", Level.NOTE, "not looked at: needs root and nft")
    result = subprocess.run(
        ["nft", "list", "chains"], capture_output=True, text=True, timeout=10, check=False
    )
    return judge_firewall(result.stdout)


def judge_firewall(chains: str) -> Finding:
    """Whether a chain of the forward hook drops by default, in `nft list chains`."""
    table = ""
    for line in chains.splitlines():
        if line.startswith("table "):
            table = line.removeprefix("table ").rstrip(" {")
        if "hook forward" in line and "policy drop" in line:
            return Finding(
                "firewall",
                Level.NOTE,
                f"table {table} drops forwarded packets: pods may not reach the world",
                "Allow them there, such as: nft insert rule "
                f'{table} <chain> iifname "navarch*" accept',
            )
    return _good("firewall", "lets forwarded packets pass")


def _feature(name: str, attempt: Callable[[], None], mend: str) -> Finding:
    """Try a kernel feature in a child that has network and mount namespaces of its own."""
    if os.geteuid() != 0:
        return Finding(name, Level.NOTE, "not tried: needs root")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET)
            kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
            attempt()
        except BaseException as error:
            os.write(write, str(error).encode()[:500] or b"failed")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        problem = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    if problem:
        return Finding(name, Level.BAD, problem, mend)
    return _good(name, "works")


def _try_overlay() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        kernel.mount("tmpfs", scratch, "tmpfs")
        if not containerd.overlay_works(Path(scratch)):
            raise OSError("overlays cannot be mounted")
        kernel.umount(scratch)


def _try_link(kind: str, **settings: object) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        netlink.link("add", ifname="nvtest0", kind=kind, **settings)


def _try_rules() -> None:
    rules = """table ip navarch_doctor {
        map services { type ipv4_addr . inet_proto . inet_service : verdict; }
        chain nat {
            type nat hook prerouting priority dstnat;
            ip daddr . meta l4proto . th dport vmap @services
            numgen random mod 2 0 dnat to 10.0.0.1
        }
        chain out {
            type nat hook postrouting priority srcnat;
            masquerade
        }
        chain guard {
            type filter hook forward priority filter;
            reject
        }
    }"""
    result = subprocess.run(
        ["nft", "-f", "-"], input=rules, capture_output=True, text=True, timeout=10, check=False
    )
    if result.returncode != 0:
        raise OSError(result.stderr.strip().splitlines()[0])


def pods_go_without() -> Finding:
    """What the kernel cannot do for pods; a node runs all the same."""
    from navarch.node.features import lacks

    found = [str(each) for each in lacks()]
    if not found:
        return _good("features for pods", "complete")
    return Finding("features for pods", Level.NOTE, "; ".join(found))


MODULES = "Load the module: modprobe {}; or use a distribution kernel."

CHECKS: tuple[Callable[[], Finding], ...] = (
    python_version,
    sqlite_version,
    root,
    capabilities,
    cgroups,
    tools,
    *(lambda row=row: _tool_version(*row) for row in VERSIONS),
    buildah,
    kubectl,
    disk,
    lambda: _feature("overlay file system", _try_overlay, MODULES.format("overlay")),
    lambda: _feature("veth", lambda: _try_link("veth", peer="nvtest1"), MODULES.format("veth")),
    lambda: _feature("bridge", lambda: _try_link("bridge"), MODULES.format("bridge")),
    lambda: _feature(
        "VXLAN", lambda: _try_link("vxlan", vxlan_id=1, vxlan_port=4789), MODULES.format("vxlan")
    ),
    lambda: _feature("nftables", _try_rules, MODULES.format("nf_tables nft_nat nft_reject")),
    forwarding_firewall,
    pods_go_without,
)
