"""Protobuf bodies, written here by hand: what typed Go clients send."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.kinds import Kind, Subresource, kind_by_name
from navarch.api.schema.protobuf import MAGIC, decode_protobuf


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    return MAGIC + message((1, message((1, api_version), (2, kind))), (2, raw), (3, ""), (4, ""))


def kind(group: str, version: str, name: str) -> Kind:
    found = kind_by_name(group, version, name)
    assert found is not None
    return found


def decoded(row: Kind, raw: bytes) -> dict[str, Any]:
    return decode_protobuf(row, envelope(row.api_version, row.kind, raw))


def test_a_pod() -> None:
    metadata = message(
        (1, "web"),
        (8, message((1, 1_700_000_000))),
        (11, message((1, "app"), (2, "web"))),
        (11, message((1, "tier"), (2, ""))),
    )
    port = message((1, "http"), (3, 8080))
    limit = message((1, "cpu"), (2, message((1, "500m"))))
    probe = message(
        (1, message((2, message((1, "/ok"), (2, message((1, 1), (3, "http"))))))), (2, 5)
    )
    volume = message((1, "v"), (2, message((19, message((1, message((1, "config"))), (3, 420))))))
    container = message(
        (1, "c"),
        (2, "nginx"),
        (3, "sh"),
        (3, "-c"),
        (6, port),
        (8, message((1, limit))),
        (10, probe),
    )
    spec = message((1, volume), (2, container), (4, 30), (11, 1))
    assert decoded(kind("", "v1", "Pod"), message((1, metadata), (2, spec))) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web",
            "creationTimestamp": "2023-11-14T22:13:20Z",
            "labels": {"app": "web", "tier": ""},
        },
        "spec": {
            "volumes": [{"name": "v", "configMap": {"name": "config", "defaultMode": 420}}],
            "containers": [
                {
                    "name": "c",
                    "image": "nginx",
                    "command": ["sh", "-c"],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "resources": {"limits": {"cpu": "500m"}},
                    "livenessProbe": {
                        "httpGet": {"path": "/ok", "port": "http"},
                        "initialDelaySeconds": 5,
                    },
                }
            ],
            "terminationGracePeriodSeconds": 30,
            "hostNetwork": True,
        },
    }


def test_bytes_negative_numbers_and_integers_or_strings() -> None:
    secret = message((1, message((1, "s"))), (2, message((1, "k"), (2, b"\x00\xff"))))
    assert decoded(kind("", "v1", "Secret"), secret)["data"] == {"k": "AP8="}
    priority = message((1, message((1, "p"))), (2, -5))
    found = decoded(kind("scheduling.k8s.io", "v1", "PriorityClass"), priority)
    assert found["value"] == -5
    rolling = message((1, message((1, 0), (2, 3))), (2, message((1, 1), (3, "25%"))))
    spec = message((4, message((1, "RollingUpdate"), (2, rolling))))
    found = decoded(kind("apps", "v1", "Deployment"), message((2, spec)))
    assert found["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 3, "maxSurge": "25%"}


def test_options_and_unknown_fields() -> None:
    options = Subresource("", (), "", "v1", "DeleteOptions")
    raw = message((1, 0), (4, "Background"), (5, "All"), (99, "new"))
    found = decode_protobuf(options, envelope("v1", "DeleteOptions", raw))
    assert found["gracePeriodSeconds"] == 0
    assert (found["propagationPolicy"], found["dryRun"]) == ("Background", ["All"])


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"k8t\0" + message((1, "x")), id="wrong magic"),
        pytest.param(envelope("v1", "Pod", message((1, "x")))[:-7], id="truncated"),
        pytest.param(envelope("v1", "Pod", b"\x0a\xff"), id="length beyond the end"),
        pytest.param(envelope("v1", "Pod", b"\x0b"), id="bad wire type"),
        pytest.param(envelope("v1", "Pod", b"\xff" * 11), id="endless number"),
        pytest.param(envelope("v1", "Pod", message((1, 5))), id="number for a message"),
        pytest.param(envelope("v1", "Pod", message((1, message((1, b"\xff"))))), id="bad text"),
        pytest.param(envelope("v1", "Nonsense", message((1, "x"))), id="unknown kind"),
    ],
)
def test_what_is_no_protobuf_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        decode_protobuf(kind("", "v1", "Pod"), body)
    assert caught.value.status == 400
