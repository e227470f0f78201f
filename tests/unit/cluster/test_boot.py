"""A unit of systemd's that starts a profile, in a made-up /etc and with a systemctl that takes
notes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from navarch.cluster import boot, stop
from navarch.cluster.profile import ClusterError, Profile, paths_of, save

FAR = Profile("far", joined="192.0.2.1:8443", joined_node="other", joined_addresses=("192.0.2.9",))


class Silent:
    def step(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with systemd; what systemctl is told is in this file."""
    notes = tmp_path / "told"
    notes.touch()
    for directory in ("units", "booted", "bin"):
        (tmp_path / directory).mkdir()
    monkeypatch.setattr(boot, "UNITS", tmp_path / "units")
    monkeypatch.setattr(boot, "BOOTED", tmp_path / "booted")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("NAVARCH_HOME", str(tmp_path / "home of 100%"))
    program = tmp_path / "bin" / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" >> {notes}\ntest ! -e {tmp_path}/broken\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return notes


def test_a_node_that_has_joined_starts_at_boot(told: Path) -> None:
    name = boot.switch_on(FAR)
    assert told.read_text().splitlines() == ["daemon-reload", f"enable --now {name}"]
    assert name.startswith("navarch-far-")
    text = (boot.UNITS / name).read_text()
    assert "Description=Navarch node other of the cluster at 192.0.2.1:8443\n" in text
    assert f'Environment="NAVARCH_HOME={told.parent}/home of 100%%"\n' in text
    assert " start --profile far --no-wait --keep-context\nExecStop=" in text


def test_the_unit_goes_with_the_profile(told: Path) -> None:
    """Of a cluster without nodes, so that this machine's network is left alone."""
    profile = Profile("far", nodes=0)
    save(profile)
    name = boot.switch_on(profile)
    told.write_text("")
    stop.delete("far", Silent())
    assert list(boot.UNITS.iterdir()) == []
    assert told.read_text().splitlines() == [
        f"disable {name}",
        "daemon-reload",
        f"stop {name}",
        f"reset-failed {name}",
    ]
    assert not paths_of("far").root.exists()


def test_without_a_unit_nothing_is_asked_of_systemd(told: Path) -> None:
    boot.switch_off(FAR)
    assert told.read_text() == ""


def test_another_init_gets_no_unit(told: Path) -> None:
    boot.BOOTED.rmdir()
    with pytest.raises(ClusterError, match="not this machine's init"):
        boot.switch_on(FAR)
    assert list(boot.UNITS.iterdir()) == []
    # One from before, in an image that is looked at elsewhere, goes without it.
    (boot.UNITS / boot.unit_name(FAR)).touch()
    boot.switch_off(FAR)
    assert list(boot.UNITS.iterdir()) == []
    assert told.read_text() == ""


def test_what_systemd_refuses_is_told(told: Path) -> None:
    (told.parent / "broken").touch()
    with pytest.raises(ClusterError, match="systemctl daemon-reload"):
        boot.switch_on(FAR)


def test_systemd_that_hangs_is_not_waited_for(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (told.parent / "bin" / "systemctl").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(boot, "TIMEOUT", 0.1)
    with pytest.raises(ClusterError, match=r"daemon-reload: no answer within 0\.1 s"):
        boot.switch_on(FAR)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd to ask")
def test_systemd_understands_it(told: Path, tmp_path: Path) -> None:
    file = tmp_path / "navarch-far.service"
    file.write_text(boot.unit(FAR))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
