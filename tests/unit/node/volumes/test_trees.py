"""Trees that containers have written to: walked, measured and removed without being led away."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from navarch.node.volumes.kernel import bind, open_beneath, open_stepwise, unmount
from navarch.node.volumes.ownership import Ownership
from navarch.node.volumes.plugin import VolumeProblem
from navarch.node.volumes.subpath import bind_subpath
from navarch.node.volumes.trees import file_system, measure, remove_tree, walk

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts and gives files away")


def nest(root: Path, depth: int) -> None:
    """Directories deeper than any path can be long."""
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for number in range(depth):
        name = f"{number:0>200}"
        os.mkdir(name, dir_fd=directory)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    os.close(directory)


def test_a_tree_is_removed_but_not_what_links_lead_to(tmp_path: Path) -> None:
    host, volume = tmp_path / "host", tmp_path / "volume"
    for each in (host, volume, volume / "inner"):
        each.mkdir()
    (host / "precious").write_text("data")
    (volume / "directory").symlink_to(host)
    (volume / "inner/file").symlink_to(host / "precious")
    os.mkfifo(volume / "inner/pipe")
    remove_tree(volume)
    assert not volume.exists() and (host / "precious").read_text() == "data"


def test_a_volume_that_is_a_link_by_now(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host/precious").touch()
    (tmp_path / "volume").symlink_to(tmp_path / "host")
    remove_tree(tmp_path / "volume")
    remove_tree(tmp_path / "volume")
    assert os.listdir(tmp_path) == ["host"] and os.listdir(tmp_path / "host") == ["precious"]


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    for _ in range(2):
        nest(volume, 200)
        for number in range(30):
            (volume / f"wide-{number}").mkdir()
        with pytest.raises(OSError, match="too long"):
            (volume / "/".join(f"{number:0>200}" for number in range(200))).stat()
        remove_tree(volume)
        assert not volume.exists()
        volume.mkdir()


@needs_root
def test_nothing_is_removed_through_a_mount(tmp_path: Path) -> None:
    host, volume = tmp_path / "host", tmp_path / "volume"
    for each in (host, volume / "a", volume / "b/c"):
        each.mkdir(parents=True)
    (host / "precious").write_text("data")
    bind(host, volume / "b/c")
    try:
        with pytest.raises(OSError, match="something is mounted here"):
            remove_tree(volume)
        with pytest.raises(OSError, match="something is mounted here"):
            remove_tree(volume / "b/c")
        assert (host / "precious").read_text() == "data"
    finally:
        unmount(volume / "b/c")
    remove_tree(volume)


def test_a_walk_shows_contents_before_their_directory(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "a/link").symlink_to("/etc")
    names = [name for _, name in walk(tmp_path)]
    assert sorted(names) == ["a", "b", "file", "link"]
    assert names.index("file") < names.index("b") < names.index("a")


def test_use_is_counted_like_du(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/data").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "inner/data", tmp_path / "again")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 10**9)
    (tmp_path / "link").symlink_to("/usr")
    counted = subprocess.run(["du", "-s", "-B1", tmp_path], capture_output=True, text=True,
                             check=True).stdout.split()[0]  # fmt: skip
    found = measure(tmp_path)
    assert (found.used, found.inodes_used) == (int(counted), 5)
    whole = file_system(tmp_path)
    assert found.capacity == whole.capacity > whole.used > 0
    assert found.inodes == whole.inodes and found.available <= found.capacity


def test_trees_of_any_depth_are_counted(tmp_path: Path) -> None:
    """Nothing is hidden from eviction by putting it deep down, or beside something deep."""
    nest(tmp_path, 700)
    other = tmp_path / f"{0:0>200}/{1:0>200}/beside"
    other.mkdir()
    (other / "data").write_bytes(b"x" * 100_000)
    before = len(os.listdir("/proc/self/fd"))
    most = 0
    names = []
    for _, name in walk(tmp_path):
        names.append(name)
        most = max(most, len(os.listdir("/proc/self/fd")))
    assert len(names) == 703 and names.index("file") < names.index(f"{699:0>200}")
    assert names[-1] == f"{0:0>200}"
    assert most - before <= 66 and len(os.listdir("/proc/self/fd")) == before
    assert measure(tmp_path).inodes_used == 704


def test_a_tree_that_is_moved_while_it_is_looked_at(tmp_path: Path) -> None:
    """Nobody is led out of the volume on the way back."""
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    volume.mkdir()
    outside.mkdir()
    (outside / "precious").touch()
    nest(volume, 100)
    seen = []
    with pytest.raises(OSError, match="moved"):
        for _, name in walk(volume):
            if name == "file":
                (volume / f"{0:0>200}/{1:0>200}").rename(outside / "led away")
            seen.append(name)
    assert "precious" not in seen


@needs_root
@pytest.mark.parametrize("writable", [True, False])
def test_a_group_gets_a_tree(tmp_path: Path, writable: bool) -> None:
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    (volume / "inner").mkdir(parents=True)
    (volume / "inner/file").touch(mode=0o600)
    (volume / "run").touch()
    (volume / "run").chmod(0o4711)
    outside.touch(mode=0o600)
    (volume / "link").symlink_to(outside)
    ownership = Ownership(4321, writable=writable)
    assert not ownership.is_given(volume)
    ownership.give(volume)
    assert ownership.is_given(volume) and ownership.changed == 5
    file_mode = 0o660 if writable else 0o640
    directory_mode = 0o2775 if writable else 0o2755
    for name, mode in (("", directory_mode), ("inner", directory_mode), ("inner/file", file_mode)):
        status = (volume / name).stat()
        assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (4321, mode), name
    assert (volume / "link").lstat().st_gid == 4321
    assert (outside.stat().st_gid, stat.S_IMODE(outside.stat().st_mode)) == (0, 0o600)
    assert not Ownership(4322).is_given(volume)


@pytest.mark.parametrize("opener", [open_beneath, open_stepwise])
def test_paths_stay_beneath_their_root(tmp_path: Path, opener: object) -> None:
    root_path = tmp_path / "root"
    (root_path / "inner/deep").mkdir(parents=True)
    (root_path / "inner/file").write_text("x")
    (tmp_path / "secret").touch()
    links = {"good": "inner/../inner/file", "inner/up": "../inner/file", "absolute": "/etc",
             "upwards": "../..", "loop": "loop", "inner/out": "deep/../../../secret"}  # fmt: skip
    for name, target in links.items():
        (root_path / name).symlink_to(target)
    assert callable(opener)
    root = os.open(root_path, os.O_PATH)
    try:
        for name in ("good", "inner/up", "inner/./file", "inner/deep/../file"):
            opened = opener(root, name, os.O_RDONLY)
            assert os.read(opened, 9) == b"x"
            os.close(opened)
        for name in ("absolute", "upwards", "..", "inner/out", "inner/../../secret"):
            with pytest.raises(OSError, match="cross-device"):
                opener(root, name, os.O_PATH)
        for name, complaint in (("loop", "symbolic links"), ("none", "No such file")):
            with pytest.raises(OSError, match=complaint):
                opener(root, name, os.O_PATH)
    finally:
        os.close(root)


@needs_root
def test_a_part_of_a_volume(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o750)
    os.chown(volume, -1, 4321)
    volume.chmod(0o2770)
    (volume / "file").write_text("x")
    (volume / "escape").symlink_to("/etc")
    target = tmp_path / "place/0"
    try:
        assert bind_subpath(volume, "file", target).read_text() == "x"
        made = bind_subpath(volume, "new/directory", target)
        status = made.stat()
        assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (4321, 0o2770)
        assert os.path.samefile(made, volume / "new/directory")
        for path in ("escape", "escape/new", "new/../..", "/etc"):
            with pytest.raises(VolumeProblem):
                bind_subpath(volume, path, target)
        assert not Path("/etc/new").exists()
    finally:
        unmount(target)
