"""Codecs and the watch's wire format."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import ConfigMap, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.objects import (
    Codec,
    PartialObject,
    drop_managed_fields,
    object_key,
    split_key,
)
from navarch.client.watch import LineSplitter, decode_event, read_watch


@pytest.mark.parametrize(
    ("obj", "key"),
    [
        pytest.param(Pod(metadata=ObjectMeta(name="p", namespace="n")), "n/p", id="struct"),
        pytest.param(Pod(metadata=ObjectMeta(name="p")), "p", id="cluster-scoped"),
        pytest.param({"metadata": {"name": "p", "namespace": "n"}}, "n/p", id="dict"),
    ],
)
def test_keys(obj: Any, key: str) -> None:
    assert object_key(obj) == key
    assert split_key(key) == (("n", "p") if "/" in key else ("", "p"))


def test_an_encoded_struct_says_what_it_is() -> None:
    encoded = json.loads(Codec(ConfigMap).encode(ConfigMap(metadata=ObjectMeta(name="c"))))
    assert encoded == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}


LIST = {
    "kind": "ConfigMapList",
    "apiVersion": "v1",
    "metadata": {"resourceVersion": "7", "continue": "more", "remainingItemCount": 3},
    "items": [{"metadata": {"name": "c", "creationTimestamp": None}, "data": None}],
}


@pytest.mark.parametrize("item_type", [ConfigMap, PartialObject, dict[str, Any]])
def test_lists_of_unnamed_items_with_nulls(item_type: Any) -> None:
    page = Codec(item_type).decode_list(json.dumps(LIST).encode())
    assert (page.resource_version, page.continue_, page.remaining) == ("7", "more", 3)
    (item,) = page.items
    kind = item["kind"] if isinstance(item, dict) else item.kind
    assert (kind, object_key(item)) == ("ConfigMap", "c")


def test_empty_lists_may_be_null() -> None:
    assert Codec(Pod).decode_list(b'{"metadata":{"resourceVersion":"1"},"items":null}').items == []


@pytest.mark.parametrize("item_type", [ConfigMap, dict[str, Any]])
def test_managed_fields_are_dropped(item_type: Any) -> None:
    data = b'{"metadata":{"name":"c","managedFields":[{"manager":"m"}]}}'
    codec = Codec(item_type)
    assert b"managedFields" not in codec.encode(drop_managed_fields(codec.decode(data)))


@given(st.lists(st.binary(min_size=1).filter(lambda b: b"\n" not in b and b.strip())), st.data())
def test_lines_survive_any_cutting(lines: list[bytes], data: st.DataObject) -> None:
    body = b"".join(line + b"\n" for line in lines) + b"an unfinished line"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    splitter = LineSplitter()
    found = []
    for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        found += splitter.feed(body[begin:end])
    assert found == lines


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_watch_events_then_an_error_event() -> None:
    body = (
        b'{"type":"ADDED","object":{"metadata":{"name":"p","annotations":{"x":"\\"ERROR\\""}}}}\n'
        b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}\n'
        b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"old"}}'
        b"\n"
    )
    seen = []
    with pytest.raises(ApiError) as caught:
        decode = partial(decode_event, codec=Codec(Pod))
        async for event in read_watch(chunks(body[:50], body[50:]), decode):
            seen.append((event.type, event.object.metadata.name))
    assert seen == [("ADDED", "p"), ("BOOKMARK", "")]
    assert caught.value.is_gone
