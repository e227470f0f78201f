"""Starts a profile when the machine boots, where systemd is its init: a unit of its own.

The unit runs `navarch start`, which brings a machine to what its profile says, and on the way down
`navarch stop`, which asks pods to end. In between the supervisor and its guardian see to processes,
so systemd is told to leave them alone (`KillMode=process`), as with containerd and the kubelet.

Source: systemd.service(5), sd_booted(3).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from navarch.cluster.profile import ClusterError, Profile, home, write_file

UNITS = Path("/etc/systemd/system")
BOOTED = Path("/run/systemd/system")
"""There exactly if systemd is the init."""
TIMEOUT = 180.0

UNIT = """\
[Unit]
Description={description}
Documentation=man:systemd.service(5)
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
Environment={environment}
ExecStart={program} start --profile {name} --no-wait --keep-context
ExecStop={program} stop --profile {name}
KillMode=process
Restart=on-failure
RestartSec=10
TimeoutStartSec=300
TimeoutStopSec=300

[Install]
WantedBy=multi-user.target
"""


def why_not() -> str:
    """What is in the way of a unit, empty if nothing is."""
    if not BOOTED.is_dir() or shutil.which("systemctl") is None:
        return "systemd is not this machine's init"
    return "" if os.geteuid() == 0 else "a unit of the system needs root"


def check() -> None:
    """Raises ClusterError."""
    if reason := why_not():
        raise ClusterError(f"--boot: {reason}", "Have your init run: navarch start --no-wait")


def unit_name(profile: Profile) -> str:
    """As the control group's: clusters of one name in other homes are others."""
    return f"{profile.cgroup.lstrip('/')}.service"


def unit(profile: Profile) -> str:
    program = " ".join(_quoted(each) for each in (sys.executable, "-P", "-m", "navarch.cli.main"))
    what = (
        f"node {profile.joined_node} of the cluster at {profile.joined}"
        if profile.joined
        else f"cluster {profile.name}"
    )
    return UNIT.format(
        description=f"Navarch {what}".replace("%", "%%"),
        environment=_quoted(f"NAVARCH_HOME={home()}"),
        program=program,
        name=profile.name,
    )


def _quoted(text: str) -> str:
    """As systemd.syntax(7) wants a word: specifiers are not meant."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{plain}"'


def switch_on(profile: Profile) -> str:
    """Have the profile started at boot, and stopped before the machine goes down: for that the unit
    has to be active, so it is started as well. Returns the unit's name. Raises ClusterError."""
    check()
    name = unit_name(profile)
    write_file(UNITS / name, unit(profile).encode(), 0o644)
    for words in (["daemon-reload"], ["enable", "--now", name]):
        done = _systemctl(words)
        if done.returncode:
            raise ClusterError(
                f"systemctl {' '.join(words)}: {done.stderr.strip()}",
                f"See: systemctl status {name}",
            )
    return name


def switch_off(profile: Profile) -> None:
    """Take the unit away; what runs is left alone. Does nothing where there is none."""
    name = unit_name(profile)
    if not (UNITS / name).exists():
        return
    usable = not why_not()
    if usable:
        _systemctl(["disable", name])
    (UNITS / name).unlink(missing_ok=True)
    if usable:
        # Without its file the unit has no command left that stopping could run.
        for words in (["daemon-reload"], ["stop", name], ["reset-failed", name]):
            _systemctl(words)


def _systemctl(words: list[str]) -> subprocess.CompletedProcess[str]:
    command = ["systemctl", *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {TIMEOUT:g} s")
