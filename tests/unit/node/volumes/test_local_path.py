"""Volumes made of directories: made where they belong, removed without following anything."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Node, PersistentVolume
from navarch.client import FakeClock
from navarch.node.volumes.local_path import LocalPathVolumes, directory_of, make

NAME = "pvc-00000000-1111-2222-3333-444444444444"
OTHER = "pvc-99999999-1111-2222-3333-444444444444"
OURS = {"pv.kubernetes.io/provisioned-by": "navarch.dev/local-path"}


def volume(path: str, name: str = NAME, annotations: dict[str, str] = OURS) -> PersistentVolume:
    meta = {"name": name, "annotations": annotations}
    return from_object(PersistentVolume, {"metadata": meta, "spec": {"local": {"path": path}}})


def test_a_directory_is_made_for_whoever_the_pod_runs_as(tmp_path: Path) -> None:
    path = directory_of(tmp_path) / NAME
    make(tmp_path, volume(str(path)))
    assert path.stat().st_mode & 0o7777 == 0o777
    (path / "data").write_text("kept")
    path.chmod(0o2770)
    make(tmp_path, volume(str(path)))
    assert (path / "data").read_text() == "kept"
    assert path.stat().st_mode & 0o7777 == 0o2770


def test_a_directory_that_was_half_made_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory_of(tmp_path) / NAME
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise OSError("killed")

        patch.setattr(Path, "chmod", killed)
        with pytest.raises(OSError, match="killed"):
            make(tmp_path, volume(str(path)))
    make(tmp_path, volume(str(path)))
    assert path.stat().st_mode & 0o7777 == 0o777
    assert os.listdir(path.parent) == [NAME]


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(None, id="no volume"),
        pytest.param(volume("{root}/local-volumes/" + NAME, annotations={}), id="not ours"),
        pytest.param(volume("{root}/elsewhere/" + NAME), id="another place"),
        pytest.param(volume("{root}/local-volumes/x", name="x"), id="another name"),
        pytest.param(volume("{root}/local-volumes/../x", name="../x"), id="a way out"),
    ],
)
def test_nothing_else_is_made(tmp_path: Path, made: PersistentVolume | None) -> None:
    if made is not None and made.spec.local is not None:
        made.spec.local.path = made.spec.local.path.format(root=tmp_path)
    make(tmp_path, made)
    assert not os.listdir(tmp_path)


class Api:
    """The node's object, as patches make it."""

    def __init__(self, root: Path) -> None:
        self.annotations: dict[str, str] = {}
        self.patches = 0
        self.clock = FakeClock()
        client = SimpleNamespace(resource=lambda kind: self)
        informers = SimpleNamespace(
            informer=lambda kind, **_: SimpleNamespace(add_handler=lambda *_: None)
        )
        self.volumes = LocalPathVolumes(
            cast("Any", client), cast("Any", informers), root, "n1", self.clock
        )

    async def patch(self, name: str, namespace: str, body: Any) -> None:
        self.patches += 1
        for key, value in body["metadata"]["annotations"].items():
            if value is None:
                del self.annotations[key]
            else:
                self.annotations[key] = value

    async def serve(self, remove: str | None = None) -> dict[str, str]:
        """What the node answers."""
        self.annotations.pop("local-path.navarch.dev/remove", None)
        if remove is not None:
            self.annotations["local-path.navarch.dev/remove"] = remove
        meta = {"name": "n1", "annotations": dict(self.annotations)}
        await self.volumes._serve(from_object(Node, {"metadata": meta}))
        found: dict[str, str] = json.loads(
            self.annotations.get("local-path.navarch.dev/removed", "{}")
        )
        return found


async def test_what_is_asked_for_is_removed_and_nothing_else(tmp_path: Path) -> None:
    api = Api(tmp_path)
    assert await api.serve() == {}
    assert api.annotations == {"local-path.navarch.dev/directory": f"{tmp_path}/local-volumes"}
    root, outside = directory_of(tmp_path), tmp_path / "outside"
    for path in (root / NAME, root / OTHER, outside, root / f".{NAME}.new"):
        path.mkdir(parents=True)
    (outside / "precious").write_text("x")
    (root / NAME / "link").symlink_to(outside)
    (root / NAME / "file").symlink_to(outside / "precious")
    deep = os.open(root / NAME, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=deep)
        inner = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)
    assert await api.serve(NAME) == {NAME: ""}
    assert sorted(os.listdir(root)) == [OTHER]
    assert (outside / "precious").read_text() == "x"
    # The same question again costs nothing, and the end of it ends the answer.
    before = api.patches
    assert await api.serve(NAME) == {NAME: ""}
    assert api.patches == before
    assert await api.serve() == {}
    assert "local-path.navarch.dev/removed" not in api.annotations
    # One that no pod ever used.
    assert await api.serve("pvc-77777777-1111-2222-3333-444444444444") != {}


@pytest.mark.parametrize("name", ["..", "../outside", "/etc", "pvc-x", ".", f"{NAME}/../.."])
async def test_names_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    (directory_of(tmp_path) / OTHER).mkdir(parents=True)
    answer = await Api(tmp_path).serve(name)
    assert "is no volume of navarch.dev/local-path" in answer[name]
    assert (tmp_path / "outside").is_dir()
    assert (directory_of(tmp_path) / OTHER).is_dir()


async def test_what_fails_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def broken(path: Path) -> None:
        tries.append(path.name)
        raise OSError(16, "something is mounted here")

    monkeypatch.setattr("navarch.node.volumes.local_path.remove_tree", broken)
    api = Api(tmp_path)
    assert "something is mounted here" in (await api.serve(NAME))[NAME]
    await api.serve(NAME)
    assert len(tries) == 1
    await api.clock.advance(31)
    await api.serve(NAME)
    assert len(tries) == 2
    monkeypatch.setattr("navarch.node.volumes.local_path.remove_tree", tries.append)
    await api.clock.advance(31)
    assert await api.serve(NAME) == {NAME: ""}


async def test_an_answer_of_earlier_that_cannot_be_read_is_given_anew(tmp_path: Path) -> None:
    api = Api(tmp_path)
    api.annotations["local-path.navarch.dev/removed"] = "{garbled"
    assert await api.serve(NAME) == {NAME: ""}
