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

    def as_validation(self) -> dict[str, str]:
        """The rule as an item of `x-kubernetes-validations`, whose paths can't lead into metadata."""
        validation = {"rule": self.cel, "message": self.message}
        if self.cel_message:
            validation["messageExpression"] = self.cel_message
        if self.field and not self.field.startswith("metadata"):
            validation["fieldPath"] = f".{self.field}"
        return validation


def rule(cel: str, holds: Callable[[Any], bool], message: str, field: str = "") -> Rule:
    """A rule about one field, with one message for both doors."""
    return Rule(cel, message, lambda it: [] if holds(it) else [(field, message)], field)


def transition(cel: str, message: str, field: str = "") -> Rule:
    """A rule about a change, from `oldSelf` to `self`: only the API server sees both, so Python has nothing to check."""
    return Rule(cel, message, lambda it: [], field)


def _rules_into_schema(schema: dict[str, Any], model: "type[Model]") -> None:
    if model.rules:
        schema["x-kubernetes-validations"] = [each.as_validation() for each in model.rules]


class Model(BaseModel):
    """A part of the resource: camelCase on the wire, snake_case in Python, frozen, unknown fields refused.

    Types are as strict as the API server's: "3" is no number, and there is no NaN.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_extra=_rules_into_schema,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, given: Any) -> Any:
        """`key:` with nothing after it says the same as no key, as the API server has it."""
        if not isinstance(given, dict):
            return given
        known = {field.alias for field in cls.model_fields.values()}
        return {key: value for key, value in given.items() if value is not None or key not in known}

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        if mistakes := [mistake for each in self.rules for mistake in each.mistakes(self)]:
            raise PydanticCustomError("rule", "{text}", {"text": mistakes[0][1], "mistakes": mistakes})
        return self

    @classmethod
    def read(cls, written: object) -> Self:
        """Read what a user wrote, as strictly as admission does: camelCase names alone, no unknown fields."""
        return cls.model_validate(written, by_name=False)

    @classmethod
    def read_stored(cls, stored: object) -> Self:
        """Read an object that admission has let in: fields of a newer version are ignored, not refused."""
        return cls.model_validate(stored, extra="ignore", strict=False)

    def wire(self) -> dict[str, Any]:
        """The object as it is written to YAML or the API: camelCase, unset optional fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Reported(Model):
    """A model that is only ever written by our own programs: unknown fields are a newer version's, and ignored."""

    model_config = ConfigDict(extra="ignore", strict=False, allow_inf_nan=True)


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
