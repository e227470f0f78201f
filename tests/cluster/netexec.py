"""What pods of `test_services` run: servers that tell who answered, and a client that asks others.

    python netexec.py NAME PORTS

It runs in a container, on the machine's own Python, which is mounted there. `PORTS` is a JSON list
of [protocol, port, what `GET /` answers]; the protocols are http, https and udp. Over HTTP,
`/hostname` is answered by the name, and a POST to `/ask` by the answers to a list of questions,
which are asked all at once, `/client` by whose address the request came from; everything else
echoes the request. They listen on addresses of both families.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 3.0


def read_url(url: str, source: str = "") -> str:
    """The body; `source` is the address to send from."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        str(parts.hostname), parts.port, PATIENCE, (source, 0) if source else None
    )
    try:
        connection.request("GET", parts.path or "/hostname")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def datagram(host: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.settimeout(PATIENCE / 3)
        udp.connect((host, port))
        for _ in range(3):
            udp.send(b"hostname")
            try:
                return udp.recv(1000).decode()
            except TimeoutError:
                continue
    raise TimeoutError("no answer")


def knock(host: str, port: int) -> str:
    """Whether anybody lets us in; quicker to give up than the others."""
    with socket.create_connection((host, port), PATIENCE / 4):
        return "open"


def addresses(name: str, version: int = 4) -> list[str]:
    """By the C library's resolver: its files first, then the search path."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    found = socket.getaddrinfo(name, 0, family, socket.SOCK_STREAM)
    return sorted(str(entry[4][0]) for entry in found)


def query(name: str, kind: str, way: str) -> list[str]:
    """What cluster DNS says, by `udp` or `tcp`; a name without final dot is searched for."""
    import dns.exception
    import dns.resolver
    import dns.reversename

    resolver = dns.resolver.Resolver("/etc/resolv.conf")
    resolver.lifetime = PATIENCE
    wanted = dns.reversename.from_address(name) if kind == "PTR" else name
    try:
        answer = resolver.resolve(
            wanted, kind, tcp=way == "tcp", search=not name.endswith("."), raise_on_no_answer=False
        )
    except dns.exception.DNSException as error:
        raise OSError(type(error).__name__) from None
    return sorted(record.to_text() for record in answer)


def api_version(host: str) -> str:
    """The API server as a pod's own client finds it, which trusts the mounted authority alone."""
    secret = "/var/run/secrets/kubernetes.io/serviceaccount"
    with open(f"{secret}/token") as file:
        headers = {"Authorization": f"Bearer {file.read()}"}
    tls = ssl.create_default_context(cafile=f"{secret}/ca.crt")
    connection = http.client.HTTPSConnection(host, 443, timeout=PATIENCE, context=tls)
    try:
        connection.request("GET", "/version", headers=headers)
        return str(json.loads(connection.getresponse().read())["gitVersion"])
    finally:
        connection.close()


def read_file(path: str) -> str:
    with open(path) as file:
        return file.read()


QUESTIONS: dict[str, Callable[..., Any]] = {
    "http": read_url,
    "udp": datagram,
    "knock": knock,
    "addresses": addresses,
    "dns": query,
    "api": api_version,
    "file": read_file,
}


def answer(question: list[Any]) -> Any:
    try:
        return QUESTIONS[question[0]](*question[1:])
    except (OSError, http.client.HTTPException) as error:
        return f"error: {error}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""
    text = ""

    def handle_any(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind, body = "text/plain", self.name
        if self.path == "/ask":
            questions = json.loads(sent)
            with ThreadPoolExecutor(min(32, len(questions))) as pool:
                body = json.dumps(list(pool.map(answer, questions)))
        elif self.path == "/client":
            body = str(self.client_address[0]).removeprefix("::ffff:")
        elif self.path == "/" and self.command == "GET" and self.text:
            body, kind = self.text, "text/html" if "<" in self.text else kind
        elif self.path != "/hostname":
            body = json.dumps({"method": self.command, "path": self.path, "body": sent.decode()})
        data = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_any

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 100
    daemon_threads = True

    def server_bind(self) -> None:
        """Without the look-up of the own name that the library would do, which may take long."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "", int(self.server_address[1])


def serve_http(name: str, port: int, text: str, certificate: str) -> None:
    server = Server(("", port), type("Named", (Handler,), {"name": name, "text": text}))
    if certificate:
        with open("/tmp/pair.pem", "w") as file:
            file.write(certificate)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(file.name)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def serve_udp(name: str, port: int) -> None:
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(("", port))

    def serve() -> None:
        while True:
            _, peer = udp.recvfrom(1000)
            udp.sendto(name.encode(), peer)

    threading.Thread(target=serve, daemon=True).start()


def main() -> None:
    name, ports = sys.argv[1], json.loads(sys.argv[2])
    for protocol, port, text in ports:
        if protocol == "udp":
            serve_udp(name, port)
        else:
            secret = os.environ["CERTIFICATE"] if protocol == "https" else ""
            serve_http(name, port, text, secret)
    signal.pause()  # pools of threads take nothing any more once the main thread has ended


if __name__ == "__main__":
    main()
