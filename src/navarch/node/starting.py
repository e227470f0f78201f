"""Brings a pod's sandbox and its containers into being: the effects behind the plan's actions."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from navarch.api.errors import ApiError
from navarch.api.resource_claims import ClaimProblem
from navarch.api.types.core_v1 import Container, Pod, Service
from navarch.client.batches import together
from navarch.client.clock import Clock

from .announcing import Announcer, NotAnnounced
from .cgroups import Cgroups
from .cri import runtime_pb2 as pb
from .cri.runtime import Runtime
from .cri.values import PodState, RuntimeFailure, SandboxRecord
from .devices.manager import DeviceManager, DeviceProblem
from .devices.records import give
from .downward import InvalidField, PodAddresses
from .dra import cdi
from .dra.cdi import CdiProblem
from .dra.drivers import DraProblem
from .dra.manager import DraManager
from .env_files import EnvFiles, env_file_references, read_env_file
from .environment import EnvironmentProblem, EnvironmentSources, build, references
from .events import PodEvents
from .figures import (
    started_containers,
    started_containers_errors,
    started_pods,
    started_pods_errors,
)
from .hooks import HookFailed, Hooks
from .images.collector import ImageCollector
from .images.lookup import pull_secrets
from .images.puller import FoundImage, ImageProblem, ImagePuller
from .messages import prepare_termination_log, termination_log_path
from .netfiles import (
    DnsSettings,
    FormedDns,
    host_network_hosts_file,
    hosts_file,
    pod_dns,
    resolv_conf_problem,
    without_resolv_conf,
)
from .objects import Objects
from .plan import StartContainer, Waiting
from .podspec import ContainerKind, ContainerSpec, pod_domain, pod_hostname
from .probes.handlers import Target
from .resources import NodeResources
from .runtime_config import (
    ContainerInputs,
    SandboxPlace,
    container_config,
    log_directory,
    sandbox_config,
    subpaths,
)
from .security_context import ConfigProblem, NodeSecurity
from .settings import NodeOptions
from .userns import UserNamespaceProblem, UserNamespaces
from .volumes.image import ImagePlugin
from .volumes.manager import VolumeManager
from .volumes.plugin import PreparedVolume, VolumeProblem

log = logging.getLogger(__name__)

CONFIG_RETRY_SECONDS = 2.0
CONTAINER_TYPES = {
    ContainerKind.INIT: "init_container",
    ContainerKind.SIDECAR: "init_container",
    ContainerKind.APP: "container",
    ContainerKind.EPHEMERAL: "ephemeral_container",
}
"""How metrics call the kinds."""


class StartFailed(Exception):
    """A container did not start; `wait` is what its status says, until it is tried again.

    `container_id` is an instance that runs all the same (its postStart hook failed) and must end.
    """

    def __init__(self, wait: Waiting, retry_in: float, container_id: str = "") -> None:
        super().__init__(f"{wait.reason}: {wait.message}")
        self.wait, self.retry_in, self.container_id = wait, retry_in, container_id


@dataclass(frozen=True)
class NodeServices:
    """What the workers of all pods on a node share."""

    options: NodeOptions
    runtime: Runtime
    puller: ImagePuller
    collector: ImageCollector
    volumes: VolumeManager
    image_volumes: ImagePlugin
    cgroups: Cgroups
    hooks: Hooks
    users: UserNamespaces
    security: NodeSecurity
    objects: Objects
    events: PodEvents
    clock: Clock
    node: NodeResources
    """What pods may use of the machine (allocatable)."""
    host_ips: tuple[str, ...]
    services: Callable[[], Sequence[Service]]
    """All Services of the cluster, for variables."""
    sandbox_slots: asyncio.Semaphore
    """How many sandboxes are made at once. A crowd of pods becomes ready no later for being let in
    a few at a time (the processors are the limit), but the first of them much earlier."""
    devices: DeviceManager | None = None
    """What device plug-ins offer; None on a node that has no place for them."""
    claims: DraManager | None = None
    """Devices that DRA drivers prepare."""


@dataclass(frozen=True)
class StartedIn:
    """The surroundings a container is started in."""

    sandbox: SandboxRecord
    state: PodState
    volumes: Mapping[str, PreparedVolume]


class Starter:
    """Starts sandboxes and containers."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services
        self._options = services.options
        self._announcer = Announcer(services.options.policy_socket, services.clock)
        self._checked_resolv_conf = False

    async def sandbox(self, pod: Pod, attempt: int) -> str:
        """Makes the pod's sandbox; raises `RuntimeFailure`, `ConfigProblem` or `DraProblem`."""
        if self._services.claims is not None:
            await self._services.claims.prepare(pod)
        handler = await self._runtime_handler(pod)
        users = await self._user_namespace(pod, handler)
        config = self.sandbox_config(pod, attempt, users)
        self._tell_of_dns(pod)
        os.makedirs(config.log_directory, exist_ok=True)
        await asyncio.to_thread(self._services.cgroups.ensure_pod, pod)
        started_pods.inc()
        async with self._services.sandbox_slots:
            try:
                return await self._services.runtime.run_sandbox(config, handler)
            except RuntimeFailure:
                started_pods_errors.inc()
                raise

    def can_mount_recursively(self, sandbox: SandboxRecord | None) -> bool:
        """Whether the pod's runtime handler can make whole trees of mounts read-only."""
        handler = sandbox.handler if sandbox is not None else ""
        return self._services.runtime.known.handler(handler).recursive_read_only

    async def _runtime_handler(self, pod: Pod) -> str:
        name = pod.spec.runtimeClassName
        if not name:
            return ""
        found = await self._services.objects.runtime_class(name)
        if found is None:
            raise ConfigProblem(f'runtimeclass.node.k8s.io "{name}" not found')
        return found.handler

    async def _user_namespace(self, pod: Pod, handler: str) -> pb.UserNamespace | None:
        if pod.spec.hostUsers is not False:
            return None
        if not self._services.runtime.known.handler(handler).user_namespaces:
            who = f'RuntimeClass handler "{handler}"' if handler else "runtime"
            raise ConfigProblem(
                f"can't set `spec.hostUsers: false`, {who} does not support user namespaces"
            )
        try:
            return await asyncio.to_thread(self._services.users.mapping, pod.metadata.uid)
        except UserNamespaceProblem as problem:
            raise ConfigProblem(str(problem)) from problem

    def _dns(self, pod: Pod) -> FormedDns:
        options = self._options
        if options.resolv_conf == Path():  # configured to be none
            node = without_resolv_conf(self._services.host_ips)
        else:
            node = DnsSettings.parse(_read(options.resolv_conf))
        return pod_dns(pod, node, options.cluster_dns, options.cluster_domain)

    def _tell_of_dns(self, pod: Pod) -> None:
        events, options = self._services.events, self._options
        if not self._checked_resolv_conf:
            self._checked_resolv_conf = True
            path = options.resolv_conf
            own = DnsSettings() if path == Path() else DnsSettings.parse(_read(path))
            if problem := resolv_conf_problem(own, str(path), options.cluster_domain):
                events.node("Warning", "CheckLimitsForResolvConf", problem)
        for warning in self._dns(pod).warnings:
            message = warning.message
            if warning.of_node:
                events.node("Warning", warning.reason, message)
                meta = pod.metadata
                message = f'pod: "{meta.name}_{meta.namespace}({meta.uid})". {message}'
            events.pod(pod, "Warning", warning.reason, message)

    def sandbox_config(
        self, pod: Pod, attempt: int, users: pb.UserNamespace | None = None
    ) -> pb.PodSandboxConfig:
        options = self._options
        dns = self._dns(pod).settings
        cgroup = self._services.cgroups.pod_path(pod)
        place = SandboxPlace(options.pod_logs_directory, cgroup, users, self._services.node.policy)
        config = sandbox_config(pod, attempt, dns, place)
        domain = pod_domain(pod, options.cluster_domain)
        if pod.spec.setHostnameAsFQDN and domain and config.hostname:
            full = f"{config.hostname}.{domain}"
            if len(full) > 64:
                raise ConfigProblem(
                    f"failed to construct FQDN from pod hostname and cluster domain, FQDN {full} "
                    f"is too long (64 characters is the max, {len(full)} characters requested)"
                )
            config.hostname = full
        return config

    async def container(
        self, pod: Pod, action: StartContainer, place: StartedIn, on_created: Callable[[str], None]
    ) -> str:
        """Makes and starts a container instance and runs its postStart hook; returns its id.

        `on_created` is told the id as soon as there is one. Raises `StartFailed`.
        """
        spec = action.spec
        try:
            secrets = await pull_secrets(pod, self._services.objects, self._services.events)
            images = await self._services.image_volumes.provide(pod, spec, secrets, place.volumes)
            place = replace(place, volumes={**place.volumes, **images})
            image = await self._services.puller.ensure(pod, spec, secrets)
            config = await self._config(pod, action, place, image)
        except ImageProblem as problem:
            raise StartFailed(Waiting(problem.reason, problem.message), problem.retry_in) from None
        except (
            ConfigProblem,
            EnvironmentProblem,
            InvalidField,
            VolumeProblem,
            DeviceProblem,
            DraProblem,
            ClaimProblem,
            CdiProblem,
            OSError,  # a full disk, for example
        ) as problem:
            raise self._failed(pod, spec, "CreateContainerConfigError", str(problem)) from problem
        except ApiError as error:
            raise self._failed(pod, spec, "CreateContainerConfigError", error.message) from error
        try:
            await self._announcer.announce(pod, place.sandbox)
        except NotAnnounced as problem:
            raise self._failed(pod, spec, "CreateContainerError", str(problem)) from problem
        runtime = self._services.runtime
        try:
            container_id = await runtime.create_container(
                place.sandbox.id,
                config,
                self.sandbox_config(pod, place.sandbox.attempt, _users_of(config)),
            )
        except RuntimeFailure as failure:
            raise self._failed(pod, spec, "CreateContainerError", failure.words) from failure
        on_created(container_id)
        kind = CONTAINER_TYPES[spec.kind]
        started_containers.labels(kind).inc()
        self._services.events.container(pod, spec, "Normal", "Created", "Container created")
        try:
            await runtime.start_container(container_id)
        except RuntimeFailure as failure:
            started_containers_errors.labels(kind, "RunContainerError").inc()
            raise self._failed(pod, spec, "RunContainerError", failure.words) from failure
        self._services.events.container(pod, spec, "Normal", "Started", "Container started")
        await self._post_start(pod, spec, container_id, place)
        return container_id

    def _failed(self, pod: Pod, spec: ContainerSpec, reason: str, text: str) -> StartFailed:
        self._services.events.container(pod, spec, "Warning", "Failed", f"Error: {text}")
        return StartFailed(Waiting(reason, text), CONFIG_RETRY_SECONDS)

    async def _config(
        self, pod: Pod, action: StartContainer, place: StartedIn, image: FoundImage
    ) -> pb.ContainerConfig:
        spec = action.spec
        addresses = self.addresses(pod, place.sandbox)
        variables = await self._variables(pod, spec, place)
        directory = self._services.volumes.pod_directory(pod.metadata.uid)
        message_file = prepare_termination_log(
            termination_log_path(directory, spec.name, action.attempt)
        )
        logs = log_directory(
            self._options.pod_logs_directory,
            pod.metadata.namespace,
            pod.metadata.name,
            pod.metadata.uid,
        )
        (logs / spec.name).mkdir(parents=True, exist_ok=True)
        parts = {
            number: await self._services.volumes.bind_subpath(
                pod,
                self._volume(place, spec, number),
                spec.container.volumeMounts[number].name,
                path,
                f"{spec.name}/{number}",
            )
            for number, path in subpaths(spec.container, variables).items()
        }
        config = container_config(
            ContainerInputs(
                pod=pod,
                spec=spec,
                attempt=action.attempt,
                image=image.record,
                image_reference=image.reference,
                variables=variables,
                node=self._services.node,
                volumes=place.volumes,
                subpaths=parts,
                hosts_file=self._hosts_file(pod, addresses, directory),
                termination_log=message_file,
                recursive_read_only=self.can_mount_recursively(place.sandbox),
                security=self._services.security,
                users=await self._user_namespace(pod, place.sandbox.handler),
                target_id=_target_id(spec, place.state),
            )
        )
        if self._services.devices is not None:
            give(config, await self._services.devices.for_container(pod, spec.container))
        if self._services.claims is not None:
            names = await self._services.claims.names_for(pod, spec.container)
            config.CDI_devices.extend(pb.CDIDevice(name=each) for each in names)
        known = self._services.runtime.known
        if config.CDI_devices and not cdi.knows_names(known.name, known.version):
            names = [each.name for each in config.CDI_devices]
            del config.CDI_devices[:]
            await asyncio.to_thread(cdi.give, config, names, cdi.DIRECTORIES)
        return config

    def _volume(self, place: StartedIn, spec: ContainerSpec, number: int) -> PreparedVolume:
        name = spec.container.volumeMounts[number].name
        volume = place.volumes.get(name)
        if volume is None:
            raise ConfigProblem(f'cannot find volume "{name}" to mount into container'
                                f' "{spec.name}"')  # fmt: skip
        return volume

    async def _variables(
        self, pod: Pod, spec: ContainerSpec, place: StartedIn
    ) -> Mapping[str, str]:
        maps, secrets = references(spec.container)
        namespace = pod.metadata.namespace
        objects = self._services.objects
        found_maps, found_secrets = await together(
            together(*(objects.config_map(namespace, name) for name in sorted(maps))),
            together(*(objects.secret(namespace, name) for name in sorted(secrets))),
        )
        return build(
            pod,
            spec.container,
            EnvironmentSources(
                {each.metadata.name: each for each in found_maps if each is not None},
                {each.metadata.name: each for each in found_secrets if each is not None},
                await self._env_files(spec.container, place),
                self._services.services(),
                self.addresses(pod, place.sandbox),
                self._services.node,
            ),
        )

    async def _env_files(self, container: Container, place: StartedIn) -> EnvFiles:
        found = {}
        for name, path in sorted(env_file_references(container)):
            volume = place.volumes.get(name)
            if volume is None:
                text = f'cannot find the volume "{name}" referenced by FileKeyRef'
                raise EnvironmentProblem(text)
            found[name, path] = await asyncio.to_thread(read_env_file, volume.path, path)
        return found

    def addresses(self, pod: Pod, sandbox: SandboxRecord | None) -> PodAddresses:
        hosts = self._services.host_ips
        if pod.spec.hostNetwork:
            return PodAddresses(hosts, hosts)
        return PodAddresses(sandbox.ips if sandbox is not None else (), hosts)

    def _hosts_file(self, pod: Pod, addresses: PodAddresses, directory: Path) -> Path:
        """The pod's /etc/hosts: one file for all containers. They may change it, until the next of
        them starts; so nobody reads what they have made of it."""
        path = directory / "etc-hosts"
        aliases = pod.spec.hostAliases
        if pod.spec.hostNetwork:
            text = host_network_hosts_file(_read(self._options.hosts_file), aliases)
        else:
            domain = pod_domain(pod, self._options.cluster_domain)
            text = hosts_file(addresses.pod_ips, pod_hostname(pod), domain, aliases)
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
        return path

    async def _post_start(
        self, pod: Pod, spec: ContainerSpec, container_id: str, place: StartedIn
    ) -> None:
        lifecycle = spec.container.lifecycle
        if lifecycle is None or lifecycle.postStart is None:
            return
        addresses = self.addresses(pod, place.sandbox)
        target = Target(spec.container, container_id, next(iter(addresses.pod_ips), ""))
        try:
            await self._services.hooks.run(pod, spec, lifecycle.postStart, target)
        except HookFailed as failure:
            log.warning("%s", failure)
            events = self._services.events
            events.container(pod, spec, "Warning", "FailedPostStartHook", "PostStartHook failed")
            wait = Waiting("PostStartHookError", str(failure))
            raise StartFailed(wait, CONFIG_RETRY_SECONDS, container_id) from failure


def _users_of(config: pb.ContainerConfig) -> pb.UserNamespace | None:
    options = config.linux.security_context.namespace_options
    return options.userns_options if options.HasField("userns_options") else None


def _target_id(spec: ContainerSpec, state: PodState) -> str:
    if spec.kind is not ContainerKind.EPHEMERAL or not spec.target:
        return ""
    target = state.latest().get(spec.target)
    if target is None or not target.running:
        raise ConfigProblem(f"unable to find target container {spec.target}")
    return target.id


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
