"""The generated CRD: the committed copies are current, nothing is lost in translation, and everything is bounded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from trainyard_api.crd import (
    UntranslatableError,
    custom_resource_definition,
    generated_files,
    structural,
    to_yaml,
)
from trainyard_api.reference import REFERENCE, reference
from trainyard_api.rules import LONGEST, REFERENCES

ROOT = Path(__file__).parents[3]
VERSION = custom_resource_definition()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]


@pytest.mark.parametrize(("name", "text"), generated_files().items())
def test_the_committed_copy_is_what_the_models_say(name: str, text: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name} is out of date; run `make generate`"


def test_the_written_yaml_reads_as_the_object() -> None:
    crd = custom_resource_definition()
    assert yaml.safe_load(to_yaml(crd)) == crd


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, field, _ in REFERENCES if "[]" in field])
def test_rules_look_at_as_many_items_as_a_list_may_have(kind: str, field: str) -> None:
    found, path = (
        SCHEMA["properties"]["spec"]["properties"]["stages"]["items"]["properties"][kind],
        field.partition("[]")[0],
    )
    for name in path.split("."):
        found = found["properties"][name]
    assert found["maxItems"] == LONGEST[path]


TRANSLATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an optional field is its type": ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string"}),
    "titles are dropped": ({"type": "integer", "title": "Steps"}, {"type": "integer"}),
    "one allowed value is an enum": ({"type": "string", "const": "x"}, {"type": "string", "enum": ["x"]}),
    "an exclusive bound is a bound and a flag": (
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 1, "exclusiveMaximum": True},
    ),
    "a free section keeps its unknown fields": (
        {"type": "object", "additionalProperties": True, "default": {}},
        {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "default": {}},
    ),
    "a map keeps the type of its values": (
        {"type": "object", "additionalProperties": {"type": "number", "title": "X"}},
        {"type": "object", "additionalProperties": {"type": "number"}},
    ),
    "a reference is replaced, and the field's own words win": (
        {"$ref": "#/$defs/Count", "description": "Pods."},
        {"type": "integer", "minimum": 1, "description": "Pods."},
    ),
    "the default of a section is that of its fields": (
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {"count": {"type": "integer", "default": 1}},
            "default": {"count": 1},
        },
        {"type": "object", "properties": {"count": {"type": "integer", "default": 1}}, "default": {}},
    ),
}


@pytest.mark.parametrize(("source", "expected"), TRANSLATIONS.values(), ids=TRANSLATIONS.keys())
def test_a_keyword_is_translated(source: dict[str, Any], expected: dict[str, Any]) -> None:
    definitions = {"Count": {"type": "integer", "minimum": 1, "description": "A number."}}
    assert structural(source, definitions, "spec", defaults=True) == expected


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ({"type": "object", "properties": {"a": {"type": "array", "prefixItems": []}}}, r"spec\.a: .*'prefixItems'"),
        ({"type": "array", "items": {"type": "number", "multipleOf": 2}}, r"spec\[\]: .*'multipleOf'"),
        ({"type": "string", "format": "date-time"}, r"spec: .*'format'"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, r"spec: anyOf"),
        ({"type": "object", "properties": {"n": {"default": 1}}, "default": {"n": 2}}, r"spec: the default differs"),
    ],
)
def test_a_keyword_without_translation_fails_and_is_named(source: dict[str, Any], named: str) -> None:
    with pytest.raises(UntranslatableError, match=named):
        structural(source, {}, "spec", defaults=True)


def test_the_status_has_no_defaults() -> None:
    assert structural({"type": "integer", "default": 0}, {}, "status", defaults=False) == {"type": "integer"}
    assert [path for path, field in _fields(SCHEMA["properties"]["status"], "status") if "default" in field] == []


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each schema below this one, with its path."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from _fields(field, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield from _fields(schema[keyword], f"{path}[]")


OWNED = {"optimizer", "scheduler", "model_type", "vocab_size"}
"""Fields that are declared only to be refused."""


def test_everything_that_a_user_may_write_is_bounded() -> None:
    """Else the API server takes the rules for too dear, and a single run could fill etcd."""
    bounds = {"string": "maxLength", "array": "maxItems", "integer": "maximum", "number": "maximum"}
    unbounded = [
        path
        for path, field in _fields(SCHEMA["properties"]["spec"], "spec")
        if (bound := bounds.get(field.get("type", ""))) and bound not in field and "enum" not in field
        if not field.get("description", "").startswith("Decided by Trainyard")
    ]
    free = [
        path
        for path, field in _fields(SCHEMA["properties"]["spec"], "spec")
        if field.get("x-kubernetes-preserve-unknown-fields") and "maxProperties" not in field
        if path.rsplit(".", 1)[-1] not in OWNED
    ]
    assert (unbounded, free) == ([], [])


def test_every_field_that_a_user_may_write_is_explained() -> None:
    spec = _fields(SCHEMA["properties"]["spec"], "spec")
    assert [path for path, field in spec if "description" not in field and not path.endswith("[]")] == []


def test_the_committed_reference_is_what_the_models_say() -> None:
    assert (ROOT / REFERENCE).read_text(encoding="utf-8") == reference(), "out of date; run `make generate`"


def test_kubectl_prints_these_columns() -> None:
    columns = [column["name"].upper() for column in VERSION["additionalPrinterColumns"]]
    assert columns == ["STAGE", "PHASE", "REASON", "STEP", "LOSS", "CHECKPOINT", "RESTARTS", "WORKERS", "AGE"]


def test_each_column_shows_a_field_of_the_status() -> None:
    known = {f".{path}" for path, _ in _fields(SCHEMA["properties"]["status"], "status")}
    shown = {column["jsonPath"] for column in VERSION["additionalPrinterColumns"]}
    assert shown - known == {".metadata.creationTimestamp"}


def test_attempts_only_grow() -> None:
    rules = {
        path: [each["rule"] for each in field.get("x-kubernetes-validations", [])]
        for path, field in _fields(SCHEMA, "")
    }
    assert any("self.attempt >= oldSelf.attempt" in each for each in rules[".status"])
