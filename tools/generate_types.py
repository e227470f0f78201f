"""Generates src/navarch/api/types/<group>_<version>.py: one typed Struct per Kubernetes type.

Usage: python tools/generate_types.py
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from definitions import SPECIAL, FieldModel, TypeModel, load, reference, scalar_type

TARGET = Path(__file__).parent.parent / "src/navarch/api/types"
BUILTIN_NAMES = {"str", "int", "bool", "float", "list", "dict"}
SPECIAL_TYPES = {
    "quantity": "str",
    "int-or-string": "int | str",
    "time": "str",
    "micro-time": "str",
    "any-object": "Any",
    "any": "Any",
    "schema-or-array": "JSONSchemaProps | list[JSONSchemaProps]",
    "schema-or-bool": "JSONSchemaProps | bool",
    "schema-or-strings": "JSONSchemaProps | list[str]",
}
SCALARS = {"string": "str", "integer": "int", "boolean": "bool", "number": "float", "object": "Any"}
ZERO = {"str": '""', "int": "0", "bool": "False", "float": "0.0"}


class Module:
    """One generated file: collects its imports while its classes are rendered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.imports: dict[str, set[str]] = {}
        self.uses_any = False
        self.uses_field = False
        self.uses_builtins = False
        self.uses_class_var = False

    def python_type(self, schema: dict[str, object]) -> str:
        if target := reference(schema):
            if special := SPECIAL.get(target):
                text = SPECIAL_TYPES[special]
                self.uses_any |= text == "Any"
                return text
            *_, group, version, name = target.split(".")
            if f"{group}_{version}" != self.name:
                self.imports.setdefault(f"{group}_{version}", set()).add(name)
            return name
        kind = scalar_type(schema)
        if kind == "array":
            return f"list[{self.python_type(schema['items'])}]"  # type: ignore[arg-type]
        if kind == "object" and "additionalProperties" in schema:
            return f"dict[str, {self.python_type(schema['additionalProperties'])}]"  # type: ignore[arg-type]
        text = SCALARS[kind]
        self.uses_any |= text == "Any"
        return text

    def default(self, item: FieldModel, text: str) -> tuple[str, str]:
        """(type, default expression or factory) of a field, as Go's zero value dictates."""
        special = SPECIAL.get(reference(item.schema), "")
        if text == "Any":
            return "Any", "None"
        if text.startswith("list["):
            return text, "factory list"
        if text.startswith("dict["):
            return text, "factory dict"
        if special in ("time", "micro-time") and not item.omit_zero:
            return f"{text} | None", "None"
        if special.startswith("schema-or") or item.pointer:
            return f"{text} | None", "None"
        if special == "int-or-string":
            return text, "0"
        if text in ZERO:
            return text, ZERO[text]
        return text, f"factory {text}"

    def field_line(self, item: FieldModel, shadowed: set[str]) -> str:
        text, default = self.default(item, self.python_type(item.schema))
        if shadowed:
            pattern = rf"\b({'|'.join(shadowed)})\b"
            qualified = re.sub(pattern, r"builtins.\1", text)
            self.uses_builtins |= qualified != text
            text = qualified
        name = re.sub(r"\W", "_", item.name.lstrip("$"))
        if keyword.iskeyword(name) or item.name.startswith("$"):
            name += "_"
        arguments = []
        if default.startswith("factory "):
            factory = default.removeprefix("factory ")
            if factory in shadowed:
                factory, self.uses_builtins = f"builtins.{factory}", True
            arguments.append(f"default_factory={factory}")
        elif name != item.name:
            arguments.append(f"default={default}")
        if name != item.name:
            arguments.append(f'name="{item.name}"')
        if arguments:
            self.uses_field = True
            return f"    {name}: {text} = _field({', '.join(arguments)})"
        return f"    {name}: {text} = {default}"

    def render_class(self, model: TypeModel) -> str:
        lines = [f"class {model.name}(ApiStruct, kw_only=True):"]
        gvk = model.gvk
        if gvk is not None:
            self.uses_class_var = self.uses_field = True
            api_version = f"{gvk[0]}/{gvk[1]}" if gvk[0] else gvk[1]
            lines.append(
                f"    GROUP_VERSION_KIND: ClassVar[tuple[str, str, str]] = {gvk!r}".replace(
                    "'", '"'
                )
            )
            lines.append(f'    apiVersion: str = _field(default_factory=lambda: "{api_version}")')
            lines.append(f'    kind: str = _field(default_factory=lambda: "{gvk[2]}")')
        shadowed = BUILTIN_NAMES & {item.name for item in model.fields}
        for item in model.fields:
            if gvk is None or item.name not in ("apiVersion", "kind"):
                lines.append(self.field_line(item, shadowed))
        if len(lines) == 1:
            lines.append("    pass")
        return "\n".join(lines) + "\n"

    def render(self, models: list[TypeModel]) -> str:
        classes = [self.render_class(model) for model in ordered(models)]
        head = [
            f'"""Types of {self.name}. Generated by tools/generate_types.py."""',
            "",
            "from __future__ import annotations",
            "",
        ]
        if self.uses_builtins:
            head.append("import builtins")
        typing = [
            name
            for name, used in (("Any", self.uses_any), ("ClassVar", self.uses_class_var))
            if used
        ]
        if typing:
            head.append(f"from typing import {', '.join(typing)}")
        if self.uses_field:
            head += ["", "from msgspec import field as _field"]
        head += ["", "from navarch.api.objects import ApiStruct"]
        for module in sorted(self.imports):
            names = ", ".join(sorted(self.imports[module]))
            line = f"from navarch.api.types.{module} import {names}"
            if len(line) > 100:
                names = "".join(f"    {name},\n" for name in sorted(self.imports[module]))
                line = f"from navarch.api.types.{module} import (\n{names})"
            head.append(line)
        return "\n".join(head) + "\n\n\n" + "\n\n".join(classes)


def ordered(models: list[TypeModel]) -> list[TypeModel]:
    """Types held by value come first: their class is the default factory of the field."""
    by_definition = {model.definition: model for model in models}
    result: dict[str, TypeModel] = {}

    def visit(model: TypeModel) -> None:
        if model.definition in result:
            return
        for item in model.fields:
            target = by_definition.get(reference(item.schema))
            if target is not None and not item.pointer:
                visit(target)
        result[model.definition] = model

    for model in sorted(models, key=lambda model: model.name):
        visit(model)
    return list(result.values())


def render_all() -> dict[str, str]:
    """Every generated file by name."""
    by_module: dict[str, list[TypeModel]] = {}
    for model in load().values():
        by_module.setdefault(model.module, []).append(model)
    head = '"""Typed objects, one module per group and version; see tools/generate_types.py."""\n'
    files = {"__init__.py": head}
    for name, models in sorted(by_module.items()):
        files[f"{name}.py"] = Module(name).render(models)
    return files


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    for old in TARGET.glob("*_v*.py"):
        old.unlink()
    for name, text in render_all().items():
        (TARGET / name).write_text(text)


if __name__ == "__main__":
    main()
