"""What the API server admits, the models accept, and the reverse: no run is admitted that the operator can't read.

The API server's side is the generated CRD, applied as it does: fields must be known (strict field validation), nulls
are dropped, the structural part is checked by `jsonschema`, defaults are filled in, and then each CEL rule is evaluated
by a CEL interpreter. Runs start valid and then get slips and mutations, so that most lie near the border.
"""

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import cel
import jsonschema
from cel.stdlib import add_stdlib_to_context
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from kind.bad_rewards import BAD_REWARDS
from kind.bad_specs import BAD_SPECS, GOOD, changed
from pydantic import ValidationError
from trainyard_api.crd import custom_resource_definition
from trainyard_api.model import explain_errors
from trainyard_api.objectives import ModelType, Objective
from trainyard_api.run import TrainingRun
from trainyard_api.stages import KINDS
from trainyard_api.training_stages import DEEPSPEED_OWNED, MODEL_OWNED

Schema = dict[str, Any]
SCHEMA: Schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC: Schema = SCHEMA["properties"]["spec"]


# The API server's side


def as_json_schema(schema: Schema) -> Schema:
    """A structural schema in the JSON Schema that `jsonschema` checks."""
    result = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-") and key != "default"}
    if schema.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    for bound, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if result.pop(flag, False):
            result[flag] = result.pop(bound)
    if "pattern" in result:
        result["pattern"] = result["pattern"].replace("$", r"\Z")  # Python's $ lets a last newline pass; Go's doesn't
    if "properties" in result:
        result["properties"] = {name: as_json_schema(field) for name, field in result["properties"].items()}
        free = schema.get("x-kubernetes-preserve-unknown-fields", False)
        result["additionalProperties"] = free
    if "items" in result:
        result["items"] = as_json_schema(result["items"])
    return result


TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
STRUCTURE = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=TYPES)(as_json_schema(SPEC))


def without_nulls(value: Any, schema: Schema) -> Any:
    """The value as the API server sees it: a null in a known field is no field."""
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        return {
            name: without_nulls(each, known.get(name, {}))
            for name, each in value.items()
            if each is not None or name not in known
        }
    if isinstance(value, list) and "items" in schema:
        return [without_nulls(each, schema["items"]) for each in value]
    return value


def with_defaults(value: Any, schema: Schema) -> Any:
    """The value with the schema's defaults, at every depth."""
    if isinstance(value, dict) and "properties" in schema:
        defaults = {name: field["default"] for name, field in schema["properties"].items() if "default" in field}
        return {
            name: with_defaults(each, schema["properties"].get(name, {})) for name, each in (defaults | value).items()
        }
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(each, schema["items"]) for each in value]
    return value


@cache
def compiled(rule: str) -> cel.Program:
    return cel.compile(rule)


def holds(rule: str, context: cel.Context) -> bool:
    """Whether a rule is true; one that can't be evaluated is broken, as a pattern that is none makes it."""
    try:
        return compiled(rule).execute(context) is True
    except RuntimeError:
        return False


def broken_rules(value: Any, schema: Schema) -> Iterator[str]:
    """Messages of the CEL rules that don't hold, at every depth. Rules about a change need an old object."""
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"]:
            continue
        context = cel.Context()
        add_stdlib_to_context(context)
        context.add_variable("self", value)
        if not holds(rule["rule"], context):
            yield rule["message"]
    if isinstance(value, dict):
        for name, field in schema.get("properties", {}).items():
            if name in value:
                yield from broken_rules(value[name], field)
    if isinstance(value, list):
        for each in value:
            yield from broken_rules(each, schema["items"])


def refused_by_api_server(manifest: dict[str, Any]) -> list[str]:
    """Why the API server refuses a run; empty if it doesn't."""
    manifest = without_nulls(manifest, SCHEMA)
    if wrong := [f"{error.json_path}: {error.message}" for error in STRUCTURE.iter_errors(manifest["spec"])]:
        return wrong
    return list(broken_rules(with_defaults(manifest, SCHEMA), SCHEMA))


def refused_by_models(manifest: dict[str, Any]) -> list[str]:
    """Why the models refuse a run; empty if they don't."""
    try:
        TrainingRun.read(manifest)
    except ValidationError as error:
        return explain_errors(error)
    return []


def defaults(schema: Schema, path: str = "spec") -> Iterator[tuple[str, Any, Schema]]:
    """Every default, with its path and its schema."""
    for name, field in schema.get("properties", {}).items():
        if "default" in field:
            yield f"{path}.{name}", field["default"], field
        yield from defaults(field, f"{path}.{name}")
    if "items" in schema:
        yield from defaults(schema["items"], f"{path}[]")


def test_rules_hold_of_each_default_without_the_defaults_within_it() -> None:
    """Else the API server refuses the CRD: that is how it judges them."""
    assert [(path, list(broken_rules(value, field))) for path, value, field in defaults(SPEC)] == [
        (path, []) for path, _, _ in defaults(SPEC)
    ]


# Runs on both sides of the border

NUMBERS = (True, -1, 0, 1, 2, 3, 7, 64, 65, 2**31, 2**62, 0.5, -0.5, 11.5, 1e300)
TEXTS = (
    "",
    "x",
    "3",
    "A-",
    "a\n",
    "ünïcode",
    "x" * 31,
    "x" * 300,
    "corpus",
    "base",
    "prepare",
    "auto",
    "jsonl",
    "llama",
)
LIKE_TEXTS = ("1Gi", "0.5", "1GiB", "file:///", "file:///x")
PARTS = ([], {}, ["x"], [None], {"count": 2}, {"x": 1}, {"path": "x"}, {"gpus": 2, "processes": 3})
VALUES = st.sampled_from((None, *NUMBERS, *TEXTS, *LIKE_TEXTS, *PARTS))


@st.composite
def in_bounds(draw: st.DrawFn, schema: Schema) -> dict[str, Any]:
    """Some of a section's optional numbers and choices, each within its bounds."""
    values: dict[str, Any] = {}
    for name, field in schema["properties"].items():
        if name in schema.get("required", ()) or draw(st.integers(0, 3)):
            continue
        match field:
            case {"enum": choices}:
                values[name] = draw(st.sampled_from(choices))
            case {"type": "integer", "minimum": low, "maximum": high}:
                values[name] = draw(st.sampled_from([low, low + 1, high]) | st.integers(low, high))
            case {"type": "number", "minimum": low, "maximum": high}:
                values[name] = draw(
                    st.floats(
                        low,
                        high,
                        exclude_min=field.get("exclusiveMinimum", False),
                        exclude_max=field.get("exclusiveMaximum", False),
                    )
                )
            case {"type": "object", "properties": _} if "x-kubernetes-preserve-unknown-fields" not in field:
                if "required" not in field:
                    values[name] = draw(in_bounds(field))
    return values


STAGE_FIELDS: Schema = SPEC["properties"]["stages"]["items"]["properties"]


LARGEST_BATCH = 1_048_576
FROM_SCRATCH = {"type": "gpt2", "config": {"n_embd": 8}}


def mixtures(prepares: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    weights = st.integers(1, 10_000)
    names = st.permutations(prepares).flatmap(
        lambda order: st.sampled_from([order[: n + 1] for n in range(len(order))])
    )
    return names.flatmap(
        lambda parts: st.tuples(*([weights] * len(parts))).map(
            lambda given: {
                "mixture": [{"data": name, "weight": weight} for name, weight in zip(parts, given, strict=True)]
            }
        )
    )


def failure_rules(stages: list[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
    conditions = {
        "causes": st.lists(st.sampled_from(["ProcessFailed", "NodeLost"]), min_size=1, max_size=2),
        "exitCodes": st.lists(st.integers(1, 255), min_size=1, max_size=2),
        "message": st.sampled_from(["Xid", "(?i)out of memory$", r"^E\w+: .*\d{3}"]),
        "stages": st.lists(st.sampled_from(stages), min_size=1, max_size=2),
    }
    actions = st.sampled_from(["Restart", "RestartExcludingNode", "Fail", "Ignore"])
    rule = st.fixed_dictionaries({"action": actions}, optional=conditions).filter(lambda given: len(given) > 1)
    return st.lists(rule, min_size=1, max_size=2)


@st.composite
def valid_runs(draw: st.DrawFn) -> dict[str, Any]:
    """Runs that are right, with one to three preparations and trainings and what follows from them."""
    spec = draw(in_bounds(SPEC))
    workers = draw(st.sampled_from([{}, {"workers": {"count": 2}}, {"resources": {"gpus": 3}}]))
    ranks = workers.get("resources", spec.get("resources", {})).get("gpus") or workers.get(
        "resources", spec.get("resources", {})
    ).get("processes", 1)
    ranks *= workers.get("workers", spec.get("workers", {})).get("count", 1)
    assume(ranks * 4 * 3 <= LARGEST_BATCH)
    prepares = [f"corpus{i}" if i else "corpus" for i in range(draw(st.integers(1, 2)))]
    trainings = [f"base{i}" if i else "base" for i in range(draw(st.sampled_from([1, 2, 0])))]
    stages: list[dict[str, Any]] = [
        {"name": name, "prepare": draw(in_bounds(STAGE_FIELDS["prepare"])) | {"sources": [{"path": "texts"}]}}
        for name in prepares
    ]
    for number, stage in enumerate(stages):
        if number and draw(st.booleans()):
            stage["prepare"]["tokenizer"] = {"stage": draw(st.sampled_from(prepares[:number]))}
    for number, name in enumerate(trainings):
        pretrain = draw(in_bounds(STAGE_FIELDS["pretrain"])) | {
            **draw(st.sampled_from([{"data": each} for each in prepares]) | mixtures(prepares)),
            "model": draw(st.sampled_from([FROM_SCRATCH, *({"stage": each} for each in trainings[:number])])),
            "steps": draw(st.integers(1, 1000)),
            "microBatch": draw(st.integers(1, 4)),
        }
        if "decaySteps" in pretrain.get("schedule", {}):
            pretrain["schedule"]["shape"] = "WarmupStableDecay"
        if "objective" in pretrain and "type" in pretrain["model"]:
            pretrain["objective"] = "NextToken"
        if (checkpoint := pretrain.get("checkpoint", {})).get("keepEvery"):
            checkpoint["everySteps"] = draw(st.integers(1, 50))
            checkpoint["keepEvery"] = checkpoint["everySteps"] * draw(st.integers(1, 3))
        if checkpoint.get("keepBest"):
            checkpoint["everySteps"] = min(checkpoint.get("everySteps") or draw(st.integers(1, 50)), 1_000_000)
            pretrain["validation"] = {"everySteps": checkpoint["everySteps"] * draw(st.integers(1, 3))}
        pretrain |= {"sequenceParallel": 1, "tensorParallel": 1}
        pretrain[draw(st.sampled_from(["sequenceParallel", "tensorParallel"]))] = shared = draw(
            st.sampled_from([1, ranks])
        )
        pretrain["sequenceLength"] = 8 * ranks * draw(st.integers(1, 3))
        pretrain["globalBatch"] = ranks // shared * pretrain["microBatch"] * draw(st.integers(1, 3))
        stages.append({"name": name, "pretrain": pretrain} | workers)
    for i in range(draw(st.integers(0, 2)) if trainings else 0):
        evaluate = {"model": draw(st.sampled_from(trainings)), "data": draw(st.sampled_from(prepares))}
        stages.append(
            {"name": f"report{i}", "evaluate": draw(in_bounds(STAGE_FIELDS["evaluate"])) | evaluate}
            if draw(st.booleans())
            else {"name": f"folder{i}", "export": {"model": evaluate["model"]}}
        )
    if draw(st.booleans()):
        rules = draw(failure_rules([stage["name"] for stage in stages]))
        spec["recovery"] = spec.get("recovery", {}) | {"rules": rules}
    return copy.deepcopy(GOOD) | {"spec": spec | {"stages": stages}}


def places(value: Any, schema: Schema) -> Iterator[tuple[Any, Schema]]:
    """Each object and list in a run, with its schema."""
    if isinstance(value, dict):
        yield value, schema
        for name, each in value.items():
            yield from places(each, schema.get("properties", {}).get(name, {}))
    if isinstance(value, list):
        yield value, schema
        for each in value:
            yield from places(each, schema.get("items", {}))


NAMES = ("a", "a-", "-a", "my.run", "1st", "r" * 43, "r" * 44, "r" * 45, "r" * 60, "ends-1")


@st.composite
def slipped(draw: st.DrawFn, manifest: dict[str, Any]) -> dict[str, Any]:
    """The run with a slip of the kind that rules are for: a reference, an order, a number that must fit others."""
    manifest = copy.deepcopy(manifest)
    stages = manifest["spec"]["stages"]
    names = [stage["name"] for stage in stages]
    here, there = draw(st.integers(0, len(stages) - 1)), draw(st.integers(0, len(stages) - 1))
    stage = stages[here]
    kind, section = next((kind, stage[kind]) for kind in KINDS if kind in stage)
    slip = draw(
        st.sampled_from(
            (
                "name",
                "swap",
                "refer",
                "batch",
                "share",
                "keep",
                "workers",
                "kind",
                "owned",
                "rename",
                "rule",
                "objective",
            )
        )
    )
    if slip == "name":
        manifest["metadata"]["name"] = draw(st.sampled_from(NAMES))
    elif slip == "swap":
        stages[here], stages[there] = stages[there], stages[here]
    elif slip == "refer":
        nested = [section.get("tokenizer"), section.get("model"), *section.get("mixture", [])]
        for place in (section, *(each for each in nested if isinstance(each, dict))):
            for field in {"data", "model", "stage"} & set(place):
                if isinstance(place[field], str) and draw(st.booleans()):
                    place[field] = draw(st.sampled_from([*names, "nowhere"]))
    elif slip == "batch" and kind == "pretrain":
        section["globalBatch"] += draw(st.sampled_from([1, section["globalBatch"], section["microBatch"]]))
    elif slip == "share" and kind == "pretrain":
        section[draw(st.sampled_from(["sequenceParallel", "tensorParallel"]))] = draw(st.integers(1, 4))
    elif slip == "keep" and kind == "pretrain":
        section["checkpoint"] = {
            draw(st.sampled_from(("everySteps", "everySeconds"))): draw(st.integers(1, 4)),
            draw(st.sampled_from(("keepEvery", "keepBest"))): draw(st.integers(1, 8)) * draw(st.sampled_from((1, 100))),
        }
        section["validation"] = {"everySteps": draw(st.integers(1, 8))}
    elif slip == "objective" and kind == "pretrain":
        section["objective"] = draw(st.sampled_from(get_args(Objective)))
        section["model"] = {"type": draw(st.sampled_from(get_args(ModelType)))}
    elif slip == "workers":
        stage["workers"] = {"count": draw(st.integers(1, 3))}
    elif slip == "kind":
        stage |= {each: stages[there][each] for each in KINDS if each in stages[there]}
    elif slip == "owned" and kind == "pretrain":
        if draw(st.integers(0, 2)):
            section["deepspeed"] = {draw(st.sampled_from([*DEEPSPEED_OWNED, "bf16"])): draw(OWNED_VALUES)}
        else:
            section["model"]["config"] = {draw(st.sampled_from([*MODEL_OWNED, "n_head"])): draw(OWNED_VALUES)}
    elif slip == "rule" and (rules := manifest["spec"].get("recovery", {}).get("rules")):
        condition = {"message": draw(PATTERNS), "stages": [*names, "nowhere"][: draw(st.integers(1, 9))]}
        given = draw(st.sampled_from([[], ["message"], ["stages"]]))
        rules[0] = {"action": "Fail"} | {key: condition[key] for key in given}
    elif slip == "rename":
        stage["name"] = draw(st.sampled_from([*names, "r" * 30]))
    return manifest


PATTERNS = st.sampled_from(
    ("x", "(", ")", "[", "a**", "(?=x)", "(?<!x)y", r"(x)\1", "(?P<n>x)", r"\d+", "x{2,1}", "é", "|")
)
OWNED_VALUES = st.sampled_from((None, 1, "auto", {"type": "Adam"}))


@st.composite
def mutated(draw: st.DrawFn, manifest: dict[str, Any]) -> dict[str, Any]:
    """The run with one thing dropped, replaced, added, repeated or moved, wherever it be."""
    manifest = copy.deepcopy(manifest)
    place, schema = draw(st.sampled_from(list(places(manifest["spec"], SPEC))))
    if isinstance(place, list):
        change = draw(st.sampled_from(["drop", "repeat", "reverse", "add"]))
        if change == "add":
            place.append(draw(VALUES))
        elif change == "reverse":
            place.reverse()
        elif place and change == "drop":
            place.pop(draw(st.integers(0, len(place) - 1)))
        elif place:
            place.append(copy.deepcopy(draw(st.sampled_from(place))))
        return manifest
    known = [*schema.get("properties", {}), "unknown"]
    key = draw(st.sampled_from(known + list(place) * 2))
    if key in place and draw(st.booleans()):
        del place[key]
    else:
        place[key] = draw(VALUES)
    return manifest


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """Right runs, and runs that are a little wrong."""
    manifest = draw(valid_runs())
    slips = draw(st.integers(0, 2))
    for _ in range(slips):
        manifest = draw(slipped(manifest))
    return draw(mutated(manifest)) if draw(st.integers(0, 2)) == slips else manifest


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(runs())
def test_the_api_server_admits_a_run_exactly_if_the_models_accept_it(manifest: dict[str, Any]) -> None:
    by_api_server, by_models = refused_by_api_server(manifest), refused_by_models(manifest)
    event("refused" if by_models else "accepted")
    assert bool(by_api_server) == bool(by_models), f"API server: {by_api_server}\nmodels: {by_models}"


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(valid_runs())
def test_defaults_of_the_schema_are_those_of_the_models(manifest: dict[str, Any]) -> None:
    assert TrainingRun.read(with_defaults(manifest, SCHEMA)) == TrainingRun.read(manifest)


OF_THEIR_TYPE = {"integer": 1, "number": 0.5, "string": "x", "object": {"type": "x"}}
OWNED_KEYS = [
    *({"spec.stages.1.pretrain.deepspeed": {key: OF_THEIR_TYPE[kind]}} for key, kind in DEEPSPEED_OWNED.items()),
    *({"spec.stages.1.pretrain.model.config": {key: OF_THEIR_TYPE[kind]}} for key, kind in MODEL_OWNED.items()),
]


def rules_of(schema: Schema) -> Iterator[dict[str, str]]:
    yield from schema.get("x-kubernetes-validations", [])
    for field in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])):
        yield from rules_of(field)


def test_each_rule_refuses_some_mistake_and_so_do_the_models() -> None:
    mistakes = [
        changed(changes) for changes in (*(changes for changes, _ in (BAD_SPECS | BAD_REWARDS).values()), *OWNED_KEYS)
    ]
    assert [each for each in mistakes if not refused_by_api_server(each) or not refused_by_models(each)] == []
    said = {text for each in mistakes for text in refused_by_api_server(each)}
    assert [
        rule["message"] for rule in rules_of(SCHEMA) if "oldSelf" not in rule["rule"] and rule["message"] not in said
    ] == []
