"""What validation refuses, for the kinds other than pods."""

from __future__ import annotations

import pytest
from tests.unit.api.validation.samples import (
    CLAIM,
    SELECTOR,
    Object,
    complaints,
    deployment,
    job,
    new,
    service,
    template,
)


def metrics(*metrics: Object) -> Object:
    return {"spec": {"maxReplicas": 1, "metrics": list(metrics)}}


def flow(rule: Object) -> Object:
    return {"spec": {"rules": [rule]}}


def account(**fields: str) -> Object:
    return {"kind": "ServiceAccount", "serviceAccount": fields}


@pytest.mark.parametrize(
    ("plural", "content", "expected"),
    [
        ("services", {"spec": {}}, "spec.ports: Required value"),
        ("services", service(ports=[{"port": 0}]), "spec.ports[0].port: Invalid value: 0: must be"),
        (
            "services",
            service(ports=[{"port": 1}, {"port": 2, "name": "a"}]),
            "spec.ports[0].name: Required value",
        ),
        (
            "services",
            service(ports=[{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]),
            'spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,',
        ),
        (
            "services",
            service(ports=[{"port": 1, "nodePort": 30000}]),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            "services",
            service(type="ExternalName"),
            "spec.externalName: Required value",
        ),
        (
            "services",
            service(externalIPs=["127.0.0.1"]),
            'spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range',
        ),
        (
            "services",
            service(clusterIP="010.0.0.1"),
            'spec.clusterIPs[0]: Invalid value: "010.0.0.1": must not have leading 0s',
        ),
        (
            "services",
            service(type="NodePort", clusterIP="None"),
            "may not be set to 'None' for NodePort services",
        ),
        (
            "services",
            service(loadBalancerClass="a.b/c"),
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        ("services", service(sessionAffinity="Sticky"), 'Unsupported value: "Sticky"'),
        (
            "deployments",
            deployment(selector={"matchLabels": {"app": "other"}}),
            "`selector` does not match template `labels`",
        ),
        ("deployments", deployment(selector={}), "empty selector is invalid for deployment"),
        (
            "deployments",
            deployment(template=template(restartPolicy="Never")),
            'spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Alw',
        ),
        ("deployments", deployment(replicas=-1), "spec.replicas: Invalid value: -1: must be great"),
        (
            "deployments",
            deployment(strategy={"type": "Recreate", "rollingUpdate": {}}),
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            "deployments",
            deployment(strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `max",
        ),
        (
            "deployments",
            deployment(strategy={"rollingUpdate": {"maxSurge": "x%"}}),
            "a valid percent string must be a numeric string followed by an ending '%'",
        ),
        (
            "statefulsets",
            deployment(podManagementPolicy="Wild"),
            "must be 'OrderedReady' or 'Parallel'",
        ),
        (
            "daemonsets",
            deployment(updateStrategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}),
            "may not be set when maxUnavailable is non-zero",
        ),
        ("replicationcontrollers", {"spec": {}}, "spec.template: Required value"),
        (
            "jobs",
            job(template=template(restartPolicy="Always")),
            'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"',
        ),
        (
            "jobs",
            job(selector=SELECTOR, template=template(restartPolicy="Never")),
            "`selector` not auto-generated",
        ),
        (
            "jobs",
            job(completionMode="Indexed", parallelism=2),
            "spec.completions: Required value: when completion mode is Indexed",
        ),
        ("jobs", job(backoffLimitPerIndex=1), "requires indexed completion mode"),
        (
            "jobs",
            job(
                podFailurePolicy={
                    "rules": [
                        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [0]}}
                    ]
                }
            ),
            "must not be 0 for the In operator",
        ),
        (
            "jobs",
            job(
                completionMode="Indexed",
                completions=3,
                successPolicy={"rules": [{"succeededIndexes": "2-5"}]},
            ),
            'error parsing succeededIndexes: too large index: "5"',
        ),
        (
            "cronjobs",
            {"spec": {"schedule": "* * *", "jobTemplate": job()}},
            "expected exactly 5 fields, found 3: [* * *]",
        ),
        (
            "cronjobs",
            {"spec": {"schedule": "TZ=UTC * * * * *", "jobTemplate": job()}},
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ),
        (
            "cronjobs",
            {"spec": {"schedule": "* * * * *", "timeZone": "Mars/Base", "jobTemplate": job()}},
            "unknown time zone Mars/Base",
        ),
        ("configmaps", {"data": {"..x": "1"}}, 'data[..x]: Invalid value: "..x": must not start'),
        (
            "configmaps",
            {"data": {"a": "1"}, "binaryData": {"a": "MQ=="}},
            "duplicate of key present in binaryData",
        ),
        ("configmaps", {"data": {"a": "x" * 1048577}}, "Too long: may not be more than 1048576"),
        ("secrets", {"stringData": {"": "x"}}, 'data[]: Invalid value: "": a valid config key'),
        ("secrets", {"type": "kubernetes.io/tls"}, "data[tls.key]: Required value"),
        (
            "secrets",
            {"type": "kubernetes.io/service-account-token"},
            "metadata.annotations[kubernetes.io/service-account.name]: Required value",
        ),
        (
            "secrets",
            {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "["}},
            'data[.dockerconfigjson]: Invalid value: "<secret contents redacted>"',
        ),
        (
            "namespaces",
            {"spec": {"finalizers": ["plain"]}},
            "name is neither a standard finalizer name nor is it fully qualified",
        ),
        (
            "nodes",
            {"spec": {"taints": [{"key": "a", "effect": "Odd"}]}},
            'metadata.taints[0].effect: Unsupported value: "Odd"',
        ),
        (
            "endpoints",
            {"subsets": [{"addresses": [{"ip": "169.254.1.1"}]}]},
            'subsets[0].addresses[0].ip: Invalid value: "169.254.1.1": may not be in the link-',
        ),
        ("endpoints", {"subsets": [{}]}, "must specify `addresses` or `notReadyAddresses`"),
        (
            "endpointslices",
            {"addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}]},
            'endpoints[0].addresses[0]: Invalid value: "127.0.0.1": may not be in the loopback',
        ),
        ("endpointslices", {"endpoints": []}, "addressType: Required value"),
        (
            "roles",
            {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": []}]},
            "rules[0].verbs: Required value: verbs must contain at least one value",
        ),
        (
            "roles",
            {"rules": [{"nonResourceURLs": ["/x"], "verbs": ["get"]}]},
            "namespaced rules cannot apply to non-resource URLs",
        ),
        (
            "rolebindings",
            {"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "Dog", "name": "d"}]},
            'subjects[0].kind: Unsupported value: "Dog": supported values: "ServiceAccount", "U',
        ),
        (
            "clusterrolebindings",
            {
                "roleRef": {"kind": "ClusterRole", "name": "r"},
                "subjects": [{"kind": "ServiceAccount", "name": "s"}],
            },
            "subjects[0].namespace: Required value",
        ),
        (
            "resourcequotas",
            {"spec": {"hard": {"bananas": "1"}}},
            "must be a standard resource type or fully qualified",
        ),
        (
            "resourcequotas",
            {"spec": {"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}},
            "unsupported scope applied to resource",
        ),
        (
            "limitranges",
            {"spec": {"limits": [{"type": "Pod", "default": {"cpu": "1"}}]}},
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
        ),
        (
            "limitranges",
            {"spec": {"limits": [{"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}},
            'spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value',
        ),
        (
            "persistentvolumeclaims",
            {"spec": {**CLAIM, "accessModes": []}},
            "spec.accessModes: Required value: at least 1 access mode is required",
        ),
        (
            "persistentvolumes",
            {"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}},
            "spec: Required value: must specify a volume type",
        ),
        ("ingresses", {"spec": {}}, "either `defaultBackend` or `rules` must be specified"),
        (
            "ingresses",
            {"spec": {"rules": [{"http": {"paths": [{"path": "/", "pathType": "Odd"}]}}]}},
            'pathType: Unsupported value: "Odd"',
        ),
        (
            "networkpolicies",
            {"spec": {"podSelector": {}, "ingress": [{"from": [{}]}]}},
            "spec.ingress[0].from[0]: Required value: must specify a peer",
        ),
        (
            "networkpolicies",
            {
                "spec": {
                    "podSelector": {},
                    "egress": [
                        {"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}}]}
                    ],
                }
            },
            "must be a strict subset of `cidr`",
        ),
        (
            "poddisruptionbudgets",
            {"spec": {"minAvailable": 1, "maxUnavailable": 1}},
            "minAvailable and maxUnavailable cannot be both set",
        ),
        (
            "horizontalpodautoscalers",
            {"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}}},
            "spec.maxReplicas: Required value: must be set and greater than 0",
        ),
        (
            "priorityclasses",
            {"metadata": {"name": "system-mine"}, "value": 1},
            "priority class names with 'system-' prefix are reserved for system use only",
        ),
        (
            "priorityclasses",
            {"value": 1000000001},
            "maximum allowed value of a user defined priority is 1000000000",
        ),
        ("leases", {"spec": {"leaseDurationSeconds": 0}}, "must be greater than 0"),
        (
            "validatingwebhookconfigurations",
            {
                "webhooks": [
                    {
                        "name": "a.b.c",
                        "sideEffects": "None",
                        "admissionReviewVersions": ["v1"],
                        "clientConfig": {"url": "http://x/"},
                        "timeoutSeconds": 31,
                    }
                ]
            },
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 an",
        ),
        (
            "validatingwebhookconfigurations",
            {
                "webhooks": [
                    {
                        "name": "a.b.c",
                        "sideEffects": "None",
                        "admissionReviewVersions": ["v1"],
                        "clientConfig": {"url": "http://x/"},
                    }
                ]
            },
            "'https' is the only allowed URL scheme; desired format: https://host[/path]",
        ),
        (
            "customresourcedefinitions",
            {"spec": {"group": "x.io", "names": {"plural": "foos"}, "versions": []}},
            'metadata.name: Invalid value: "sample": must be spec.names.plural+"."+spec.group',
        ),
        (
            "events.v1",
            {"involvedObject": {"kind": "Pod", "namespace": "other"}},
            'involvedObject.namespace: Invalid value: "other": does not match event.namespace',
        ),
        (
            "certificatesigningrequests",
            {"spec": {"request": "eA==", "usages": ["client auth"], "signerName": "a.b/c"}},
            "PEM block type must be CERTIFICATE REQUEST",
        ),
        (
            "cronjobs",
            {"spec": {"schedule": "TZ=UTC * * *", "jobTemplate": {"spec": {}}}},
            "expected exactly 5 fields, found 3: [* * *]",
        ),
        (
            "mutatingwebhookconfigurations",
            {"webhooks": [{"name": "a.b.c", "clientConfig": {"url": ":x"}}]},
            'Required value: url must be a valid URL: parse ":x": missing protocol scheme; desired',
        ),
        (
            "apiservices",
            {"spec": {"group": "a.io", "version": "v1", "service": {"port": 0}}},
            'must be `spec.version+"."+spec.group`: "v1.a.io"',
        ),
        (
            "apiservices",
            {"spec": {"group": "a.io", "version": "v1", "service": {"port": 0}}},
            "spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535",
        ),
        (
            "horizontalpodautoscalers",
            metrics({"type": "Resource", "pods": {"metric": {}, "target": {}}}),
            "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive",
        ),
        (
            "horizontalpodautoscalers",
            metrics({"type": "Object", "object": {"target": {"type": "", "value": 1}}}),
            'object.target.type: Invalid value: "": must be either Utilization, Value, or Average',
        ),
        (
            "horizontalpodautoscalers",
            metrics({"type": "External", "external": {"target": {"value": 1, "averageValue": 1}}}),
            "external.target.value: Forbidden: may not set both a target value for metric and a",
        ),
        (
            "horizontalpodautoscalers",
            metrics({"type": "ContainerResource", "containerResource": {"container": "A_"}}),
            'containerResource.container: Invalid value: "A_": a lowercase RFC 1123 label',
        ),
        (
            "horizontalpodautoscalers",
            {"spec": {"maxReplicas": 1, "behavior": {"scaleUp": {"tolerance": "-1"}}}},
            'spec.behavior.scaleUp.tolerance: Invalid value: "-1": must be greater than or equal',
        ),
        (
            "horizontalpodautoscalers.v1",
            {"spec": {"maxReplicas": 1, "targetCPUUtilizationPercentage": -3}},
            "spec.metrics[0].resource.target.averageUtilization: Invalid value: -3: must be great",
        ),
        (
            "runtimeclasses",
            {"handler": "a", "overhead": {"podFixed": {"cpu": "-1"}}},
            'overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0',
        ),
        (
            "storageclasses",
            {
                "provisioner": "a/b",
                "allowedTopologies": [{"matchLabelExpressions": [{"values": ["b", "b"]}]}],
            },
            'allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "b"',
        ),
        (
            "persistentvolumes",
            {"spec": {"capacity": {"storage": "-1"}, "nfs": {}}},
            "spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
        ),
        (
            "persistentvolumes",
            {"spec": {"csi": {"controllerPublishSecretRef": {"name": "a"}}}},
            "spec.csi.controllerPublishSecretRef.namespace: Required value",
        ),
        (
            "flowschemas",
            flow({"subjects": [account(name="a", namespace="A_")]}),
            'subjects[0].serviceAccount.namespace: Invalid value: "A_": a lowercase RFC 1123',
        ),
        (
            "flowschemas",
            flow({"nonResourceRules": [{"verbs": ["fly"], "nonResourceURLs": ["x"]}]}),
            'nonResourceRules[0].nonResourceURLs[0]: Invalid value: "x": must start with slash',
        ),
        (
            "flowschemas",
            flow({"nonResourceRules": [{"verbs": ["fly"], "nonResourceURLs": ["/a*b"]}]}),
            'verbs: Unsupported value: ["fly"]: supported values: "create", "delete"',
        ),
        (
            "flowschemas",
            flow({"resourceRules": [{"verbs": ["*"], "namespaces": ["A_"]}]}),
            "resourceRules[0].apiGroups: Required value: resource rules must supply at least one",
        ),
        (
            "flowschemas",
            flow({"resourceRules": [{"verbs": ["*"], "namespaces": ["A_"]}]}),
            "each member of this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label",
        ),
        (
            "cronjobs",
            {"spec": {"schedule": "CRON_TZ=No/Zone * * * * *", "jobTemplate": {"spec": {}}}},
            "provided bad location No/Zone: unknown time zone No/Zone",
        ),
        (
            "mutatingwebhookconfigurations",
            {"webhooks": [{"name": "a.b.c", "clientConfig": {"url": "https://u:p@h"}}]},
            'Invalid value: "u:p": user information is not permitted in the URL',
        ),
        (
            "apiservices",
            {"spec": {"group": "a.io", "version": "v1", "caBundle": "YQ=="}},
            'Invalid value: "1 bytes": local APIServices may not have a caBundle',
        ),
        (
            "storageclasses",
            {
                "provisioner": "a/b",
                "allowedTopologies": [
                    {"matchLabelExpressions": [{"key": "a", "values": values}]}
                    for values in (["x", "y"], ["y", "x"])
                ],
            },
            'allowedTopologies[1].matchLabelExpressions: Duplicate value: ""',
        ),
    ],
)
def test_invalid(plural: str, content: Object, expected: str) -> None:
    assert expected in complaints(plural, new(plural, **content))


@pytest.mark.parametrize(
    ("plural", "content", "unexpected"),
    [
        ("networkpolicies", {"spec": {"policyTypes": ["Ingress", "a", "b"]}}, "Unsupported value"),
        ("servicecidrs", {"spec": {"cidrs": ["a", "b", "c"]}}, "spec.cidrs["),
        (
            "services",
            service(clusterIP="None", clusterIPs=["None", "10.0.0.1"], ports=[{"nodePort": 3}]),
            "spec.ports",
        ),
        (
            "endpointslices",
            {"addressType": "IPv4", "ports": [{"port": 0, "protocol": "Q"}]},
            "].port",
        ),
        (
            "limitranges",
            {"spec": {"limits": [{"type": "Pod", "min": {"cpu": "2"}, "default": {"cpu": "1"}}]}},
            "is greater than default value",
        ),
        (
            "horizontalpodautoscalers",
            metrics({"type": "Value", "pods": {"metric": {}, "target": {}}}),
            "must populate the given metric source only",
        ),
    ],
)
def test_what_upstream_does_not_complain_of(plural: str, content: Object, unexpected: str) -> None:
    """One complaint is enough where others would follow from it, and some rules do not exist."""
    found = complaints(plural, new(plural, **content))
    assert found
    assert unexpected not in found
