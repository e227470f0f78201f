"""`navarch image`: images in and out of a cluster's nodes.

Every node has a container runtime of its own, so an image is brought into each, all at the same
time. Building is buildah's: it knows Dockerfiles, needs no daemon, and is in Debian.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from navarch.cluster import containerd, processes
from navarch.cluster.namespaces import Pins
from navarch.cluster.profile import ClusterError, Paths, Profile, write_json


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """A Dockerfile to build, in the words of `docker build`."""

    context: Path
    tag: str
    dockerfile: Path | None = None
    arguments: Sequence[str] = ()
    target: str = ""
    use_cache: bool = True


def running_nodes(profile: Profile, paths: Paths) -> list[Pins]:
    """The nodes of a running cluster."""
    pins = [Pins(paths.pins, node) for node in profile.node_names()]
    if not pins:
        raise ClusterError(
            f"the cluster {profile.name} has no nodes of its own",
            "Images live on real nodes: navarch start --nodes 1",
        )
    for pin in pins:
        process = processes.read_pid_file(paths.run / f"containerd-{pin.node}.pid")
        if process is None or not pin.are_alive():
            raise ClusterError(
                f"the cluster {profile.name} is not running", "Start it: navarch start"
            )
    return pins


def load(nodes: Sequence[Pins], source: Path) -> list[str]:
    """Bring an archive (OCI or Docker, plain or compressed) or an OCI layout directory into every
    node. Returns the names of the images."""
    with _as_archive(source) as archive:
        loaded = _on_each(nodes, lambda pins: containerd.import_archive(pins, archive))
    names = list(dict.fromkeys(name for names in loaded for name in names))
    if not names:
        raise ClusterError(
            f"{source} names no image",
            "Save it with a name, such as: docker save -o image.tar NAME:TAG",
        )
    return names


@contextmanager
def _as_archive(source: Path) -> Iterator[Path]:
    if not source.exists():
        raise ClusterError(
            f"{source} does not exist",
            "Give an image archive, such as one made by: docker save -o image.tar NAME:TAG",
        )
    if source.is_file():
        yield source
        return
    if not (source / "index.json").is_file():
        raise ClusterError(f"{source} is not an OCI image directory: it has no index.json")
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch, "image.tar")
        with tarfile.open(archive, "w") as tar:
            for entry in sorted(source.iterdir()):
                tar.add(entry, entry.name)
        yield archive


def names(pins: Pins) -> list[str]:
    """The images of a node by name, the way people write them."""
    listed = containerd.ctr(pins, ["images", "ls", "-q"]).split()
    return sorted(name for name in listed if not name.startswith("sha256:") and "@" not in name)


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

    if not any(_on_each(nodes, from_node)):
        raise ClusterError(f"no node has the image {name}", "See: navarch image ls")


def normalized(name: str) -> str:
    """A full image name, as containerd keeps it: Docker's short forms mean docker.io and
    latest."""
    first, slash, rest = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{first}/{rest}"
    last = name.rpartition("/")[2]
    return name if ":" in last or "@" in last else f"{name}:latest"


def build(
    nodes: Sequence[Pins], request: BuildRequest, storage: Path, output: Callable[[str], None]
) -> str:
    """Build an image and bring it into every node. Returns its full name. `storage` keeps layers,
    so that the next build repeats only what has changed."""
    if shutil.which("buildah") is None:
        raise ClusterError(
            "building images needs buildah", "Install it: sudo navarch setup --build"
        )
    tag = normalized(request.tag)
    dockerfile = request.dockerfile or _dockerfile(request.context)
    storage.mkdir(mode=0o700, exist_ok=True)
    buildah = ["buildah", "--root", str(storage / "layers"), "--runroot", str(storage / "run")]
    buildah += ["--storage-driver", "overlay" if containerd.overlay_works(storage) else "vfs"]
    bases = base_images(dockerfile.read_text())
    with tempfile.TemporaryDirectory(dir=storage, prefix="tmp-") as scratch:
        archive = Path(scratch, "image.tar")
        _provide_bases(nodes[0], bases, buildah, storage, archive)
        _run([*buildah, *build_arguments(request, dockerfile, tag)], output)
        _run([*buildah, "push", tag, f"docker-archive:{archive}:{tag}"], lambda _: None)
        load(nodes, archive)
    return tag


def build_arguments(request: BuildRequest, dockerfile: Path, tag: str) -> list[str]:
    """buildah's arguments. Steps run in a plain chroot: no runtime, no daemon, no bridge, and
    the host's own network."""
    command = ["build", "--isolation", "chroot", "--network", "host", "--format", "docker"]
    command += ["--tag", tag, "--file", str(dockerfile)]
    # A base image that is here is used; only one that is not is asked for from a registry.
    command += ["--pull=missing", "--layers" if request.use_cache else "--no-cache"]
    if request.target:
        command += ["--target", request.target]
    for argument in request.arguments:
        command += ["--build-arg", argument]
    return [*command, str(request.context)]


def base_images(dockerfile: str) -> list[str]:
    """The images a Dockerfile builds upon, by full name; not its own stages."""
    stages: set[str] = {"scratch"}
    found = []
    for line in dockerfile.splitlines():
        words = [word for word in line.split() if not word.startswith("--")]
        if len(words) < 2 or words[0].upper() != "FROM":
            continue
        if words[1].lower() not in stages and "$" not in words[1]:
            found.append(normalized(words[1]))
        if len(words) == 4 and words[2].upper() == "AS":
            stages.add(words[3].lower())
    return list(dict.fromkeys(found))


def _provide_bases(
    pins: Pins, bases: Sequence[str], buildah: Sequence[str], storage: Path, archive: Path
) -> None:
    """Give the builder those base images that the cluster has: an image that was loaded can be
    built upon, with no registry in between. What was handed over before is not copied again."""
    there = {str(image["name"]): str(image["digest"]) for image in describe(pins)}
    record = storage / "bases.json"
    known = json.loads(record.read_bytes()) if record.is_file() else {}
    for base in bases:
        if base in there and known.get(base) != there[base]:
            with archive.open("wb") as file:
                containerd.ctr(pins, ["images", "export", "-", base], stdout=file.fileno())
            _run([*buildah, "pull", f"docker-archive:{archive}"], lambda _: None)
            known[base] = there[base]
            archive.unlink()
    write_json(record, known)


def _dockerfile(context: Path) -> Path:
    for name in ("Dockerfile", "Containerfile"):
        if (context / name).is_file():
            return context / name
    raise ClusterError(f"{context} contains no Dockerfile", "Name it: --file PATH")


def _run(command: Sequence[str], output: Callable[[str], None]) -> None:
    """Run a command and hand on its lines as they come; the last of them explain a failure."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        last: list[str] = []
        for line in process.stdout:
            output(line.rstrip("\n"))
            last = [*last[-14:], line.rstrip("\n")]
    if process.returncode != 0:
        raise ClusterError(f"{command[0]} has failed:\n" + "\n".join(last))


T = TypeVar("T")


def _on_each(nodes: Sequence[Pins], action: Callable[[Pins], T]) -> list[T]:
    with ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(action, nodes))


def describe(pins: Pins) -> list[dict[str, object]]:
    """The images of a node with their sizes, for `navarch image ls -o json`."""
    lines = containerd.ctr(pins, ["images", "ls"]).splitlines()[1:]
    found: list[dict[str, object]] = []
    for line in lines:
        name, _, digest, *size = line.split()
        if not name.startswith("sha256:") and "@" not in name:
            found.append({"name": name, "digest": digest, "size": " ".join(size[:2])})
    return found
