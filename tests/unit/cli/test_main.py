"""The command line's own decisions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from navarch.cli import main as cli
from navarch.cli.output import Steps, printable
from navarch.cli.table import table
from navarch.cluster import profile as profiles
from navarch.cluster.profile import Profile


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAVARCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("NAVARCH_PROFILE", raising=False)


def run(*words: str) -> int:
    try:
        return cli.main(words)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize(
    ("words", "profile", "rest"),
    [
        (["-p", "dev", "kubectl", "logs", "-p"], "dev", ["kubectl", "logs", "-p"]),
        (["--profile=dev", "status"], "dev", ["status"]),
        (["kubectl", "logs", "-p", "x"], "", ["kubectl", "logs", "-p", "x"]),
        (["-p"], "", ["-p"]),
    ],
)
def test_the_profile_before_the_command(words: list[str], profile: str, rest: list[str]) -> None:
    assert cli._leading_profile(words) == (profile, rest)


def test_a_missing_profile_has_minikubes_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status") == 85
    assert 'Profile "navarch" not found' in capsys.readouterr().err


@pytest.mark.parametrize("words", [("stop",), ("logs",), ("ip",), ("kubeconfig", "-p", "x")])
def test_commands_on_a_missing_profile_say_what_to_do(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 1
    assert "navarch start" in capsys.readouterr().err


def test_status_of_a_stopped_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    profiles.save(Profile("dev"))
    assert run("status", "-p", "dev") == 7
    assert capsys.readouterr().out == (
        "dev\ntype: Control Plane\nhost: Stopped\nkubelet: Stopped\n"
        "apiserver: Stopped\nkubeconfig: Stopped\n\n"
    )
    assert run("-p", "dev", "status", "-o", "json") == 7
    assert json.loads(capsys.readouterr().out)["Host"] == "Stopped"


def test_a_bad_profile_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("start", "-p", "../x") == 1
    assert "not a profile name" in capsys.readouterr().err


def test_profiles_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profile", "list") == 0
    assert "navarch start" in capsys.readouterr().out
    profiles.save(Profile("dev", nodes=2))
    assert run("profile", "list", "-o", "json") == 0
    row = json.loads(capsys.readouterr().out)["valid"][0]
    assert (row["Name"], row["Nodes"], row["Status"]) == ("dev", 2, "Stopped")


def test_addresses_of_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    profiles.save(Profile("dev", nodes=2))
    assert run("ip", "-p", "dev", "-n", "dev-m02") == 0
    assert run("node", "list", "-p", "dev") == 0
    assert capsys.readouterr().out == ("192.168.49.3\ndev\t192.168.49.2\ndev-m02\t192.168.49.3\n")
    assert run("ip", "-p", "dev", "-n", "none") == 85


def test_deleting_what_is_not_there_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("delete") == 0
    assert "no" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("version") == 0
    assert "kubernetes version: v1.36" in capsys.readouterr().out


def test_kubectl_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("kubectl", "get", "pods") in (1, 85)
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext", "plain\ttext"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\rb\x9bc", "a\\x0db\\x9bc"),
    ],
)
def test_a_terminal_is_not_commanded_by_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_tables() -> None:
    assert table([]) == ""
    assert table([{"Name": "a", "Size": 1}, {"Name": "long", "Size": 22}]) == (
        "NAME   SIZE\na      1\nlong   22"
    )


def test_steps_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Steps() as steps:
        steps.step("One")
        steps.note("by the way")
        steps.done("Done!")
    assert capsys.readouterr().out == "* One ...\n  - by the way\n* Done!\n"
    with Steps(quiet=True) as steps:
        steps.step("One")
        steps.done("Done!")
    assert capsys.readouterr().out == ""


def test_deleting_a_node_that_is_not_there_changes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from navarch.cli import nodes, options

    profiles.save(Profile("dev"))
    monkeypatch.setattr(nodes, "running", options.existing)
    monkeypatch.setattr(nodes, "_joined", lambda _: {})
    assert run("node", "delete", "-p", "dev", "nosuch") == 1
    told = capsys.readouterr().err
    assert "there is no node nosuch" in told
    assert "navarch node list" in told


def test_a_machine_without_control_groups_does_not_join(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from navarch.cluster import doctor

    finding = doctor.Finding("cgroups", doctor.Level.BAD, "not mounted", "Mount them.")
    monkeypatch.setattr(doctor, "cgroups", lambda: finding)
    assert run("join", "192.0.2.1:8443", "--token", "abcdef.0123456789abcdef") == 1
    told = capsys.readouterr().err
    assert "control groups: not mounted" in told
    assert "nsenter" in told


def test_the_start_of_a_joined_machine_promises_no_kubectl(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from navarch.cluster import start

    joined = Profile("dev", joined="192.0.2.1:8443", joined_node="here")
    monkeypatch.setattr(start, "start", lambda *_: joined)
    assert run("start", "-p", "dev") == 0
    told = "".join(capsys.readouterr())
    assert "node here again" in told
    assert "kubectl" not in told
