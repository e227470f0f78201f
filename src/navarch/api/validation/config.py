"""ConfigMaps and Secrets: keys that can be file names, 1 MiB in all, and immutability."""

from __future__ import annotations

import base64
import binascii
import json

from navarch.api import names
from navarch.api.validation.fields import Field

MAX_SIZE = 1024 * 1024
SEALED = "field is immutable when `immutable` is set"
ACCOUNT_ANNOTATION = "kubernetes.io/service-account.name"
_DOCKER = {
    "kubernetes.io/dockercfg": ".dockercfg",
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
}


def _decoded_size(text: str) -> int:
    return len(text) * 3 // 4 - text.endswith("=") - text.endswith("==")


def _check_keys(data: Field) -> None:
    for key, value in data.entries():
        value.showing(key).check(names.config_map_key)


def validate_config_map(obj: Field) -> None:
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    for key, value in obj["data"].entries():
        value.showing(key).check(names.config_map_key)
        if key in binary:
            value.showing(key).invalid("duplicate of key present in binaryData")
    _check_keys(obj["binaryData"])
    size = sum(map(len, data.values())) + sum(map(_decoded_size, binary.values()))
    if size > MAX_SIZE // 4:
        size = sum(len(value.encode(errors="surrogatepass")) for value in data.values())
        size += sum(map(_decoded_size, binary.values()))
        if size > MAX_SIZE:
            obj.too_long(MAX_SIZE)


def _check_sealed(obj: Field, old: Field, *fields: str) -> None:
    if old.get("immutable"):
        if not obj.get("immutable"):
            obj["immutable"].forbidden(SEALED)
        for field in fields:
            if (obj.get(field) or {}) != (old.get(field) or {}):
                obj[field].forbidden(SEALED)


def validate_config_map_update(obj: Field, old: Field) -> None:
    _check_sealed(obj, old, "data", "binaryData")
    validate_config_map(obj)


def validate_secret(obj: Field) -> None:
    data, kind = obj["data"], obj.get("type")
    _check_keys(data)
    if sum(map(_decoded_size, (data.value or {}).values())) > MAX_SIZE:
        data.too_long(MAX_SIZE)
    if kind == "kubernetes.io/service-account-token":
        annotations = obj["metadata"]["annotations"]
        value = annotations.get(ACCOUNT_ANNOTATION)
        annotations.at(f"[{ACCOUNT_ANNOTATION}]", value).present()
    elif kind in _DOCKER:
        _check_docker(data, _DOCKER[kind])
    elif kind == "kubernetes.io/basic-auth":
        if "username" not in data and "password" not in data:
            _require(data, "username", "password")
    elif kind == "kubernetes.io/ssh-auth":
        data.at("[ssh-privatekey]", data.get("ssh-privatekey")).present()
    elif kind == "kubernetes.io/tls":
        _require(data, *(key for key in ("tls.crt", "tls.key") if key not in data))


def _require(data: Field, *keys: str) -> None:
    for key in keys:
        data.at(f"[{key}]", None).required()


def _check_docker(data: Field, key: str) -> None:
    if key not in data:
        _require(data, key)
        return
    hidden = data.at(f"[{key}]", "<secret contents redacted>")
    try:
        content = json.loads(base64.b64decode(data.get(key)))
    except (ValueError, binascii.Error, RecursionError) as error:
        hidden.invalid(str(error).partition(":")[0])
        return
    if not isinstance(content, dict):
        hidden.invalid("json: cannot unmarshal into a value of type map[string]interface {}")


def validate_secret_update(obj: Field, old: Field) -> None:
    obj.keeps(old, "type")
    _check_sealed(obj, old, "data")
    validate_secret(obj)
