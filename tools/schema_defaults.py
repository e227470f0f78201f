"""Constant defaults of the built-in types: what upstream's `SetDefaults_*` functions always set.

Defaults that depend on another field (a Service's targetPort, a strategy's parameters, the pull
policy) belong to the kind's strategy. A default applies where the field is absent or, not being a
pointer in Go, zero. `{}` creates an empty object, in which further defaults then apply. Members of
a struct held by value are defaults for that place only (a CronJob's job template gets none).
"""

from __future__ import annotations

from typing import Any

_ALWAYS_443 = {"port": 443}
_WEBHOOK: dict[str, Any] = {
    "failurePolicy": "Fail",
    "matchPolicy": "Equivalent",
    "namespaceSelector": {},
    "objectSelector": {},
    "timeoutSeconds": 10,
}
_MATCH_RESOURCES = {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}}
_VOLUME_MODE = {"defaultMode": 420}

DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "core_v1": {
        "Container": {
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
        },
        "EphemeralContainer": {
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
        },
        "PodSpec": {
            "dnsPolicy": "ClusterFirst",
            "restartPolicy": "Always",
            "securityContext": {},
            "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler",
        },
        "Probe": {
            "timeoutSeconds": 1,
            "periodSeconds": 10,
            "successThreshold": 1,
            "failureThreshold": 3,
        },
        "HTTPGetAction": {"path": "/", "scheme": "HTTP"},
        "SecretVolumeSource": _VOLUME_MODE,
        "ConfigMapVolumeSource": _VOLUME_MODE,
        "DownwardAPIVolumeSource": _VOLUME_MODE,
        "ProjectedVolumeSource": _VOLUME_MODE,
        "ServiceAccountTokenProjection": {"expirationSeconds": 3600},
        "HostPathVolumeSource": {"type": ""},
        "ObjectFieldSelector": {"apiVersion": "v1"},
        "Secret": {"type": "Opaque"},
        "ServiceSpec": {"sessionAffinity": "None", "type": "ClusterIP"},
        "PersistentVolume": {
            "spec": {"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"}
        },
        "PersistentVolumeStatus": {"phase": "Pending"},
        "PersistentVolumeClaimSpec": {"volumeMode": "Filesystem"},
        "PersistentVolumeClaimStatus": {"phase": "Pending"},
        "NamespaceStatus": {"phase": "Active"},
        "EndpointPort": {"protocol": "TCP"},
        "AzureDiskVolumeSource": {"cachingMode": "ReadWrite", "kind": "Shared"},
    },
    "apps_v1": {
        "DeploymentSpec": {
            "replicas": 1,
            "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": 600,
        },
        "DeploymentStrategy": {"type": "RollingUpdate"},
        "DaemonSetSpec": {"revisionHistoryLimit": 10},
        "DaemonSetUpdateStrategy": {"type": "RollingUpdate"},
        "StatefulSetSpec": {
            "podManagementPolicy": "OrderedReady",
            "replicas": 1,
            "revisionHistoryLimit": 10,
            "persistentVolumeClaimRetentionPolicy": {},
        },
        "StatefulSetPersistentVolumeClaimRetentionPolicy": {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
        },
        "ReplicaSetSpec": {"replicas": 1},
    },
    "batch_v1": {
        "Job": {
            "spec": {"completionMode": "NonIndexed", "suspend": False, "manualSelector": False}
        },
        "CronJobSpec": {
            "concurrencyPolicy": "Allow",
            "suspend": False,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 1,
        },
        "PodFailurePolicyOnPodConditionsPattern": {"status": "True"},
    },
    "admissionregistration_v1": {
        "ValidatingWebhook": _WEBHOOK,
        "MutatingWebhook": {**_WEBHOOK, "reinvocationPolicy": "Never"},
        "RuleWithOperations": {"scope": "*"},
        "NamedRuleWithOperations": {"scope": "*"},
        "ServiceReference": _ALWAYS_443,
        "ValidatingAdmissionPolicySpec": {"failurePolicy": "Fail"},
        "MutatingAdmissionPolicySpec": {"failurePolicy": "Fail"},
        "MatchResources": _MATCH_RESOURCES,
    },
    "admissionregistration_v1beta1": {
        "NamedRuleWithOperations": {"scope": "*"},
        "MutatingAdmissionPolicySpec": {"failurePolicy": "Fail"},
        "MatchResources": _MATCH_RESOURCES,
    },
    "apiextensions_v1": {
        "ServiceReference": _ALWAYS_443,
        "CustomResourceDefinitionSpec": {"conversion": {"strategy": "None"}},
    },
    "apiregistration_v1": {"ServiceReference": _ALWAYS_443},
    "authentication_v1": {"TokenRequestSpec": {"expirationSeconds": 3600}},
    "autoscaling_v1": {"HorizontalPodAutoscalerSpec": {"minReplicas": 1}},
    "autoscaling_v2": {"HorizontalPodAutoscalerSpec": {"minReplicas": 1}},
    "discovery_v1": {"EndpointPort": {"name": "", "protocol": "TCP"}},
    "flowcontrol_v1": {
        "FlowSchemaSpec": {"matchingPrecedence": 1000},
        "ExemptPriorityLevelConfiguration": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
        "LimitedPriorityLevelConfiguration": {
            "nominalConcurrencyShares": 30,
            "lendablePercent": 0,
        },
        "QueuingConfiguration": {"handSize": 8, "queues": 64, "queueLengthLimit": 50},
    },
    "networking_v1": {
        "NetworkPolicyPort": {"protocol": "TCP"},
        "IngressClassParametersReference": {"scope": "Cluster"},
    },
    "rbac_v1": {"RoleRef": {"apiGroup": "rbac.authorization.k8s.io"}},
    "scheduling_v1": {"PriorityClass": {"preemptionPolicy": "PreemptLowerPriority"}},
    "storage_v1": {
        "StorageClass": {"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"},
        "CSIDriverSpec": {
            "attachRequired": True,
            "podInfoOnMount": False,
            "storageCapacity": False,
            "fsGroupPolicy": "ReadWriteOnceWithFSType",
            "volumeLifecycleModes": ["Persistent"],
            "requiresRepublish": False,
            "seLinuxMount": False,
        },
    },
}
for _version in ("resource_v1", "resource_v1beta1", "resource_v1beta2"):
    DEFAULTS[_version] = {
        "NodeAllocatableResourceMapping": {"allocationMultiplier": "1"},
        "DeviceSubRequest": {"allocationMode": "ExactCount"},
    }
for _version in ("resource_v1", "resource_v1beta2"):
    DEFAULTS[_version]["ExactDeviceRequest"] = {"allocationMode": "ExactCount"}
