"""What a configuration may demand of the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from navarch.node.requirements import (
    KERNEL_SETTINGS,
    RequirementError,
    check_requirements,
    protect_from_oom,
)
from navarch.node.settings import NodeOptions

OPTIONS = NodeOptions(Path("k"), "n")
HEAD = "Filename Type Size Used Priority\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "swaps").write_text(HEAD)
    for name, value in KERNEL_SETTINGS.items():
        file = tmp_path / "sys" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    return tmp_path


def test_a_machine_as_it_should_be(proc: Path) -> None:
    strict = replace(OPTIONS, fail_swap_on=True, fail_cgroup_v1=True, protect_kernel_defaults=True)
    check_requirements(strict, unified=True, proc=proc)
    check_requirements(OPTIONS, unified=False, proc=proc / "none")


def test_swap(proc: Path) -> None:
    (proc / "swaps").write_text(HEAD + "/swapfile file 1024 0 -2\n")
    check_requirements(OPTIONS, unified=True, proc=proc)
    with pytest.raises(RequirementError, match="running with swap on is not supported"):
        check_requirements(replace(OPTIONS, fail_swap_on=True), unified=True, proc=proc)


def test_old_cgroups(proc: Path) -> None:
    with pytest.raises(RequirementError, match="not run on a host using cgroup v1"):
        check_requirements(replace(OPTIONS, fail_cgroup_v1=True), unified=False, proc=proc)


def test_settings_of_the_kernel(proc: Path) -> None:
    (proc / "sys/kernel/panic").write_text("0\n")
    expected = "invalid kernel flag: kernel/panic, expected value: 10, actual value: 0"
    with pytest.raises(RequirementError, match=expected):
        check_requirements(replace(OPTIONS, protect_kernel_defaults=True), unified=True, proc=proc)


def test_protection_from_the_kernel(tmp_path: Path) -> None:
    file = tmp_path / "score"
    assert protect_from_oom(-999, file) and file.read_text() == "-999"
    assert not protect_from_oom(-999, tmp_path / "none/score")
