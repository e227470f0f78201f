"""`navarch addons` on a profile that does not run, and what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from navarch.cli import main as cli
from navarch.cluster import addons
from navarch.cluster.profile import Profile, paths_of, save


@pytest.fixture(autouse=True)
def _profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAVARCH_HOME", str(tmp_path))
    save(Profile("dev"))


def run(*words: str) -> int:
    try:
        return cli.main(["addons", *words, "-p", "dev"])
    except SystemExit as end:
        return int(end.code or 0)


def statuses(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    capsys.readouterr()
    assert run("list", "-o", "json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert {each["Profile"] for each in listed.values()} == {"dev"}
    return {name: each["Status"] for name, each in listed.items()}


def test_off_and_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert statuses(capsys)["metallb"] == "enabled"
    assert run("disable", "metallb", "storage-provisioner") == 0
    assert "* The 'metallb' addon is disabled from the next start on\n" in capsys.readouterr().out
    found = statuses(capsys)
    assert (found["metallb"], found["storage-provisioner"]) == ("disabled", "disabled")
    assert run("enable", "metallb") == 0
    assert statuses(capsys)["metallb"] == "enabled"


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ADDON", "NAME", "PROFILE", "STATUS", "DESCRIPTION"]
    assert [line.split()[0] for line in lines[1:]] == sorted(addons.ADDONS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["enable", "nonsense"], "nonsense is not an addon"),
        (["disable", "metrics-server"], "part of every cluster"),
        (["configure", "metallb", "--set", "ranges"], "not of the form KEY=VALUE"),
        (["configure", "metallb", "--set", "colour=red"], "metallb has no setting colour"),
        (["configure", "metallb", "--set", "ranges=10.0.0.9"], "neither a range A-B nor a CIDR"),
        (
            ["configure", "metallb", "--set", "ranges=192.168.49.0/24"],
            "192.168.49.1 is taken by the cluster itself",
        ),
        (["configure", "metallb", "--set", "ranges=fd00::/120"], "has addresses of ipv4"),
        (["configure", "metallb", "--set", "ranges=127.0.0.0/28"], "is nobody's address"),
        (["configure", "metallb", "--set", "ranges=224.0.0.0/28"], "is nobody's address"),
        (["configure", "metallb", "--set", "ranges=10.96.7.0/24"], "meets 10.96.0.0/16"),
        (["configure", "metallb", "--set", "ranges=10.244.0.1-10.250.0.1"], "meets 10.244.0.0/16"),
        (["configure", "metallb", "--set", "ranges=,"], "(start, end), or ranges"),
        (["configure", "metallb", "--set", "start=10.0.0.9"], "(start, end), or ranges"),
        (
            ["configure", "metallb", "--set", "ranges=10.0.0.0/30,10.0.0.3/32"],
            "pool default overlaps with pool default: 10.0.0.3",
        ),
    ],
)
def test_what_cannot_be(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 1
    assert said in capsys.readouterr().err
    assert addons.load(paths_of("dev")) == addons.Choices()


def test_a_comma_too_many_is_no_range() -> None:
    assert run("configure", "metallb", "--set", "ranges=192.168.49.220/30, ") == 0
    assert addons.load(paths_of("dev")).settings["metallb"] == {"ranges": ["192.168.49.220/30"]}


def test_it_asks_as_minikube_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("192.168.49.220\n192.168.49.230\n"))
    assert run("configure", "metallb") == 0
    assert capsys.readouterr().out.startswith(
        "-- Enter Load Balancer Start IP: -- Enter Load Balancer End IP: "
    )
    settings = addons.load(paths_of("dev")).settings["metallb"]
    assert settings == {"ranges": ["192.168.49.220-192.168.49.230"]}
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run("configure", "metallb") == 1
    assert run("configure", "metrics-server") == 0
    assert "has no available configuration options" in capsys.readouterr().out
