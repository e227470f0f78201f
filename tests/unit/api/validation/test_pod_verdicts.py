"""Verdicts on pod specs are kept: what was found valid once must not pass for something else."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.kinds import kind_by_name
from navarch.api.schema.decode import normalise_object
from navarch.api.schema.defaults import apply_defaults
from navarch.api.strategies.registry import strategy_for

_found = kind_by_name("", "v1", "Pod")
assert _found is not None
POD = _found


def pod(name: str, volume: str, *more: str, mount: str = "", **spec: Any) -> dict[str, Any]:
    raw = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": "image",
                    "volumeMounts": [{"name": mount or volume, "mountPath": "/token"}],
                }
            ],
            "volumes": [{"name": each, "emptyDir": {}} for each in (volume, *more)],
            **spec,
        },
    }
    obj, problems = normalise_object(POD, raw)
    assert not problems
    apply_defaults(POD, obj)
    strategy_for(POD).defaults(obj)
    return obj


@pytest.mark.parametrize(
    "wrong",
    [
        pod("two", "kube-api-access-bbbbb", mount="kube-api-access-ccccc"),
        pod("two", "kube-api-access-*"),
        pod("two", "kube-api-access-BBBBB"),
        pod("two", "kube-api-access-bbbbb", "kube-api-access-bbbbb"),
        pod("two", "kube-api-access-bbbbb", restartPolicy="Sometimes"),
    ],
    ids=["mount", "literal", "case", "twice", "policy"],
)
def test_what_resembles_a_valid_spec_is_judged_anew(wrong: dict[str, Any]) -> None:
    assert not strategy_for(POD).validate(pod("one", "kube-api-access-aaaaa"))
    for _ in range(2):
        assert strategy_for(POD).validate(wrong)


def test_specs_of_one_workload_stay_valid() -> None:
    for number in range(3):
        assert not strategy_for(POD).validate(pod(f"pod-{number}", f"kube-api-access-aaaa{number}"))


def test_what_depends_on_the_name_is_judged_each_time() -> None:
    claim = {
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}
    }
    volumes = [{"name": "data", "ephemeral": {"volumeClaimTemplate": claim}}]

    def named(name: str) -> dict[str, Any]:
        made = pod(name, "data")
        made["spec"]["volumes"] = volumes
        return made

    assert not strategy_for(POD).validate(named("short"))
    assert strategy_for(POD).validate(named("x" * 252))
