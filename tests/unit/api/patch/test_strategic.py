"""Strategic merge patch: list strategies, directives, orders and refusals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.patch.strategic import apply_strategic_merge_patch


@dataclass
class FakeField:
    patch_strategies: frozenset[str] = frozenset()
    merge_key: str = ""
    patch_type: FakeType | None = None


@dataclass
class FakeType:
    fields: dict[str, FakeField] = field(default_factory=dict)

    def patch_field(self, name: str) -> FakeField | None:
        return self.fields.get(name)


DELETE = {"$patch": "delete"}
MERGE = frozenset({"merge"})
CONTAINER = FakeType(
    {
        "name": FakeField(),
        "image": FakeField(),
        "args": FakeField(),
        "env": FakeField(MERGE, "name", FakeType({"name": FakeField(), "value": FakeField()})),
    }
)
SPEC = FakeType(
    {
        "containers": FakeField(MERGE, "name", CONTAINER),
        "strategy": FakeField(frozenset({"retainKeys"}), "", FakeType({"rolling": FakeField()})),
        "nodeSelector": FakeField(),
        "whole": FakeField(frozenset({"replace"})),
        "tolerations": FakeField(),
    }
)
POD = FakeType(
    {
        "metadata": FakeField(
            patch_type=FakeType({"finalizers": FakeField(MERGE), "labels": FakeField()})
        ),
        "spec": FakeField(patch_type=SPEC),
    }
)


def containers(*names: str) -> list[dict[str, Any]]:
    return [{"name": name} for name in names]


def spec(**fields: Any) -> dict[str, Any]:
    return {"spec": fields}


def ordered(order: list[Any], **fields: Any) -> dict[str, Any]:
    return {"spec": {"$setElementOrder/containers": order, **fields}}


def finalizers(*names: str, **directives: Any) -> dict[str, Any]:
    return {"metadata": {"finalizers": list(names), **directives}}


@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [
        pytest.param(
            spec(containers=[{"name": "a", "image": "1", "args": ["x"]}]),
            spec(containers=[{"name": "a", "image": "2"}]),
            spec(containers=[{"name": "a", "image": "2", "args": ["x"]}]),
            id="merge by key",
        ),
        pytest.param(
            spec(containers=containers("c1", "c2")),
            spec(containers=containers("c3")),
            spec(containers=containers("c3", "c1", "c2")),
            id="new items come first",
        ),
        pytest.param(
            spec(containers=containers("a", "b", "c")),
            spec(containers=[*containers("new"), {"name": "b", "image": "2"}]),
            spec(containers=[*containers("new", "a"), {"name": "b", "image": "2"}, {"name": "c"}]),
            id="known items stay in their place",
        ),
        pytest.param(
            spec(containers=containers("a", "b")),
            spec(containers=[{"name": "a", "$patch": "delete"}]),
            spec(containers=containers("b")),
            id="delete an item",
        ),
        pytest.param(
            spec(containers=containers("a", "b")),
            spec(containers=[{"$patch": "replace"}, *containers("z", "y")]),
            spec(containers=containers("z", "y")),
            id="replace the list",
        ),
        pytest.param(
            spec(containers=containers("a", "b", "c")),
            ordered(containers("c", "b", "a")),
            spec(containers=containers("c", "b", "a")),
            id="order without changes",
        ),
        pytest.param(
            spec(containers=containers("a", "live", "b")),
            ordered(containers("b", "new", "a"), containers=containers("new")),
            spec(containers=containers("live", "b", "new", "a")),
            id="order, addition, item of somebody else",
        ),
        pytest.param(
            spec(),
            ordered(containers("a", "b"), containers=containers("a", "b")),
            spec(containers=containers("a", "b")),
            id="order of a new list",
        ),
        pytest.param(
            spec(tolerations=[1, 2]), spec(tolerations=[3]), spec(tolerations=[3]), id="atomic list"
        ),
        pytest.param(
            spec(nodeSelector={"a": "1", "b": "2"}),
            spec(nodeSelector={"a": None, "c": "3"}),
            spec(nodeSelector={"b": "2", "c": "3"}),
            id="map",
        ),
        pytest.param(
            spec(nodeSelector={"a": "1"}),
            spec(nodeSelector={"$patch": "replace", "c": "3"}),
            spec(nodeSelector={"c": "3"}),
            id="replace a map",
        ),
        pytest.param(
            spec(nodeSelector={"a": "1"}),
            spec(nodeSelector={"$patch": "delete"}),
            spec(nodeSelector={}),
            id="empty a map",
        ),
        pytest.param(
            spec(whole={"a": "1"}), spec(whole={"b": "2"}), spec(whole={"b": "2"}), id="replaced"
        ),
        pytest.param(
            spec(strategy={"type": "RollingUpdate", "rolling": {"x": 1}}),
            spec(strategy={"$retainKeys": ["type"], "type": "Recreate"}),
            spec(strategy={"type": "Recreate"}),
            id="retain keys",
        ),
        pytest.param(
            finalizers("a", "b"), finalizers("c", "a"), finalizers("c", "a", "b"), id="scalars"
        ),
        pytest.param(
            finalizers("a", "b", "c"),
            {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b", "x"]}},
            finalizers("a", "c"),
            id="delete scalars",
        ),
        pytest.param(
            finalizers("a", "b", "c"),
            {
                "metadata": {
                    "$setElementOrder/finalizers": ["d", "c", "a"],
                    "$deleteFromPrimitiveList/finalizers": ["b"],
                    "finalizers": ["d"],
                }
            },
            finalizers("d", "c", "a"),
            id="delete, add and order scalars",
        ),
        pytest.param(
            {},
            spec(
                containers=[
                    {"name": "a", "image": None, "env": [{"name": "x", "$patch": "delete"}]}
                ]
            ),
            spec(containers=[{"name": "a", "env": []}]),
            id="nulls and directives vanish from new values",
        ),
        pytest.param(
            {"other": 1}, {"unknown": {"x": 1}}, {"other": 1, "unknown": {"x": 1}}, id="unknown"
        ),
    ],
)
def test_applies(document: Any, patch: Any, expected: Any) -> None:
    before = repr((document, patch))
    assert apply_strategic_merge_patch(document, patch, POD) == expected
    assert repr((document, patch)) == before


@pytest.mark.parametrize(
    ("patch", "status"),
    [
        pytest.param([], 400, id="a list"),
        pytest.param(None, 400, id="null"),
        pytest.param(spec(containers=[{"image": "x"}]), 400, id="no merge key"),
        pytest.param(spec(containers=[{"name": {}}]), 400, id="odd merge key"),
        pytest.param(spec(containers=[{"name": "a", "$patch": "explode"}]), 400, id="directive"),
        pytest.param(spec(nodeSelector={"$patch": "explode"}), 400, id="directive in a map"),
        pytest.param(spec(containers=["a"]), 400, id="mixed items"),
        pytest.param(spec(strategy={"$retainKeys": ["a"], "b": 1}), 400, id="key not retained"),
        pytest.param(ordered(containers("b"), containers=containers("a")), 400, id="not in order"),
        pytest.param({"spec": {"$setElementOrder/nowhere": []}}, 400, id="order of no field"),
        pytest.param({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}, 400, id="no list"),
        pytest.param(finalizers(["a"]), 422, id="list of lists"),  # type: ignore[arg-type]
    ],
)
def test_refused(patch: Any, status: int) -> None:
    document = {
        **spec(containers=containers("a"), nodeSelector={"a": "1"}, strategy={}),
        **finalizers("a"),
    }
    with pytest.raises(ApiError) as caught:
        apply_strategic_merge_patch(document, patch, POD)
    assert caught.value.status == status
