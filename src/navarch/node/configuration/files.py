"""KubeletConfiguration files: read, merged, completed.

What upstream's kubelet does with `--config` and `--config-dir`: what strictness finds (unknown
fields, duplicate keys) is a warning, what cannot be read is an error, drop-in files are merge
patches in the order of their paths, defaults come last, and the whole is validated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from navarch.api.times import parse_duration

from ..settings import EVICTION_HARD
from .checks import problems
from .types import API_VERSION, KEPT_ZEROS, KIND, Duration, KubeletConfiguration


class ConfigurationError(ValueError):
    """The files cannot be used; the message says why, in upstream's words."""


PATHS = (
    "staticPodPath",
    "tlsCertFile",
    "tlsPrivateKeyFile",
    "authentication.x509.clientCAFile",
    "resolvConf",
)
"""Files, which a configuration may name relative to itself."""


def load(config: Path | None, directory: Path | None) -> tuple[KubeletConfiguration, list[str]]:
    """The configuration in force, and what is odd about its files. Raises ConfigurationError."""
    warnings: list[str] = []
    document: dict[str, Any] = {}
    if config is not None:
        try:
            document, found = _read(config)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"failed to load kubelet config file, path: {config}, error: failed to load "
                f"Kubelet config file {config}, error {error}"
            ) from None
        warnings += found
        _resolve(document, config.parent)
    if directory is not None:
        document = _with_drop_ins(document, directory, warnings)
    configuration = _complete(document)
    wrong = list(problems(configuration))
    if wrong:
        text = wrong[0] if len(wrong) == 1 else f"[{', '.join(wrong)}]"
        raise ConfigurationError(
            f"failed to validate kubelet configuration, error: {text}, path: {config or directory}"
        )
    return configuration, warnings


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """One file as plain data, and what strict decoding has against it."""
    from navarch.api.schema.yaml_body import YamlError, parse_yaml

    try:
        data = path.read_bytes()
    except OSError as error:
        reason = f"open {path}: {(error.strerror or '').lower()}"
        raise ConfigurationError(
            f'failed to read kubelet config file "{path}", error: {reason}'
        ) from error
    if not data:
        raise ConfigurationError(f'kubelet config file "{path}" was empty')
    try:
        parsed = parse_yaml(data)
    except (YamlError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"failed to decode: {error}") from error
    document = parsed.value
    if not isinstance(document, dict):
        raise ConfigurationError("failed to decode: Object 'Kind' is missing")
    version, kind = document.get("apiVersion") or "", document.get("kind") or ""
    for name, given in (("Kind", kind), ("apiVersion", version)):
        if not given:
            raise ConfigurationError(f"failed to decode: Object '{name}' is missing in the file")
    if (version, kind) != (API_VERSION, KIND):
        raise ConfigurationError(
            f'failed to decode: no kind "{kind}" is registered for version "{version}" in scheme '
            '"kubelet configuration"'
        )
    unknown = [f'unknown field "{name}"' for name in _unknown(document, KubeletConfiguration)]
    odd = [*parsed.duplicates, *unknown]
    _typed(document)
    if odd:
        return document, [
            f"{path}: strict decoding error: {', '.join(odd)}; it is read without these"
        ]
    return document, []


def _with_drop_ins(base: dict[str, Any], directory: Path, warnings: list[str]) -> dict[str, Any]:
    where = (
        "failed to merge kubelet configs: failed to walk through kubelet dropin directory "
        f'"{directory}": '
    )
    if not directory.is_dir():
        raise ConfigurationError(f"{where}lstat {directory}: no such file or directory")
    for path in sorted(directory.rglob("*"), key=lambda each: each.parts):
        if path.is_dir():
            continue
        if path.suffix != ".conf":
            warnings.append(f"{path} is no drop-in file: only *.conf are read")
            continue
        try:
            document, found = _read(path)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{where}failed to load kubelet dropin file, path: {path}, error: {error}"
            ) from None
        warnings += found
        base = _merged(base, document)
    return base


def _merged(base: Any, patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7396."""
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value) if isinstance(value, dict) else value
    return result


def _files(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The files a document names: the field's path, and where and under which name it stands."""
    for path in PATHS:
        *parents, name = path.split(".")
        place = document
        for each in parents:
            place = place.get(each) or {}
        if place.get(name):
            yield path, place, name


def _resolve(document: dict[str, Any], directory: Path) -> None:
    for _, place, name in _files(document):
        place[name] = str(directory.absolute() / place[name])


def relative_paths(config: Path) -> list[str]:
    """The fields that name files relative to the configuration. Raises ConfigurationError."""
    document, _ = _read(config)
    return [path for path, place, name in _files(document) if not place[name].startswith("/")]


def named_fields(config: Path) -> frozenset[str]:
    """The fields that a file sets. Raises ConfigurationError."""
    return frozenset(_read(config)[0])


def _unknown(document: Mapping[str, Any], kind: type, path: str = "") -> Iterator[str]:
    known = {each.name: each.type for each in msgspec.structs.fields(kind)}
    for name, value in document.items():
        if name not in known:
            yield f"{path}{name}"
            continue
        for inner in _structs(known[name]):
            if isinstance(value, dict):
                yield from _unknown(value, inner, f"{path}{name}.")
            elif isinstance(value, list):
                for index, each in enumerate(value):
                    if isinstance(each, dict):
                        yield from _unknown(each, inner, f"{path}{name}[{index}].")


def _structs(hint: Any) -> list[type]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    return [found for each in getattr(hint, "__args__", ()) for found in _structs(each)]


def _typed(document: Mapping[str, Any]) -> KubeletConfiguration:
    try:
        return msgspec.convert(_set(document), KubeletConfiguration, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"failed to decode: {_in_words_of_go(str(error))}") from error


def _set(document: Mapping[str, Any], kind: type = KubeletConfiguration) -> dict[str, Any]:
    """Without what is null, or the zero of a field that is no pointer: both mean the default."""
    hints = {each.name: each.type for each in msgspec.structs.fields(kind)}
    result: dict[str, Any] = {}
    for name, value in document.items():
        hint = hints.get(name)
        is_zero = value == "" or (value == 0 and value is not False)
        is_zero |= hint is Duration and value in ("0", "0s")
        if value is None or hint is None or (is_zero and name not in KEPT_ZEROS):
            continue
        inner = _structs(hint)
        result[name] = _set(value, inner[0]) if inner and isinstance(value, dict) else value
    return result


def _decode(kind: type, value: Any) -> Any:
    if kind is not Duration:
        raise NotImplementedError(kind)
    if not isinstance(value, str):
        raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
    return Duration(parse_duration(value))


_GO_TYPES = {"str": "string", "int": "number", "float": "number", "bool": "bool"}
_GO_TYPES |= {"array": "array", "object": "object", "null": "null", "dict": "object"}
_MISMATCH = re.compile(r"Expected `([\w| ]+)`, got `(\w+)`(?: - at `\$\.?(.*)`)?")


def _in_words_of_go(text: str) -> str:
    match = _MISMATCH.fullmatch(text)
    if match is None:
        return text.partition(" - at ")[0]
    wanted, given, path = match.groups()
    go = {"int": "int32", "str": "string", "array": "[]string", "object": "map[string]string"}
    first = wanted.partition(" |")[0]
    field_path = re.sub(r"\[[^\]]*\]", "", path or "")
    return (
        f"json: cannot unmarshal {_GO_TYPES.get(given, given)} into Go struct field "
        f"{KIND}.{field_path} of type {go.get(first, first)}"
    )


def _complete(document: Mapping[str, Any]) -> KubeletConfiguration:
    """With the defaults that depend on other fields."""
    result = _typed(document)
    given = _set(document)
    if "nodeStatusUpdateFrequency" in given and "nodeStatusReportFrequency" not in given:
        result.nodeStatusReportFrequency = result.nodeStatusUpdateFrequency
    if result.serializeImagePulls is None:
        result.serializeImagePulls = (result.maxParallelImagePulls or 0) < 2
    if result.evictionHard is None:
        result.evictionHard = dict(EVICTION_HARD)
    elif result.mergeDefaultEvictionSettings:
        result.evictionHard = {**EVICTION_HARD, **result.evictionHard}
    result.podPidsLimit = max(result.podPidsLimit, -1)
    # Upstream's defaults for these refuse most people's own machines; only their own word counts.
    result.failSwapOn = document.get("failSwapOn") is True
    result.failCgroupV1 = document.get("failCgroupV1") is True
    return result
