"""The proxy's rules in a real kernel: packets inside network namespaces that the tests make."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.proxy_probe import ADDRESSES, SCENARIOS

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]


@pytest.fixture
def netns() -> Iterator[str]:
    """A network namespace with a node's and its pods' addresses, gone afterwards."""
    name = f"navtest-{uuid.uuid4().hex[:8]}"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
        for address in ADDRESSES:
            ip("-n", name, "address", "add", address, "dev", "veth0", "nodad")
        ip("-n", name, "link", "set", "veth0", "up")
        ip("-n", name, "link", "set", "veth1", "up")
        ip("-n", name, "route", "add", "default", "dev", "veth0")
        ip("-n", name, "-6", "route", "add", "default", "dev", "veth0")
        yield name
    finally:
        ip("netns", "delete", name)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_in_a_kernel(netns: str, scenario: str) -> None:
    command = ["ip", "netns", "exec", netns, sys.executable, "-m", "tests.cluster.proxy_probe"]
    done = subprocess.run(
        [*command, scenario],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
