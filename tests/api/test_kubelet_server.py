"""The kubelet's server and the API server that decides who may ask it for what."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest
from tests.api.conftest import Api, secured_server
from tests.certificates import Authority, Pair

from navarch.api.errors import ApiError
from navarch.api.trust import trusting
from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.client.clock import RealClock
from navarch.client.config import ClientConfig
from navarch.node.server.access import AccessOptions, DelegatedAccess
from navarch.node.server.backend import Streams
from navarch.node.server.node_paths import NodeInside
from navarch.node.server.server import KubeletServer, KubeletServerOptions
from navarch.node.server.tls import TlsOptions
from navarch.node.settings import NodeOptions

NODE = "n1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@dataclass
class Backend:
    """One pod, `web` with the container `main`, on a node with nothing else."""

    logs: Path
    commands: list[Sequence[str]] = field(default_factory=list)

    def pods(self) -> Sequence[Pod]:
        return [Pod(metadata=ObjectMeta(name="web", namespace="default", uid="u1"))]

    async def running_pods(self) -> Sequence[Pod]:
        return self.pods()

    def uid(self, namespace: str, pod: str) -> str:
        if (namespace, pod) != ("default", "web"):
            raise ApiError(404, "NotFound", "pod does not exist")
        return "u1"

    def log_file(self, namespace: str, pod: str, container: str, *, previous: bool) -> Path:
        self.uid(namespace, pod)
        path = self.logs / "0.log"
        path.write_text("2026-01-01T00:00:00.000000000Z stdout F hello\n")
        return path

    def is_running(self, namespace: str, pod: str, container: str) -> bool:
        return False

    async def exec_url(
        self, namespace: str, pod: str, container: str, command: Sequence[str], streams: Streams
    ) -> str:
        raise ApiError(500, "InternalError", "no stream in this test")

    async def attach_url(self, namespace: str, pod: str, container: str, streams: Streams) -> str:
        raise ApiError(500, "InternalError", "no stream in this test")

    async def port_forward_url(self, namespace: str, pod: str, ports: Sequence[int] = ()) -> str:
        raise ApiError(500, "InternalError", "no stream in this test")

    async def run(
        self, namespace: str, pod: str, container: str, command: Sequence[str]
    ) -> tuple[int, bytes]:
        self.commands.append(command)
        return 0, b"done\n"

    async def checkpoint(self, namespace: str, pod: str, container: str, *, timeout: int) -> str:
        self.uid(namespace, pod)
        return f"/checkpoints/{container}.tar"


class Statistics:
    async def summary(self, *, only_cpu_and_memory: bool) -> Mapping[str, Any]:
        return {"node": {"nodeName": NODE}, "pods": [], "narrow": only_cpu_and_memory}

    async def resource_metrics(self) -> bytes:
        return b"resource 1\n"

    async def cadvisor_metrics(self) -> bytes:
        return b"cadvisor 1\n"

    async def kubelet_metrics(self) -> bytes:
        return b"kubelet 1\n"

    def probe_metrics(self) -> bytes:
        return b"probes 1\n"


@dataclass
class Answer:
    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Node:
    """A server under test, and the cluster it belongs to."""

    server: KubeletServer
    api: Api
    authority: Authority
    session: aiohttp.ClientSession
    port: int
    health_port: int
    healthy: list[bool]
    files: Path
    backend: Backend

    async def ask(
        self,
        method: str,
        path: str,
        *,
        pair: Pair | None = None,
        token: str = "",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        tls = trusting(file=self.authority.file)
        if pair is not None:
            tls.load_cert_chain(pair.certificate, pair.key)
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        url = f"https://127.0.0.1:{self.port}{path}"
        options: dict[str, Any] = {"ssl": tls, "headers": sent, "allow_redirects": False}
        async with self.session.request(method, url, data=body, **options) as answer:
            return Answer(answer.status, await answer.text(), answer.headers)

    async def account(self, name: str) -> str:
        """A service account's token."""
        accounts = "/api/v1/namespaces/default/serviceaccounts"
        as_root = {"user": "root", "groups": "system:masters"}
        await self.api.post(accounts, {"metadata": {"name": name}}, **as_root)
        answer = await self.api.post(f"{accounts}/{name}/token", {"spec": {}}, **as_root)
        return str(answer.ok(201)["status"]["token"])

    async def allow(self, user: str, *rules: dict[str, Any]) -> None:
        """Lets a user do what the rules say."""
        as_root = {"user": "root", "groups": "system:masters"}
        name = user.replace(":", "-")
        role = {"metadata": {"name": name}, "rules": list(rules)}
        (await self.api.post(f"{RBAC}/clusterroles", role, **as_root)).ok()
        group = "rbac.authorization.k8s.io"
        binding = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        }
        (await self.api.post(f"{RBAC}/clusterrolebindings", binding, **as_root)).ok()


class Start(Protocol):
    """Starts a server with options of access and of the node."""

    async def __call__(self, access: AccessOptions | None = None, **options: Any) -> Node: ...


def rule(*subresources: str, verbs: Sequence[str] = ("*",)) -> dict[str, Any]:
    resources = [f"nodes/{each}" for each in subresources]
    return {"apiGroups": [""], "resources": resources, "verbs": list(verbs)}


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts the server with options of the node's and of access."""
    authority = Authority(tmp_path)
    pair = authority.issue("kubelet", address="127.0.0.1")
    files = tmp_path / "log"
    files.mkdir()
    async with secured_server(tmp_path) as api_server, aiohttp.ClientSession() as session:
        as_node = {"Test-User": "kubelet", "Test-Groups": "system:masters"}
        config = ClientConfig(server=api_server.url, impersonate=as_node)
        started: list[KubeletServer] = []
        async with Client(config) as client:

            async def begin(access: AccessOptions | None = None, **options: Any) -> Node:
                healthy = [True]
                node_options = replace(
                    NodeOptions(Path("k"), NODE, node_logs_directory=files), **options
                )
                backend = Backend(tmp_path)
                inside = NodeInside(
                    node_options,
                    backend,
                    Statistics(),
                    lambda: {"maxPods": 110},
                    {"ping": lambda: True, "syncloop": lambda: healthy[0]},
                    RealClock(),
                )
                tls = TlsOptions(
                    str(pair.certificate), str(pair.key), str(authority.file),
                    node_options.tls_min_version, node_options.tls_cipher_suites,
                )  # fmt: skip
                # The system knows free ports; nobody else listens meanwhile.
                async with await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0) as one:
                    port = one.sockets[0].getsockname()[1]
                async with await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0) as two:
                    health_port = two.sockets[0].getsockname()[1]
                server = KubeletServer(
                    KubeletServerOptions("127.0.0.1", port, tls, "127.0.0.1", health_port),
                    inside,
                    DelegatedAccess(client, NODE, access),
                )
                await server.start()
                started.append(server)
                api = Api(api_server, session)
                return Node(
                    server, api, authority, session, port, health_port, healthy, files, backend
                )

            yield begin
            for server in started:
                await server.stop()


PATHS = [
    ("GET", "/healthz", "healthz", 200),
    ("GET", "/healthz/ping", "healthz", 200),
    ("GET", "/healthz/syncloop", "healthz", 200),
    ("GET", "/pods", "pods", 200),
    ("GET", "/pods/", "pods", 200),
    ("GET", "/runningpods/", "pods", 200),
    ("GET", "/configz", "configz", 200),
    ("GET", "/flagz", "configz", 200),
    ("GET", "/statusz", "statusz", 200),
    ("GET", "/metrics", "metrics", 200),
    ("GET", "/metrics/slis", "metrics", 200),
    ("GET", "/metrics/cadvisor", "metrics", 200),
    ("GET", "/metrics/resource", "metrics", 200),
    ("GET", "/metrics/probes", "metrics", 200),
    ("GET", "/stats/summary", "stats", 200),
    ("POST", "/stats/summary", "stats", 200),
    ("GET", "/logs/", "log", 200),
    ("GET", "/logs/none", "log", 404),
    ("GET", "/containerLogs/default/web/main", "proxy", 200),
    ("GET", "/containerLogs/default/none/main", "proxy", 404),
    ("POST", "/run/default/web/main?cmd=ls", "proxy", 200),
    ("POST", "/run/default/web/u1/main?cmd=ls", "proxy", 200),
    ("POST", "/run/default/web/other/main?cmd=ls", "proxy", 500),
    ("GET", "/exec/default/web/main", "proxy", 400),
    ("POST", "/exec/default/web/main?command=ls", "proxy", 400),
    ("POST", "/attach/default/web/main", "proxy", 400),
    ("POST", "/portForward/default/web", "proxy", 400),
    ("POST", "/checkpoint/default/web/main", "checkpoint", 200),
    ("POST", "/checkpoint/default/none/main", "checkpoint", 404),
    ("POST", "/checkpoint/default/web/main?timeout=soon", "checkpoint", 404),
    ("GET", "/debug/pprof/", "proxy", 405),
    ("GET", "/debug/pprof/profile", "proxy", 405),
    ("PUT", "/debug/flags/v", "proxy", 400),
    ("GET", "/nonsense", "proxy", 404),
    ("DELETE", "/pods", "pods", 405),
]
"""Every path: method, path, the right that opens it, and what then comes."""


async def test_every_path_needs_a_name_and_a_right(start: Start) -> None:
    node = await start()
    nobody = await node.account("nobody")
    allowed = {}
    for right in sorted({right for _, _, right, _ in PATHS}):
        await node.allow(f"user-{right}", rule(right))
        allowed[right] = node.authority.issue(f"user-{right}")
    name = "system:serviceaccount:default:nobody"
    for method, path, right, status in PATHS:
        stranger = await node.ask(method, path)
        assert (stranger.status, stranger.text) == (401, "Unauthorized"), path
        forged = await node.ask(method, path, token="forged")
        assert (forged.status, forged.text) == (401, "Unauthorized"), path
        refused = await node.ask(method, path, token=nobody)
        verb = {"GET": "get", "POST": "create", "PUT": "update", "DELETE": "delete"}[method]
        rights = f"{right} proxy" if right in ("pods", "healthz") or path == "/configz" else right
        assert (refused.status, refused.text) == (
            403,
            f"Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{rights}])\n",
        ), path
        for other, pair in allowed.items():
            answer = await node.ask(method, path, pair=pair)
            opens = other == right or (other == "proxy" and rights.endswith("proxy"))
            assert answer.status == (status if opens else 403), (path, other, answer.text)


async def test_no_credential_is_written_to_the_log(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    node = await start()
    token = await node.account("nobody")
    for given in (token, "planted-and-forged"):
        await node.ask("GET", "/pods", token=given)
        await node.ask("POST", "/run/default/web/main?cmd=ls", token=given)
    await node.api.server.stop()
    await node.ask("GET", "/configz", token="planted-too")
    assert "could not be checked" in caplog.text
    assert "planted" not in caplog.text and token not in caplog.text


async def test_what_the_paths_say(start: Start) -> None:
    node = await start()
    root = node.authority.issue("admin", "system:masters")

    async def get(path: str, **options: Any) -> Answer:
        return await node.ask("GET", path, pair=root, **options)

    pods = (await get("/pods")).json
    assert (pods["kind"], pods["items"][0]["metadata"]["name"]) == ("PodList", "web")
    assert (await get("/configz")).json == {"kubeletconfig": {"maxPods": 110}}
    assert (await get("/stats/summary?only_cpu_and_memory=true")).json["narrow"] is True
    assert (await get("/stats/summary?only_cpu_and_memory=1")).json["narrow"] is False
    metrics = await get("/metrics/resource")
    assert (metrics.text, metrics.headers["Content-Type"]) == (
        "resource 1\n", "text/plain; version=0.0.4; charset=utf-8",
    )  # fmt: skip
    assert (await get("/containerLogs/default/web/main")).text == "hello\n"
    missing = await get("/containerLogs/default/web/main?tailLines=-1")
    assert (missing.status, missing.text) == (422, '{"message": "Invalid request."}')
    run = await node.ask("POST", "/run/default/web/main?cmd=ls+-l", pair=root)
    assert (run.text, node.backend.commands) == ("done\n", [["ls", "-l"]])
    checkpoint = await node.ask("POST", "/checkpoint/default/web/main", pair=root)
    assert checkpoint.json == {"items": ["/checkpoints/main.tar"]}
    profile = await get("/debug/pprof/")
    assert profile.text == "profiling endpoint is disabled.\n"
    flag = await node.ask("PUT", "/debug/flags/v", pair=root, body=b"2")
    assert flag.text == "successfully set klog.logging.verbosity to 2"
    assert "kubelet statusz" in (await get("/statusz")).text
    accept = {"Accept": "application/json;v=v1beta1;g=config.k8s.io;as=Statusz"}
    status = (await get("/statusz", headers=accept)).json
    assert (status["kind"], status["apiVersion"]) == ("Statusz", "config.k8s.io/v1beta1")
    assert "/metrics/resource" in status["paths"]
    assert (await get("/statusz", headers={"Accept": "application/json"})).status == 406
    assert "\nmax-pods=110\n" in (await get("/flagz")).text


async def test_health(start: Start) -> None:
    node = await start()
    root = node.authority.issue("admin", "system:masters")
    assert (await node.ask("GET", "/healthz", pair=root)).text == "ok"
    verbose = await node.ask("GET", "/healthz?verbose", pair=root)
    assert verbose.text == "[+]ping ok\n[+]syncloop ok\nhealthz check passed\n"
    node.healthy[0] = False
    assert (await node.ask("GET", "/healthz", pair=root)).status == 500
    assert (await node.ask("GET", "/healthz/ping", pair=root)).status == 200
    slis = await node.ask("GET", "/metrics/slis", pair=root)
    assert 'kubernetes_healthcheck{name="syncloop",type="healthz"} 0' in slis.text


async def test_the_port_for_local_health_checks_tells_only_health(start: Start) -> None:
    node = await start()
    base = f"http://127.0.0.1:{node.health_port}"
    expected = {"/healthz": 200, "/healthz/syncloop": 200}
    paths = {path.partition("?")[0] for _, path, _, _ in PATHS} | {"/", "/debug/pprof/heap"}
    for path in sorted(paths - {"/healthz/ping"}):
        async with node.session.get(base + path) as answer:
            assert answer.status == expected.get(path, 404), path


async def test_debugging_can_be_switched_off(start: Start) -> None:
    node = await start(enable_debugging_handlers=False)
    root = node.authority.issue("admin", "system:masters")
    for path in ("/exec/default/web/main", "/containerLogs/default/web/main", "/logs/",
                 "/runningpods/", "/run/default/web/main", "/debug/pprof/"):  # fmt: skip
        answer = await node.ask("GET", path, pair=root)
        assert (answer.status, answer.text) == (405, "Debug endpoints are disabled.\n"), path
    assert (await node.ask("GET", "/configz", pair=root)).status == 404
    assert (await node.ask("GET", "/pods", pair=root)).status == 200
    quiet = await start(enable_system_log_handler=False)
    answer = await quiet.ask("GET", "/logs/", pair=root)
    assert (answer.status, answer.text) == (405, "logs endpoint is disabled.\n")


async def test_anonymous_callers_only_where_they_are_wanted(start: Start) -> None:
    node = await start(AccessOptions(anonymous=True))
    answer = await node.ask("GET", "/pods")
    assert (answer.status, "user=system:anonymous" in answer.text) == (403, True)
    await node.allow("system:anonymous", rule("healthz"))
    assert (await node.ask("GET", "/healthz")).status == 200
    everybody = await start(AccessOptions(anonymous=True, always_allow=True))
    assert (await everybody.ask("GET", "/pods")).status == 200
    named = await start(AccessOptions(token_webhook=False))
    assert (await named.ask("GET", "/pods", token=await named.account("a"))).status == 401


async def test_certificates_of_strangers_and_servers(start: Start, tmp_path: Path) -> None:
    node = await start()
    other = tmp_path / "other"
    other.mkdir()
    for pair in (
        Authority(other).issue("admin", "system:masters"),
        node.authority.issue("admin", "system:masters", address="127.0.0.1"),
    ):
        with pytest.raises(aiohttp.ClientError):
            await node.ask("GET", "/pods", pair=pair)


async def test_answers_are_remembered_for_their_time(start: Start) -> None:
    node = await start(AccessOptions(allowed_seconds=0.0, denied_seconds=0.0))
    pair = node.authority.issue("late")
    assert (await node.ask("GET", "/pods", pair=pair)).status == 403
    await node.allow("late", rule("pods"))
    assert (await node.ask("GET", "/pods", pair=pair)).status == 200
    patient = await start(AccessOptions(denied_seconds=60.0))
    pair = patient.authority.issue("later")
    assert (await patient.ask("GET", "/pods", pair=pair)).status == 403
    await patient.allow("later", rule("pods"))
    assert (await patient.ask("GET", "/pods", pair=pair)).status == 403


async def test_without_an_api_server_nobody_gets_in(start: Start) -> None:
    node = await start()
    token, pair = await node.account("a"), node.authority.issue("late")
    await node.api.server.stop()
    assert (await node.ask("GET", "/pods", token=token)).status == 401
    answer = await node.ask("GET", "/pods", pair=pair)
    assert (answer.status, answer.text) == (
        500,
        "Authorization error (user=late, verb=get, resource=nodes, subresource=pods)",
    )


def handshake(port: int, **limits: Any) -> tuple[str, str]:
    """Version and cipher of a connection with what a client offers."""
    import socket

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    for name, value in limits.items():
        if name == "ciphers":
            tls.set_ciphers(value)
        else:
            setattr(tls, name, value)
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        tls.wrap_socket(plain) as wrapped,
    ):
        cipher = wrapped.cipher()
        return wrapped.version() or "", cipher[0] if cipher else ""


async def test_only_modern_encryption(start: Start) -> None:
    node = await start()
    two = ssl.TLSVersion.TLSv1_2

    async def connect(port: int, **limits: Any) -> tuple[str, str]:
        return await asyncio.to_thread(handshake, port, **limits)

    assert (await connect(node.port))[0] == "TLSv1.3"
    version, cipher = await connect(node.port, maximum_version=two)
    assert (version, "GCM" in cipher or "CHACHA20" in cipher) == ("TLSv1.2", True)
    with pytest.raises(ssl.SSLError):
        await connect(
            node.port, maximum_version=two, ciphers="ECDHE-ECDSA-AES128-SHA256:AES128-SHA"
        )
    strict = await start(tls_min_version="VersionTLS13")
    with pytest.raises(ssl.SSLError):
        await connect(strict.port, maximum_version=two)
    chosen = await start(
        tls_cipher_suites=("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_RSA_WITH_RC4_128_SHA")
    )
    assert await connect(chosen.port, maximum_version=two) == (
        "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384",
    )  # fmt: skip


async def test_a_renewed_certificate_is_shown(start: Start) -> None:
    node = await start()

    def serial() -> int:
        from cryptography import x509

        pem = ssl.get_server_certificate(("127.0.0.1", node.port), timeout=60)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    before = await asyncio.to_thread(serial)
    options = node.server._options.tls
    renewed = node.authority.issue("kubelet", address="127.0.0.1")
    for new, old in ((renewed.certificate, options.certificate), (renewed.key, options.key)):
        new.rename(old)
        os.utime(old, ns=(time.time_ns(), time.time_ns()))
    assert await asyncio.to_thread(serial) != before


async def test_node_logs_stay_in_their_directory(start: Start, tmp_path: Path) -> None:
    node = await start()
    root = node.authority.issue("admin", "system:masters")
    secret = tmp_path / "secret"
    secret.write_text("hush")
    files = node.files
    (files / "syslog").write_text("line\n")
    (files / "pods").mkdir()
    (files / "pods/x&y.log").write_text("inside\n")
    (files / "link").symlink_to(secret)
    (files / "up").symlink_to("..")
    (files / "absolute").symlink_to(files / "pods/x&y.log")
    os.mkfifo(files / "pipe")

    async def get(path: str) -> Answer:
        return await node.ask("GET", path, pair=root)

    shown = (await get("/logs/")).text
    assert '<a href="syslog">syslog</a>\n' in shown and '<a href="pods/">pods/</a>' in shown
    assert '<a href="x%26y.log">x&amp;y.log</a>' in (await get("/logs/pods/")).text
    assert (await get("/logs/pods")).headers["Location"] == "pods/"
    assert (await get("/logs/syslog")).text == "line\n"
    assert (await get("/logs/absolute")).text == "inside\n"
    for path in ("/logs/link", "/logs/up/secret", "/logs/%2e%2e/secret", "/logs/..%2fsecret",
                 "/logs//etc/passwd", "/logs/%2fetc/passwd", "/logs/pods/..%2f..%2fsecret",
                 "/logs/pipe", "/logs/syslog%00", "/logs/none"):  # fmt: skip
        answer = await get(path)
        assert answer.status in (301, 404) and "hush" not in answer.text, path
    # Without the option a query is no query.
    assert (await get("/logs/?query=kubelet")).text == shown


async def test_a_path_is_judged_by_what_it_leads_to(start: Start) -> None:
    """No spelling of a path gets more than its right."""
    node = await start()
    await node.allow("reader", rule("metrics", "stats", "log"))
    pair = node.authority.issue("reader")
    for path in ("/metrics/../run/default/web/main", "/stats/..%2frun/default/web/main",
                 "/logs/%2e%2e/run/default/web/main", "//run/default/web/main",
                 "/%72un/default/web/main", "/metrics/..;/run/default/web/main"):  # fmt: skip
        from yarl import URL

        url = URL(f"https://127.0.0.1:{node.port}{path}", encoded=True)
        tls = trusting(file=node.authority.file)
        tls.load_cert_chain(pair.certificate, pair.key)
        async with node.session.post(url, ssl=tls, allow_redirects=False) as answer:
            assert answer.status in (403, 404, 405), path
    assert node.backend.commands == []


QUERIES = [
    ("query=", 'unit: Invalid value: "": unit cannot be empty'),
    ("query=a%20b", "input contains unsupported characters"),
    ("query=-f", "input contains unsupported characters"),
    ("query=" + "a" * 300, "length must be less than 256"),
    ("&".join(["query=a"] * 5), "query: Too many: 5: must have at most 4 items"),
    ("query=a&query=/b", "cannot specify a file and service"),
    ("query=/a&query=/b", "cannot specify more than one file"),
    ("query=/none", "no such file or directory"),
    ("query=/../secret", "query: Invalid value"),
    ("query=a&boot=1", "boot: Invalid value: 1: must be less than 1"),
    ("query=a&tailLines=x", 'strconv.Atoi: parsing "x": invalid syntax'),
    ("query=a&tailLines=100001", "must be between 0 and 100000, inclusive"),
    ("query=a&sinceTime=yesterday", 'sinceTime: Invalid value: "yesterday": invalid time format'),
    (
        "query=a&sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z",
        "must be after `sinceTime`",
    ),
    ("query=a&pattern=(", "pattern: Invalid value"),
]


async def test_queries_of_node_logs(start: Start, tmp_path: Path) -> None:
    node = await start(enable_system_log_query=True)
    root = node.authority.issue("admin", "system:masters")
    (tmp_path / "secret").write_text("hush")
    (node.files / "web.log").write_text("from the file\n")
    (node.files / "db").mkdir()
    (node.files / "db/db.log").write_text("from the directory\n")

    async def ask(query: str) -> Answer:
        return await node.ask("GET", f"/logs/?{query}", pair=root)

    for query, message in QUERIES:
        answer = await ask(query)
        assert (answer.status, message in answer.text) == (400, True), (query, answer.text)
        assert "hush" not in answer.text
    assert (await ask("query=web")).text == "from the file\n"
    both = await ask("query=db&query=none")
    assert both.text == "from the directory\n\nlog not found for none\n"
    assert (await ask("query=/web.log")).text == "from the file\n"
    assert "try without specifying options" in (await ask("query=web&tailLines=5")).text
