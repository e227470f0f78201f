"""The configuration of the pod network's plug-ins, and addresses that nobody has any more."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from navarch.network.pods import cni
from navarch.network.pods.cni import Note


def test_a_chain_of_plug_ins() -> None:
    config = json.loads(cni.config(["10.244.1.0/24", "fd00:1::/64"], 1450))
    assert [each["type"] for each in config["plugins"]] == ["ptp", "bandwidth", "portmap"]
    bridge = config["plugins"][0]
    assert bridge["mtu"] == 1450
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:1::/64"}]]
    both = json.loads(cni.config(["10.244.1.0/24", "fd00:1::/64"], prepare=True))
    assert both["plugins"][0] == {"type": "navarch-prepare"}
    alone = json.loads(cni.config(["10.244.1.0/24"], bandwidth=False, prepare=True))
    assert [each["type"] for each in alone["plugins"]] == ["ptp", "portmap"]
    assert "mtu" not in alone["plugins"][0]


def test_the_program_that_prepares_namespaces(tmp_path: Path) -> None:
    """It tells the next plug-in of nothing, and the runtime what it needs to know."""
    program, entered = tmp_path / cni.PREPARE, tmp_path / "nsenter"
    program.write_text(cni.PREPARE_PROGRAM)
    entered.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\n')
    for each in (program, entered):
        each.chmod(0o755)

    def run(command: str) -> bytes:
        environment = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "CNI_COMMAND": command,
            "CNI_NETNS": "/run/netns/x",
        }
        return subprocess.run(program, env=environment, check=True, capture_output=True).stdout

    assert json.loads(run("ADD")) == {"cniVersion": "1.0.0"}
    said = (tmp_path / "said").read_text()
    assert said.startswith("--net=/run/netns/x sh -c echo 0 >/proc/sys/net/ipv6/conf/default/")
    assert json.loads(run("VERSION"))["supportedVersions"] == ["1.0.0"]
    assert run("DEL") == b""


def test_the_configuration_is_written_when_it_differs(tmp_path: Path) -> None:
    directory = tmp_path / "cni"
    directory.mkdir()
    assert cni.write(directory, "one")
    assert not cni.write(directory, "one")
    assert cni.write(directory, "two")
    assert [file.name for file in directory.iterdir()] == [cni.CONFIG_NAME]
    assert (directory / cni.CONFIG_NAME).read_text() == "two"


@pytest.mark.parametrize(
    ("note", "is_stale"),
    [
        pytest.param(Note("10.0.0.2", "alive", 1e6), False, id="of a sandbox that is there"),
        pytest.param(Note("10.0.0.2", "gone", 1e6), True, id="of one that is gone"),
        pytest.param(Note("10.0.0.2", "gone", 5.0), False, id="of one that is being made"),
        pytest.param(Note("10.0.0.2", "", 1e6), True, id="half written"),
        pytest.param(Note("10.0.0.2", "", 5.0), False, id="being written"),
    ],
)
def test_stale_notes(note: Note, is_stale: bool) -> None:
    assert bool(cni.stale([note], ["alive"])) is is_stale


def test_lost_addresses_are_given_back(tmp_path: Path) -> None:
    notes, sandboxes = tmp_path / "notes", tmp_path / "sandboxes"
    assert cni.clean(sandboxes, 1e9, notes) == []
    notes.mkdir()
    (sandboxes / "one").mkdir(parents=True)
    for name, content in (("10.0.0.2", "one\r\neth0"), ("10.0.0.3", "two\r\neth0"), ("::4", "")):
        (notes / name).write_text(content)
        os.utime(notes / name, (1e9, 1e9))
    (notes / "last_reserved_ip.0").write_text("10.0.0.3")
    assert sorted(cni.clean(sandboxes, 1e9 + 1000, notes)) == ["10.0.0.3", "::4"]
    assert sorted(file.name for file in notes.iterdir()) == [
        "10.0.0.2",
        "last_reserved_ip.0",
        "lock",
    ]
