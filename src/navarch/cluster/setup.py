"""`navarch setup`: the Debian packages that real nodes need.

What is there is found by the programs themselves, not by asking dpkg: a containerd from elsewhere
is as good, and looking is instant. Debian's containerd also starts a system service; nodes run
their own and leave it alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from navarch.cluster.containerd import CNI_DIRECTORIES
from navarch.cluster.profile import ClusterError


@dataclass(frozen=True, slots=True)
class Package:
    """A package and one of the things it is needed for: a program or a file."""

    name: str
    program: str = ""
    files: tuple[str, ...] = ()
    purpose: str = ""
    """What it is needed for, if not for every node."""

    def is_there(self, which: Callable[[str], str | None] = shutil.which) -> bool:
        if self.program:
            return which(self.program) is not None
        return any(Path(file).is_file() for file in self.files)


PACKAGES = (
    Package("containerd", "containerd"),
    Package("runc", "runc"),
    Package(
        "containernetworking-plugins",
        files=tuple(f"{directory}/host-local" for directory in CNI_DIRECTORIES),
    ),
    Package("nftables", "nft"),
    Package("iproute2", "ip"),
    Package("conntrack", "conntrack"),
    Package("busybox-static", "busybox"),
    Package("ca-certificates", files=("/etc/ssl/certs/ca-certificates.crt",)),
    Package("kubernetes-client", "kubectl"),
    Package("buildah", "buildah", purpose="build"),
    Package("nginx", "nginx", purpose="ingress"),
    Package(
        "libnginx-mod-http-lua",
        files=("/usr/lib/nginx/modules/ngx_http_lua_module.so",),
        purpose="ingress",
    ),
    Package("lua-cjson", files=("/usr/share/lua/5.1/cjson/util.lua",), purpose="ingress"),
)

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing_packages(*purposes: str) -> list[str]:
    """The packages to install: what every node needs, and what these purposes need. Users' search
    paths often lack the system directories, in which the programs are nevertheless."""

    def which(program: str) -> str | None:
        return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SEARCH_PATH}")

    return [
        package.name
        for package in PACKAGES
        if package.purpose in ("", *purposes) and not package.is_there(which)
    ]


def install(packages: list[str]) -> None:
    """Install packages with apt-get."""
    if shutil.which("apt-get") is None:
        raise ClusterError(
            "this is not a Debian system: apt-get is missing",
            f"Install with your system's package manager: {' '.join(packages)}",
        )
    if os.geteuid() != 0:
        raise ClusterError("installing packages needs root", "Run: sudo navarch setup")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    if subprocess.run(command, env=environment, check=False).returncode == 0:
        _quiet(packages)
        return
    # The list of packages may be older than the archive, or may never have been fetched.
    subprocess.run(["apt-get", "update", "-qq"], env=environment, check=False)
    if subprocess.run(command, env=environment, check=False).returncode != 0:
        raise ClusterError(
            "apt-get could not install the packages",
            f"See its messages above, and try: apt-get install {' '.join(packages)}",
        )
    _quiet(packages)


def _quiet(packages: list[str]) -> None:
    """Debian starts an nginx on the host's port 80 with the package. Nodes run their own."""
    if "nginx" in packages and shutil.which("systemctl"):
        subprocess.run(["systemctl", "disable", "--quiet", "--now", "nginx"], check=False)
