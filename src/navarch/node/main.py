"""Runs the node agent (the kubelet): puts its parts together and keeps them running."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Node, Pod, Service
from navarch.client.client import Client
from navarch.client.config import ClientConfig
from navarch.client.events import EventRecorder
from navarch.client.informer import Informer, InformerFactory

from .agent import NodeAgent
from .backend import NodeBackend
from .certificates import Rotation, Wanted, node_client, node_serving
from .cgroups import Cgroups
from .cri.client import CriRuntime
from .cri.snapshots import ContainerdSnapshots
from .cri.values import RuntimeFailure
from .devices.manager import DeviceManager
from .devices.serving import DeviceServer
from .dra.drivers import DraDrivers
from .dra.manager import DraManager
from .events import ApiEvents
from .features import lacks
from .following import Follower
from .hooks import Hooks
from .images.collector import CollectionPolicy, ImageCollector
from .images.lookup import credential_sources
from .images.puller import ImagePuller, PullRules
from .images.records import PullRecords
from .machine import MachineFacts, default_address, read_facts, swap_capacity
from .node_object import capacity, check_reservations, node_addresses, node_resources
from .objects import ApiObjects
from .oom import watch as watch_memory
from .plugins import CSI_PLUGIN, DEVICE_PLUGIN, DRA_PLUGIN, PluginHandler, PluginManager
from .podapi import ClientPodApi
from .probes.handlers import Handlers
from .probes.manager import ProbeManager
from .registration import Registration
from .requirements import check_requirements, protect_from_oom
from .resources import ResourcePolicy
from .security_context import NodeSecurity, apparmor_enabled, masked_paths
from .settings import REPLACED, NodeOptions
from .starting import NodeServices
from .userns import UserNamespaces
from .volumes.csi import CsiService
from .volumes.image import ImagePlugin
from .volumes.local_path import LocalPathVolumes
from .volumes.manager import VolumeManager
from .volumes.plugin import VolumeHost

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
    options.root_directory.mkdir(parents=True, exist_ok=True)
    options.root_directory.chmod(0o750)
    for part in ("pods", "plugins"):  # drivers expect them
        (options.root_directory / part).mkdir(exist_ok=True, mode=0o750)
    check_requirements(options, unified=Cgroups(options.cgroup_root).unified)
    await _wait_for_runtime(runtime, client)
    # The runtime knows who keeps its cgroups; one that is too old to say is as configured.
    for lack in lacks():
        log.info("this machine has %s", lack)
    driver = await runtime.cgroup_driver()
    options = replace(options, cgroup_driver=driver or options.cgroup_driver)
    machine = read_facts(options.root_directory)
    addresses = node_addresses(options.node_ip, default_address)
    check_reservations(options, machine)
    informers = InformerFactory(client)
    pods = informers.informer(Pod, field_selector=f"spec.nodeName={options.node_name}")
    services = informers.informer(Service)
    parts = _assemble(options, client, runtime, machine, addresses, services)
    agent = parts.agent
    registration = Registration(client, options, runtime, runtime, machine, addresses)
    local_paths = LocalPathVolumes(
        client, informers, options.root_directory, options.node_name, client.clock
    )

    def on_node(node: Node) -> None:
        agent.node = node

    registration.on_node = on_node
    registration.report = agent.report
    registration.is_settled = lambda: not parts.csi.drivers.problems
    agent.on_report(registration.refresh)
    parts.csi.drivers.on_change = registration.refresh
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
            if renewed := _own_certificates(options, addresses):
                tasks.create_task(Rotation(client, renewed).run(), name="certificates")
            await parts.records.load(await runtime.images())
            await agent.prepare()
            started.append(agent)
            tasks.create_task(device_server.run(), name="device-plugins")
            tasks.create_task(watch_memory(agent.tell_oom), name="kernel-log")
            tasks.create_task(plugins.run(), name="plugins")
            tasks.create_task(parts.csi.run(), name="csi")
            if options.enable_server and options.tls_certificate is not None:
                await _start_server(options, client, parts, runtime, machine, tasks)
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


@dataclass(frozen=True)
class _Parts:
    agent: NodeAgent
    api: ClientPodApi
    probes: ProbeManager
    recorder: EventRecorder
    records: PullRecords
    objects: ApiObjects
    devices: DeviceManager
    claims: DraManager
    csi: CsiService


def _assemble(
    options: NodeOptions,
    client: Client,
    runtime: CriRuntime,
    machine: MachineFacts,
    addresses: tuple[str, ...],
    services: Informer[Service],
) -> _Parts:
    clock = client.clock
    recorder = EventRecorder(client, "kubelet", options.node_name)
    events = ApiEvents(recorder, options.node_name)
    handlers = Handlers(runtime)
    objects = ApiObjects(client, clock)
    cgroups = Cgroups(options.cgroup_root, systemd=options.cgroup_driver == "systemd")
    unified = cgroups.unified
    keeping = ResourcePolicy.of(
        options,
        parse_quantity(capacity(options, machine)["memory"]).value(),
        unified=unified,
        swap=swap_capacity(unified=unified),
    )
    cgroups = replace(cgroups, policy=keeping)
    resources = replace(node_resources(options, machine), policy=keeping)

    def known_services() -> Sequence[Service]:
        return services.cache.list()

    def active_pods() -> list[Pod]:
        return agent.active_pods()

    def held_pods() -> list[Pod]:
        """Those of which something may run still, whatever the API says of them."""
        return [each.pod for each in agent.workers() if not each.is_cleaned]

    devices = DeviceManager(options.root_directory / "device-plugins", clock, active_pods)
    devices.load()
    drivers = DraDrivers(client, options.node_name)
    claims = DraManager(options.root_directory, client, drivers, held_pods)
    claims.load()
    records = PullRecords(options.root_directory)
    sources = credential_sources(options, objects, clock)
    rules, policy = PullRules.of(options), CollectionPolicy.of(options)
    puller = ImagePuller(runtime, records, events, clock, rules, sources)
    collector = ImageCollector(runtime, runtime, records, events, clock, policy)
    host = VolumeHost(options.root_directory, objects, resources, clock, events, options.node_name)
    volumes = VolumeManager(host)
    image_volumes = ImagePlugin(host, runtime, ContainerdSnapshots(runtime.calls), puller)
    volumes.add(image_volumes)
    collector.in_volumes = image_volumes.images_in_use
    csi = CsiService(host, client)
    volumes.add(csi.plugin)
    shared = NodeServices(
        options=options,
        runtime=runtime,
        puller=puller,
        collector=collector,
        volumes=volumes,
        image_volumes=image_volumes,
        cgroups=cgroups,
        hooks=Hooks(runtime, handlers, events, clock),
        users=UserNamespaces(
            options.root_directory / "pods", options.user_namespaces_ids_per_pod, options.max_pods
        ),
        security=NodeSecurity(
            options.root_directory / "seccomp",
            options.seccomp_default,
            masked_paths(),
            apparmor_enabled(),
        ),
        objects=objects,
        events=events,
        clock=clock,
        node=resources,
        host_ips=addresses,
        services=known_services,
        sandbox_slots=asyncio.Semaphore(max(3, 2 * machine.cpus)),
        devices=devices,
        claims=claims,
    )
    probes = ProbeManager(handlers, events, clock)
    api = ClientPodApi(client)
    agent = NodeAgent(shared, api, probes)
    shared.volumes.node_labels = lambda: (
        agent.node.metadata.labels if agent.node is not None else options.labels
    )
    agent.storage_problems = lambda: csi.drivers.problems
    return _Parts(agent, api, probes, recorder, records, objects, devices, claims, csi)


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


async def _start_server(
    options: NodeOptions,
    client: Client,
    parts: _Parts,
    runtime: CriRuntime,
    machine: MachineFacts,
    tasks: asyncio.TaskGroup,
) -> None:
    from .configuration.files import load
    from .configuration.options import effective, remarks
    from .measuring import Places
    from .server.access import AccessOptions, DelegatedAccess
    from .server.node_paths import NodeInside
    from .server.server import KubeletServer, KubeletServerOptions
    from .server.tls import TlsOptions
    from .stats.collector import Sources, StatsCollector

    configuration, odd = load(options.config, options.config_dir)
    for text in (*odd, *remarks(configuration)):
        log.warning("%s", text)
    agent, shared = parts.agent, parts.agent.services
    places = Places(options.root_directory / "pods", options.pod_logs_directory, shared.cgroups)
    statistics = StatsCollector(
        Sources(
            options,
            machine,
            agent.workers,
            runtime,
            runtime,
            shared.volumes,
            places,
            parts.probes,
            client.clock,
        )
    )
    inside = NodeInside(
        options=options,
        backend=NodeBackend(agent, runtime, options.root_directory, client.clock),
        statistics=statistics,
        configuration=lambda: effective(options, configuration),
        checks={"ping": lambda: True, "log": lambda: True, "syncloop": agent.is_healthy},
        clock=client.clock,
    )
    access = AccessOptions(
        anonymous=options.anonymous_auth,
        token_webhook=options.authentication_token_webhook,
        token_seconds=options.authentication_token_webhook_cache_ttl,
        always_allow=options.authorization_mode == "AlwaysAllow",
        allowed_seconds=options.authorization_webhook_cache_authorized_ttl,
        denied_seconds=options.authorization_webhook_cache_unauthorized_ttl,
    )
    server = KubeletServer(
        KubeletServerOptions(
            address=options.listen_address or "0.0.0.0",
            port=options.port,
            tls=TlsOptions(
                certificate=str(options.tls_certificate),
                key=str(options.tls_key),
                client_ca=str(options.client_ca or ""),
                minimum=options.tls_min_version,
                ciphers=options.tls_cipher_suites,
            ),
            healthz_address=options.healthz_bind_address,
            healthz_port=options.healthz_port,
        ),
        inside,
        DelegatedAccess(client, options.node_name, access),
    )
    await server.start()

    async def until_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await server.stop()

    tasks.create_task(until_cancelled(), name="kubelet-server")
