"""Security contexts: who a container's processes are and what they may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.node.cri import runtime_pb2 as pb
from navarch.node.cri.values import ImageRecord
from navarch.node.podspec import find_container
from navarch.node.security_context import (
    ConfigProblem,
    NodeSecurity,
    SecurityInputs,
    container_security,
    masked_paths,
    requires_apparmor,
)

Fields = dict[str, Any]
PROFILES = NodeSecurity(Path("/profiles"))


def security(
    whole: Fields, own: Fields, node: NodeSecurity = PROFILES, **image: Any
) -> pb.LinuxContainerSecurityContext:
    pod = make_pod({"name": "main", "securityContext": own}, securityContext=whole)
    spec = find_container(pod, "main")
    assert spec is not None
    return container_security(SecurityInputs(pod, spec, ImageRecord("i", **image), node))


@pytest.mark.parametrize(
    ("whole", "own", "image", "expected"),
    [
        pytest.param({}, {}, {}, (None, None, ""), id="nobody says"),
        pytest.param({}, {}, {"uid": 7}, (7, None, ""), id="the image"),
        pytest.param({}, {}, {"username": "app"}, (None, None, "app"), id="the image's name"),
        pytest.param({"runAsUser": 1}, {}, {"uid": 7}, (1, None, ""), id="the pod"),
        pytest.param({"runAsUser": 1, "runAsGroup": 2}, {"runAsUser": 0}, {}, (0, 2, ""),
                     id="the container"),
    ],
)  # fmt: skip
def test_users(whole: Fields, own: Fields, image: Fields, expected: Any) -> None:
    result = security(whole, own, **image)
    user = result.run_as_user.value if result.HasField("run_as_user") else None
    group = result.run_as_group.value if result.HasField("run_as_group") else None
    assert (user, group, result.run_as_username) == expected


WHERE = '\\(pod: "web_default\\(u-1\\)", container: main\\)'


@pytest.mark.parametrize(
    ("own", "image", "problem"),
    [
        pytest.param({"runAsUser": 0}, {}, f"runAsUser breaks non-root policy {WHERE}", id="root"),
        pytest.param({}, {"uid": 0}, f"image will run as root {WHERE}", id="image's root"),
        pytest.param({}, {}, f"image will run as root {WHERE}", id="an image without a user"),
        pytest.param({}, {"username": "app"},
                     f"non-numeric user \\(app\\), cannot verify user is non-root {WHERE}",
                     id="a name"),
        pytest.param({}, {"uid": 2**32 + 1}, "has an invalid user id \\(4294967297\\)",
                     id="an id that overflows"),
        pytest.param({"runAsUser": 5}, {"uid": 0}, "", id="told to be somebody"),
        pytest.param({}, {"uid": 5}, "", id="image's somebody"),
    ],
)  # fmt: skip
def test_run_as_non_root(own: Fields, image: Fields, problem: str) -> None:
    if not problem:
        security({"runAsNonRoot": True}, own, **image)
        return
    with pytest.raises(ConfigProblem, match=problem):
        security({"runAsNonRoot": True}, own, **image)


def seccomp(kind: str, name: str = "") -> Fields:
    return {"seccompProfile": {"type": kind, **({"localhostProfile": name} if name else {})}}


@pytest.mark.parametrize(
    ("whole", "own", "default", "expected"),
    [
        pytest.param({}, {}, False, "Unconfined", id="none"),
        pytest.param({}, {}, True, "RuntimeDefault", id="the node's default"),
        pytest.param(seccomp("Unconfined"), {}, True, "Unconfined", id="unconfined"),
        pytest.param(seccomp("RuntimeDefault"), {}, False, "RuntimeDefault", id="default"),
        pytest.param(seccomp("RuntimeDefault"), seccomp("Localhost", "a/b.json"), False,
                     "Localhost /profiles/a/b.json", id="a file"),
    ],
)  # fmt: skip
def test_seccomp(whole: Fields, own: Fields, default: bool, expected: str) -> None:
    result = security(whole, own, NodeSecurity(Path("/profiles"), default)).seccomp
    kind = pb.SecurityProfile.ProfileType.Name(result.profile_type)
    assert f"{kind} {result.localhost_ref}".strip() == expected


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ("seccompProfile", "localhostProfile must be set"),
        ("appArmorProfile", "missing localhost apparmor profile name"),
    ],
)
def test_an_empty_name_of_a_profile_is_refused(field: str, problem: str) -> None:
    """CVE-2023-2431: it would mean no profile at all."""
    with pytest.raises(ConfigProblem, match=problem):
        security({}, {field: {"type": "Localhost", "localhostProfile": ""}})


@pytest.mark.parametrize(
    ("own", "masked", "no_new"),
    [
        pytest.param({}, True, False, id="plain"),
        pytest.param({"procMount": "Unmasked"}, False, False, id="unmasked"),
        pytest.param({"procMount": "Default"}, True, False, id="masked"),
        pytest.param({"privileged": True}, False, False, id="privileged"),
        pytest.param({"allowPrivilegeEscalation": False}, True, True, id="no escalation"),
        pytest.param({"allowPrivilegeEscalation": True}, True, False, id="escalation"),
    ],
)
def test_what_is_hidden(own: Fields, masked: bool, no_new: bool) -> None:
    result = security({}, own)
    assert bool(result.masked_paths) == bool(result.readonly_paths) == masked
    assert result.no_new_privs == no_new


def test_throttling_counters_are_hidden_where_there_are_any(tmp_path: Path) -> None:
    counters = tmp_path / "devices/system/cpu/cpu1/thermal_throttle"
    counters.mkdir(parents=True)
    assert masked_paths(tmp_path)[-1] == str(counters)


def test_groups_and_their_policy() -> None:
    whole = {"fsGroup": 5, "supplementalGroups": [6, 5], "supplementalGroupsPolicy": "Strict"}
    result = security(whole, {})
    assert list(result.supplemental_groups) == [5, 6]
    assert result.supplemental_groups_policy == pb.Strict


@pytest.mark.parametrize(
    ("whole", "own", "required"),
    [
        pytest.param({}, {}, False, id="none"),
        pytest.param({"appArmorProfile": {"type": "RuntimeDefault"}}, {}, True, id="the pod"),
        pytest.param({}, {"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}}, True,
                     id="a container"),
        pytest.param({"appArmorProfile": {"type": "Unconfined"}}, {}, False, id="unconfined"),
    ],
)  # fmt: skip
def test_who_needs_apparmor(whole: Fields, own: Fields, required: bool) -> None:
    pod = make_pod({"name": "main", "securityContext": own}, securityContext=whole)
    assert requires_apparmor(pod) is required
