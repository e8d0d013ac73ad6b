"""Every kind of mistake in a TrainingRun once, with the words that must tell the user the field and the remedy.

The same table holds at both doors: `kubectl apply` on a real API server, and the models that `trainyard run` reads with.
"""

import copy
from typing import Any

GOOD: dict[str, Any] = {
    "apiVersion": "trainyard.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "mistaken"},
    "spec": {
        "workers": {"count": 4},
        "stages": [
            {"name": "corpus", "prepare": {"sources": [{"builtin": "python-docs"}]}},
            {
                "name": "base",
                "pretrain": {
                    "data": "corpus",
                    "model": {"type": "llama", "config": {"hidden_size": 64}},
                    "steps": 100,
                    "globalBatch": 32,
                    "microBatch": 4,
                },
            },
            {"name": "report", "evaluate": {"model": "base", "data": "corpus"}},
            {"name": "folder", "export": {"model": "base"}},
        ],
    },
}

LEFT_OUT = object()
"""In the place of a value: the field is not given."""

Changes = dict[str, Any]
"""Path of the field, as in `spec.stages.1.pretrain.steps` → its value."""


def _mixed(**weights: int) -> dict[str, Any]:
    """The good pretrain stage, on a mixture."""
    parts = [{"data": name, "weight": weight} for name, weight in weights.items()]
    settings = {name: value for name, value in GOOD["spec"]["stages"][1]["pretrain"].items() if name != "data"}
    return settings | {"mixture": parts}


def tuned(kind: str = "sft", **changes: Any) -> Changes:
    """Fine-tuning in the place of pretraining, changed."""
    settings = {"data": "corpus", "model": {"path": "models/gpt2"}, "steps": 100, "globalBatch": 32, "microBatch": 4}
    given = {name: value for name, value in (settings | changes).items() if value is not LEFT_OUT}
    return {"spec.stages.1.pretrain": LEFT_OUT, f"spec.stages.1.{kind}": given}


CHAT = {"path": "chat.jsonl", "format": "conversations"}
DRAW = {"prompts": "prompts.jsonl", "models": ["base"]}


def _collecting(**settings: Any) -> Changes:
    """Collecting in the place of measuring."""
    return {"spec.stages.2.evaluate": LEFT_OUT, "spec.stages.2.collect": settings}


BAD_SPECS: dict[str, tuple[Changes, tuple[str, ...]]] = {
    "an unknown field": (
        {"spec.stages.1.pretrain.globalBach": 32},
        ("spec.stages[1].pretrain.globalBach", "unknown field"),
    ),
    "fine-tuning on the data of no stage": (
        tuned(data="report"),
        ('stages[1].sft.data: report is not an earlier prepare stage; use one of ["corpus"]',),
    ),
    "fine-tuning on a part that no stage prepares": (
        tuned(data=LEFT_OUT, mixture=[{"data": "report", "weight": 1}]),
        ("stages[1].sft.mixture[0].data: report is not an earlier prepare stage",),
    ),
    "fine-tuning with a validation set that no stage prepares": (
        tuned(validation={"sets": [{"data": "report"}]}),
        ("stages[1].sft.validation.sets[0].data: report is not an earlier prepare stage",),
    ),
    "fine-tuning a stage that trains none": (
        tuned(model={"stage": "corpus"}),
        ("stages[1].sft.model.stage: corpus is not an earlier pretrain or sft or dpo or ppo or grpo stage",),
    ),
    "fine-tuning with a batch that ranks can't share": (
        tuned(globalBatch=30),
        ("stages[1].sft.globalBatch: 30 is not divisible by 4 ranks × microBatch 4; use 16 or 32",),
    ),
    "fine-tuning a model from scratch": (
        tuned(model={"type": "llama"}),
        ("spec.stages[1].sft.model.type", "name an earlier stage in model.stage"),
    ),
    "preferring on the data of no stage": (
        tuned("dpo", data="report"),
        ("stages[1].dpo.data: report is not an earlier prepare stage",),
    ),
    "preferring on a part that no stage prepares": (
        tuned("dpo", data=LEFT_OUT, mixture=[{"data": "report", "weight": 1}]),
        ("stages[1].dpo.mixture[0].data: report is not an earlier prepare stage",),
    ),
    "preferring with a validation set that no stage prepares": (
        tuned("dpo", validation={"sets": [{"data": "report"}]}),
        ("stages[1].dpo.validation.sets[0].data: report is not an earlier prepare stage",),
    ),
    "preferring with a stage that trains none": (
        tuned("dpo", model={"stage": "corpus"}),
        ("stages[1].dpo.model.stage: corpus is not an earlier",),
    ),
    "preferring with a batch that ranks can't share": (
        tuned("dpo", globalBatch=30),
        ("stages[1].dpo.globalBatch: 30 is not divisible by 4 ranks × microBatch 4; use 16 or 32",),
    ),
    "preferring with the loss of tokens": (
        tuned("dpo", loss={"zLoss": 0.1}),
        ("spec.stages[1].dpo.loss", "here it is of pairs"),
    ),
    "rewarding on the data of no stage": (
        tuned("reward", data="report"),
        ("stages[1].reward.data: report is not an earlier prepare stage",),
    ),
    "rewarding on a part that no stage prepares": (
        tuned("reward", data=LEFT_OUT, mixture=[{"data": "report", "weight": 1}]),
        ("stages[1].reward.mixture[0].data: report is not an earlier prepare stage",),
    ),
    "rewarding with a validation set that no stage prepares": (
        tuned("reward", validation={"sets": [{"data": "report"}]}),
        ("stages[1].reward.validation.sets[0].data: report is not an earlier prepare stage",),
    ),
    "rewarding with a stage that trains none": (
        tuned("reward", model={"stage": "corpus"}),
        ("stages[1].reward.model.stage: corpus is not an earlier",),
    ),
    "rewarding with a batch that ranks can't share": (
        tuned("reward", globalBatch=30),
        ("stages[1].reward.globalBatch: 30 is not divisible by 4 ranks × microBatch 4; use 16 or 32",),
    ),
    "rewarding with the loss of tokens": (
        tuned("reward", loss={"zLoss": 0.1}),
        ("spec.stages[1].reward.loss", "here it is of pairs"),
    ),
    "weights of good responses for a loss of pairs": (
        tuned("dpo", preferences={"desirableWeight": 2}),
        ("spec.stages[1].dpo.preferences.desirableWeight", "only the loss KTO weighs"),
    ),
    "chosen responses for a loss that knows none": (
        tuned("dpo", preferences={"loss": "KTO", "sftWeight": 0.1}),
        ("spec.stages[1].dpo.preferences.sftWeight", "the loss KTO is of responses"),
    ),
    "wrong choices for a loss that knows none": (
        tuned("dpo", preferences={"loss": "IPO", "labelSmoothing": 0.1}),
        ("spec.stages[1].dpo.preferences.labelSmoothing", "only the losses Sigmoid and Robust"),
    ),
    "responses of a stage that trains none": (
        _collecting(draw={**DRAW, "models": ["base", "corpus"]}),
        ("stages[2].collect.draw.models[1]: corpus is not an earlier pretrain or sft or dpo or ppo or grpo stage",),
    ),
    "nothing to compare": (
        _collecting(),
        ("spec.stages[2].collect", "give exactly one of draw and comparisons"),
    ),
    "preferences of a stage that collects none": (
        {
            "spec.stages.0.prepare.sources": [{"stage": "base", "format": "preferences"}],
            "spec.stages.0.prepare.tokenizer": {"path": "models/gpt2"},
        },
        ("stages[0].prepare.sources[0].stage: base is not an earlier collect stage",),
    ),
    "preferences of people as plain text": (
        {"spec.stages.0.prepare.sources": [{"stage": "base"}]},
        ("spec.stages[0].prepare.sources[0].stage", "set format: preferences"),
    ),
    "conversations without the tokenizer of a model": (
        {"spec.stages.0.prepare.sources": [CHAT]},
        ("spec.stages[0].prepare.tokenizer", "name the prepare stage of its data"),
    ),
    "conversations beside other text": (
        {
            "spec.stages.0.prepare.sources": [CHAT, {"builtin": "python-docs"}],
            "spec.stages.0.prepare.tokenizer": {"path": "models/gpt2"},
        },
        ("spec.stages[0].prepare.sources", "make a prepare stage of each"),
    ),
    "conversations of no file": (
        {
            "spec.stages.0.prepare.sources": [{"builtin": "python-docs", "format": "conversations"}],
            "spec.stages.0.prepare.tokenizer": {"path": "models/gpt2"},
        },
        ("spec.stages[0].prepare.sources[0].format", "name JSONL files in path"),
    ),
    "a chat template for plain text": (
        {"spec.stages.0.prepare.chatTemplate": "{{ messages }}"},
        ("spec.stages[0].prepare.chatTemplate", "set format: conversations"),
    ),
    "an unknown field of the spec": ({"spec.replicas": 3}, ("spec.replicas", "unknown field")),
    "the Python spelling of a field": (
        {"spec.stages.1.pretrain.global_batch": 32},
        ("spec.stages[1].pretrain.global_batch", "unknown field"),
    ),
    "adapters of a model that isn't trained yet": (
        {"spec.stages.1.pretrain.model.lora": {"rank": 8}},
        ("spec.stages[1].pretrain.model.lora", "name one in stage"),
    ),
    "a decay that the schedule's shape has not": (
        {"spec.stages.1.pretrain.schedule": {"decaySteps": 10}},
        ("spec.stages[1].pretrain.schedule.decaySteps", "WarmupStableDecay"),
    ),
    "a word in the place of a number": (
        {"spec.stages.1.pretrain.steps": "ten"},
        ("spec.stages[1].pretrain.steps", "integer"),
    ),
    "a number in quotes": ({"spec.workers.count": "4"}, ("spec.workers.count", "integer")),
    "a fraction of a step": ({"spec.stages.1.pretrain.steps": 10.5}, ("spec.stages[1].pretrain.steps", "integer")),
    "no steps": ({"spec.stages.1.pretrain.steps": LEFT_OUT}, ("spec.stages[1].pretrain.steps", "equired")),
    "zero steps": (
        {"spec.stages.1.pretrain.steps": 0},
        ("spec.stages[1].pretrain.steps", "greater than or equal to 1"),
    ),
    "zero workers": ({"spec.workers.count": 0}, ("spec.workers.count", "greater than or equal to 1")),
    "too many GPUs in a worker": (
        {"spec.resources": {"gpus": 65}},
        ("spec.resources.gpus", "less than or equal to 64"),
    ),
    "a memory size that is none": ({"spec.resources": {"memory": "lots"}}, ("spec.resources.memory", "^[0-9]+")),
    "a learning rate of zero": (
        {"spec.stages.1.pretrain.optimizer": {"learningRate": 0}},
        ("spec.stages[1].pretrain.optimizer.learningRate", "greater than 0"),
    ),
    "a model type that isn't known": (
        {"spec.stages.1.pretrain.model.type": "lama"},
        ("spec.stages[1].pretrain.model.type", "llama", "gpt2"),
    ),
    "a model that is nothing": (
        {"spec.stages.1.pretrain.model": {}},
        ("spec.stages[1].pretrain.model", "give exactly one of type, stage and path"),
    ),
    "a model of a type and of a stage": (
        {"spec.stages.1.pretrain.model": {"type": "llama", "stage": "corpus"}},
        ("spec.stages[1].pretrain.model", "give exactly one of type, stage and path"),
    ),
    "a configuration for the model of a stage": (
        {"spec.stages.1.pretrain.model": {"stage": "base", "config": {"hidden_size": 64}}},
        ("spec.stages[1].pretrain.model.config", "leave config out"),
    ),
    "a model of a folder with a configuration": (
        {"spec.stages.1.pretrain.model": {"path": "models/gpt2", "config": {"n_layer": 2}}},
        ("spec.stages[1].pretrain.model.config", "leave config out"),
    ),
    "an objective that the type can't be trained on": (
        {"spec.stages.1.pretrain.objective": "MaskedLM"},
        ("spec.stages[1].pretrain.objective", "MaskedLM is for bert, modernbert; leave objective out"),
    ),
    "an objective of decoders for an encoder-decoder": (
        {"spec.stages.1.pretrain.model": {"type": "t5"}, "spec.stages.1.pretrain.objective": "NextToken"},
        ("spec.stages[1].pretrain.objective", "NextToken is for llama, qwen3, gpt2"),
    ),
    "corrupted spans for an encoder": (
        {"spec.stages.1.pretrain.model": {"type": "bert"}, "spec.stages.1.pretrain.objective": "SpanCorruption"},
        ("spec.stages[1].pretrain.objective", "SpanCorruption is for t5"),
    ),
    "pairs for a decoder": (
        {"spec.stages.1.pretrain.objective": "SequenceToSequence"},
        ("spec.stages[1].pretrain.objective", "SequenceToSequence is for t5"),
    ),
    "targets in what has no keys": (
        {"spec.stages.0.prepare.sources": [{"path": "notes", "format": "markdown", "targetField": "answer"}]},
        ("spec.stages[0].prepare.sources[0].targetField", "only rows of JSONL have keys"),
    ),
    "pairs beside plain text": (
        {"spec.stages.0.prepare.sources": [{"path": "pairs.jsonl", "targetField": "answer"}, {"path": "notes"}]},
        ("spec.stages[0].prepare.sources", "give targetField for all sources or for none"),
    ),
    "a tokenizer of a size and of a folder": (
        {"spec.stages.0.prepare.tokenizer": {"vocabSize": 4096, "path": "models/gpt2"}},
        ("spec.stages[0].prepare.tokenizer", "no two of them"),
    ),
    "a model of a stage that trains none": (
        {"spec.stages.1.pretrain.model": {"stage": "corpus"}},
        (
            "stages[1].pretrain.model.stage: corpus is not an earlier pretrain or sft or dpo or ppo or grpo stage; put a "
            "pretrain or sft or dpo or ppo or grpo stage before it",
        ),
    ),
    "a validation set that no stage prepares": (
        {"spec.stages.1.pretrain.validation": {"sets": [{"data": "base"}]}},
        ("stages[1].pretrain.validation.sets[0].data: base is not an earlier prepare stage",),
    ),
    "a single checkpoint kept": (
        {"spec.stages.1.pretrain.checkpoint": {"keep": 1}},
        ("spec.stages[1].pretrain.checkpoint.keep", "greater than or equal to 2"),
    ),
    "checkpoints to keep for good at steps that aren't saved": (
        {"spec.stages.1.pretrain.checkpoint": {"everySteps": 100, "keepEvery": 250}},
        ("spec.stages[1].pretrain.checkpoint.keepEvery", "250 is not a multiple of everySteps 100", "use 300"),
    ),
    "the best of checkpoints that are never validated": (
        {
            "spec.stages.1.pretrain.checkpoint": {"everySteps": 30, "keepBest": 2},
            "spec.stages.1.pretrain.validation": {"everySteps": 100},
        },
        ("spec.stages[1].pretrain.checkpoint.keepBest", "everySteps 30 hardly", "set validation.everySteps to 30"),
    ),
    "seconds between saves that are neither a number nor auto": (
        {"spec.stages.1.pretrain.checkpoint": {"everySeconds": "often"}},
        ("spec.stages[1].pretrain.checkpoint.everySeconds", "auto"),
    ),
    "a storage that no worker can reach": (
        {"spec.storage": {"uri": "ftp://x"}},
        ("spec.storage.uri", "file:///", "s3://"),
    ),
    "a claim for an object store": (
        {"spec.storage": {"uri": "s3://bucket/runs", "claimName": "training"}},
        ("spec.storage.claimName", "leave claimName out, or give a file:/// uri"),
    ),
    "credentials for a folder": (
        {"spec.storage": {"uri": "file:///storage", "secretName": "keys"}},
        ("spec.storage.secretName", "leave secretName out, or give uri: s3://bucket/prefix"),
    ),
    "no stages": ({"spec.stages": []}, ("spec.stages", "at least 1 item")),
    "a stage without a kind": (
        {"spec.stages.3.export": LEFT_OUT},
        (
            "spec.stages[3]",
            "give exactly one of prepare, pretrain, sft, collect, reward, dpo, ppo, grpo, evaluate, export",
        ),
    ),
    "a stage of two kinds": (
        {"spec.stages.3.evaluate": {"model": "base", "data": "corpus"}},
        (
            "spec.stages[3]",
            "give exactly one of prepare, pretrain, sft, collect, reward, dpo, ppo, grpo, evaluate, export",
        ),
    ),
    "a stage name with capitals": ({"spec.stages.3.name": "Folder"}, ("spec.stages[3].name", "^[a-z]")),
    "two stages of one name": ({"spec.stages.3.name": "report"}, ("spec.stages", "stage names must be unique")),
    "two workers for an export": (
        {"spec.stages.3.workers": {"count": 2}},
        ("spec.stages[3].workers", "set count to 1 or leave workers out"),
    ),
    "a source that is both a path and built in": (
        {"spec.stages.0.prepare.sources.0.path": "texts"},
        ("spec.stages[0].prepare.sources[0]", "give exactly one of path, builtin and stage"),
    ),
    "a source that is nothing": (
        {"spec.stages.0.prepare.sources.0.builtin": LEFT_OUT},
        ("spec.stages[0].prepare.sources[0]", "give exactly one of path, builtin and stage"),
    ),
    "data from a stage that isn't there": (
        {"spec.stages.1.pretrain.data": "corpse"},
        ('stages[1].pretrain.data: corpse is not an earlier prepare stage; use one of ["corpus"]',),
    ),
    "a model from a stage of another kind": (
        {"spec.stages.3.export.model": "corpus"},
        (
            "stages[3].export.model: corpus is not an earlier pretrain or sft or dpo or ppo or grpo or reward stage; use one "
            'of ["base"]',
        ),
    ),
    "held-out data from a stage of another kind": (
        {"spec.stages.2.evaluate.data": "base"},
        ('stages[2].evaluate.data: base is not an earlier prepare stage; use one of ["corpus"]',),
    ),
    "data from a stage that comes later": (
        {
            "spec.stages.1.pretrain.data": "late",
            "spec.stages.3": {"name": "late", "prepare": {"sources": [{"path": "x"}]}},
        },
        ('stages[1].pretrain.data: late is not an earlier prepare stage; use one of ["corpus"]',),
    ),
    "an evaluation before any training": (
        {"spec.stages": [GOOD["spec"]["stages"][0], GOOD["spec"]["stages"][2]]},
        (
            "stages[1].evaluate.model: base is not an earlier pretrain or sft or dpo or ppo or grpo or reward stage; put a "
            "pretrain or sft or dpo or ppo or grpo or reward stage before it",
        ),
    ),
    "a tokenizer that is both trained and taken from another stage": (
        {"spec.stages.0.prepare.tokenizer": {"vocabSize": 300, "stage": "corpus"}},
        ("spec.stages[0].prepare.tokenizer", "give vocabSize to train a tokenizer, or stage or path to take one"),
    ),
    "a tokenizer of the stage itself": (
        {"spec.stages.0.prepare.tokenizer": {"stage": "corpus"}},
        ("stages[0].prepare.tokenizer.stage: corpus is not an earlier prepare stage; put a prepare stage before it",),
    ),
    "no data": ({"spec.stages.1.pretrain.data": LEFT_OUT}, ("give exactly one of data and mixture",)),
    "both data and a mixture": (
        {"spec.stages.1.pretrain.mixture": [{"data": "corpus", "weight": 1}]},
        ("spec.stages[1].pretrain", "give exactly one of data and mixture"),
    ),
    "a mixture of nothing": (
        {"spec.stages.1.pretrain": _mixed()},
        ("spec.stages[1].pretrain.mixture", "at least 1 item"),
    ),
    "a part of a mixture without weight": (
        {"spec.stages.1.pretrain": _mixed(corpus=0)},
        ("spec.stages[1].pretrain.mixture[0].weight", "greater than or equal to 1"),
    ),
    "a part of a mixture that isn't there": (
        {"spec.stages.1.pretrain": _mixed(corpus=3, code=1)},
        ('stages[1].pretrain.mixture[1].data: code is not an earlier prepare stage; use one of ["corpus"]',),
    ),
    "a mixture of a corpus with itself": (
        {"spec.stages.1.pretrain": _mixed(corpus=3) | {"mixture": [{"data": "corpus", "weight": 3}] * 2}},
        ("spec.stages[1].pretrain.mixture", "can be one part of a mixture only; add up the weights"),
    ),
    "a batch that the ranks can't share": (
        {"spec.stages.1.pretrain.globalBatch": 30},
        ("stages[1].pretrain.globalBatch: 30 is not divisible by 4 ranks × microBatch 4; use 16 or 32",),
    ),
    "a batch that the ranks of the stage's own workers can't share": (
        {"spec.stages.1.workers": {"count": 3}, "spec.stages.1.resources": {"gpus": 8}},
        ("stages[1].pretrain.globalBatch: 32 is not divisible by 24 ranks × microBatch 4; use 96",),
    ),
    "ranks that can't share sequences": (
        {"spec.stages.1.pretrain.sequenceParallel": 8},
        ("stages[1].pretrain.sequenceParallel: does not divide the 4 ranks; use a divisor of that",),
    ),
    "ranks that can't share conversations": (
        tuned(sequenceParallel=8),
        ("stages[1].sft.sequenceParallel: does not divide the 4 ranks; use a divisor of that",),
    ),
    "ranks that can't share layers": (
        {"spec.stages.1.pretrain.tensorParallel": 3},
        ("stages[1].pretrain.tensorParallel: does not divide the 4 ranks; use a divisor of that",),
    ),
    "ranks that can't share layers to fine-tune": (
        tuned(tensorParallel=3),
        ("stages[1].sft.tensorParallel: does not divide the 4 ranks; use a divisor of that",),
    ),
    "ranks that are to share sequences and layers": (
        {"spec.stages.1.pretrain.tensorParallel": 2, "spec.stages.1.pretrain.sequenceParallel": 2},
        ("spec.stages[1].pretrain.tensorParallel", "ranks share sequences or layers"),
    ),
    "sequences that can't be cut into such parts": (
        {"spec.stages.1.pretrain.sequenceParallel": 4, "spec.stages.1.pretrain.sequenceLength": 130},
        ("spec.stages[1].pretrain.sequenceParallel", "does not divide sequenceLength"),
    ),
    "sharing pairs of responses": (
        tuned("dpo", sequenceParallel=2),
        ("spec.stages[1].dpo.sequenceParallel", "responses are compared by one rank"),
    ),
    "sharing responses that are scored": (
        tuned("reward", sequenceParallel=2),
        ("spec.stages[1].reward.sequenceParallel", "responses are compared by one rank"),
    ),
    "a DeepSpeed key that Trainyard decides": (
        {"spec.stages.1.pretrain.deepspeed": {"optimizer": {"type": "Adam"}}},
        ("spec.stages[1].pretrain.deepspeed", "leave it out: use globalBatch, microBatch, optimizer and schedule"),
    ),
    "a model key that Trainyard decides": (
        {"spec.stages.1.pretrain.model.config.vocab_size": 4096},
        ("spec.stages[1].pretrain.model.config", "config.vocab_size is decided by Trainyard; leave it out"),
    ),
    "a rule about every failure": (
        {"spec.recovery": {"rules": [{"action": "Fail"}]}},
        ("spec.recovery.rules[0]", "without a condition", "give causes, exitCodes, message or stages"),
    ),
    "a rule for a cause that isn't known": (
        {"spec.recovery": {"rules": [{"causes": ["Crashed"], "action": "Fail"}]}},
        ("spec.recovery.rules[0].causes[0]", "ProcessFailed", "OutOfMemory"),
    ),
    "a rule with a pattern that is none": (
        {"spec.recovery": {"rules": [{"message": "(out of memory", "action": "Fail"}]}},
        ("spec.recovery.rules[0]", "not a regular expression as RE2 has them"),
    ),
    "a rule with a pattern that could take for ever": (
        {"spec.recovery": {"rules": [{"message": "(?=out of memory)", "action": "Fail"}]}},
        ("spec.recovery.rules[0]", "not a regular expression as RE2 has them"),
    ),
    "a rule for a stage that isn't there": (
        {"spec.recovery": {"rules": [{"stages": ["bass"], "action": "Fail"}]}},
        ("spec.recovery", "stage", "use"),
    ),
    "a profile that ends before it begins": (
        {"spec.stages.1.pretrain.profile": {"steps": [15, 10]}},
        ("profile", "the first and the last step of 100 at most"),
    ),
    "a profile of later steps than there are": (
        {"spec.stages.1.pretrain.profile": {"steps": [95, 101]}},
        ("profile", "there are fewer steps", "profile earlier ones"),
    ),
    "a run's name that can't name pods": (
        {"metadata.name": "my.run"},
        ("a run's name begins with a letter and holds lower-case letters, digits and '-'", "rename the run"),
    ),
    "a run's name that is too long beside the stages'": (
        {"metadata.name": "r" * 45},
        ("the run's name and each stage's name may have 50 characters together", "shorten one"),
    ),
}


def changed(changes: Changes) -> dict[str, Any]:
    """The good run with these changes."""
    manifest = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *parents, last = path.split(".")
        target: Any = manifest
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target[part]
        if value is LEFT_OUT:
            del target[last]
        elif isinstance(target, list):
            target[int(last)] = value
        else:
            target[last] = value
    return manifest
