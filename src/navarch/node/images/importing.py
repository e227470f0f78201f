"""Brings image archives into containerd.

The importer is containerd's own client (`ctr`, which every containerd package carries): it reads
OCI and Docker archives, plain or compressed, and unpacks them for the default snapshotter. The CRI
plug-in learns of the new image by containerd's event, a moment after the import has ended.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

CRI_NAMESPACE = "k8s.io"


class ImportFailed(Exception):
    """containerd did not take the archive; the text is its own complaint."""


async def import_image(archive: Path, containerd_address: str) -> list[str]:
    """Imports an archive for use by pods; returns the names of the images in it."""
    process = await asyncio.create_subprocess_exec(
        *("ctr", "--address", containerd_address, "--namespace", CRI_NAMESPACE),
        *("images", "import", "--digests=false", str(archive)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaint = await process.communicate()
    if process.returncode != 0:
        raise ImportFailed(complaint.decode(errors="replace").strip())
    lines = output.decode(errors="replace").splitlines()
    return [line.split()[1] for line in lines if line.startswith("unpacking ")]
