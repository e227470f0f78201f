"""What a container finds around itself: volumes, environment, identity, network files, limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, shell, text_of
from tests.cluster.node.test_pod_life import FOREVER, is_ready, reason_of

from navarch.api.types.core_v1 import Pod

pytestmark = pytest.mark.cluster


def is_unified() -> bool:
    """Whether this machine has cgroup v2."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


async def create(cluster: Cluster, plural: str, kind: str, name: str, **body: Any) -> None:
    metadata = {"name": name, "namespace": "default"}
    await cluster.client.dynamic("", "v1", plural).create(
        {"apiVersion": "v1", "kind": kind, "metadata": metadata, **body}
    )


async def output(cluster: Cluster, document: dict[str, Any], container: str = "main") -> str:
    """What a pod that runs to its end prints."""
    document["spec"]["restartPolicy"] = "Never"
    created = await cluster.create(document)
    ended = await cluster.wait(created.metadata.name, ended_well)
    return await cluster.logs(ended, container)


def ended_well(pod: Pod) -> bool:
    assert pod.status.phase != "Failed", pod.status
    return pod.status.phase == "Succeeded"


async def test_a_pod_waits_for_its_volume(cluster: Cluster) -> None:
    container = shell("main", "cat /config/key",
                      volumeMounts=[{"name": "config", "mountPath": "/config"}])  # fmt: skip
    await cluster.create(
        pod(
            "patient",
            container,
            restartPolicy="Never",
            volumes=[{"name": "config", "configMap": {"name": "later"}}],
        )
    )
    await cluster.wait("patient", lambda each: each.status.podIP != "")
    text = 'MountVolume.SetUp failed for volume "config" : configmap "later" not found'

    async def is_told() -> bool:
        return ("FailedMount", text) in await cluster.events("patient")

    await eventually(is_told)
    waiting = await cluster.get("patient")
    assert reason_of(waiting) == "ContainerCreating"
    await create(cluster, "configmaps", "ConfigMap", "later", data={"key": "came"})
    ended = await cluster.wait("patient", ended_well)
    assert await cluster.logs(ended, "main") == "came"


async def test_a_missing_source_is_waited_for(cluster: Cluster) -> None:
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "later", "key": "k"}}}]
    await cluster.create(pod("keyless", shell("main", "echo $KEY", env=env),
                             restartPolicy="Never"))  # fmt: skip
    waiting = await cluster.wait(
        "keyless", lambda each: reason_of(each) == "CreateContainerConfigError"
    )
    state = waiting.status.containerStatuses[0].state.waiting
    assert state is not None and state.message == 'secret "later" not found'
    await create(cluster, "secrets", "Secret", "later", data={"k": "aGk="})
    ended = await cluster.wait("keyless", ended_well)
    assert await cluster.logs(ended, "main") == "hi"


async def test_network_files(cluster: Cluster) -> None:
    text = await output(
        cluster,
        pod("net", shell("main", "cat /etc/hosts /etc/resolv.conf; hostname"),
            hostname="box", subdomain="sub",
            dnsConfig={"options": [{"name": "ndots", "value": "2"}]},
            hostAliases=[{"ip": "10.1.1.1", "hostnames": ["foo", "bar"]}]),
    )  # fmt: skip
    shown = await cluster.get("net")
    assert text.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert f"{shown.status.podIP}\tbox.sub.default.svc.cluster.local\tbox\n" in text
    assert "\n# Entries added by HostAliases.\n10.1.1.1\tfoo\tbar\n" in text
    assert "search default.svc.cluster.local svc.cluster.local cluster.local example.test\n" in text
    assert "nameserver 10.96.0.10\n" in text and "options ndots:2\n" in text
    assert text.endswith("\nbox")


async def test_identity_and_rights(cluster: Cluster) -> None:
    script = (
        "id; touch /x 2>&1; grep -E 'NoNewPrivs|CapEff|Seccomp:' /proc/self/status;"
        " cat /proc/1/oom_score_adj"
    )
    context = {
        "runAsUser": 1001,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    text = await output(
        cluster,
        pod("modest", shell("main", script, securityContext=context),
            securityContext={"runAsGroup": 2002, "supplementalGroups": [3003], "fsGroup": 4004}),
    )  # fmt: skip
    assert "uid=1001 gid=2002" in text and "groups=2002,3003,4004" in text
    assert "Read-only file system" in text
    assert "CapEff:\t0000000000000000" in text and "NoNewPrivs:\t1" in text
    assert "Seccomp:\t2" in text
    assert text.endswith("\n1000")


async def test_root_is_refused_where_it_must_not_be(cluster: Cluster) -> None:
    await cluster.create(
        pod("rooted", shell("main", "true", securityContext={"runAsNonRoot": True}))
    )
    waiting = await cluster.wait(
        "rooted", lambda each: reason_of(each) == "CreateContainerConfigError"
    )
    state = waiting.status.containerStatuses[0].state.waiting
    assert state is not None
    assert state.message == (
        "container has runAsNonRoot and image will run as root (pod: "
        f'"rooted_default({waiting.metadata.uid})", container: main)'
    )


async def test_limits_reach_the_kernel(cluster: Cluster) -> None:
    resources = {"requests": {"cpu": "250m", "memory": "32Mi"},
                 "limits": {"cpu": "500m", "memory": "64Mi"}}  # fmt: skip
    await cluster.create(pod("limited", shell("main", FOREVER, resources=resources)))
    ready = await cluster.wait("limited", is_ready)
    state = (await cluster.runtime.pods())[0]
    root = f"{cluster.options.cgroup_root}/kubepods/burstable/pod{ready.metadata.uid}"
    own = f"{root}/{state.containers[0].id}"
    base = "/sys/fs/cgroup"
    if is_unified():
        assert text_of(f"{base}{own}/cpu.max") == "50000 100000\n"
        assert text_of(f"{base}{own}/memory.max") == f"{64 << 20}\n"
        assert text_of(f"{base}{root}/memory.max") == f"{64 << 20}\n"
    else:
        assert text_of(f"{base}/cpu{own}/cpu.cfs_quota_us") == "50000\n"
        assert text_of(f"{base}/cpu{own}/cpu.shares") == "256\n"
        assert text_of(f"{base}/memory{own}/memory.limit_in_bytes") == f"{64 << 20}\n"
        assert text_of(f"{base}/memory{root}/memory.limit_in_bytes") == f"{64 << 20}\n"
        assert text_of(f"{base}/cpu{root}/cpu.shares") == "256\n"


async def test_a_shared_process_namespace(cluster: Cluster) -> None:
    script = "sleep 1; ps -o args"
    text = await output(
        cluster,
        pod("together", shell("main", script), shell("other", "sleep 3"),
            shareProcessNamespace=True),
    )  # fmt: skip
    assert "/pause" in text and "sleep 3" in text


async def test_a_subpath_cannot_leave_its_volume(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "escape").symlink_to("/etc")
    container = shell("main", "ls /inside", volumeMounts=[
        {"name": "host", "mountPath": "/inside", "subPath": "escape"}])  # fmt: skip
    await cluster.create(
        pod("prisoner", container, volumes=[{"name": "host", "hostPath": {"path": str(tmp_path)}}])
    )
    waiting = await cluster.wait(
        "prisoner", lambda each: reason_of(each) == "CreateContainerConfigError"
    )
    state = waiting.status.containerStatuses[0].state.waiting
    assert state is not None
    assert state.message == ('failed to prepare subPath for volumeMount "host" of container "main"')


async def test_a_host_port(cluster: Cluster) -> None:
    script = "mkdir /www; hostname > /www/index.html; httpd -p 8080 -h /www; " + FOREVER
    container = shell("main", script, ports=[{"containerPort": 8080, "hostPort": 18080}])
    await cluster.create(pod("ported", container))
    ready = await cluster.wait("ported", is_ready)
    await cluster.create(
        pod(
            "asking",
            shell("main", "until wget -qO- http://10.251.7.1:18080/; do sleep 0.1; done"),
            restartPolicy="Never",
        )
    )
    ended = await cluster.wait("asking", ended_well)
    assert await cluster.logs(ended, "main") == "ported"
    assert ready.status.hostIP == "127.0.0.1"
