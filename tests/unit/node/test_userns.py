"""Ranges of ids for pods with user namespaces."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from navarch.node import userns
from navarch.node.cri import runtime_pb2 as pb
from navarch.node.userns import UserNamespaceProblem, UserNamespaces


@pytest.fixture(autouse=True)
def no_subordinate_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userns, "subordinate_ids", lambda: None)


def first_id(ranges: UserNamespaces, uid: str) -> int:
    mapping = ranges.mapping(uid)
    assert mapping.mode == pb.POD and list(mapping.uids) == list(mapping.gids)
    only = mapping.uids[0]
    assert (only.container_id, only.length) == (0, 65536)
    return only.host_id


def test_each_pod_has_a_range_that_outlives_the_agent(tmp_path: Path) -> None:
    ranges = UserNamespaces(tmp_path, 65536, 110)
    assert [first_id(ranges, uid) for uid in ("a", "b", "a")] == [65536, 131072, 65536]
    assert first_id(UserNamespaces(tmp_path, 65536, 110), "b") == 131072
    (tmp_path / "a" / "userns").unlink()
    assert first_id(ranges, "c") == 65536, "a range is free when its pod is gone"


def test_a_range_is_on_the_disk_before_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: written.append(os.fstat(file).st_size))
    UserNamespaces(tmp_path, 65536, 110).mapping("a")
    assert written[0] == (tmp_path / "a" / "userns").stat().st_size > 0 and len(written) == 2


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        pytest.param((65536, 2 * 65536), "could not find an empty slot", id="too few"),
        pytest.param((100000, 65536 * 4), "100000 is not a multiple of 65536", id="begins within"),
        pytest.param((65536, 100000), "length 100000 is not a multiple of 65536", id="ends within"),
        pytest.param((65536, 65536), "not enough to support 2 pods", id="fewer than pods"),
        pytest.param((0, 65536 * 4), "must be greater or equal to 65536", id="root's own"),
    ],
)
def test_what_the_node_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[int, int], problem: str
) -> None:
    monkeypatch.setattr(userns, "subordinate_ids", lambda: given)
    ranges = UserNamespaces(tmp_path, 65536, 2)
    with pytest.raises(UserNamespaceProblem, match=problem):
        for uid in "abc":
            ranges.mapping(uid)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("{", "invalid user namespace mappings file", id="garbled"),
        pytest.param('{"uidMappings":[],"gidMappings":[]}', "should be identical", id="empty"),
        pytest.param(
            '{"uidMappings":[{"hostId":65536,"containerId":0,"length":9}],'
            '"gidMappings":[{"hostId":65536,"containerId":0,"length":9}]}',
            "wrong user namespace length 9", id="another length",
        ),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_used_is_named(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "userns").write_text(text)
    with pytest.raises(UserNamespaceProblem, match=problem):
        UserNamespaces(tmp_path, 65536, 110).mapping("a")
