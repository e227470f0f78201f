"""Log, exec, attach and port-forward: passed on to the kubelet of the pod's node."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from aiohttp import web
from multidict import CIMultiDict

from navarch.api.errors import (
    ApiError,
    FieldError,
    bad_request,
    forbidden_field,
    invalid,
    invalid_object,
)
from navarch.api.numbers import natural
from navarch.api.times import TimeError, parse_time
from navarch.apiserver.connect.forward import Forwarder, UnreachableError, is_upgrade, upgrade
from navarch.apiserver.connect.nodes import Backend, Kubelets
from navarch.apiserver.core import Core
from navarch.apiserver.http.app import App
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.messages import BASE64, BINARY, MessageResponse, wants_messages
from navarch.apiserver.http.options import integer
from navarch.apiserver.http.respond import base_headers
from navarch.apiserver.podrefs import containers
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.resource import Resource

if TYPE_CHECKING:
    import aiohttp

Object = dict[str, Any]

ERROR_BODY_LIMIT = 20 * 1024


def container_of(pod: Object, wanted: str) -> str:
    """The container that is meant. Raises 400."""
    name = pod["metadata"]["name"]
    every = [each["name"] for each in containers(pod)]
    if wanted:
        if wanted not in every:
            raise bad_request(f"container {wanted} is not valid for pod {name}")
        return wanted
    plain = pod["spec"].get("containers") or []
    if len(plain) == 1:
        return str(plain[0]["name"])
    if not plain:
        raise bad_request(f"a container name must be specified for pod {name}")
    choices = " ".join(every)
    raise bad_request(
        f"a container name must be specified for pod {name}, choose one of: [{choices}]"
    )


class PodStreams:
    """The handlers, with what they need to reach kubelets."""

    def __init__(self, kubelets: Kubelets, forwarder: Forwarder) -> None:
        self.kubelets = kubelets
        self.forwarder = forwarder

    def add_to(self, app: App) -> None:
        app.subresources["pods", "log", "get"] = self.log
        for verb in ("get", "create"):
            app.subresources["pods", "exec", verb] = self.exec_or_attach
            app.subresources["pods", "attach", verb] = self.exec_or_attach
            app.subresources["pods", "portforward", verb] = self.port_forward

    # ---- exec, attach, port-forward

    async def exec_or_attach(
        self, core: Core, call: Call, resource: Resource
    ) -> web.StreamResponse:
        subresource = call.info.subresource
        options = _stream_options(call)
        kind = "PodExecOptions" if subresource == "exec" else "PodAttachOptions"
        if subresource == "exec" and not options["command"]:
            raise bad_request("you must specify at least 1 command for the container")
        if not any(options[each] for each in ("stdin", "stdout", "stderr")):
            raise bad_request("you must specify at least 1 of stdin, stdout, stderr")
        pod, backend = await self._connect(core, call, resource, (kind, options))
        container = container_of(pod, options["container"])
        query = [(name, "1") for name, option in _OPTION.items() if options[option]]
        query += [("command", each) for each in options["command"]]
        target = _kubelet_path(subresource, pod, container, query)
        return await self._stream(core, call, backend, target)

    async def port_forward(self, core: Core, call: Call, resource: Resource) -> web.StreamResponse:
        ports = [
            _port(text) for value in call.target.query.get("ports", ()) for text in value.split(",")
        ]
        options: Object = {"ports": ports}
        what = ("PodPortForwardOptions", options)
        pod, backend = await self._connect(core, call, resource, what)
        query = [("port", ",".join(map(str, ports)))] if ports else []
        return await self._stream(core, call, backend, _kubelet_path("portForward", pod, "", query))

    async def _connect(
        self, core: Core, call: Call, resource: Resource, connection: tuple[str, Object]
    ) -> tuple[Object, Backend]:
        """The pod and its kubelet, after admission of the CONNECT."""
        kind, options = connection
        info = call.info
        pod = resource.decode(core.registry.get(resource, info.namespace, info.name))
        given = {key: value for key, value in options.items() if value}
        obj = {"kind": kind, "apiVersion": "v1", **given}
        context = WriteContext(info=info, user=call.user, warnings=call.warnings, trail=call.trail)
        request = core.registry.admission(resource, "CONNECT", obj, None, context, kind)
        await core.registry.admit(request)
        if request.is_rewritten and request.obj is not None:
            options |= {key: request.obj.get(key, type(options[key])()) for key in options}
        if kind != "PodPortForwardOptions":
            container_of(pod, options["container"])
        node = pod["spec"].get("nodeName")
        if not node:
            raise bad_request(f"pod {info.name} does not have a host assigned")
        return pod, self.kubelets.backend(node)

    async def _stream(
        self, core: Core, call: Call, backend: Backend, target: str
    ) -> web.StreamResponse:
        if not is_upgrade(call.request):
            raise bad_request("Upgrade request required")
        core.gauge("connect", 1)
        try:
            return await upgrade(call, backend, target)
        finally:
            core.gauge("connect", -1)

    # ---- log

    async def log(self, core: Core, call: Call, resource: Resource) -> web.StreamResponse:
        info = call.info
        pod = resource.decode(core.registry.get(resource, info.namespace, info.name))
        query = _log_query(call)
        container = container_of(pod, call.parameter("container"))
        node = pod["spec"].get("nodeName")
        if not node:
            return web.Response(status=204, headers=base_headers(call))
        text = simulated_log(pod, container)
        if text is not None and self.kubelets.is_simulated(node):
            headers = base_headers(call)
            headers["Content-Type"] = "text/plain"
            return web.Response(text=text, headers=headers)
        backend = self.kubelets.backend(node)
        if call.flag("insecureSkipTLSVerifyBackend"):
            backend = replace(backend, tls=self.kubelets.unverified_tls)
        target = _kubelet_path("containerLogs", pod, container, query)
        try:
            answer = await self.forwarder.send(backend, "GET", target, CIMultiDict(), None)
        except UnreachableError as error:
            text = f'Get "https://{backend.authority}{target}": {error}'
            raise ApiError(500, "", text) from error
        try:
            if answer.status >= 400:
                raise await _kubelet_error(answer, info.name)
            return await self._send_log(core, call, answer)
        finally:
            answer.close()

    async def _send_log(
        self, core: Core, call: Call, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        import aiohttp

        response: web.StreamResponse
        if wants_messages(call):
            response = MessageResponse(call, (BINARY, BASE64))
        else:
            headers = base_headers(call)
            headers["Content-Type"] = "text/plain"
            response = web.StreamResponse(headers=headers)
        writer = await response.prepare(call.request)
        if isinstance(response, MessageResponse):
            await response.write(b"")  # upstream's greeting
        elif call.flag("follow") and writer is not None and hasattr(writer, "send_headers"):
            writer.send_headers()
        connection = core.connection_of(call.request)
        connection.on_lost.add(answer.close)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionResetError(f"the log broke off: {error}") from error
        finally:
            connection.on_lost.discard(answer.close)
        await response.write_eof()
        return response


_OPTION = {"input": "stdin", "output": "stdout", "error": "stderr", "tty": "tty"}


def _stream_options(call: Call) -> Object:
    """PodExecOptions or PodAttachOptions in the query; stdout and stderr are on unless refused."""
    query = call.target.query
    tty = call.flag("tty")
    return {
        "stdin": call.flag("stdin"),
        "stdout": call.flag("stdout") or "stdout" not in query,
        # A terminal has one output.
        "stderr": not tty and (call.flag("stderr") or "stderr" not in query),
        "tty": tty,
        "container": call.parameter("container"),
        "command": query.get("command", []),
    }


def _port(text: str) -> int:
    number = natural(text) or 0
    if not 0 < number < 65536:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return number


def _kubelet_path(what: str, pod: Object, container: str, query: list[tuple[str, str]]) -> str:
    metadata = pod["metadata"]
    parts = [what, metadata["namespace"], metadata["name"], *([container] if container else [])]
    path = "/" + "/".join(quote(each, safe="") for each in parts)
    return f"{path}?{urlencode(query)}" if query else path


_LOG_FLAGS = ("follow", "previous", "timestamps")


SIMULATED_LOGS = "simulated.navarch.dev/logs"
"""Annotation: what a pod's containers have printed; `<container>.` before it is about one."""


def simulated_log(pod: Object, container: str) -> str | None:
    """What a pod without processes is said to have printed, if anything."""
    annotations = pod["metadata"].get("annotations") or {}
    text: str | None = annotations.get(f"{container}.{SIMULATED_LOGS}")
    if text is None:
        text = annotations.get(SIMULATED_LOGS)
    return text if text is None or text.endswith("\n") else f"{text}\n"


def _log_query(call: Call) -> list[tuple[str, str]]:
    """PodLogOptions in the query, checked. Raises 400, 422."""
    query = [(name, "true") for name in _LOG_FLAGS if call.flag(name)]
    errors: list[FieldError] = []
    for name, lowest, text in (
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ):
        value = integer(call, name)
        if value is None:
            continue
        if value < lowest:
            errors.append(invalid(name, value, text))
        query.append((name, str(value)))
    since = call.parameter("sinceTime")
    if since:
        try:
            parse_time(since)
        except TimeError as error:
            raise bad_request(str(error)) from None
        if call.parameter("sinceSeconds"):
            errors.append(
                forbidden_field(
                    "sinceSeconds", "at most one of `sinceTime` or `sinceSeconds` may be specified"
                )
            )
        query.append(("sinceTime", since))
    stream = call.parameter("stream")
    if stream:
        if stream not in ("All", "Stdout", "Stderr"):
            text = 'supported values: "All", "Stderr", "Stdout"'
            errors.append(
                FieldError(
                    "FieldValueNotSupported", "stream", f'Unsupported value: "{stream}": {text}'
                )
            )
        if stream != "All" and call.parameter("tailLines"):
            text = "`tailLines` and specific `stream` are mutually exclusive for now"
            errors.append(forbidden_field("", text))
        query.append(("stream", stream))
    if errors:
        raise invalid_object("PodLogOptions", "", call.info.name, errors)
    return query


async def _kubelet_error(answer: aiohttp.ClientResponse, name: str) -> ApiError:
    """The kubelet's refusal as ours: its text is the message."""
    import aiohttp

    try:
        text = (await answer.content.read(ERROR_BODY_LIMIT)).decode("utf-8", "replace").strip()
    except (aiohttp.ClientError, OSError) as error:
        return ApiError(500, "InternalError", f"Internal error occurred: {error}")
    if answer.content_type == "application/json":
        import msgspec

        try:
            return ApiError.from_status(msgspec.json.decode(text.encode()))
        except (msgspec.DecodeError, AttributeError, ValueError):
            pass
    if answer.status == 400:
        return bad_request(text)
    if answer.status == 404:
        message = f"the server could not find the requested resource ( pods/log {name})"
        details = {"name": name, "kind": "pods/log"}
        return ApiError(404, "NotFound", message, details)
    if answer.status in (401, 403):
        return ApiError(500, "InternalError", f"the kubelet does not let us in: {text}")
    return ApiError(500, "InternalError", f"Internal error occurred: {text}")
