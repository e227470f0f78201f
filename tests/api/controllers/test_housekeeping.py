"""The smaller controllers at work: roles, tokens, ranges of addresses, migrations, nodes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jwt
from tests.api.conftest import Api
from tests.certificates import key_pem, new_key

from navarch.api.errors import ApiError
from navarch.api.times import format_time
from navarch.api.types.core_v1 import (
    ConfigMap,
    Node,
    ObjectReference,
    Secret,
    ServiceAccount,
)
from navarch.api.types.meta_v1 import GroupResource, LabelSelector, ObjectMeta
from navarch.api.types.networking_v1 import (
    IPAddress,
    IPAddressSpec,
    ParentReference,
    ServiceCIDR,
    ServiceCIDRSpec,
)
from navarch.api.types.rbac_v1 import AggregationRule, ClusterRole, PolicyRule
from navarch.api.types.storagemigration_v1beta1 import (
    StorageVersionMigration,
    StorageVersionMigrationSpec,
)
from navarch.client import Client, KubernetesObject

from .conftest import add_node, eventually, running

ACCOUNT_TOKEN = "kubernetes.io/service-account-token"
BOOTSTRAP_TOKEN = "bootstrap.kubernetes.io/token"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def until_gone(client: Client, obj: KubernetesObject) -> None:
    async def is_gone() -> bool:
        try:
            await client.resource(type(obj)).get(obj.metadata.name, obj.metadata.namespace)
        except ApiError as error:
            return error.is_not_found
        return False

    await eventually(is_gone, f"the end of {obj.metadata.name}")


async def test_a_role_is_the_sum_of_others(client: Client) -> None:
    roles = client.resource(ClusterRole)
    selector = LabelSelector(matchLabels={"sum": "yes"})
    total = ClusterRole(
        metadata=ObjectMeta(name="total"),
        aggregationRule=AggregationRule(clusterRoleSelectors=[selector]),
        rules=[PolicyRule(verbs=["*"], apiGroups=["*"], resources=["*"])],
    )

    async def until_rules(*verbs: str) -> None:
        async def is_so() -> bool:
            found = await roles.get("total")
            assert [rule.verbs for rule in found.rules] == [[verb] for verb in verbs]
            return True

        await eventually(is_so, f"the rules {verbs}")

    def part(name: str, verb: str) -> ClusterRole:
        rule = PolicyRule(verbs=[verb], apiGroups=[""], resources=["pods"])
        # Said twice, it counts once.
        meta = ObjectMeta(name=name, labels={"sum": "yes"})
        return ClusterRole(metadata=meta, rules=[rule, rule])

    async with running(client, "clusterrole-aggregation"):
        await roles.create(part("one", "get"))
        await roles.create(total)
        await until_rules("get")
        await roles.create(part("two", "list"))
        await until_rules("get", "list")
        await roles.patch("total", "", {"rules": []})
        await until_rules("get", "list")
        await roles.delete("one")
        await until_rules("list")
        await roles.patch("two", "", {"metadata": {"labels": {"sum": "no"}}})
        await until_rules()


async def test_lasting_tokens_live_with_their_account(client: Client, tmp_path: Path) -> None:
    key = new_key()
    (tmp_path / "key").write_bytes(key_pem(key))
    (tmp_path / "ca").write_text("the authority")
    options = {
        "service_account_private_key_file": str(tmp_path / "key"),
        "root_ca": str(tmp_path / "ca"),
    }
    accounts, secrets = client.resource(ServiceAccount), client.resource(Secret)
    meta = ObjectMeta(name="build", namespace="default")
    reference = ObjectReference(name="listed")
    account = await accounts.create(ServiceAccount(metadata=meta, secrets=[reference]))

    def token_secret(name: str, account: str = "build") -> Secret:
        annotations = {"kubernetes.io/service-account.name": account}
        metadata = ObjectMeta(name=name, namespace="default", annotations=annotations)
        return Secret(metadata=metadata, type=ACCOUNT_TOKEN)

    async with running(client, "serviceaccount-token", **options):
        made = await secrets.create(token_secret("listed"))

        async def is_filled() -> Secret:
            found = await secrets.get("listed", "default")
            assert found.data.keys() == {"token", "ca.crt", "namespace"}
            return found

        found = await eventually(is_filled, "the token")
        assert found.data["ca.crt"] == encoded("the authority")
        assert found.metadata.annotations["kubernetes.io/service-account.uid"] == (
            account.metadata.uid
        )
        token = base64.b64decode(found.data["token"]).decode()
        said = jwt.decode(token, key.public_key(), ["ES256"])
        assert said["sub"] == "system:serviceaccount:default:build"
        assert said["kubernetes.io/serviceaccount/secret.name"] == "listed"
        await until_gone(client, await secrets.create(token_secret("orphan", "nobody")))
        await secrets.delete("listed", "default", uid=made.metadata.uid)

        async def is_unlisted() -> bool:
            return not (await accounts.get("build", "default")).secrets

        await eventually(is_unlisted, "the end of the reference")
        again = await secrets.create(token_secret("again"))
        await accounts.delete("build", "default")
        await until_gone(client, again)


async def test_bootstrap_tokens_sign_and_expire(client: Client) -> None:
    secrets, maps = client.resource(Secret), client.resource(ConfigMap)
    info = ConfigMap(
        metadata=ObjectMeta(name="cluster-info", namespace="kube-public"),
        data={"kubeconfig": "text"},
    )
    await maps.create(info)

    async def until_signed(*tokens: str) -> dict[str, str]:
        async def is_signed() -> dict[str, str]:
            data = (await maps.get("cluster-info", "kube-public")).data
            assert data.keys() == {"kubeconfig", *(f"jws-kubeconfig-{t}" for t in tokens)}
            return data

        return await eventually(is_signed, f"the signatures {tokens}")

    async def make_token(identifier: str, **more: str) -> Secret:
        data = {
            "token-id": identifier,
            "token-secret": "0123456789abcdef",
            "usage-bootstrap-signing": "true",
            **more,
        }
        metadata = ObjectMeta(name=f"bootstrap-token-{identifier}", namespace="kube-system")
        content = {name: encoded(text) for name, text in data.items()}
        return await secrets.create(Secret(metadata=metadata, type=BOOTSTRAP_TOKEN, data=content))

    async with running(client, "bootstrapsigner", "tokencleaner"):
        lasting = await make_token("abcdef")
        data = await until_signed("abcdef")
        await maps.patch("cluster-info", "kube-public", {"data": {"kubeconfig": "new"}})

        async def is_signed_anew() -> bool:
            found = (await maps.get("cluster-info", "kube-public")).data
            return found["jws-kubeconfig-abcdef"] != data["jws-kubeconfig-abcdef"]

        await eventually(is_signed_anew, "the new signature")
        expired = await make_token("ghijkl", expiration=format_time(client.clock.now()))
        await until_gone(client, expired)
        assert await secrets.get(lasting.metadata.name, "kube-system")
        await secrets.delete(lasting.metadata.name, "kube-system")
        await until_signed()


async def test_a_range_stays_while_addresses_need_it(client: Client) -> None:
    ranges, addresses = client.resource(ServiceCIDR), client.resource(IPAddress)

    def new_range(name: str, cidr: str) -> ServiceCIDR:
        return ServiceCIDR(metadata=ObjectMeta(name=name), spec=ServiceCIDRSpec(cidrs=[cidr]))

    async def until_ready(status: str, reason: str = "") -> None:
        async def is_told() -> bool:
            found = await ranges.get("small")
            condition = found.status.conditions[0]
            assert (condition.status, condition.reason) == (status, reason)
            return found.metadata.finalizers == ["networking.k8s.io/service-cidr-finalizer"]

        await eventually(is_told, f"Ready {status}")

    async with running(client, "servicecidr"):
        await ranges.create(new_range("small", "10.200.0.0/28"))
        await until_ready("True")
        parent = ParentReference(resource="services", namespace="default", name="nothing")
        labels = {
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            "ipaddress.kubernetes.io/ip-family": "IPv4",
        }
        await addresses.create(
            IPAddress(
                metadata=ObjectMeta(name="10.200.0.3", labels=labels),
                spec=IPAddressSpec(parentRef=parent),
            )
        )
        await ranges.delete("small")
        await until_ready("False", "Terminating")
        await addresses.delete("10.200.0.3")
        assert (await ranges.get("small")).metadata.deletionTimestamp

        async def is_gone() -> bool:
            return "small" not in [r.metadata.name for r in (await ranges.list()).items]

        await eventually(is_gone, "the range's end")


async def migrate(client: Client, name: str, group: str, plural: str) -> StorageVersionMigration:
    migrations = client.resource(StorageVersionMigration)
    spec = StorageVersionMigrationSpec(resource=GroupResource(group=group, resource=plural))
    await migrations.create(StorageVersionMigration(metadata=ObjectMeta(name=name), spec=spec))

    async def is_over() -> StorageVersionMigration:
        found = await migrations.get(name)
        states = {c.type: c.status for c in found.status.conditions}
        assert states["Running"] == "False"
        assert {"Succeeded", "Failed"} & states.keys()
        return found

    return await eventually(is_over, "the migration")


async def test_objects_move_to_the_new_storage_version(client: Client, api: Api) -> None:
    def version(name: str, storage: bool) -> dict[str, Any]:
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        schema_of = {"openAPIV3Schema": schema}
        return {"name": name, "served": True, "storage": storage, "schema": schema_of}

    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    crd = {
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "names": {"plural": "widgets", "kind": "Widget"},
            "scope": "Namespaced",
            "versions": [version("v1", True), version("v2", False)],
        },
    }
    (await api.post(path, crd)).ok(201)
    widgets = client.dynamic("example.com", "v1", "widgets")

    async def make(name: str) -> Any:
        meta = {"name": name, "namespace": "default"}
        body = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": meta}
        return await widgets.create(body)

    async def first() -> Any:
        return await make("one")

    await eventually(first, "the first widget")
    await make("two")
    path = f"{path}/widgets.example.com"
    versions = [version("v1", False), version("v2", True)]
    (await api.patch(path, {"spec": {"versions": versions}})).ok()

    async def are_both_stored() -> bool:
        status = (await api.get(path)).ok()["status"]
        return bool(status["storedVersions"] == ["v1", "v2"])

    await eventually(are_both_stored, "the new stored version")
    before = [w["metadata"] for w in (await widgets.list("default")).items]
    async with running(client, "storage-version-migrator"):
        migration = await migrate(client, "m", "example.com", "widgets")
    outcome = {c.type: c.message for c in migration.status.conditions if c.status == "True"}
    assert outcome == {"Succeeded": ""}
    assert migration.status.resourceVersion
    after = [w["metadata"] for w in (await widgets.list("default")).items]
    for old, new in zip(before, after, strict=True):
        assert int(new["resourceVersion"]) > int(old["resourceVersion"])
        assert new.get("generation") == old.get("generation")
    definition = (await api.get(path)).ok()
    assert definition["status"]["storedVersions"] == ["v2"]
    migrating = {c["type"]: c for c in definition["status"]["conditions"]}["StorageMigrating"]
    assert (migrating["status"], migrating["reason"]) == ("False", "MigrationSucceeded")


async def test_a_migration_of_what_cannot_be_written_fails(client: Client, api: Api) -> None:
    async with running(client, "storage-version-migrator"):
        migration = await migrate(client, "m", "", "componentstatuses")
    failed = next(c for c in migration.status.conditions if c.type == "Failed")
    assert "does not support discovery operations: [update patch list]" in failed.message
    path = "/apis/storagemigration.k8s.io/v1beta1/storageversionmigrations"
    changed = await api.patch(f"{path}/m", {"spec": {"resource": {"resource": "secrets"}}})
    assert (changed.status, "field is immutable" in changed.json["message"]) == (422, True)
    empty = await api.post(path, {"metadata": {"name": "n"}, "spec": {"resource": {}}})
    assert "spec.resource.resource: Required value" in empty.json["message"]


async def test_nodes_are_told_how_long_to_trust(client: Client) -> None:
    async with running(client, "ttl"):
        await add_node(client)

        async def is_told() -> bool:
            found = await client.resource(Node).get("n1")
            return found.metadata.annotations["node.alpha.kubernetes.io/ttl"] == "0"

        await eventually(is_told, "the annotation")
