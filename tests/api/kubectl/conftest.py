"""The real kubectl against an API server in this process.

One server per module, with real authorization and admission; no controllers, so statuses are what
a test writes. `kubectl` works in a namespace of its own, as a member of system:masters.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from navarch.apiserver.contracts import Authenticator, PeerCertificate, UserInfo
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.server import Server
from navarch.store.memory import open_memory_store

TIMEOUT = 60.0
Object = dict[str, Any]


class Tokens:
    """Takes a bearer token that begins with `user:` for the user's name; the server's own
    authenticator judges all others."""

    def __init__(self, inner: Authenticator) -> None:
        self._inner = inner

    async def authenticate(
        self, headers: Mapping[str, str], peer: PeerCertificate | None
    ) -> UserInfo | None:
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        if not token.startswith("user:"):
            return await self._inner.authenticate(headers, peer)
        name = token.removeprefix("user:")
        groups = ("system:masters",) if name == "root" else ()
        return UserInfo(name, groups=(*groups, "system:authenticated"))


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


class Kubectl:
    """Runs kubectl with one kubeconfig, in one namespace."""

    def __init__(self, environment: Mapping[str, str], namespace: str, server: Server) -> None:
        self.environment = environment
        self.namespace = namespace
        self.server = server

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return ["kubectl", "--namespace", self.namespace, *arguments]

    async def run(
        self, *arguments: str, stdin: str | Object = "", env: Mapping[str, str] | None = None
    ) -> Result:
        """The outcome, whatever it is."""
        text = stdin if isinstance(stdin, str) else json.dumps(stdin)
        process = await asyncio.create_subprocess_exec(
            *self._command(arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**self.environment, **(env or {})},
        )
        try:
            async with asyncio.timeout(TIMEOUT):
                out, err = await process.communicate(text.encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        return Result(process.returncode or 0, out.decode(), err.decode())

    async def __call__(
        self, *arguments: str, stdin: str | Object = "", env: Mapping[str, str] | None = None
    ) -> str:
        """What a command that must succeed prints."""
        result = await self.run(*arguments, stdin=stdin, env=env)
        assert result.code == 0, f"kubectl {' '.join(arguments)}: {result.err}{result.out}"
        return result.out

    async def fails(self, *arguments: str, stdin: str | Object = "") -> str:
        """What a command that must fail complains about."""
        result = await self.run(*arguments, stdin=stdin)
        assert result.code != 0, f"kubectl {' '.join(arguments)} succeeded: {result.out}"
        return result.err + result.out

    async def get(self, *arguments: str) -> Any:
        """One object or list."""
        return json.loads(await self("get", *arguments, "-o", "json"))

    async def set_status(self, target: str, **status: Any) -> None:
        """What a controller or a kubelet would have written."""
        await self(
            "patch", target, "--subresource=status", "--type=merge",
            "-p", json.dumps({"status": status}),
        )  # fmt: skip

    @asynccontextmanager
    async def started(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A command that goes on, ended with the block."""
        process = await asyncio.create_subprocess_exec(
            *self._command(arguments), stdout=asyncio.subprocess.PIPE, env=dict(self.environment)
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def write_identity(directory: Path) -> None:
    """A key for the server, and a certificate for it that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kube-apiserver")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "server.key").write_bytes(pem)
    (directory / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))


def kubeconfig(server: Server, user: str) -> Object:
    """kubectl sends no tokens over plain HTTP, so this is TLS."""
    authority = str(server.options.tls_cert)
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "it", "cluster": {"server": server.url, "certificate-authority": authority}}
        ],
        "users": [{"name": "it", "user": {"token": f"user:{user}"}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "current-context": "it",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    directory = tmp_path_factory.mktemp("server")
    write_identity(directory)
    options = ServerOptions(
        port=0,
        tls_cert=directory / "server.crt",
        tls_key=directory / "server.key",
        service_account_signing_key=directory / "server.key",
    )
    running = Server(options, open_memory_store())
    await running.start()
    security = running.core.secured
    running.core.security = replace(security, authenticator=Tokens(security.authenticator))
    try:
        yield running
    finally:
        await running.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kubectl keeps what it has learnt of the server."""
    return tmp_path_factory.mktemp("home")


_numbers = count(1)


@pytest_asyncio.fixture(loop_scope="module")
async def kubectl(server: Server, home: Path) -> Kubectl:
    """kubectl as root, in a new namespace with its default service account."""
    namespace = f"test-{next(_numbers)}"
    result = as_user(server, home, "root", namespace)
    for kind, name, where in (
        ("Namespace", namespace, {}),
        ("ServiceAccount", "default", {"namespace": namespace}),
    ):
        metadata = {"name": name, **where}
        made = {"apiVersion": "v1", "kind": kind, "metadata": metadata}
        await result("create", "-f", "-", stdin=made)
    return result


def as_user(server: Server, home: Path, user: str, namespace: str) -> Kubectl:
    """kubectl as somebody."""
    path = home / f"{user}.json"
    path.write_text(json.dumps(kubeconfig(server, user)))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "KUBECONFIG": str(path),
        "KUBECTL_KUBERC": "false",
    }
    return Kubectl(environment, namespace, server)


def pod(name: str, **labels: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "busybox:1"}]},
    }


def columns(table: str) -> list[list[str]]:
    """The cells of a printed table, without its header."""
    return [line.split() for line in table.splitlines()[1:]]
