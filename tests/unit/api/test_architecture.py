"""Parameters are counted as transformers' own models have them; FLOPs as the published formula says."""

import pytest
import torch
import transformers
from trainyard_api.architecture import architecture

SMALL = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "intermediate_size": 160,
}
GPT2 = {"n_embd": 96, "n_layer": 3, "n_head": 4, "vocab_size": 512, "n_positions": 64}
T5 = {"d_model": 96, "d_kv": 16, "d_ff": 160, "num_layers": 3, "num_heads": 4, "vocab_size": 512}
MODERNBERT = SMALL | {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
MODELS = {
    "llama": transformers.LlamaForCausalLM,
    "qwen3": transformers.Qwen3ForCausalLM,
    "gpt2": transformers.GPT2LMHeadModel,
    "bert": transformers.BertForMaskedLM,
    "modernbert": transformers.ModernBertForMaskedLM,
    "t5": transformers.T5ForConditionalGeneration,
}
CASES = [
    ("llama", SMALL),
    ("llama", SMALL | {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True}),
    ("llama", SMALL | {"attention_bias": True, "mlp_bias": True}),
    ("qwen3", SMALL | {"num_key_value_heads": 2}),
    ("qwen3", SMALL | {"num_key_value_heads": 4, "head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    ("gpt2", GPT2),
    ("gpt2", GPT2 | {"n_inner": 200, "tie_word_embeddings": False}),
    ("bert", SMALL | {"max_position_embeddings": 64}),
    ("modernbert", MODERNBERT),
    ("modernbert", MODERNBERT | {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "decoder_bias": False}),
    ("t5", T5),
    ("t5", T5 | {"num_decoder_layers": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    *((family, {}) for family in MODELS),
]


@pytest.mark.parametrize(("family", "config"), CASES)
def test_parameters_are_those_of_transformers(family, config):
    model_class = MODELS[family]
    with torch.device("meta"):
        model = model_class(model_class.config_class(**config))
    counted = {id(each): each.numel() for each in model.parameters()}
    assert architecture(family, config).parameters == sum(counted.values())


def test_flops_of_gpt2_124m():
    assert architecture("gpt2", {}).flops_per_token(1024) == 854_438_400


def test_flops_follow_the_formula():
    llama = architecture("llama", SMALL | {"num_key_value_heads": 2})
    in_layers = 3 * (96 * 24 * (4 + 2 + 2 + 4) + 3 * 96 * 160)
    assert llama.multiplied == in_layers + 512 * 96
    assert llama.flops_per_token(64) == 6 * llama.multiplied + 12 * 3 * 96 * 64


def test_a_window_bounds_what_attention_costs():
    wide, narrow = (architecture("modernbert", {"local_attention": window}) for window in (2048, 128))
    windowed_layers = 22 - 8
    assert wide.flops_per_token(1024) - narrow.flops_per_token(1024) == 12 * windowed_layers * 768 * (1024 - 128)


def test_an_encoder_decoder_counts_what_each_side_reads():
    """Of T5's weights, the encoder's and half of the cross-attention's are multiplied with the source's tokens."""
    t5 = architecture("t5", T5)
    attention, inner = 4 * 96 * 64, 2 * 96 * 160
    encoder = 6 * 20 * 3 * (attention + inner) + 12 * 64 * 20 * 20 * 3
    decoder = 6 * 10 * 3 * (attention + inner) + 12 * 64 * 10 * 10 * 3
    cross = 3 * (10 + 20) * 3 * attention + 12 * 64 * 10 * 20 * 3
    assert t5.flops(10, 20) == encoder + decoder + cross + 6 * 10 * 512 * 96
