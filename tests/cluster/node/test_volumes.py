"""Volumes that outlive pods: hostPath, local disks, claims, block devices; propagation; and that
nothing of them stays mounted."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.node.conftest import NODE, Cluster, eventually, pod, shell, text_of
from tests.cluster.node.environment import run
from tests.cluster.node.test_pod_life import FOREVER, is_ready, reason_of
from tests.cluster.node.test_pod_surroundings import create
from tests.cluster.node.test_volume_files import listed, succeeded

from navarch.node.volumes.kernel import bind, mount, mounts_under, unmount

pytestmark = pytest.mark.cluster

_MS_SHARED = 1 << 20


async def claim(cluster: Cluster, name: str, *, claimed: dict[str, Any] | None = None,
                **spec: Any) -> None:  # fmt: skip
    """A claim and its volume, bound to each other as the binder would."""
    modes, size = ["ReadWriteOnce"], {"storage": "1Gi"}
    common = {"accessModes": modes, "storageClassName": ""}
    claims = cluster.client.dynamic("", "v1", "persistentvolumeclaims")
    mode = {"volumeMode": spec["volumeMode"]} if "volumeMode" in spec else {}
    made = await claims.create({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default", **(claimed or {})},
        "spec": {**common, **mode, "resources": {"requests": size}, "volumeName": name},
    })  # fmt: skip
    reference = {"name": name, "namespace": "default", "uid": made["metadata"]["uid"]}
    await cluster.client.dynamic("", "v1", "persistentvolumes", namespaced=False).create({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {**common, "capacity": size, "claimRef": reference, **spec},
    })  # fmt: skip
    status = {"phase": "Bound", "capacity": size, "accessModes": modes}
    await claims.patch(name, "default", {"status": status}, subresource="status")


def here(*values: str) -> dict[str, Any]:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(values)}
    return {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}


def claimed(name: str, **fields: Any) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": name, **fields}}


def mounted(volumes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    both = [{"name": name, "mountPath": f"/{name}", **fields} for name in volumes]
    return {"volumeMounts": both}


async def nothing_left(cluster: Cluster) -> None:
    root = cluster.options.root_directory

    async def is_clean() -> bool:
        return not mounts_under(root) and not os.listdir(root / "pods")

    await eventually(is_clean)


async def test_claims_and_places_of_the_node(cluster: Cluster, tmp_path: Path) -> None:
    for name in ("disk", "shared", "plain"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("old\n")
        (tmp_path / name / "old").chmod(0o600)
    await claim(cluster, "disk", local={"path": str(tmp_path / "disk")}, nodeAffinity=here(NODE))
    await claim(cluster, "shared", hostPath={"path": str(tmp_path / "shared")})
    volumes = {
        "disk": claimed("disk"),
        "again": claimed("disk", readOnly=True),
        "shared": claimed("shared", readOnly=True),
        "plain": {"hostPath": {"path": str(tmp_path / "plain"), "type": "Directory"}},
        "made": {"hostPath": {"path": str(tmp_path / "made/deep"), "type": "DirectoryOrCreate"}},
    }
    script = """
stat -c '%g %A %n' /disk /disk/old /shared/old /plain/old
echo new > /disk/new; stat -c '%g' /disk/new; cat /again/new
for f in /again/x /shared/x; do touch $f 2>&1; done; touch /made/file; id -G
"""
    context = {"fsGroup": 4321}
    await cluster.create(
        pod("holder", shell("main", script, **mounted(volumes)), restartPolicy="Never",
            volumes=listed(volumes), securityContext=context)
    )  # fmt: skip
    ended = await cluster.wait("holder", succeeded)
    lines = (await cluster.logs(ended, "main")).splitlines()
    assert lines[:4] == [
        "4321 drwxrwsr-x /disk", "4321 -rw-rw---- /disk/old",
        "0 -rw------- /shared/old", "0 -rw------- /plain/old",
    ]  # fmt: skip
    assert lines[4:6] == ["4321", "new"]
    assert all("Read-only file system" in line for line in lines[6:8])
    assert "4321" in lines[8].split() and (tmp_path / "made/deep/file").exists()
    # What has ended holds nothing; what it has written stays.
    await nothing_mounted(cluster)
    await cluster.delete("holder")
    await nothing_left(cluster)
    assert (tmp_path / "disk/new").read_text() == "new\n"


async def nothing_mounted(cluster: Cluster) -> None:
    async def is_clean() -> bool:
        return not mounts_under(cluster.options.root_directory)

    await eventually(is_clean)


async def test_volumes_that_cannot_be(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await asyncio.gather(
        claim(cluster, "elsewhere", local={"path": str(tmp_path)}, nodeAffinity=here("node-9")),
        claim(cluster, "gone", local={"path": f"{tmp_path}/gone"}, nodeAffinity=here(NODE)),
        claim(cluster, "foreign-scratch", hostPath={"path": str(tmp_path)}),
        claim(cluster, "glass", iscsi={"targetPortal": "192.0.2.1", "lun": 0,
                                       "iqn": "iqn.2001-04.com.example:x"}),
    )  # fmt: skip
    template = {"spec": {"accessModes": ["ReadWriteOnce"],
                         "resources": {"requests": {"storage": "1Gi"}}}}  # fmt: skip
    setup = 'MountVolume.SetUp failed for volume "{}" : '
    processed = ("Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], "
                 "failed to process volumes=[v]: ")  # fmt: skip
    cases = {
        "elsewhere": (claimed("elsewhere"),
                      setup.format("elsewhere").replace("SetUp", "NodeAffinity check")
                      + "no matching NodeSelectorTerms"),
        "gone": (claimed("gone"), setup.format("gone") + f'path "{tmp_path}/gone" does not exist'),
        "unclaimed": (claimed("none"), processed + "error processing PVC default/none: failed to "
                      'fetch PVC from API server: persistentvolumeclaims "none" not found'),
        "foreign": ({"ephemeral": {"volumeClaimTemplate": template}}, None),
        "glass": (claimed("glass"), setup.format("glass") + "iscsi volumes are not supported by "
                  "this node: use a CSI driver"),
        "typed": ({"hostPath": {"path": f"{tmp_path}/file", "type": "Directory"}},
                  setup.format("v") + f"hostPath type check failed: {tmp_path}/file is not a "
                  "directory"),
        "git": ({"gitRepo": {"repository": "https://git.example/r"}},
                setup.format("v") + "gitRepo volume plugin has been disabled"),
        "keyless": ({"nfs": {"server": "192.0.2.1", "path": "/x"}}, None),
    }  # fmt: skip
    expected = {name: text for name, (_, text) in cases.items() if text is not None}
    expected["keyless"] = setup.format("v")
    expected["foreign"] = processed + (
        "PVC default/foreign-scratch was not created for pod default/foreign (pod is not owner)"
    )
    cases["foreign"] = (cases["foreign"][0], None)
    for name, (volume, _) in cases.items():
        key = "scratch" if name == "foreign" else "v"
        container = shell("main", "true", volumeMounts=[{"name": key, "mountPath": "/v"}])
        await cluster.create(pod(name, container, volumes=[{"name": key, **volume}]))
    expected["foreign"] = expected["foreign"].replace("[v]", "[scratch]")
    for name, text in expected.items():

        async def is_told(name: str = name, text: str = text) -> bool:
            told = await cluster.events(name)
            return any(reason == "FailedMount" and said.startswith(text) for reason, said in told)

        try:
            await eventually(is_told)
        except TimeoutError:
            raise AssertionError(f"{name}: {await cluster.events(name)}") from None
        assert reason_of(await cluster.get(name)) == "ContainerCreating"


def disks() -> list[str]:
    found = run("losetup", "--noheadings", "--output", "BACK-FILE").splitlines()
    return [Path(line).name for line in found]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file to be used as a disk; no loop device may stay."""
    path = tmp_path / f"{tmp_path.name}.img"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    yield path
    for line in run("losetup", "--noheadings", "--output", "NAME,BACK-FILE").splitlines():
        device, _, backing = line.partition(" ")
        if backing.strip() == str(path):
            subprocess.run(["umount", device], capture_output=True, check=False)
            run("losetup", "--detach", device)


async def test_block_devices(cluster: Cluster, disk: Path) -> None:
    await claim(cluster, "raw", local={"path": str(disk)}, nodeAffinity=here(NODE),
                volumeMode="Block")  # fmt: skip
    await claim(cluster, "peek", local={"path": str(disk)}, nodeAffinity=here(NODE),
                volumeMode="Block")  # fmt: skip
    writer = shell("writer", "printf hello | dd of=/dev/disk conv=notrunc 2>/dev/null; sync;"
                   f" stat -c %F /dev/disk; {FOREVER}",
                   volumeDevices=[{"name": "raw", "devicePath": "/dev/disk"}])  # fmt: skip
    await cluster.create(pod("raw", writer, volumes=listed({"raw": claimed("raw")})))
    ready = await cluster.wait("raw", is_ready)

    async def is_written() -> bool:
        return text_of(disk)[:5] == "hello"

    await eventually(is_written)
    await cluster.says(ready, "writer", "block special file")
    reader = shell("reader", "head -c 5 /dev/disk; (printf x > /dev/disk) 2>&1",
                   volumeDevices=[{"name": "peek", "devicePath": "/dev/disk"}])  # fmt: skip
    await cluster.create(pod("peek", reader, restartPolicy="Never",
                             volumes=listed({"peek": claimed("peek", readOnly=True)})))  # fmt: skip
    ended = await cluster.wait("peek", lambda each: each.status.phase == "Failed")
    assert "Operation not permitted" in await cluster.logs(ended, "reader")
    link = cluster.options.root_directory / "pods" / ready.metadata.uid / "volumeDevices"
    assert stat.S_ISBLK(os.stat(link / "kubernetes.io~local-volume/raw").st_mode)
    await cluster.delete("peek")
    await cluster.delete("raw", 0)
    await nothing_left(cluster)
    assert disk.name not in disks()


async def test_a_loop_device_is_its_makers(cluster: Cluster, disk: Path) -> None:
    device = run("losetup", "--find", "--show", str(disk)).strip()
    for name, path in (("device", device), ("file", str(disk))):
        await claim(cluster, name, local={"path": path}, nodeAffinity=here(NODE),
                    volumeMode="Block")  # fmt: skip
        user = shell("user", "stat -c %F /dev/disk",
                     volumeDevices=[{"name": name, "devicePath": "/dev/disk"}])  # fmt: skip
        await cluster.create(pod(name, user, restartPolicy="Never",
                                 volumes=listed({name: claimed(name)})))  # fmt: skip
        ended = await cluster.wait(name, succeeded)
        assert await cluster.logs(ended, "user") == "block special file"
        await cluster.delete(name)
    await nothing_left(cluster)
    assert disk.name in disks()


def may_grow_mounted() -> bool:
    """The kernel lets only CAP_SYS_RESOURCE grow a file system that is in use."""
    capabilities = next(
        line for line in text_of("/proc/self/status").splitlines() if line.startswith("CapEff")
    )
    return bool(int(capabilities.split()[1], 16) >> 24 & 1)


async def test_a_disk_with_a_file_system(cluster: Cluster, disk: Path) -> None:
    device = run("losetup", "--find", "--show", str(disk))
    await claim(cluster, "formatted", local={"path": device.strip()}, nodeAffinity=here(NODE))
    volumes = {"v": claimed("formatted")}
    for number, script in enumerate(("echo kept > /v/file; stat -f -c %T /v", "cat /v/file")):
        await cluster.create(
            pod(f"user-{number}", shell("main", script, **mounted(volumes)),
                restartPolicy="Never", volumes=listed(volumes))
        )  # fmt: skip
        ended = await cluster.wait(f"user-{number}", succeeded)
        assert await cluster.logs(ended, "main") == ("ext2/ext3", "kept")[number]
        await nothing_mounted(cluster)
        await cluster.delete(f"user-{number}", 0)
        if not number and may_grow_mounted():
            # The disk and its volume grow while nobody uses them; the next pod gets all of it.
            os.truncate(disk, 128 << 20)
            run("losetup", "--set-capacity", device.strip())
            await cluster.client.dynamic("", "v1", "persistentvolumes", namespaced=False).patch(
                "formatted", "", {"spec": {"capacity": {"storage": "2Gi"}}}
            )
    await nothing_left(cluster)
    if not may_grow_mounted():
        return
    claims = cluster.client.dynamic("", "v1", "persistentvolumeclaims")
    assert (await claims.get("formatted", "default"))["status"]["capacity"]["storage"] == "2Gi"
    text = run("dumpe2fs", "-h", device.strip())
    blocks = next(line for line in text.splitlines() if line.startswith("Block count:"))
    size = next(line for line in text.splitlines() if line.startswith("Block size:"))
    assert int(blocks.split()[-1]) * int(size.split()[-1]) == 128 << 20


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A directory whose mounts propagate, as a node's root does."""
    place = tmp_path / "shared"
    place.mkdir()
    bind(place, place)
    mount("none", place, flags=_MS_SHARED)
    try:
        yield place
    finally:
        for point in mounts_under(place):
            unmount(point)


async def test_mounts_spread_as_asked(cluster: Cluster, shared: Path) -> None:
    for name in ("from-node", "from-pod"):
        (shared / name).mkdir()
    volumes = {"v": {"hostPath": {"path": str(shared)}}}
    kinds = {"none": None, "slave": "HostToContainer", "both": "Bidirectional"}
    containers = [
        shell(name, FOREVER, securityContext={"privileged": True},
              **mounted(volumes, **({"mountPropagation": mode} if mode else {})))
        for name, mode in kinds.items()
    ]  # fmt: skip
    await cluster.create(pod("spread", *containers, volumes=listed(volumes)))
    ready = await cluster.wait("spread", is_ready)
    ids = {each.name: each.containerID.removeprefix("containerd://")
           for each in ready.status.containerStatuses}  # fmt: skip

    async def sees(name: str, path: str) -> bool:
        done = await cluster.runtime.exec_sync(ids[name], ["grep", f" {path} ", "/proc/mounts"], 60)
        return done.exit_code == 0

    mount("tmpfs", shared / "from-node", "tmpfs")
    making = ["mount", "-t", "tmpfs", "tmpfs", "/v/from-pod"]
    done = await cluster.runtime.exec_sync(ids["both"], making, 60)
    assert done.exit_code == 0, done.stderr
    assert shared / "from-pod" in mounts_under(shared)
    seen = {(name, path): await sees(name, f"/v/{path}")
            for name in kinds for path in ("from-node", "from-pod")}  # fmt: skip
    assert [key for key, value in seen.items() if value] == [
        ("slave", "from-node"), ("slave", "from-pod"), ("both", "from-node"), ("both", "from-pod"),
    ]  # fmt: skip


@pytest.mark.parametrize("moment", ["running", "half made", "half gone"])
async def test_an_agent_that_was_killed_leaves_no_mount(
    cluster: Cluster, tmp_path: Path, moment: str
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/precious").touch()
    await claim(cluster, "disk", local={"path": str(tmp_path / "disk")}, nodeAffinity=here(NODE))
    await create(cluster, "secrets", "Secret", "hidden", stringData={"key": "value"})
    volumes = {
        "disk": claimed("disk"),
        "memory": {"emptyDir": {"medium": "Memory"}},
        "scratch": {"emptyDir": {}},
        "secret": {"secret": {"secretName": "hidden"}},
    }
    main = shell("main", f"touch /scratch/file; {FOREVER}", **mounted(volumes))
    main["volumeMounts"].append({"name": "disk", "mountPath": "/part", "subPath": "inner"})
    await cluster.create(pod("victim", main, volumes=listed(volumes)))
    ready = await cluster.wait("victim", is_ready)
    directory = cluster.options.root_directory / "pods" / ready.metadata.uid
    assert len(mounts_under(directory)) == 4
    await cluster.stop_agent()
    before = [each.id for state in await cluster.runtime.pods() for each in state.containers]
    if moment == "half gone":
        unmount(directory / "volume-subpaths/disk/main/4")
        unmount(directory / "volumes/kubernetes.io~secret/secret")
    if moment == "half made":
        (directory / "volumes/kubernetes.io~nfs/share").mkdir(parents=True)
        (directory / "volumes/kubernetes.io~empty-dir/.late.new").mkdir()
    if moment == "running":
        cluster.start_agent()
        await cluster.wait("victim", is_ready)
        now = [each.id for state in await cluster.runtime.pods() for each in state.containers]
        assert now == before and len(mounts_under(directory)) == 4
        await cluster.delete("victim", 0)
    else:
        await cluster.delete("victim", 0)
        cluster.start_agent()
    await nothing_left(cluster)
    assert sorted(os.listdir(tmp_path / "disk")) == ["inner", "precious"]
