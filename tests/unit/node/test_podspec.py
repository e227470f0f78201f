"""Questions about a pod's specification: restart policies and rules."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.node.podspec import find_container, may_restart_all, should_restart


def rule(operator: str, *values: int, action: str = "Restart") -> dict[str, Any]:
    return {"action": action, "exitCodes": {"operator": operator, "values": list(values)}}


@pytest.mark.parametrize(
    ("whole", "own", "rules", "expected"),
    [
        pytest.param("Always", "", [], "0 1 42", id="always"),
        pytest.param("OnFailure", "", [], "1 42", id="on failure"),
        pytest.param("Never", "", [], "", id="never"),
        pytest.param("Never", "Always", [], "0 1 42", id="the container's own"),
        pytest.param("Always", "Never", [], "", id="the container's own never"),
        pytest.param("Never", "Never", [rule("In", 42)], "42", id="a rule"),
        pytest.param("Never", "Never", [rule("NotIn", 0, 1)], "42", id="all but"),
        pytest.param("Never", "Never", [rule("In", 7), rule("In", 1)], "1", id="a second rule"),
        pytest.param("Never", "Never", [rule("In", 42, action="RestartAllContainers")], "42",
                     id="a rule for all containers"),
        pytest.param("Never", "", [rule("In", 42)], "", id="no rule without a policy"),
        pytest.param("Never", "Never", [rule("Like", 42)], "", id="an operator of the future"),
    ],
)  # fmt: skip
def test_who_is_restarted(whole: str, own: str, rules: list[dict[str, Any]], expected: str) -> None:
    fields = {"name": "main", "restartPolicyRules": rules}
    pod = make_pod({**fields, "restartPolicy": own} if own else fields, restartPolicy=whole)
    spec = find_container(pod, "main")
    assert spec is not None
    codes = [code for code in (0, 1, 42) if should_restart(pod, spec, code)]
    assert codes == [int(each) for each in expected.split()]


def test_an_init_container_that_has_done_its_work_never_runs_again() -> None:
    container = {
        "name": "i",
        "image": "x",
        "restartPolicy": "Never",
        "restartPolicyRules": [rule("NotIn", 7, action="RestartAllContainers")],
    }
    pod = make_pod(initContainers=[container])
    spec = find_container(pod, "i")
    assert spec is not None and may_restart_all(pod)
    assert [code for code in (0, 1, 7) if should_restart(pod, spec, code)] == [1]
