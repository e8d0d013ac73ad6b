"""What all models here share: camelCase on the wire, frozen, strict about unknown fields, and rules that hold twice.

A `Rule` is written once for both doors: as CEL, which the API server evaluates at `kubectl apply`, and as a Python
predicate, which `trainyard run` and the tests evaluate. A property test holds the two against each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


Mistake = tuple[str, str]
"""(path of the field below the object that has the rule, what is wrong and what to do)"""


@dataclass(frozen=True)
class Rule:
    """A condition on one object that a schema can't express.

    `cel` and `mistakes` say the same of the object that the rule is attached to: `cel` is true where `mistakes` finds
    none. `message` is what the API server says; `cel_message`, a CEL expression, may say it with the object's figures.
    """

    cel: str
    message: str
    mistakes: Callable[[Any], list[Mistake]]
    field: str = ""
    cel_message: str = ""


def rule(cel: str, holds: Callable[[Any], bool], message: str, field: str = "") -> Rule:
    """A rule about one field, with one message for both doors."""
    return Rule(cel, message, lambda it: [] if holds(it) else [(field, message)], field)


class Model(BaseModel):
    """A part of the resource: camelCase on the wire, snake_case in Python, frozen, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid", use_attribute_docstrings=True
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        if mistakes := [mistake for each in self.rules for mistake in each.mistakes(self)]:
            raise PydanticCustomError("rule", "{text}", {"text": mistakes[0][1], "mistakes": mistakes})
        return self

    @classmethod
    def read_stored(cls, stored: object) -> Self:
        """Read an object that admission has let in: fields of a newer version are ignored, not refused."""
        return cls.model_validate(stored, extra="ignore")

    def wire(self) -> dict[str, Any]:
        """The object as it is written to YAML or the API: camelCase, unset optional fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Reported(Model):
    """A model that is only ever written by our own programs: unknown fields are a newer version's, and ignored."""

    model_config = ConfigDict(extra="ignore")


def explain_errors(error: ValidationError) -> list[str]:
    """One line for each mistake, `path.to[0].field: what is wrong and what to do`, in the field names of the YAML."""
    lines = []
    for each in error.errors():
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in each["loc"])
        text = {
            "extra_forbidden": "unknown field; remove it or correct its spelling",
            "missing": "required, but not given",
        }.get(each["type"], each["msg"])
        for field, what in each.get("ctx", {}).get("mistakes", [("", text)]):
            where = f"{path}.{field}" if field else path
            lines.append(f"{where.removeprefix('.')}: {what}" if where else what)
    return lines
