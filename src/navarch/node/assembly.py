"""Puts the parts of the node agent together. Nothing runs yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Pod, Service
from navarch.client.client import Client
from navarch.client.events import EventRecorder
from navarch.client.informer import Informer

from .agent import NodeAgent
from .cgroups import Cgroups
from .cri.client import CriRuntime
from .cri.snapshots import ContainerdSnapshots
from .devices.manager import DeviceManager
from .dra.drivers import DraDrivers
from .dra.manager import DraManager
from .events import ApiEvents
from .hooks import Hooks
from .images.collector import CollectionPolicy, ImageCollector
from .images.lookup import credential_sources
from .images.puller import ImagePuller, PullRules
from .images.records import PullRecords
from .machine import MachineFacts, swap_capacity
from .node_object import capacity, node_resources
from .objects import ApiObjects
from .podapi import ClientPodApi
from .probes.handlers import Handlers
from .probes.manager import ProbeManager
from .resources import NodeResources, ResourcePolicy
from .security_context import NodeSecurity, apparmor_enabled, masked_paths
from .settings import NodeOptions
from .starting import NodeServices
from .userns import UserNamespaces
from .volumes.csi import CsiService
from .volumes.image import ImagePlugin
from .volumes.manager import VolumeManager
from .volumes.plugin import VolumeHost


@dataclass(frozen=True, slots=True)
class Ground:
    """What everything else stands on."""

    options: NodeOptions
    client: Client
    runtime: CriRuntime
    machine: MachineFacts
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """Those that somebody else has to start, to stop or to ask."""

    agent: NodeAgent
    api: ClientPodApi
    probes: ProbeManager
    recorder: EventRecorder
    records: PullRecords
    objects: ApiObjects
    devices: DeviceManager
    claims: DraManager
    csi: CsiService


def assemble(ground: Ground, services: Informer[Service]) -> Parts:
    options, client, runtime = ground.options, ground.client, ground.runtime
    clock = client.clock
    recorder = EventRecorder(client, "kubelet", options.node_name)
    events = ApiEvents(recorder, options.node_name)
    handlers = Handlers(runtime)
    objects = ApiObjects(client, clock)
    cgroups, resources = _resources(ground)

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
    records, puller, collector = _images(ground, objects, events)
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
        users=_users(options),
        security=_security(options),
        objects=objects,
        events=events,
        clock=clock,
        node=resources,
        host_ips=ground.addresses,
        services=known_services,
        sandbox_slots=asyncio.Semaphore(max(3, 2 * ground.machine.cpus)),
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
    return Parts(agent, api, probes, recorder, records, objects, devices, claims, csi)


def _resources(ground: Ground) -> tuple[Cgroups, NodeResources]:
    """The node's control groups and what there is of everything, by one policy."""
    options, machine = ground.options, ground.machine
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
    return cgroups, resources


def _images(
    ground: Ground, objects: ApiObjects, events: ApiEvents
) -> tuple[PullRecords, ImagePuller, ImageCollector]:
    options, runtime, clock = ground.options, ground.runtime, ground.client.clock
    records = PullRecords(options.root_directory)
    sources = credential_sources(options, objects, clock)
    rules, policy = PullRules.of(options), CollectionPolicy.of(options)
    puller = ImagePuller(runtime, records, events, clock, rules, sources)
    collector = ImageCollector(runtime, runtime, records, events, clock, policy)
    return records, puller, collector


def _users(options: NodeOptions) -> UserNamespaces:
    return UserNamespaces(
        options.root_directory / "pods", options.user_namespaces_ids_per_pod, options.max_pods
    )


def _security(options: NodeOptions) -> NodeSecurity:
    return NodeSecurity(
        options.root_directory / "seccomp",
        options.seccomp_default,
        masked_paths(),
        apparmor_enabled(),
    )
