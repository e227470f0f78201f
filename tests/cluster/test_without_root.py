"""A cluster for somebody who is not root: the API alone, and nodes without containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from navarch.cluster import processes

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv"),
]

NOBODY = 65534
# The interpreter may lie in a directory that only root can enter; reading it is all that is kept.
UNPRIVILEGED = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),
)


class User:
    """Somebody with a home directory and no rights."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "KUBECONFIG"},
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
        }
        self.environment.pop("NAVARCH_HOME", None)

    def run(self, *command: str, expect: int = 0) -> str:
        result = subprocess.run(
            [*UNPRIVILEGED, *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            cwd="/",
        )
        assert result.returncode == expect, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout + result.stderr

    def navarch(self, *words: str, expect: int = 0) -> str:
        return self.run(sys.executable, "-P", "-m", "navarch.cli.main", *words, expect=expect)


@pytest.fixture
def user() -> Iterator[User]:
    home = Path(tempfile.mkdtemp(prefix="navarch-user-"))
    os.chown(home, NOBODY, NOBODY)
    found = User(home)
    yield found
    found.navarch("delete", "--all")
    shutil.rmtree(home)


def test_simulated_nodes_take_pods(user: User) -> None:
    user.navarch("start", "--simulated", "3")
    user.navarch("status")
    user.run("kubectl", "create", "deployment", "web", "--image=none", "--replicas=6")
    user.run("kubectl", "rollout", "status", "deployment/web", "--timeout=120s")
    pods = json.loads(user.run("kubectl", "get", "pods", "-o", "json"))["items"]
    assert {pod["status"]["phase"] for pod in pods} == {"Running"}
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 3


def test_real_nodes_are_refused_and_the_way_out_is_named(user: User) -> None:
    said = user.navarch("start", expect=1)
    assert "sudo navarch start" in said
    assert "--simulated" in said
    assert not (user.home / "state" / "navarch").exists()


def test_nothing_is_left(user: User) -> None:
    user.navarch("start", "--nodes", "0")
    state = user.home / "state" / "navarch"
    pids = [
        found.pid
        for file in state.rglob("*.pid")
        if (found := processes.read_pid_file(file)) is not None
    ]
    assert len(pids) == 3
    user.navarch("stop")
    user.navarch("start", "--keep-context")
    assert "Running" in user.navarch("status")
    user.navarch("delete")
    assert not state.exists()
    assert not (user.home / ".kube" / "config").exists()
    assert not any(processes.start_time(pid) for pid in pids)
