"""Ways out of a container through its volumes and its image: each was open somewhere once."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, shell
from tests.cluster.node.environment import RuntimeEnvironment, import_image
from tests.cluster.node.test_pod_life import FOREVER, is_ready, reason_of
from tests.cluster.node.test_pod_surroundings import create
from tests.cluster.node.test_volume_files import listed, succeeded
from tests.cluster.node.test_volumes import nothing_left
from tests.images.busybox import build_busybox

from navarch.api.types.authentication_v1 import TokenRequest
from navarch.api.types.core_v1 import Pod
from navarch.node.images.oci import ImageConfig
from navarch.node.objects import ApiObjects
from navarch.node.volumes.kernel import bind, mount, mounts_under, unmount
from navarch.node.volumes.plugin import VolumeProblem
from navarch.node.volumes.subpath import bind_subpath

pytestmark = pytest.mark.cluster

_MS_SHARED = 1 << 20
_RENAME_EXCHANGE = 2


@contextmanager
def swapping(volume: Path, host: Path) -> Iterator[None]:
    """Somebody who makes the directory `part` of a volume a link to the node's files and back."""
    over = threading.Event()
    exchange = ctypes.CDLL(None).renameat2
    one, other = os.fsencode(volume / "part"), os.fsencode(volume / "link")
    (volume / "link").symlink_to(host)

    def swap() -> None:
        while not over.is_set():
            exchange(-100, one, -100, other, _RENAME_EXCHANGE)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("path", ["part", "part/inner", "part/new"])
def test_a_directory_that_becomes_a_link_meanwhile(tmp_path: Path, path: str) -> None:
    """CVE-2017-1002101 and CVE-2021-25741, a thousand times."""
    volume, host, target = tmp_path / "volume", tmp_path / "host", tmp_path / "target"
    for directory in (volume / "part/inner", host / "inner"):
        directory.mkdir(parents=True)
    for directory in (host, host / "inner"):
        (directory / "secret").touch()
    done = 0
    try:
        with swapping(volume, host):
            for _ in range(1000):
                try:
                    bind_subpath(volume, path, target)
                except VolumeProblem:
                    continue
                done += 1
                assert not (target / "secret").exists(), "the node's files are shown"
    finally:
        for point in mounts_under(target):
            unmount(point)
    assert 0 < done < 1000
    assert sorted(os.listdir(host)) == ["inner", "secret"] and os.listdir(host / "inner") == [
        "secret"
    ]


async def test_a_pod_that_swaps_while_another_mounts(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "volume/part").mkdir(parents=True)
    volumes = {"v": {"hostPath": {"path": str(tmp_path / "volume")}}}
    swap = "cd /v; while :; do mv part hidden; ln -s /etc part; rm -f part; mv hidden part; done"
    mounts = [{"name": "v", "mountPath": "/v"}]
    part = [{"name": "v", "mountPath": "/seen", "subPath": "part"}]
    await cluster.create(pod("swapper", shell("main", swap, volumeMounts=mounts),
                             volumes=listed(volumes)))  # fmt: skip
    await cluster.wait("swapper", is_ready)
    look = shell("main", "test ! -e /seen/passwd || echo ESCAPED; exit 1", volumeMounts=part)
    lookers = [{**look, "name": f"looker-{number}"} for number in range(4)]
    await cluster.create(pod("looker", *lookers, volumes=listed(volumes), restartPolicy="Never"))
    ended = await cluster.wait("looker", lambda each: each.status.phase == "Failed")
    for looker in lookers:
        assert await cluster.logs(ended, looker["name"]) == ""


async def test_links_in_volumes_at_the_end(cluster: Cluster, tmp_path: Path) -> None:
    """CVE-2017-1002102: even a container that may mount leaves nothing that misleads the node."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host/precious").write_text("data")
    await create(cluster, "secrets", "Secret", "hidden", stringData={"key": "value"})
    await create(cluster, "configmaps", "ConfigMap", "plain", data={"key": "value"})
    script = f"""
ln -s {tmp_path}/host /scratch/link; mkdir -p /scratch/a/b; ln -s {tmp_path}/host /scratch/a/b/c
for v in /secret /plain; do
  mount -o remount,rw,bind $v; rm -rf $v/..data; ln -s {tmp_path}/host $v/..data
  ln -s {tmp_path}/host $v/..old; ls -la $v
done
echo changed; {FOREVER}
"""
    volumes = {
        "scratch": {"emptyDir": {}},
        "secret": {"secret": {"secretName": "hidden"}},
        "plain": {"configMap": {"name": "plain"}},
    }
    container = shell("main", script, securityContext={"privileged": True}, volumeMounts=[
        {"name": name, "mountPath": f"/{name}"} for name in volumes])  # fmt: skip
    await cluster.create(pod("misleading", container, volumes=listed(volumes)))
    ready = await cluster.wait("misleading", is_ready)

    async def has_changed() -> bool:
        return (await cluster.logs(ready, "main")).endswith("changed")

    await eventually(has_changed)
    await cluster.client.dynamic("", "v1", "configmaps").patch(
        "plain", "default", {"data": {"key": "new"}}
    )
    # A new agent refreshes the files at once.
    await cluster.stop_agent()
    cluster.start_agent()
    directory = cluster.options.root_directory / "pods" / ready.metadata.uid / "volumes"

    async def is_refreshed() -> bool:
        target = os.readlink(directory / "kubernetes.io~configmap/plain/..data")
        return not target.startswith("/")

    await eventually(is_refreshed)
    assert (directory / "kubernetes.io~configmap/plain/key").read_text() == "new"
    await cluster.delete("misleading", 0)
    await nothing_left(cluster)
    assert os.listdir(tmp_path / "host") == ["precious"]


async def test_what_a_container_mounts_in_its_volume_is_not_deleted(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host/precious").touch()
    root = cluster.options.root_directory

    async def has_root() -> bool:
        return root.is_dir()

    await eventually(has_root)
    bind(root, root)
    mount("none", root, flags=_MS_SHARED)
    try:
        volumes: dict[str, Any] = {
            "scratch": {"emptyDir": {}},
            "host": {"hostPath": {"path": str(tmp_path / "host")}},
        }
        mounts = [{"name": "scratch", "mountPath": "/scratch", "mountPropagation": "Bidirectional"},
                  {"name": "host", "mountPath": "/host"}]  # fmt: skip
        script = f"mkdir /scratch/inner; mount --bind /host /scratch/inner; echo yes; {FOREVER}"
        context = {"privileged": True}
        await cluster.create(
            pod("mounter", shell("main", script, volumeMounts=mounts, securityContext=context),
                volumes=listed(volumes))
        )  # fmt: skip
        ready = await cluster.wait("mounter", is_ready)
        inner = (root / "pods" / ready.metadata.uid / "volumes/kubernetes.io~empty-dir/scratch"
                 / "inner")  # fmt: skip

        async def is_mounted() -> bool:
            return inner in mounts_under(root)

        await eventually(is_mounted)
        await cluster.delete("mounter", 0)

        async def is_gone() -> bool:
            return not os.listdir(root / "pods") and mounts_under(root) == [root]

        await eventually(is_gone)
    finally:
        for point in mounts_under(root):
            unmount(point)
    assert os.listdir(tmp_path / "host") == ["precious"]


async def test_a_token_is_its_pods_alone(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def token(self: ApiObjects, namespace: str, account: str, request: TokenRequest) -> Any:
        request.status.token = "token" * 40
        return request

    # The server of these tests signs nothing.
    monkeypatch.setattr(ApiObjects, "token", token)
    await create(cluster, "serviceaccounts", "ServiceAccount", "owner")
    projected = {
        "projected": {
            "sources": [
                {
                    "serviceAccountToken": {
                        "path": "token",
                        "expirationSeconds": 600,
                        "audience": "vault",
                    }
                }
            ]
        }
    }
    mounts = [{"name": "t", "mountPath": "/t"}]
    owners = {
        "one-user": ({"runAsUser": 1000}, "1000 0 600"),
        "grouped": ({"runAsUser": 1000, "fsGroup": 2000}, "1000 2000 640"),
        "anybody": ({}, "0 0 644"),
    }
    for name, (context, _) in owners.items():
        container = shell("main", f"stat -L -c '%u %g %a' /t/token; wc -c < /t/token; {FOREVER}",
                          volumeMounts=mounts)  # fmt: skip
        await cluster.create(
            pod(name, container, volumes=listed({"t": projected}), securityContext=context,
                serviceAccountName="owner")
        )  # fmt: skip
    root = cluster.options.root_directory
    tokens = []
    for name, (_, expected) in owners.items():
        ready = await cluster.wait(name, is_ready)
        said: list[str] = []

        async def has_looked(ready: Pod = ready, said: list[str] = said) -> bool:
            said[:] = (await cluster.logs(ready, "main")).splitlines()
            return len(said) == 2

        await eventually(has_looked)
        assert said == [expected, "200"]
        directory = root / "pods" / ready.metadata.uid / "volumes/kubernetes.io~projected/t"
        assert directory in mounts_under(directory), "a token must not reach a disk"
        tokens.append(directory / "token")
    # Another pod that may look around on the node, but not as root.
    script = f"for f in {' '.join(str(each) for each in tokens)}; do cat $f 2>&1; done; id -u"
    host = {"host": {"hostPath": {"path": str(root)}}}
    thief = shell("main", script, volumeMounts=[{"name": "host", "mountPath": str(root)}])
    await cluster.create(pod("thief", thief, volumes=listed(host), restartPolicy="Never",
                             securityContext={"runAsUser": 1001, "runAsGroup": 1001}))  # fmt: skip
    ended = await cluster.wait("thief", succeeded)
    *found, user = (await cluster.logs(ended, "main")).splitlines()
    assert user == "1001" and len(found) == 3
    assert all("Permission denied" in line for line in found), found
    for name in owners:
        await cluster.delete(name, 0)
    await cluster.delete("thief", 0)
    await nothing_left(cluster)


HOSTILE = {
    "upwards": ImageConfig(cmd=["sh"], volumes=["../../../../etc", "/../../etc", "/data/../../x"]),
    "descriptor": ImageConfig(cmd=["sh"], working_dir="/proc/self/fd/8"),
    "overflow": ImageConfig(cmd=["sh"], user="4294967297"),
}


async def test_hostile_images(
    cluster: Cluster, runtime_environment: RuntimeEnvironment, tmp_path: Path
) -> None:
    """CVE-2022-23648 (volumes), CVE-2024-21626 (working directory), CVE-2024-40635 (user)."""
    for name, config in HOSTILE.items():
        image = f"docker.io/library/hostile:{name}"
        archive = build_busybox(tmp_path / f"{name}.tar", image, config)
        await asyncio.to_thread(import_image, runtime_environment, archive)
        script = "id -u; pwd -P; ls ../../../ . /etc | tr '\\n' ' '"
        container = shell("main", script, image=f"hostile:{name}")
        await cluster.create(pod(name, container, restartPolicy="Never"))
    for name in HOSTILE:
        seen = await cluster.wait(name, has_an_outcome)
        if seen.status.phase != "Succeeded":
            continue  # the runtime has refused it
        user, *listing = (await cluster.logs(seen, "main")).split()
        assert not {"usr", "var", "lib", "shadow"} & set(listing), f"{name}: the node's files"
        assert name != "overflow" or user != "0"


def has_an_outcome(pod: Pod) -> bool:
    return pod.status.phase in ("Succeeded", "Failed") or "Error" in reason_of(pod)
