"""How fast a cluster is, and how much memory it takes: `python -m bench.cluster`.

Starts a profile of its own (`bench`) with one real node, and deletes it at the end.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop
from tests.images.busybox import build_busybox

from bench.report import Row, show
from navarch.api.types.apps_v1 import Deployment, DeploymentSpec
from navarch.api.types.core_v1 import (
    Container,
    Pod,
    PodSpec,
    PodTemplateSpec,
    Service,
    ServicePort,
    ServiceSpec,
)
from navarch.api.types.meta_v1 import LabelSelector, ObjectMeta
from navarch.client.client import Client
from navarch.client.config import ClientConfig
from navarch.client.objects import KubernetesObject
from navarch.client.resource import ResourceClient

PROFILE = "bench"
IMAGE = "navarch.local/bench:1"
REPEATS = 7
NAVARCH = (sys.executable, "-m", "navarch.cli.main", "-p", PROFILE)


def navarch(*words: str) -> float:
    """Run a command of the bench's profile; how long it took."""
    started = time.perf_counter()
    subprocess.run([*NAVARCH, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def spec(command: Sequence[str]) -> PodSpec:
    container = Container(name="main", image=IMAGE, imagePullPolicy="Never", command=list(command))
    return PodSpec(containers=[container], terminationGracePeriodSeconds=0)


SLEEP = ("sleep", "1000000")


def is_ready(pod: Pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)


def is_rolled_out(deployment: Deployment) -> bool:
    return deployment.status.availableReplicas == deployment.spec.replicas


async def until(
    resource: ResourceClient[Any], name: str, version: str, condition: Any
) -> KubernetesObject:
    """Watch one object until the condition holds."""
    async with asyncio.timeout(120):
        async for event in resource.watch(
            "default", resource_version=version, field_selector=f"metadata.name={name}"
        ):
            if condition(event.object):
                found: KubernetesObject = event.object
                return found
    raise RuntimeError("the watch ended")


async def pod_to_ready(client: Client, name: str) -> float:
    pods = client.resource(Pod)
    started = time.perf_counter()
    pod = Pod(metadata=ObjectMeta(name=name, namespace="default"), spec=spec(SLEEP))
    created = await pods.create(pod)
    await until(pods, name, created.metadata.resourceVersion, is_ready)
    return time.perf_counter() - started


async def rollout(
    client: Client, name: str, replicas: int, template: PodSpec | None = None
) -> float:
    deployments = client.resource(Deployment)
    labels = {"app": name}
    started = time.perf_counter()
    created = await deployments.create(
        Deployment(
            metadata=ObjectMeta(name=name, namespace="default"),
            spec=DeploymentSpec(
                replicas=replicas,
                selector=LabelSelector(matchLabels=labels),
                template=PodTemplateSpec(
                    metadata=ObjectMeta(labels=labels), spec=template or spec(SLEEP)
                ),
            ),
        )
    )
    await until(deployments, name, created.metadata.resourceVersion, is_rolled_out)
    return time.perf_counter() - started


async def expose_to_connect(client: Client, name: str, selector: dict[str, str]) -> float:
    """From the creation of a Service of type LoadBalancer to the first connection of the host."""
    services = client.resource(Service)
    started = time.perf_counter()
    created = await services.create(
        Service(
            metadata=ObjectMeta(name=name, namespace="default"),
            spec=ServiceSpec(
                type="LoadBalancer",
                selector=selector,
                ports=[ServicePort(port=80, targetPort=8080)],
            ),
        )
    )
    version = created.metadata.resourceVersion
    found = await until(
        services, name, version, lambda each: bool(each.status.loadBalancer.ingress)
    )
    assert isinstance(found, Service)
    address = found.status.loadBalancer.ingress[0].ip
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection(address, 80)
            except OSError:
                await asyncio.sleep(0.002)
                continue
            writer.close()
            return time.perf_counter() - started


def memory(home: Path) -> tuple[float, float]:
    """Resident megabytes of Navarch's own processes, and of the container runtime's."""
    own = runtime = 0.0
    marker = str(home)
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            status = (entry / "status").read_text()
        except (OSError, ValueError):
            continue
        if marker not in command or "bench" in command.split(" ")[0]:
            continue
        size = next((int(x.split()[1]) for x in status.splitlines() if "VmRSS" in x), 0) / 1024
        if "navarch.cluster" in command:
            own += size
        elif "containerd" in command:
            runtime += size
    return own, runtime


async def measure(kubeconfig: Path, home: Path) -> list[Row]:
    rows = []
    begin = time.perf_counter()
    navarch("start")
    async with Client(ClientConfig.from_kubeconfig(kubeconfig)) as client:
        await pod_to_ready(client, "first")
        rows.append(
            Row(
                "start to first pod Ready, images present", time.perf_counter() - begin, "s", 3, 6.3
            )
        )
        times = sorted([await pod_to_ready(client, f"one-{n}") for n in range(REPEATS)])
        rows.append(Row("pod created to Ready (median)", times[len(times) // 2], "s", 0.4, 0.75))
        await rollout(client, "web", 1, spec(("httpd", "-f", "-p", "8080")))
        times = sorted(
            [await expose_to_connect(client, f"web-{n}", {"app": "web"}) for n in range(REPEATS)]
        )
        row = "LoadBalancer Service created to connected (median)"
        rows.append(Row(row, times[len(times) // 2], "s", 0.5))
        for n in range(REPEATS):
            await client.resource(Service).delete(f"web-{n}", "default")
        await client.resource(Deployment).delete("web", "default", propagation="Foreground")
        pods = client.resource(Pod)
        for name in ("first", *(f"one-{n}" for n in range(REPEATS))):
            await pods.delete(name, "default", grace_period=0)
        await asyncio.sleep(20)
        own, runtime = memory(home)
        rows.append(Row("memory of Navarch's processes, idle", own, "MB", 250, 643))
        rows.append(Row("  and of containerd", runtime, "MB"))
        rows.append(
            Row("50-pod Deployment rolled out", await rollout(client, "fifty", 50), "s", 7, 13.3)
        )
    return rows


@contextmanager
def loaded_profile() -> Iterator[Path]:
    """A profile of one's own, stopped, whose node has the image; the directory that it is in."""
    home = Path(tempfile.mkdtemp(prefix="nb-", dir="/tmp"))
    os.environ.update(NAVARCH_HOME=str(home / "home"), KUBECONFIG=str(home / "kubeconfig"))
    try:
        archive = build_busybox(home / "bench.tar", IMAGE)
        navarch("start")
        navarch("image", "load", str(archive))
        navarch("stop")
        yield home
    finally:
        subprocess.run([*NAVARCH, "delete"], check=False)
        shutil.rmtree(home, ignore_errors=True)


def main() -> None:
    with loaded_profile() as home:
        show(uvloop.run(measure(home / "kubeconfig", home)))


if __name__ == "__main__":
    main()
