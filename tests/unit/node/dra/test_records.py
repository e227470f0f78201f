"""What is written down of claims, and what CDI files do to a container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from navarch.node.cri import runtime_pb2 as pb
from navarch.node.dra import cdi
from navarch.node.dra.health import Health, HealthCache
from navarch.node.dra.records import ClaimRecord, Device, GarbledRecords, decode, encode

CLAIM = ClaimRecord(
    "ns", "c", "u", {"p1", "p2"}, {"d.example": [Device("pool", "a", ("r",), ("x=y",), "s")]}
)


def test_records_survive() -> None:
    assert decode(encode([CLAIM])) == [CLAIM]


def test_the_file_is_upstream_s() -> None:
    data = json.loads(json.loads(encode([CLAIM]))["Data"])
    (state,) = data["ClaimInfoStateList"]
    assert (data["kind"], state["PodUIDs"]) == ("DRACheckpoint", {"p1": {}, "p2": {}})
    assert state["DriverState"]["d.example"]["Devices"][0]["CDIDeviceIDs"] == ["x=y"]


@pytest.mark.parametrize(
    "blob",
    [b"", b"{}", b'{"Data": "{}", "Checksum": 1}', encode([CLAIM]).replace(b"pool", b"poor")],
)
def test_garbled_records(blob: bytes) -> None:
    with pytest.raises(GarbledRecords):
        decode(blob)


def spec(**edits: Any) -> str:
    devices = [{"name": "a", "containerEdits": edits}]
    return json.dumps({"cdiVersion": "0.6.0", "kind": "d.example/gpu", "devices": devices})


def test_edits_of_a_container(tmp_path: Path) -> None:
    mount = {"hostPath": "/opt", "containerPath": "/lib/gpu", "options": ["ro", "rslave"]}
    nodes = [{"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw"}]
    (tmp_path / "d.json").write_text(
        spec(env=["A=1", "B=x=y"], mounts=[mount], deviceNodes=nodes, additionalGids=[7])
    )
    (tmp_path / "broken.json").write_text("{")
    config = pb.ContainerConfig(envs=[pb.KeyValue(key="A", value=b"0")])
    cdi.give(config, ["d.example/gpu=a"], [tmp_path, tmp_path / "none"])
    assert [(each.key, each.value) for each in config.envs] == [("A", b"1"), ("B", b"x=y")]
    (device,) = config.devices
    assert (device.container_path, device.host_path, device.permissions) == (
        *("/dev/gpu0", "/dev/null"),
        "rw",
    )
    (made,) = config.mounts
    assert (made.container_path, made.readonly) == ("/lib/gpu", True)
    assert made.propagation == pb.PROPAGATION_HOST_TO_CONTAINER
    assert [*config.linux.security_context.supplemental_groups] == [7]


@pytest.mark.parametrize(
    ("name", "edits", "problem"),
    [
        ("d.example/gpu=b", {}, "unresolvable CDI devices d.example/gpu=b"),
        ("d.example/gpu=a", {"hooks": [{"hookName": "x"}]}, "needs a runtime that knows CDI"),
        ("d.example/gpu=a", {"deviceNodes": [{"path": "/none"}]}, "No such file"),
        ("d.example/gpu=a", {"deviceNodes": [{"path": "/etc"}]}, "is not a device node"),
    ],
)
def test_devices_that_cannot_be_given(
    tmp_path: Path, name: str, edits: dict[str, Any], problem: str
) -> None:
    (tmp_path / "d.json").write_text(spec(**edits))
    with pytest.raises(cdi.CdiProblem, match=problem):
        cdi.give(pb.ContainerConfig(), [name], [tmp_path])


@pytest.mark.parametrize(
    ("runtime", "version", "knows"),
    [
        ("containerd", "1.6.20", False),
        ("containerd", "v1.7.2", True),
        ("containerd", "2.0.0", True),
        ("cri-o", "1.30.1", True),
    ],
)
def test_who_knows_cdi(runtime: str, version: str, knows: bool) -> None:
    assert cdi.knows_names(runtime, version) is knows


def test_health_is_forgotten_in_time() -> None:
    cache, place = HealthCache(), ("d.example", "pool", "a")
    assert cache.update("d.example", [(place, Health("Healthy", until=30))], 0) == {place}
    assert cache.update("d.example", [(place, Health("Healthy", until=60))], 10) == set()
    assert (cache.get(place, 60).state, cache.get(place, 61).state) == ("Healthy", "Unknown")
    assert cache.forget("d.example") == {place}
