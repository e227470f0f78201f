"""What informers keep once though it comes more than once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from navarch.api.objects import copy_object
from navarch.api.types.core_v1 import Pod
from navarch.client import following
from navarch.client.following import Decoder
from navarch.client.objects import Codec, drop_managed_fields


def pod_object(name: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "registry.example/app:1",
        "ports": [{"name": "x"}],
        "env": [{"name": "x"}],
        "resources": {"requests": {"cpu": "1"}},
        "volumeMounts": [{"name": f"token-{name}", "mountPath": "/token"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "labels": {"app": "a"}},
        "spec": {
            "containers": [container],
            "imagePullSecrets": [{"name": "x"}],
            "volumes": [{"name": f"token-{name}", "emptyDir": {}}],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "main", "ready": True}],
        },
    }


def decoded(name: str) -> Pod:
    return Codec(Pod).decode(msgspec.json.encode(pod_object(name)))


def test_pods_share_equal_parts_and_stay_what_they_were() -> None:
    first, second = drop_managed_fields(decoded("a")), drop_managed_fields(decoded("b"))
    assert (first, second) == (decoded("a"), decoded("b"))
    one, other = first.spec.containers[0], second.spec.containers[0]
    assert one.env is other.env
    assert one.resources is other.resources
    assert first.metadata.labels is second.metadata.labels
    # What is written alike is not taken for one another.
    assert len({type(part[0]) for part in (one.env, one.ports, first.spec.imagePullSecrets)}) == 3


def test_a_copy_shares_nothing() -> None:
    first, second = drop_managed_fields(decoded("a")), drop_managed_fields(decoded("b"))
    copied = copy_object(first)
    copied.spec.containers[0].env.clear()
    copied.spec.tolerations.extend(copied.spec.tolerations)
    assert second == decoded("b")


def test_a_pod_that_changes_keeps_its_spec() -> None:
    def state(node: str, image: str) -> Pod:
        obj = pod_object("c")
        obj["metadata"]["uid"] = "c"
        obj["spec"]["nodeName"] = node
        obj["spec"]["containers"][0]["image"] = image
        return Codec(Pod).decode(msgspec.json.encode(obj))

    states = [("", "i:1"), ("n1", "i:1"), ("n1", "i:1"), ("n1", "i:2")]
    waiting, bound, running, other = [drop_managed_fields(state(*each)) for each in states]
    assert [waiting, bound, running, other] == [state(*each) for each in states]
    assert running.spec is bound.spec
    assert bound.spec.containers is waiting.spec.containers
    assert other.spec.volumes[0].name is bound.spec.volumes[0].name


@pytest.fixture
def decoder() -> Decoder[Pod]:
    return Decoder(Codec(Pod), drop_managed_fields)


def line(name: str, type_: str = "ADDED") -> bytes:
    return msgspec.json.encode({"type": type_, "object": pod_object(name)})


def test_followers_get_the_same_object(decoder: Decoder[Pod]) -> None:
    decoder.join()
    assert decoder.decode(line("a")) is not decoder.decode(line("a"))  # nobody else asks
    decoder.join()
    first = decoder.decode(line("a"))
    assert decoder.decode(line("a")) is first
    assert decoder.decode(line("a")) is not first  # both have had it: another one, sent later
    decoder.leave()
    assert decoder.decode(line("a")) == first


def test_what_nobody_fetches_is_let_go(
    decoder: Decoder[Pod], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LIMIT_BYTES", 3 * len(line("0")))
    decoder.join()
    decoder.join()
    old = decoder.decode(line("0"))
    kept = [decoder.decode(line(str(number))) for number in range(1, 4)]
    assert [decoder.decode(line(str(number))) for number in range(1, 4)] == kept
    assert decoder.decode(line("0")) is not old
    assert decoder.decode(line("3")).object.metadata.name == "3"
