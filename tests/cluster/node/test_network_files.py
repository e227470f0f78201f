"""What pods are told of the network: the hosts file and the services' variables."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.cluster.node.conftest import Cluster, pod, shell
from tests.cluster.node.test_pod_surroundings import ended_well

pytestmark = pytest.mark.cluster

HEADER = "# Kubernetes-managed hosts file."


@pytest.mark.conformance(
    "KubeletManagedEtcHosts should test kubelet managed /etc/hosts file [NodeConformance]",
    "Kubelet when scheduling an agnhost Pod with hostAliases should write entries to /etc/hosts "
    "[NodeConformance]",
)
async def test_hosts_files(cluster: Cluster) -> None:
    """The node writes them, but not where a container mounts its own, and in the network of the
    node they begin as the node's."""
    source = {"name": "hosts", "hostPath": {"path": "/etc/hosts", "type": "FileOrCreate"}}
    original = [{"name": "hosts", "mountPath": "/original"}]
    own = [*original, {"name": "hosts", "mountPath": "/etc/hosts"}]
    alias = [{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]
    script = "cat /etc/hosts; echo ---; cat /original"
    one, two = (shell(name, script, volumeMounts=original) for name in ("one", "two"))
    three = shell("three", script, volumeMounts=own)
    common = {"restartPolicy": "Never", "volumes": [source], "hostAliases": alias}
    await asyncio.gather(
        cluster.create(pod("inside", one, two, three, **common)),
        cluster.create(pod("outside", one, two, hostNetwork=True, **common)),
    )
    nodes_own = await asyncio.to_thread(Path("/etc/hosts").read_text)
    for name in ("inside", "outside"):
        done = await cluster.wait(name, ended_well)
        for container in done.spec.containers:
            said = await cluster.logs(done, container.name)
            written, _, original_text = said.partition("---\n")
            assert original_text.strip() == nodes_own.strip()
            is_managed = written.startswith(HEADER) and written != original_text
            assert is_managed == (name == "inside" and container.name != "three")
            assert ("123.45.67.89\tfoo\tbar\n" in written) == (container.name != "three")
            assert (nodes_own.strip() in written) == (not is_managed)


@pytest.mark.conformance("Pods should contain environment variables for services [NodeConformance]")
async def test_variables_of_services(cluster: Cluster) -> None:
    """An agent that has just begun starts no container before it knows the services."""
    await cluster.stop_agent()
    spec = {"ports": [{"port": 8765, "targetPort": 8080}], "selector": {"name": "server"}}
    service = await cluster.client.dynamic("", "v1", "services").create(
        {"apiVersion": "v1", "kind": "Service", "spec": spec,
         "metadata": {"name": "fooservice", "namespace": "default"}}
    )  # fmt: skip
    show = shell("main", "env | grep FOOSERVICE | sort")
    await cluster.create(pod("with", show, restartPolicy="Never"))
    await cluster.create(pod("without", show, restartPolicy="Never", enableServiceLinks=False))
    cluster.start_agent()
    address = service["spec"]["clusterIP"]
    done, alone = [await cluster.wait(name, ended_well) for name in ("with", "without")]
    assert (await cluster.logs(done, "main")).splitlines() == [
        f"FOOSERVICE_PORT=tcp://{address}:8765",
        f"FOOSERVICE_PORT_8765_TCP=tcp://{address}:8765",
        f"FOOSERVICE_PORT_8765_TCP_ADDR={address}",
        "FOOSERVICE_PORT_8765_TCP_PORT=8765",
        "FOOSERVICE_PORT_8765_TCP_PROTO=tcp",
        f"FOOSERVICE_SERVICE_HOST={address}",
        "FOOSERVICE_SERVICE_PORT=8765",
    ]
    assert await cluster.logs(alone, "main") == ""
