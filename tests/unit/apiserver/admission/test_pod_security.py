"""PodSecurity: the checks of the three standards, their versions, and what labels make of them."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.apiserver.admission.pod_security import (
    PodSecurity,
    Standard,
    existing_warnings,
    parse_policy,
)

Object = dict[str, Any]

HARDENED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(*contexts: Object, metadata: Object | None = None, **spec: Any) -> Object:
    """A pod with a container per security context (one that meets `restricted` if none given)."""
    containers = [
        {"name": f"c{index}", "securityContext": context}
        for index, context in enumerate(contexts or (HARDENED,))
    ]
    meta = {"name": "p", "namespace": "ns", **(metadata or {})}
    return {"metadata": meta, "spec": {"containers": containers, **spec}}


def container(**fields: Any) -> Object:
    return pod(containers=[{"name": "c", "securityContext": HARDENED, **fields}])


def security(**context: Any) -> Object:
    return pod(securityContext=context)


BASELINE: list[Any] = [
    (pod(hostNetwork=True, hostPID=True), "host namespaces (hostNetwork=true, hostPID=true)"),
    (
        pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}]),
        'hostPath volumes (volume "v")',
    ),
    (
        container(ports=[{"hostPort": 80}, {"hostPort": 8080}, {"containerPort": 9}]),
        'hostPort (container "c" uses hostPorts 80, 8080)',
    ),
    (pod({**HARDENED, "privileged": True}), "privileged (container"),
    (
        pod({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]}}),
        'non-default capabilities (container "c0" must not include "NET_RAW", "SYS_ADMIN" in '
        "securityContext.capabilities.add)",
    ),
    (
        pod({**HARDENED, "procMount": "Unmasked"}),
        'procMount (container "c0" must not set securityContext.procMount to "Unmasked")',
    ),
    (
        security(seLinuxOptions={"type": "evil_t", "user": "u", "role": "r"}),
        "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: "
        'type "evil_t"; user may not be set; role may not be set)',
    ),
    (
        security(seccompProfile={"type": "Unconfined"}),
        'seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")',
    ),
    (
        security(appArmorProfile={"type": "Unconfined"}),
        'forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")',
    ),
    (
        pod(
            metadata={
                "annotations": {"container.apparmor.security.beta.kubernetes.io/c0": "unconfined"}
            }
        ),
        "forbidden AppArmor profile (annotation must not set AppArmor profile type to "
        '"container.apparmor.security.beta.kubernetes.io/c0="unconfined"")',
    ),
    (security(sysctls=[{"name": "kernel.msgmax"}]), "forbidden sysctls (kernel.msgmax)"),
    (
        security(windowsOptions={"hostProcess": True}),
        "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
    ),
    (
        container(livenessProbe={"httpGet": {"host": "10.0.0.1"}}),
        'probe or lifecycle host (container "c" uses probe or lifecycle host "10.0.0.1")',
    ),
    (
        pod(ephemeralContainers=[{"name": "d", "securityContext": {"privileged": True}}]),
        'privileged (container "d" must not set securityContext.privileged=true)',
    ),
    (
        pod(initContainers=[{"name": "i", "securityContext": {"privileged": True}}]),
        'privileged (container "i" must not set securityContext.privileged=true)',
    ),
]


@pytest.mark.parametrize(("obj", "violation"), BASELINE)
def test_baseline_forbids(obj: Object, violation: str) -> None:
    [found] = Standard("baseline").violations(obj)
    assert str(found).startswith(violation)
    assert not Standard("privileged").violations(obj)


RESTRICTED: list[Any] = [
    (
        pod({**HARDENED, "allowPrivilegeEscalation": True}, {**HARDENED}),
        'allowPrivilegeEscalation != false (container "c0" must set '
        "securityContext.allowPrivilegeEscalation=false)",
    ),
    (
        pod({**HARDENED, "capabilities": {"drop": ["ALL"], "add": ["CHOWN", "NET_BIND_SERVICE"]}}),
        'unrestricted capabilities (container "c0" must not include "CHOWN" in '
        "securityContext.capabilities.add)",
    ),
    (
        pod({k: v for k, v in HARDENED.items() if k != "capabilities"}),
        'unrestricted capabilities (container "c0" must set '
        'securityContext.capabilities.drop=["ALL"])',
    ),
    (
        pod({k: v for k, v in HARDENED.items() if k != "runAsNonRoot"}),
        'runAsNonRoot != true (pod or container "c0" must set securityContext.runAsNonRoot=true)',
    ),
    (
        pod({**HARDENED, "runAsNonRoot": False}),
        'runAsNonRoot != true (container "c0" must not set securityContext.runAsNonRoot=false)',
    ),
    (
        pod({**HARDENED, "runAsUser": 0}),
        'runAsUser=0 (container "c0" must not set runAsUser=0)',
    ),
    (
        pod({k: v for k, v in HARDENED.items() if k != "seccompProfile"}),
        'seccompProfile (pod or container "c0" must set securityContext.seccompProfile.type to '
        '"RuntimeDefault" or "Localhost")',
    ),
    (
        pod(volumes=[{"name": "a", "hostPath": {}}, {"name": "b", "nfs": {}}]),
        'restricted volume types (volumes "a", "b" use restricted volume types "hostPath", "nfs")',
    ),
]


@pytest.mark.parametrize(("obj", "violation"), RESTRICTED)
def test_restricted_forbids(obj: Object, violation: str) -> None:
    assert [str(found) for found in Standard("restricted").violations(obj)] == [violation]


def test_restricted_tells_all_at_once() -> None:
    found = Standard("restricted").violations(pod({}, hostNetwork=True))
    assert [violation.reason for violation in found] == [
        "host namespaces",
        "allowPrivilegeEscalation != false",
        "unrestricted capabilities",
        "runAsNonRoot != true",
        "seccompProfile",
    ]


def test_what_meets_restricted() -> None:
    volumes = [{"name": "e", "emptyDir": {}}, {"name": "p", "projected": {}}]
    assert not Standard("restricted").violations(pod(volumes=volumes))
    by_pod = {"runAsNonRoot": True, "seccompProfile": {"type": "Localhost"}}
    bare = {k: HARDENED[k] for k in ("allowPrivilegeEscalation", "capabilities")}
    assert not Standard("restricted").violations(pod(bare, securityContext=by_pod))


@pytest.mark.parametrize(
    ("level", "version", "obj", "allowed"),
    [
        ("restricted", "v1.24", pod({}, os={"name": "windows"}), False),
        (
            "restricted",
            "v1.25",
            pod({"runAsNonRoot": True}, os={"name": "windows"}),
            True,
        ),
        ("baseline", "v1.26", security(sysctls=[{"name": "net.ipv4.tcp_rmem"}]), False),
        ("baseline", "v1.32", security(sysctls=[{"name": "net.ipv4.tcp_rmem"}]), True),
        ("baseline", "v1.30", security(seLinuxOptions={"type": "container_engine_t"}), False),
        ("baseline", "v1.31", security(seLinuxOptions={"type": "container_engine_t"}), True),
        ("baseline", "v1.33", container(livenessProbe={"tcpSocket": {"host": "x"}}), True),
        ("baseline", "v1.34", container(livenessProbe={"tcpSocket": {"host": "x"}}), False),
        ("baseline", "v1.34", pod({"procMount": "Unmasked"}, hostUsers=False), False),
        ("baseline", "v1.35", pod({"procMount": "Unmasked"}, hostUsers=False), True),
        ("restricted", "v1.35", pod({**HARDENED, "procMount": "X"}, hostUsers=False), False),
        ("restricted", "v1.34", pod({**HARDENED, "runAsUser": 0}, hostUsers=False), False),
        ("restricted", "v1.35", pod({**HARDENED, "runAsUser": 0}, hostUsers=False), True),
        ("restricted", "v1.22", pod({**HARDENED, "runAsUser": 0}), True),
        ("restricted", "v1.99", pod({**HARDENED, "runAsUser": 0}), False),
    ],
)
def test_versions(level: str, version: str, obj: Object, allowed: bool) -> None:
    assert (not Standard(level, version).violations(obj)) is allowed


P = "pod-security.kubernetes.io/"


@pytest.mark.parametrize(
    ("labels", "policy", "faults"),
    [
        ({}, ("privileged:latest",) * 3, 0),
        (
            {f"{P}enforce": "baseline", f"{P}enforce-version": "v1.30"},
            ("baseline:v1.30", "privileged:latest", "baseline:v1.30"),
            0,
        ),
        (
            {f"{P}enforce": "baseline", f"{P}warn": "restricted", f"{P}audit": "restricted"},
            ("baseline:latest", "restricted:latest", "restricted:latest"),
            0,
        ),
        (
            {f"{P}enforce": "strict", f"{P}warn": "strict"},
            ("restricted:latest", "privileged:latest", "privileged:latest"),
            2,
        ),
        (
            {f"{P}enforce": "baseline", f"{P}enforce-version": "v2"},
            ("baseline:latest", "privileged:latest", "baseline:latest"),
            1,
        ),
    ],
)
def test_labels(labels: Object, policy: tuple[str, str, str], faults: int) -> None:
    found, errors = parse_policy(labels)
    assert (str(found.enforce), str(found.audit), str(found.warn)) == policy
    assert len(errors) == faults


def namespace(world: Any, **labels: str) -> None:
    prefixed = {P + key.replace("_", "-"): value for key, value in labels.items()}
    world.add("namespaces", "ns", metadata={"labels": prefixed})


async def test_a_pod_is_refused(world: Any) -> None:
    namespace(world, enforce="baseline")
    with pytest.raises(ApiError) as raised:
        await world.run(PodSecurity(world.access), "pods", pod(hostNetwork=True))
    assert raised.value.status == 403
    assert raised.value.message == (
        'pods "p" is forbidden: violates PodSecurity "baseline:latest": '
        "host namespaces (hostNetwork=true)"
    )


async def test_workloads_and_lax_modes_only_warn(world: Any) -> None:
    namespace(world, enforce="baseline", warn="restricted")
    plugin = PodSecurity(world.access)
    request = await world.run(plugin, "pods", pod({**HARDENED, "runAsUser": 0}))
    warning = 'would violate PodSecurity "restricted:latest": runAsUser=0 (container "c0" must not'
    assert list(request.warnings) == [f"{warning} set runAsUser=0)"]
    template = pod(hostNetwork=True)
    deployment = {
        "metadata": {"name": "d", "namespace": "ns"},
        "spec": {"template": template},
    }
    request = await world.run(plugin, "apps:deployments", deployment)
    assert len(list(request.warnings)) == 1
    job = {**deployment, "spec": {"jobTemplate": {"spec": {"template": template}}}}
    request = await world.run(plugin, "batch:cronjobs", job)
    assert len(list(request.warnings)) == 1


async def test_only_changes_that_matter_are_checked(world: Any) -> None:
    namespace(world, enforce="baseline")
    plugin = PodSecurity(world.access)
    old, new = pod(hostNetwork=True), pod(hostNetwork=True, metadata={"labels": {"a": "b"}})
    await world.run(plugin, "pods", new, old)
    await world.run(plugin, "pods/status", new, old)
    imaged = pod(hostNetwork=True)
    imaged["spec"]["containers"][0]["image"] = "other"
    with pytest.raises(ApiError):
        await world.run(plugin, "pods", imaged, old)
    debugged = pod(hostNetwork=True, ephemeralContainers=[{"name": "d"}])
    with pytest.raises(ApiError):
        await world.run(plugin, "pods/ephemeralcontainers", debugged, old)


def labelled(**labels: str) -> Object:
    return {"metadata": {"name": "ns", "labels": {P + key: value for key, value in labels.items()}}}


async def test_labels_of_a_namespace_are_checked(world: Any) -> None:
    plugin = PodSecurity(world.access)
    with pytest.raises(ApiError) as raised:
        await world.run(plugin, "namespaces", labelled(enforce="strict"))
    assert raised.value.status == 422
    assert raised.value.message == (
        f'Namespace "ns" is invalid: metadata.labels[{P}enforce]: Invalid value: "strict": '
        "must be one of privileged, baseline, restricted"
    )
    await world.run(plugin, "namespaces", labelled(enforce="strict"), labelled(enforce="strict"))


async def test_raising_the_level_warns_of_pods_that_are_there(world: Any) -> None:
    plugin = PodSecurity(world.access)
    world.lookup.put("pods", pod(hostNetwork=True, metadata={"name": "b"}))
    world.lookup.put("pods", pod(hostNetwork=True, metadata={"name": "a"}))
    world.lookup.put("pods", pod(hostPID=True, hostIPC=True, metadata={"name": "c"}))
    world.lookup.put("pods", pod({"privileged": True}, metadata={"name": "d"}))
    request = await world.run(plugin, "namespaces", labelled(enforce="baseline"), labelled())
    assert list(request.warnings) == [
        'existing pods in namespace "ns" violate the new PodSecurity enforce level '
        '"baseline:latest"',
        "a (and 2 other pods): host namespaces",
        "d: privileged",
    ]
    relaxed = await world.run(
        plugin, "namespaces", labelled(enforce="baseline"), labelled(enforce="restricted")
    )
    assert list(relaxed.warnings) == []


def test_many_pods_are_sampled_by_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("navarch.apiserver.admission.pod_security.PODS_TO_CHECK", 2)
    owner = {"ownerReferences": [{"uid": "rs", "controller": True}]}
    replicas = [pod(metadata={"name": f"r{index}", **owner}) for index in range(3)]
    bad = pod(hostNetwork=True, metadata={"name": "bad"})
    warnings = existing_warnings("ns", Standard("baseline"), [*replicas, bad])
    assert warnings[0].endswith("only checked against the first 2 of 4 existing pods")
    assert warnings[-1] == "bad: host namespaces"
