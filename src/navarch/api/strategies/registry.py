"""Which strategy a kind has."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from navarch.api.kinds import Kind
from navarch.api.strategies.base import Strategy

_STRATEGIES = {
    "": {
        "pods": "pod.PodStrategy",
        "services": "service.ServiceStrategy",
        "replicationcontrollers": "workloads.ReplicationControllerStrategy",
        "podtemplates": "workloads.PodTemplateStrategy",
        "namespaces": "core.NamespaceStrategy",
        "nodes": "core.NodeStrategy",
        "configmaps": "core.ConfigMapStrategy",
        "secrets": "core.SecretStrategy",
        "serviceaccounts": "core.ServiceAccountStrategy",
        "endpoints": "core.EndpointsStrategy",
        "events": "core.EventStrategy",
        "limitranges": "core.LimitRangeStrategy",
        "resourcequotas": "core.ResourceQuotaStrategy",
        "persistentvolumes": "storage.PersistentVolumeStrategy",
        "persistentvolumeclaims": "storage.PersistentVolumeClaimStrategy",
    },
    "apps": {
        "deployments": "workloads.DeploymentStrategy",
        "replicasets": "workloads.ReplicaSetStrategy",
        "statefulsets": "workloads.StatefulSetStrategy",
        "daemonsets": "workloads.DaemonSetStrategy",
        "controllerrevisions": "workloads.ControllerRevisionStrategy",
    },
    "batch": {"jobs": "batch.JobStrategy", "cronjobs": "batch.CronJobStrategy"},
    "autoscaling": {"horizontalpodautoscalers": "control.AutoscalerStrategy"},
    "autoscaling/v1": {"horizontalpodautoscalers": "control.AutoscalerV1Strategy"},
    "events.k8s.io": {"events": "core.EventsV1Strategy"},
    "policy": {"poddisruptionbudgets": "control.PodDisruptionBudgetStrategy"},
    "discovery.k8s.io": {"endpointslices": "networking.EndpointSliceStrategy"},
    "networking.k8s.io": {
        "ingresses": "networking.IngressStrategy",
        "ingressclasses": "networking.IngressClassStrategy",
        "networkpolicies": "networking.NetworkPolicyStrategy",
        "servicecidrs": "networking.ServiceCIDRStrategy",
        "ipaddresses": "networking.IPAddressStrategy",
    },
    "rbac.authorization.k8s.io": {
        "roles": "access.RoleStrategy",
        "clusterroles": "access.ClusterRoleStrategy",
        "rolebindings": "access.RoleBindingStrategy",
        "clusterrolebindings": "access.ClusterRoleBindingStrategy",
    },
    "storagemigration.k8s.io": {"storageversionmigrations": "control.MigrationStrategy"},
    "certificates.k8s.io": {"certificatesigningrequests": "access.SigningRequestStrategy"},
    "storage.k8s.io": {
        "storageclasses": "storage.StorageClassStrategy",
        "volumeattributesclasses": "storage.VolumeAttributesClassStrategy",
        "csidrivers": "storage.CSIDriverStrategy",
        "csinodes": "storage.CSINodeStrategy",
        "csistoragecapacities": "storage.CSIStorageCapacityStrategy",
        "volumeattachments": "storage.VolumeAttachmentStrategy",
    },
    "scheduling.k8s.io": {"priorityclasses": "control.PriorityClassStrategy"},
    "node.k8s.io": {"runtimeclasses": "control.RuntimeClassStrategy"},
    "coordination.k8s.io": {
        "leases": "control.LeaseStrategy",
        "leasecandidates": "control.LeaseCandidateStrategy",
    },
    "flowcontrol.apiserver.k8s.io": {
        "flowschemas": "control.FlowSchemaStrategy",
        "prioritylevelconfigurations": "control.PriorityLevelStrategy",
    },
    "resource.k8s.io": {
        "resourceclaims": "control.ResourceClaimStrategy",
        "resourceclaimtemplates": "control.ResourceClaimTemplateStrategy",
        "deviceclasses": "control.DeviceClassStrategy",
        "resourceslices": "control.ResourceSliceStrategy",
    },
    "admissionregistration.k8s.io": {
        "validatingwebhookconfigurations": "extensions.WebhookConfigurationStrategy",
        "mutatingwebhookconfigurations": "extensions.MutatingWebhookConfigurationStrategy",
        "validatingadmissionpolicies": "extensions.AdmissionPolicyStrategy",
        "mutatingadmissionpolicies": "extensions.MutatingAdmissionPolicyStrategy",
        "validatingadmissionpolicybindings": "extensions.AdmissionPolicyBindingStrategy",
        "mutatingadmissionpolicybindings": "extensions.MutatingAdmissionPolicyBindingStrategy",
    },
    "apiextensions.k8s.io": {
        "customresourcedefinitions": "extensions.CustomResourceDefinitionStrategy"
    },
    "apiregistration.k8s.io": {"apiservices": "extensions.APIServiceStrategy"},
}
"""By group (or group and version, where versions differ) and plural."""


@cache
def _strategy(path: str) -> Strategy:
    module, _, name = path.partition(".")
    strategy = getattr(import_module(f"navarch.api.strategies.{module}"), name)()
    assert isinstance(strategy, Strategy)
    return strategy


def strategy_for(kind: Kind) -> Strategy:
    """The strategy of a built-in kind; kinds without rules of their own share the generic one."""
    for group in (f"{kind.group}/{kind.version}", kind.group):
        path = _STRATEGIES.get(group, {}).get(kind.plural)
        if path:
            return _strategy(path)
    return _strategy("generic.GenericStrategy")
