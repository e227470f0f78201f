"""Files in which the agent keeps what it cannot ask for: each is damaged in every way, and whoever
reads it reports that and goes on (or refuses by name what depends on it)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from navarch.node.cri.values import ImageRecord
from navarch.node.devices.records import Allocation, Checkpoint, Owner
from navarch.node.devices.records import encode as encode_devices
from navarch.node.devices.records import read as read_devices
from navarch.node.images.records import PulledRecord, PullIntent, PullRecords
from navarch.node.shutdown import show_last
from navarch.node.userns import UserNamespaceProblem, UserNamespaces
from navarch.node.volumes import csi_records
from navarch.node.volumes.plugin import VolumeProblem

IMAGE = ImageRecord("sha256:aa", ("busybox:1",))

Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "empty": lambda whole: b"",
    "zeros": lambda whole: bytes(len(whole)),
    "half": lambda whole: whole[: len(whole) // 2],
    "one bit": lambda whole: bytes([whole[0] ^ 4]) + whole[1:],
    "not text": lambda whole: b"\xff\xfe" + whole,
    "a number": lambda whole: b"7",
    "nothing": lambda whole: b"null",
    "a list": lambda whole: b"[1, null]",
    "other names": lambda whole: b'{"a": {"b": [null]}}',
    "other kinds": lambda whole: whole.replace(b'"', b"").replace(b":", b","),
    "deep": lambda whole: b"[" * 200_000,
}


def devices(directory: Path) -> Callable[[], object]:
    whole = Checkpoint(
        {Owner("u", "c", "example.com/gpu"): Allocation({"a": ()}, b"")}, ["example.com/gpu"]
    )
    path = directory / "kubelet_internal_checkpoint"
    path.write_bytes(encode_devices(whole, {"example.com/gpu": {"a"}}))
    assert read_devices(path) == whole
    return lambda: read_devices(path)


def volume(directory: Path) -> Callable[[], object]:
    record = {"driverName": "csi.example.com", "volumeHandle": "v-1", "specVolID": "pv"}
    csi_records.save(directory, record)
    assert csi_records.load(directory) == record
    return lambda: csi_records.load(directory)


def users(directory: Path) -> Callable[[], object]:
    assert UserNamespaces(directory, 65536, 110).mapping("u-1").uids[0].length == 65536
    return lambda: UserNamespaces(directory, 65536, 110).mapping("u-1")


def shutdown(directory: Path) -> Callable[[], object]:
    path = directory / "graceful_node_shutdown_state"
    path.write_text('{"startTime": "2026-01-01T00:00:00.000000Z", "endTime": ""}')
    return lambda: show_last(path)


def pulled(directory: Path) -> Callable[[], object]:
    records = PullRecords(directory)
    records._load([IMAGE])
    records._write(records._pulled, IMAGE.id, PulledRecord(IMAGE.id))
    records._write(records._pulling, "other:1", PullIntent("other:1"))

    def read() -> object:
        again = PullRecords(directory)
        again._load([IMAGE])
        found = again.find(IMAGE.id)
        assert found is None or not found.credentialMapping, "nobody may use it for that"
        return found

    return read


Prepare = Callable[[Path], Callable[[], object]]
each_file = pytest.mark.parametrize("prepare", [devices, volume, users, shutdown, pulled])


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@each_file
def test_damage_is_reported(prepare: Prepare, damage: Damage, tmp_path: Path) -> None:
    read = prepare(tmp_path)
    for path in [each for each in tmp_path.rglob("*") if each.is_file()]:
        path.write_bytes(damage(path.read_bytes()))
    with suppress(VolumeProblem, UserNamespaceProblem):
        read()


@each_file
def test_a_directory_in_place_of_a_file(prepare: Prepare, tmp_path: Path) -> None:
    read = prepare(tmp_path)
    for path in [each for each in tmp_path.rglob("*") if each.is_file()]:
        path.unlink()
        path.mkdir()
    with suppress(VolumeProblem, UserNamespaceProblem):
        read()
