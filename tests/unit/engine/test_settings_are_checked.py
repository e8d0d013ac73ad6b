"""What can't be trained is refused at the start, by the name of its field and with a way out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from training import TINY, TINY_GPT2_WITH_DROPOUT, TINY_LLAMA, a_corpus, a_job
from trainyard_api.training_stages import ModelSettings, PretrainStage
from trainyard_trainer.data.objectives.next_token import NextToken
from trainyard_trainer.engine.batches import Batches
from trainyard_trainer.engine.configuration import deepspeed_configuration
from trainyard_trainer.engine.sequence_parallel import share_sequences
from trainyard_trainer.engine.tensor_parallel import sharing_layers
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.group import Group
from trainyard_trainer.models.build import build_model, model_config
from transformers import PretrainedConfig


def config_of(model: dict[str, Any], **more: Any) -> PretrainedConfig:
    settings = ModelSettings(type=model["type"], config=model["config"] | more)
    return model_config(settings, vocab_size=300, end_of_text=0, sequence_length=16)


MODEL_MISTAKES = {
    "a misspelt key": ({"hidden_sise": 64}, r"pretrain\.model\.config\.hidden_sise: .*hidden_size"),
    "a key of the other type": ({"n_embd": 64}, r"pretrain\.model\.config\.n_embd: unknown for llama"),
    "a type of weights, which DeepSpeed decides": ({"dtype": "bfloat16"}, r"pretrain\.model\.config\.dtype: unknown"),
    "fewer positions than a sequence has": (
        {"max_position_embeddings": 8},
        r"pretrain\.model\.config\.max_position_embeddings: 8 .*pretrain\.sequenceLength, 16",
    ),
    "heads that don't divide the width": ({"num_attention_heads": 3}, r"pretrain\.model\.config: .*multiple"),
    "a number that is a text": ({"hidden_size": "wide"}, r"pretrain\.model\.config: .*hidden_size"),
    "an activation that doesn't exist": ({"hidden_act": "wavy"}, r"pretrain\.model\.config: .*wavy"),
}


@pytest.mark.parametrize(("more", "message"), MODEL_MISTAKES.values(), ids=MODEL_MISTAKES.keys())
def test_a_mistake_in_the_model(more: dict[str, Any], message: str) -> None:
    with pytest.raises(PermanentError, match=message):
        build_model(config_of(TINY_LLAMA, **more), seed=0)


@pytest.mark.parametrize("model", [TINY_LLAMA, TINY_GPT2_WITH_DROPOUT], ids=["llama", "gpt2"])
def test_first_weights_are_a_function_of_the_seed(model: dict[str, Any]) -> None:
    config = config_of(model)
    one = build_model(config, seed=1).state_dict()
    torch.rand(3)
    again, other = build_model(config, seed=1).state_dict(), build_model(config, seed=2).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_the_model_follows_the_tokenizer_and_the_stage() -> None:
    config = config_of(TINY_GPT2_WITH_DROPOUT)
    assert (config.vocab_size, config.n_positions, config.eos_token_id) == (300, 16, 0)
    assert build_model(config, seed=0).config._attn_implementation == "sdpa"


DEEPSPEED_MISTAKES = {
    "bf16 without ZeRO": ({"bf16": {"enabled": True}}, r"pretrain\.deepspeed\.zero_optimization\.stage: 0 with bf16"),
    "fp16": ({"fp16": {"enabled": True}}, r"pretrain\.deepspeed\.fp16: .*use bf16"),
    "optimizer state on NVMe": (
        {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}},
        r"pretrain\.deepspeed\.zero_optimization\.offload_optimizer\.device: nvme",
    ),
    "optimizer state offloaded that isn't partitioned": (
        {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
        r"pretrain\.deepspeed\.zero_optimization\.offload_optimizer: .*stage 0; use stage 1 or 2 or 3",
    ),
    "parameters offloaded that aren't partitioned": (
        {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
        r"pretrain\.deepspeed\.zero_optimization\.offload_param: .*stage 2; use stage 3, or",
    ),
    "gradients dealt out round robin": (
        {"zero_optimization": {"stage": 2, "round_robin_gradients": True}},
        r"pretrain\.deepspeed\.zero_optimization\.round_robin_gradients: .*leave it out",
    ),
    "tensor parallelism": (
        {"tensor_parallel": {"autotp_size": 2}},
        r"pretrain\.deepspeed\.tensor_parallel: set tensorParallel",
    ),
    "sequence parallelism": (
        {"sequence_parallel_size": 2},
        r"pretrain\.deepspeed\.sequence_parallel_size: set sequenceParallel",
    ),
    "activation checkpointing by DeepSpeed": (
        {"activation_checkpointing": {"partition_activations": True}},
        r"pretrain\.deepspeed\.activation_checkpointing: .*set activationCheckpointing",
    ),
    "DeepCompile": ({"compile": {"deepcompile": True}}, r"pretrain\.deepspeed\.compile: .*set compile"),
    "ZeRO that is no object": ({"zero_optimization": 2}, r"pretrain\.deepspeed\.zero_optimization: must be an object"),
}


@pytest.mark.parametrize(("section", "message"), DEEPSPEED_MISTAKES.values(), ids=DEEPSPEED_MISTAKES.keys())
def test_a_mistake_in_the_deepspeed_section(section: dict[str, Any], message: str) -> None:
    with pytest.raises(PermanentError, match=message):
        deepspeed_configuration(PretrainStage.model_validate(TINY | {"deepspeed": section}), accumulation=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_corpus(tmp_path_factory.mktemp("prepared")) / "train"


def batches(corpus: Path, world_size: int, rank: int = 0, **settings: Any) -> Batches:
    stage = PretrainStage.model_validate(TINY | settings)
    job = a_job("pretrain", Path("/storage/base"), TINY, {})
    objective = NextToken(stage.sequence_length, begin=0)
    rows = dict.fromkeys(stage.parts, objective.open(corpus))
    return Batches(rows, objective, stage, Group(job, 1, rank, world_size, rank, Path("/storage/base"), {}))


BATCH_MISTAKES = {
    "a batch that ranks can't share": ({"globalBatch": 6}, r"pretrain\.globalBatch: 6 .*use a multiple of 4"),
    "a batch that is more than all the text": (
        {"globalBatch": 4096, "sequenceLength": 64},
        r"pretrain\.globalBatch: 4096 of 4096 sequences come from corpus \(pretrain\.data\).*pretrain\.sequenceLength",
    ),
    "a share of the batch that is more than all the text of a part": (
        {"globalBatch": 1024, "data": None, "mixture": [{"data": "a", "weight": 1}, {"data": "b", "weight": 3}]},
        r"globalBatch: 768 of 1024 .*from b \(pretrain\.mixture\[1\]\.data\), more than .*or its weight, or prepare more text",
    ),
}


@pytest.mark.parametrize(("settings", "message"), BATCH_MISTAKES.values(), ids=BATCH_MISTAKES.keys())
def test_a_mistake_in_the_batch(corpus: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PermanentError, match=message):
        batches(corpus, 2, **settings)


def test_ranks_that_share_sequences_have_the_same_rows_and_each_its_part_of_them(corpus: Path) -> None:
    [whole] = batches(corpus, 1, globalBatch=2).micro_batches(5)
    of_ranks = [
        [*batches(corpus, 4, rank, sequenceParallel=2, microBatch=1, globalBatch=2).micro_batches(5)]
        for rank in range(4)
    ]
    for row, sharers in enumerate((of_ranks[:2], of_ranks[2:])):
        assert torch.cat([batch.labels for [batch] in sharers], 1).tolist() == [whole.labels[row].tolist()]
        for name in ("input_ids", "position_ids"):
            assert torch.cat([batch.inputs[name] for [batch] in sharers], 1).tolist() == [
                whole.inputs[name][row].tolist()
            ]
        for [batch] in sharers:
            assert batch.inputs["whole_position_ids"].tolist() == [whole.inputs["position_ids"][row].tolist()]


LAYER_MISTAKES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "heads that ranks can't share": ("qwen3", {"num_key_value_heads": 1}, {}, "num_key_value_heads, 1; use a divisor"),
    "another family": ("gpt2", {}, {}, "layers of llama and qwen3 are shared, not of gpt2"),
    "ZeRO 3": (
        "llama",
        {},
        {"deepspeed": {"zero_optimization": {"stage": 3}}},
        "use zero_optimization.stage 0, 1 or 2",
    ),
    "adapters": ("llama", {}, {"model": {"stage": "base", "lora": {"rank": 4}}}, "adapters are too small"),
}


@pytest.mark.parametrize(("model", "config", "settings", "message"), LAYER_MISTAKES.values(), ids=LAYER_MISTAKES.keys())
def test_a_model_whose_layers_can_not_be_shared(
    model: str, config: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    stage = PretrainStage.model_validate(TINY | {"tensorParallel": 2} | settings)
    built = ModelSettings.model_validate({"type": model, "config": FAMILIES[model]["config"] | config})
    with pytest.raises(PermanentError, match=r"pretrain\.tensorParallel: .*" + message):
        sharing_layers(
            stage, build_model(model_config(built, vocab_size=20, end_of_text=0, sequence_length=16), seed=0)
        )


SHARING_MISTAKES = {
    "heads that ranks can't share": (
        "llama",
        {"num_attention_heads": 2, "num_key_value_heads": 1},
        "num_key_value_heads, 1",
    ),
    "an encoder": ("bert", {}, "only decoders share sequences; leave it out for bert"),
}


@pytest.mark.parametrize(("model", "config", "message"), SHARING_MISTAKES.values(), ids=SHARING_MISTAKES.keys())
def test_a_model_whose_sequences_can_not_be_shared(model: str, config: dict[str, Any], message: str) -> None:
    stage = PretrainStage.model_validate(TINY | {"sequenceParallel": 2})
    settings = ModelSettings.model_validate({"type": model, "config": FAMILIES[model]["config"] | config})
    built = build_model(model_config(settings, vocab_size=20, end_of_text=0, sequence_length=16), seed=0)
    with pytest.raises(PermanentError, match=r"pretrain\.sequenceParallel: .*" + message):
        share_sequences(built, stage)


def test_a_global_batch_holds_the_same_samples_for_any_number_of_ranks(corpus: Path) -> None:
    def rows(world_size: int) -> list[list[int]]:
        parts = [list(batches(corpus, world_size, rank).micro_batches(5)) for rank in range(world_size)]
        return sorted(torch.cat([batch.labels for part in parts for batch in part]).tolist())

    assert len(rows(1)) == 8
    assert rows(1) == rows(2) == rows(4)
