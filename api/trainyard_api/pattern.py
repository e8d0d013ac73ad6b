"""Regular expressions that users give and the operator runs: matched in time linear in the text, whatever the pattern.

They go through the engine that pydantic brings (Rust's `regex`), whose syntax is that of RE2, which the API server checks
them with: no look-around, no back-references. Python's own `re` needs 2ⁿ steps for `(a+)+$`, and no bound on lengths helps.
"""

from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, core_schema

MAX_PATTERN = 256
MAX_TEXT = 16_384
"""Characters that are searched, from the end: what a process says last is why it ended."""


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern))


def mistake(pattern: str) -> str | None:
    """What is wrong with a pattern, or None."""
    try:
        _compiled(pattern)
    except SchemaError as error:
        return str(error).strip().splitlines()[-1].removeprefix("error: ").strip()
    return None


def found(pattern: str, text: str) -> bool:
    """Whether the pattern matches anywhere in the text."""
    return bool(_compiled(pattern).isinstance_python(text[-MAX_TEXT:]))
