"""Runs the node agent (the kubelet): puts its parts together and keeps them running."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from navarch.api.types.core_v1 import Node, Pod, Service
from navarch.client.client import Client
from navarch.client.config import ClientConfig
from navarch.client.informer import Informer, InformerFactory

from .agent import NodeAgent
from .assembly import Ground, Parts, assemble
from .certificates import Rotation, Wanted, node_client, node_serving
from .cgroups import Cgroups
from .cri.client import CriRuntime
from .cri.values import RuntimeFailure
from .devices.serving import DeviceServer
from .features import lacks
from .following import Follower
from .machine import default_address, read_facts
from .node_object import check_reservations, node_addresses
from .oom import watch as watch_memory
from .plugins import CSI_PLUGIN, DEVICE_PLUGIN, DRA_PLUGIN, PluginHandler, PluginManager
from .registration import Registration
from .requirements import check_requirements, protect_from_oom
from .settings import REPLACED, NodeOptions
from .volumes.local_path import LocalPathVolumes

__all__ = ["NodeOptions", "run"]

log = logging.getLogger(__name__)

RUNTIME_WAIT_SECONDS = 0.2
API_REQUESTS = 16
"""How many requests are under way at once. When a crowd of pods comes, a request waits a moment for
a connection rather than that each opens its own: a handshake costs both sides more than a request
or two."""


THREADS = 64
"""For calls that block: asyncio's own few (six on a machine with two processors) would all be taken
by as many dead file systems or large directories, and everything else would wait behind them. A
thread is only made when no other is idle."""


def use_threads() -> None:
    executor = ThreadPoolExecutor(THREADS, thread_name_prefix="node")
    asyncio.get_running_loop().set_default_executor(executor)


async def run(options: NodeOptions) -> None:
    """Runs the agent until cancelled. Containers live on."""
    config = ClientConfig.from_kubeconfig(str(options.kubeconfig))
    config = replace(config, max_in_flight=API_REQUESTS)
    if not protect_from_oom(options.oom_score_adj):
        log.info("the kernel does not allow oom_score_adj %s", options.oom_score_adj)
    async with (
        Client(config) as client,
        CriRuntime(options.runtime_endpoint, timeout=options.runtime_request_timeout) as runtime,
    ):
        await run_with(options, client, runtime)


async def run_with(options: NodeOptions, client: Client, runtime: CriRuntime) -> None:
    """Runs the agent with a client and a runtime that are there already.

    Where the end of this process is the end of the node (`shutdown_on_terminate`), pods end first.
    """
    started: list[NodeAgent] = []
    agent = asyncio.create_task(_run_agent(options, client, runtime, started), name="node-agent")
    try:
        await asyncio.shield(agent)
    except asyncio.CancelledError:
        ends = options.shutdown_on_terminate and REPLACED not in os.environ
        if ends and started and not agent.done():
            await started[0].shutdown.at_the_end()
        agent.cancel()
        await asyncio.gather(agent, return_exceptions=True)
        raise


async def _run_agent(
    options: NodeOptions, client: Client, runtime: CriRuntime, started: list[NodeAgent]
) -> None:
    use_threads()
    ground = await _ground(options, client, runtime)
    options = ground.options
    informers = InformerFactory(client)
    pods = informers.informer(Pod, field_selector=f"spec.nodeName={options.node_name}")
    services = informers.informer(Service)
    parts = assemble(ground, services)
    agent = parts.agent
    registration = _registration(ground, parts)
    local_paths = LocalPathVolumes(
        client, informers, options.root_directory, options.node_name, client.clock
    )
    device_server = DeviceServer(
        parts.devices, parts.claims, agent.active_pods, options.root_directory / "pod-resources"
    )
    handlers: dict[str, PluginHandler] = {
        CSI_PLUGIN: parts.csi.drivers,
        DEVICE_PLUGIN: device_server,
        DRA_PLUGIN: parts.claims.drivers,
    }
    plugins = PluginManager(options.root_directory / "plugins_registry", handlers, client.clock)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(registration.run(), name="registration")
            if renewed := _own_certificates(options, ground.addresses):
                tasks.create_task(Rotation(client, renewed).run(), name="certificates")
            await parts.records.load(await runtime.images())
            await agent.prepare()
            started.append(agent)
            tasks.create_task(device_server.run(), name="device-plugins")
            tasks.create_task(watch_memory(agent.tell_oom), name="kernel-log")
            tasks.create_task(plugins.run(), name="plugins")
            tasks.create_task(parts.csi.run(), name="csi")
            if options.enable_server and options.tls_certificate is not None:
                from .serving import start_server

                await start_server(ground, parts, tasks)
            await informers.start()
            # Pods get their Services as variables, so those come first.
            await services.wait_synced()
            follower = Follower(client, parts.objects, agent.refresh_volumes)
            await pods.wait_synced()
            _follow(pods, agent, follower)
            # What pods that are gone have used is given back once it is known which are there.
            tasks.create_task(parts.claims.run(), name="claims for devices")
            tasks.create_task(follower.run(), name="referenced-objects")
            if options.manifest_directory is not None or options.static_pod_url:
                from .static_pods import StaticPods

                static_pods = StaticPods(options, agent, parts.api, pods, client.clock)
                # Before the first clean-up, which ends what nobody seems to want.
                await static_pods.load()
                tasks.create_task(static_pods.run(), name="static-pods")
            tasks.create_task(agent.run(), name="agent")
            tasks.create_task(local_paths.run(), name="local-path volumes")
            tasks.create_task(informers.join(), name="informers")
    finally:
        await parts.probes.close()
        await parts.recorder.close()
        await informers.stop()


async def _ground(options: NodeOptions, client: Client, runtime: CriRuntime) -> Ground:
    """The directories, the runtime once it answers, and what the machine is."""
    options.root_directory.mkdir(parents=True, exist_ok=True)
    options.root_directory.chmod(0o750)
    for part in ("pods", "plugins"):  # drivers expect them
        (options.root_directory / part).mkdir(exist_ok=True, mode=0o750)
    check_requirements(options, unified=Cgroups(options.cgroup_root).unified)
    await _wait_for_runtime(runtime, client)
    for lack in lacks():
        log.info("this machine has %s", lack)
    # The runtime knows who keeps its cgroups; one that is too old to say is as configured.
    driver = await runtime.cgroup_driver()
    options = replace(options, cgroup_driver=driver or options.cgroup_driver)
    machine = read_facts(options.root_directory)
    addresses = node_addresses(options.node_ip, default_address)
    check_reservations(options, machine)
    return Ground(options, client, runtime, machine, addresses)


def _registration(ground: Ground, parts: Parts) -> Registration:
    """The Node object's keeper, and who tells it what."""
    options, runtime, agent = ground.options, ground.runtime, parts.agent
    found = Registration(ground.client, options, runtime, runtime, ground.machine, ground.addresses)

    def on_node(node: Node) -> None:
        agent.node = node

    found.on_node = on_node
    found.report = agent.report
    found.is_settled = lambda: not parts.csi.drivers.problems
    agent.on_report(found.refresh)
    parts.csi.drivers.on_change = found.refresh
    return found


def _own_certificates(options: NodeOptions, addresses: Sequence[str]) -> list[Wanted]:
    """Those that the agent renews itself. What is written into a kubeconfig cannot be replaced."""
    found: list[Wanted] = []
    if options.rotate_certificates:
        config = ClientConfig.from_kubeconfig(str(options.kubeconfig))
        certificate, key = config.certificate.path, config.key.path
        if certificate and key:
            found.append(node_client(options.node_name, Path(certificate), Path(key)))
        else:
            log.warning("%s names no file to renew: rotateCertificates", options.kubeconfig)
    if options.server_tls_bootstrap and options.tls_certificate and options.tls_key:
        files = (options.tls_certificate, options.tls_key)
        found.append(node_serving(options.node_name, addresses, *files))
    return found


def _follow(pods: Informer[Pod], agent: NodeAgent, follower: Follower) -> None:
    agent.begin_all(pods.cache.list())

    def present(pod: Pod) -> None:
        follower.follow(pod)
        agent.pod_present(pod)

    def gone(pod: Pod) -> None:
        agent.pod_gone(pod)
        follower.forget(pod)

    pods.add_handler(on_add=present, on_update=lambda old, new: present(new), on_delete=gone)


async def _wait_for_runtime(runtime: CriRuntime, client: Client) -> None:
    """containerd may be starting at this very moment."""
    told = False
    while True:
        try:
            await runtime.info()
            return
        except RuntimeFailure as failure:
            if not told:
                log.warning("waiting for the container runtime: %s", failure.message)
                told = True
            await client.clock.sleep(RUNTIME_WAIT_SECONDS)
