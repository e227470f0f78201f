"""Images made to do harm, through the real containerd: what they ask for is refused or harmless.

A registry can serve anything, and what an image says of its user, its directories and its layers
comes from whoever made it.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod
from tests.images.busybox import build_busybox
from tests.images.registry import MANIFEST, Registry, digest_of, registry

from navarch.api.types.core_v1 import ContainerStatus, Pod

HUGE = 4294967297


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_busybox(tmp_path_factory.mktemp("images") / "busybox.tar")


@pytest.fixture
async def hub(archive: Path) -> AsyncIterator[Registry]:
    async with registry() as here:
        here.add("base", "1", archive)
        yield here


def variant(hub: Registry, name: str, *layers: bytes, **config: Any) -> str:
    """Serves busybox with further layers (tar) and another configuration; returns its name."""
    manifest = json.loads(hub.manifests["base", "1"])
    document = json.loads(hub.blobs[manifest["config"]["digest"]])
    document["config"] |= config
    for layer in layers:
        document["rootfs"]["diff_ids"].append(digest_of(layer))
        packed = gzip.compress(layer)
        manifest["layers"].append(
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": hub.add_blob(packed),
                "size": len(packed),
            }
        )
    text = json.dumps(document).encode()
    manifest["config"] |= {"digest": hub.add_blob(text), "size": len(text)}
    hub.add_manifest(name, "1", json.dumps(manifest).encode())
    return f"{hub.host}/{name}:1"


def running(image: str, name: str, script: str = "sleep 1000", **fields: Any) -> dict[str, Any]:
    container = {"name": "main", "image": image, "command": ["/bin/busybox", "sh", "-c", script]}
    return pod(name, container | fields, restartPolicy="Never")


def status_of(found: Pod) -> ContainerStatus:
    return next(iter(found.status.containerStatuses), ContainerStatus())


def reason_of(found: Pod) -> str:
    state = status_of(found).state
    return state.waiting.reason if state.waiting is not None else ""


def is_settled(found: Pod) -> bool:
    """It runs, or it was refused."""
    state = status_of(found).state
    return (
        state.running is not None
        or state.terminated is not None
        or reason_of(found).endswith(("Error", "ErrImagePull", "ImagePullBackOff"))
    )


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "user-overflow": {"User": str(HUGE)},
    "user-negative": {"User": "-1"},
    "user-name": {"User": "nobody-has-this-name"},
    "group-overflow": {"User": f"0:{HUGE}"},
    "user-path": {"User": "../../../../etc/passwd:x"},
    "directory-descriptor": {"WorkingDir": "/proc/self/fd/8"},
    "directory-descriptor-up": {"WorkingDir": "/proc/self/fd/7/../../.."},
    "directory-relative": {"WorkingDir": "../../../.."},
    "volume-out": {"Volumes": {"../../../../etc": {}, "/../../etc": {}}},
    "volume-proc": {"Volumes": {"/proc/self/attr": {}, "/proc": {}}},
    "environment": {"Env": ["LD_PRELOAD=/evil.so", "=", "NO_VALUE", "A=" + "x" * 100_000]},
    "signal": {"StopSignal": "SIGNOTHING"},
    "labels": {"Labels": {f"label-{number}": "x" * 1000 for number in range(100)}},
}


MARK = "etc/navarch-host-mark"


@contextmanager
def host_mark() -> Iterator[None]:
    """A file that only the host has; the host's users must stay what they are."""
    mark, users = Path("/", MARK), Path("/etc/passwd")
    before = users.read_bytes()
    mark.write_text("of the host")
    try:
        yield
        assert users.read_bytes() == before
    finally:
        mark.unlink()


async def test_configurations_are_refused_or_harmless(cluster: Cluster, hub: Registry) -> None:
    # Nobody becomes root by overflow, and no working directory leads to the host's files.
    script = f"id -u; ls -d /{MARK} {MARK} {'../' * 9}{MARK} 2>/dev/null; sleep 1000"
    with host_mark():
        for name, config in CONFIGURATIONS.items():
            image = variant(hub, f"hostile/{name}", **config)
            await cluster.create(running(image, name, script))
        for name in CONFIGURATIONS:
            found = await cluster.wait(name, is_settled)
            if status_of(found).state.running is None:
                continue

            async def has_spoken(found: Pod = found) -> bool:
                return bool(await cluster.logs(found, "main"))

            await eventually(has_spoken)
            said = await cluster.logs(found, "main")
            assert MARK not in said, f"{name} has seen the host"
            if name.startswith("user"):
                assert said.splitlines()[0] != "0", f"{name} became root"


async def test_run_as_non_root_is_not_fooled_by_the_image(cluster: Cluster, hub: Registry) -> None:
    context = {"runAsNonRoot": True}
    for name, user in {"zero": "0", "name": "root", "none": "", "overflow": str(HUGE - 1)}.items():
        image = variant(hub, f"users/{name}", User=user)
        await cluster.create(running(image, name, securityContext=context))
    for name in ("zero", "name", "none", "overflow"):
        found = await cluster.wait(name, is_settled)
        assert status_of(found).state.running is None, name


def layer(*entries: tuple[str, bytes, str]) -> bytes:
    """A layer of links (with a target) and files."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, kind, value in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, 0o755
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                entry.linkname = value
                tar.addfile(entry)
            else:
                content = value.encode()
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return target.getvalue()


async def test_layers_do_not_reach_out_of_the_image(
    cluster: Cluster, hub: Registry, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    up = "../" * 40
    out = str(victim.parent)
    layers = {
        "dots": layer((f"{up}{victim}".replace("//", "/"), tarfile.REGTYPE, "overwritten")),
        "absolute": layer((str(victim), tarfile.REGTYPE, "overwritten")),
        "symlink": layer(
            ("way", tarfile.SYMTYPE, out), ("way/victim", tarfile.REGTYPE, "overwritten")
        ),
        "hardlink": layer(
            ("twin", tarfile.LNKTYPE, f"{up}{victim}"), ("twin", tarfile.REGTYPE, "overwritten")
        ),
        "whiteout": layer(("gone", tarfile.SYMTYPE, out), ("gone/.wh.victim", tarfile.REGTYPE, "")),
    }
    for name, content in layers.items():
        await cluster.create(running(variant(hub, f"layers/{name}", content), name))
    for name in layers:
        await cluster.wait(name, is_settled)
    assert victim.read_text() == "untouched"


async def test_manifests_that_lie_are_refused(cluster: Cluster, hub: Registry) -> None:
    variant(hub, "honest", layer(("new", tarfile.REGTYPE, "content")))
    honest = json.loads(hub.manifests["honest", "1"])
    new = honest["layers"][1]
    other = hub.add_blob(b"something else")
    lies: dict[str, dict[str, Any]] = {
        "size": honest | {"layers": [honest["layers"][0], new | {"size": 10}]},
        "layer": honest | {"layers": [honest["layers"][0], new | {"digest": other, "size": 14}]},
        "absent": honest | {"config": honest["config"] | {"digest": "sha256:" + "0" * 64}},
        "none": {"schemaVersion": 2, "mediaType": MANIFEST},
        "huge": honest | {"annotations": {"x": "y" * (10 << 20)}},
    }
    for name, manifest in lies.items():
        hub.add_manifest(f"lies/{name}", "1", json.dumps(manifest).encode())
    # What comes under a digest is not what has that digest.
    wrong = "sha256:" + "1" * 64
    hub.manifests["lies/digest", wrong] = hub.manifests["base", "1"]
    for name in lies:
        await cluster.create(running(f"{hub.host}/lies/{name}:1", name))
    await cluster.create(running(f"{hub.host}/lies/digest@{wrong}", "digest"))
    for name in (*lies, "digest"):
        found = await cluster.wait(name, is_settled)
        if name != "huge":
            assert reason_of(found) in ("ErrImagePull", "ImagePullBackOff"), name


async def test_credentials_are_not_shown_to_foreign_hosts(cluster: Cluster, hub: Registry) -> None:
    hub.passwords["team"] = {"ann": "right"}
    async with registry() as foreign:
        manifest = json.loads(hub.manifests["base", "1"])
        manifest["layers"].append(
            {
                "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "digest": "sha256:" + "2" * 64,
                "size": 100,
                "urls": [f"http://{foreign.host}/v2/stolen/blobs/x"],
            }
        )
        hub.add_manifest("team/app", "1", json.dumps(manifest).encode())
        auths = {hub.host: {"username": "ann", "password": "right"}}
        text = base64.b64encode(json.dumps({"auths": auths}).encode()).decode()
        await cluster.client.dynamic("", "v1", "secrets").create(
            {
                "metadata": {"name": "pull", "namespace": "default"},
                "type": "kubernetes.io/dockerconfigjson",
                "data": {".dockerconfigjson": text},
            }
        )
        manifest = running(f"{hub.host}/team/app:1", "app")
        manifest["spec"]["imagePullSecrets"] = [{"name": "pull"}]
        await cluster.create(manifest)
        await cluster.wait("app", is_settled)
        assert all(not each.authorization for each in foreign.asked)
        assert any(each.authorization for each in hub.asked)
