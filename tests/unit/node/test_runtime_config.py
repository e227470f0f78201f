"""What the runtime is told about a pod's sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.node.cri import runtime_pb2 as pb
from navarch.node.cri.values import ImageRecord
from navarch.node.netfiles import DnsSettings
from navarch.node.podspec import find_container
from navarch.node.resources import NodeResources
from navarch.node.runtime_config import (
    ContainerInputs,
    SandboxPlace,
    container_config,
    sandbox_config,
)


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


def test_the_size_of_a_sandbox() -> None:
    """For runtimes that make a virtual machine of it."""
    limits = {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}
    pod = make_pod({"name": "a", "resources": limits}, {"name": "b", "resources": limits},
                   overhead={"cpu": "100m", "memory": "8Mi"})  # fmt: skip
    linux = sandbox_config(pod, 0, DnsSettings(), SandboxPlace(Path("/logs"), "/pods")).linux
    inside, beside = linux.resources, linux.overhead
    assert (inside.cpu_shares, inside.cpu_quota, inside.memory_limit_in_bytes) == (
        512, 100_000, 128 << 20,
    )  # fmt: skip
    assert (beside.cpu_shares, beside.cpu_quota, beside.memory_limit_in_bytes) == (
        102, 10_000, 8 << 20,
    )  # fmt: skip


def test_a_pod_with_ids_of_its_own_owns_its_mounts() -> None:
    pod = make_pod()
    spec = find_container(pod, "main")
    assert spec is not None
    ids = pb.IDMapping(host_id=65536, length=65536)
    users = pb.UserNamespace(mode=pb.POD, uids=[ids], gids=[ids])
    config = container_config(
        ContainerInputs(
            pod=pod,
            spec=spec,
            attempt=0,
            image=ImageRecord("i"),
            image_reference="i",
            variables={},
            node=NodeResources(4000, 1 << 30),
            hosts_file=Path("/hosts"),
            users=users,
        )
    )
    assert config.linux.security_context.namespace_options.userns_options == users
    assert [list(each.uidMappings) for each in config.mounts] == [[ids]]
