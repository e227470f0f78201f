"""`/statusz` and `/flagz` (KEP-4827, KEP-4828): what a component is and how it was started.

Plain text for people, and for programs that name the kind in their Accept header
(`application/json;v=v1beta1;g=config.k8s.io;as=Statusz`) a versioned object.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web

from navarch import KUBERNETES_VERSION
from navarch.api.errors import ApiError
from navarch.api.times import format_time

from ..configuration.options import MASKED
from ..settings import NodeOptions

GROUP = "config.k8s.io"
VERSIONS = ("v1beta1", "v1alpha1")
WARNING = (
    "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility "
    "guarantees and is for debugging purposes only."
)


def process_age() -> float:
    """How many seconds ago this process began."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK"))


def _structured(request: web.Request, kind: str) -> str:
    """The version of the object that is asked for; empty for text. Raises ApiError 406."""
    accept = request.headers.get("Accept", "").strip()
    if not accept:
        return ""
    for each in accept.split(","):
        media, *parameters = (part.strip() for part in each.split(";"))
        values = dict(part.partition("=")[::2] for part in parameters)
        if media in ("text/plain", "text/*", "*/*"):
            return ""
        wanted = (values.get("g"), values.get("as"))
        if media == "application/json" and wanted == (GROUP, kind) and values.get("v") in VERSIONS:
            return values["v"]
    raise ApiError(
        406,
        "NotAcceptable",
        "only the following media types are accepted: text/plain, "
        + ", ".join(f"application/json;v={each};g={GROUP};as={kind}" for each in VERSIONS),
    )


def _answer(version: str, kind: str, component: str, fields: Mapping[str, Any]) -> web.Response:
    document = {
        "kind": kind,
        "apiVersion": f"{GROUP}/{version}",
        "metadata": {"name": component},
        **fields,
    }
    response = web.json_response(document)
    if version == "v1alpha1":
        response.headers["Warning"] = (
            f'299 - "This version of the {kind.lower()} endpoint is deprecated. Please use a newer '
            'version."'
        )
    return response


def statusz(
    request: web.Request, component: str, paths: Sequence[str], now: datetime
) -> web.Response:
    version = _structured(request, "Statusz")
    uptime = int(process_age())
    began = now - timedelta(seconds=uptime)
    language = f"python{platform.python_version()}"
    binary = KUBERNETES_VERSION.removeprefix("v").partition("+")[0]
    if version:
        fields = {
            "startTime": format_time(began),
            "uptimeSeconds": uptime,
            "goVersion": language,
            "binaryVersion": binary,
            "paths": list(paths),
        }
        return _answer(version, "Statusz", component, fields)
    hours, rest = divmod(uptime, 3600)
    lines = [
        "",
        f"{component} statusz",
        WARNING,
        "",
        f"Started: {began:%a %b %e %H:%M:%S UTC %Y}",
        f"Up: {hours} hr {rest // 60:02} min {rest % 60:02} sec",
        f"Go version: {language}",
        f"Binary version: {binary}",
        f"Paths: {' '.join(paths)}",
        "",
    ]
    return web.Response(text="\n".join(lines))


def flags_of(options: NodeOptions) -> dict[str, str]:
    """The options as flags. Credentials are in files, but for the headers of one request."""
    values = {each.name: getattr(options, each.name) for each in dataclasses.fields(options)}
    values["static_pod_url_header"] = dict.fromkeys(options.static_pod_url_header, MASKED)
    return {name.replace("_", "-"): _text(value) for name, value in sorted(values.items())}


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_text(each)}" for key, each in value.items())
    if isinstance(value, (tuple, list)):
        return ",".join(map(_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def flagz(request: web.Request, component: str, flags: Mapping[str, str]) -> web.Response:
    version = _structured(request, "Flagz")
    if version:
        return _answer(version, "Flagz", component, {"flags": dict(flags)})
    shown = (f"{name}={value}" for name, value in flags.items())
    return web.Response(text="\n".join(["", f"{component} flagz", WARNING, "", *shown, ""]))
