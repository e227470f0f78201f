"""ConfigMaps and Secrets: keys that can be file names, 1 MiB in all, and immutability."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping

from navarch.api import names
from navarch.api.validation.common import Errors, Object

MAX_SIZE = 1024 * 1024
SEALED = "field is immutable when `immutable` is set"
ACCOUNT_ANNOTATION = "kubernetes.io/service-account.name"
_DOCKER = {
    "kubernetes.io/dockercfg": ".dockercfg",
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
}


def _check_keys(errors: Errors, path: str, data: Mapping[str, str]) -> None:
    for key in data:
        errors.check(f"{path}[{key}]", key, names.config_map_key)


def _decoded_size(text: str) -> int:
    return len(text) * 3 // 4 - text.endswith("=") - text.endswith("==")


def validate_config_map(errors: Errors, obj: Object) -> None:
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    for key in data:
        errors.check(f"data[{key}]", key, names.config_map_key)
        if key in binary:
            errors.invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
    _check_keys(errors, "binaryData", binary)
    size = sum(map(len, data.values())) + sum(map(_decoded_size, binary.values()))
    if size > MAX_SIZE // 4:
        size = sum(len(value.encode(errors="surrogatepass")) for value in data.values())
        size += sum(map(_decoded_size, binary.values()))
        if size > MAX_SIZE:
            errors.too_long("", MAX_SIZE)


def _check_sealed(errors: Errors, obj: Object, old: Object, *fields: str) -> None:
    if old.get("immutable"):
        if not obj.get("immutable"):
            errors.forbidden("immutable", SEALED)
        for field in fields:
            if (obj.get(field) or {}) != (old.get(field) or {}):
                errors.forbidden(field, SEALED)


def validate_config_map_update(errors: Errors, obj: Object, old: Object) -> None:
    _check_sealed(errors, obj, old, "data", "binaryData")
    validate_config_map(errors, obj)


def validate_secret(errors: Errors, obj: Object) -> None:
    data, kind = obj.get("data") or {}, obj.get("type")
    _check_keys(errors, "data", data)
    if sum(map(_decoded_size, data.values())) > MAX_SIZE:
        errors.too_long("data", MAX_SIZE)
    if kind == "kubernetes.io/service-account-token":
        if not (obj["metadata"].get("annotations") or {}).get(ACCOUNT_ANNOTATION):
            errors.required(f"metadata.annotations[{ACCOUNT_ANNOTATION}]")
    elif kind in _DOCKER:
        _check_docker(errors, data, _DOCKER[kind])
    elif kind == "kubernetes.io/basic-auth":
        if "username" not in data and "password" not in data:
            errors.required("data[username]")
            errors.required("data[password]")
    elif kind == "kubernetes.io/ssh-auth":
        errors.present("data[ssh-privatekey]", data.get("ssh-privatekey"))
    elif kind == "kubernetes.io/tls":
        for key in ("tls.crt", "tls.key"):
            if key not in data:
                errors.required(f"data[{key}]")


def _check_docker(errors: Errors, data: Mapping[str, str], key: str) -> None:
    if key not in data:
        errors.required(f"data[{key}]")
        return
    hidden = "<secret contents redacted>"
    try:
        content = json.loads(base64.b64decode(data[key]))
    except (ValueError, binascii.Error, RecursionError) as error:
        errors.invalid(f"data[{key}]", hidden, str(error).partition(":")[0])
        return
    if not isinstance(content, dict):
        detail = "json: cannot unmarshal into a value of type map[string]interface {}"
        errors.invalid(f"data[{key}]", hidden, detail)


def validate_secret_update(errors: Errors, obj: Object, old: Object) -> None:
    errors.immutable("type", obj.get("type"), old.get("type"))
    _check_sealed(errors, obj, old, "data")
    validate_secret(errors, obj)
