"""Server-side apply that cannot be done: refused by name, nothing half applied."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio
from tests.api.conftest import Api
from tests.api.hostile import CM, ROOT, Object, Refusal, furnish, refuse, row

pytestmark = pytest.mark.asyncio(loop_scope="module")

APPLY = "application/apply-patch+yaml"
DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments/there"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(shared_api: Api) -> Api:
    await furnish(shared_api)
    owned = wanted("owned", data={"key": "first"})
    path = f"{CM}/owned?fieldManager=first"
    (await shared_api.patch(path, owned, "apply", **ROOT)).ok(201)
    return shared_api


def wanted(name: str, metadata: Object | None = None, **more: Any) -> Object:
    metadata = {"name": name, **(metadata or {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **more}


def apply_row(name: str, path: str, status: int, message: str = "", **more: Any) -> Any:
    return row(name, f"PATCH {path}", status, message, content_type=APPLY, **more)


THERE = f"{CM}/there?fieldManager=me"
CASES = [
    apply_row("no manager", f"{CM}/there", 422, "is required for apply patch",
              causes=("fieldManager",), body=wanted("there")),
    apply_row("long manager", f"{CM}/there?fieldManager={'x' * 129}", 422, body=wanted("there")),
    apply_row("conflict", f"{CM}/owned?fieldManager=second", 409, 'conflict with "first"',
              causes=(".data.key",), body=wanted("owned", data={"key": "second"})),
    apply_row("managed fields", THERE, 400, "managedFields",
              body=wanted("there", {"managedFields": [{"manager": "me"}]})),
    apply_row("no kind", THERE, 400, "Kind=", body={"apiVersion": "v1",
                                                   "metadata": {"name": "there"}}),
    apply_row("no version", THERE, 400, "invalid object type: /, Kind=ConfigMap",
              body={"kind": "ConfigMap", "metadata": {"name": "there"}}),
    apply_row("other kind", THERE, 400, body={"kind": "Secret", "apiVersion": "v1",
                                              "metadata": {"name": "there"}}),
    apply_row("other name", THERE, 400, body=wanted("else")),
    apply_row("other namespace", THERE, 400, "namespace",
              body=wanted("there", {"namespace": "kube-system"})),
    apply_row("stale", THERE, 409, body=wanted("there", {"resourceVersion": "1"})),
    apply_row("uid of nothing", f"{CM}/new?fieldManager=me", 409, "uid mismatch",
              body=wanted("new", {"uid": "x"})),
    apply_row("other uid", THERE, 422, causes=("metadata.uid",),
              body=wanted("there", {"uid": "x"})),
    apply_row("unknown field", f"{THERE}&fieldValidation=Strict", 400,
              "field not declared in schema", body=wanted("there", extra=1)),
    apply_row("unknown field, not strict", THERE, 400, body=wanted("there", extra=1)),
    apply_row("wrong type", THERE, 400, body=wanted("there", data={"a": 1})),
    apply_row("map for a list", f"{DEPLOYMENT}?fieldManager=me", 400, body={
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "there"},
        "spec": {"template": {"spec": {"containers": {"a": 1}}}}}),
    apply_row("container without its key", f"{DEPLOYMENT}?fieldManager=me", 422,
              "spec.template.spec.containers[1].name: Required value", body={
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "there"},
        "spec": {"template": {"spec": {"containers": [{"image": "i"}]}}}}),
    apply_row("a container twice", f"{DEPLOYMENT}?fieldManager=me", 400, body={
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "there"},
        "spec": {"template": {"spec": {"containers": [{"name": "c"}, {"name": "c"}]}}}}),
    apply_row("a list", THERE, 400, body=[]),
    apply_row("null", THERE, 400, body=b"null"),
    apply_row("garbage", THERE, 400, body=b"a: [b"),
    apply_row("aliases", THERE, 400, "excessive aliasing", body=b"\n".join(
        [b"a0: &a0 [x,x,x,x,x,x,x,x,x]", *(
            b"a%d: &a%d [%b]" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 10)
        )])),
    apply_row("too deep", THERE, 400,
              body=b'{"kind":"ConfigMap","apiVersion":"v1","data":' + b'{"a":' * 20_000 + b"1"
              + b"}" * 20_001),
    apply_row("4 MiB", THERE, 413, "limit is 3145728", body=b" " * (4 << 20)),
    apply_row("an invalid object", f"{CM}/a_b?fieldManager=me", 422, causes=("metadata.name",),
              body=wanted("a_b")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_it_is_refused(api: Api, case: Refusal) -> None:
    await refuse(api, case)


async def test_the_conflict_names_manager_and_field(api: Api) -> None:
    body = wanted("owned", data={"key": "second"})
    answer = await api.patch(f"{CM}/owned?fieldManager=second", body, "apply", **ROOT)
    assert answer.status == 409
    [cause] = answer.json["details"]["causes"]
    assert (cause["reason"], cause["field"]) == ("FieldManagerConflict", ".data.key")
    assert 'conflict with "first"' in cause["message"]


async def test_managers_of_different_fields_do_not_disturb_each_other(api: Api) -> None:
    """Twenty managers apply their own key to one object, which none of them finds made."""

    async def apply(number: int) -> int:
        body = wanted("shared", data={f"k{number}": "v"})
        path = f"{CM}/shared?fieldManager=m{number}"
        return (await api.patch(path, body, "apply", **ROOT)).status

    statuses = await asyncio.gather(*(apply(number) for number in range(20)))
    assert sorted(statuses) == [*[200] * 19, 201]
    made = (await api.get(f"{CM}/shared", **ROOT)).ok()
    assert len(made["data"]) == len(made["metadata"]["managedFields"]) == 20
