"""A node's certificates that live for seconds: both are renewed again and again in real time, and
nobody who looks into the node notices. What lives so briefly is signed by
`navarch start --cluster-signing-duration`, and asked for by a kubelet that is configured to."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.cluster.machine import Machine, a_cluster, pod
from tests.cluster.three_nodes import eventually, marks

pytestmark = marks

NAME, LIFE = "brief", 24
"""Signed as if they had begun five minutes ago, these are due for renewal at once: a machine may be
so slow that this takes 20 seconds, and nobody is ever without a valid one."""
CONFIGURATION = """
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
rotateCertificates: true
serverTLSBootstrap: true
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    file = tmp_path_factory.mktemp("settings") / "kubelet.yaml"
    file.write_text(CONFIGURATION)
    brief = ("--kubelet-config", str(file), "--cluster-signing-duration", f"{LIFE}s")
    with a_cluster(NAME, *brief) as found:
        talk = "i=0; while true; do i=$((i+1)); echo $i; sleep 1; done"
        found.kubectl("apply", "-f", "-", feed=pod("talker", talk))
        found.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=120s")
        yield found


def certificates(machine: Machine) -> dict[str, Path]:
    found = {path.stem: path for path in machine.paths(NAME).node(NAME).rglob("pki/kubelet*.crt")}
    assert len(found) == 2, found
    return found


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def shorten(path: Path, pki: Path) -> None:
    """Put the same certificate there, of which little is left."""
    old, now = read(path), datetime.now(UTC)
    signer = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=99))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    made = builder.sign(signer, hashes.SHA256())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))


def ready_since(machine: Machine) -> Any:
    conditions = machine.get("node", NAME)["status"]["conditions"]
    ready = next(each for each in conditions if each["type"] == "Ready")
    return ready["status"], ready["lastTransitionTime"]


def test_nobody_notices_that_certificates_change(machine: Machine, tmp_path: Path) -> None:
    """For longer than any of them lives: logs go on, new ones begin, commands run, the node stays
    ready, and its process is the same."""
    kubectl, paths = machine.kubectl, certificates(machine)
    for path in paths.values():
        shorten(path, machine.paths(NAME).pki)
    machine.kill(NAME, [f"node-{NAME}"])
    eventually(lambda: all(read(path).not_valid_after_utc < datetime.now(UTC)
                           + timedelta(seconds=LIFE + 1) for path in paths.values()),
               "certificates that live briefly")  # fmt: skip
    hello = ("exec", "talker", "--", "echo", "hello")
    eventually(lambda: kubectl(*hello, expect=None) == "hello\n", "exec")
    first = max(read(path).not_valid_after_utc for path in paths.values())
    seen: dict[str, set[int]] = {name: set() for name in paths}
    process, ready = machine.pid(NAME, f"node-{NAME}"), ready_since(machine)
    words = ["kubectl", "logs", "-f", "--tail=1", "talker"]
    environment = machine.environment()
    followed = tmp_path / "followed"
    with (
        followed.open("w") as file,
        subprocess.Popen(words, env=environment, stdout=file) as follower,
    ):
        try:
            # By then the first ones have ended, and all connections made with them are old.
            while datetime.now(UTC) < first or min(map(len, seen.values())) <= 2:
                assert kubectl(*hello) == "hello\n"
                newest = kubectl("logs", "--tail=1", "talker")
                for name, path in paths.items():
                    seen[name].add(read(path).serial_number)
                time.sleep(0.3)
            eventually(lambda: newest in followed.read_text().splitlines(True), "the last line")
        finally:
            follower.kill()
    numbers = [int(line) for line in followed.read_text().split()]
    assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]
    assert (machine.pid(NAME, f"node-{NAME}"), ready_since(machine)) == (process, ready)
    assert not machine.get("pod", "talker")["status"]["containerStatuses"][0]["restartCount"]
