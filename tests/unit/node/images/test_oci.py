"""Image archives: complete, addressed by content, the same every time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from navarch.node.images.oci import ImageConfig, ImageFile, build_image, machine_architecture
from navarch.node.images.pause import build_pause_image, pause_executable


def read(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: file.read() for member in tar if (file := tar.extractfile(member))}


def layer(archive: Path) -> tuple[tarfile.TarFile, dict[str, Any]]:
    content = read(archive)
    index = json.loads(content["index.json"])
    manifest = json.loads(content["blobs/" + index["manifests"][0]["digest"].replace(":", "/")])
    config = json.loads(content["blobs/" + manifest["config"]["digest"].replace(":", "/")])
    blob = content["blobs/" + manifest["layers"][0]["digest"].replace(":", "/")]
    import io

    return tarfile.open(fileobj=io.BytesIO(blob)), config


def test_everything_is_addressed_by_its_digest(tmp_path: Path) -> None:
    archive = build_image(tmp_path / "a.tar", "example.test/a:1", ImageConfig(cmd=["x"]),
                          files={"x": ImageFile(b"x")})  # fmt: skip
    content = read(archive)
    blobs = {name: data for name, data in content.items() if name.startswith("blobs/")}
    assert len(blobs) == 3
    for name, data in blobs.items():
        assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"
    annotations = json.loads(content["index.json"])["manifests"][0]["annotations"]
    assert annotations["io.containerd.image.name"] == "example.test/a:1"


def test_two_builds_are_the_same(tmp_path: Path) -> None:
    files = {"b/c": ImageFile(b"1"), "a": ImageFile(link_to="b")}
    one = build_image(tmp_path / "1.tar", "n:1", ImageConfig(), files=files)
    other = build_image(
        tmp_path / "2.tar", "n:1", ImageConfig(), files=dict(reversed(files.items()))
    )
    assert one.read_bytes() == other.read_bytes()


def test_files_lie_over_the_tree(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/kept").write_text("kept")
    (root / "etc/replaced").write_text("old")
    (root / "link").symlink_to("etc/kept")
    os.mkfifo(root / "pipe")
    archive = build_image(
        tmp_path / "a.tar", "n:1", ImageConfig(entrypoint=["/e"], env={"A": "1"}, user="7"),
        rootfs=root,
        files={"/etc/replaced": ImageFile(b"new", mode=0o600), "opt/deep/file": ImageFile(b"")},
    )  # fmt: skip
    tar, config = layer(archive)
    names = tar.getnames()
    assert sorted(names) == [
        "etc", "etc/kept", "etc/replaced", "link", "opt", "opt/deep", "opt/deep/file",
    ]  # fmt: skip
    assert names.index("opt") < names.index("opt/deep/file")
    replaced = tar.extractfile("etc/replaced")
    assert replaced is not None and replaced.read() == b"new"
    assert tar.getmember("link").linkname == "etc/kept"
    assert config["architecture"] == machine_architecture()
    assert config["config"]["Entrypoint"] == ["/e"] and config["config"]["User"] == "7"
    assert "A=1" in config["config"]["Env"]


@pytest.mark.parametrize(("architecture", "machine"), [("amd64", 62), ("arm64", 183)])
def test_pause_executables(architecture: str, machine: int) -> None:
    executable = pause_executable(architecture)
    assert executable[:5] == b"\x7fELF\x02"
    assert int.from_bytes(executable[18:20], "little") == machine
    assert len(executable) < 400


def test_other_machines_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="riscv64"):
        pause_executable("riscv64")


@pytest.mark.skipif(sys.platform != "linux", reason="an executable for Linux")
def test_pause_waits_and_stops(tmp_path: Path) -> None:
    archive = build_pause_image(tmp_path / "pause.tar")
    tar, _ = layer(archive)
    tar.extract("pause", tmp_path, filter="data")
    process = subprocess.Popen([tmp_path / "pause"])
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    process.terminate()
    assert process.wait(60) == 0
