"""The command line's own decisions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from navarch.cli import main as cli
from navarch.cli.network import Flags
from navarch.cli.output import Steps, printable
from navarch.cli.table import table
from navarch.cluster import profile as profiles
from navarch.cluster import simulation
from navarch.cluster.profile import ClusterError, Profile


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
    assert run(*words) == 85
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


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff", '{"name": 5}', '{"nodes": "two"}'])
def test_a_profile_that_cannot_be_read(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    profiles.save(Profile("dev"))
    profiles.paths_of("dev").profile.write_bytes(content.encode("latin-1"))
    for words in (("node", "list"), ("status",), ("leave",), ("profile", "list")):
        assert run("-p", "dev", *words) == 1
        assert "navarch delete -p dev" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"nodes": 7}'])
def test_a_fleet_that_cannot_be_read(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    profiles.save(Profile("dev", simulated=1))
    simulation.file_of(profiles.paths_of("dev")).write_text(content)
    assert run("-p", "dev", "node", "list") == 1
    assert "simulated.json cannot be read" in capsys.readouterr().err


def test_what_the_machine_refuses_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tests run as root, whom no file refuses."""

    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    profiles.save(Profile("dev"))
    monkeypatch.setattr(Path, "read_bytes", refused)
    assert run("-p", "dev", "node", "list") == 1
    assert "belongs to another user" in capsys.readouterr().err


def test_a_full_disk_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    profiles.save(Profile("dev"))
    monkeypatch.setattr(profiles, "write_json", full)
    assert run("profile", "dev") == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_service_without_a_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The API would answer with all Services."""
    from navarch.cli import options, services

    profiles.save(Profile("dev"))
    monkeypatch.setattr(services, "running", options.existing)
    assert run("-p", "dev", "service", "") == 1
    assert "name is missing" in capsys.readouterr().err


def test_an_api_that_does_not_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from navarch.cli import join, options, services

    profiles.save(Profile("dev"))
    for module in (join, services):
        monkeypatch.setattr(module, "running", options.existing)
    for words in (("service", "list"), ("service", "x"), ("token", "list")):
        assert run("-p", "dev", *words) == 1
        assert "certificates" in (said := capsys.readouterr().err), said
        assert "navarch status" in said


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


def test_nodes_of_this_machine_are_known_without_the_api(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from navarch.cli import app, nodes, options
    from navarch.cluster import start

    profiles.save(Profile("dev", nodes=2))
    asked: list[object] = []

    def joined_nodes(there: object) -> dict[str, str]:
        asked.append(there)
        return {}

    for module in (app, nodes):
        monkeypatch.setattr(module, "joined_nodes", joined_nodes)
    monkeypatch.setattr(nodes, "running", options.existing)
    monkeypatch.setattr(start, "start", lambda request, steps: None)
    assert run("ip", "-p", "dev") == 0
    assert capsys.readouterr().out == "192.168.49.2\n"
    assert run("node", "stop", "-p", "dev", "dev-m02") == 0
    assert asked == []


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
    monkeypatch.setattr(nodes, "joined_nodes", lambda _: {})
    assert run("node", "delete", "-p", "dev", "nosuch") == 85
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


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Profile:
    profile = Profile("far", joined="192.0.2.1:8443", joined_node="other", joined_addresses=("::",))
    profiles.save(profile)
    monkeypatch.setenv("NAVARCH_PROFILE", "far")
    return profile


@pytest.mark.parametrize(
    "words",
    [
        ("token", "create"),
        ("node", "add"),
        ("node", "stop", "other"),
        ("node", "delete", "other"),
        ("node", "fault", "kill", "other"),
        ("service", "list"),
        ("tunnel",),
        ("tunnel", "--cleanup"),
        ("addons", "list"),
        ("addons", "enable", "ingress"),
        ("kubeconfig",),
        ("update-context",),
        ("why", "pod/x"),
        ("kubectl", "get", "pods"),
        ("start", "--nodes", "3"),
        ("start", "--listen-address", "192.0.2.7"),
    ],
    ids=" ".join,
)
def test_what_needs_the_control_plane_is_said_where_none_is(
    words: tuple[str, ...], joined: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 1
    told = capsys.readouterr().err
    assert "of a cluster that runs elsewhere" in told
    assert joined.joined in told


def test_a_machine_that_has_joined_is_shown(
    joined: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("node", "list") == 0
    assert run("ip") == 0
    assert capsys.readouterr().out == "other\t::\n::\n"
    assert run("profile", "use", "far") == 0
    assert run("profile", "list", "-o", "json") == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["valid"][0]
    assert (row["Address"], row["Status"]) == ("::", "Stopped")


def test_a_profile_whose_first_node_is_gone_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    profiles.save(Profile("dev", nodes=1, removed=(1,)))
    assert run("profile", "list", "-o", "json") == 0
    row = json.loads(capsys.readouterr().out)["valid"][0]
    assert row["Address"] == "192.168.49.3"


@pytest.mark.parametrize("words", [("ip",), ("ssh",), ("status",)])
def test_a_node_that_is_not_there(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from navarch.cli import app

    profiles.save(Profile("dev"))
    monkeypatch.setattr(app, "joined_nodes", lambda _: {})
    assert run(*words, "-p", "dev", "-n", "nosuch") == 85
    assert 'The node "nosuch" does not exist in the cluster "dev"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (("ip route | grep eth0",), ["/bin/sh", "-c", "ip route | grep eth0"]),
        (("--", "ls", "-l", "a b"), ["ls", "-l", "a b"]),
        ((), ["/bin/shell"]),
    ],
)
def test_what_ssh_runs(
    words: tuple[str, ...], program: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles.save(Profile("dev"))
    monkeypatch.setenv("SHELL", "/bin/shell")
    ran: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, arguments: ran.append(arguments))
    assert run("ssh", "-p", "dev", *words) == 0
    assert ran[0][ran[0].index("--") + 1 :] == program


def test_nodes_on_other_machines_are_theirs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from navarch.cli import app, nodes, options

    profiles.save(Profile("dev"))
    monkeypatch.setattr(nodes, "running", options.existing)
    for module in (app, nodes):
        monkeypatch.setattr(module, "joined_nodes", lambda _: {"other": "192.0.2.7"})
    assert run("ip", "-p", "dev", "-n", "other") == 0
    assert capsys.readouterr().out == "192.0.2.7\n"
    assert run("node", "stop", "-p", "dev", "other") == 1
    assert "Run there: navarch stop" in capsys.readouterr().err


def test_flags_of_start_reach_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of the dataclasses that the command takes whole."""
    from navarch.cluster import start

    asked: list[start.StartRequest] = []

    def record(request: start.StartRequest, _: object) -> Profile:
        asked.append(request)
        return Profile(request.name)

    monkeypatch.setattr(start, "start", record)
    assert run("start", "-p", "dev", "-n", "2", "--no-wait", "--kubelet-config", "off") == 0
    assert run("start", "-p", "dev", "--pod-network", "vxlan", "--simulated", "3", "--boot") == 0
    assert run("start", "-p", "dev", "--keep-context", "-q", "--wait-timeout", "9") == 0
    first, second, third = asked
    assert (first.nodes, first.wait, first.kubelet_config) == (2, False, "off")
    assert second.settings is not None
    assert second.settings(Profile("dev")).pod_network == "vxlan"
    assert second.simulation is not None
    assert [each.boot for each in asked] == [None, True, None]
    assert [each.is_plain for each in asked] == [False, False, True]
    assert (third.switch_context, third.timeout) == (False, 9.0)


@pytest.mark.parametrize(
    ("cni", "asked", "enforced"),
    [
        ("", None, True),
        ("cni.conflist", None, True),
        ("cni.yaml", None, False),
        ("false", None, False),
        ("cni.yaml", "on", True),
        ("", "off", False),
    ],
)
def test_who_enforces_policies(cni: str, asked: str | None, enforced: bool) -> None:
    found = Flags(network_policy=asked).settings(Profile("dev", cni=cni))
    assert found.enforces_policies is enforced


@pytest.mark.parametrize(
    "flags",
    [
        Flags(network_policy="maybe"),
        Flags(cluster_signing_duration="long"),
        Flags(cluster_signing_duration="0s"),
    ],
)
def test_what_start_cannot_be_told(flags: Flags) -> None:
    with pytest.raises(ClusterError, match=r"is one of|is not a duration"):
        flags.settings(Profile("dev"))
    brief = Flags(cluster_signing_duration="720h").settings(Profile("dev"))
    assert brief.signing_duration == "720h"
