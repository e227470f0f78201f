"""A small blocking client for what `start` and `status` ask of the API server.

Commands that live for a second cannot afford the import of an asynchronous HTTP stack; the
standard library speaks to the server just as well.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from navarch.api.trust import trusting
from navarch.cluster.profile import ClusterError, Paths, Profile

MERGE_PATCH = "application/merge-patch+json"
Trust = Callable[[], ssl.SSLContext]
"""Whom to believe to be the API server, and with which certificate to ask."""


class ApiUnavailableError(ClusterError):
    """The server did not answer, or not as hoped."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message, "See: navarch status")
        self.status = status


def parse_server(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[address]:port` or a URL. Raises ClusterError."""
    match = re.fullmatch(r"(?:https://)?(?:\[([0-9a-fA-F:]+)\]|([^:/\[\]]+)):(\d{1,5})/?", text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ClusterError(f"{text!r} is not HOST:PORT", "The port is that of the API server.")
    return match[1] or match[2], int(match[3])


class Connection:
    """One connection to an API server. `token`, if any, says who asks. Of an answer no more than
    `most` bytes are read, if that is given: who is not trusted yet might never come to an end."""

    def __init__(
        self,
        place: tuple[str, int],
        trust: Trust,
        token: str = "",
        timeout: float = 5.0,
        most: int | None = None,
    ) -> None:
        self._place = place
        self._trust = trust
        self._token = token
        self._timeout = timeout
        self._most = most
        self._connection: http.client.HTTPSConnection | None = None

    def get(self, path: str) -> Any:
        return json.loads(self.request("GET", path))

    def find(self, path: str) -> Any | None:
        """The same, or None where there is nothing."""
        try:
            return self.get(path)
        except ApiUnavailableError as error:
            if error.status != 404:
                raise
            return None

    def remove(self, path: str) -> bool:
        """Delete an object. Whether it was there."""
        try:
            self.request("DELETE", path)
        except ApiUnavailableError as error:
            if error.status != 404:
                raise
            return False
        return True

    def is_ready(self) -> bool:
        try:
            return self.request("GET", "/readyz") == b"ok"
        except ApiUnavailableError:
            return False

    def create_missing(self, collection: str, value: dict[str, Any]) -> None:
        """Create an object unless it is there, in whatever state somebody brought it to."""
        try:
            self.send("POST", collection, value)
        except ApiUnavailableError as error:
            if error.status != 409:
                raise

    def put_in_place(self, collection: str, value: dict[str, Any]) -> None:
        """Create an object, or bring one that is there to the same state."""
        path = f"{collection}/{value['metadata']['name']}"
        if self.find(path) is None:
            self.send("POST", collection, value)
        else:
            self.merge(path, value)

    def merge(self, path: str, value: dict[str, Any]) -> None:
        self.send("PATCH", path, value, MERGE_PATCH)

    def send(
        self, method: str, path: str, value: dict[str, Any], kind: str = "application/json"
    ) -> bytes:
        return self.request(method, path, json.dumps(value).encode(), kind)

    def request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        """The body of a successful answer. Raises ApiUnavailableError for everything else."""
        try:
            connection = self._connect()
            headers = {"Content-Type": kind} if body is not None else {}
            if self._token:
                headers["Authorization"] = f"Bearer {self._token}"
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read(self._most)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ApiUnavailableError(f"{method} {path}: {error}") from error
        if response.status >= 300:
            raise ApiUnavailableError(
                f"{method} {path}: {response.status} {_message(content)}", response.status
            )
        return content

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPSConnection:
        if self._connection is None:
            host, port = self._place
            self._connection = http.client.HTTPSConnection(
                host, port, context=self._trust(), timeout=self._timeout
            )
        return self._connection


class Api(Connection):
    """As administrator; where this machine has joined a cluster, as its node."""

    def __init__(self, profile: Profile, paths: Paths, timeout: float = 5.0) -> None:
        place, pki, pair = ("127.0.0.1", profile.api_port), paths.pki, ("admin.crt", "admin.key")
        if profile.joined:
            place, pki = parse_server(profile.joined), paths.node(profile.joined_node) / "pki"
            pair = ("kubelet.pem", "kubelet.pem")
        super().__init__(place, lambda: _context(pki, pair), timeout=timeout)


def _context(pki: Path, pair: tuple[str, str]) -> ssl.SSLContext:
    try:
        context = trusting(file=pki / "ca.crt")
        context.load_cert_chain(pki / pair[0], pki / pair[1])
    except (OSError, ssl.SSLError) as error:
        raise ApiUnavailableError(f"the certificates in {pki} cannot be used: {error}") from error
    return context


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")
