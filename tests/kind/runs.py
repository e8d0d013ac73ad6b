"""The runs that the kind suite applies: small enough for two cores, long enough to be interrupted."""

from typing import Any

STEPS = 240
"""Of runs of four workers that faults are brought upon: a status shows progress every 5 s."""
PAIR_STEPS = 300
"""Of runs of two workers, which take about half as long for a step."""


def small_run(name: str, *, workers: int = 4, steps: int = 60, **spec: Any) -> dict[str, Any]:
    """prepare → pretrain (ZeRO-2) → evaluate → export of a Llama with 0.2 M parameters.

    Dropout is 0 in Llama; order of data and sums is fixed, so two such runs end with the same weights to the bit.
    """
    config = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    pretrain = {
        "data": "corpus",
        "model": {"type": "llama", "config": config},
        "steps": steps,
        "sequenceLength": 64,
        "globalBatch": 2 * workers,
        "microBatch": 1,
        "validation": {"everySteps": steps, "sequences": 4},
        "checkpoint": {"everySteps": 10},
        "deepspeed": {"zero_optimization": {"stage": 2}},
    }
    one = {"count": 1}
    return {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": name},
        "spec": {
            "storage": {"uri": "file:///storage", "claimName": "training"},
            "workers": {"count": workers},
            "resources": {"cpu": "100m", "memory": "1500Mi"},
            "stages": [
                {
                    "name": "corpus",
                    "prepare": {
                        "sources": [{"builtin": "python-docs"}],
                        "tokenizer": {"vocabSize": 512},
                        "heldOutFraction": 0.15,
                    },
                },
                {"name": "base", "pretrain": pretrain},
                {
                    "name": "report",
                    "workers": one,
                    "evaluate": {"model": "base", "data": "corpus", "sequenceLength": 64, "microBatch": 32},
                },
                {"name": "folder", "export": {"model": "base"}},
            ],
            **spec,
        },
    }


def training_run(name: str, *, workers: int = 4, steps: int = STEPS, **spec: Any) -> dict[str, Any]:
    """The same up to its last checkpoint, which says more of what was done to it than all that is made of it later."""
    run = small_run(name, workers=workers, steps=steps, **spec)
    del run["spec"]["stages"][2:]
    return run


def a_pair(name: str, *, steps: int = PAIR_STEPS, **spec: Any) -> dict[str, Any]:
    """Two workers that train."""
    return training_run(name, workers=2, steps=steps, **spec)


def seldom_saving(name: str, *, steps: int = PAIR_STEPS, **spec: Any) -> dict[str, Any]:
    """Two workers whose only checkpoints are those of a stop and of the end."""
    run = a_pair(name, steps=steps, **spec)
    run["spec"]["stages"][1]["pretrain"]["checkpoint"] = {"everySteps": 10 * steps}
    return run
