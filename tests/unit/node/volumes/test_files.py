"""Volumes made of files: their content, and how it changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import ConfigMap, Secret, Volume
from navarch.node.resources import NodeResources
from navarch.node.volumes.atomic import FileContent, check_path, write_payload
from navarch.node.volumes.files import nested_mount_points
from navarch.node.volumes.host_path import prepare_host_path
from navarch.node.volumes.ownership import Ownership
from navarch.node.volumes.payload import (
    TokenWish,
    VolumeSources,
    payload_of,
    references,
)
from navarch.node.volumes.plugin import VolumeProblem

WISH = TokenWish("", 3607)
SOURCES = VolumeSources(
    config_maps={"c": ConfigMap(data={"a": "1", "b": "2"}, binaryData={"raw": "AAEC"})},
    secrets={"s": Secret(data={"k": "aHVzaA=="})},
    tokens={WISH: "the-token"},
    node=NodeResources(4000, 1 << 30),
)


def volume(**source: Any) -> Volume:
    return from_object(Volume, {"name": "v", **source})


def projected(*sources: dict[str, Any]) -> Volume:
    return volume(projected={"sources": list(sources), "defaultMode": 0o644})


TOKEN = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(volume(configMap={"name": "c"}),
                     {"a": b"1", "b": b"2", "raw": b"\0\1\2"}, id="config map"),
        pytest.param(volume(configMap={"name": "c", "items": [{"key": "a", "path": "x/y"}]}),
                     {"x/y": b"1"}, id="items"),
        pytest.param(volume(configMap={"name": "no", "optional": True}), {}, id="optional"),
        pytest.param(volume(configMap={"name": "c", "optional": True, "items": [
            {"key": "no", "path": "x"}]}), {}, id="optional item"),
        pytest.param(volume(secret={"secretName": "s"}), {"k": b"hush"}, id="secret"),
        pytest.param(volume(downwardAPI={"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "cpu", "resourceFieldRef": {
                "containerName": "main", "resource": "limits.cpu"}}]}),
            {"labels": b'tier="front"', "cpu": b"4"}, id="downward"),
        pytest.param(projected({"configMap": {"name": "c", "items": [{"key": "a", "path": "a"}]}},
                               {"secret": {"name": "s"}}, TOKEN),
                     {"a": b"1", "k": b"hush", "token": b"the-token"}, id="projected"),
        pytest.param(volume(emptyDir={}), None, id="not of files"),
    ],
)  # fmt: skip
def test_content(wanted: Volume, expected: dict[str, bytes] | None) -> None:
    pod = make_pod(metadata={"labels": {"tier": "front"}})
    files = payload_of(pod, wanted, SOURCES)
    found = None if files is None else {name: file.data for name, file in files.items()}
    assert found == expected


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (volume(configMap={"name": "no"}), 'configmap "no" not found'),
        (volume(secret={"secretName": "no"}), 'secret "no" not found'),
        (
            volume(secret={"secretName": "s", "items": [{"key": "no", "path": "x"}]}),
            "references non-existent secret key: no",
        ),
        (
            projected({"clusterTrustBundle": {"path": "x"}}),
            "clusterTrustBundle projection is not supported by this node",
        ),
    ],
)
def test_problems_are_named(wanted: Volume, message: str) -> None:
    with pytest.raises(VolumeProblem) as caught:
        payload_of(make_pod(), wanted, SOURCES)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("spec", "mode", "owner"),
    [
        ({}, 0o644, None),
        ({"securityContext": {"runAsUser": 1000}}, 0o600, 1000),
        ({"securityContext": {"fsGroup": 2000}}, 0o600, None),
    ],
)
def test_tokens_are_private(spec: dict[str, Any], mode: int, owner: int | None) -> None:
    files = payload_of(make_pod(**spec), projected(TOKEN), SOURCES)
    assert files is not None
    assert (files["token"].mode, files["token"].owner) == (mode, owner)


def test_references() -> None:
    found = references(projected({"configMap": {"name": "c"}}, {"secret": {"name": "s"}}, TOKEN))
    expected = (frozenset(["c"]), frozenset(["s"]), frozenset([WISH]))
    assert (found.config_maps, found.secrets, found.tokens) == expected


PLAIN = Ownership()


def shown(target: Path) -> dict[str, str]:
    return {
        path.relative_to(target).as_posix(): path.read_text()
        for path in sorted(target.rglob("*"))
        if path.is_file() and not path.relative_to(target).parts[0].startswith("..")
    }


def test_files_change_all_at_once(tmp_path: Path) -> None:
    files = {"a": FileContent(b"1"), "dir/b": FileContent(b"2", 0o400)}
    assert write_payload(tmp_path, files, PLAIN)
    (tmp_path / "dir").resolve(strict=True)
    assert (tmp_path / "a").is_symlink() and os.readlink(tmp_path / "a") == "..data/a"
    assert (tmp_path / "a").read_text() == "1"
    assert (tmp_path / "dir/b").stat().st_mode & 0o777 == 0o400
    before = os.readlink(tmp_path / "..data")
    assert not write_payload(tmp_path, files, PLAIN)
    assert os.readlink(tmp_path / "..data") == before
    assert write_payload(tmp_path, {"c": FileContent(b"3")}, PLAIN)
    assert sorted(each.name for each in tmp_path.iterdir() if not each.name.startswith("..")) == [
        "c"
    ]
    assert not (tmp_path / before).exists()


def test_an_empty_payload_is_an_empty_directory(tmp_path: Path) -> None:
    write_payload(tmp_path, {}, PLAIN)
    assert shown(tmp_path) == {}
    assert (tmp_path / "..data").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_group_may_read(tmp_path: Path) -> None:
    write_payload(tmp_path, {"a": FileContent(b"1", 0o400)}, Ownership(4321, writable=False))
    status = (tmp_path / "a").stat()
    assert (status.st_gid, status.st_mode & 0o777) == (4321, 0o440)
    again = write_payload(tmp_path, {"a": FileContent(b"1", 0o400)}, Ownership(4321, False))
    assert not again


@pytest.mark.parametrize(
    ("kind", "name", "complaint"),
    [
        ("", "missing", ""),
        ("Directory", "directory", ""),
        ("Directory", "file", "is not a directory"),
        ("Directory", "missing", "is not a directory"),
        ("DirectoryOrCreate", "new", ""),
        ("File", "file", ""),
        ("File", "directory", "is not a file"),
        ("FileOrCreate", "fresh", ""),
        ("Socket", "file", "is not a socket file"),
        ("Nonsense", "file", "Nonsense is an invalid volume type"),
    ],
)
def test_host_paths(tmp_path: Path, kind: str, name: str, complaint: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    path = tmp_path / name
    if not complaint:
        assert prepare_host_path(path, kind) == path
        return
    with pytest.raises(VolumeProblem, match=complaint):
        prepare_host_path(path, kind)


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("a/b", ""),
        ("a..b/..c", ""),
        ("", "must not be empty"),
        ("/etc/passwd", "must be relative"),
        ("../x", "must not contain '..'"),
        ("a/../../x", "must not contain '..'"),
        ("..data", "must not start with '..'"),
        ("x" * 256, "filenames must be less than"),
        ("x/" * 2100, "must be less than or equal to 4096"),
    ],
)
def test_hostile_paths(tmp_path: Path, path: str, complaint: str) -> None:
    if not complaint:
        check_path(path)
        return
    with pytest.raises(VolumeProblem, match=complaint):
        write_payload(tmp_path, {"good": FileContent(b""), path: FileContent(b"")}, PLAIN)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_a_directory_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(VolumeProblem, match="conflicting paths"):
        write_payload(tmp_path, {"a": FileContent(b"1"), "a/b": FileContent(b"2")}, PLAIN)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["..data", "a", "..data_tmp", "..old"])
def test_links_left_by_a_container_are_not_followed(tmp_path: Path, place: str) -> None:
    """CVE-2017-1002102: what a container has put in its volume decides nothing on the node."""
    host, target = tmp_path / "host", tmp_path / "volume"
    host.mkdir()
    target.mkdir()
    (host / "a").write_text("precious")
    write_payload(target, {"a": FileContent(b"1")}, PLAIN)
    (target / place).unlink(missing_ok=True)
    (target / place).symlink_to(host)
    write_payload(target, {"a": FileContent(b"2"), "b": FileContent(b"3")}, PLAIN)
    write_payload(target, {"a": FileContent(b"4")}, PLAIN)
    assert shown(target) == {"a": "4"}
    assert os.listdir(host) == ["a"] and (host / "a").read_text() == "precious"
    left = [each.name for each in target.iterdir() if each.name.startswith("..")]
    assert len(left) == 2, left


@pytest.mark.parametrize("step", ["directory", "link"])
def test_a_write_that_was_cut_short_is_cleared_away(tmp_path: Path, step: str) -> None:
    write_payload(tmp_path, {"a": FileContent(b"1")}, PLAIN)
    (tmp_path / "..half").mkdir()
    (tmp_path / "..half/a").touch()
    if step == "link":
        (tmp_path / "..data_tmp").symlink_to("..half")
        (tmp_path / "a").unlink()
    assert not write_payload(tmp_path, {"a": FileContent(b"1")}, PLAIN)
    assert shown(tmp_path) == {"a": "1"} and not (tmp_path / "..half").exists()


def test_mount_points_inside_a_volume() -> None:
    listed = [{"name": name, "mountPath": path} for name, path in (
        ("v", "/config"), ("x", "/config/inner"), ("x", "/config/inner/deep"), ("x", "/config2"),
        ("x", "/config/other/dir"),
    )]  # fmt: skip
    pod = make_pod({"name": "main", "volumeMounts": listed})
    assert nested_mount_points("v", pod) == ["inner", "other/dir"]
    assert nested_mount_points("x", pod) == ["deep"]


def test_everything_that_is_wrong_is_told() -> None:
    wanted = projected({"configMap": {"name": "no"}}, {"secret": {"name": "gone"}},
                       {"configMap": {"name": "c"}})  # fmt: skip
    with pytest.raises(VolumeProblem) as problem:
        payload_of(make_pod(), wanted, SOURCES)
    assert str(problem.value) == '[configmap "no" not found, secret "gone" not found]'
