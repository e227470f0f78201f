"""The ConfigMap by which pods know the API server."""

from __future__ import annotations

from pathlib import Path

import pytest

from navarch.api.types.core_v1 import ConfigMap, Namespace
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client

from .conftest import eventually, running

NAME = "kube-root-ca.crt"


@pytest.mark.conformance("ServiceAccounts should guarantee kube-root-ca.crt exist in any namespace")
async def test_every_namespace_has_the_root_ca(client: Client, tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("the authority")
    maps = client.resource(ConfigMap)

    async def until_right(namespace: str) -> None:
        async def is_right() -> bool:
            found = await maps.get(NAME, namespace)
            return found.data == {"ca.crt": "the authority"}

        await eventually(is_right, f"the ConfigMap in {namespace}")

    options = {"root_ca": str(tmp_path / "ca")}
    async with running(client, "root-ca-certificate-publisher", **options):
        await until_right("default")
        await client.resource(Namespace).create(Namespace(metadata=ObjectMeta(name="new")))
        await until_right("new")
        await maps.delete(NAME, "new")
        await until_right("new")
        await maps.patch(NAME, "new", {"data": {"ca.crt": None, "other": "x"}})
        await until_right("new")
