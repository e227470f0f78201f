"""What goes into nodes: archives of all kinds, also such that were made to do harm."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from navarch.cluster import containerd, image_service, images
from navarch.cluster.api import ApiUnavailableError
from navarch.cluster.namespaces import Pins
from navarch.cluster.profile import ClusterError, Paths, Profile
from navarch.node.cri.values import Credentials

MIB = 1 << 20


class Usage(NamedTuple):
    """As `shutil.disk_usage` has it."""

    total: int
    used: int
    free: int


def bomb(path: Path, size: int) -> Path:
    """A small archive of one large file."""
    with (
        gzip.open(path, "wb", compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        entry = tarfile.TarInfo("zeros")
        entry.size = size
        tar.addfile(entry, io.BufferedReader(Zeros()))
    return path


class Zeros(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return len(buffer)


def test_an_archive_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = bomb(tmp_path / "bomb.tar.gz", 64 * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100 * MIB, 90 * MIB, 10 * MIB))
    with (
        pytest.raises(ClusterError, match="unpacks to more than"),
        images._as_archive(archive, "bomb:1"),
    ):
        raise AssertionError("it was unpacked")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        b"\x1f\x8b\x08\x00",
        gzip.compress(b"x" * 5000)[:-20],
        b"BZh91AY&SY garbage",
        b"\xfd7zXZ\x00 garbage",
    ],
    ids=["empty", "text", "cut gzip", "short gzip", "bzip2", "xz"],
)
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ClusterError, match="is not a"), images._as_archive(path, ""):
        raise AssertionError("it was taken")


def test_a_program_in_a_node_is_ended_when_the_disk_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = Pins(tmp_path, "node")
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        """Without the helper, which would want a node."""
        return real(command[command.index("--") + 1 :], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100 * MIB, 99 * MIB, MIB))
    with pytest.raises(containerd.NoRoom, match="does not fit"):
        containerd.run_in_node(
            pins,
            [sys.executable, "-c", "import time; time.sleep(1000)"],
            check=lambda: containerd.check_room(pins),
        )


@pytest.mark.parametrize(
    ("output", "names"),
    [
        pytest.param(
            "unpacking r.example/a:1 (sha256:5ff)...done\n"
            "unpacking r.example/b:1 (sha256:6ff)...done\n",
            ["r.example/a:1", "r.example/b:1"],
            id="containerd 1",
        ),
        pytest.param(
            "r.example/a:1          \tsaved\t\nr.example/a:1          \tsaved\t\n"
            "application/vnd.oci.image.manifest.v1+json sha256:5ff\n"
            "Importing\telapsed: 1.2 s\ttotal:   0.0 B\t(0.0 B/s)\t\n",
            ["r.example/a:1"],
            id="containerd 2",
        ),
        pytest.param("Importing\telapsed: 1.2 s\n", [], id="without a name"),
    ],
)
def test_what_was_imported(output: str, names: list[str]) -> None:
    assert containerd.imported(output) == names


def test_nothing_on_standard_input(tmp_path: Path) -> None:
    assert images.spool(io.BytesIO(b"x"), tmp_path / "file").read_bytes() == b"x"
    with pytest.raises(ClusterError, match="nothing on standard input"):
        images.spool(io.BytesIO(), tmp_path / "file")


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def write(document: object) -> None:
        text = document if isinstance(document, str) else json.dumps(document)
        (tmp_path / "config.json").write_text(text)

    return write


def test_the_users_own_credentials(configure: Callable[[object], None]) -> None:
    assert image_service.own_credentials("r.example/a") is None
    configure({"auths": {"r.example": {"auth": "dTpw"}, "empty.example": {}}})
    assert image_service.own_credentials("r.example/a") == Credentials("u", "p")
    assert image_service.own_credentials("empty.example/a") is None
    configure({"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}}})
    assert image_service.own_credentials("web") == Credentials("u", "p")
    configure("{")
    with pytest.raises(ClusterError, match="not a docker configuration"):
        image_service.own_credentials("r.example/a")


def test_programs_that_keep_the_users_passwords(
    configure: Callable[[object], None], tmp_path: Path
) -> None:
    program = tmp_path / "docker-credential-safe"
    program.write_text(
        '#!/bin/sh\nread -r server\n[ "$server" = r.example ] || exit 1\n'
        'echo \'{"ServerURL": "r.example", "Username": "u", "Secret": "p"}\'\n'
    )
    program.chmod(0o755)
    configure({"credsStore": "safe"})
    assert image_service.own_credentials("r.example/a") == Credentials("u", "p")
    assert image_service.own_credentials("other.example/a") is None
    configure({"credHelpers": {"r.example": "absent"}})
    with pytest.raises(ClusterError, match="docker-credential-absent"):
        image_service.own_credentials("r.example/a")
    configure({"credsStore": "../../bin/evil", "auths": {"r.example": {"username": "v"}}})
    assert image_service.own_credentials("r.example/a") == Credentials("v")


@pytest.mark.parametrize(
    ("profile", "nodes", "told"),
    [
        (Profile("mine"), ["far", "farther"], "load it there, too (far, farther)"),
        (Profile("mine"), [], ""),
        (Profile("mine"), None, ""),
        (Profile("mine", joined="10.0.0.1:8443"), ["far"], ""),
    ],
)
def test_other_machines_are_told_of(
    profile: Profile, nodes: list[str] | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answers:
        def __init__(self, *_: object, timeout: float) -> None:
            pass

        def get(self, path: str) -> Any:
            if nodes is None:
                raise ApiUnavailableError("silent")
            assert path == "/api/v1/nodes?labelSelector=navarch.dev/joined"
            return {"items": [{"metadata": {"name": each}} for each in nodes]}

    monkeypatch.setattr(images, "Api", Answers)
    found = images.missing_there(profile, Paths(Path("/nowhere")))
    assert found.endswith(told) if told else found == ""
