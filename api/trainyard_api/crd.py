"""The CustomResourceDefinition of TrainingRun, generated from the models, the only place where a field is defined.

`python -m trainyard_api.crd` prints it; with `--write` it also renews the two committed copies, the plain manifest and
the chart's template. A test compares them with what would be written now.

Kubernetes takes structural OpenAPI v3, pydantic gives JSON Schema 2020-12. `structural` translates the part of it that
the models use and fails on any other keyword, so that no constraint is lost in silence. Two things are left to the
API server: unknown fields, which `kubectl apply` refuses by itself (field validation is strict by default), and
defaults, which are in the schema of the spec so that rules may rely on them and a stored run keeps the values that it
began with. The status has no defaults: what the operator hasn't said isn't there.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .names import GROUP, KIND, PLURAL, VERSION
from .run import TrainingRun

MANIFEST = f"manifests/crd/{PLURAL}.{GROUP}.yaml"
TEMPLATE = "charts/trainyard/templates/crd.yaml"
HEADER = "# Generated from api/trainyard_api by `make generate`; change the models instead.\n"

COLUMNS = (
    ("Stage", "string", ".status.stage"),
    ("Phase", "string", ".status.phase"),
    ("Reason", "string", ".status.reason"),
    ("Step", "integer", ".status.progress.step"),
    ("Loss", "number", ".status.progress.loss"),
    ("Checkpoint", "integer", ".status.checkpoint.step"),
    ("Restarts", "integer", ".status.restarts.total"),
    ("Workers", "integer", ".status.workers.ready"),
    ("Age", "date", ".metadata.creationTimestamp"),
)
"""(heading, type, path) of what `kubectl get trainingruns` prints."""

KEPT = {
    "description",
    "enum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-validations",
}
"""Keywords that mean the same in both languages, or are Kubernetes' own."""

Schema = dict[str, Any]


class UntranslatableError(ValueError):
    """A model uses something that has no translation yet; the text names the field and the keyword."""


def structural(schema: Schema, definitions: dict[str, Schema], path: str, defaults: bool) -> Schema:
    """Translate pydantic's JSON Schema of the field `path` to a structural schema, with or without defaults."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].removeprefix("#/$defs/")]
        here = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
        return structural(target | here, definitions, path, defaults)
    if "anyOf" in schema:
        choices = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
        if len(choices) != 1:
            raise UntranslatableError(f"{path}: anyOf of several types; a field has one type, or one type or null")
        here = {keyword: value for keyword, value in schema.items() if keyword != "anyOf"}
        return structural(choices[0] | here, definitions, path, defaults)

    result: Schema = {}
    for keyword, value in schema.items():
        match keyword:
            case "title":
                pass  # the field's name once more
            case _ if keyword in KEPT:
                result[keyword] = value
            case "const":
                result["enum"] = [value]
            case "exclusiveMinimum":
                result |= {"minimum": value, "exclusiveMinimum": True}
            case "exclusiveMaximum":
                result |= {"maximum": value, "exclusiveMaximum": True}
            case "items":
                result["items"] = structural(value, definitions, f"{path}[]", defaults)
            case "properties":
                result["properties"] = {
                    name: structural(field, definitions, f"{path}.{name}", defaults) for name, field in value.items()
                }
            case "additionalProperties" if value is False:
                pass  # pruning, and strict field validation, do it
            case "additionalProperties" if value is True:
                result["x-kubernetes-preserve-unknown-fields"] = True
            case "additionalProperties":
                result["additionalProperties"] = structural(value, definitions, f"{path}.*", defaults)
            case "default":
                pass  # below, when the properties are known
            case _:
                raise UntranslatableError(f"{path}: no translation for {keyword!r}; add one to trainyard_api.crd")
    if defaults and schema.get("default") is not None:
        result["default"] = _default(schema["default"], result, path)
    return result


def _default(value: Any, schema: Schema, path: str) -> Any:
    """The default of a field. That of a section is empty, for the section's own fields have their defaults."""
    if "properties" not in schema:
        return value
    own = {name: field["default"] for name, field in schema["properties"].items() if "default" in field}
    given = {name: each for name, each in value.items() if each is not None}
    if any(each != own.get(name) and own.get(name) != {} for name, each in given.items()):
        raise UntranslatableError(f"{path}: the default differs from those of its own fields; make them the same")
    return {}


def custom_resource_definition() -> Schema:
    """The CRD as an object."""
    source = TrainingRun.model_json_schema(by_alias=True)
    definitions = source["$defs"]
    fields = source["properties"]
    schema = {
        "type": "object",
        "description": source["description"],
        "required": ["spec"],
        "x-kubernetes-validations": source["x-kubernetes-validations"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(fields["spec"], definitions, "spec", defaults=True),
            "status": structural(fields["status"], definitions, "status", defaults=False),
        },
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": name, "type": kind, "jsonPath": path} for name, kind, path in COLUMNS],
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["tr"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def _scalar(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and "." not in text:
        return text.replace("e", ".0e")  # YAML 1.1 takes 1e-08 for a string
    return text


def _yaml_lines(value: Any, indent: str) -> Iterator[str]:
    """YAML in block style; strings as JSON writes them, which YAML reads the same."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            if isinstance(each, dict | list) and each:
                yield f"{indent}{key}:"
                yield from _yaml_lines(each, f"{indent}  ")
            else:
                yield f"{indent}{key}: {_scalar(each)}"
    elif isinstance(value, list) and value:
        for each in value:
            first, *rest = _yaml_lines(each, f"{indent}  ")
            yield f"{indent}- {first.strip()}"
            yield from rest
    else:
        yield f"{indent}{_scalar(value)}"


def to_yaml(value: Schema) -> str:
    """YAML of a JSON object, without a YAML library: this package imports pydantic alone."""
    return "\n".join(_yaml_lines(value, "")) + "\n"


def chart_template(crd: Schema) -> str:
    """The chart's copy: only with `crds.install`; with `crds.keep` an uninstall leaves it, and so all runs."""
    text = to_yaml(crd).replace("{{", "{{ `{{` }}")
    name = f"  name: {json.dumps(crd['metadata']['name'])}\n"
    keep = "  {{- if .Values.crds.keep }}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{- end }}\n"
    return "{{- if .Values.crds.install }}\n" + HEADER + text.replace(name, name + keep, 1) + "{{- end }}\n"


def generated_files() -> dict[str, str]:
    """Path below the root of the repository → what it must hold."""
    crd = custom_resource_definition()
    return {MANIFEST: HEADER + to_yaml(crd), TEMPLATE: chart_template(crd)}


def main() -> None:
    """Print the CRD, or write the committed copies."""
    parser = argparse.ArgumentParser(description="Generate the CRD of TrainingRun from the models.")
    parser.add_argument("--write", action="store_true", help="write the committed copies, from the repository's root")
    if not parser.parse_args().write:
        print(to_yaml(custom_resource_definition()), end="")
        return
    for name, text in generated_files().items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
