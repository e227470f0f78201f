"""What the way through the ingress costs: `python -m bench.ingress`. Needs root and nginx.

The backend is an nginx that answers by itself, so that it is not measured along. Requests go to it
directly, through a plain nginx with fixed configuration (what any proxy costs), and through ours
with one Ingress and with thousands. Latency is of one connection that asks again and again; CPU is
what the proxy's processes used for each request, which does not depend on what else the machine
does. Everything is on the loopback interface.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.load import Result, Target, run
from bench.process import Processes
from bench.report import Row, show
from navarch.api.types.core_v1 import Service, ServicePort, ServiceSpec
from navarch.api.types.discovery_v1 import Endpoint, EndpointPort, EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import Ingress
from navarch.client.clock import RealClock
from navarch.network.ingress.routes import Surroundings
from navarch.network.ingress.translate import Ports, translate
from navarch.network.nginx.backends import Services
from navarch.network.nginx.model import DataPlane
from navarch.network.nginx.process import PROGRAM, Nginx
from navarch.network.nginx.render import Settings

ADDRESS = "127.0.8.1"
BACKEND, PLAIN, OURS = 21001, 21002, 21003
HOST = "host-0.example"
MANY = 5000
SECONDS = 3.0
CONNECTIONS = 32
EACH = 9000
"""Requests of one connection at most: nginx ends one after 10 000."""
CHANGES = 20

CONFIG = """
daemon off; worker_processes 1; pid {directory}/{name}.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream backend {{ server {address}:{backend}; keepalive 320; }}
    server {{ listen {address}:{port}; location / {{ {action} }} }}
}}
"""
ANSWER = 'default_type text/plain; return 200 "hello";'
PROXY = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://backend;'


@contextmanager
def plain_nginx(directory: Path, name: str, port: int, action: str) -> Iterator[None]:
    """An nginx with a fixed configuration."""
    file = directory / f"{name}.conf"
    file.write_text(
        CONFIG.format(
            directory=directory,
            name=name,
            address=ADDRESS,
            backend=BACKEND,
            port=port,
            action=action,
        )
    )
    process = subprocess.Popen([PROGRAM, "-e", "stderr", "-c", str(file)])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def ingress(number: int) -> Ingress:
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    paths = [
        {"path": path, "pathType": "Prefix", "backend": backend} for path in ("/", "/api", "/img")
    ]
    host = f"host-{number}.example"
    return msgspec.convert(
        {
            "metadata": {"name": f"web-{number}", "namespace": "default", "uid": str(number)},
            "spec": {"rules": [{"host": host, "http": {"paths": paths}}]},
        },
        Ingress,
    )


def plane(ingresses: int, endpoint_port: int = BACKEND) -> DataPlane:
    ports = [ServicePort(name="http", port=80, protocol="TCP")]
    service = Service(
        metadata=ObjectMeta(name="web", namespace="default"), spec=ServiceSpec(ports=ports)
    )
    slice_ = EndpointSlice(
        addressType="IPv4",
        endpoints=[Endpoint(addresses=[ADDRESS])],
        ports=[EndpointPort(name="http", port=endpoint_port, protocol="TCP")],
    )
    around = Surroundings(Services(lambda key: service, lambda key: [slice_]), lambda key: None)
    return translate([ingress(each) for each in range(ingresses)], around, Ports(OURS, 21443)).plane


def processes_of(pid_file: Path) -> Processes:
    """A master and its workers."""
    master = int(pid_file.read_text())
    workers = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return Processes((master, *map(int, workers)))


async def ask(port: int, connections: int) -> Result:
    """The load, for some seconds."""
    target = Target(ADDRESS, port, None, "")
    request = f"GET /api/x HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    result = await run(
        target, connections, lambda number: request, count=connections * EACH, seconds=SECONDS
    )
    assert set(result.statuses) == {200}, result.statuses
    return result


async def measured(port: int, pid_file: Path) -> Mapping[str, float]:
    """Latency of one connection, rate of many, and the CPU of the processes for each request."""
    alone = await ask(port, 1)
    processes = processes_of(pid_file)
    before = processes.cpu()
    many = await ask(port, CONNECTIONS)
    used = processes.cpu() - before
    return {
        "latency": alone.quantile(0.5) * 1e6,
        "rate": many.rate,
        "cpu": used / sum(many.statuses.values()) * 1e6,
    }


async def measure(directory: Path) -> list[Row]:
    settings = Settings(
        directory=directory / "private",
        shared=directory / "shared",
        addresses=(ADDRESS,),
        health_port=21254,
        access_log=str(directory / "access.log"),
    )
    nginx = Nginx(settings, RealClock())
    rows: list[Row] = []
    with (
        plain_nginx(directory, "backend", BACKEND, ANSWER),
        plain_nginx(directory, "plain", PLAIN, PROXY),
    ):
        try:
            await nginx.start(plane(1))
            places = {
                "directly": (BACKEND, directory / "backend.pid"),
                "through a plain nginx": (PLAIN, directory / "plain.pid"),
                "through the ingress": (OURS, settings.pid_file),
            }
            results = {title: await measured(*place) for title, place in places.items()}
            began = time.perf_counter()
            many = plane(MANY)
            translated = time.perf_counter() - began
            began = time.perf_counter()
            await nginx.apply(many)
            applied = time.perf_counter() - began
            title = f"through the ingress, {MANY} Ingresses"
            results[title] = await measured(OURS, settings.pid_file)
            for title, values in results.items():
                rows += [
                    Row(f"latency {title}", values["latency"], "µs"),
                    Row(f"requests {title}", values["rate"], "1/s"),
                    Row(f"CPU a request {title}", values["cpu"], "µs"),
                ]
            bare, ours = results["through a plain nginx"], results["through the ingress"]
            direct = results["directly"]
            rows += [
                Row("latency, ingress to direct", ours["latency"] / direct["latency"], "×"),
                Row("latency, ingress to plain nginx", ours["latency"] / bare["latency"], "×"),
                Row("CPU, ingress to plain nginx", ours["cpu"] / bare["cpu"], "×"),
                Row(f"translation of {MANY} Ingresses", translated * 1e3, "ms"),
                Row(f"{MANY} Ingresses in force", applied * 1e3, "ms"),
            ]
            began = time.perf_counter()
            for number in range(CHANGES):
                port = BACKEND if number % 2 else PLAIN
                await nginx.apply_endpoints({"default/web/80": (f"{ADDRESS}:{port}",)})
            changed = (time.perf_counter() - began) / CHANGES
            rows.append(Row("endpoints in force", changed * 1e3, "ms"))
            processes = processes_of(settings.pid_file)
            rows.append(Row("memory of nginx (PSS)", processes.memory(), "MB"))
            rows.append(Row("reloads meanwhile", nginx.reloads, ""))
        finally:
            await nginx.stop()
    return rows


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="bench-ingress-"))
    directory.chmod(0o711)
    try:
        show(asyncio.run(measure(directory)))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
