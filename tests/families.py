"""The smallest model of each family, without dropout."""

from typing import Any

_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"type": "llama", "config": _SIZES | {"num_key_value_heads": 2}},
    "qwen3": {"type": "qwen3", "config": _SIZES | {"num_key_value_heads": 2, "head_dim": 8}},
    "gpt2": {
        "type": "gpt2",
        "config": {"n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    },
    "t5": {
        "type": "t5",
        "config": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0},
    },
    "bert": {"type": "bert", "config": _SIZES | _NO_DROPOUT},
    "modernbert": {"type": "modernbert", "config": _SIZES | {"local_attention": 8}},
}
