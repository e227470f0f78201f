"""CEL in authentication: claims become parts of a user, or say that a token is not wanted.

`claims` is a map of whatever the token says; `user` has the declared fields of a user, so that a
misspelt one does not compile. (KEP-3331)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from navarch.api.cel.environment import Environment, Program
from navarch.api.cel.errors import CelError
from navarch.api.cel.library import NEW, base_environment
from navarch.api.cel.types import BOOL, DYN, STRING, list_of, map_of, object_type
from navarch.apiserver.authentication.configuration import JwtIssuer
from navarch.apiserver.configuration_file import ConfigurationError
from navarch.apiserver.contracts import UserInfo

_STRINGS = list_of(STRING)
_TEXT_OR_TEXTS = (STRING, _STRINGS, DYN, list_of(DYN))
_USER = object_type(
    "kubernetes.UserInfo",
    {"username": STRING, "uid": STRING, "groups": _STRINGS, "extra": map_of(STRING, _STRINGS)},
)
_EMAIL_RULE = (
    "claims.email_verified must be used in claimMappings.username.expression or "
    "claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when "
    "claims.email is used in claimMappings.username.expression"
)


class ExpressionFailed(Exception):
    """An expression could not be evaluated, or its value is of a wrong type."""


@cache
def _environment(name: str) -> Environment:
    kind = map_of(STRING, DYN) if name == "claims" else _USER
    return base_environment(NEW).extend(variables={name: kind})


class ClaimExpressions:
    """The compiled expressions of one issuer. Raises ConfigurationError when one does not compile
    or says something that is not safe."""

    def __init__(self, config: JwtIssuer) -> None:
        mappings = config.claimMappings
        self.username = _program("claims", mappings.username.expression, (STRING, DYN))
        self.groups = _program("claims", mappings.groups.expression, _TEXT_OR_TEXTS)
        self.uid = _program("claims", mappings.uid.expression, (STRING, DYN))
        self.extra = {
            each.key: _required("claims", each.valueExpression, _TEXT_OR_TEXTS)
            for each in mappings.extra
        }
        self.claim_rules = [
            (_required("claims", rule.expression, (BOOL,)), rule.message)
            for rule in config.claimValidationRules
            if rule.expression
        ]
        self.user_rules = [
            (_required("user", rule.expression, (BOOL,)), rule.message)
            for rule in config.userValidationRules
        ]
        self._check_email(config)

    def _check_email(self, config: JwtIssuer) -> None:
        """Anybody can claim an address: who takes it for a name has to look whether it was
        verified."""
        named = config.claimMappings.username.expression
        if not _mentions(named, "email"):
            return
        rules = [rule.expression for rule in config.claimValidationRules]
        extra = [each.valueExpression for each in config.claimMappings.extra]
        if not any(_mentions(each, "email_verified") for each in (named, *rules, *extra)):
            raise ConfigurationError(_EMAIL_RULE)


def _mentions(expression: str, claim: str) -> bool:
    """Whether an expression selects a claim (`claims.email`, `claims.?email`)."""
    return re.search(rf"\bclaims\s*\.\s*\??\s*{claim}\b(?!\s*\()", expression) is not None


def _program(name: str, expression: str, results: tuple[Any, ...]) -> Program | None:
    return _required(name, expression, results) if expression else None


def _required(name: str, expression: str, results: tuple[Any, ...]) -> Program:
    try:
        return _environment(name).compile(expression, results)
    except CelError as error:
        raise ConfigurationError(
            f"expression {expression!r}: compilation failed: {error}"
        ) from None


def evaluate(program: Program, variables: Mapping[str, Any]) -> Any:
    """Raises ExpressionFailed."""
    try:
        return program.evaluate(variables).value
    except CelError as error:
        raise ExpressionFailed(
            f"expression '{program.source}' resulted in error: {error}"
        ) from None


def evaluate_text(program: Program, variables: Mapping[str, Any], what: str) -> str:
    value = evaluate(program, variables)
    if not isinstance(value, str):
        raise ExpressionFailed(f"{what} claim expression must return a string")
    return value


def evaluate_texts(program: Program, variables: Mapping[str, Any]) -> list[str]:
    """A string or a list of them as a list; nothing, and empty strings, say nothing."""
    value = evaluate(program, variables)
    found = [value] if isinstance(value, str) else value
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ExpressionFailed("expression must return a string or a list of strings")
    return [each for each in found if each]


def check_rules(rules: list[tuple[Program, str]], variables: Mapping[str, Any]) -> None:
    for program, message in rules:
        if evaluate(program, variables) is not True:
            told = message or f"validation expression '{program.source}' failed"
            text = (
                f"validation expression '{program.source}' failed: {message}" if message else told
            )
            raise ExpressionFailed(text)


def user_value(user: UserInfo) -> dict[str, Any]:
    """A user as expressions see it."""
    return {
        "username": user.name,
        "uid": user.uid,
        "groups": list(user.groups),
        "extra": {key: list(values) for key, values in user.extra.items()},
    }
