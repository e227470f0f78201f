"""Writes container images as OCI image archives, in pure Python and reproducibly.

An image here is one uncompressed layer (it is imported on the same machine, so compressing costs
time and saves nothing), a configuration and a manifest, in the layout that `ctr images import` and
every CRI runtime's importer read (OCI Image Layout 1.0). Two builds of the same content give the
same bytes: entries are sorted and times, owners and modes are explicit.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

_MEDIA_TYPE = "application/vnd.oci.image."
_CHUNK = 1 << 20


@dataclass(frozen=True)
class ImageConfig:
    """How a container of the image runs when the pod does not say otherwise."""

    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    user: str = ""
    exposed_ports: Sequence[str] = ()
    volumes: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    architecture: str = ""


@dataclass(frozen=True)
class ImageFile:
    """One entry made from memory: a file, or a symbolic link when `link_to` is set."""

    content: bytes = b""
    mode: int = 0o644
    user: int = 0
    group: int = 0
    link_to: str = ""
    directory: bool = False


def machine_architecture() -> str:
    """This machine's architecture in the words of OCI and Kubernetes (Go's GOARCH)."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}.get(machine, machine)


def build_image(
    target: Path,
    name: str,
    config: ImageConfig,
    *,
    files: Mapping[str, ImageFile] | None = None,
    rootfs: Path | None = None,
) -> Path:
    """Writes the image `name` (with tag) to the archive `target` and returns it.

    The content is the directory tree `rootfs` (if any) with `files` laid over it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=target.parent) as layer:
        digest, size = _write_layer(layer, files or {}, rootfs)
        layer.seek(0)
        _write_archive(target, name, config, _Layer(layer, digest, size))
    return target


def image_of_root(target: Path, name: str, config: ImageConfig, root: IO[bytes]) -> Path:
    """Writes the image `name` whose only layer is the tar stream `root`, a root file system as
    debootstrap and its like make them (`docker import`). `root` must be seekable."""
    digest, size = hashlib.sha256(), 0
    root.seek(0)
    while block := root.read(_CHUNK):
        digest.update(block)
        size += len(block)
    root.seek(0)
    _write_archive(target, name, config, _Layer(root, f"sha256:{digest.hexdigest()}", size))
    return target


@dataclass(frozen=True)
class _Layer:
    content: IO[bytes]
    digest: str
    size: int


def _write_archive(target: Path, name: str, config: ImageConfig, layer: _Layer) -> None:
    config_blob = _encode(_config_document(config, layer.digest))
    manifest = _encode(
        {
            "schemaVersion": 2,
            "mediaType": _MEDIA_TYPE + "manifest.v1+json",
            "config": _descriptor("config.v1+json", config_blob),
            "layers": [
                {
                    "mediaType": _MEDIA_TYPE + "layer.v1.tar",
                    "digest": layer.digest,
                    "size": layer.size,
                }
            ],
        }
    )
    index = _descriptor("manifest.v1+json", manifest)
    index["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    partial = target.with_name(f".{target.name}.partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
        _add_bytes(archive, "oci-layout", _encode({"imageLayoutVersion": "1.0.0"}))
        _add_bytes(archive, "index.json", _encode({"schemaVersion": 2, "manifests": [index]}))
        for blob in (manifest, config_blob):
            _add_bytes(archive, _blob_path(_digest(blob)), blob)
        entry = tarfile.TarInfo(_blob_path(layer.digest))
        entry.size = layer.size
        archive.addfile(entry, layer.content)
    os.replace(partial, target)


def _write_layer(
    output: IO[bytes], files: Mapping[str, ImageFile], rootfs: Path | None
) -> tuple[str, int]:
    hashing = _HashingWriter(output)
    overlaid = {path.strip("/"): entry for path, entry in files.items()}
    present: set[str] = set()
    with tarfile.open(
        fileobj=cast("IO[bytes]", hashing), mode="w", format=tarfile.PAX_FORMAT
    ) as archive:
        for path, source in _walk(rootfs) if rootfs is not None else ():
            present.add(path)
            if path not in overlaid:
                _add_from_disk(archive, path, source)
        for path in sorted(overlaid):
            for parent in _missing_parents(path, present | overlaid.keys()):
                present.add(parent)
                _add_entry(archive, parent, ImageFile(mode=0o755, directory=True))
            _add_entry(archive, path, overlaid[path])
    return f"sha256:{hashing.digest.hexdigest()}", hashing.size


class _HashingWriter:
    """A file to write a tar stream to, which learns digest and size on the way."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output = output
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._output.write(data)

    def tell(self) -> int:
        return self.size


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    for directory, names, leaves in os.walk(root):
        names.sort()
        for name in sorted([*names, *leaves]):
            path = Path(directory, name)
            yield path.relative_to(root).as_posix(), path


def _add_from_disk(archive: tarfile.TarFile, path: str, source: Path) -> None:
    status = source.lstat()
    entry = tarfile.TarInfo(path)
    entry.mode = stat.S_IMODE(status.st_mode)
    entry.uid, entry.gid = status.st_uid, status.st_gid
    if stat.S_ISLNK(status.st_mode):
        entry.type = tarfile.SYMTYPE
        entry.linkname = os.readlink(source)
        archive.addfile(entry)
    elif stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    elif stat.S_ISREG(status.st_mode):
        entry.size = status.st_size
        with source.open("rb") as content:
            archive.addfile(entry, content)
    # Devices, sockets and pipes have no place in an image: the runtime makes /dev itself.


def _add_entry(archive: tarfile.TarFile, path: str, file: ImageFile) -> None:
    entry = tarfile.TarInfo(path)
    entry.mode, entry.uid, entry.gid = file.mode, file.user, file.group
    if file.directory:
        entry.type = tarfile.DIRTYPE
    elif file.link_to:
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, file.link_to, 0o777
    else:
        entry.size = len(file.content)
    archive.addfile(entry, io.BytesIO(file.content) if entry.isreg() else None)


def _missing_parents(path: str, present: set[str]) -> list[str]:
    parents = [str(parent) for parent in Path(path).parents if str(parent) != "."]
    return [parent for parent in reversed(parents) if parent not in present]


def _config_document(config: ImageConfig, layer_digest: str) -> dict[str, Any]:
    path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    runtime = {
        "Env": [f"{name}={value}" for name, value in (path | dict(config.env)).items()],
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "WorkingDir": config.working_dir,
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.exposed_ports},
        "Volumes": {path: {} for path in config.volumes},
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
    }
    return {
        "architecture": config.architecture or machine_architecture(),
        "os": "linux",
        "config": {key: value for key, value in runtime.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        "history": [{"created_by": "navarch"}],
    }


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": _MEDIA_TYPE + kind, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _add_bytes(archive: tarfile.TarFile, path: str, content: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
