"""How errors show structs: as Go has them, with every field, and meta/v1 as in a manifest."""

from __future__ import annotations

import pytest

from navarch.api.validation.fields import Field
from navarch.api.validation.go_values import shown_as


@pytest.mark.parametrize(
    ("type_name", "value", "text"),
    [
        ("core_v1.Taint", {"effect": "E", "key": "k"},
         '{"Key":"k","Value":"","Effect":"E","TimeAdded":null}'),
        ("core_v1.ServicePort", {"port": 1},
         '{"Name":"","Protocol":"","AppProtocol":null,"Port":1,"TargetPort":0,"NodePort":0}'),
        ("apps_v1.DeploymentStrategy", {"type": "x", "rollingUpdate": {"maxSurge": "25%"}},
         '{"Type":"x","RollingUpdate":{"MaxUnavailable":null,"MaxSurge":"25%"}}'),
        ("policy_v1.PodDisruptionBudgetSpec",
         {"selector": {"matchExpressions": [{"operator": "Exists", "key": "a"}]}},
         '{"MinAvailable":null,"Selector":{"matchExpressions":[{"key":"a","operator":"Exists"}]},'
         '"MaxUnavailable":null,"UnhealthyPodEvictionPolicy":null}'),
        ("batch_v1.SuccessPolicy", {"rules": []}, '{"Rules":null}'),
    ],
)  # fmt: skip
def test_structs(type_name: str, value: object, text: str) -> None:
    field = Field(value, [], None, "a")
    shown_as(field, type_name).invalid("why")
    assert [str(error) for error in field.errors] == [f"a: Invalid value: {text}: why"]
