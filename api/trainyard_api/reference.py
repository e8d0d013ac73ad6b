"""The reference of every field that a user may write, as Markdown, from the same schema that the CRD holds.

`python -m trainyard_api.reference` prints it; with `--write` it renews docs/reference.md, which a test compares.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from .checkpoint_settings import AUTO
from .crd import Schema, custom_resource_definition

REFERENCE = "docs/reference.md"
INTRODUCTION = """# Reference of TrainingRun

Generated from api/trainyard_api by `make generate`; `kubectl explain trainingrun.spec` says the same. A field without
default may be left out unless it is *required*. A free section is handed on as it is.
"""


def _kind(field: Schema) -> str:
    if "enum" in field:
        return "one of " + ", ".join(f"`{choice}`" for choice in field["enum"])
    if "x-kubernetes-int-or-string" in field:
        return "integer or `auto`" if field["pattern"] == AUTO else "quantity"
    if field["type"] == "array":
        items = field["items"]
        if "enum" in items:
            return f"list of {_kind(items).removeprefix('one of ')}"
        return "list of sections" if "properties" in items else f"list of {_kind(items)}s"
    if "x-kubernetes-preserve-unknown-fields" in field:
        return "free section"
    return {"object": "section"}.get(field["type"], str(field["type"]))


def _bounds(field: Schema) -> str:
    if field.get("pattern") == AUTO:
        field = {bound: field[bound] for bound in ("minimum", "maximum")}
    bounds = []
    for bound, flag, inclusive, exclusive in (
        ("minimum", "exclusiveMinimum", "≥", ">"),
        ("maximum", "exclusiveMaximum", "≤", "<"),
    ):
        if bound in field and "pattern" not in field:
            bounds.append(f"{exclusive if field.get(flag) else inclusive} {field[bound]:,}")
    for least, most, unit in (
        ("minItems", "maxItems", "items"),
        ("minLength", "maxLength", "characters"),
        ("minProperties", "maxProperties", "keys"),
    ):
        if most in field:
            low = f"{field[least]} to " if least in field else "at most "
            bounds.append(f"{low}{field[most]:,} {unit}")
    if "pattern" in field:
        bounds.append("`" + field["pattern"].replace("|", "\\|") + "`")
    return ", ".join(bounds)


def _sections(section: Schema, path: str) -> Iterator[str]:
    """The table of a section, then those of the sections in it."""
    yield f"\n## {path}\n\n{section['description']}\n"
    yield "| field | type | default | bounds | meaning |\n|---|---|---|---|---|"
    inner = []
    for name, field in section["properties"].items():
        default = "*required*" if name in section.get("required", ()) else ""
        if field.get("default") not in (None, {}):
            default = f"`{json.dumps(field['default'])}`"
        words = " ".join(field.get("description", "").split()).replace("|", "\\|")
        yield f"| `{name}` | {_kind(field)} | {default} | {_bounds(field)} | {words} |"
        below = field.get("items", field)
        if "properties" in below and "x-kubernetes-preserve-unknown-fields" not in below:
            inner.append((below, f"{path}.{name}" + ("[]" if below is not field else "")))
    if rules := [rule["message"] for rule in section.get("x-kubernetes-validations", [])]:
        yield "\nRules:\n"
        yield from (f"- {rule}" for rule in rules)
    for below, below_path in inner:
        yield from _sections(below, below_path)


def reference() -> str:
    """The whole page."""
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return INTRODUCTION + "\n".join(_sections(schema["properties"]["spec"], "spec")) + "\n"


def main() -> None:
    """Print the reference, or write the committed page."""
    parser = argparse.ArgumentParser(description="Generate the reference of TrainingRun from the models.")
    parser.add_argument("--write", action="store_true", help="write the committed page, from the repository's root")
    if not parser.parse_args().write:
        print(reference(), end="")
        return
    path = Path(REFERENCE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(reference(), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
