"""What the runtime is told about a pod's sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.node.netfiles import DnsSettings
from navarch.node.runtime_config import SandboxPlace, sandbox_config


@pytest.mark.parametrize(
    ("spec", "hostname"),
    [
        pytest.param({}, "p", id="the pod's name"),
        pytest.param({"hostname": "h"}, "h", id="its own"),
        pytest.param({"hostNetwork": True}, "", id="the node's"),
        pytest.param({"hostNetwork": True, "hostname": "h"}, "", id="the node's all the same"),
    ],
)
def test_the_hostname_of_a_sandbox(spec: dict[str, Any], hostname: str) -> None:
    """A runtime refuses a hostname for a sandbox that shares the node's UTS namespace."""
    place = SandboxPlace(Path("/logs"), "/pods")
    pod = make_pod(**spec)
    pod.metadata.name = "p"
    assert sandbox_config(pod, 0, DnsSettings(), place).hostname == hostname
