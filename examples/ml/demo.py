"""The main job, end to end: a model is trained and served by a real cluster.

Standard library only; the work is done by `navarch` and `kubectl`, as a user would type it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BASE_IMAGE = "navarch.local/debian-ml:bookworm"
APP_IMAGE = "navarch.local/digits:v1"
NAVARCH = shutil.which("navarch", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
PACKAGES = ("python3-sklearn", "python3-fastapi", "python3-uvicorn")
NOT_NEEDED = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/lib/gcc/*/cc1*",
    "/usr/lib/gcc/*/lto*",
    "/usr/lib/gcc/*.a",
    "/usr/include/*",
    "/usr/lib/*.a",
    "/usr/bin/*-lto-dump-*",
)
started = time.perf_counter()


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Print a step's title, and how long it took when it is done."""
    print(f"\n── {title}", flush=True)
    begin = time.perf_counter()
    yield
    print(f"   done in {time.perf_counter() - begin:.1f} s", flush=True)


def run(*command: str, feed: str | None = None, quiet: bool = False) -> str:
    """Run a command, show its output indented and return it; a failure ends the demo."""
    result = subprocess.run(command, input=feed, text=True, capture_output=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\nfailed:\n{result.stdout}{result.stderr}")
    if not quiet:
        for line in result.stdout.splitlines():
            print(f"   {line}", flush=True)
    return result.stdout


def navarch(*arguments: str) -> None:
    """Run `navarch` with its progress on this terminal."""
    assert NAVARCH is not None, "navarch is not installed: run `make install`"
    if subprocess.run([NAVARCH, *arguments], check=False).returncode:
        sys.exit(f"navarch {' '.join(arguments)} failed; see the lines above")


def kubectl(*arguments: str, feed: str | None = None, quiet: bool = False) -> str:
    return run("kubectl", *arguments, feed=feed, quiet=quiet)


def manifest(name: str, **values: str) -> str:
    """A manifest's text with its values in braces filled in."""
    text = (HERE / "manifests" / f"{name}.yaml").read_text()
    for word, value in values.items():
        text = text.replace(f"{{{{{word}}}}}", value)
    return text


def base_image() -> Path:
    """The root file system with Python and the libraries, made from Debian packages once."""
    archive = ROOT / ".cache" / "debian-ml.tar"
    if archive.exists():
        print("   (kept from an earlier run)")
        return archive
    archive.parent.mkdir(exist_ok=True)
    if shutil.which("mmdebstrap") is None:
        run("apt-get", "update", "-q", quiet=True)
        run("apt-get", "install", "-y", "-q", "mmdebstrap", quiet=True)
    partial = archive.with_name("debian-ml.partial.tar")
    run(
        "mmdebstrap",
        "--mode=root",
        "--variant=essential",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_NEEDED),
        debian_suite(),
        str(partial),
        quiet=True,
    )
    partial.rename(archive)
    return archive


def debian_suite() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    return "bookworm"


def train(version: str, estimator: str) -> None:
    kubectl("apply", "-f", "-", feed=manifest("train", version=version, estimator=estimator))
    job = f"job/train-{version}"
    kubectl("-n", "ml", "wait", "--for=condition=complete", "--timeout=180s", job, quiet=True)
    kubectl("-n", "ml", "logs", job)


class Service:
    """The served model as its users see it: an address, a key, and predictions."""

    def __init__(self) -> None:
        port = kubectl(
            "-n", "ml", "get", "service", "digits",
            "-o", "jsonpath={.spec.ports[0].nodePort}", quiet=True,
        )  # fmt: skip
        assert NAVARCH is not None
        address = run(NAVARCH, "ip", quiet=True).strip()
        self.url = f"http://{address}:{port}/predict"
        self.key = "a-key-for-the-demo"

    def predict(self, rows: list[list[float]]) -> dict[str, object]:
        request = urllib.request.Request(
            self.url,
            data=json.dumps({"rows": rows}).encode(),
            headers={"Content-Type": "application/json", "X-API-Key": self.key},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: dict[str, object] = json.load(response)
            return answer

    def predict_with(self, version: str, rows: list[list[float]]) -> dict[str, object]:
        """Ask until this version answers, for ten seconds at most: a rollout counts as done when
        the last old pod is told to end, and the Service hears of that a moment later."""
        end = time.monotonic() + 10
        answer = self.predict(rows)
        while answer["version"] != version and time.monotonic() < end:
            answer = self.predict(rows)
        return answer


class Traffic:
    """Requests without a pause in the background; counts the answers and the failures."""

    def __init__(self, service: Service, rows: list[list[float]]) -> None:
        self.service = service
        self.rows = rows
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self.service.predict(self.rows)
            except (urllib.error.URLError, OSError) as error:
                self.failures.append(str(error))
            else:
                self.answers[f"{answer['version']} from {answer['pod']}"] += 1
            self._stop.wait(0.02)

    def report(self) -> None:
        for who, count in sorted(self.answers.items()):
            print(f"   {count:5} answers of {who}")
        print(f"   {len(self.failures):5} failed {self.failures[:3] if self.failures else ''}")


def sample_rows(count: int) -> tuple[list[list[float]], list[int]]:
    """Rows of the data set and the digits they show, read inside a serving pod."""
    code = (
        "import json; from sklearn.datasets import load_digits; d = load_digits();"
        f"print(json.dumps([d.data[-{count}:].tolist(), d.target[-{count}:].tolist()]))"
    )
    text = kubectl("-n", "ml", "exec", "deploy/digits", "--", "python3", "-c", code, quiet=True)
    rows, digits = json.loads(text)
    return rows, digits


def draw(row: list[float]) -> str:
    """One 8 x 8 image in characters."""
    shades = " .:-=+*#@"
    lines = (row[start : start + 8] for start in range(0, 64, 8))
    return "\n".join(
        "      " + "".join(shades[int(value / 16 * 8)] * 2 for value in line) for line in lines
    )


def main() -> None:
    with step("Base image from Debian packages (python3, scikit-learn, FastAPI, uvicorn)"):
        archive = base_image()
    with step("Start a cluster"):
        navarch("start")
        kubectl("get", "nodes", "-o", "wide")
    with step("Build the application's image into the cluster"):
        navarch("image", "load", str(archive), "--name", BASE_IMAGE)
        navarch("image", "build", "-t", APP_IMAGE, str(HERE))
    with step("Train the first model in a Job"):
        kubectl("apply", "-f", "-", feed=manifest("config"))
        kubectl("-n", "ml", "delete", "job", "-l", "step=train", quiet=True)
        train("v1", "logistic")
    with step("Serve it: Deployment of two replicas, Secret, ConfigMap, probes, Service"):
        kubectl("apply", "-f", "-", feed=manifest("serve", version="v1"))
        kubectl("-n", "ml", "rollout", "status", "deploy/digits", "--timeout=180s")
        kubectl("-n", "ml", "get", "pods,service,endpointslices", "-o", "wide")
    with step("Send real rows, print the predictions"):
        service = Service()
        rows, digits = sample_rows(12)
        answer = service.predict(rows)
        print(draw(rows[0]))
        print(f"   predicted  {answer['digits']}\n   really     {digits}")
        print(f"   confidence {answer['confidence']}")
        print(f"   {answer['greeting']!r}, model {answer['version']}, pod {answer['pod']}")
    with step("Kill a pod; the Service goes on"), Traffic(service, rows) as traffic:
        pods = kubectl("-n", "ml", "get", "pods", "-l", "step=serve", "-o", "name", quiet=True)
        kubectl("-n", "ml", "delete", pods.split()[0])
        kubectl("-n", "ml", "rollout", "status", "deploy/digits", "--timeout=180s")
    traffic.report()
    with step("Train a second model and roll it out without a failed request"):
        train("v2", "svm")
        with Traffic(service, rows) as rollout:
            kubectl("apply", "-f", "-", feed=manifest("serve", version="v2"))
            kubectl("-n", "ml", "rollout", "status", "deploy/digits", "--timeout=180s")
            answer = service.predict_with("v2", rows)
    rollout.report()
    if rollout.failures or traffic.failures:
        sys.exit("requests failed while pods were replaced")
    if answer["version"] != "v2":
        sys.exit(f"the new version does not answer: {answer}")
    print(f"\nAll of it in {time.perf_counter() - started:.0f} s. The cluster is up; try\n")
    print("   kubectl -n ml get all")
    print("   kubectl -n ml logs deploy/digits --tail=5")
    print("   kubectl -n ml rollout undo deploy/digits")
    command = "navarch" if shutil.which("navarch") else NAVARCH
    print(f"   {command} delete")


if __name__ == "__main__":
    main()
