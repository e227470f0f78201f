"""Volumes made of API objects and empty directories, as containers find them: modes, owners,
contents, and what becomes of them when the objects change."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, shell
from tests.cluster.node.test_pod_life import FOREVER, is_ready
from tests.cluster.node.test_pod_surroundings import create, output
from tests.conftest import SUITE

from navarch.api.types.core_v1 import Node, Pod

pytestmark = pytest.mark.cluster

KINDS = ("configMap", "secret", "projected configMap", "projected secret")
DATA = {"data-1": "value-1", "data-2": "value-2"}


def rows(*beginnings: str) -> list[str]:
    """The official tests whose names begin so."""
    names = [line.split("\t")[1] for line in SUITE.read_text().splitlines()]
    found = {each: [name for name in names if name.startswith(each)] for each in beginnings}
    assert all(found.values()), found
    return sorted({name for each in found.values() for name in each})


def source(kind: str, name: str, mode: int | None = None, **fields: Any) -> dict[str, Any]:
    """A volume's source of one of the kinds; `mode` is for all its files."""
    _, _, projected = kind.rpartition(" ")
    key = "secretName" if kind == "secret" else "name"
    own = {projected: {key: name, **fields}}
    default = {} if mode is None else {"defaultMode": mode}
    if kind.startswith("projected"):
        return {"projected": {"sources": [own], **default}}
    own[projected] |= default
    return own


def mapped(mode: int | None = None) -> list[dict[str, Any]]:
    item: dict[str, Any] = {"key": "data-2", "path": "path/to/data-2"}
    return [item if mode is None else {**item, "mode": mode}]


def mounts(volumes: dict[str, Any]) -> dict[str, Any]:
    """Fields of a container that mounts all the volumes below /v."""
    listed = [{"name": name, "mountPath": f"/v/{name}"} for name in volumes]
    return {"volumeMounts": listed}


def listed(volumes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, **each} for name, each in volumes.items()]


async def make_sources(cluster: Cluster, name: str, data: dict[str, str]) -> None:
    await create(cluster, "configmaps", "ConfigMap", name, data=data)
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
    await create(cluster, "secrets", "Secret", name, data=encoded)


def show(*paths: str) -> str:
    """A script that prints path, permissions and content of files."""
    return f'for f in {" ".join(paths)}; do echo "$f $(stat -L -c %A $f) $(cat $f)"; done'


def short(kind: str) -> str:
    return kind.replace(" ", "-").lower()


@pytest.mark.conformance(
    *rows(
        "ConfigMap should be consumable from pods in volume",
        "ConfigMap should be consumable in multiple volumes",
        "ConfigMap binary data",
        "Secrets should be consumable from pods in volume [",
        "Secrets should be consumable from pods in volume with",
        "Secrets should be consumable from pods in volume as non-root",
        "Secrets should be consumable in multiple volumes",
        "Secrets should be able to mount in a volume regardless",
        "Projected configMap should be consumable",
        "Projected secret should be consumable from pods in volume [",
        "Projected secret should be consumable from pods in volume with",
        "Projected secret should be consumable from pods in volume as non-root",
        "Projected secret should be consumable in multiple volumes",
        "EmptyDir wrapper volumes should not conflict",
    )
)
async def test_objects_as_files(cluster: Cluster) -> None:
    await make_sources(cluster, "source", DATA)
    await create(cluster, "configmaps", "ConfigMap", "binary", data={"text": "t"},
                 binaryData={"raw": base64.b64encode(bytes(range(256))).decode()})  # fmt: skip
    await cluster.client.dynamic("", "v1", "namespaces", namespaced=False).create(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}
    )
    await cluster.client.dynamic("", "v1", "secrets").create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "source", "namespace": "other"},
         "stringData": {"data-1": "of another namespace"}}
    )  # fmt: skip
    volumes: dict[str, Any] = {}
    expected: dict[str, str] = {}
    private: dict[str, str] = {}
    for kind in KINDS:
        name = short(kind)
        for variant, fields, mode, path, key in (
            ("plain", {}, "-rw-r--r--", "data-1", "data-1"),
            ("again", {}, "-rw-r--r--", "data-1", "data-1"),
            ("mapped", {"items": mapped()}, "-rw-r--r--", "path/to/data-2", "data-2"),
            ("item", {"items": mapped(0o400)}, "-r--------", "path/to/data-2", "data-2"),
            ("mode", {"mode": 0o400}, "-r--------", "data-1", "data-1"),
        ):
            volumes[f"{name}-{variant}"] = source(kind, "source", **fields)
            target = private if mode == "-r--------" else expected
            target[f"/v/{name}-{variant}/{path}"] = f"{mode} {DATA[key]}"
    volumes["binary"] = {"configMap": {"name": "binary"}}
    grouped = {short(kind): source(kind, "source", 0o440) for kind in KINDS if "secret" in kind}
    root = shell("root", f"{show(*expected, *private)}; md5sum < /v/binary/raw; id -u;"
                 " awk '/secret-plain/ {print $3, substr($4, 1, 2)}' /proc/mounts",
                 **mounts(volumes))  # fmt: skip
    plain = shell("plain", f"{show(*expected)}; cat {next(iter(private))} 2>&1; id -u",
                  securityContext={"runAsUser": 1000}, **mounts(volumes))  # fmt: skip
    paths = [f"/v/{name}/data-1" for name in grouped]
    await asyncio.gather(
        cluster.create(pod("reader", root, plain, restartPolicy="Never", volumes=listed(volumes))),
        cluster.create(
            pod("grouped", shell("main", show(*paths), **mounts(grouped)), restartPolicy="Never",
                securityContext={"runAsUser": 1000, "fsGroup": 1001}, volumes=listed(grouped))
        ),
    )  # fmt: skip
    ended = await cluster.wait("reader", succeeded)
    lines = [f"{path} {text}" for path, text in expected.items()]
    *found, digest, user, medium, again = (await cluster.logs(ended, "root")).splitlines()
    assert sorted(found) == sorted(lines + [f"{path} {text}" for path, text in private.items()])
    assert (digest, user) == ("e2c865db4162bed963bfaa9ef6ac18f0  -", "0")
    assert medium == again == "tmpfs ro"  # the secret's, also as a projected one
    *found, denied, user = (await cluster.logs(ended, "plain")).splitlines()
    assert found == lines and "Permission denied" in denied and user == "1000"
    ended = await cluster.wait("grouped", succeeded)
    assert (await cluster.logs(ended, "main")).splitlines() == [
        f"{path} -r--r----- value-1" for path in paths
    ]


def succeeded(pod: Pod) -> bool:
    assert pod.status.phase != "Failed", pod.status
    return pod.status.phase == "Succeeded"


@pytest.mark.conformance(
    *rows(
        "EmptyDir volumes should support (",
        "EmptyDir volumes volume on",
        "EmptyDir volumes pod should support shared volumes",
    )
)
async def test_empty_directories(cluster: Cluster) -> None:
    script = """
for v in disk memory; do
  stat -c "%A $v" /$v; awk -v m=/$v '$2 == m {print $3}' /proc/mounts
  for mode in 0644 0666 0777; do
    f=/$v/$(id -u)-$mode; (umask 0; echo mount-tester new file > $f; chmod $mode $f)
    echo "$(stat -c '%A %u' $f) $(cat $f)"
  done
done
"""
    volumes = {
        "disk": {"emptyDir": {}},
        "memory": {"emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
    }
    both = {"volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in volumes]}
    users = {"root": 0, "plain": 1001}
    containers = [
        shell(name, script, securityContext={"runAsUser": user}, **both)
        for name, user in users.items()
    ]
    waiter = shell("waiter", "until test -e /disk/0-0777 -a -e /disk/1001-0777; do sleep 0.1; done;"
                   " cat /disk/*-0644; df -k /memory | awk 'END {print $2}'", **both)  # fmt: skip
    document = pod("empty", *containers, waiter, restartPolicy="Never", volumes=listed(volumes))
    await cluster.create(document)
    ended = await cluster.wait("empty", succeeded)
    for name, user in users.items():
        lines = (await cluster.logs(ended, name)).splitlines()
        files = [
            f"{mode} {user} mount-tester new file"
            for mode in ("-rw-r--r--", "-rw-rw-rw-", "-rwxrwxrwx")
        ]
        assert lines[0] == "drwxrwxrwx disk" and lines[2:5] == files
        assert lines[5:7] == ["drwxrwxrwt memory", "tmpfs"] and lines[7:] == files
        assert lines[1] != "tmpfs"
    written = "mount-tester new file\n"
    assert await cluster.logs(ended, "waiter") == f"{written}{written}8192"


RESOURCES = (
    ("limits.cpu", "limited", "2"),
    ("requests.cpu", "limited", "1"),
    ("limits.memory", "limited", "67108864"),
    ("requests.memory", "limited", "33554432"),
    ("limits.cpu", "free", "node"),
    ("limits.memory", "free", "node"),
)


def downward_items() -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = [
        {"path": "podname", "fieldRef": {"fieldPath": "metadata.name"}},
        {"path": "private", "mode": 0o400, "fieldRef": {"fieldPath": "metadata.name"}},
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}},
    ]
    for resource, container, _ in RESOURCES:
        reference = {"containerName": container, "resource": resource}
        items.append({"path": f"{container}.{resource}", "resourceFieldRef": reference})
    return items


@pytest.mark.conformance(
    *rows(
        "Downward API volume should provide",
        "Downward API volume should set",
        "Projected downwardAPI should provide",
        "Projected downwardAPI should set",
        "Projected combined",
    )
)
async def test_the_pod_itself_as_files(cluster: Cluster) -> None:
    await make_sources(cluster, "source", DATA)
    items = downward_items()
    everything = [
        {"configMap": {"name": "source", "items": [{"key": "data-1", "path": "configmap-data"}]}},
        {"secret": {"name": "source", "items": [{"key": "data-1", "path": "secret-data"}]}},
        {"downwardAPI": {"items": items[:1]}},
    ]
    volumes = {
        "downward": {"downwardAPI": {"items": items}},
        "projected": {"projected": {"sources": [{"downwardAPI": {"items": items}}]}},
        "downward-mode": {"downwardAPI": {"items": items[:1], "defaultMode": 0o400}},
        "projected-mode": {
            "projected": {"sources": [{"downwardAPI": {"items": items[:1]}}], "defaultMode": 0o400}
        },
        "all": {"projected": {"sources": everything}},
    }
    found: dict[str, str] = {}

    async def is_registered() -> bool:
        nodes = await cluster.client.resource(Node).list()
        found.update(nodes.items[0].status.allocatable if nodes.items else {})
        return bool(found)

    await eventually(is_registered)
    cpu, memory = found["cpu"], found["memory"]
    allocatable = {"limits.cpu": cpu, "limits.memory": str(int(memory.removesuffix("Ki")) * 1024)}
    lines = []
    for volume in ("downward", "projected"):
        lines.append(f"/v/{volume}/podname -rw-r--r-- info")
        lines.append(f"/v/{volume}/private -r-------- info")
        for resource, container, value in RESOURCES:
            text = allocatable[resource] if value == "node" else value
            lines.append(f"/v/{volume}/{container}.{resource} -rw-r--r-- {text}")
        lines.append(f"/v/{volume}-mode/podname -r-------- info")
    lines += ["/v/all/configmap-data -rw-r--r-- value-1", "/v/all/podname -rw-r--r-- info",
              "/v/all/secret-data -rw-r--r-- value-1"]  # fmt: skip
    limited = shell("limited", show(*(line.split()[0] for line in lines)), **mounts(volumes))
    limited["resources"] = {
        "limits": {"cpu": "1250m", "memory": "64Mi"},
        "requests": {"cpu": "250m", "memory": "32Mi"},
    }
    text = await output(
        cluster, pod("info", limited, shell("free", "true"), volumes=listed(volumes)), "limited"
    )
    assert text.splitlines() == lines


@pytest.mark.conformance(
    *rows(
        "ConfigMap updates should be reflected",
        "ConfigMap optional updates",
        "Secrets optional updates",
        "Projected configMap updates should be reflected",
        "Projected configMap optional updates",
        "Projected secret optional updates",
        "Downward API volume should update",
        "Projected downwardAPI should update",
    )
)
async def test_files_follow_their_objects(cluster: Cluster) -> None:
    for name in ("updated", "deleted"):
        await make_sources(cluster, name, {"data-1": "old"})
    volumes = {
        f"{short(kind)}-{name}": source(kind, name, optional=True)
        for kind in KINDS
        for name in ("updated", "deleted", "created")
    }
    items = [each for each in downward_items() if each["path"] in ("labels", "annotations")]
    volumes["downward"] = {"downwardAPI": {"items": items}}
    volumes["projected"] = {"projected": {"sources": [{"downwardAPI": {"items": items}}]}}
    document = pod("live", shell("main", FOREVER, **mounts(volumes)), volumes=listed(volumes))
    document["metadata"] |= {"labels": {"key": "old"}, "annotations": {"builder": "bar"}}
    await cluster.create(document)
    ready = await cluster.wait("live", is_ready)
    script = "cd /v; for f in */*; do echo $f $(cat $f); done"

    async def shown() -> list[str]:
        container = ready.status.containerStatuses[0].containerID.removeprefix("containerd://")
        done = await cluster.runtime.exec_sync(container, ["sh", "-c", script], 60)
        return sorted(done.stdout.decode().splitlines())

    before = [f"{short(kind)}-{name}/data-1 old"
              for kind in KINDS for name in ("updated", "deleted")]  # fmt: skip
    before += [f"{each}/{line}" for each in ("downward", "projected")
               for line in ('annotations builder="bar"', 'labels key="old"')]  # fmt: skip
    assert await shown() == sorted(before)
    await make_sources(cluster, "created", {"data-1": "new"})
    for plural, fields in (("configmaps", "data"), ("secrets", "stringData")):
        objects = cluster.client.dynamic("", "v1", plural)
        await objects.delete("deleted", "default")
        await objects.patch("updated", "default", {fields: {"data-1": "new", "data-3": "more"}})
    await cluster.client.dynamic("", "v1", "pods").patch(
        "live", "default",
        {"metadata": {"labels": {"key": "new"}, "annotations": {"builder": "foo"}}},
    )  # fmt: skip
    after = []
    for kind in map(short, KINDS):
        after += [f"{kind}-created/data-1 new"]
        after += [f"{kind}-updated/data-1 new", f"{kind}-updated/data-3 more"]
    after += [f"{each}/{line}" for each in ("downward", "projected")
              for line in ('annotations builder="foo"', 'labels key="new"')]  # fmt: skip

    async def has_changed() -> bool:
        return await shown() == sorted(after)

    await eventually(has_changed, 90)


@pytest.mark.conformance(*rows("Subpath Atomic writer volumes"))
async def test_parts_of_volumes(cluster: Cluster) -> None:
    await make_sources(cluster, "source", DATA)
    items = [{"path": "inner/labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    volumes = {
        "map": {"configMap": {"name": "source"}},
        "secret": {"secret": {"secretName": "source"}},
        "projected": source("projected configMap", "source"),
        "downward": {"downwardAPI": {"items": items}},
    }
    parts = [
        ("map", "data-1", "/part/map"),
        ("map", "data-2", "/etc/resolv.conf"),
        ("secret", "data-1", "/part/secret"),
        ("projected", "data-2", "/part/projected"),
        ("downward", "inner", "/part/downward"),
    ]
    container = shell("main", "cat /part/map /etc/resolv.conf /part/secret /part/projected;"
                      " cat /part/downward/labels; (echo x > /part/map) 2>&1")  # fmt: skip
    container["volumeMounts"] = [
        {"name": name, "subPath": part, "mountPath": path} for name, part, path in parts
    ]
    document = pod("parts", container, restartPolicy="Never", volumes=listed(volumes))
    document["metadata"]["labels"] = {"tier": "front"}
    await cluster.create(document)
    ended = await cluster.wait("parts", lambda each: each.status.phase == "Failed")
    text = await cluster.logs(ended, "main")
    assert text.startswith('value-1value-2value-1value-2tier="front"')
    assert text.endswith("Read-only file system")


@pytest.mark.conformance(*rows("EmptyDir wrapper volumes should not cause race condition"))
async def test_many_volumes_in_many_pods(cluster: Cluster) -> None:
    names = [f"racing-{number}" for number in range(50)]
    await asyncio.gather(
        *(create(cluster, "configmaps", "ConfigMap", name, data=DATA) for name in names)
    )
    volumes = {name: source("configMap", name, items=mapped()) for name in names}
    for number in range(5):
        container = shell("main", "cat /v/*/path/to/data-2 | wc -c", **mounts(volumes))
        document = pod(f"race-{number}", container, restartPolicy="Never", volumes=listed(volumes))
        await cluster.create(document)
    for number in range(5):
        ended = await cluster.wait(f"race-{number}", succeeded)
        assert await cluster.logs(ended, "main") == str(50 * len("value-2"))
