"""KubeletConfiguration (kubelet.config.k8s.io/v1beta1): upstream's types with upstream's defaults.

An unset value and Go's zero are the same, except where upstream has a pointer (`KEPT_ZEROS`).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import field

from navarch.api.component_config import Duration
from navarch.api.types.core_v1 import Taint

API_VERSION, KIND = "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration"


class X509(msgspec.Struct):
    clientCAFile: str = ""


class WebhookAuthentication(msgspec.Struct):
    enabled: bool = True
    cacheTTL: Duration = Duration(120)


class Anonymous(msgspec.Struct):
    enabled: bool = False


class Authentication(msgspec.Struct):
    x509: X509 = field(default_factory=X509)
    webhook: WebhookAuthentication = field(default_factory=WebhookAuthentication)
    anonymous: Anonymous = field(default_factory=Anonymous)


class WebhookAuthorization(msgspec.Struct):
    cacheAuthorizedTTL: Duration = Duration(300)
    cacheUnauthorizedTTL: Duration = Duration(30)


class Authorization(msgspec.Struct):
    mode: str = "Webhook"
    webhook: WebhookAuthorization = field(default_factory=WebhookAuthorization)


class MemorySwap(msgspec.Struct):
    swapBehavior: str = ""


class CrashLoopBackOff(msgspec.Struct):
    maxContainerRestartPeriod: Duration | None = Duration(300)


class UserNamespaces(msgspec.Struct):
    idsPerPod: int | None = None


class PriorityGrace(msgspec.Struct):
    priority: int = 0
    shutdownGracePeriodSeconds: int = 0


class MemoryReservation(msgspec.Struct):
    numaNode: int = 0
    limits: dict[str, str] = {}


class KubeletConfiguration(msgspec.Struct, kw_only=True):
    """Upstream's type with its defaults."""

    kind: str = KIND
    apiVersion: str = API_VERSION
    enableServer: bool = True
    staticPodPath: str = ""
    podLogsDir: str = "/var/log/pods"
    syncFrequency: Duration = Duration(60)
    fileCheckFrequency: Duration = Duration(20)
    httpCheckFrequency: Duration = Duration(20)
    staticPodURL: str = ""
    staticPodURLHeader: dict[str, list[str]] = {}
    address: str = "0.0.0.0"
    port: int = 10250
    readOnlyPort: int = 0
    tlsCertFile: str = ""
    tlsPrivateKeyFile: str = ""
    tlsCipherSuites: list[str] = []
    tlsCurvePreferences: list[int] = []
    tlsMinVersion: str = ""
    rotateCertificates: bool = False
    serverTLSBootstrap: bool = False
    authentication: Authentication = field(default_factory=Authentication)
    authorization: Authorization = field(default_factory=Authorization)
    registryPullQPS: int = 5
    registryBurst: int = 10
    imagePullCredentialsVerificationPolicy: str = "NeverVerifyPreloadedImages"
    preloadedImagesVerificationAllowlist: list[str] = []
    eventRecordQPS: int = 50
    eventBurst: int = 100
    enableDebuggingHandlers: bool = True
    enableContentionProfiling: bool = False
    healthzPort: int = 10248
    healthzBindAddress: str = "127.0.0.1"
    oomScoreAdj: int = -999
    clusterDomain: str = ""
    clusterDNS: list[str] = []
    streamingConnectionIdleTimeout: Duration = Duration(4 * 3600)
    nodeStatusUpdateFrequency: Duration = Duration(10)
    nodeStatusReportFrequency: Duration = Duration(300)
    nodeLeaseDurationSeconds: int = 40
    imageMinimumGCAge: Duration = Duration(120)
    imageMaximumGCAge: Duration = Duration(0)
    imageGCHighThresholdPercent: int = 85
    imageGCLowThresholdPercent: int = 80
    volumeStatsAggPeriod: Duration = Duration(60)
    kubeletCgroups: str = ""
    systemCgroups: str = ""
    cgroupRoot: str = ""
    cgroupsPerQOS: bool = True
    cgroupDriver: str = "cgroupfs"
    cpuManagerPolicy: str = "none"
    singleProcessOOMKill: bool | None = None
    cpuManagerPolicyOptions: dict[str, str] = {}
    cpuManagerReconcilePeriod: Duration = Duration(10)
    memoryManagerPolicy: str = "None"
    topologyManagerPolicy: str = "none"
    topologyManagerScope: str = "container"
    topologyManagerPolicyOptions: dict[str, str] = {}
    qosReserved: dict[str, str] = {}
    runtimeRequestTimeout: Duration = Duration(120)
    hairpinMode: str = "promiscuous-bridge"
    maxPods: int = 110
    podCIDR: str = ""
    podPidsLimit: int = -1
    resolvConf: str = "/etc/resolv.conf"
    runOnce: bool = False
    cpuCFSQuota: bool = True
    cpuCFSQuotaPeriod: Duration = Duration(0.1)
    nodeStatusMaxImages: int = 50
    maxOpenFiles: int = 1000000
    contentType: str = "application/vnd.kubernetes.protobuf"
    kubeAPIQPS: int = 50
    kubeAPIBurst: int = 100
    serializeImagePulls: bool | None = None
    maxParallelImagePulls: int | None = None
    evictionHard: dict[str, str] | None = None
    evictionSoft: dict[str, str] = {}
    evictionSoftGracePeriod: dict[str, str] = {}
    evictionPressureTransitionPeriod: Duration = Duration(300)
    evictionMaxPodGracePeriod: int = 0
    evictionMinimumReclaim: dict[str, str] = {}
    mergeDefaultEvictionSettings: bool = False
    podsPerCore: int = 0
    enableControllerAttachDetach: bool = True
    protectKernelDefaults: bool = False
    makeIPTablesUtilChains: bool = True
    iptablesMasqueradeBit: int = 14
    iptablesDropBit: int = 15
    featureGates: dict[str, bool] = {}
    failSwapOn: bool = True
    memorySwap: MemorySwap = field(default_factory=MemorySwap)
    containerLogMaxSize: str = "10Mi"
    containerLogMaxFiles: int = 5
    containerLogMaxWorkers: int = 1
    containerLogMonitorInterval: Duration = Duration(10)
    configMapAndSecretChangeDetectionStrategy: str = "Watch"
    systemReserved: dict[str, str] = {}
    kubeReserved: dict[str, str] = {}
    reservedSystemCPUs: str = ""
    showHiddenMetricsForVersion: str = ""
    systemReservedCgroup: str = ""
    kubeReservedCgroup: str = ""
    enforceNodeAllocatable: list[str] = field(default_factory=lambda: ["pods"])
    allowedUnsafeSysctls: list[str] = []
    volumePluginDir: str = "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/"
    providerID: str = ""
    kernelMemcgNotification: bool = False
    logging: dict[str, Any] = {}
    enableSystemLogHandler: bool = True
    enableSystemLogQuery: bool = False
    shutdownGracePeriod: Duration = Duration(0)
    shutdownGracePeriodCriticalPods: Duration = Duration(0)
    shutdownGracePeriodByPodPriority: list[PriorityGrace] = []
    crashLoopBackOff: CrashLoopBackOff = field(default_factory=CrashLoopBackOff)
    reservedMemory: list[MemoryReservation] = []
    enableProfilingHandler: bool = True
    enableDebugFlagsHandler: bool = True
    seccompDefault: bool = False
    memoryThrottlingFactor: float = 0.9
    memoryReservationPolicy: str = "None"
    registerWithTaints: list[Taint] = []
    registerNode: bool = True
    tracing: dict[str, Any] | None = None
    localStorageCapacityIsolation: bool = True
    containerRuntimeEndpoint: str = "unix:///run/containerd/containerd.sock"
    imageServiceEndpoint: str = ""
    failCgroupV1: bool = True
    userNamespaces: UserNamespaces | None = None


KEPT_ZEROS = frozenset(
    {
        "registryPullQPS",
        "eventRecordQPS",
        "healthzPort",
        "oomScoreAdj",
        "imageGCHighThresholdPercent",
        "imageGCLowThresholdPercent",
        "podPidsLimit",
        "resolvConf",
        "cpuCFSQuotaPeriod",
        "nodeStatusMaxImages",
        "kubeAPIQPS",
        "iptablesMasqueradeBit",
        "iptablesDropBit",
        "containerLogMaxFiles",
        "containerLogMaxWorkers",
        "containerLogMonitorInterval",
        "memoryThrottlingFactor",
        "maxParallelImagePulls",
        "idsPerPod",
        "maxContainerRestartPeriod",
    }
)
"""Upstream's pointers: an explicit zero is not the same as nothing."""
