"""Strategic merge patch: list strategies, directives, orders and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.patch.strategic import apply_strategic_merge_patch
from navarch.api.schema.facts import FieldFacts, Shape, TypeFacts, schema_for

DELETE = {"$patch": "delete"}


def struct(**fields: FieldFacts) -> TypeFacts:
    return TypeFacts(Shape.STRUCT, fields=fields)


def facts(kind: TypeFacts | None = None, *strategies: str, key: str = "") -> FieldFacts:
    return FieldFacts(
        "field",
        kind or TypeFacts(Shape.SCALAR, scalar="string"),
        patch_strategies=strategies,
        patch_merge_key=key,
    )


def items(item: TypeFacts | None = None) -> TypeFacts:
    return TypeFacts(Shape.LIST, item=item or TypeFacts(Shape.SCALAR, scalar="string"))


MAP = TypeFacts(Shape.MAP, item=TypeFacts(Shape.SCALAR, scalar="string"))
ENV = items(struct(name=facts(), value=facts()))
CONTAINER = struct(name=facts(), image=facts(), env=facts(ENV, "merge", key="name"))
POD = struct(
    metadata=facts(struct(finalizers=facts(items(), "merge"))),
    spec=facts(
        struct(
            containers=facts(items(CONTAINER), "merge", key="name"),
            strategy=facts(struct(rolling=facts(MAP)), "retainKeys"),
            nodeSelector=facts(MAP),
            whole=facts(MAP, "replace"),
            tolerations=facts(items()),
        )
    ),
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


@pytest.mark.parametrize(
    ("kind", "document", "patch", "expected"),
    [
        pytest.param(
            ("apps", "v1", "Deployment"),
            {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}},
            {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}},
            {"spec": {"strategy": {"type": "Recreate"}}},
            id="deployment strategy",
        ),
        pytest.param(
            ("", "v1", "Service"),
            {"spec": {"ports": [{"port": 80, "name": "a", "nodePort": 30000}]}},
            {"spec": {"ports": [{"port": 80, "name": "b"}]}},
            {"spec": {"ports": [{"port": 80, "name": "b", "nodePort": 30000}]}},
            id="service ports",
        ),
        pytest.param(
            ("", "v1", "Node"),
            {"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X"}]}},
            {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
            {"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "X"}]}},
            id="conditions",
        ),
        pytest.param(
            ("", "v1", "Pod"),
            {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]}},
            {"spec": {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}]}},
            {
                "spec": {
                    "containers": [
                        {
                            "name": "a",
                            "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}],
                        }
                    ]
                }
            },
            id="lists in lists",
        ),
        pytest.param(
            ("", "v1", "ConfigMap"),
            {"data": {"a": "1", "b": "2"}},
            {"data": {"a": None, "c": "3"}},
            {"data": {"b": "2", "c": "3"}},
            id="map of a config map",
        ),
    ],
)
def test_real_kinds(kind: tuple[str, str, str], document: Any, patch: Any, expected: Any) -> None:
    assert apply_strategic_merge_patch(document, patch, schema_for(*kind)) == expected
