"""The user's kubeconfig is theirs: what is not ours is kept."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest
import yaml

from navarch.cluster import kubeconfig, pki
from navarch.cluster.profile import ClusterError, Paths, Profile

PROFILE = Profile("dev")
FOREIGN: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Config",
    "preferences": {"colors": True},
    "extensions": [{"name": "x", "extension": {"y": 1}}],
    "clusters": [{"name": "prod", "cluster": {"server": "https://prod"}}],
    "users": [{"name": "me", "user": {"token": "t"}}],
    "contexts": [{"name": "prod", "context": {"cluster": "prod", "user": "me"}}],
    "current-context": "prod",
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    found = Paths(tmp_path_factory.mktemp("home") / "dev")
    found.create()
    pki.ensure(PROFILE, found)
    return found


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def write(file: Path, value: Any) -> Path:
    file.write_text(yaml.safe_dump(value))
    return file


def test_a_new_file_is_private_and_complete(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "kube" / "config"
    assert kubeconfig.merge(PROFILE, paths, [file]) == file
    assert file.stat().st_mode & 0o777 == 0o600
    config = read(file)
    assert config["current-context"] == "dev"
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:8443"
    assert set(config["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
    assert not list(file.parent.glob("*.lock"))


def test_foreign_entries_survive_merge_and_removal(paths: Paths, tmp_path: Path) -> None:
    file = write(tmp_path / "config", FOREIGN)
    kubeconfig.merge(PROFILE, paths, [file])
    merged = read(file)
    assert [entry["name"] for entry in merged["clusters"]] == ["prod", "dev"]
    assert merged["extensions"] == FOREIGN["extensions"]
    assert merged["current-context"] == "dev"
    assert kubeconfig.remove("dev", [file])
    assert read(file) == {**FOREIGN, "current-context": ""}


def test_merging_again_changes_nothing_but_keeps_the_namespace(
    paths: Paths, tmp_path: Path
) -> None:
    file = tmp_path / "config"
    kubeconfig.merge(PROFILE, paths, [file])
    config = read(file)
    config["contexts"][0]["context"]["namespace"] = "team"
    write(file, config)
    kubeconfig.merge(PROFILE, paths, [file])
    assert read(file) == config


def test_the_context_stays_if_asked(paths: Paths, tmp_path: Path) -> None:
    file = write(tmp_path / "config", FOREIGN)
    kubeconfig.merge(PROFILE, paths, [file], switch=False)
    assert read(file)["current-context"] == "prod"


def test_another_clusters_context_is_not_unset(paths: Paths, tmp_path: Path) -> None:
    file = write(tmp_path / "config", FOREIGN)
    kubeconfig.merge(PROFILE, paths, [file], switch=False)
    kubeconfig.remove("dev", [file])
    assert read(file) == FOREIGN


def test_a_file_with_nothing_else_goes(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "config"
    kubeconfig.merge(PROFILE, paths, [file])
    kubeconfig.remove("dev", [file])
    assert not file.exists()
    assert not kubeconfig.remove("dev", [file])


def test_new_entries_go_to_the_first_file_there_is(paths: Paths, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    write(second, FOREIGN)
    write(third, FOREIGN)
    assert kubeconfig.merge(PROFILE, paths, [first, second, third]) == second


def test_new_entries_go_to_the_last_file_if_there_is_none(paths: Paths, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert kubeconfig.merge(PROFILE, paths, [first, second]) == second


def test_known_entries_are_changed_where_they_are(paths: Paths, tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", FOREIGN), tmp_path / "b"
    kubeconfig.merge(PROFILE, paths, [second])
    assert kubeconfig.merge(PROFILE, paths, [first, second]) == second
    # The first file names a context, and would win over the second.
    assert read(first)["current-context"] == "dev"


def test_a_symbolic_link_stays_one(paths: Paths, tmp_path: Path) -> None:
    target = write(tmp_path / "real", FOREIGN)
    link = tmp_path / "config"
    link.symlink_to(target)
    kubeconfig.merge(PROFILE, paths, [link])
    assert link.is_symlink()
    assert read(target)["current-context"] == "dev"


@pytest.mark.parametrize(
    "content", ["a: [", "- list", "just text", "contexts: [x]", "users: 5", "clusters: {a: b}"]
)
def test_an_unreadable_file_is_left_alone(paths: Paths, tmp_path: Path, content: str) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    with pytest.raises(ClusterError, match="config"):
        kubeconfig.merge(PROFILE, paths, [file])
    assert file.read_text() == content


def test_a_held_lock_is_waited_for_and_named(tmp_path: Path) -> None:
    file = tmp_path / "config"
    (tmp_path / "config.lock").touch()
    with pytest.raises(ClusterError, match="locked"), kubeconfig._locked(file, timeout=0.05):
        pass
    assert (tmp_path / "config.lock").exists()


@pytest.mark.parametrize(
    ("server", "state"),
    [("https://127.0.0.1:8443", "Configured"), ("https://127.0.0.1:1", "Misconfigured")],
)
def test_context_state(tmp_path: Path, server: str, state: str) -> None:
    config = {"clusters": [{"name": "dev", "cluster": {"server": server}}]}
    assert kubeconfig.context_state(PROFILE, [write(tmp_path / "config", config)]) == state


def test_context_state_without_a_file(tmp_path: Path) -> None:
    assert kubeconfig.context_state(PROFILE, [tmp_path / "none"]) == "Misconfigured"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"KUBECONFIG": "/a:/b", "HOME": "/h"}, ["/a", "/b"]),
        ({"KUBECONFIG": "", "HOME": "/h"}, ["/h/.kube/config"]),
        ({"KUBECONFIG": "::/a:", "HOME": "/h"}, ["/a"]),
        ({"HOME": "/h"}, ["/h/.kube/config"]),
        ({"HOME": "/h", "SUDO_UID": "no number"}, ["/h/.kube/config"]),
    ],
)
def test_user_files(environ: dict[str, str], expected: list[str]) -> None:
    assert [str(file) for file in kubeconfig.user_files(environ)] == expected


def test_under_sudo_the_users_own_file_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    user = pwd.getpwall()[1]
    files = kubeconfig.user_files({"HOME": "/root", "SUDO_UID": str(user.pw_uid)})
    assert files == [Path(user.pw_dir) / ".kube" / "config"]


def test_a_nodes_kubeconfigs_name_only_what_the_node_can_see(paths: Paths) -> None:
    for file, config in kubeconfig.component_files(PROFILE, paths).items():
        if file.is_relative_to(paths.nodes):
            directory = paths.node("dev")
            assert config["clusters"][0]["cluster"]["server"] == "https://192.168.49.1:8443"
            named = [config["clusters"][0]["cluster"]["certificate-authority"]]
            named += config["users"][0]["user"].values()
            assert all(Path(name).is_relative_to(directory) for name in named), file
