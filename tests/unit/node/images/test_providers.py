"""Credential providers: their configuration, and programs that are run for passwords."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.api.types.authentication_v1 import TokenRequest
from navarch.api.types.core_v1 import Pod, ServiceAccount
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.clock import FakeClock
from navarch.node.images import providers as module
from navarch.node.images.credentials import TrackedCredentials
from navarch.node.images.lookup import credential_sources
from navarch.node.images.names import parse_image_name
from navarch.node.images.provider_config import BadProviderConfig, load_providers
from navarch.node.images.providers import CredentialProvider
from navarch.node.settings import NodeOptions

API = "credentialprovider.kubelet.k8s.io/v1"

PROGRAM = """#!/bin/sh
# Notes what it is asked and answers what the test has put there.
cat >> "$DIRECTORY/asked"
echo "$WHO $*" >> "$DIRECTORY/runs"
cat "$DIRECTORY/answer"
"""


def provider(**fields: Any) -> dict[str, Any]:
    return {
        "name": "plugin",
        "matchImages": ["*.r.example", "r.example"],
        "defaultCacheDuration": "10m",
        "apiVersion": API,
        **fields,
    }


TOKENS = {
    "serviceAccountTokenAudience": "registry",
    "cacheType": "ServiceAccount",
    "requireServiceAccount": True,
}


@dataclass
class Accounts:
    """The API's service accounts."""

    known: dict[str, ServiceAccount] = field(default_factory=dict)
    requests: list[TokenRequest] = field(default_factory=list)

    async def service_account(self, namespace: str, name: str) -> ServiceAccount | None:
        return self.known.get(name)

    async def token(self, namespace: str, account: str, request: TokenRequest) -> TokenRequest:
        self.requests.append(request)
        request.status.token = f"token-{len(self.requests)}"
        return request


@dataclass
class Node:
    directory: Path
    clock: FakeClock = field(default_factory=FakeClock)
    accounts: Accounts = field(default_factory=Accounts)

    def configure(self, *providers: dict[str, Any], name: str = "config.yaml") -> Path:
        document = {
            "apiVersion": "kubelet.config.k8s.io/v1",
            "kind": "CredentialProviderConfig",
            "providers": list(providers),
        }
        path = self.directory / name
        path.write_text(json.dumps(document))
        return path

    def install(self, script: str = PROGRAM) -> None:
        path = self.directory / "plugin"
        path.write_text(script)
        path.chmod(0o755)

    def answer(self, **fields: Any) -> None:
        document = {
            "apiVersion": API,
            "kind": "CredentialProviderResponse",
            "cacheKeyType": "Image",
            "auth": {"r.example": {"username": "u", "password": "secret"}},
            **fields,
        }
        (self.directory / "answer").write_text(json.dumps(document))

    def provider(self, **fields: Any) -> CredentialProvider:
        environment = [
            {"name": "DIRECTORY", "value": str(self.directory)},
            {"name": "WHO", "value": "node"},
        ]
        path = self.configure(provider(args=["get", "--now"], env=environment, **fields))
        (config,) = load_providers(path, self.directory)
        return CredentialProvider(config, self.directory, self.accounts, self.clock)

    @property
    def runs(self) -> int:
        path = self.directory / "runs"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def asked(self) -> list[dict[str, Any]]:
        text = (self.directory / "asked").read_text().replace("}{", "}\n{")
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    here = Node(tmp_path)
    here.install()
    here.answer()
    return here


async def get(
    provider: CredentialProvider, image: str = "r.example/a", pod: Pod | None = None
) -> list[TrackedCredentials]:
    return await provider.lookup(pod or make_pod(), parse_image_name(image))


async def test_a_program_is_asked_for_images_that_match(node: Node) -> None:
    plugin = node.provider()
    (found,) = await get(plugin, "r.example/team/a:1")
    assert (found.credentials.username, found.credentials.password) == ("u", "secret")
    assert found.source is None
    assert node.asked == [
        {"apiVersion": API, "kind": "CredentialProviderRequest", "image": "r.example/team/a"}
    ]
    assert (node.directory / "runs").read_text() == "node get --now\n"
    assert await get(plugin, "other.example/a") == []
    assert await get(plugin, "a.b.r.example/a") == []
    assert node.runs == 1


@pytest.mark.parametrize(
    ("kind", "images", "runs"),
    [
        ("Image", ["r.example/a", "r.example/a", "r.example/b"], 2),
        ("Registry", ["r.example/a", "r.example/b", "eu.r.example/a"], 2),
        ("Global", ["r.example/a", "r.example/b", "eu.r.example/a"], 1),
    ],
)
async def test_answers_are_kept_by_key(node: Node, kind: str, images: list[str], runs: int) -> None:
    node.answer(cacheKeyType=kind)
    plugin = node.provider()
    for image in images:
        await get(plugin, image)
    assert node.runs == runs


@pytest.mark.parametrize(
    ("duration", "seconds"), [(None, 600), ("1m", 60), ("0s", 0)], ids=["default", "own", "none"]
)
async def test_answers_are_kept_for_a_time(node: Node, duration: str | None, seconds: int) -> None:
    node.answer(**({"cacheDuration": duration} if duration else {}))
    plugin = node.provider()
    await get(plugin)
    await node.clock.advance(max(0, seconds - 1))
    await get(plugin)
    assert node.runs == (1 if seconds else 2)
    await node.clock.advance(2)
    await get(plugin)
    assert node.runs == (2 if seconds else 3)


async def test_pods_that_want_the_same_share_a_run(node: Node) -> None:
    node.answer(cacheDuration="0s")
    plugin = node.provider()
    found = await asyncio.gather(*(get(plugin) for _ in range(5)))
    assert node.runs == 1 and all(found)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 3", "exit status 3"),
        ("echo 'no such key' >&2; exit 1", "exit status 1: no such key"),
        ("echo 'secret-in-garbage'", "error decoding credential provider plugin response"),
        ('echo \'{"apiVersion": "v1", "kind": "Pod"}\'', "did not match expected apiVersion"),
        ("head -c 2000000 /dev/zero", "wrote more than"),
        ("sleep 1000 & sleep 1000", "deadline exceeded"),
    ],
)
async def test_a_program_that_fails_gives_nothing_and_is_told_of(
    node: Node,
    script: str,
    told: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 1.0)
    node.install(f"#!/bin/sh\n{script}\n")
    assert await get(node.provider()) == []
    assert told in caplog.text
    assert "secret-in-garbage" not in caplog.text


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"cacheKeyType": "Pod"}, "valid cacheKeyType"),
        ({"cacheDuration": "soon"}, "invalid cacheDuration"),
        ({"kind": "CredentialProviderRequest"}, "unexpected Kind"),
        ({"auth": []}, "error decoding"),
    ],
)
async def test_answers_that_cannot_be_used(
    node: Node, answer: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    node.answer(**answer)
    assert await get(node.provider()) == []
    assert told in caplog.text


def account(**annotations: str) -> ServiceAccount:
    return ServiceAccount(
        metadata=ObjectMeta(name="robot", uid="uid-robot", annotations=annotations)
    )


async def test_tokens_of_service_accounts(node: Node) -> None:
    attributes = TOKENS | {
        "requiredServiceAccountAnnotationKeys": ["cloud.example/role"],
        "optionalServiceAccountAnnotationKeys": ["cloud.example/region"],
    }
    plugin = node.provider(tokenAttributes=attributes)
    pod = make_pod(serviceAccountName="robot")
    # Neither without an account, nor with one that lacks the annotation.
    assert await get(plugin) == []
    node.accounts.known["robot"] = account()
    assert await get(plugin, pod=pod) == []
    assert node.runs == 0
    role = {"cloud.example/role": "puller", "other.example/x": "y"}
    node.accounts.known["robot"] = account(**role)
    (found,) = await get(plugin, pod=pod)
    assert found.source is not None
    assert (found.source.kind, found.source.name) == ("ServiceAccount", "robot")
    (request,) = node.accounts.requests
    assert request.spec.audiences == ["registry"]
    assert request.spec.boundObjectRef is not None
    assert request.spec.boundObjectRef.uid == pod.metadata.uid
    assert node.asked[0]["serviceAccountToken"] == "token-1"
    assert node.asked[0]["serviceAccountAnnotations"] == {"cloud.example/role": "puller"}
    # The account's other pods have the answer as well; with other annotations it is another's.
    await get(plugin, pod=make_pod(serviceAccountName="robot", metadata={"uid": "u-2"}))
    assert node.runs == 1
    node.accounts.known["robot"] = account(**(role | {"cloud.example/region": "eu"}))
    await get(plugin, pod=pod)
    assert node.runs == 2


async def test_answers_by_token_and_a_token_as_the_password(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.accounts.known["robot"] = account()
    pod = make_pod(serviceAccountName="robot")
    plugin = node.provider(tokenAttributes=TOKENS | {"cacheType": "Token"})
    await get(plugin, pod=pod)
    await get(plugin, pod=pod)
    assert node.runs == 2
    node.answer(auth={"r.example": {"username": "u", "password": "token-3"}})
    assert await get(node.provider(tokenAttributes=TOKENS), pod=pod) == []
    assert "returned the service account token as the password" in caplog.text


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": "a/b"}, "cannot contain '/'"),
        ({"name": "a b"}, "cannot contain spaces"),
        ({"name": ".."}, "cannot be '..'"),
        ({"apiVersion": ""}, "apiVersion: Required value"),
        ({"apiVersion": "v1"}, "apiVersion: Unsupported value"),
        ({"matchImages": []}, "at least 1 item in matchImages"),
        ({"defaultCacheDuration": None}, "defaultCacheDuration: Required value"),
        ({"defaultCacheDuration": "-1s"}, "greater than or equal to 0"),
        ({"defaultCacheDuration": "soon"}, "defaultCacheDuration: Invalid value"),
        ({"tokenAttributes": {}}, "serviceAccountTokenAudience: Required value"),
        ({"tokenAttributes": TOKENS | {"cacheType": "x"}}, "cacheType: Unsupported value"),
        (
            {"tokenAttributes": TOKENS, "apiVersion": API + "beta1"},
            "tokenAttributes is only supported for",
        ),
        (
            {"tokenAttributes": TOKENS | {"requiredServiceAccountAnnotationKeys": ["a", "a"]}},
            "Duplicate value",
        ),
        (
            {
                "tokenAttributes": TOKENS
                | {
                    "requiredServiceAccountAnnotationKeys": ["a"],
                    "optionalServiceAccountAnnotationKeys": ["a"],
                }
            },
            "cannot be both required and optional",
        ),
        ({"matchImage": ["x"]}, "unknown field `matchImage`"),
        ({"name": "absent"}, "plugin binary executable .*absent did not exist"),
    ],
)
def test_mistakes_in_the_configuration(node: Node, fields: dict[str, Any], problem: str) -> None:
    path = node.configure(provider(**fields))
    with pytest.raises(BadProviderConfig, match=problem):
        load_providers(path, node.directory)


def test_files_of_a_directory_are_merged(node: Node) -> None:
    (node.directory / "second").write_text(PROGRAM)
    (node.directory / "second").chmod(0o755)
    node.configure(provider(name="second"), name="20.yml")
    node.configure(provider(), name="10.json")
    (node.directory / "notes.txt").write_text("no configuration")
    names = [each.name for each in load_providers(node.directory, node.directory)]
    assert names == ["plugin", "second"]
    node.configure(provider(), name="30.yaml")
    with pytest.raises(BadProviderConfig, match='duplicate provider name "plugin"'):
        load_providers(node.directory, node.directory)


async def test_the_nodes_options_name_them(node: Node) -> None:
    options = NodeOptions(
        kubeconfig=node.directory / "unused",
        node_name="node-1",
        root_directory=node.directory,
        image_credential_provider_config=node.configure(
            provider(env=[{"name": "DIRECTORY", "value": str(node.directory)}])
        ),
        image_credential_provider_bin_dir=node.directory,
    )
    sources = credential_sources(options, node.accounts, node.clock)
    (found,) = await sources.lookup(make_pod(), parse_image_name("r.example/a"), [])
    assert found.credentials.username == "u"
