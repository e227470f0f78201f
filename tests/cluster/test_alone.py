"""Rows 24 and 25 of `docs/reliability.md` with small numbers, on a real node: an application's
connections while the node's proxy is killed, while the node has no control plane, and while an
endpoint goes."""

from __future__ import annotations

import os
import shutil

import pytest
from bench.reliability.away import alone

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="real nodes need root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="run: navarch setup"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="run: navarch setup"),
]


async def test_traffic_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NAVARCH_HOME", "KUBECONFIG"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # the bench sets them for itself
    proxy, plane, endpoint = await alone(kills=2, seconds=10, seed=7, repeat="")
    assert proxy.is_kept, str(proxy)
    assert proxy.counts["kills"] == 2
    assert proxy.counts["slowest change in force"] < 15, "a Service made while it was dead"
    assert proxy.counts["echoes"] > 100
    assert proxy.counts["new connections"] > 100
    assert plane.is_kept, str(plane)
    assert plane.counts["requests"] > 100
    assert plane.counts["echoes of held connections"] > 100
    assert endpoint.is_kept, str(endpoint)
