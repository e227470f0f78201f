"""A busybox image like Docker Hub's, from the package busybox-static."""

from __future__ import annotations

import subprocess
from pathlib import Path

from navarch.node.images.oci import ImageConfig, ImageFile, build_image

BUSYBOX = "docker.io/library/busybox:1.36"

_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUP = b"root:x:0:\nnogroup:x:65534:\n"


def busybox_files() -> dict[str, ImageFile]:
    """The content: one static executable, a link per applet, and users."""
    executable = Path("/bin/busybox").read_bytes()
    listing = subprocess.run(
        ["/bin/busybox", "--list"], capture_output=True, text=True, check=True
    ).stdout
    links = {
        f"bin/{name}": ImageFile(link_to="busybox") for name in listing.split() if name != "busybox"
    }
    return {
        **links,
        "bin/busybox": ImageFile(executable, mode=0o755),
        "etc/passwd": ImageFile(_PASSWD),
        "etc/group": ImageFile(_GROUP),
        "root": ImageFile(directory=True, mode=0o700),
        "tmp": ImageFile(directory=True, mode=0o1777),
    }


def build_busybox(target: Path, name: str = BUSYBOX, config: ImageConfig | None = None) -> Path:
    """Writes the image as an archive to import."""
    return build_image(target, name, config or ImageConfig(cmd=["sh"]), files=busybox_files())
