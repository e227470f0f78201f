"""What is kept of pulls, across the ends of agents."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from navarch.node.cri.values import Credentials, ImageRecord
from navarch.node.images.credentials import Source, TrackedCredentials
from navarch.node.images.records import PullCredentials, PullRecords, used
from navarch.node.images.verification import (
    Policy,
    allowlist_problem,
    opens,
    recorded,
    requires_verification,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LATER = datetime(2026, 1, 3, tzinfo=UTC)
IMAGE = ImageRecord("sha256:1", ("r.example/web:1",))
MINE = Source("Secret", "default", "mine", "uid-1")


def offered(source: Source | None = MINE, password: str = "p") -> TrackedCredentials:
    return TrackedCredentials(Credentials(username="u", password=password), source)


def proof(each: TrackedCredentials) -> PullCredentials:
    return used(each.source, each.hash)


async def loaded(root: Path, *images: ImageRecord) -> PullRecords:
    records = PullRecords(root)
    await records.load(images)
    return records


async def test_records_outlive_the_agent(tmp_path: Path) -> None:
    records = await loaded(tmp_path)
    await records.begin("r.example/web:1")
    await records.pulled("r.example/web:1", IMAGE.id, proof(offered()), NOW)
    again = await loaded(tmp_path, IMAGE)
    found = recorded(again.find(IMAGE.id), "r.example/web:2")
    assert [each.name for each in found.kubernetesSecrets] == ["mine"]
    assert recorded(again.find(IMAGE.id), "r.example/other:1").is_empty
    assert list((tmp_path / "image_manager" / "pulling").iterdir()) == []


async def test_files_are_in_upstreams_form_and_private(tmp_path: Path) -> None:
    records = await loaded(tmp_path)
    await records.pulled("r.example/web:1", IMAGE.id, proof(offered()), NOW)
    (path,) = (tmp_path / "image_manager" / "pulled").iterdir()
    document = json.loads(path.read_bytes())
    assert document["kind"] == "ImagePulledRecord"
    assert document["apiVersion"] == "kubelet.config.k8s.io/v1beta1"
    assert document["imageRef"] == "sha256:1"
    (secret,) = document["credentialMapping"]["r.example/web"]["kubernetesSecrets"]
    assert (secret["namespace"], secret["name"], secret["uid"]) == ("default", "mine", "uid-1")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_pull_cut_short_by_the_agents_end_counts_as_pulled_by_nobody_known(
    tmp_path: Path,
) -> None:
    await (await loaded(tmp_path)).begin("r.example/web:1")
    absent = await loaded(tmp_path)
    assert absent.is_known(IMAGE, "r.example/web:1")
    assert absent.find(IMAGE.id) is None
    present = await loaded(tmp_path, IMAGE)
    assert present.find(IMAGE.id) is not None
    assert recorded(present.find(IMAGE.id), "r.example/web:1").is_empty
    assert list((tmp_path / "image_manager" / "pulling").iterdir()) == []


async def test_a_pull_that_never_began_leaves_nothing(tmp_path: Path) -> None:
    records = await loaded(tmp_path)
    (tmp_path / "image_manager" / "pulling").rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="No such file"):
        await records.begin("r.example/web:1")
    assert not records.is_known(IMAGE, "r.example/web:1")


@pytest.mark.parametrize("content", [b"", b"{", b'{"imageRef": "sha256:other"}', b"\xff" * 100])
async def test_a_garbled_record_lets_nobody_in_and_is_made_anew(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await (await loaded(tmp_path)).pulled("r.example/web:1", IMAGE.id, used(None, ""), NOW)
    (path,) = (tmp_path / "image_manager" / "pulled").iterdir()
    path.write_bytes(content)
    (path.parent / "sha256-1.tmp").write_bytes(b"half a write")
    records = await loaded(tmp_path, IMAGE)
    assert "garbled" in caplog.text
    assert records.is_known(IMAGE)
    assert recorded(records.find(IMAGE.id), "r.example/web:1").is_empty
    await records.pulled("r.example/web:1", IMAGE.id, used(None, ""), NOW)
    again = await loaded(tmp_path, IMAGE)
    assert recorded(again.find(IMAGE.id), "r.example/web:1").nodePodsAccessible
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_records_of_images_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    records = await loaded(tmp_path)
    for number, when in ((1, NOW), (2, NOW), (3, LATER)):
        await records.pulled("r.example/web", f"sha256:{number}", used(None, ""), when)
    await records.prune({"sha256:2"}, LATER)
    left = [records.find(f"sha256:{number}") is not None for number in (1, 2, 3)]
    assert left == [False, True, True]
    assert len(list((tmp_path / "image_manager" / "pulled").iterdir())) == 2


def test_credentials_are_merged() -> None:
    other = offered(Source("ServiceAccount", "default", "robot", "uid-2"))
    both = proof(offered()).merged(proof(other))
    assert (len(both.kubernetesSecrets), len(both.kubernetesServiceAccounts)) == (1, 1)
    newer = both.merged(proof(offered(password="new")))
    assert [each.credentialHash for each in newer.kubernetesSecrets] == [
        offered(password="new").hash
    ]
    assert newer.merged(used(None, "")) == PullCredentials(nodePodsAccessible=True)


ROBOT = Source("ServiceAccount", "default", "robot", "uid-2")


@pytest.mark.parametrize(
    ("known", "brought", "may", "news"),
    [
        pytest.param(offered(), [offered()], True, False, id="the same"),
        pytest.param(offered(), [offered(password="new")], True, True, id="its password changed"),
        pytest.param(
            offered(),
            [offered(Source("Secret", "other", "theirs", "uid-9"))],
            True,
            True,
            id="the same password elsewhere",
        ),
        pytest.param(
            offered(),
            [offered(Source("Secret", "default", "mine", "uid-9"), "guess")],
            False,
            False,
            id="a new secret of the same name",
        ),
        pytest.param(offered(), [offered(None)], False, False, id="the node's own"),
        pytest.param(offered(), [], False, False, id="nothing"),
        pytest.param(offered(ROBOT), [offered(ROBOT, "rotated")], True, False, id="account"),
        pytest.param(
            offered(ROBOT),
            [offered(Source("ServiceAccount", "other", "robot", "uid-2"))],
            False,
            False,
            id="another account",
        ),
    ],
)
def test_who_may_use_an_image(
    known: TrackedCredentials, brought: list[TrackedCredentials], may: bool, news: bool
) -> None:
    allowed, found = opens(proof(known), brought)
    assert (allowed, not found.is_empty) == (may, news)


@pytest.mark.parametrize(
    ("policy", "image", "is_known", "asked"),
    [
        ("NeverVerify", "r.example/web", True, False),
        ("NeverVerifyPreloadedImages", "r.example/web", True, True),
        ("NeverVerifyPreloadedImages", "r.example/web", False, False),
        ("AlwaysVerify", "r.example/web", False, True),
        ("NeverVerifyAllowlistedImages", "r.example/web:1", True, False),
        ("NeverVerifyAllowlistedImages", "r.example/web2", True, True),
        ("NeverVerifyAllowlistedImages", "team.example/x/y:1", False, False),
        ("NeverVerifyAllowlistedImages", "team.example.evil/x", False, True),
    ],
)
def test_who_is_asked(policy: str, image: str, is_known: bool, asked: bool) -> None:
    allowlist = ("r.example/web", "team.example/*")
    assert requires_verification(Policy(policy), allowlist, image, is_known) == asked


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("r.example/web", ""),
        ("r.example/*", ""),
        (" r.example", "spaces"),
        ("", "too short"),
        ("r.*/web", "wildcard"),
        ("/*", "hostname"),
        ("r.example/web:1", "neither tag nor digest"),
    ],
)
def test_entries_of_the_allowlist(entry: str, problem: str) -> None:
    found = allowlist_problem(entry)
    assert problem in found if problem else not found
