"""gRPC to a runtime's unix socket: this is the only module of the node agent that speaks it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache, partial
from time import perf_counter
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from prometheus_client import Counter, Histogram

from navarch.client.clock import end_if_told

from .values import RuntimeFailure

M = TypeVar("M", bound=Message)

_OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.default_authority", "localhost"),
    ("grpc.enable_http_proxy", 0),
    # Or a channel to a socket that was made anew takes the connection of one closed a moment ago.
    ("grpc.use_local_subchannel_pool", 1),
    # A runtime that was restarted is back in a second; the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

_FAILURES = (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.CancelledError)
"""grpc cancels the calls of a channel that is closed as if their callers were told to end. These
are not: a plug-in has gone, and who waits for it goes on."""

operations = Counter(
    "kubelet_runtime_operations",
    "Cumulative number of runtime operations by operation type.",
    ["operation_type"],
)
operation_errors = Counter(
    "kubelet_runtime_operations_errors",
    "Cumulative number of runtime operation errors by operation type.",
    ["operation_type"],
)
operation_seconds = Histogram(
    "kubelet_runtime_operations_duration_seconds",
    "Duration in seconds of runtime operations. Broken down by operation type.",
    ["operation_type"],
    buckets=[0.005 * 2.5**power for power in range(14)],
)


def method_of(request: Message) -> str:
    """A method of CRI has its request's name, and `Image` in it if it is of the image service."""
    name = type(request).__name__.removesuffix("Request")
    return f"/runtime.v1.{'Image' if 'Image' in name else 'Runtime'}Service/{name}"


@cache
def operation_of(method: str) -> str:
    """The name under which upstream counts a call: `run_podsandbox` for `RunPodSandbox`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", method.rpartition("/")[2]).lower()
    return words.replace("pod_sandbox", "podsandbox").replace("container_resources", "container")


@cache
def _figures_of(method: str) -> tuple[Counter, Callable[[], Counter], Histogram]:
    """Calls, failures (which are not counted before there is one) and durations."""
    name = operation_of(method)
    failures = partial(operation_errors.labels, name)
    return operations.labels(name), failures, operation_seconds.labels(name)


class Calls:
    """The channel to one endpoint, and the kinds of calls over it."""

    def __init__(self, address: str, timeout: float) -> None:
        target = address if "://" in address or address.startswith("unix:") else f"unix:{address}"
        self._target = target.replace("unix:///", "unix:/")
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Any] = {}

    def open(self) -> None:
        self._channel = grpc.aio.insecure_channel(self._target, options=_OPTIONS)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def call(
        self,
        method: str,
        request: Message,
        response: type[M],
        *,
        timeout: float | None = 0.0,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> M:
        call = self._methods.get(method)
        if call is None:
            assert self._channel is not None, "the runtime client is not open"
            call = self._methods[method] = self._channel.unary_unary(
                method, request_serializer=_serialize, response_deserializer=response.FromString
            )
        count, errors, seconds = _figures_of(method)
        begin = perf_counter()
        count.inc()
        try:
            limit = self._timeout if timeout == 0.0 else timeout
            result: M = _readable(method, await call(request, timeout=limit, metadata=metadata))
        except _FAILURES as error:
            failure = _failure(error)
            errors().inc()
            raise failure from error
        except RuntimeFailure:
            errors().inc()
            raise
        finally:
            seconds.observe(perf_counter() - begin)
        return result

    async def ask(self, request: Message, response: type[M], *, timeout: float | None = 0.0) -> M:
        """A call of CRI: the request says which."""
        return await self.call(method_of(request), request, response, timeout=timeout)

    async def end(self, request: Message, response: type[M], *, timeout: float = 0.0) -> None:
        """A call whose purpose is fulfilled when its object does not exist."""
        try:
            await self.ask(request, response, timeout=timeout)
        except RuntimeFailure as failure:
            if not failure.is_not_found:
                raise

    async def stream(
        self,
        method: str,
        request: Message,
        response: type[M],
        metadata: Sequence[tuple[str, str]] = (),
    ) -> AsyncIterator[M]:
        assert self._channel is not None, "the runtime client is not open"
        call = self._channel.unary_stream(
            method, request_serializer=_serialize, response_deserializer=response.FromString
        )
        try:
            async for message in call(request, metadata=tuple(metadata)):
                yield _readable(method, message)
        except _FAILURES as error:
            raise _failure(error) from error


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _readable(method: str, message: M | None) -> M:
    """What grpc cannot decode it logs, and gives out as None: a plug-in may answer anything."""
    if message is None:
        text = f"the answer to {method} cannot be read"
        whole = f"rpc error: code = Internal desc = {text}"
        raise RuntimeFailure(whole, code="INTERNAL", details=text)
    return message


def _failure(error: BaseException) -> RuntimeFailure:
    if not isinstance(error, grpc.aio.AioRpcError):
        end_if_told()
        text = "grpc: the client connection is closing"
        whole = f"rpc error: code = Canceled desc = {text}"
        return RuntimeFailure(whole, code="CANCELLED", details=text)
    code = error.code().name
    message = error.details() or code
    # containerd reports a missing object in a few calls with a plain "unknown" code.
    if code == "UNKNOWN" and message.endswith(": not found"):
        code = "NOT_FOUND"
    name = code.title().replace("_", "")
    return RuntimeFailure(f"rpc error: code = {name} desc = {message}", code=code, details=message)
