"""`trainyard plan FILE`: what each stage that trains will take, before anything runs, from the file that `trainyard run` takes.

Formulas: trainyard_api/architecture.py (parameters, FLOPs), trainyard_api/memory.py, and forecast.py beside this file.
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from trainyard_api.architecture import FORMULA
from trainyard_api.hardware import HARDWARE, Hardware
from trainyard_api.memory import memory_of_a_rank
from trainyard_api.model import explain_errors
from trainyard_api.planning import CHECKPOINT_BYTES, plan_of
from trainyard_api.run import TrainingRun

from ..cluster.home import Home
from . import words
from .forecast import Forecast, Speed
from .get import selected
from .inputs import InputError, read_run_file
from .taking_up import artifacts

BAD_INPUT = 2
DOES_NOT_FIT = 1
WARM_UP_STEPS = 3
"""Of each attempt, which say nothing of the speed."""
CALIBRATION_STEPS = 10
"""That `--measured` wants to see at least."""


def plan_command(options: argparse.Namespace) -> int:
    """Print the plan; 1 if something will not fit."""
    try:
        run = read_run_file(options.file, options.namespace)
        table = HARDWARE | (_read_hardware(options.hardware_file) if options.hardware_file else {})
        forecasts = [each for stage in run.spec.stages if (each := _forecast(run, stage.name, table, options))]
    except InputError as error:
        print(*error.mistakes, sep="\n", file=sys.stderr)
        return BAD_INPUT
    if options.json:
        print(json.dumps({"stages": [each.wire() for each in forecasts]}, indent=2))
    elif not forecasts:
        print("no stage of this run trains a model that is known before it runs")
    else:
        print("\n\n".join("\n".join(described(each, formulas=options.formulas)) for each in forecasts))
    return 0 if all(each.fits for each in forecasts) else DOES_NOT_FIT


def _forecast(
    run: TrainingRun, stage_name: str, table: dict[str, Hardware], options: argparse.Namespace
) -> Forecast | None:
    [stage] = [each for each in run.spec.stages if each.name == stage_name]
    plan = plan_of(run.spec, stage)
    if plan is None:
        return None
    name = options.hardware or ("h100" if plan.layout.on_gpu else None)
    if name is not None and name not in table:
        raise InputError(
            f"--hardware: {name} is not known; use one of {', '.join(table)}, or add it by --hardware-file"
        )
    hardware = table[name] if name and plan.layout.on_gpu else None
    if hardware and options.price is not None:
        hardware = hardware.model_copy(update={"price_per_hour": options.price})
    speed = None
    if options.measured:
        speed = _measured(Home(options.home), options.namespace, options.measured, stage_name)
    elif hardware:
        peak = hardware.peak(bf16=plan.layout.bf16)
        speed = Speed(peak * options.mfu, f"{name}, {peak / 1e12:,.0f} TFLOP/s at an MFU of {options.mfu:g}, assumed")
    return Forecast(plan, name if hardware else None, hardware, speed)


def _read_hardware(path: Path) -> dict[str, Hardware]:
    try:
        return TypeAdapter(dict[str, Hardware]).validate_python(
            yaml.safe_load(path.read_bytes()), strict=False, by_name=False
        )  # YAML takes 1e15 for text
    except OSError as error:
        raise InputError(f"--hardware-file: {path}: {error.strerror}; give the path of a YAML file") from None
    except yaml.YAMLError as error:
        raise InputError(f"--hardware-file: {path}: not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise InputError(*(f"--hardware-file: {path}: {line}" for line in explain_errors(error))) from None


def _measured(home: Home, namespace: str | None, name: str, stage_name: str) -> Speed:
    """What a rank of an earlier run has achieved, in its stage of that name or else its first one that has steps."""
    runs = selected(home, namespace, name)
    if len(runs) != 1:
        raise InputError(f"--measured: run {name} is not in {home.root}, once; use --home and --namespace")
    run = TrainingRun.read_stored({**runs[0], "status": None})
    stages = sorted(run.spec.stages, key=lambda each: each.name != stage_name)
    for stage in stages:
        plan = plan_of(run.spec, stage)
        if plan is None:
            continue
        try:
            seconds = step_seconds(artifacts(home, run).read(f"{stage.name}/metrics.jsonl").decode())
        except FileNotFoundError:
            continue
        if len(seconds) >= CALIBRATION_STEPS:
            achieved = plan.flops_per_token * plan.tokens_a_step / plan.layout.ranks / statistics.median(seconds)
            return Speed(
                achieved, f"{achieved / 1e9:,.1f} GFLOP/s a rank, measured over {len(seconds)} steps of {name}"
            )
    raise InputError(
        f"--measured: run {name} has no stage with {WARM_UP_STEPS + CALIBRATION_STEPS} steps; let it train a little longer"
    )


def step_seconds(metrics: str) -> list[float]:
    """Of a stage's steps, by its metrics.jsonl: without those that warm an attempt up."""
    taken: dict[int, list[float]] = {}
    for line in metrics.splitlines(keepends=True):
        if line.endswith("\n") and "step_seconds" in (row := json.loads(line)):
            taken.setdefault(row["attempt"], []).append(row["step_seconds"])
    return [seconds for attempt in taken.values() for seconds in attempt[WARM_UP_STEPS:]]


def described(forecast: Forecast, *, formulas: bool) -> list[str]:
    """The plan as people read it."""
    plan, layout = forecast.plan, forecast.plan.layout
    kind = plan.settings.model.type or f"the model of {plan.settings.model.stage}"
    lines = [
        f"{plan.stage}: {kind}, {_count(plan.model.parameters)} parameters, {plan.workers} × {plan.ranks_per_worker} "
        f"rank{'s' if layout.ranks > 1 else ''}, {'bf16' if layout.bf16 else 'fp32'}"
    ]

    def say(what: str, figure: str, formula: str = "") -> None:
        lines.append(f"  {what + ':':<12}{figure}")
        if formula and formulas:
            lines.append(f"  {'':<12}  = {formula}")

    flops = plan.flops_per_token
    say(
        "compute",
        f"{flops:,} FLOPs a token, {plan.tokens:,} tokens: {flops * plan.tokens:.3g} FLOPs",
        f"{FORMULA}, N = {plan.model.multiplied:,}, T = {plan.settings.sequence_length}",
    )
    if forecast.step_seconds and forecast.seconds and forecast.speed:
        say(
            "time",
            f"{forecast.step_seconds:.3g} s a step, {words.duration(forecast.seconds)} in all ({forecast.speed.source})",
            f"FLOPs a token × {plan.tokens_a_step:,} tokens ÷ ({layout.ranks} ranks × {forecast.speed.flops:.3g} FLOP/s)",
        )
    else:
        say("time", "unknown on a CPU; --measured RUN takes the speed of a run that has trained some steps")
    if forecast.joules is not None and forecast.hardware:
        say("energy", f"{forecast.joules / 3.6e6:,.3g} kWh at most", f"{forecast.hardware.watts:g} W × ranks × time")
    if forecast.dollars is not None and forecast.hardware:
        price = forecast.hardware.price_per_hour
        say("cost", f"${forecast.dollars:,.2f} at ${price:,.2f} a GPU and hour", "price × ranks × time")
    elif forecast.hardware:
        say("cost", "no price is known; give one by --price")
    say(
        "checkpoint",
        f"{words.size(plan.checkpoint_bytes)} each, {words.size(plan.checkpoint_bytes * plan.settings.checkpoint.keep)} kept",
        f"{CHECKPOINT_BYTES} bytes a parameter: fp32 master and two moments",
    )
    say("worker", f"{words.size(plan.needed(layout))} of {words.size(plan.worker_memory)} memory")
    lines += [
        "",
        f"  memory of a rank, microBatch {layout.micro_batch}" + (f", on {forecast.name}" if forecast.name else ""),
    ]
    lines += [f"    {line}" for line in words.table(_memory_rows(forecast))]
    if formulas:
        lines.append(
            "    formulas: trainyard_api/memory.py; what is there all the time, and the larger of pass and update"
        )
    lines.append("")
    if suggestion := forecast.suggestion():
        interval = forecast.save_seconds
        steps = f", {max(1, round(interval / forecast.step_seconds)):,} steps" if forecast.step_seconds else ""
        say("suggested", f"{suggestion}, checkpoint.everySeconds: auto (about {words.duration(interval)}{steps})")
    lines += [f"  warning:    {each}" for each in forecast.warnings()]
    return lines


def _memory_rows(forecast: Forecast) -> list[list[str]]:
    plan, fitting = forecast.plan, forecast.fitting
    memories = [memory_of_a_rank(plan.model, replace(plan.layout, zero=zero)) for zero in range(4)]
    names = list(dict.fromkeys(name for memory in memories for name in memory.parts()))

    def row(name: str, cells: list[Any]) -> list[str]:
        return [name, *map(str, cells)]

    chosen = ["← as written" if zero == plan.layout.zero else "" for zero in range(4)]
    return [
        row("", [f"ZeRO {zero}" for zero in range(4)]),
        *(row(name, [words.size(memory.parts().get(name, 0)) for memory in memories]) for name in names),
        row("at most", [words.size(memory.device) for memory in memories]),
        row("largest microBatch", [fitting[zero] or "none" for zero in range(4)]),
        *([row("", chosen)] if any(chosen) else []),
    ]


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return str(number)
