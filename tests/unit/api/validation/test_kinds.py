"""Rules, defaults and immutable fields of the kinds beside pods, one line each."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest
from tests.certificates import authority

from navarch.api.kinds import KINDS, Kind
from navarch.api.schema.decode import normalise_object
from navarch.api.schema.defaults import apply_defaults
from navarch.api.strategies.registry import strategy_for
from navarch.api.validation.service import validate_addresses_update

Object = dict[str, Any]
KIND_OF = {f"{kind.plural}.{kind.version}": kind for kind in reversed(KINDS) if kind.is_stored}
KIND_OF |= {kind.plural: kind for kind in reversed(KINDS) if kind.is_stored}
KIND_OF |= {f"{kind.plural}.{kind.group}": kind for kind in KINDS if kind.is_stored}
SELECTOR = {"matchLabels": {"app": "web"}}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}


def template(**spec: Any) -> Object:
    return {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}], **spec},
    }


def new(plural: str, name: str = "sample", **content: Any) -> Object:
    """An object as it is stored after its creation."""
    kind = KIND_OF[plural]
    metadata = {"name": name, "uid": "0e1c", "resourceVersion": "1"}
    if kind.namespaced:
        metadata["namespace"] = "default"
    metadata |= content.pop("metadata", {})
    obj, _ = normalise_object(
        kind,
        copy.deepcopy(
            {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **content}
        ),
    )
    return prepared(kind, obj)


def prepared(kind: Kind, obj: Object) -> Object:
    strategy = strategy_for(kind)
    apply_defaults(kind, obj)
    strategy.defaults(obj)
    strategy.prepare_create(obj)
    return obj


def complaints(plural: str, obj: Object) -> str:
    return "\n".join(str(error) for error in strategy_for(KIND_OF[plural]).validate(obj))


def update(plural: str, old: Object, subresource: str = "", **changes: Any) -> tuple[Object, str]:
    """The object after an update, and the complaints about it; `None` removes a field."""
    kind = KIND_OF[plural]
    strategy = strategy_for(kind)
    obj = copy.deepcopy(old)
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = obj
        for key in parents:
            target = target.setdefault(key, {})
        if value is None:
            target.pop(last, None)
        else:
            target[last] = value
    apply_defaults(kind, obj)
    strategy.defaults(obj)
    strategy.prepare_update(obj, old, subresource)
    return obj, "\n".join(str(each) for each in strategy.validate_update(obj, old, subresource))


def service(**spec: Any) -> Object:
    return {"spec": {"ports": [{"port": 80}], **spec}}


def deployment(**spec: Any) -> Object:
    return {"spec": {"selector": SELECTOR, "template": template(), **spec}}


def job(**spec: Any) -> Object:
    return {"spec": {"template": template(restartPolicy="Never"), **spec}}


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
            'spec.ports[1]: Duplicate value: {"protocol":"TCP","port":1}',
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
    ],
)
def test_invalid(plural: str, content: Object, expected: str) -> None:
    assert expected in complaints(plural, new(plural, **content))


def data(**values: str) -> Object:
    return {key: base64.b64encode(text.encode()).decode() for key, text in values.items()}


@pytest.mark.parametrize(
    ("plural", "content", "changes", "expected"),
    [
        ("deployments", deployment(), {"spec__replicas": 3}, ""),
        (
            "deployments",
            deployment(selector={"matchLabels": {"app": "web"}}),
            {"spec__selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}},
            "spec.selector: Invalid value: ",
        ),
        ("statefulsets", deployment(), {"spec__replicas": 3, "spec__minReadySeconds": 1}, ""),
        (
            "statefulsets",
            deployment(serviceName="a"),
            {"spec__serviceName": "b"},
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas'",
        ),
        ("jobs", job(), {"spec__parallelism": 2}, ""),
        (
            "jobs",
            job(),
            {"spec__template__spec__priorityClassName": "x"},
            "spec.template: Invalid value: ",
        ),
        ("jobs", job(), {"spec__completions": 5}, "spec.completions: Invalid value: 5: field is"),
        (
            "jobs",
            job(suspend=True),
            {"spec__template__spec__nodeSelector": {"a": "b"}},
            "",
        ),
        (
            "configmaps",
            {"data": {"a": "1"}, "immutable": True},
            {"data": {"a": "2"}},
            "data: Forbidden: field is immutable when `immutable` is set",
        ),
        (
            "configmaps",
            {"data": {"a": "1"}, "immutable": True},
            {"immutable": False},
            "immutable: Forbidden: field is immutable when `immutable` is set",
        ),
        (
            "configmaps",
            {"data": {"a": "1"}, "immutable": True},
            {"metadata__labels": {"a": "b"}},
            "",
        ),
        (
            "secrets",
            {"data": data(a="1"), "immutable": True},
            {"stringData": {"a": "2"}},
            "data: Forbidden: field is immutable when `immutable` is set",
        ),
        (
            "secrets",
            {"type": "Opaque"},
            {"type": "example.com/other"},
            'type: Invalid value: "example.com/other": field is immutable',
        ),
        (
            "rolebindings",
            {"roleRef": {"kind": "Role", "name": "r"}},
            {"roleRef__name": "other"},
            "cannot change roleRef",
        ),
        (
            "priorityclasses",
            {"value": 1},
            {"value": 2},
            "value: Forbidden: may not be changed in an update.",
        ),
        (
            "persistentvolumeclaims",
            {"spec": CLAIM},
            {"spec__accessModes": ["ReadOnlyMany"]},
            "spec: Forbidden: spec is immutable after creation except resources.requests",
        ),
        ("persistentvolumeclaims", {"spec": CLAIM}, {"spec__volumeName": "v"}, ""),
        (
            "storageclasses",
            {"provisioner": "a.b/c"},
            {"provisioner": "a.b/d"},
            "provisioner: Forbidden: updates to provisioner are forbidden.",
        ),
        (
            "nodes",
            {"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}},
            {"spec__podCIDRs": ["10.2.0.0/24"]},
            'spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid',
        ),
        (
            "endpointslices",
            {"addressType": "IPv4"},
            {"addressType": "IPv6"},
            'addressType: Invalid value: "IPv6": field is immutable',
        ),
        (
            "resourcequotas",
            {"spec": {"hard": {"pods": "1"}}},
            {"spec__scopes": ["BestEffort"]},
            'spec.scopes: Invalid value: ["BestEffort"]: field is immutable',
        ),
        (
            "runtimeclasses",
            {"handler": "a"},
            {"handler": "b"},
            'handler: Invalid value: "b": field is immutable',
        ),
    ],
)
def test_updates(plural: str, content: Object, changes: Object, expected: str) -> None:
    _, found = update(plural, new(plural, **content), **changes)
    assert expected in found if expected else not found


def test_generations() -> None:
    old = new("deployments", **deployment())
    assert old["metadata"]["generation"] == 1
    assert update("deployments", old, spec__replicas=3)[0]["metadata"]["generation"] == 2
    assert update("deployments", old, metadata__labels={"a": "b"})[0]["metadata"]["generation"] == 1
    status, _ = update("deployments", old, "status", status={"replicas": 1}, spec__replicas=9)
    assert (status["metadata"]["generation"], status["spec"]["replicas"]) == (1, 1)
    assert "generation" not in new("configmaps", metadata={"generation": 7})["metadata"]


def test_namespace() -> None:
    namespace = new("namespaces", "team")
    assert namespace["metadata"]["labels"] == {"kubernetes.io/metadata.name": "team"}
    assert namespace["spec"] == {"finalizers": ["kubernetes"]}
    assert namespace["status"] == {"phase": "Active"}
    kept, _ = update("namespaces", namespace, spec__finalizers=[])
    assert kept["spec"] == {"finalizers": ["kubernetes"]}
    freed, problems = update("namespaces", namespace, "finalize", spec__finalizers=[])
    assert (freed["spec"], problems) == ({"finalizers": []}, "")


def test_job_selector_and_labels() -> None:
    created = new("jobs", "pi", **job())
    expected = {
        "app": "web",
        "job-name": "pi",
        "batch.kubernetes.io/job-name": "pi",
        "controller-uid": "0e1c",
        "batch.kubernetes.io/controller-uid": "0e1c",
    }
    assert created["spec"]["template"]["metadata"]["labels"] == expected
    assert created["spec"]["selector"] == {
        "matchLabels": {"batch.kubernetes.io/controller-uid": "0e1c"}
    }
    defaults = {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": 6,
        "completionMode": "NonIndexed",
        "suspend": False,
        "manualSelector": False,
        "podReplacementPolicy": "TerminatingOrFailed",
    }
    assert {key: created["spec"][key] for key in defaults} == defaults
    assert "completions" not in new("jobs", **job(parallelism=2))["spec"]


def test_job_status() -> None:
    old = new("jobs", **job())
    complete = [
        {"type": "SuccessCriteriaMet", "status": "True"},
        {"type": "Complete", "status": "True"},
    ]
    _, found = update("jobs", old, "status", status={"conditions": complete})
    assert "status.completionTime: Required value: completionTime is required" in found
    assert "status.startTime: Required value: startTime is required for finished job" in found
    times = {"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z"}
    done, found = update("jobs", old, "status", status={"conditions": complete, **times})
    assert found == ""
    _, found = update("jobs", done, "status", status=times)
    assert "cannot disable the terminal Complete=True condition" in found
    custom = [{"type": "Custom", "status": "True"}]
    assert update("jobs", old, "status", status={"conditions": custom})[1] == ""


def test_service_defaults() -> None:
    spec = new("services", **service())["spec"]
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert (spec["type"], spec["sessionAffinity"]) == ("ClusterIP", "None")
    assert spec["internalTrafficPolicy"] == "Cluster"
    assert "externalTrafficPolicy" not in spec
    spec = new("services", **service(type="LoadBalancer", sessionAffinity="ClientIP"))["spec"]
    assert spec["externalTrafficPolicy"] == "Cluster"
    assert spec["allocateLoadBalancerNodePorts"] is True
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}


ALLOCATED = {
    "clusterIP": "10.96.0.7",
    "clusterIPs": ["10.96.0.7"],
    "ipFamilies": ["IPv4"],
    "ipFamilyPolicy": "SingleStack",
}


def test_service_keeps_what_was_allocated() -> None:
    ports = [{"port": 80, "nodePort": 30080}]
    old = new("services", **service(type="NodePort", ports=ports, **ALLOCATED))
    fresh = new("services", **service(type="NodePort"))["spec"]
    kept, found = update("services", old, spec=fresh)
    assert found == ""
    assert {**old["spec"], **kept["spec"]} == old["spec"]
    assert old["spec"].keys() - kept["spec"].keys() == {"ipFamilies", "ipFamilyPolicy"}
    changed, _ = update("services", old, spec__clusterIP="10.96.0.8")
    errors = validate_addresses_update(changed["spec"], old["spec"])
    assert [str(each) for each in errors] == [
        'spec.clusterIPs[0]: Invalid value: ["10.96.0.8"]: may not change once set'
    ]


@pytest.mark.parametrize(
    ("kind", "gone"),
    [
        ("ClusterIP", ["nodePort", "externalTrafficPolicy"]),
        ("ExternalName", ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "nodePort"]),
    ],
)
def test_service_drops_what_a_new_type_has_no_use_for(kind: str, gone: list[str]) -> None:
    ports = [{"port": 80, "nodePort": 30080}]
    old = new("services", **service(type="NodePort", ports=ports, **ALLOCATED))
    changed, found = update("services", old, spec__type=kind, spec__externalName="a.example.com")
    assert found == ""
    left = {*changed["spec"], *changed["spec"]["ports"][0]}
    assert not left & set(gone)


def test_service_from_external_name() -> None:
    old = new("services", **service(type="ExternalName", externalName="a.example.com"))
    changed, found = update("services", old, spec__type="ClusterIP", spec__externalName=None)
    assert found == ""
    assert "clusterIP" not in changed["spec"]


def test_secret_data() -> None:
    secret = new("secrets", data=data(a="1", b="1"), stringData={"a": "2"})
    assert secret["data"] == data(a="2", b="1")
    assert secret["type"] == "Opaque"
    assert "stringData" not in secret


def test_limit_range_defaults() -> None:
    item = {
        "type": "Container",
        "max": {"cpu": "2", "memory": "1Gi"},
        "min": {"cpu": "100m", "ephemeral-storage": "1Gi"},
        "default": {"memory": "512Mi"},
    }
    (limit,) = new("limitranges", spec={"limits": [item]})["spec"]["limits"]
    assert limit["default"] == {"cpu": "2", "memory": "512Mi"}
    assert limit["defaultRequest"] == {"cpu": "2", "memory": "512Mi", "ephemeral-storage": "1Gi"}


def test_signing_request_verdicts() -> None:
    old = new("certificatesigningrequests", spec={"username": "forged", "signerName": "a.b/c"})
    assert "username" not in old["spec"]
    strategy = strategy_for(KIND_OF["certificatesigningrequests"])
    strategy.stamp_user(old, {"username": "ann", "groups": ["g"]})
    assert (old["spec"]["username"], old["spec"]["groups"]) == ("ann", ["g"])
    verdict = [{"type": "Approved", "status": "True"}]
    _, found = update("certificatesigningrequests", old, "status", status={"conditions": verdict})
    assert 'updates may not add a condition of type "Approved"' in found
    approved, found = update(
        "certificatesigningrequests", old, "approval", status={"conditions": verdict}
    )
    assert found == ""
    assert approved["status"]["conditions"][0]["lastTransitionTime"]
    pem = base64.b64encode(authority()[0]).decode()
    issued, found = update(
        "certificatesigningrequests", approved, "status", status={"certificate": pem}
    )
    assert found == ""
    assert issued["status"]["conditions"][0]["type"] == "Approved"


def test_status_updates_of_some_kinds_keep_the_metadata() -> None:
    kind = KIND_OF["flowschemas"]
    old = new("flowschemas", spec={"priorityLevelConfiguration": {"name": "a"}})
    obj = copy.deepcopy(old)
    obj["metadata"]["labels"] = {"a": "b"}
    strategy_for(kind).prepare_update(obj, old, "status")
    assert "labels" not in obj["metadata"]


def test_fresh_statuses_have_what_go_always_prints() -> None:
    assert new("replicasets", **deployment())["status"] == {"replicas": 0}
    assert new("statefulsets", **deployment())["status"] == {
        "replicas": 0,
        "availableReplicas": 0,
    }
    assert new("persistentvolumeclaims", spec=CLAIM)["status"] == {"phase": "Pending"}
    assert new("customresourcedefinitions", spec={"names": {}})["status"]["conditions"] is None
