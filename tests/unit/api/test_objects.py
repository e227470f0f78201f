"""Typed objects: presets, zero values, Go's nulls, copies."""

from __future__ import annotations

import importlib
import pkgutil

import msgspec
import pytest

from navarch.api import objects, types
from navarch.api.types.core_v1 import Container, Event, EventSource, Pod, PodSpec
from navarch.api.types.meta_v1 import ObjectMeta


def test_kinds_are_preset_and_always_written() -> None:
    pod = Pod(metadata=ObjectMeta(name="x"), spec=PodSpec(containers=[Container(name="c")]))
    assert objects.to_object(pod) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {"containers": [{"name": "c", "resources": {}}]},
        "status": {},
    }
    assert Pod.GROUP_VERSION_KIND == ("", "v1", "Pod")


def test_pointers_tell_zero_from_absent() -> None:
    assert PodSpec().terminationGracePeriodSeconds is None
    spec = objects.decode(PodSpec, b'{"terminationGracePeriodSeconds": 0, "hostNetwork": false}')
    assert objects.encode(spec) == b'{"terminationGracePeriodSeconds":0}'


def test_nulls_of_go_mean_empty() -> None:
    pod = objects.decode(Pod, b'{"spec": {"containers": null}, "metadata": {"labels": null}}')
    assert pod.spec.containers == []
    assert pod.metadata.labels == {}
    event = objects.decode(Event, b'{"eventTime": null, "source": {"component": "x"}}')
    assert event.eventTime is None
    assert event.source == EventSource(component="x")


def test_wrong_types_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        objects.decode(Pod, b'{"metadata": {"name": 5}}')


def test_copies_share_nothing() -> None:
    pod = Pod(metadata=ObjectMeta(labels={"a": "b"}))
    copied = objects.copy_object(pod)
    assert copied == pod
    copied.metadata.labels["a"] = "c"
    assert pod.metadata.labels == {"a": "b"}


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(types.__path__)])
def test_every_type_survives_the_wire(name: str) -> None:
    module = importlib.import_module(f"navarch.api.types.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, objects.ApiStruct)
    ]
    assert found
    for struct in found:
        assert objects.decode(struct, objects.encode(struct())) == struct()
