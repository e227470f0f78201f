"""What simulated containers are said to use, and how others learn of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.node.simulated.timetable import Timetable
from navarch.node.simulated.usage import annotations_for, are_told


@pytest.mark.parametrize(
    ("default", "rules", "told"),
    [
        pytest.param(Timetable(), [], False, id="nothing"),
        pytest.param(Timetable(), [{"run": 1}], False, id="something else"),
        pytest.param(Timetable(cpu="1"), [], True, id="for all"),
        pytest.param(Timetable(), [{"memory": "1Mi"}], True, id="for some"),
        pytest.param(Timetable(), [{"containers": {"a": {"cpu": "1"}}}], True, id="of one"),
    ],
)
def test_whether_there_is_anything_to_tell(
    default: Timetable, rules: list[Mapping[str, Any]], told: bool
) -> None:
    assert are_told(default, rules) is told


def test_what_is_told() -> None:
    """What the pod says itself stays as it is."""
    own = {"simulated.navarch.dev/cpu": "300m"}
    pod = Pod(metadata=ObjectMeta(name="p", annotations=own))
    timetable = Timetable(cpu="300m", memory="8Mi", containers={"side": {"cpu": "1", "run": 2}})
    assert annotations_for(pod, timetable) == {
        "simulated.navarch.dev/memory": "8Mi",
        "side.simulated.navarch.dev/cpu": "1",
    }
