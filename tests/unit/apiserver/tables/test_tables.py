"""The cells of every kind's table, for objects that show its rules."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from navarch.api.kinds import KINDS
from navarch.apiserver.tables.render import DEFAULT, TABLES, table_of
from navarch.apiserver.tables.table import Table

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
META = {"name": "x", "creationTimestamp": "2026-01-02T11:55:00Z"}
TEMPLATE = {"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j:2"}]}}
SELECTOR = {"matchLabels": {"app": "x"}}
Object = dict[str, Any]


def cells(resource: str, **obj: Any) -> list[Any]:
    metadata = META | obj.pop("metadata", {})
    return TABLES[resource].cells({"metadata": metadata, **obj}, NOW)


@pytest.mark.parametrize(
    ("resource", "obj", "expected"),
    [
        (
            "deployments.apps",
            {
                "spec": {"replicas": 3, "template": TEMPLATE, "selector": SELECTOR},
                "status": {"readyReplicas": 2, "updatedReplicas": 3},
            },
            ["x", "2/3", 3, 0, "5m", "a,b", "i:1,j:2", "app=x"],
        ),
        (
            "replicasets.apps",
            {
                "spec": {"replicas": 3, "template": TEMPLATE, "selector": SELECTOR},
                "status": {"replicas": 2, "readyReplicas": 1},
            },
            ["x", 3, 2, 1, "5m", "a,b", "i:1,j:2", "app=x"],
        ),
        (
            "replicationcontrollers",
            {"spec": {"replicas": 1, "selector": {"app": "x"}, "template": TEMPLATE}},
            ["x", 1, 0, 0, "5m", "a,b", "i:1,j:2", "app=x"],
        ),
        (
            "statefulsets.apps",
            {"spec": {"replicas": 2, "template": TEMPLATE}, "status": {"readyReplicas": 2}},
            ["x", "2/2", "5m", "a,b", "i:1,j:2"],
        ),
        (
            "daemonsets.apps",
            {
                "spec": {"template": TEMPLATE, "selector": SELECTOR},
                "status": {"desiredNumberScheduled": 2, "numberReady": 1},
            },
            ["x", 2, 0, 1, 0, 0, "<none>", "5m", "a,b", "i:1,j:2", "app=x"],
        ),
        (
            "jobs.batch",
            {
                "spec": {"completions": 3, "template": TEMPLATE},
                "status": {
                    "succeeded": 3,
                    "startTime": "2026-01-02T11:00:00Z",
                    "completionTime": "2026-01-02T11:02:30Z",
                    "conditions": [{"type": "Complete", "status": "True"}],
                },
            },
            ["x", "Complete", "3/3", "2m30s", "5m", "a,b", "i:1,j:2", "<none>"],
        ),
        (
            "jobs.batch",
            {
                "spec": {"parallelism": 4, "suspend": True, "template": TEMPLATE},
                "status": {"conditions": [{"type": "Suspended", "status": "True"}]},
            },
            ["x", "Suspended", "0/1 of 4", "", "5m", "a,b", "i:1,j:2", "<none>"],
        ),
        (
            "cronjobs.batch",
            {
                "spec": {
                    "schedule": "* * * * *",
                    "suspend": False,
                    "jobTemplate": {"spec": {"template": TEMPLATE}},
                },
                "status": {"active": [{}], "lastScheduleTime": "2026-01-02T11:59:00Z"},
            },
            [
                "x",
                "* * * * *",
                "<none>",
                "False",
                1,
                "60s",
                "5m",
                "a,b",
                "i:1,j:2",
                "<none>",
            ],
        ),
        (
            "poddisruptionbudgets.policy",
            {"spec": {"maxUnavailable": "50%"}, "status": {"disruptionsAllowed": 1}},
            ["x", "N/A", "50%", 1, "5m"],
        ),
        (
            "horizontalpodautoscalers.autoscaling",
            {
                "spec": {
                    "scaleTargetRef": {"kind": "Deployment", "name": "web"},
                    "minReplicas": 1,
                    "maxReplicas": 5,
                    "metrics": [
                        {
                            "type": "Resource",
                            "resource": {"name": "cpu", "target": {"averageUtilization": 80}},
                        },
                        {"type": "Pods", "pods": {"target": {"averageValue": "10"}}},
                        {"type": "Other"},
                    ],
                },
                "status": {
                    "currentReplicas": 2,
                    "currentMetrics": [
                        {"type": "Resource", "resource": {"current": {"averageUtilization": 40}}}
                    ],
                },
            },
            [
                "x",
                "Deployment/web",
                "cpu: 40%/80%, <unknown>/10 + 1 more...",
                "1",
                5,
                2,
                "5m",
            ],
        ),
        (
            "controllerrevisions.apps",
            {
                "metadata": {
                    "ownerReferences": [
                        {
                            "apiVersion": "apps/v1",
                            "kind": "StatefulSet",
                            "name": "web",
                            "controller": True,
                        }
                    ]
                },
                "revision": 4,
            },
            ["x", "statefulset.apps/web", 4, "5m"],
        ),
        (
            "services",
            {
                "spec": {
                    "type": "NodePort",
                    "clusterIPs": ["10.96.0.9"],
                    "ports": [
                        {"port": 80, "nodePort": 30080, "protocol": "TCP"},
                        {"port": 53, "protocol": "UDP"},
                    ],
                    "selector": {"app": "x"},
                }
            },
            ["x", "NodePort", "10.96.0.9", "<none>", "80:30080/TCP,53/UDP", "5m", "app=x"],
        ),
        (
            "services",
            {"spec": {"type": "LoadBalancer", "clusterIPs": ["None"]}},
            ["x", "LoadBalancer", "None", "<pending>", "<none>", "5m", "<none>"],
        ),
        (
            "services",
            {
                "spec": {"type": "LoadBalancer", "externalIPs": ["9.9.9.9"]},
                "status": {"loadBalancer": {"ingress": [{"hostname": "lb"}, {"ip": "1.1.1.1"}]}},
            },
            ["x", "LoadBalancer", "<none>", "1.1.1.1,lb,9.9.9.9", "<none>", "5m", "<none>"],
        ),
        (
            "services",
            {"spec": {"type": "ExternalName", "externalName": "example.org"}},
            ["x", "ExternalName", "<none>", "example.org", "<none>", "5m", "<none>"],
        ),
        (
            "endpoints",
            {
                "subsets": [
                    {
                        "addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}],
                        "ports": [{"port": 80}, {"port": 443}],
                    }
                ]
            },
            ["x", "10.0.0.1:80,10.0.0.2:80,10.0.0.1:443 + 1 more...", "5m"],
        ),
        ("endpoints", {}, ["x", "<none>", "5m"]),
        (
            "endpointslices.discovery.k8s.io",
            {
                "addressType": "IPv4",
                "ports": [{"port": 80}, {"name": "x"}, {}],
                "endpoints": [{"addresses": [f"10.0.0.{n}"]} for n in range(4)],
            },
            ["x", "IPv4", "80,x,*", "10.0.0.0,10.0.0.1,10.0.0.2 + 1 more...", "5m"],
        ),
        (
            "endpointslices.discovery.k8s.io",
            {"addressType": "IPv4"},
            ["x", "IPv4", "<unset>", "<unset>", "5m"],
        ),
        (
            "ingresses.networking.k8s.io",
            {
                "spec": {
                    "rules": [{"host": f"h{n}"} for n in range(5)],
                    "tls": [{}],
                    "ingressClassName": "n",
                },
                "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}},
            },
            ["x", "n", "h0,h1,h2 + 2 more...", "1.2.3.4", "80, 443", "5m"],
        ),
        (
            "ingressclasses.networking.k8s.io",
            {
                "metadata": {
                    "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}
                },
                "spec": {
                    "controller": "a/b",
                    "parameters": {"kind": "P", "apiGroup": "g.io", "name": "n"},
                },
            },
            ["x (default)", "a/b", "P.g.io/n", "5m"],
        ),
        ("networkpolicies.networking.k8s.io", {"spec": {"podSelector": {}}}, ["x", "<none>", "5m"]),
        (
            "ipaddresses.networking.k8s.io",
            {"spec": {"parentRef": {"resource": "services", "namespace": "d", "name": "s"}}},
            ["x", "services/d/s"],
        ),
        (
            "persistentvolumes",
            {
                "spec": {
                    "capacity": {"storage": "1Gi"},
                    "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "claimRef": {"namespace": "d", "name": "c"},
                    "storageClassName": "fast",
                    "volumeMode": "Filesystem",
                },
                "status": {"phase": "Bound"},
            },
            [
                "x",
                "1Gi",
                "RWO,RWX",
                "Retain",
                "Bound",
                "d/c",
                "fast",
                "<unset>",
                "",
                "5m",
                "Filesystem",
            ],
        ),
        (
            "persistentvolumeclaims",
            {"spec": {"storageClassName": "fast"}, "status": {"phase": "Pending"}},
            ["x", "Pending", "", "", "", "fast", "<unset>", "5m", "<unset>"],
        ),
        (
            "storageclasses.storage.k8s.io",
            {
                "metadata": {
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}
                },
                "provisioner": "p",
            },
            ["x (default)", "p", "Delete", "Immediate", False, "5m"],
        ),
        (
            "csidrivers.storage.k8s.io",
            {"spec": {"tokenRequests": [{"audience": "a"}]}},
            ["x", True, False, False, "a", False, "<none>", "5m"],
        ),
        (
            "nodes",
            {
                "metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}},
                "spec": {"unschedulable": True},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "addresses": [{"type": "InternalIP", "address": "192.168.49.2"}],
                    "nodeInfo": {
                        "kubeletVersion": "v1.36.0",
                        "osImage": "Debian",
                        "kernelVersion": "6.1",
                        "architecture": "amd64",
                        "containerRuntimeVersion": "containerd://1.6.20",
                    },
                },
            },
            [
                "x",
                "Ready,SchedulingDisabled",
                "control-plane",
                "5m",
                "v1.36.0",
                "192.168.49.2",
                "<none>",
                "Debian",
                "6.1 (amd64)",
                "containerd://1.6.20",
            ],
        ),
        (
            "nodes",
            {},
            [
                "x",
                "Unknown",
                "<none>",
                "5m",
                "",
                "<none>",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>",
            ],
        ),
        ("namespaces", {"status": {"phase": "Active"}}, ["x", "Active", "5m"]),
        (
            "events",
            {
                "type": "Normal",
                "reason": "Pulled",
                "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
                "source": {"component": "kubelet", "host": "n1"},
                "message": "pulled \n",
                "firstTimestamp": "2026-01-02T11:50:00Z",
                "lastTimestamp": "2026-01-02T11:59:00Z",
                "count": 3,
            },
            [
                "60s",
                "Normal",
                "Pulled",
                "pod/p",
                "spec.containers{c}",
                "kubelet, n1",
                "pulled",
                "10m",
                3,
                "x",
            ],
        ),
        (
            "events",
            {
                "eventTime": "2026-01-02T11:50:00.000000Z",
                "reportingComponent": "scheduler",
                "series": {"count": 7, "lastObservedTime": "2026-01-02T11:59:30.000000Z"},
                "involvedObject": {"kind": "Node"},
            },
            ["30s", "", "", "node", "", "scheduler", "", "10m", 7, "x"],
        ),
        ("configmaps", {"data": {"a": ""}, "binaryData": {"b": ""}}, ["x", 2, "5m"]),
        ("secrets", {"type": "Opaque", "data": {"a": ""}}, ["x", "Opaque", 1, "5m"]),
        (
            "resourcequotas",
            {"status": {"hard": {"pods": "5", "limits.cpu": "2"}, "used": {"pods": "1"}}},
            ["x", "pods: 1/5", "limits.cpu: 0/2", "5m"],
        ),
        (
            "rolebindings.rbac.authorization.k8s.io",
            {
                "roleRef": {"kind": "Role", "name": "r"},
                "subjects": [
                    {"kind": "User", "name": "u"},
                    {"kind": "User", "name": "v"},
                    {"kind": "ServiceAccount", "namespace": "d", "name": "s"},
                ],
            },
            ["x", "Role/r", "5m", "u, v", "", "d/s"],
        ),
        (
            "certificatesigningrequests.certificates.k8s.io",
            {
                "spec": {"signerName": "s", "username": "u", "expirationSeconds": 3600},
                "status": {"conditions": [{"type": "Approved"}], "certificate": "aa"},
            },
            ["x", "5m", "s", "u", "60m", "Approved,Issued"],
        ),
        (
            "flowschemas.flowcontrol.apiserver.k8s.io",
            {"spec": {"matchingPrecedence": 100, "priorityLevelConfiguration": {"name": "p"}}},
            ["x", "p", 100, "<none>", "5m", "?"],
        ),
        (
            "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
            {"spec": {"type": "Exempt"}},
            ["x", "Exempt", "<none>", "<none>", "<none>", "<none>", "5m"],
        ),
        (
            "apiservices.apiregistration.k8s.io",
            {
                "spec": {"service": {"namespace": "d", "name": "s"}},
                "status": {
                    "conditions": [{"type": "Available", "status": "False", "reason": "Gone"}]
                },
            },
            ["x", "d/s", "False (Gone)", "5m"],
        ),
        (
            "validatingadmissionpolicybindings.admissionregistration.k8s.io",
            {"spec": {"policyName": "p", "paramRef": {"name": "n"}}},
            ["x", "p", "*/n", "5m"],
        ),
        (
            "priorityclasses.scheduling.k8s.io",
            {"value": 10, "preemptionPolicy": "Never"},
            ["x", 10, False, "5m", "Never"],
        ),
        (
            "resourceclaims.resource.k8s.io",
            {"status": {"allocation": {}, "reservedFor": [{}]}},
            ["x", "allocated,reserved", "5m"],
        ),
        (
            "customresourcedefinitions.apiextensions.k8s.io",
            {},
            ["x", "2026-01-02T11:55:00Z"],
        ),
    ],
)
def test_cells(resource: str, obj: Object, expected: list[Any]) -> None:
    assert cells(resource, **obj) == expected


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k.is_stored], ids=lambda k: f"{k}.{k.version}"
)
def test_an_empty_object_fills_every_column(kind: Any) -> None:
    table = table_of(kind)
    row = table.cells({"metadata": {"name": "x"}}, NOW)
    assert len(row) == len(table.columns)
    names = [each["name"] for each in table.columns if each["format"] == "name"]
    assert names or kind.kind == "StorageVersionMigration"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (DEFAULT, "Name Created At:date"),
        (
            TABLES["pods"],
            "Name Ready Status Restarts Age IP* Node* Nominated Node* Readiness Gates*",
        ),
        (
            TABLES["jobs.batch"],
            "Name Status Completions Duration Age Containers* Images* Selector*",
        ),
        (
            TABLES["events"],
            "Last Seen Type Reason Object Subobject* Source* Message First Seen* Count* Name*",
        ),
        (
            TABLES["replicasets.apps"],
            "Name Desired:integer Current:integer Ready:integer Age Containers* Images* Selector*",
        ),
    ],
)
def test_columns(table: Table, expected: str) -> None:
    def shown(column: Object) -> str:
        of_type = "" if column["type"] == "string" else f":{column['type']}"
        return f"{column['name']}{of_type}{'*' if column['priority'] else ''}"

    assert " ".join(map(shown, table.columns)) == expected
