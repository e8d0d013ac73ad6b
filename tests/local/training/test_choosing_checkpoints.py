"""Which steps are saved, and which of those stay, where the choice is left to training: ranks as the agent starts them."""

from pathlib import Path
from typing import Any

from training import TINY, a_job, committed_steps, held_out_losses
from warm_ranks import WarmRanks, train_saving_each


def trained(corpus: Path, output: Path, **settings: Any) -> WarmRanks:
    ranks = WarmRanks(a_job("pretrain", output, TINY | settings, {"data": corpus}), world_size=1)
    ranks.succeed()
    return ranks


def test_the_best_checkpoint_stays_with_the_last_ones(corpus: Path, tmp_path: Path) -> None:
    settings = {
        "steps": 30,
        "optimizer": {"learningRate": 3},  # every update makes it worse, on any processor
        "schedule": {"warmupSteps": 28, "finalFraction": 1},
        "validation": TINY["validation"] | {"everySteps": 6},
        "checkpoint": {"everySteps": 6, "keep": 2, "keepBest": 1},
    }
    job = a_job("pretrain", tmp_path / "base", TINY | settings, {"data": corpus})
    ranks = train_saving_each(job, 6, steps=30, world_size=1)
    saved = [report["checkpoint"]["step"] for report in ranks.reports() if "checkpoint" in report]
    losses = held_out_losses(ranks.output)
    best = min(saved, key=lambda step: losses[step])
    assert best < saved[-2], "nothing but the last ones was to be kept; let it diverge faster"
    assert committed_steps(ranks.output) == [best, *saved[-2:]]


def test_the_interval_follows_from_what_saving_costs_and_is_told(corpus: Path, tmp_path: Path) -> None:
    ranks = trained(corpus, tmp_path / "base", checkpoint={"everySeconds": "auto"})
    [checkpoint] = [report["checkpoint"] for report in ranks.reports() if "checkpoint" in report]
    assert checkpoint["step"] == TINY["steps"]
    assert checkpoint["durableSeconds"] <= checkpoint["intervalSeconds"] + 0.1
    gauges = [report["metrics"] for report in ranks.reports() if "metrics" in report]
    shown = [each["checkpoint_interval_seconds"] for each in gauges if "checkpoint_interval_seconds" in each]
    assert shown[0] == 30, "nothing is known before the first save"
    assert round(shown[-1], 1) == checkpoint["intervalSeconds"]
