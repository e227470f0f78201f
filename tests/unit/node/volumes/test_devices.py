"""Disks made of files: who made a loop device, and when it goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from navarch.node.volumes import devices


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Files by loop device."""
    made: dict[str, str] = {}

    def losetup(*words: str) -> str:
        if words[1] == "--detach":
            del made[words[2]]
            return ""
        made[f"/dev/loop{len(made) + 70}"] = words[-1]
        return next(device for device, file in made.items() if file == words[-1])

    def find(file: Path) -> Path | None:
        return next((Path(device) for device, each in made.items() if each == str(file)), None)

    monkeypatch.setattr(devices, "run_command", losetup)
    monkeypatch.setattr(devices, "loop_device", find)
    return made


def links(tmp_path: Path, volume: str, pod: str) -> tuple[Path, Path]:
    return tmp_path / "pods" / pod / volume, tmp_path / "plugin" / volume / pod


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_last_of_all_volumes_of_a_file_ends_its_device(
    loops: dict[str, str], tmp_path: Path, order: tuple[int, ...]
) -> None:
    file = tmp_path / "disk"
    file.touch()
    users = [links(tmp_path, *each) for each in (("v", "a"), ("v", "b"), ("other", "c"))]
    for user in users:
        assert str(devices.map_device(file, *user)) == "/dev/loop70"
        assert os.readlink(user[0]) == "/dev/loop70"
    devices.map_device(file, *users[0])  # as an agent does that was started anew
    for number in order[:-1]:
        devices.unmap_device(*users[number])
        assert loops == {"/dev/loop70": str(file)}
    file.unlink()
    devices.unmap_device(*users[order[-1]])
    assert not loops
    assert list((tmp_path / "plugin").iterdir()) == []


def test_another_ones_device_stays(loops: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.touch()
    loops["/dev/loop7"] = str(file)
    user = links(tmp_path, "v", "a")
    assert str(devices.map_device(file, *user)) == "/dev/loop7"
    devices.unmap_device(*user)
    devices.unmap_device(*user)
    assert loops == {"/dev/loop7": str(file)}


def test_a_crash_before_the_links_are_whole(loops: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.touch()
    link, shared = links(tmp_path, "v", "a")
    devices.map_device(file, link, shared)
    link.unlink()
    devices.unmap_device(link, shared)
    assert not loops
