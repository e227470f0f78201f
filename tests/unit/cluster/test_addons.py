"""Which addons are on, and what that means for processes and objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from navarch.cluster import addons, composition
from navarch.cluster.addons import Addon, Choices
from navarch.cluster.api import ApiUnavailableError, Connection
from navarch.cluster.profile import ClusterError, Paths, Profile

PROFILE = Profile("dev")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path / "dev")
    found.create()
    return found


class Fake(Connection):
    """The API as far as addons write to it."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}

    def create_missing(self, collection: str, value: dict[str, Any]) -> None:
        self.objects.setdefault(f"{collection}/{value['metadata']['name']}", value)

    def put_in_place(self, collection: str, value: dict[str, Any]) -> None:
        self.objects[f"{collection}/{value['metadata']['name']}"] = value

    def request(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        if method == "DELETE":
            if self.objects.pop(path, None) is None:
                raise ApiUnavailableError("gone", 404)
        else:
            assert (method, kind) == ("PATCH", addons.APPLY)
            self.objects[path.partition("?")[0]] = {"body": body}
        return b"{}"


def put(api: Fake, paths: Paths, choices: Choices | None = None) -> set[str]:
    if choices is not None:
        addons.save(paths, choices)
    addons.put_objects(api, PROFILE, paths)  # type: ignore[arg-type]
    return {path.rpartition("/")[2] for path in api.objects}


def test_choices_survive(paths: Paths) -> None:
    assert addons.load(paths) == Choices()
    wanted = addons.switched(Choices(), ["metallb"], False)
    addons.save(paths, wanted)
    assert addons.load(paths) == wanted
    assert not addons.is_enabled(wanted, "metallb")
    assert addons.is_enabled(addons.switched(wanted, ["metallb"], True), "metallb")


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ClusterError, match="dashbord is not an addon"):
        addons.switched(Choices(), ["dashbord"], True)
    with pytest.raises(ClusterError, match="part of every cluster"):
        addons.switched(Choices(), ["metrics-server"], False)
    with pytest.raises(ClusterError, match="has no setting colour"):
        addons.configured(Choices(), PROFILE, "metallb", {"colour": "red"})


def test_objects_come_and_go_with_their_addon(paths: Paths) -> None:
    api = Fake()
    assert put(api, paths) == {"standard", "metallb"}
    off = addons.switched(addons.load(paths), ["metallb", "default-storageclass"], False)
    assert put(api, paths, off) == set()
    assert put(api, paths) == set()
    on = addons.switched(addons.load(paths), ["metallb"], True)
    assert put(api, paths, on) == {"metallb"}


def test_objects_of_another_version_go_as_well(paths: Paths) -> None:
    api = Fake()
    put(api, paths)
    assert put(api, paths, addons.switched(Choices(), ["metallb"], False)) == {"standard"}


def test_what_the_user_changed_stays_until_it_is_configured(paths: Paths) -> None:
    api = Fake()
    put(api, paths)
    (path,) = (path for path in api.objects if path.endswith("/metallb"))
    assert "192.168.49.205-192.168.49.254" in api.objects[path]["data"]["config"]
    api.objects[path] = {"mine": True}
    put(api, paths)
    assert api.objects[path] == {"mine": True}
    put(
        api,
        paths,
        addons.configured(addons.load(paths), PROFILE, "metallb", {"ranges": "10.1.0.0/24"}),
    )
    assert "- 10.1.0.0/24\n" in api.objects[path]["data"]["config"]
    api.objects[path] = {"mine": True}
    put(api, paths)
    assert api.objects[path] == {"mine": True}


@pytest.mark.parametrize(
    ("families", "ranges", "missing"),
    [
        (("ipv4",), "10.1.0.0/24", []),
        (("ipv4", "ipv6"), "10.1.0.0/24", ["IPv6"]),
        (("ipv6", "ipv4"), "10.1.0.0/24, fd00:1::/120", []),
    ],
)
def test_a_family_without_addresses_is_told_of(
    families: tuple[str, ...], ranges: str, missing: list[str]
) -> None:
    profile = replace(PROFILE, families=families)
    chosen = addons.configured(Choices(), profile, "metallb", {"ranges": ranges})
    said = [*addons.find("metallb").doubts(profile, chosen.settings["metallb"])]
    assert [text.split()[3].rstrip(":") for text in said] == missing


def test_components_and_controllers(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Addon(
        "lamp",
        "light",
        components=lambda place: {"lamp": {"node": place.node, **place.settings}},
        controllers=("lamplighter",),
        questions=(addons.Question("colour", "Which colour"),),
    )
    monkeypatch.setattr(addons, "ADDONS", {"lamp": row})
    assert "lamp" not in composition.node_components(PROFILE, paths, "dev")
    assert composition.controllers_options(PROFILE, paths)["controllers"] == ["*", "-lamplighter"]
    choices = addons.switched(Choices(), ["lamp"], True)
    addons.save(paths, addons.configured(choices, PROFILE, "lamp", {"colour": "red"}))
    found = composition.node_components(PROFILE, paths, "dev")
    # What traffic needs is there before the kubelet, which takes longest to read.
    assert [*found][-1] == "kubelet"
    assert found["lamp"] == {"node": "dev", "colour": "red"}
    assert composition.controllers_options(PROFILE, paths)["controllers"] == ["*"]
