"""Security contexts with real containers, and what the node refuses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, pod, shell

from navarch.api.types.core_v1 import Pod
from navarch.node.security_context import apparmor_enabled

pytestmark = pytest.mark.cluster

CONTEXT = "Security Context"


def has_ended(each: Pod) -> bool:
    return each.status.phase in ("Succeeded", "Failed")


def confined(name: str, script: str, **context: Any) -> dict[str, Any]:
    return shell(name, script, securityContext=context)


@pytest.mark.conformance(
    f"{CONTEXT} When creating a container with runAsUser should run the container with uid 65534 "
    "[LinuxOnly] [NodeConformance]",
    f"{CONTEXT} When creating a pod with privileged should run the container as unprivileged when "
    "false [LinuxOnly] [NodeConformance]",
    f"{CONTEXT} When creating a pod with readOnlyRootFilesystem should run the container with "
    "writable rootfs when readOnlyRootFilesystem=false [NodeConformance]",
    f"{CONTEXT} should support container.SecurityContext.RunAsUser And "
    "container.SecurityContext.RunAsGroup [LinuxOnly]",
    f"{CONTEXT} should support pod.Spec.SecurityContext.RunAsUser And "
    "pod.Spec.SecurityContext.RunAsGroup [LinuxOnly]",
    "Kubelet when scheduling a read only busybox container should not write to root filesystem "
    "[LinuxOnly] [NodeConformance]",
    "Sysctls [LinuxOnly] [NodeConformance] should support sysctls [Environment:NotInUserNS]",
)
async def test_who_containers_are_and_what_they_may(cluster: Cluster) -> None:
    profiles = cluster.options.root_directory / "seccomp"
    await asyncio.to_thread(profiles.mkdir, parents=True)
    no_mkdir = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    await asyncio.to_thread((profiles / "no-mkdir.json").write_text, json.dumps(no_mkdir))

    def seccomp(kind: str, **more: str) -> dict[str, Any]:
        return {"seccompProfile": {"type": kind, **more}}

    identity = "echo $(id -u) $(id -g) $(id -G)"
    link = "ip link set lo mtu 1500 2>/dev/null && echo yes || echo no"
    write = "touch /file 2>/dev/null && echo yes || echo no"
    status = "grep {} /proc/self/status | cut -f 2"
    masked = "wc -c < /proc/timer_list"
    make = "mkdir /tmp/x 2>/dev/null && echo yes || echo no"
    containers = {
        "pod": (shell("pod", identity), "1001 2002 2002 3003 4004"),
        "own": (confined("own", identity, runAsUser=65534, runAsGroup=5), "65534 5 5 3003 4004"),
        "plain": (confined("plain", link, runAsUser=0, privileged=False), "no"),
        "able": (confined("able", link, runAsUser=0, capabilities={"add": ["NET_ADMIN"]}), "yes"),
        "none": (confined("none", status.format("CapBnd"), capabilities={"drop": ["ALL"]}),
                 "0000000000000000"),
        "frozen": (confined("frozen", write, runAsUser=0, readOnlyRootFilesystem=True), "no"),
        "open": (confined("open", write, runAsUser=0, readOnlyRootFilesystem=False), "yes"),
        "stuck": (confined("stuck", status.format("NoNewPrivs"), allowPrivilegeEscalation=False),
                  "1"),
        "masked": (confined("masked", masked, runAsUser=0), "0"),
        "filtered": (confined("filtered", status.format("Seccomp:"), **seccomp("RuntimeDefault")),
                     "2"),
        "free": (confined("free", status.format("Seccomp:"), **seccomp("Unconfined")), "0"),
        "local": (confined("local", make, **seccomp("Localhost",
                                                    localhostProfile="no-mkdir.json")), "no"),
        "sysctl": (shell("sysctl", "cat /proc/sys/kernel/shm_rmid_forced"), "1"),
    }  # fmt: skip
    whole = {
        "runAsUser": 1001,
        "runAsGroup": 2002,
        "fsGroup": 3003,
        "supplementalGroups": [4004],
        "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}],
    }
    specs = [each for each, _ in containers.values()]
    await cluster.create(pod("identities", *specs, securityContext=whole, restartPolicy="Never"))
    done = await cluster.wait("identities", has_ended)
    said = {name: await cluster.logs(done, name) for name in containers}
    assert said == {name: expected for name, (_, expected) in containers.items()}


async def test_what_the_node_refuses(cluster: Cluster) -> None:
    """By name: before the pod begins, when its sandbox or when a container is made."""
    await cluster.runtime.info()
    refused: dict[str, tuple[dict[str, Any], str, str]] = {
        "unsafe": (
            {"sysctls": [{"name": "kernel.msgmax", "value": "9"}]}, "SysctlForbidden",
            'Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted'),
    }  # fmt: skip
    if not apparmor_enabled():
        refused["armoured"] = (
            {"appArmorProfile": {"type": "RuntimeDefault"}}, "AppArmor",
            "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host",
        )  # fmt: skip
    if not cluster.runtime.known.supplemental_groups_policy:
        refused["strict"] = (
            {"supplementalGroupsPolicy": "Strict"}, "SupplementalGroupsPolicyNotSupported",
            "Pod was rejected: SupplementalGroupsPolicy=Strict is not supported in this node",
        )  # fmt: skip
    main = shell("main", "sleep 60")
    held = {
        "root": (pod("root", main, securityContext={"runAsNonRoot": True}),
                 "Error: container has runAsNonRoot and image will run as root"),
        "profile": (pod("profile", confined("main", "true", seccompProfile={
                            "type": "Localhost", "localhostProfile": "missing.json"})),
                    "cannot load seccomp profile"),
        "long": (pod("long", main, hostname="h" * 40, subdomain="s" * 40, setHostnameAsFQDN=True),
                 "Failed to create pod sandbox: failed to construct FQDN from pod hostname and "
                 "cluster domain"),
    }  # fmt: skip
    if not cluster.runtime.known.handler("").user_namespaces:
        held["users"] = (
            pod("users", main, hostUsers=False),
            "Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does not "
            "support user namespaces",
        )
    await asyncio.gather(
        *(
            cluster.create(pod(name, main, securityContext=context))
            for name, (context, _, _) in refused.items()
        ),
        *(cluster.create(each) for each, _ in held.values()),
    )
    for name, (_, reason, message) in refused.items():
        failed = await cluster.wait(name, lambda each: each.status.phase == "Failed")
        assert (failed.status.reason, failed.status.message) == (reason, message)

    async def is_told(name: str, text: str) -> bool:
        return any(text in message for _, message in await cluster.events(name))

    async with asyncio.timeout(60):
        for name, (_, text) in held.items():
            while not await is_told(name, text):  # noqa: ASYNC110
                await asyncio.sleep(0.1)


@pytest.mark.conformance(
    f"{CONTEXT} when creating containers with AllowPrivilegeEscalation should not allow privilege "
    "escalation when false [LinuxOnly] [NodeConformance]"
)
async def test_who_may_become_root(cluster: Cluster) -> None:
    """busybox's `crontab` looks first whether it runs as root: if it may, its file makes it so."""
    mounts = [{"name": "work", "mountPath": "/work"}]
    make = shell("make", "cp /bin/busybox /work; chmod 4755 /work/busybox", volumeMounts=mounts)
    allowed: dict[str, dict[str, Any]] = {
        "unset": {},
        "allowed": {"allowPrivilegeEscalation": True},
        "forbidden": {"allowPrivilegeEscalation": False},
    }
    script = "id -u; /work/busybox crontab -l 2>&1 | grep -c 'must be suid'; :"
    containers = [
        shell(name, script, volumeMounts=mounts, securityContext={"runAsUser": 1000, **context})
        for name, context in allowed.items()
    ]
    await cluster.create(
        pod("climbing", *containers, initContainers=[make], restartPolicy="Never",
            volumes=[{"name": "work", "emptyDir": {}}])
    )  # fmt: skip
    done = await cluster.wait("climbing", has_ended)
    said = {name: (await cluster.logs(done, name)).split() for name in allowed}
    assert said == {
        "unset": ["1000", "0"],
        "allowed": ["1000", "0"],
        "forbidden": ["1000", "1"],
    }
