"""Pods that turn against their node: what containers may write to, the node reads and handles."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.cluster.node.conftest import Cluster, _cluster, eventually, pod, shell
from tests.cluster.node.environment import RuntimeEnvironment
from tests.cluster.node.test_node_server import PORT, served
from tests.cluster.node.test_pod_life import FOREVER, is_ready
from tests.cluster.node.test_pod_surroundings import create
from tests.cluster.node.test_volume_files import listed, succeeded

from navarch.api.types.core_v1 import Pod

pytestmark = pytest.mark.cluster

SECRET = "only-the-node-knows"


@pytest.fixture
async def node(runtime_environment: RuntimeEnvironment, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster whose agent does not run yet."""
    async with _cluster(runtime_environment, tmp_path) as cluster:
        yield cluster


def agent_lives(cluster: Cluster) -> bool:
    return cluster.agent is not None and not cluster.agent.done()


def has_ended(each: Pod) -> bool:
    return each.status.phase in ("Succeeded", "Failed")


SPOIL = r"""
if [ -e /work/again ]; then head -n 1 /etc/hosts; wc -l < /etc/hosts; exit; fi
touch /work/again
for f in /etc/hosts /dev/termination-log /etc/resolv.conf /etc/hostname; do
  rm -f $f 2>/dev/null && echo removed $f
  mv $f $f.old 2>/dev/null && echo renamed $f
  ln -sf /etc/shadow $f 2>/dev/null && echo linked $f
  printf '\377\000\033[31m%s' "$(head -c 9000 /dev/zero | tr '\0' x)" > $f
  dd if=/dev/zero of=$f bs=1 count=0 seek=4G 2>/dev/null
done
exit 1
"""


async def test_files_of_the_node_in_a_containers_hands(cluster: Cluster) -> None:
    """They stay files, whatever is written to them, and as large as they may become (sparse, so
    that nobody is evicted), the node reads no more of them than it shows."""
    container = shell("main", SPOIL, volumeMounts=[{"name": "work", "mountPath": "/work"}])
    await cluster.create(pod("spoiler", container, restartPolicy="OnFailure",
                             volumes=[{"name": "work", "emptyDir": {}}]))  # fmt: skip
    done = await cluster.wait("spoiler", succeeded)
    status = done.status.containerStatuses[0]
    assert status.restartCount == 1 and agent_lives(cluster)
    first = status.lastState.terminated
    assert first is not None and first.exitCode == 1
    message = first.message.encode()
    assert message.startswith("\ufffd\0\033[31mxx".encode()) and len(first.message) <= 4096
    head, lines = (await cluster.logs(done, "main", 1)).splitlines()
    assert head == "# Kubernetes-managed hosts file." and int(lines) < 20
    assert await cluster.logs(done, "main") == ""


# Each makes of a log, in its directory, what will mislead somebody who reads it.
REPLACED = {
    "link": "ln -sf {secret} 0.log",
    "pipe": "rm 0.log; mkfifo 0.log",
    "device": "rm 0.log; mknod 0.log c 1 5",
    "directory": "rm 0.log; mkdir 0.log",
    "elsewhere": "cd ..; rm -rf main; ln -s {elsewhere} main",
    "successor": "mv 0.log 0.log.20200101-0; mkfifo 0.log.20200102-0; ln -s {secret} 0.log",
}


async def test_logs_that_a_pod_has_replaced(node: Cluster, tmp_path: Path) -> None:
    """A pod that collects logs may often write to them. Through them it gets no file of the node,
    and nobody is kept waiting: `kubectl logs`, the message of an end, the pod's removal."""
    logs, work = node.options.pod_logs_directory, tmp_path / "work"
    (tmp_path / "elsewhere").mkdir()
    work.mkdir()
    for file in ("secret", "elsewhere/0.log", "precious"):
        (tmp_path / file).write_text(f"2026-01-01T00:00:00.000000000Z stdout F {SECRET}\n")
    logs.mkdir()
    places = {"secret": tmp_path / "secret", "elsewhere": tmp_path / "elsewhere"}
    script = "".join(
        f"(cd {logs}/default_{name}_*/main && {change.format_map(places)}) || echo {name} failed\n"
        for name, change in REPLACED.items()
    )
    mounts = {"logs": logs, "work": work}
    volumes = [{"name": name, "hostPath": {"path": str(path)}} for name, path in mounts.items()]
    at = [{"name": "logs", "mountPath": str(logs)}, {"name": "work", "mountPath": "/work"}]
    collector = shell("main", script + "touch /work/changed", volumeMounts=at)
    waiting = "echo said; while ! [ -e /work/changed ]; do usleep 50000; done; exit 1"
    printer = shell("main", waiting, terminationMessagePolicy="FallbackToLogsOnError",
                    volumeMounts=[{"name": "work", "mountPath": "/work"}])  # fmt: skip
    async with served(node, tmp_path) as kubelet:
        for name in REPLACED:
            await node.create(pod(name, printer, restartPolicy="Never", volumes=volumes))
        for name in REPLACED:
            await node.wait(name, is_ready)
        await node.create(pod("collector", collector, restartPolicy="Never", volumes=volumes))
        done = await node.wait("collector", succeeded)
        assert await node.logs(done, "main") == ""
        for name in REPLACED:
            ended = (await node.wait(name, has_ended)).status.containerStatuses[0].state.terminated
            assert ended is not None and SECRET not in ended.message, name
        async with asyncio.timeout(60):
            for name in REPLACED:
                for query in ("", "?follow=true", "?tailLines=1"):
                    said = await kubelet.get(f"/containerLogs/default/{name}/main{query}", 500)
                    assert said == "failed to open the log file of main", name
        for name in (*REPLACED, "collector"):
            await node.delete(name, 0)

        async def is_clean() -> bool:
            return not any(logs.iterdir())

        await eventually(is_clean)
        assert agent_lives(node)
    assert SECRET in (tmp_path / "secret").read_text()
    assert SECRET in (tmp_path / "elsewhere/0.log").read_text()


CAPABILITIES = "00000000a80425fb"
"""chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
sys_chroot, mknod, audit_write, setfcap."""
EMPTY_FILES = ("/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
               "/proc/sched_debug")  # fmt: skip
EMPTY_DIRECTORIES = ("/proc/acpi", "/proc/scsi", "/sys/firmware", "/proc/asound")
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys")

CONFINED = rf"""exec 2>/dev/null
for key in CapEff CapBnd CapInh CapAmb NoNewPrivs Seccomp; do
  sed -n "s/^$key:[[:space:]]*/$key /p" /proc/self/status
done
for f in {" ".join(EMPTY_FILES)}; do
  [ ! -e $f ] || [ -z "$(head -c 1 $f)" ] || echo readable $f
done
for d in {" ".join(EMPTY_DIRECTORIES)}; do
  [ -z "$(ls -A $d)" ] || echo filled $d
done
for p in {" ".join(READ_ONLY)}; do
  [ ! -e $p ] || awk -v p=$p '$5 == p {{ split($6, o, ","); r = o[1] == "ro" }} END {{ exit !r }}' \
    /proc/self/mountinfo || echo writable $p
done
echo 1 > /proc/sys/kernel/panic && echo set a sysctl
mknod /v/disk b 7 0 && dd if=/v/disk of=/dev/null count=1 && echo read a disk
mknod /v/mem c 1 1 && dd if=/v/mem of=/dev/null count=1 && echo read the memory
mount -t tmpfs none /mnt && echo mounted
unshare -m true && echo has its own mounts
awk '/ - cgroup/ && $6 !~ /^ro/ {{ print "writable " $5 }}' /proc/self/mountinfo
chroot /proc/1/root ls / | grep -qx lost+found && echo out
[ -e /var/run/secrets ] && echo a token
grep -c @ /proc/net/unix | sed 's/^/abstract sockets: /'
ls /dev | grep -Ex 'sd.*|vd.*|loop.*|mem|kmsg|kvm|fuse' | sed 's/^/device /'
[ "$(ps -o pid= | wc -l)" -lt 12 ] || echo other processes
"""
PLAIN = [
    f"CapEff {CAPABILITIES}", f"CapBnd {CAPABILITIES}", "CapInh 0000000000000000",
    "CapAmb 0000000000000000", "NoNewPrivs 0", "Seccomp 0", "abstract sockets: 0",
]  # fmt: skip
"""As upstream's kubelet leaves a container of which nothing was asked."""


async def test_what_a_container_may_that_asks_for_nothing(cluster: Cluster) -> None:
    """And one that is told to have less, and one on the node's network: it sees the node's sockets,
    and none of a runtime's among them (CVE-2020-15257)."""
    mounts = [{"name": "v", "mountPath": "/v"}]
    less = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for name, context in {"plain": {}, "less": less}.items():
        container = shell("main", CONFINED, volumeMounts=mounts, securityContext=context)
        volumes = listed({"v": {"emptyDir": {}}})
        await cluster.create(pod(name, container, volumes=volumes, restartPolicy="Never"))
    sockets = "cat /proc/net/unix | grep -i '@.*\\(containerd\\|shim\\)'; true"
    await cluster.create(pod("near", shell("main", sockets), hostNetwork=True,
                             restartPolicy="Never"))  # fmt: skip
    plain = await cluster.wait("plain", has_ended)
    assert (await cluster.logs(plain, "main")).splitlines() == PLAIN
    none = "0000000000000000"
    hardened = await cluster.wait("less", has_ended)
    assert (await cluster.logs(hardened, "main")).splitlines() == [
        f"CapEff {none}", f"CapBnd {none}", f"CapInh {none}", f"CapAmb {none}", "NoNewPrivs 1",
        "Seccomp 2", "abstract sockets: 0",
    ]  # fmt: skip
    near = await cluster.wait("near", has_ended)
    assert await cluster.logs(near, "main") == ""


PLANTED = "s3cr3t-that-nobody-may-log"


async def test_no_secret_of_a_pod_is_logged_or_told(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """At the highest verbosity, also where something fails that has to do with it."""
    caplog.set_level(logging.DEBUG)
    await create(cluster, "secrets", "Secret", "hidden", stringData={"key": PLANTED})
    reference = {"secretKeyRef": {"name": "hidden", "key": "key"}}
    environment = [
        {"name": "PLANTED", "valueFrom": reference},
        {"name": "WITHIN", "value": "x-$(PLANTED)"},
    ]
    mounts = [{"name": "s", "mountPath": "/s"}]
    script = f'[ "$(cat /s/key)" = "$PLANTED" ] && touch /has-it; {FOREVER}'
    probe = {"exec": {"command": ["test", "-e", "/has-it"]}, "periodSeconds": 1}
    fine = shell("fine", script, env=environment, volumeMounts=mounts, readinessProbe=probe)
    broken = shell("broken", "exit 1", env=environment,
                   args=["$(PLANTED)"], volumeMounts=mounts)  # fmt: skip
    missing = {**shell("missing", "", env=environment), "command": ["/none", "$(PLANTED)"]}
    inside = shell("inside", FOREVER, env=environment, volumeMounts=[
        {"name": "s", "mountPath": "/p", "subPathExpr": "$(WITHIN)"}])  # fmt: skip
    document = pod("keeper", fine, broken, missing, inside,
                   volumes=listed({"s": {"secret": {"secretName": "hidden"}}}))  # fmt: skip
    await cluster.create(document)
    told: list[tuple[str, str]] = []

    async def has_failed() -> bool:
        told[:] = await cluster.events("keeper")
        reasons = [reason for reason, _ in told]
        statuses = (await cluster.get("keeper")).status.containerStatuses
        ready = any(each.name == "fine" and each.ready for each in statuses)
        return ready and "BackOff" in reasons and "Failed" in reasons

    await eventually(has_failed)
    status = (await cluster.get("keeper")).status
    assert PLANTED not in str(told) and PLANTED not in str(status)
    found = [record for record in caplog.records if PLANTED in record.getMessage()]
    assert found == []
    assert not [each for each in caplog.records if each.exc_text and PLANTED in each.exc_text]


NAMES = (
    "default/talker/..%2f..%2fsecret", "..%2f/talker/main", "default/%2e%2e/main",
    "default/talker/main%00", "default/talker/main/..%2f1.log", "default/talker%2fmain",
    "default_talker/main/0.log", "/talker/main", "default/talker/..", "default/talker/0.log",
)  # fmt: skip
"""What is no name of a container that is there, however it is spelled."""

UPGRADE = "v5.channel.k8s.io"
SPEAK = "output=1&error=1"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_clients_that_leave_or_never_read(node: Cluster, tmp_path: Path) -> None:
    """CVE-2022-31030 and CVE-2025-64329: neither output that nobody takes, nor an attach that was
    cut, nor an answer or a message of any size stays with the agent."""
    loud = {
        "exec": {"command": ["head", "-c", "40000000", "/dev/zero"]},
        "periodSeconds": 5,
        "failureThreshold": 1000,
    }
    talk = "while :; do echo $(seq 100); usleep 1000; done"
    async with served(node, tmp_path) as kubelet, aiohttp.ClientSession() as session:
        main = shell("main", talk, livenessProbe=loud)
        await node.create(pod("talker", main, terminationGracePeriodSeconds=0))
        await node.wait("talker", is_ready)

        def stream(path: str) -> Any:
            url = f"wss://127.0.0.1:{PORT}/{path}"
            return session.ws_connect(url, protocols=(UPGRADE,), ssl=kubelet.tls, max_msg_size=0)

        for name in NAMES:
            assert "1 2 3" not in await kubelet.get(f"/containerLogs/{name}", 404), name
            status, _ = await kubelet.post(f"/run/{name}?cmd=id")
            assert status in (404, 500), name  # 500: another uid than the pod's
        async with stream(f"attach/default/talker/main?{SPEAK}") as first:
            await first.receive_bytes()

        async def is_quiet() -> bool:
            return not any("_Translation" in repr(task) for task in asyncio.all_tasks())

        await eventually(is_quiet)
        before, memory = descriptors(), resident()
        for _ in range(50):
            socket = await stream(f"attach/default/talker/main?{SPEAK}")
            await socket.receive_bytes()
            socket._response.connection.transport.abort()
        endless = await stream(
            f"exec/default/talker/main?{SPEAK}&command=timeout&command=5&command=yes"
        )
        await asyncio.sleep(2)
        assert resident() - memory < 64 << 20
        endless._response.connection.transport.abort()
        hungry = await stream("exec/default/talker/main?input=1&output=1&command=cat")
        await hungry.send_bytes(b"\0" + bytes(33 << 20))
        async with asyncio.timeout(60):
            while (await hungry.receive()).type is aiohttp.WSMsgType.BINARY:
                pass
        assert hungry.closed
        await eventually(is_quiet)

        async def is_let_go() -> bool:
            return descriptors() <= before + 3

        await eventually(is_let_go)
        assert agent_lives(node) and is_ready(await node.get("talker"))


def resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")
