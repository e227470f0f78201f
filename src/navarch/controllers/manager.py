"""The controller manager: all controllers in one process, over one client and one set of caches.

Controllers share informers, so each kind is listed, watched and kept once however many controllers
look at it. Every controller runs in a task of its own; if one ends, which it must never do, the
process ends and starts over with a clean mind rather than limping on without it.

Which controllers run is chosen as with upstream's `--controllers`: names, `*` for all, and `-name`
for all but that one. With `leader_elect` several managers may be started, of which one acts.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from navarch.api.times import parse_duration
from navarch.client import (
    Client,
    ClientConfig,
    Controller,
    ControllerContext,
    InformerFactory,
    LeaderElector,
    LeaseTiming,
)
from navarch.client.serving import ServingOptions, Told, serving

log = logging.getLogger(__name__)

LEASE = "kube-controller-manager"


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    """What the controllers of a cluster have to be told."""

    kubeconfig: str
    controllers: tuple[str, ...] = ("*",)
    """Names of controllers, `*` for all, `-name` for none of that name."""
    cluster_cidr: str = ""
    """Addresses for pods, of which each node gets a part; of two families with a comma between.
    Empty: nodes get theirs elsewhere."""
    node_cidr_mask_size: int = 24
    """The size of a node's part, as a prefix length."""
    node_cidr_mask_size_ipv6: int = 64
    root_ca: str = ""
    """A file with the certificates by which pods trust the API server. Empty: not published."""
    service_account_private_key_file: str = ""
    """The key that lasting service-account tokens are signed with. Empty: none are."""
    cluster_signing_cert_file: str = ""
    """The certificate authority that signs approved requests. Empty: nothing is signed."""
    cluster_signing_key_file: str = ""
    cluster_signing_duration: str = "8760h0m0s"
    """The longest life of a certificate that it signs. This is upstream's flag."""
    node_monitor_grace_seconds: float = 50.0
    """A node that is not heard of for so long counts as unreachable."""
    node_eviction_rate: float = 0.1
    """So many nodes of a zone are given up per second. These four are upstream's flags."""
    secondary_node_eviction_rate: float = 0.01
    """The same in a large zone of which much is not ready; in a small one nothing is given up."""
    unhealthy_zone_threshold: float = 0.55
    """The share of nodes that are not ready from which on that is so."""
    large_cluster_size_threshold: int = 50
    """A zone with more nodes than this is large."""
    terminated_pod_threshold: int = 12500
    """So many finished pods are kept; the oldest above that are collected. 0 keeps them all."""
    horizontal_pod_autoscaler_sync_period: str = "15s"
    """Between two looks at an autoscaler. These five are upstream's flags."""
    horizontal_pod_autoscaler_downscale_stabilization: str = "5m0s"
    """So long nothing is scaled down below what was suggested before."""
    horizontal_pod_autoscaler_cpu_initialization_period: str = "5m0s"
    """So long after its start a pod's processor time is looked at with suspicion."""
    horizontal_pod_autoscaler_initial_readiness_delay: str = "30s"
    """A pod that becomes unready before that has never been ready."""
    horizontal_pod_autoscaler_tolerance: float = 0.1
    """What is less out of proportion than that is left alone."""
    leader_elect: bool = False
    leader_elect_lease_duration: str = "15s"
    """So long others wait for a leader that is not heard of. These three are upstream's flags."""
    leader_elect_renew_deadline: str = "10s"
    """A leader that could not renew its lease for so long stops."""
    leader_elect_retry_period: str = "2s"
    secure_port: int = 0
    """Where they tell of their health and figures (upstream: 10257). 0: nowhere."""
    bind_address: str = "0.0.0.0"
    tls_cert_file: str = ""
    tls_private_key_file: str = ""
    client_ca_file: str = ""
    """The authority of certificates by which callers say who they are."""


Arguments = Callable[[ManagerOptions], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Registered:
    """Where a controller's class is, and what it takes of the options."""

    module: str
    class_name: str
    arguments: Arguments = lambda options: {}
    is_needed: Callable[[ManagerOptions], bool] = lambda options: True

    def load(self) -> type[Controller]:
        module = importlib.import_module(f"navarch.controllers.{self.module}")
        found: type[Controller] = getattr(module, self.class_name)
        return found

    def make(self, context: ControllerContext, options: ManagerOptions) -> Controller:
        return self.load()(context, **self.arguments(options))


def _autoscaling(options: ManagerOptions) -> Mapping[str, Any]:
    """What autoscalers are told. Raises ValueError for what is no duration."""
    from navarch.controllers.horizontal_pod_autoscaler import AutoscalerOptions

    prefix = "horizontal_pod_autoscaler_"
    names = [each.name for each in fields(AutoscalerOptions)]
    given = {name: getattr(options, prefix + name) for name in names}
    seconds = {
        name: parse_duration(each) if isinstance(each, str) else each
        for name, each in given.items()
    }
    return {"options": AutoscalerOptions(**seconds)}


def _node_lifecycle(options: ManagerOptions) -> Mapping[str, Any]:
    from navarch.controllers.node_zones import Rates

    rates = Rates(
        options.node_eviction_rate,
        options.secondary_node_eviction_rate,
        options.unhealthy_zone_threshold,
        options.large_cluster_size_threshold,
    )
    return {"grace_seconds": options.node_monitor_grace_seconds, "rates": rates}


CONTROLLERS: Mapping[str, Registered] = {
    "replicaset": Registered("replicaset", "ReplicaSetController"),
    "replicationcontroller": Registered("replicaset", "ReplicationControllerController"),
    "deployment": Registered("deployment", "DeploymentController"),
    "endpoints": Registered("endpoints", "EndpointsController"),
    "endpointslice": Registered("endpointslice", "EndpointSliceController"),
    "endpointslicemirroring": Registered(
        "endpointslice_mirroring", "EndpointSliceMirroringController"
    ),
    "serviceaccount": Registered("serviceaccount", "ServiceAccountController"),
    "root-ca-certificate-publisher": Registered(
        "root_ca",
        "RootCaPublisher",
        lambda options: {"read_ca": Path(options.root_ca).read_text},
        lambda options: bool(options.root_ca),
    ),
    "nodeipam": Registered(
        "node_ipam",
        "NodeIpamController",
        lambda options: {
            "cluster_cidr": options.cluster_cidr,
            "mask_size": options.node_cidr_mask_size,
            "mask_size_ipv6": options.node_cidr_mask_size_ipv6,
        },
        lambda options: bool(options.cluster_cidr),
    ),
    "nodelifecycle": Registered("node_lifecycle", "NodeLifecycleController", _node_lifecycle),
    "taint-eviction": Registered("taint_eviction", "TaintEvictionController"),
    "namespace": Registered("namespace", "NamespaceController"),
    "garbagecollector": Registered("garbage_collector", "GarbageCollector"),
    "job": Registered("job", "JobController"),
    "statefulset": Registered("statefulset", "StatefulSetController"),
    "daemonset": Registered("daemonset", "DaemonSetController"),
    "cronjob": Registered("cronjob", "CronJobController"),
    "ttl-after-finished": Registered("ttl_after_finished", "TtlAfterFinishedController"),
    "csrapproving": Registered("csr_approving", "CsrApprovingController"),
    "csrsigning": Registered(
        "csr_signing",
        "CsrSigningController",
        lambda options: {
            "read_authority": lambda: (
                Path(options.cluster_signing_cert_file).read_bytes(),
                Path(options.cluster_signing_key_file).read_bytes(),
            ),
            "longest": timedelta(seconds=parse_duration(options.cluster_signing_duration)),
        },
        lambda options: bool(options.cluster_signing_cert_file),
    ),
    "csrcleaner": Registered("csr_cleaner", "CsrCleanerController"),
    "clusterrole-aggregation": Registered(
        "clusterrole_aggregation", "ClusterRoleAggregationController"
    ),
    "validatingadmissionpolicy-status": Registered("policy_status", "PolicyStatusController"),
    "serviceaccount-token": Registered(
        "service_account_tokens",
        "ServiceAccountTokensController",
        lambda options: {
            "read_key": Path(options.service_account_private_key_file).read_bytes,
            "read_ca": lambda: Path(options.root_ca).read_text() if options.root_ca else "",
        },
        lambda options: bool(options.service_account_private_key_file),
    ),
    "legacy-serviceaccount-token-cleaner": Registered("legacy_token_cleaner", "LegacyTokenCleaner"),
    "bootstrapsigner": Registered("bootstrap_tokens", "BootstrapSigner"),
    "tokencleaner": Registered("bootstrap_tokens", "TokenCleaner"),
    "joined-name-servers": Registered("joined_name_servers", "JoinedNameServers"),
    "ttl": Registered("ttl", "TtlController"),
    "load-balancer": Registered("load_balancer", "LoadBalancerController"),
    "servicecidr": Registered("servicecidr", "ServiceCidrController"),
    "storage-version-migrator": Registered(
        "storage_version_migration", "StorageVersionMigrationController"
    ),
    "persistentvolume-binder": Registered("persistent_volume_binder", "PersistentVolumeBinder"),
    "persistentvolume-expander": Registered(
        "persistent_volume_expander", "PersistentVolumeExpander"
    ),
    "local-path-provisioner": Registered("persistent_volume_provisioner", "LocalProvisioner"),
    "local-path-reclaimer": Registered("persistent_volume_reclaimer", "LocalReclaimer"),
    "pvc-protection": Registered("volume_protection", "ClaimProtectionController"),
    "pv-protection": Registered("volume_protection", "VolumeProtectionController"),
    "vac-protection": Registered("volume_protection", "ClassProtectionController"),
    "attachdetach": Registered("attach_detach", "AttachDetachController"),
    "device-taint-eviction-controller": Registered(
        "device_taint_eviction", "DeviceTaintEvictionController"
    ),
    "resourceclaim-controller": Registered("resource_claim", "ResourceClaimController"),
    "ephemeral-volume": Registered("ephemeral_volume", "EphemeralVolumeController"),
    "disruption": Registered("disruption", "DisruptionController"),
    "horizontalpodautoscaling": Registered(
        "horizontal_pod_autoscaler", "HorizontalPodAutoscalerController", _autoscaling
    ),
    "resourcequota": Registered("resourcequota", "ResourceQuotaController"),
    "podgc": Registered(
        "pod_gc",
        "PodGarbageCollector",
        lambda options: {"terminated_pod_threshold": options.terminated_pod_threshold},
    ),
}
"""By the names that upstream's `--controllers` knows."""


def selected(options: ManagerOptions) -> list[str]:
    """The names of the controllers to run. Raises ValueError for one that does not exist."""
    patterns = options.controllers
    for pattern in patterns:
        if pattern != "*" and pattern.removeprefix("-") not in CONTROLLERS:
            raise ValueError(f"no controller is called {pattern.removeprefix('-')!r}")
    return [
        name
        for name, registered in CONTROLLERS.items()
        if f"-{name}" not in patterns
        and (name in patterns or "*" in patterns)
        and registered.is_needed(options)
    ]


async def run(options: ManagerOptions) -> None:
    """Run the controllers until cancelled."""
    config = ClientConfig.from_kubeconfig(options.kubeconfig)
    timing = LeaseTiming(
        parse_duration(options.leader_elect_lease_duration),
        parse_duration(options.leader_elect_renew_deadline),
        parse_duration(options.leader_elect_retry_period),
    )
    async with Client(config.with_user_agent("controllers")) as client:
        informers = InformerFactory(client)

        async def work() -> None:
            await run_with(informers, options)

        told = Told(
            "kubecontrollermanager.config.k8s.io",
            lambda: asdict(options),
            ready={"informer-sync": lambda: informers.synced},
        )
        async with serving(client, ServingOptions.of(options), told):
            if not options.leader_elect:
                await work()
                return
            # A leader that is busy with imports does not renew its lease.
            for name in selected(options):
                CONTROLLERS[name].load()
            identity = f"{platform.node()}_{os.getpid()}"
            await LeaderElector(client, LEASE, identity, timing=timing).run(work)


async def run_controllers(client: Client, options: ManagerOptions) -> None:
    """Run the chosen controllers with a client that is there already."""
    await run_with(InformerFactory(client), options)


async def run_with(informers: InformerFactory, options: ManagerOptions) -> None:
    """Make the chosen controllers and run them until cancelled, or until one of them fails."""
    context = ControllerContext(informers.client, informers, informers.client.clock)
    try:
        # All are made before anything starts: indexes and handlers belong to an empty cache.
        made = [CONTROLLERS[name].make(context, options) for name in selected(options)]
        await context.informers.start()
        log.info("running %s", ", ".join(controller.name for controller in made))
        async with asyncio.TaskGroup() as group:
            for controller in made:
                group.create_task(controller.run(), name=controller.name)
    finally:
        await context.close()
