"""How fast fine-tuning and learning from preferences are, beside TRL's trainers: real tokens of sft, pairs of dpo a second.

One Llama-shaped model of 30 M parameters in fp32, read from one folder, on the same conversations and pairs of mixed length, in
one run, in turns, each with all cores. Trainyard's are its stages as they are, metrics and all; TRL's trainers have their own
settings, and as many rows at once, and in a step, as Trainyard's packed rows hold in the mean. TRL's dpo asks a second model in
each step what the reference thinks, unless told to work that out first, as Trainyard does: it is run both ways.
"""

import statistics
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .contending import Contender, take_turns
from .figures import Figure, Results, main, spread
from .preferences_data import CONFIG, LENGTH, MICRO_BATCH, VOCABULARY, a_job_to_train, a_row_holds, write_data

UNITS = {"sft": "real tokens/s", "dpo": "pairs/s"}
BARS = {"sft": 1.15, "dpo": 1.3}


def measure(quick: bool) -> Results:
    """Rows of the table and figures."""
    try:
        trl = f"TRL {version('trl')}"
    except PackageNotFoundError:
        raise SystemExit("benchmarks.preferences: the peer is missing; pip install trl") from None
    rows, figures = [["", "", "median (range)", "s a step", "positions real", "peak MB"]], []
    for kind, unit in UNITS.items():
        names = {"trainyard": "Trainyard", "trl": trl}
        if kind == "dpo":
            names["trl-first"] = f"{trl}, reference worked out first"
        with tempfile.TemporaryDirectory(prefix="trainyard-benchmark-") as scratch:
            samples = _run(kind, list(names), Path(scratch), rounds=2 if quick else 5, steps=1 if quick else 2)
        for name, of in samples.items():
            real = statistics.mean(each["real"] for each in of)
            rows.append(
                [
                    f"{kind}: {names[name]}",
                    unit,
                    spread([each["speed"] for each in of]),
                    f"{statistics.median(each['seconds'] for each in of):.2f}",
                    f"{100 * real:.1f} %" if kind == "sft" else "",
                    f"{max(each['peak'] for each in of) / 1e6:.0f}",
                ]
            )
        figures.append(Figure(f"{kind}_to_trl", _ratio(samples, "trl"), at_least=BARS[kind]))
        if "trl-first" in samples:
            figures.append(Figure(f"{kind}_to_trl_with_reference_first", _ratio(samples, "trl-first")))
    return rows, figures


def _ratio(samples: dict[str, list[dict[str, Any]]], peer: str) -> float:
    """Trainyard's speed as a multiple of a peer's in the same turn: what slows the machine down slows both."""
    turns = zip(samples["trainyard"], samples[peer], strict=True)
    return statistics.median(ours["speed"] / theirs["speed"] for ours, theirs in turns)


def _run(kind: str, names: list[str], scratch: Path, rounds: int, steps: int) -> dict[str, list[dict[str, Any]]]:
    write_data(scratch)
    write_model(scratch / "model")
    at_once = max(1, round(MICRO_BATCH * a_row_holds(kind, scratch)))
    job = a_job_to_train(kind, scratch)
    contenders = {
        name: Contender(
            ["benchmarks.preferences_ranks", name, kind, str(scratch), str(at_once)], job, 1, scratch / f"{name}.log"
        )
        for name in names
    }
    return take_turns(contenders, rounds, steps)


def write_model(folder: Path) -> None:
    """A folder that both begin with."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**CONFIG, vocab_size=VOCABULARY, max_position_embeddings=max(LENGTH.values()))
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in (folder.parent / "data/tokenizer").iterdir():
        shutil.copy(file, folder)


if __name__ == "__main__":
    main("preferences", __doc__.splitlines()[0], measure)
