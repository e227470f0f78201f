"""Forwarding is switched on once, and back when nobody needs it any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from navarch.cluster import forwarding

ETH0, ETH1 = "net/ipv4/conf/eth0/forwarding", "net/ipv4/conf/eth1/forwarding"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "sys"
    for name, value in ((ETH0, "0\n"), (ETH1, "1\n")):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(value)
    monkeypatch.setattr(forwarding, "SETTINGS", root)
    monkeypatch.setattr(forwarding, "DIRECTORY", tmp_path / "run")
    return root


def values(settings: Path) -> list[str]:
    return [(settings / name).read_text().strip() for name in (ETH0, ETH1)]


def test_the_last_cluster_of_the_machine_switches_it_back(settings: Path) -> None:
    """Whosever the others are: the second one finds forwarding on, and need not have noted it."""
    note = forwarding.machines_note()
    forwarding.switch_on([ETH0, ETH1], note)
    forwarding.switch_on([ETH0, ETH1], note)
    assert values(settings) == ["1", "1"]
    forwarding.switch_back(note, is_needed=lambda: True)
    assert values(settings) == ["1", "1"]
    forwarding.switch_back(note, is_needed=lambda: False)
    assert values(settings) == ["0", "1"]
    assert not forwarding.DIRECTORY.exists()
    forwarding.switch_back(note)
    assert values(settings) == ["0", "1"]


def test_an_interface_that_is_gone_is_no_trouble(settings: Path) -> None:
    note = settings.parent / "note.json"
    forwarding.switch_on([ETH0], note)
    (settings / ETH0).unlink()
    forwarding.switch_back(note)
    assert not note.exists()
    assert settings.parent.exists()
