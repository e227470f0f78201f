"""`navarch image`: what is loaded, pulled, built, listed, saved and removed, on two real nodes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.machine import SHELL_IMAGE, Machine
from tests.images.busybox import build_busybox

from navarch.cluster import containerd, processes
from navarch.cluster.namespaces import Pins

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="real nodes need root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="run: navarch setup"),
]

NAME = "pictures"
NODES = (NAME, f"{NAME}-m02")
SERVER = """
import asyncio, sys
from pathlib import Path
from tests.images.registry import registry

async def main():
    async with registry() as here:
        here.add("team/web", "1", Path(sys.argv[1]))
        here.passwords["team"] = {"ann": "right"}
        print(here.host, flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    home = Path(tempfile.mkdtemp(prefix="navarch-test-"))
    found = Machine(home / "home", home / "kubeconfig")
    build_busybox(home / "shell.tar", SHELL_IMAGE)
    try:
        found.navarch("start", "-p", NAME, "--nodes", "2")
        yield found
    finally:
        found.navarch("delete", "--all", expect=None)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def archive(machine: Machine) -> Path:
    return machine.home.parent / "shell.tar"


def image(machine: Machine, *words: str, expect: int = 0) -> str:
    return machine.navarch("image", words[0], "-p", NAME, *words[1:], expect=expect)


def names(machine: Machine) -> list[str]:
    return image(machine, "ls", "--format", "short").split()


def run(machine: Machine, *words: str, feed: bytes = b"") -> bytes:
    """A command whose input or output is an archive."""
    return subprocess.run(
        [sys.executable, "-m", "navarch.cli.main", "image", words[0], "-p", NAME, *words[1:]],
        env=machine.environment(),
        input=feed,
        stdout=subprocess.PIPE,
        check=True,
        timeout=400,
    ).stdout


def test_loaded_listed_saved_and_removed(machine: Machine, archive: Path, tmp_path: Path) -> None:
    image(machine, "load", str(archive))
    run(machine, "load", "-", "--name", "second:1", feed=archive.read_bytes())
    assert {"docker.io/library/second:1", SHELL_IMAGE} <= {*names(machine)}
    rows = [line.split() for line in image(machine, "ls").splitlines()]
    assert rows[0] == ["IMAGE", "IMAGE", "ID", "SIZE"]
    listed = json.loads(image(machine, "ls", "-o", "json"))
    (shell,) = [each for each in listed if SHELL_IMAGE in each["repoTags"]]
    assert [SHELL_IMAGE, shell["id"][:13]] in [row[:2] for row in rows]
    assert int(shell["size"]) > 100_000
    # Both nodes have it, and it is marked as one that nobody could bring back.
    for node in NODES:
        pins = Pins(machine.paths(NAME).pins, node)
        lines = containerd.ctr(pins, ["images", "ls", f"name=={SHELL_IMAGE}"])
        assert "io.cri-containerd.pinned=pinned" in lines
    saved = tmp_path / "saved.tar"
    image(machine, "save", "second:1", SHELL_IMAGE, str(saved))
    with tarfile.open(saved) as tar:
        parts = tar.getnames()
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        tags = [tag for each in json.load(manifest) for tag in each["RepoTags"]]
    assert "index.json" in parts and SHELL_IMAGE in tags
    assert run(machine, "save", SHELL_IMAGE, "-o", "-")[:100] != b""
    image(machine, "tag", "second:1", "third:1")
    image(machine, "rm", "second:1", "third:1")
    assert "docker.io/library/second:1" not in names(machine)
    image(machine, "load", str(saved))
    assert "docker.io/library/second:1" in names(machine)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("load", "/absent.tar"), "/absent.tar does not exist"),
        (("load", "/etc/hostname"), "is not a tar file"),
        (("save", "absent:1", "/tmp/absent.tar"), "no node has the image absent:1"),
        (("save", SHELL_IMAGE), "no file to save to"),
        (("save", SHELL_IMAGE, "/absent/saved.tar"), "cannot write /absent/saved.tar"),
        (("rm", "absent:1"), "no node has the image absent:1"),
        (("pull", "bad//name"), "couldn't parse image name"),
        (("pull", "--username", "ann", "x:1"), "a user and a password belong together"),
        (("build", "-t", "x", "/absent"), "/absent is not a directory"),
        (("build", "-t", "x", "-f", "/absent", "/etc"), "/absent does not exist"),
    ],
)
def test_mistakes_are_named(
    machine: Machine, archive: Path, words: tuple[str, ...], told: str
) -> None:
    image(machine, "load", str(archive))
    assert told in image(machine, *words, expect=1)


@pytest.mark.skipif(shutil.which("buildah") is None, reason="run: navarch setup --build")
def test_built_from_a_dockerfile(machine: Machine, archive: Path, tmp_path: Path) -> None:
    image(machine, "load", str(archive))
    context = tmp_path / "context"
    (context / "sub").mkdir(parents=True)
    for name in (".dockerignore", "secret", "sub/a.log", "sub/kept"):
        (context / name).write_text("secret\nsub/*.log\n")
    (context / "Own").write_text(
        f"ARG BASE={SHELL_IMAGE}\nFROM $BASE AS first\nARG WHO=nobody\nCOPY . /ctx\n"
        "RUN echo built-by-$WHO; find /ctx\n"
        "FROM first\nRUN exit 7\n"
    )
    words = ("build", "-t", "own:1", "-f", "Own", "--build-arg", "WHO=me", str(context))
    output = image(machine, *words, "--target", "first")
    assert "built-by-me" in output and "/ctx/sub/kept" in output
    assert "/ctx/secret" not in output and "a.log" not in output
    assert "docker.io/library/own:1" in names(machine)
    failed = image(machine, *words, expect=1)
    assert "exit status 7" in failed or "status 7" in failed
    # Without the builder it is said what to do.
    environment = {**machine.environment(), "PATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-m", "navarch.cli.main", "image", *words, "-p", NAME],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1 and "buildah" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_pulled_with_a_password(machine: Machine, archive: Path, tmp_path: Path) -> None:
    """From a registry inside the first node, since nothing else may be reached."""
    process = processes.read_pid_file(machine.paths(NAME).run / f"containerd-{NAME}.pid")
    assert process is not None
    with subprocess.Popen(
        ["nsenter", "-t", str(process.pid), "-n", sys.executable, "-c", SERVER, str(archive)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            wanted = f"{server.stdout.readline().strip()}/team/web:1"
            refused = image(machine, "pull", wanted, expect=1)
            assert "401" in refused and "--password-stdin" in refused
            # The other node has no registry at that address: it fails there, and that is told.
            failed = subprocess.run(
                [sys.executable, "-m", "navarch.cli.main", "image", "pull", "-p", NAME,
                 "--username", "ann", "--password-stdin", wanted],
                env=machine.environment(), input="right\n", capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            assert failed.returncode == 1 and NODES[1] in failed.stderr
            assert wanted in names(machine)
        finally:
            server.send_signal(signal.SIGTERM)
