"""`navarch image`: images in and out of a cluster's nodes.

Every node has a container runtime of its own, so an image is brought into each, all at the same
time.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from navarch.cluster import containerd, processes
from navarch.cluster.api import Api, ApiUnavailableError
from navarch.cluster.namespaces import Pins
from navarch.cluster.profile import ClusterError, Paths, Profile, write_json

PINNED = "io.cri-containerd.pinned=pinned"
JOINED = "navarch.dev/joined"
ARE_PINNED = 'labels."io.cri-containerd.pinned"==pinned'


def running_nodes(profile: Profile, paths: Paths) -> list[Pins]:
    """The nodes of a running cluster, less those that are switched off."""
    pins = [Pins(paths.pins, node) for node in profile.running_nodes()]
    if not pins:
        raise ClusterError(
            f"the cluster {profile.name} has no nodes of its own that run",
            "Images live on real nodes: navarch node start NAME, or navarch start --nodes 1",
        )
    for pin in pins:
        process = processes.read_pid_file(paths.run / f"containerd-{pin.node}.pid")
        if process is None or not pin.are_alive():
            raise ClusterError(
                f"the cluster {profile.name} is not running", "Start it: navarch start"
            )
    return pins


def missing_there(profile: Profile, paths: Paths) -> str:
    """What there is to say about other machines that are the cluster's nodes: nothing of this one
    gets into their runtimes. Nobody who only loads an image has to wait for the API server."""
    if profile.joined:
        return ""
    try:
        found = Api(profile, paths, timeout=2.0).get(f"/api/v1/nodes?labelSelector={JOINED}")
    except ApiUnavailableError:
        return ""
    there = [each["metadata"]["name"] for each in found["items"]]
    return f"Not on other machines: load it there, too ({', '.join(there)})" if there else ""


def load(nodes: Sequence[Pins], source: Path, name: str = "") -> list[str]:
    """Bring an image into every node: from an archive (OCI or Docker, plain or compressed), an OCI
    layout directory, or the tar file of a root file system, which `name` makes an image of.
    Returns the names of the images; `name` is added to an image that has another one."""
    with _as_archive(source, normalized(name) if name else "") as archive:
        loaded = on_each(nodes, lambda pins: containerd.import_archive(pins, archive))
    found = list(dict.fromkeys(image for images in loaded for image in images))
    if not found:
        raise ClusterError(
            f"{source} names no image",
            "Save it with a name, such as: docker save -o image.tar NAME:TAG",
        )
    if name and normalized(name) not in found:
        tag(nodes, found[0], name)
        found.append(normalized(name))
    pin(nodes, found)
    return found


def tag(nodes: Sequence[Pins], name: str, new: str) -> None:
    """Give an image one more name on every node."""
    command = ["images", "tag", "--force", normalized(name), normalized(new)]
    on_each(nodes, lambda pins: containerd.ctr(pins, command))


def pin(nodes: Sequence[Pins], names: Sequence[str]) -> None:
    """Say that images are here to stay: nobody could bring them back but the one who did. The
    node agent never removes images that it has not pulled; other tools go by this label."""
    for name in names:
        command = ["images", "label", name, PINNED]
        on_each(nodes, lambda pins, command=command: containerd.ctr(pins, command))  # type: ignore[misc]


def copy(source: Pins, target: Pins) -> None:
    """Bring to a node what was brought to others while it was not there, or switched off."""
    there = digests(target)
    names = [
        name for name, digest in digests(source, ARE_PINNED).items() if there.get(name) != digest
    ]
    if not names:
        return
    reader, writer = os.pipe()

    def export() -> None:
        with open(writer, "wb") as pipe:
            containerd.ctr(source, ["images", "export", "-", *names], stdout=pipe.fileno())

    with ThreadPoolExecutor(1) as pool, open(reader, "rb"):
        exported = pool.submit(export)
        containerd.import_archive(target, Path(f"/dev/fd/{reader}"))
    exported.result()
    pin([target], names)


def save(nodes: Sequence[Pins], names: Sequence[str], target: IO[bytes]) -> None:
    """Write images as one archive, which `docker load` reads as well."""
    wanted = [normalized(name) for name in names]
    for pins in nodes:
        if set(wanted) <= digests(pins).keys():
            containerd.ctr(pins, ["images", "export", "-", *wanted], stdout=target.fileno())
            return
    there = set().union(*(digests(pins).keys() for pins in nodes))
    missing = [name for name in names if normalized(name) not in there] or names
    raise ClusterError(f"no node has the image {', '.join(missing)}", "See: navarch image ls")


def save_as(nodes: Sequence[Pins], names: Sequence[str], path: Path) -> None:
    """Write images to a file, which is there as a whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as target:
            save(nodes, names, target)
        os.replace(partial, path)
    except OSError as error:
        raise ClusterError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def spool(source: IO[bytes], path: Path) -> Path:
    """Standard input as a file: archives are read more than once."""
    with path.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    if not path.stat().st_size:
        raise ClusterError("there was nothing on standard input", "Such as: docker save NAME | ...")
    return path


@contextmanager
def _as_archive(source: Path, name: str) -> Iterator[Path]:
    """`source` as an image archive, for as long as it is needed."""
    if not source.exists():
        raise ClusterError(
            f"{source} does not exist",
            "Give an image archive, such as one made by: docker save -o image.tar NAME:TAG",
        )
    if source.is_dir():
        with tempfile.TemporaryDirectory(prefix="navarch-load-") as scratch:
            yield _archive_of_layout(source, Path(scratch, "image.tar"))
    elif _is_image(source):
        yield source
    elif not name:
        raise ClusterError(
            f"{source} is not an image archive",
            "If it holds a root file system, name the image to make of it: --name NAME:TAG",
        )
    else:
        with tempfile.TemporaryDirectory(prefix="navarch-load-") as scratch:
            yield _archive_of_root(source, Path(scratch, "image.tar"), name)


def _is_image(archive: Path) -> bool:
    """Whether a tar file is an OCI or Docker archive. Both kinds name their parts at the top
    level, though not always first."""
    try:
        with _plain(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for number, entry in enumerate(tar):
                if entry.name.removeprefix("./") in ("oci-layout", "manifest.json", "index.json"):
                    return True
                if number > 500:
                    break
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        raise ClusterError(f"{archive} is not a tar file: {error}") from error
    return False


def _archive_of_layout(directory: Path, target: Path) -> Path:
    if not (directory / "index.json").is_file():
        raise ClusterError(f"{directory} is not an OCI image directory: it has no index.json")
    with tarfile.open(target, "w") as tar:
        for entry in sorted(directory.iterdir()):
            tar.add(entry, entry.name)
    return target


def _open_plain(path: Path) -> IO[bytes]:
    return path.open("rb")


_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7": lzma.open,
    b"BZ": bz2.open,
}


def _archive_of_root(source: Path, target: Path, name: str) -> Path:
    from navarch.node.images.oci import ImageConfig, image_of_root

    with _plain(source) as root:
        return image_of_root(target, name, ImageConfig(cmd=["/bin/sh"]), root)


@contextmanager
def _plain(path: Path) -> Iterator[IO[bytes]]:
    """A file's content, unpacked if it is compressed, and no more of it than the disk would take:
    a few bytes can unpack to any size."""
    with path.open("rb") as file:
        magic = file.read(2)
    limit = max(shutil.disk_usage(tempfile.gettempdir()).free, path.stat().st_size)
    with _OPENERS.get(magic, _open_plain)(path) as content:
        yield cast("IO[bytes]", Bounded(content, limit))


class Bounded:
    """A file to read that ends in a clear refusal where it grows beyond a limit."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file, self._limit = file, limit
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        wanted = self._limit + 1 - self._file.tell()
        content = self._file.read(wanted if size < 0 else min(size, wanted))
        self._check(self._file.tell())
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET:
            self._check(offset)  # before it is unpacked up to there
        return self._file.seek(offset, whence)

    def _check(self, position: int) -> None:
        if position > self._limit:
            raise ClusterError(
                f"the archive unpacks to more than {self._limit} bytes, which the disk has not got"
            )


class LoadRecord:
    """Which archives were loaded as which images, so that loading the same file again, as scripts
    do, is instant. A file is the same if its time and size are; an image is still there if every
    node has that name with that digest."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._entries: dict[str, Any] = json.loads(file.read_bytes())
        except (FileNotFoundError, ValueError):
            self._entries = {}

    def still_there(self, nodes: Sequence[Pins], archive: Path, name: str) -> list[str]:
        """The images of the archive, if nothing need be done."""
        entry = self._entries.get(_load_key(archive, name))
        if not entry or not archive.is_file() or entry["file"] != _fingerprint(archive):
            return []
        wanted = entry["images"].items()
        there = on_each(nodes, lambda pins: wanted <= digests(pins).items())
        return list(entry["images"]) if all(there) else []

    def note(self, nodes: Sequence[Pins], archive: Path, name: str, images: list[str]) -> None:
        if not archive.is_file():
            return
        known = digests(nodes[0])
        self._entries[_load_key(archive, name)] = {
            "file": _fingerprint(archive),
            "images": {image: known[image] for image in images if image in known},
        }
        write_json(self._file, self._entries)


def _load_key(archive: Path, name: str) -> str:
    return f"{archive.absolute()} {name}"


def _fingerprint(archive: Path) -> list[int]:
    state = archive.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ino]


def digests(pins: Pins, *filters: str) -> dict[str, str]:
    """The images of a node and the digest of what each name stands for."""
    return {str(image["name"]): str(image["digest"]) for image in describe(pins, *filters)}


def remove(nodes: Sequence[Pins], name: str) -> None:
    """Remove an image from every node that has it."""
    wanted = normalized(name)

    def from_node(pins: Pins) -> bool:
        there = containerd.ctr(pins, ["images", "ls", "-q"]).split()
        found = [
            entry for entry in there if entry in (name, wanted) or entry.partition("@")[0] == wanted
        ]
        if found:
            containerd.ctr(pins, ["images", "rm", *found])
        return bool(found)

    if not any(on_each(nodes, from_node)):
        raise ClusterError(f"no node has the image {name}", "See: navarch image ls")


def normalized(name: str) -> str:
    """A full image name, as containerd keeps it: Docker's short forms mean docker.io and
    latest."""
    from navarch.node.images.names import InvalidImageName, parse_image_name

    try:
        return str(parse_image_name(name))
    except InvalidImageName as problem:
        raise ClusterError(str(problem), "A name is written [REGISTRY/]PATH[:TAG]") from problem


T = TypeVar("T")


def on_each(nodes: Sequence[Pins], action: Callable[[Pins], T]) -> list[T]:
    with ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(action, nodes))


def describe(pins: Pins, *filters: str) -> list[dict[str, object]]:
    """The images of a node with their sizes, for `navarch image ls -o json`."""
    lines = containerd.ctr(pins, ["images", "ls", *filters]).splitlines()[1:]
    found: list[dict[str, object]] = []
    for line in lines:
        name, _, digest, *size = line.split()
        if not name.startswith("sha256:") and "@" not in name:
            found.append({"name": name, "digest": digest, "size": " ".join(size[:2])})
    return found
