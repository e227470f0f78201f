"""KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1): upstream's types and defaults.

An unset value and Go's zero are the same, except where upstream has a pointer (`KEPT_ZEROS`).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import field

from navarch.api.component_config import Duration
from navarch.scheduler.configuration.arguments import Int32, Int64

GROUP = "kubescheduler.config.k8s.io"
API_VERSION, KIND = f"{GROUP}/v1", "KubeSchedulerConfiguration"


class LeaderElection(msgspec.Struct, kw_only=True):
    leaderElect: bool = True
    leaseDuration: Duration = Duration(15)
    renewDeadline: Duration = Duration(10)
    retryPeriod: Duration = Duration(2)
    resourceLock: str = "leases"
    resourceName: str = "kube-scheduler"
    resourceNamespace: str = "kube-system"


class ClientConnection(msgspec.Struct, kw_only=True):
    kubeconfig: str = ""
    acceptContentTypes: str = ""
    contentType: str = "application/vnd.kubernetes.protobuf"
    qps: float = 50.0
    burst: Int32 = 100


class PluginEntry(msgspec.Struct, frozen=True):
    name: str = ""
    weight: Int32 = 0


class PluginSet(msgspec.Struct, frozen=True):
    enabled: tuple[PluginEntry, ...] = ()
    disabled: tuple[PluginEntry, ...] = ()


class Plugins(msgspec.Struct, kw_only=True, frozen=True):
    """By the point at which they are asked."""

    preEnqueue: PluginSet = PluginSet()
    queueSort: PluginSet = PluginSet()
    preFilter: PluginSet = PluginSet()
    filter: PluginSet = PluginSet()
    postFilter: PluginSet = PluginSet()
    preScore: PluginSet = PluginSet()
    score: PluginSet = PluginSet()
    reserve: PluginSet = PluginSet()
    permit: PluginSet = PluginSet()
    preBind: PluginSet = PluginSet()
    bind: PluginSet = PluginSet()
    postBind: PluginSet = PluginSet()
    multiPoint: PluginSet = PluginSet()
    placementGenerate: PluginSet = PluginSet()
    placementScore: PluginSet = PluginSet()


class PluginConfig(msgspec.Struct, kw_only=True):
    name: str = ""
    args: Any = None


class KubeSchedulerProfile(msgspec.Struct, kw_only=True):
    schedulerName: str | None = None
    percentageOfNodesToScore: Int32 | None = None
    plugins: Plugins | None = None
    pluginConfig: list[PluginConfig] = []


class ExtenderTls(msgspec.Struct, kw_only=True):
    insecure: bool = False
    serverName: str = ""
    certFile: str = ""
    keyFile: str = ""
    caFile: str = ""
    certData: bytes = b""
    keyData: bytes = b""
    caData: bytes = b""


class ManagedResource(msgspec.Struct, kw_only=True):
    name: str = ""
    ignoredByScheduler: bool = False


class ExtenderConfig(msgspec.Struct, kw_only=True):
    urlPrefix: str = ""
    filterVerb: str = ""
    preemptVerb: str = ""
    prioritizeVerb: str = ""
    weight: Int64 = 0
    bindVerb: str = ""
    enableHTTPS: bool = False
    tlsConfig: ExtenderTls | None = None
    httpTimeout: Duration = Duration(5)
    nodeCacheCapable: bool = False
    managedResources: list[ManagedResource] = []
    ignorable: bool = False


class KubeSchedulerConfiguration(msgspec.Struct, kw_only=True):
    """Upstream's type with its defaults."""

    kind: str = KIND
    apiVersion: str = API_VERSION
    parallelism: Int32 = 16
    leaderElection: LeaderElection = field(default_factory=LeaderElection)
    clientConnection: ClientConnection = field(default_factory=ClientConnection)
    enableProfiling: bool = True
    enableContentionProfiling: bool = True
    percentageOfNodesToScore: Int32 = 0
    podInitialBackoffSeconds: Int64 = 1
    podMaxBackoffSeconds: Int64 = 10
    profiles: list[KubeSchedulerProfile] = []
    extenders: list[ExtenderConfig] = []
    delayCacheUntilActive: bool = False


KEPT_ZEROS = frozenset(
    {
        "parallelism",
        "percentageOfNodesToScore",
        "podInitialBackoffSeconds",
        "podMaxBackoffSeconds",
        "schedulerName",
        "minCandidateNodesPercentage",
        "minCandidateNodesAbsolute",
        "hardPodAffinityWeight",
        "bindTimeoutSeconds",
        "filterTimeout",
        "bindingTimeout",
        "type",
    }
)
"""Upstream's pointers: an explicit zero is not the same as nothing."""
