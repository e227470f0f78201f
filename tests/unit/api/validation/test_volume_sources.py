"""What a pod's volume or a PersistentVolume must say to its driver, in upstream's order."""

from __future__ import annotations

import pytest
from tests.unit.api.validation.samples import Object, complaints, new

IN_FORM = "must be valid format"
ONE_TYPE = "Forbidden: may not specify more than 1 volume type"
BLOB = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
PAIRS = "must be a host:port pair or multiple pairs separated by commas"
NAME = "iqn.2001-04.com.example:storage"
ISCSI = {"targetPortal": "1.2.3.4", "iqn": NAME}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({}, ["spec: Required value: must specify a volume type"]),
        ({"hostPath": {}}, ["spec.hostPath.path: Required value"]),
        (
            {"csi": {"driver": "d", "volumeHandle": "h"}, "nfs": {"server": "s", "path": "p"}},
            [
                'spec.nfs.path: Invalid value: "p": must be an absolute path',
                f"spec.csi: {ONE_TYPE}",
            ],
        ),
        (
            {"rbd": {"monitors": ["m"], "image": "i"}, "cephfs": {"monitors": ["m"]}},
            [f"spec.cephFS: {ONE_TYPE}"],
        ),
        (
            {"gcePersistentDisk": {"partition": 256}},
            [
                "spec.persistentDisk.pdName: Required value",
                "spec.persistentDisk.partition: Invalid value: 256: must be between 1 and 255, "
                "inclusive",
            ],
        ),
        (
            {"iscsi": ISCSI | {"iqn": "x", "lun": 256, "chapAuthSession": True}},
            [
                f'spec.iscsi.iqn: Invalid value: "x": {IN_FORM} starting with iqn, eui, or naa',
                "spec.iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                "spec.iscsi.secretRef: Required value",
            ],
        ),
        (
            {"iscsi": ISCSI | {"initiatorName": "iqn.1"}},
            [f'spec.iscsi.initiatorname: Invalid value: "iqn.1": {IN_FORM}'],
        ),
        (
            {"iscsi": ISCSI | {"targetPortal": "p" * 64, "initiatorName": NAME}},
            [f'spec.iscsi.targetportal: Invalid value: "{"p" * 64}": Total length of'],
        ),
        (
            {"flocker": {"datasetName": "a/b", "datasetUUID": "u"}},
            [
                'spec.flocker: Invalid value: "resource": datasetName and datasetUUID can not',
                "spec.flocker.datasetName: Invalid value: \"a/b\": must not contain '/'",
            ],
        ),
        (
            {"fc": {"targetWWNs": ["w"], "wwids": ["i"]}},
            [
                'spec.fc.targetWWNs: Invalid value: ["w"]: targetWWNs and wwids can not be',
                "spec.fc.lun: Required value: lun is required if targetWWNs is specified",
            ],
        ),
        (
            {"quobyte": {"registry": "a:1,b", "volume": "v"}},
            [f'spec.quobyte.registry: Invalid value: "a:1,b": {PAIRS}'],
        ),
        (
            {"flexVolume": {"driver": "d", "options": {"x.k8s.io/a": "b"}}},
            ['spec.flexVolume.options[x.k8s.io/a]: Invalid value: "x.k8s.io/a": kubernetes.io and'],
        ),
        (
            {"azureDisk": {"diskName": "d", "diskURI": "u", "kind": "Shared", "cachingMode": "x"}},
            [
                'spec.azureDisk.cachingMode: Unsupported value: "x": supported values: "None", ',
                f'spec.azureDisk.diskURI: Unsupported value: "u": supported values: "{BLOB}"',
            ],
        ),
        (
            {"storageos": {"volumeName": "A", "secretRef": {"name": "s"}}},
            [
                'spec.storageos.volumeName: Invalid value: "A": a lowercase RFC 1123 label',
                "spec.storageos.secretRef.namespace: Required value",
            ],
        ),
        (
            {"glusterfs": {"endpoints": "e", "path": "p", "endpointsNamespace": ""}},
            ['spec.glusterfs.endpointsNamespace: Invalid value: "": if the endpointnamespace'],
        ),
    ],
    ids=str,
)
def test_persistent_volumes(source: Object, said: list[str]) -> None:
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], **source}
    found = complaints("persistentvolumes", new("persistentvolumes", spec=spec)).splitlines()
    assert len(found) == len(said), found
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True)), found


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            {"gitRepo": {"directory": ".."}},
            ["gitRepo.repository: Required value", 'gitRepo.directory: Invalid value: "..": must'],
        ),
        (
            {"downwardAPI": {}, "secret": {"secretName": "s"}},
            [f"downwarAPI: {ONE_TYPE}"],
        ),
        ({"cinder": {"volumeID": "v", "secretRef": {}}}, ["cinder.secretRef.name: Required value"]),
        (
            {"iscsi": ISCSI | {"targetPortal": "p" * 63, "initiatorName": NAME}},
            ['name: Invalid value: "v": Total length of'],
        ),
    ],
    ids=str,
)
def test_volumes_of_pods(source: Object, said: list[str]) -> None:
    container = {"name": "c", "image": "i"}
    spec = {"containers": [container], "volumes": [{"name": "v", **source}]}
    found = complaints("pods", new("pods", spec=spec)).splitlines()
    assert len(found) == len(said), found
    for text, start in zip(found, said, strict=True):
        assert text.startswith(f"spec.volumes[0].{start}")
