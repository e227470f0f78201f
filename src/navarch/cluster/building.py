"""`navarch image build`: Dockerfiles, without a daemon and without a registry.

The work is buildah's, which knows Dockerfiles and is in Debian. What is ours is to move images
between it and the nodes without copying them: layers lie in the first node's content store as
files named after their digests, and an OCI image directory is made of just such files. So a
directory of hard links to all of them is what buildah takes base images from and puts the result
into. It finds the layers of the base there already and writes only new ones, and only those that
a node does not have are carried into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from navarch.cluster import containerd
from navarch.cluster.images import digests, normalized, on_each
from navarch.cluster.namespaces import Pins
from navarch.cluster.processes import start_time
from navarch.cluster.profile import ClusterError, Paths, write_json
from navarch.cluster.setup import install

BLOBS = Path("blobs", "sha256")
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
OCI_TYPES = {
    "application/vnd.docker.container.image.v1+json": "application/vnd.oci.image.config.v1+json",
    DOCKER_LAYER: "application/vnd.oci.image.layer.v1.tar",
    f"{DOCKER_LAYER}.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
}
REFERENCE = "org.opencontainers.image.ref.name"
BLOB_CACHE = Path("/var/lib/containers/cache/blob-info-cache-v1.boltdb")


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """A Dockerfile to build, in the words of `docker build`."""

    context: Path
    tag: str
    dockerfile: Path | None = None
    arguments: Sequence[str] = ()
    target: str = ""
    use_cache: bool = True


def build(
    paths: Paths, nodes: Sequence[Pins], request: BuildRequest, output: Callable[[str], None]
) -> str:
    """Build an image and bring it into every node. Returns its full name. The builder's layers are
    kept, so that the next build repeats only what has changed."""
    dockerfile = find_dockerfile(request)
    try:
        bases = base_images(dockerfile.read_text(), request.arguments)
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{dockerfile} cannot be read: {error}") from error
    if shutil.which("buildah") is None:
        output("Installing buildah, which is needed for this once ...")
        install(["buildah"])
    tag = normalized(request.tag)
    storage = paths.root / "build"
    storage.mkdir(mode=0o700, exist_ok=True)
    buildah = ["buildah", "--root", str(storage / "layers"), "--runroot", str(storage / "run")]
    buildah += ["--storage-driver", "overlay" if containerd.overlay_works(storage) else "vfs"]
    cache_was_there = BLOB_CACHE.exists()
    remove_leftovers(storage)
    directory = storage / f"oci-{os.getpid()}"
    try:
        there = digests(nodes[0])
        _link_blobs(paths.node(nodes[0].node), directory)
        _provide_bases(directory, {name: there[name] for name in bases if name in there}, buildah)
        _run([*buildah, *build_arguments(request, dockerfile, tag)], output)
        _run([*buildah, "push", tag, f"oci:{directory}:{tag}"], _ignore)
        _carry(nodes, directory, tag)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        if not cache_was_there:
            _remove_blob_cache()
    return tag


def build_arguments(request: BuildRequest, dockerfile: Path, tag: str) -> list[str]:
    """buildah's arguments. Steps run in a plain chroot: no runtime, no daemon, no bridge, and
    the host's own network. The image is OCI's: Docker's own format knows HEALTHCHECK and SHELL
    besides, which Kubernetes does not use, and defeats the cache for bases without dates."""
    command = ["build", "--isolation", "chroot", "--network", "host", "--format", "oci"]
    command += ["--tag", tag, "--file", str(dockerfile)]
    # A base image that is here is used; only one that is not is asked for from a registry.
    # buildah tells layers apart by the text of their steps, without the arguments' values in it, so
    # layers that were built with other values would be taken: such builds go without a cache.
    cached = request.use_cache and not request.arguments
    command += ["--pull=missing", "--layers" if cached else "--no-cache"]
    if request.target:
        command += ["--target", request.target]
    for argument in request.arguments:
        command += ["--build-arg", argument]
    return [*command, str(request.context)]


def base_images(dockerfile: str, arguments: Sequence[str] = ()) -> list[str]:
    """The images a Dockerfile builds upon or copies from, by full name; not its own stages.
    `arguments` (`NAME=VALUE`) go before the defaults of ARG."""
    stages: set[str] = {"scratch"}
    found: list[str] = []
    given = dict(each.partition("=")[::2] for each in arguments)
    values: dict[str, str] = {}
    is_before_stages = True
    for line in dockerfile.splitlines():
        words = line.split()
        instruction = words[0].upper() if words else ""
        plain = [word for word in words[1:] if not word.startswith("--")]
        named = ""
        if instruction == "ARG" and is_before_stages:
            for name, _, default in (word.partition("=") for word in plain):
                values[name] = given.get(name, default.strip("\"'"))
        elif instruction == "FROM" and plain:
            is_before_stages = False
            named = _substituted(plain[0], values)
        elif instruction == "COPY":
            sources = [word for word in words if word.startswith("--from=")]
            named = sources[0].partition("=")[2] if sources else ""
        if named and named.lower() not in stages and "$" not in named and not named.isdigit():
            found.append(normalized(named))
        if instruction == "FROM" and len(plain) == 3 and plain[1].upper() == "AS":
            stages.add(plain[2].lower())
    return list(dict.fromkeys(found))


_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::-([^}]*))?\})")


def _substituted(text: str, values: Mapping[str, str]) -> str:
    """A word of a FROM line with the variables that are known put in."""

    def value(found: re.Match[str]) -> str:
        return values.get(found[1] or found[2]) or found[3] or found[0]

    return _VARIABLE.sub(value, text)


def remove_leftovers(storage: Path) -> None:
    """Remove the directories of builds that were killed: their links would keep layers on the disk
    that nobody has any more."""
    for directory in storage.glob("oci-*"):
        if start_time(int(directory.name.removeprefix("oci-"))) is None:
            shutil.rmtree(directory, ignore_errors=True)


def _link_blobs(node: Path, directory: Path) -> None:
    """Make an OCI image directory that has everything the node has."""
    blobs = directory / BLOBS
    blobs.mkdir(parents=True)
    for blob in (node / "containerd" / "io.containerd.content.v1.content" / BLOBS).iterdir():
        os.link(blob, blobs / blob.name)
    write_json(directory / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    write_json(directory / "index.json", {"schemaVersion": 2, "manifests": []})


def _provide_bases(directory: Path, bases: Mapping[str, str], buildah: Sequence[str]) -> None:
    """Give the builder those base images that the cluster has: an image that was loaded can be
    built upon, with no registry in between. What was handed over before is passed over."""
    record = directory.parent / "bases.json"
    known = json.loads(record.read_bytes()) if record.is_file() else {}
    for name, digest in bases.items():
        if known.get(name) == digest:
            continue
        entry = descriptor(directory, digest) | {"annotations": {REFERENCE: name}}
        write_json(directory / "index.json", {"schemaVersion": 2, "manifests": [entry]})
        # Pulled from a directory, an image bears the directory's name until it gets its own.
        source = f"oci:{directory.name}:{name}"
        _run([*buildah, "pull", source], _ignore, directory.parent)
        _run([*buildah, "tag", f"localhost/{directory.name}", name], _ignore)
        _run([*buildah, "rmi", f"localhost/{directory.name}"], _ignore)
        known[name] = digest
    write_json(record, known)


def descriptor(directory: Path, digest: str) -> dict[str, Any]:
    """What an index says of a manifest, or of an index of manifests. Docker's own kinds (of what
    `docker save` wrote, and of many registries) are written anew as OCI's: the builder passes over
    anything else in an image directory."""
    content = blob_path(directory, digest).read_bytes()
    value = json.loads(content)
    kind = "index" if "manifests" in value else "manifest"
    media_type = f"application/vnd.oci.image.{kind}.v1+json"
    if value.get("mediaType", media_type) != media_type:
        value = _as_oci(directory, value) | {"mediaType": media_type}
        content = json.dumps(value).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if not blob_path(directory, digest).exists():  # it may be a link to the node's own
            blob_path(directory, digest).write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _as_oci(directory: Path, value: dict[str, Any]) -> dict[str, Any]:
    if "manifests" in value:  # for several kinds of machines; a node has those of its own
        parts = [each for each in value["manifests"]
                 if blob_path(directory, each["digest"]).exists()]  # fmt: skip
        return value | {"manifests": [each | descriptor(directory, each["digest"])
                                      for each in parts]}  # fmt: skip

    def renamed(part: dict[str, Any]) -> dict[str, Any]:
        return part | {"mediaType": OCI_TYPES.get(part["mediaType"], part["mediaType"])}

    layers = [renamed(each) for each in value["layers"]]
    return value | {"config": renamed(value["config"]), "layers": layers}


def blob_path(directory: Path, digest: str) -> Path:
    return directory / BLOBS / digest.removeprefix("sha256:")


def _carry(nodes: Sequence[Pins], directory: Path, tag: str) -> None:
    """Bring the image `tag` of an OCI directory into the nodes: what one of them lacks."""
    index = json.loads((directory / "index.json").read_bytes())
    entry = next(item for item in index["manifests"] if item["annotations"][REFERENCE] == tag)
    manifest = json.loads(blob_path(directory, entry["digest"]).read_bytes())
    wanted = [entry["digest"], manifest["config"]["digest"]]
    wanted += [layer["digest"] for layer in manifest["layers"]]
    stores = on_each(nodes, lambda pins: set(containerd.ctr(pins, ["content", "ls", "-q"]).split()))
    # The first two are small and always carried: an archive begins with them.
    lacking = wanted[:2] + [
        digest for digest in wanted[2:] if any(digest not in store for store in stores)
    ]
    entry["annotations"]["io.containerd.image.name"] = tag
    write_json(directory / "index.json", {"schemaVersion": 2, "manifests": [entry]})
    archive = directory / "image.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("oci-layout", "index.json"):
            tar.add(directory / name, name)
        for digest in dict.fromkeys(lacking):
            path = blob_path(directory, digest)
            tar.add(path, str(path.relative_to(directory)))
    on_each(nodes, lambda pins: containerd.import_archive(pins, archive))


def _remove_blob_cache() -> None:
    """Remove the one file that buildah keeps elsewhere than told, if it was not there before."""
    BLOB_CACHE.unlink(missing_ok=True)
    for directory in (BLOB_CACHE.parent, BLOB_CACHE.parent.parent):
        try:
            directory.rmdir()
        except OSError:
            return


def find_dockerfile(request: BuildRequest) -> Path:
    """The Dockerfile of a request: by default the one in the context. A relative path counts from
    here or, as minikube's users know it, from the context."""
    context = request.context
    if not context.is_dir():
        raise ClusterError(f"{context} is not a directory", "Give the directory to build from")
    if request.dockerfile is not None:
        names = [request.dockerfile, context / request.dockerfile]
    else:
        names = [context / "Dockerfile", context / "Containerfile"]
    for path in names:
        if path.is_file():
            return path
    if request.dockerfile is not None:
        raise ClusterError(f"{request.dockerfile} does not exist", "Name a Dockerfile: --file PATH")
    raise ClusterError(f"{context} contains no Dockerfile", "Name it: --file PATH")


def _run(
    command: Sequence[str], output: Callable[[str], None], directory: Path | None = None
) -> None:
    """Run a command and hand on its lines as they come; the last of them explain a failure."""
    with subprocess.Popen(
        command,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        last: list[str] = []
        for line in process.stdout:
            output(line.rstrip("\n"))
            last = [*last[-14:], line.rstrip("\n")]
    if process.returncode != 0:
        raise ClusterError(f"{command[0]} has failed:\n" + "\n".join(last))


def _ignore(line: str) -> None:
    del line
