"""What is wrong with claims for devices, classes and slices."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.api.validation.samples import judged

from navarch.api.validation import device_slices
from navarch.api.validation import devices as rules

Object = dict[str, Any]
DRIVER = "gpu.example.com"


def request(**fields: Any) -> Object:
    exactly = {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1, **fields}
    return {"name": "r", "exactly": exactly}


def selecting(text: str) -> Object:
    return request(selectors=[{"cel": {"expression": text}}])


def claim(*requests: Object, **devices: Any) -> Object:
    return {"spec": {"devices": {"requests": [*requests], **devices}}}


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        pytest.param(claim(request()), [], id="plain"),
        pytest.param(
            claim(selecting(f'device.attributes["{DRIVER}"].x == 1')), [], id="selector"
        ),
        pytest.param(
            claim(selecting(f'cel.bind(d, device.attributes["{DRIVER}"], d.x && d.y > 4)')),
            [],
            id="bound name",
        ),
        pytest.param(
            claim(selecting("device.other")),
            ['spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value: '
             '"device.other": compilation failed: ERROR: <input>:1:7: undefined field \'other\''],
            id="selector that does not compile",
        ),
        pytest.param(
            claim(selecting("device.driver")),
            ['spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value: '
             '"device.driver": must evaluate to bool or the unknown type, not string'],
            id="selector of the wrong type",
        ),
        pytest.param(
            claim(
                selecting(
                    "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, "
                    "device.attributes.all(d, a + b + c + d != ''))))"
                )
            ),
            ["spec.devices.requests[0].exactly.selectors[0].cel.expression: Forbidden: too complex,"
             " exceeds cost limit"],
            id="selector that may cost too much",
        ),
        pytest.param(
            claim(selecting("true" + " " * 10240)),
            ["spec.devices.requests[0].exactly.selectors[0].cel.expression: Too long: may not be "
             "more than 10240 bytes"],
            id="long selector",
        ),
        pytest.param(
            claim(*[{**request(), "name": f"r{n}"} for n in range(33)]),
            ["spec.devices.requests: Too many: 33: must have at most 32 items"],
            id="too many requests",
        ),
        pytest.param(
            claim(request(), request()),
            ['spec.devices.requests[1]: Duplicate value: "r"'],
            id="two requests of one name",
        ),
        pytest.param(
            claim(request(), constraints=[{"requests": ["r", "x"], "matchAttribute": "nodomain"}]),
            ['spec.devices.constraints[0].requests[1]: Invalid value: "x": must be the name of a '
             "request in the claim or the name of a request and a subrequest separated by '/'",
             'spec.devices.constraints[0].matchAttribute: Invalid value: "nodomain": a fully '
             "qualified name must be a domain and a name separated by a slash"],
            id="constraint",
        ),
        pytest.param(
            claim(request(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}, {}])),
            ['spec.devices.requests[0].exactly.tolerations[0].value: Invalid value: "b": must be '
             "empty for operator `Exists`",
             "spec.devices.requests[0].exactly.tolerations[1].operator: Required value"],
            id="tolerations",
        ),
        pytest.param(
            claim(request(), config=[{"opaque": {"driver": DRIVER, "parameters": [1]}}]),
            ['spec.devices.config[0].opaque.parameters: Invalid value: "<value omitted>": must be '
             "a valid JSON object"],
            id="parameters",
        ),
    ],
)  # fmt: skip
def test_claims(obj: Object, expected: list[str]) -> None:
    found = [str(each) for each in judged(rules.validate_claim, obj)]
    assert [each.splitlines()[0] for each in found] == expected


def slice_(*devices: Object, **spec: Any) -> Object:
    pool = {"name": "p", "generation": 1, "resourceSliceCount": 1}
    found = {"driver": DRIVER, "pool": pool, "nodeName": "n1", "devices": [*devices], **spec}
    return {"spec": found}


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        pytest.param(
            slice_({"name": "a", "attributes": {"x": {"int": 1}, "b.example/y": {"bool": True}}}),
            [],
            id="plain",
        ),
        pytest.param(
            slice_({"name": "a", "attributes": {"x": {"int": 1, "string": ""}}}),
            ["spec.devices[0].attributes[x]: Invalid value: "
             '{"IntValue":1,"BoolValue":null,"StringValue":"","VersionValue":null,"IntValues":null,'
             '"BoolValues":null,"StringValues":null,"VersionValues":null}: '
             "exactly one value must be specified"],
            id="two values",
        ),
        pytest.param(
            slice_({"name": "a", "attributes": {"x": {"version": "1.0"}}}),
            ['spec.devices[0].attributes[x].version: Invalid value: "1.0": must be a string '
             "compatible with semver.org spec 2.0.0"],
            id="version",
        ),
        pytest.param(
            slice_({"name": "a", "attributes": {f"x{n}": {"int": n} for n in range(33)}}),
            ["spec.devices[0]: Invalid value: 33: the total number of attributes and capacities "
             "must not exceed 32"],
            id="too many names",
        ),
        pytest.param(
            slice_(*({"name": f"d{n}", "taints": [{"key": "k", "effect": "None"}]}
                     for n in range(65))),
            ["spec.devices: Too many: 65: must have at most 64 items"],
            id="too many devices with taints",
        ),
        pytest.param(
            slice_({"name": "a", "taints": [{"key": "k", "effect": "Odd"}]}),
            ['spec.devices[0].taints[0].effect: Unsupported value: "Odd": supported values: '
             '"NoExecute", "NoSchedule", "None"'],
            id="taint",
        ),
        pytest.param(
            slice_(nodeName=None, allNodes=True, nodeSelector={"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}),
            ['spec: Invalid value: "{`nodeSelector`, `allNodes`}": exactly one of `nodeName`, '
             "`nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple "
             "fields are set"],
            id="two places",
        ),
        pytest.param(
            slice_({"name": "a", "nodeName": "n1"}),
            ["spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can "
             "only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"],
            id="a device with a node",
        ),
        pytest.param(
            slice_({"name": "a", "bindingConditions": ["ready"]}),
            ["spec.devices[0].bindingFailureConditions: Invalid value: null: "
             "bindingFailureConditions are required to use bindingConditions"],
            id="conditions",
        ),
        pytest.param(
            slice_({"name": "a", "capacity": {"m": {"value": "1", "requestPolicy": {}}}}),
            ["spec.devices[0].capacity[m].requestPolicy: Forbidden: allowMultipleAllocations must "
             "be true"],
            id="policy of a device for one",
        ),
        pytest.param(
            slice_({"name": "a", "allowMultipleAllocations": True, "capacity": {"m": {
                "value": "4Gi", "requestPolicy": {"default": "1Gi", "validRange": {
                    "min": "1Gi", "max": "8Gi", "step": "2Gi"}}}}}),
            ['spec.devices[0].capacity[m].requestPolicy.validRange.max: Invalid value: "8Gi": max '
             "is larger than capacity value: 4Gi",
             'spec.devices[0].capacity[m].requestPolicy.validRange.step: Invalid value: "8Gi": '
             "value is not a multiple of a given step (2Gi) from (1Gi)"],
            id="policy",
        ),
        pytest.param(
            slice_(sharedCounters=[{"name": "card", "counters": {}}], devices=[]),
            ["spec.sharedCounters[0].counters: Required value"],
            id="counters",
        ),
    ],
)  # fmt: skip
def test_slices(obj: Object, expected: list[str]) -> None:
    assert [str(each) for each in judged(device_slices.validate_slice, obj)] == expected


def test_devices_that_a_claim_has_no_more_are_not_reported() -> None:
    one, two = ({"driver": DRIVER, "pool": "p", "device": name} for name in ("a", "b"))
    allocation = {"devices": {"results": [{**one, "request": "r"}, {**two, "request": "r"}]}}
    old = {**claim(request()), "status": {"allocation": allocation, "devices": [one, two]}}
    new = {**claim(request()), "status": {"devices": [one, two]}}
    rules.drop_deallocated(new, old)
    assert new["status"] == {}
    kept = {**claim(request()), "status": {"allocation": allocation, "devices": [one]}}
    rules.drop_deallocated(kept, old)
    assert kept["status"]["devices"] == [one]
    assert not judged(rules.validate_claim_status, kept, old)
