"""Admission: what a write must meet beyond being allowed and well-formed, and what is filled in."""

from __future__ import annotations

from navarch.apiserver.admission.base import AdmissionAccess
from navarch.apiserver.admission.certificates import (
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
)
from navarch.apiserver.admission.claim_resize import PersistentVolumeClaimResize
from navarch.apiserver.admission.default_class import DefaultIngressClass, DefaultStorageClass
from navarch.apiserver.admission.default_toleration_seconds import DefaultTolerationSeconds
from navarch.apiserver.admission.deny_external_ips import DenyServiceExternalIPs
from navarch.apiserver.admission.device_claims import DeviceClaims
from navarch.apiserver.admission.limit_ranger import LimitRanger
from navarch.apiserver.admission.namespace_lifecycle import NamespaceLifecycle
from navarch.apiserver.admission.node_restriction import NodeRestriction
from navarch.apiserver.admission.pod_resize import PodResizeValidator
from navarch.apiserver.admission.pod_security import PodSecurity
from navarch.apiserver.admission.policy.authorization import PolicyParameters
from navarch.apiserver.admission.policy.plugin import (
    MutatingPolicies,
    PolicyParts,
    ValidatingPolicies,
)
from navarch.apiserver.admission.priority import Priority
from navarch.apiserver.admission.resource_quota import ResourceQuota
from navarch.apiserver.admission.runtime_class import RuntimeClass
from navarch.apiserver.admission.service_account import ServiceAccount
from navarch.apiserver.admission.storage_protection import StorageObjectInUseProtection
from navarch.apiserver.admission.taint_nodes import TaintNodesByCondition
from navarch.apiserver.admission.topology_labels import PodTopologyLabels
from navarch.apiserver.admission.webhooks import MutatingWebhooks, ValidatingWebhooks, WebhookParts
from navarch.apiserver.authorization import Authorization
from navarch.apiserver.authorization.escalation import RbacEscalation
from navarch.apiserver.contracts import AdmissionPlugin

__all__ = ["OFF_BY_DEFAULT", "AdmissionAccess", "WebhookParts", "build_admission"]


OFF_BY_DEFAULT = frozenset({DenyServiceExternalIPs.name})


def build_admission(
    access: AdmissionAccess, authorization: Authorization, webhooks: WebhookParts
) -> list[AdmissionPlugin]:
    """All plug-ins, in upstream's order (with NodeRestriction, which every installer turns on).
    Those of `OFF_BY_DEFAULT` are for those who ask for them.

    Whoever adds more puts them before the last two: the escalation check has to see the object as
    it will be stored, and the quota writes, so nothing may refuse after it."""
    policies = PolicyParts(access, webhooks.catalog, authorization, webhooks.client.metrics)
    return [
        NamespaceLifecycle(access),
        LimitRanger(access),
        ServiceAccount(access),
        NodeRestriction(access, authorization),
        TaintNodesByCondition(),
        PodSecurity(access),
        Priority(access),
        DefaultTolerationSeconds(),
        DefaultStorageClass(access),
        StorageObjectInUseProtection(),
        PersistentVolumeClaimResize(access),
        RuntimeClass(access),
        CertificateApproval(authorization),
        CertificateSigning(authorization),
        CertificateSubjectRestriction(),
        DefaultIngressClass(access),
        PodTopologyLabels(access),
        PodResizeValidator(access),
        DenyServiceExternalIPs(),
        MutatingPolicies(policies),
        MutatingWebhooks(webhooks),
        ValidatingPolicies(policies),
        ValidatingWebhooks(webhooks),
        DeviceClaims(access, authorization),
        PolicyParameters(access, webhooks.catalog, authorization),
        RbacEscalation(authorization),
        ResourceQuota(access),
    ]
