"""What may still change in a Job: its template while it rests, its status step by step."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.api.validation.samples import judged

from navarch.api.validation.batch import validate_job_status_update, validate_job_update

Object = dict[str, Any]
START = "2026-01-01T00:00:00Z"
LATER = "2026-01-01T01:00:00Z"


def job(status: Object, **spec: Any) -> Object:
    return {"metadata": {"name": "j"}, "spec": spec, "status": status}


def true(*kinds: str, state: str = "True") -> list[Object]:
    return [{"type": kind, "status": state} for kind in kinds]


INDEXED = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
OVER = {"conditions": true("SuccessCriteriaMet", "Complete"), "completionTime": LATER}


@pytest.mark.parametrize(
    ("spec", "before", "after", "complaint"),
    [
        pytest.param(INDEXED, {"succeeded": 3}, {"succeeded": 2}, "", id="made smaller"),
        pytest.param(
            {**INDEXED, "parallelism": 1},
            {"succeeded": 3},
            {"succeeded": 2},
            "decrease",
            id="fewer",
        ),
        pytest.param(INDEXED, {"failed": 3}, {"failed": 2}, "decrease", id="fewer failures"),
        pytest.param(
            INDEXED,
            {"completedIndexes": "0-5"},
            {"completedIndexes": "0-5", "active": 1},
            "",
            id="was wrong before",
        ),
        pytest.param(
            INDEXED, {}, {"completedIndexes": "0-5"}, "completedIndexes", id="is wrong now"
        ),
        pytest.param({}, {}, OVER, "startTime is required", id="never began"),
        pytest.param({"suspend": True, "completions": 0}, {}, OVER, "", id="had nothing to do"),
        pytest.param(
            {}, {"startTime": START}, {"startTime": LATER}, "immutable", id="another beginning"
        ),
        pytest.param(
            {},
            {"startTime": START, "conditions": true("Suspended")},
            {"startTime": LATER, "conditions": true("Suspended", state="False")},
            "",
            id="resumed",
        ),
        pytest.param(
            {}, {"conditions": true("FailureTarget")}, {}, "FailureTarget", id="no longer failing"
        ),
        pytest.param(
            {}, {}, {"uncountedTerminatedPods": {"failed": ["a", "a"]}}, "Duplicate", id="twice"
        ),
    ],
)
def test_status(spec: Object, before: Object, after: Object, complaint: str) -> None:
    errors = judged(validate_job_status_update, job(after, **spec), job(before, **spec))
    text = "; ".join(f"{error.field} {error.message}" for error in errors)
    assert complaint in text
    assert bool(errors) == bool(complaint)


def template(**spec: Any) -> Object:
    container = {"name": "c", "image": "i", **spec.pop("container", {})}
    return {"spec": {"containers": [container], "restartPolicy": "Never", **spec}}


POD_AFFINITY: Object = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
NODE_AFFINITY: Object = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
RESTING = {"startTime": START, "conditions": true("Suspended")}


@pytest.mark.parametrize(
    ("status", "before", "after", "allowed"),
    [
        pytest.param({}, {}, {"nodeSelector": {"a": "b"}}, True, id="never began"),
        pytest.param(RESTING, {}, {"nodeSelector": {"a": "b"}}, True, id="at rest"),
        pytest.param(
            {**RESTING, "terminating": 1}, {}, {"nodeSelector": {"a": "b"}}, True, id="pods end"
        ),
        pytest.param(
            {**RESTING, "active": 1}, {}, {"nodeSelector": {"a": "b"}}, False, id="pods run"
        ),
        pytest.param(
            {"startTime": START}, {}, {"nodeSelector": {"a": "b"}}, False, id="not yet at rest"
        ),
        pytest.param({}, {}, {"affinity": NODE_AFFINITY}, True, id="node affinity"),
        pytest.param({}, {"affinity": NODE_AFFINITY}, {}, True, id="no node affinity"),
        pytest.param({}, {}, {"affinity": POD_AFFINITY}, False, id="pod affinity"),
        pytest.param(
            {},
            {"affinity": POD_AFFINITY},
            {"affinity": {**POD_AFFINITY, **NODE_AFFINITY}},
            True,
            id="node affinity besides",
        ),
        pytest.param(
            {}, {}, {"container": {"resources": {"limits": {"cpu": "1"}}}}, True, id="resources"
        ),
        pytest.param({}, {}, {"container": {"image": "other"}}, False, id="image"),
    ],
)
def test_template(status: Object, before: Object, after: Object, allowed: bool) -> None:
    old = job(status, suspend=True, template=template(**before))
    new = job(status, suspend=True, template=template(**after))
    fields = [error.field for error in judged(validate_job_update, new, old)]
    assert ("spec.template" not in fields) is allowed
