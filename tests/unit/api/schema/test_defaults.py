"""Constant defaults, and that they come only where upstream sets them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from navarch.api.kinds import kind_by_name
from navarch.api.schema.decode import decode_object
from navarch.api.schema.defaults import apply_defaults


def defaulted(group: str, version: str, name: str, body: dict[str, Any]) -> Any:
    kind = kind_by_name(group, version, name)
    assert kind is not None
    obj, warnings = decode_object(kind, json.dumps(body).encode())
    assert warnings == []
    apply_defaults(kind, obj)
    once = json.dumps(obj)
    apply_defaults(kind, obj)
    assert json.dumps(obj) == once
    return obj


POD_SPEC = {
    "dnsPolicy": "ClusterFirst",
    "restartPolicy": "Always",
    "securityContext": {},
    "terminationGracePeriodSeconds": 30,
    "schedulerName": "default-scheduler",
}


def test_pods() -> None:
    probe = {"httpGet": {"port": 80}, "periodSeconds": 3, "failureThreshold": 0}
    volumes = [{"name": "a", "secret": {}}, {"name": "b", "hostPath": {"path": "/x"}}]
    spec = {"containers": [{"name": "c", "livenessProbe": probe}], "volumes": volumes}
    result = defaulted("", "v1", "Pod", {"spec": {**spec, "terminationGracePeriodSeconds": 0}})
    assert result["spec"] == {
        **POD_SPEC,
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "c",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "livenessProbe": {
                    "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1,
                    "periodSeconds": 3,
                    "successThreshold": 1,
                    "failureThreshold": 3,
                },
            }
        ],
        "volumes": [
            {"name": "a", "secret": {"defaultMode": 420}},
            {"name": "b", "hostPath": {"path": "/x", "type": ""}},
        ],
    }


@pytest.mark.parametrize(
    ("group", "version", "kind", "field", "expected"),
    [
        (
            "apps",
            "v1",
            "Deployment",
            "spec",
            {
                "replicas": 1,
                "revisionHistoryLimit": 10,
                "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate"},
                "template": {"metadata": {}, "spec": {"containers": [], **POD_SPEC}},
            },
        ),
        ("", "v1", "Service", "spec", {"sessionAffinity": "None", "type": "ClusterIP"}),
        (
            "",
            "v1",
            "PersistentVolume",
            "spec",
            {"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"},
        ),
        ("", "v1", "Namespace", "status", {"phase": "Active"}),
        (
            "rbac.authorization.k8s.io",
            "v1",
            "RoleBinding",
            "roleRef",
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "", "name": ""},
        ),
        (
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "spec",
            {
                "group": "",
                "names": {"plural": "", "kind": ""},
                "scope": "",
                "versions": [],
                "conversion": {"strategy": "None"},
            },
        ),
    ],
)
def test_empty_objects(group: str, version: str, kind: str, field: str, expected: Any) -> None:
    assert defaulted(group, version, kind, {})[field] == expected


def test_a_template_does_not_get_the_defaults_of_the_object() -> None:
    template: dict[str, Any] = {"spec": {"template": {"spec": {"containers": []}}}}
    job = defaulted("batch", "v1", "Job", template)
    cron = defaulted("batch", "v1", "CronJob", {"spec": {"jobTemplate": template}})
    assert job["spec"]["completionMode"] == "NonIndexed"
    assert job["spec"]["suspend"] is False
    assert "completionMode" not in cron["spec"]["jobTemplate"]["spec"]
    assert cron["spec"]["suspend"] is False
    attachment: dict[str, Any] = {"spec": {"source": {"inlineVolumeSpec": {}}}}
    inline = defaulted("storage.k8s.io", "v1", "VolumeAttachment", attachment)
    assert inline["spec"]["source"]["inlineVolumeSpec"] == {}


def test_created_defaults_are_not_shared() -> None:
    first, second = (defaulted("storage.k8s.io", "v1", "CSIDriver", {}) for _ in range(2))
    assert first["spec"]["volumeLifecycleModes"] == ["Persistent"]
    assert first["spec"]["volumeLifecycleModes"] is not second["spec"]["volumeLifecycleModes"]


def test_amounts_are_no_finer_than_a_thousandth() -> None:
    limits = {"cpu": "100u", "memory": "1.5", "x": "1e-6"}
    container = {"name": "c", "resources": {"limits": limits}}
    result = defaulted("", "v1", "Pod", {"spec": {"containers": [container]}})
    assert result["spec"]["containers"][0]["resources"]["limits"] == {
        "cpu": "1m",
        "memory": "1500m",
        "x": "1e-3",
    }
