"""Kernel parameters that pods may set."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.node.sysctls import forbidden, normalized


@pytest.mark.parametrize(
    ("name", "spec", "allowed", "problem"),
    [
        pytest.param("net.ipv4.tcp_syncookies", {}, (), "", id="safe"),
        pytest.param("net/ipv4/tcp_syncookies", {}, (), "", id="safe, with slashes"),
        pytest.param("kernel.msgmax", {}, (), '"kernel.msgmax" not allowlisted', id="unsafe"),
        pytest.param("kernel.msgmax", {}, ("kernel.msg*",), "", id="unsafe, allowed by a prefix"),
        pytest.param("net.core.somaxconn", {}, ("net/core/somaxconn",), "", id="allowed by name"),
        pytest.param("net.ipv4.tcp_syncookies", {"hostNetwork": True}, (),
                     '"net.ipv4.tcp_syncookies" not allowed with host Net enabled',
                     id="the node's network"),
        pytest.param("kernel.shm_rmid_forced", {"hostIPC": True}, (),
                     '"kernel.shm_rmid_forced" not allowed with host IPC enabled',
                     id="the node's memory"),
        pytest.param("kernel.shm_rmid_forced", {"hostNetwork": True}, (), "", id="another one"),
    ],
)  # fmt: skip
def test_who_may_set_what(
    name: str, spec: dict[str, Any], allowed: tuple[str, ...], problem: str
) -> None:
    context = {"sysctls": [{"name": name, "value": "1"}]}
    assert forbidden(make_pod(securityContext=context, **spec), allowed) == problem


def test_a_dot_within_a_part() -> None:
    assert normalized("net/ipv4/conf/eth0.1/forwarding") == "net.ipv4.conf.eth0/1.forwarding"
    assert normalized("net.ipv4.conf.eth0/1.forwarding") == "net.ipv4.conf.eth0/1.forwarding"
