"""CSI without drivers: what is read, named and decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from navarch.api.types.authentication_v1 import TokenRequest
from navarch.api.types.core_v1 import (
    CSIPersistentVolumeSource,
    CSIVolumeSource,
    LocalObjectReference,
    Node,
    PersistentVolume,
    PersistentVolumeSpec,
    Pod,
    PodSecurityContext,
    PodSpec,
    Secret,
    Volume,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.storage_v1 import (
    CSIDriver,
    CSIDriverSpec,
    CSINodeDriver,
    VolumeNodeResources,
)
from navarch.api.types.storage_v1 import TokenRequest as StorageTokenRequest
from navarch.client.clock import FakeClock
from navarch.node.cri.values import RuntimeFailure
from navarch.node.resources import NodeResources
from navarch.node.volumes import csi_pb2 as pb
from navarch.node.volumes.csi import CsiPlugin
from navarch.node.volumes.csi_attach import Attachments
from navarch.node.volumes.csi_client import _capability
from navarch.node.volumes.csi_drivers import highest_version
from navarch.node.volumes.csi_node import NODE_ID, NodeInfoProblem, node_change, with_driver
from navarch.node.volumes.csi_records import CsiPaths, inline_handle, load, remove, save
from navarch.node.volumes.csi_values import (
    CsiVolume,
    NodeInfo,
    Source,
    is_final,
    source_of,
    wants_group,
)
from navarch.node.volumes.plugin import VolumeHost, VolumeProblem, VolumeSpec


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        pytest.param(["1.0.0"], (1, 0, 0), id="one"),
        pytest.param(["1.2.0", "1.10.0", "0.3.0"], (1, 10, 0), id="newest"),
        pytest.param(["2.0.0", "1.1"], (1, 1), id="not-too-new"),
        pytest.param(["x", "1.0"], (1, 0), id="nonsense"),
    ],
)
def test_highest_version(versions: list[str], expected: tuple[int, ...]) -> None:
    assert highest_version(versions) == expected


@pytest.mark.parametrize("versions", [["2.0.0"], ["x"], ["0.3.0"]])
def test_no_version(versions: list[str]) -> None:
    with pytest.raises(ValueError, match="highest supported version"):
        highest_version(versions)


def entry(name: str, node_id: str = "id", *keys: str, count: int | None = None) -> CSINodeDriver:
    allocatable = None if count is None else VolumeNodeResources(count=count)
    return CSINodeDriver(name=name, nodeID=node_id, topologyKeys=[*keys], allocatable=allocatable)


@pytest.mark.parametrize(
    ("present", "info", "expected"),
    [
        pytest.param([], NodeInfo("id"), [entry("a")], id="first"),
        pytest.param([entry("a")], NodeInfo("id"), None, id="same"),
        pytest.param([entry("b")], NodeInfo("id"), [entry("b"), entry("a")], id="another"),
        pytest.param([entry("a", "old")], NodeInfo("id"), [entry("a")], id="other-node-id"),
        pytest.param([entry("a", count=3)], NodeInfo("id", 3), None, id="same-limit"),
        pytest.param([entry("a", count=3)], NodeInfo("id", 4), [entry("a", count=4)], id="limit"),
        pytest.param([entry("a", count=3)], NodeInfo("id", -1), [entry("a")], id="no-limit"),
        pytest.param(
            [], NodeInfo("id", 1 << 40), [entry("a", count=(1 << 31) - 1)], id="huge-limit"
        ),
        pytest.param(
            [entry("a", "id", "y", "x")], NodeInfo("id", 0, {"x": "1", "y": "2"}), None, id="order"
        ),
    ],
)
def test_drivers_of_a_node(
    present: list[CSINodeDriver], info: NodeInfo, expected: list[CSINodeDriver] | None
) -> None:
    assert with_driver(present, "a", info) == expected


def node(annotation: str = "", **labels: str) -> Node:
    annotations = {NODE_ID: annotation} if annotation else {}
    return Node(metadata=ObjectMeta(annotations=annotations, labels=labels))


@pytest.mark.parametrize(
    ("of", "info", "expected"),
    [
        pytest.param(node(), NodeInfo("id"), {"annotations": {NODE_ID: '{"a":"id"}'}}, id="first"),
        pytest.param(node('{"a":"id"}'), NodeInfo("id"), None, id="same"),
        pytest.param(
            node('{"b":"x"}'),
            NodeInfo("id", 0, {"zone": "z"}),
            {"annotations": {NODE_ID: '{"a":"id","b":"x"}'}, "labels": {"zone": "z"}},
            id="another",
        ),
        pytest.param(
            node('{"a":"id"}', zone="z"), NodeInfo("id", 0, {"zone": "z"}), None, id="labelled"
        ),
        pytest.param(node('{"a":"id"}'), None, {"annotations": {NODE_ID: None}}, id="last-goes"),
        pytest.param(
            node('{"a":"id","b":"x"}'), None, {"annotations": {NODE_ID: '{"b":"x"}'}}, id="one-goes"
        ),
        pytest.param(node(), None, None, id="nothing-goes"),
    ],
)
def test_marks_on_the_node(of: Node, info: NodeInfo | None, expected: object) -> None:
    assert node_change(of, "a", info) == (None if expected is None else {"metadata": expected})


@pytest.mark.parametrize(
    ("of", "message"),
    [
        pytest.param(node(zone="other"), 'driver reported "zone":"z" but', id="collision"),
        pytest.param(node("{"), "failed to parse node's", id="garbled"),
    ],
)
def test_marks_that_cannot_be_made(of: Node, message: str) -> None:
    with pytest.raises(NodeInfoProblem, match=message):
        node_change(of, "a", NodeInfo("id", 0, {"zone": "z"}))


def spec(group: int | None, modes: list[str] | None) -> VolumeSpec:
    pod = Pod(spec=PodSpec(securityContext=PodSecurityContext(fsGroup=group)))
    persistent = None
    if modes is not None:
        persistent = PersistentVolume(spec=PersistentVolumeSpec(accessModes=modes))
    return VolumeSpec(pod, Volume(name="v"), persistent)


ONCE = "ReadWriteOnceWithFSType"


@pytest.mark.parametrize(
    ("group", "modes", "fs_type", "policy", "read_only", "expected"),
    [
        pytest.param(None, ["ReadWriteOnce"], "ext4", "File", False, False, id="no-group"),
        pytest.param(5, ["ReadWriteMany"], "", "File", False, True, id="file"),
        pytest.param(5, ["ReadWriteOnce"], "ext4", "None", False, False, id="none"),
        pytest.param(5, ["ReadWriteOnce"], "ext4", ONCE, False, True, id="once"),
        pytest.param(5, ["ReadWriteOncePod"], "ext4", ONCE, False, True, id="once-pod"),
        pytest.param(5, ["ReadWriteOnce"], "", ONCE, False, False, id="no-type"),
        pytest.param(5, ["ReadWriteMany"], "ext4", ONCE, False, False, id="many"),
        pytest.param(5, [], "ext4", ONCE, False, False, id="no-modes"),
        pytest.param(5, None, "ext4", ONCE, False, True, id="inline"),
        pytest.param(5, ["ReadWriteOnce"], "ext4", "File", True, False, id="read-only"),
    ],
)
def test_wants_group(
    group: int | None,
    modes: list[str] | None,
    fs_type: str,
    policy: str,
    read_only: bool,
    expected: bool,
) -> None:
    source = Source("d", "h", persistent=CSIPersistentVolumeSource(fsType=fs_type))
    assert wants_group(spec(group, modes), source, policy, read_only=read_only) is expected


def test_sources() -> None:
    pod = Pod(metadata=ObjectMeta(uid="uid"))
    inline = VolumeSpec(pod, Volume(name="v", csi=CSIVolumeSource(driver="d", fsType="xfs")))
    found = source_of(inline)
    assert (found.driver, found.handle, found.fs_type) == ("d", inline_handle("uid", "v"), "xfs")
    csi = CSIPersistentVolumeSource(driver="d", volumeHandle="h", fsType="ext4")
    volume = PersistentVolume(spec=PersistentVolumeSpec(csi=csi))
    found = source_of(VolumeSpec(pod, Volume(name="v"), volume))
    assert (found.driver, found.handle, found.fs_type) == ("d", "h", "ext4")
    assert found.unique_name == "kubernetes.io/csi/d^h"


@pytest.mark.parametrize(
    ("mode", "capabilities", "expected"),
    [
        ("ReadWriteOnce", frozenset(), "SINGLE_NODE_WRITER"),
        ("ReadWriteOncePod", frozenset(), "SINGLE_NODE_WRITER"),
        ("ReadOnlyMany", frozenset(), "MULTI_NODE_READER_ONLY"),
        ("ReadWriteMany", frozenset(), "MULTI_NODE_MULTI_WRITER"),
        ("ReadWriteOnce", {"SINGLE_NODE_MULTI_WRITER"}, "SINGLE_NODE_MULTI_WRITER"),
        ("ReadWriteOncePod", {"SINGLE_NODE_MULTI_WRITER"}, "SINGLE_NODE_SINGLE_WRITER"),
        ("ReadWriteMany", {"SINGLE_NODE_MULTI_WRITER"}, "MULTI_NODE_MULTI_WRITER"),
    ],
)
def test_access_modes(mode: str, capabilities: frozenset[str], expected: str) -> None:
    found = _capability(CsiVolume("h", mode), frozenset(capabilities)).access_mode.mode
    assert pb.VolumeCapability.AccessMode.Mode.Name(found) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [("INTERNAL", True), ("INVALID_ARGUMENT", True), ("DEADLINE_EXCEEDED", False),
     ("UNAVAILABLE", False), ("ABORTED", False), ("RESOURCE_EXHAUSTED", False)],
)  # fmt: skip
def test_final_failures(code: str, expected: bool) -> None:
    assert is_final(RuntimeFailure("text", code=code)) is expected


def test_records(tmp_path: Path) -> None:
    paths = CsiPaths(tmp_path)
    pods = [tmp_path / "pods" / uid / "volumes/kubernetes.io~csi/pv" for uid in ("one", "two")]
    record = {"driverName": "d", "volumeHandle": "h", "volumeLifecycleMode": "Persistent"}
    for directory in pods:
        save(directory, record)
    inline = tmp_path / "pods/one/volumes/kubernetes.io~csi/inline"
    save(inline, {**record, "volumeHandle": "i", "volumeLifecycleMode": "Ephemeral"})
    save(paths.staged("d", "h"), {"driverName": "d", "volumeHandle": "h", "specVolID": "pv"})
    save(paths.device_record("raw"), {"driverName": "d", "volumeHandle": "raw"})
    assert paths.in_use() == {"kubernetes.io/csi/d^h", "kubernetes.io/csi/d^raw"}
    assert [each["specVolID"] for each in paths.staged_records()] == ["pv"]
    assert paths.is_published("d", "h", but=pods[0])
    (pods[1] / "mount").mkdir()
    remove(pods[1], "mount")
    assert not pods[1].exists()
    assert not paths.is_published("d", "h", but=pods[0])
    assert load(pods[1]) is None
    # What cannot be read is told where it matters and passed over where it does not.
    (pods[0] / "vol_data.json").write_text(json.dumps(["no record"]))
    with pytest.raises(VolumeProblem, match=r"failed to parse volume data file \[.*vol_data.json"):
        load(pods[0])
    assert paths.in_use() == {"kubernetes.io/csi/d^h", "kubernetes.io/csi/d^raw"}


class Told:
    """A driver that accepts everything and remembers it."""

    name = "d"

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.failure: RuntimeFailure | None = None

    async def capabilities(self) -> frozenset[str]:
        return frozenset({"STAGE_UNSTAGE_VOLUME"})

    async def publish(self, volume: CsiVolume, *places: object, read_only: bool) -> None:
        self.calls.append(("publish", volume))
        if self.failure is not None:
            raise self.failure

    async def stage(self, volume: CsiVolume, *places: object) -> None:
        self.calls.append(("stage", volume))

    async def unpublish(self, handle: str, target: str) -> None:
        self.calls.append(("unpublish", handle))

    async def unstage(self, handle: str, staging: str) -> None:
        self.calls.append(("unstage", handle))


class Drivers:
    """One driver with its object."""

    def __init__(self, told: Told, options: CSIDriverSpec) -> None:
        self.told, self.options = told, options

    def driver(self, name: str) -> Told:
        return self.told

    async def object(self, name: str) -> CSIDriver:
        return CSIDriver(spec=self.options)


def plugin(root: Path, told: Told, objects: Any = None, **options: Any) -> CsiPlugin:
    drivers = Drivers(told, CSIDriverSpec(attachRequired=False, **options))
    resources, clock = NodeResources(1, 1, 1, 1), FakeClock()
    host = VolumeHost(root, objects or cast(Any, StubObjects()), resources, clock, cast(Any, None))
    return CsiPlugin(host, cast(Any, drivers), Attachments(cast(Any, None), "n", CsiPaths(root)))


class StubObjects:
    """Tokens, and one persistent volume."""

    asked = 0

    async def token(self, namespace: str, account: str, request: TokenRequest) -> TokenRequest:
        self.asked += 1
        (audience,) = request.spec.audiences
        bound = request.spec.boundObjectRef
        assert (account, bound and bound.uid) == ("robot", "uid")
        request.status.token = f"for-{audience}"
        request.status.expirationTimestamp = "2030-01-01T00:00:00Z"
        return request

    found: Secret | None = None

    async def secret(self, namespace: str, name: str) -> Secret | None:
        return self.found

    async def volume(self, name: str) -> PersistentVolume:
        csi = CSIPersistentVolumeSource(driver="d", volumeHandle="h")
        return PersistentVolume(spec=PersistentVolumeSpec(csi=csi))


def inline(**source: Any) -> VolumeSpec:
    pod = Pod(metadata=ObjectMeta(uid="uid"), spec=PodSpec(serviceAccountName="robot"))
    return VolumeSpec(pod, Volume(name="v", csi=CSIVolumeSource(driver="d", **source)))


@pytest.mark.parametrize("in_secrets", [False, True], ids=["context", "secrets"])
async def test_tokens_for_drivers(tmp_path: Path, in_secrets: bool) -> None:
    told, objects = Told(), StubObjects()
    made = plugin(
        tmp_path,
        told,
        objects,
        volumeLifecycleModes=["Ephemeral"],
        tokenRequests=[StorageTokenRequest(audience="vault")],
        serviceAccountTokenInSecrets=in_secrets,
        requiresRepublish=True,
    )
    target = tmp_path / "pods/uid/volumes/kubernetes.io~csi/v"
    for _ in range(2):
        await made.set_up(inline(volumeAttributes={"a": "b"}), target)
    assert [name for name, _ in told.calls] == ["publish", "publish"]
    assert objects.asked == 1, "tokens are kept while they are good"
    volume = cast(CsiVolume, told.calls[-1][1])
    place = volume.secrets if in_secrets else volume.context
    assert json.loads(place["csi.storage.k8s.io/serviceAccount.tokens"]) == {
        "vault": {"token": "for-vault", "expirationTimestamp": "2030-01-01T00:00:00Z"}
    }
    assert volume.context["a"] == "b"


async def test_volumes_that_need_not_be_published_again_are_not(tmp_path: Path) -> None:
    told = Told()
    made = plugin(tmp_path, told, volumeLifecycleModes=["Ephemeral"])
    for _ in range(3):
        await made.set_up(inline(), tmp_path / "t")
    assert len(told.calls) == 1


async def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    made = plugin(tmp_path, Told(), volumeLifecycleModes=["Ephemeral"])
    reference = LocalObjectReference(name="key")
    with pytest.raises(VolumeProblem, match=r'SecretRef .*secrets "key" not found'):
        await made.set_up(inline(nodePublishSecretRef=reference), tmp_path / "t")


async def test_a_secret_that_is_no_text_is_refused(tmp_path: Path) -> None:
    made = plugin(tmp_path, Told(), volumeLifecycleModes=["Ephemeral"])
    cast(Any, made.host.objects).found = Secret(data={"password": "/w=="})
    reference = LocalObjectReference(name="key")
    with pytest.raises(VolumeProblem, match=r"SecretRef .* failed: it holds what is not UTF-8"):
        await made.set_up(inline(nodePublishSecretRef=reference), tmp_path / "t")


@pytest.mark.parametrize(("code", "kept"), [("INTERNAL", False), ("DEADLINE_EXCEEDED", True)])
async def test_what_a_failed_call_leaves(tmp_path: Path, code: str, kept: bool) -> None:
    """Nothing, where nothing can have happened; else the record by which it is undone."""
    told = Told()
    told.failure = RuntimeFailure("no", code=code)
    made = plugin(tmp_path, told, volumeLifecycleModes=["Ephemeral"])
    with pytest.raises(VolumeProblem):
        await made.set_up(inline(), tmp_path / "t")
    assert (tmp_path / "t" / "vol_data.json").exists() is kept


async def test_a_garbled_record_is_rebuilt(tmp_path: Path) -> None:
    told = Told()
    made = plugin(tmp_path, told)
    target = tmp_path / "pods/uid/volumes/kubernetes.io~csi/pv"
    save(target, {})
    await made.tear_down("uid", "pv", target)
    assert told.calls == [("unpublish", "h")]
    assert not target.exists()


async def test_a_driver_that_wants_no_attachment_after_all(tmp_path: Path) -> None:
    """What pods have waited for in vain is not in use any more, so that it can be detached."""
    made = plugin(tmp_path, Told())
    csi = CSIPersistentVolumeSource(driver="d", volumeHandle="h")
    persistent = PersistentVolume(spec=PersistentVolumeSpec(csi=csi))
    spec = VolumeSpec(inline().pod, inline().volume, persistent)
    source = source_of(spec)
    attachments = made._attachments
    attachments._in_use.add(source.unique_name)
    assert await made.attached(spec, source, await made.options("d")) == {}
    assert not attachments._in_use and attachments._changed.is_set()
