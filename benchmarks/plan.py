"""Whether `trainyard plan` is right: memory of a rank and time of a step, as forecast and as measured, on this machine.

Memory: a Llama of 19 M parameters on one and two ranks, ZeRO 0 to 3, fp32 and bf16, two that share layers, and two that share
sequences: the most that rank 0 allocates beyond what its process had before, to the plan's figure.

Time: the speed of ten steps, after three that warm up, gives the forecast for the 40 steps after them, and for a model of
twice the layers and half the width. Medians, of wall-clock time: nothing else should run beside it.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from memory_forecasts import LLAMA, VOCABULARY, forecast, measured, stage
from training import Ranks, a_corpus, a_job, metric_lines
from trainyard_api.architecture import architecture

from .figures import Figure, Results, main

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    f"zero_{zero}_{ranks}_ranks{'_bf16' if bf16 else ''}": (ranks, stage(zero, ranks, micro_batch=6, bf16=bf16))
    for zero, ranks, bf16 in (
        (0, 1, False),
        (2, 2, True),
        (0, 2, False),
        (1, 2, False),
        (2, 2, False),
        (3, 2, False),
    )
}
LAYOUTS |= {
    "shared_layers": (2, stage(zero=0, ranks=1, micro_batch=6, tensorParallel=2)),
    "shared_sequences": (2, stage(zero=2, ranks=1, micro_batch=12, sequenceParallel=2)),
}
"""Name → ranks and settings; the first two are the quick ones."""
WARM_UP, CALIBRATION, STEPS = 3, 10, 40
WITHIN = 0.15


def measure(quick: bool) -> Results:
    """Rows of the table, and ratios of measurement to forecast."""
    rows, figures = [["", "forecast", "measured"]], []
    with tempfile.TemporaryDirectory(prefix="trainyard-benchmark-") as scratch:
        corpus = a_corpus(Path(scratch))
        for name, (ranks, settings) in [*LAYOUTS.items()][: 2 if quick else None]:
            planned, taken = forecast(settings, ranks), measured(settings, ranks, corpus, Path(scratch) / name)
            rows.append([f"memory, {name}", f"{planned / 1e6:.0f} MB", f"{taken / 1e6:.0f} MB"])
            figures.append(_ratio(f"memory_{name}", taken / planned))
        seconds = _step_seconds(LLAMA, corpus, Path(scratch) / "same", WARM_UP + CALIBRATION + (10 if quick else STEPS))
        calibrated = statistics.median(seconds[:CALIBRATION])
        rest = statistics.median(seconds[CALIBRATION:])
        rows.append(["a step, same model", f"{calibrated:.3f} s", f"{rest:.3f} s"])
        figures.append(_ratio("step", rest / calibrated))
        config = {**LLAMA["config"], "num_hidden_layers": 12, "hidden_size": 256, "intermediate_size": 704}
        other = {**LLAMA, "config": config}
        taken_seconds = statistics.median(_step_seconds(other, corpus, Path(scratch) / "other", WARM_UP + CALIBRATION))
        planned_seconds = calibrated * _flops(other) / _flops(LLAMA)
        rows.append(["a step, twice the layers, half the width", f"{planned_seconds:.3f} s", f"{taken_seconds:.3f} s"])
        figures.append(Figure("step_of_another_model_to_forecast", taken_seconds / planned_seconds))
    return rows, figures


def _ratio(name: str, value: float) -> Figure:
    return Figure(f"{name}_to_forecast", value, bar=1 + WITHIN, at_least=1 - WITHIN)


def _flops(model: dict[str, Any]) -> int:
    known = architecture(model["type"], {**model["config"], "vocab_size": VOCABULARY})
    assert known
    return known.flops_per_token(256)


def _step_seconds(model: dict[str, Any], corpus: Path, output: Path, steps: int) -> list[float]:
    """Of one rank, warm."""
    settings = stage(zero=0, ranks=1, micro_batch=2, model=model, steps=steps, checkpoint={"everySteps": 1000})
    settings["validation"] = {"everySteps": steps, "sequences": 1}
    Ranks(a_job("pretrain", output, settings, {"data": corpus}), 1).succeed()
    return [line["step_seconds"] for line in metric_lines(output) if "step_seconds" in line][WARM_UP:]


if __name__ == "__main__":
    main("plan", __doc__.splitlines()[0], measure)
