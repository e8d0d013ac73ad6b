"""Parameters and FLOPs of a Transformer, from its configuration alone: no weights, no torch.

Each family of models is one function here, from the fields of its transformers configuration to an `Architecture`; a test
counts the parameters of transformers' own models and compares. FLOPs are those of the PaLM paper (Chowdhery et al. 2022,
appendix B): 6 for each weight that a token is multiplied with, forward and backward, and 12·H·Q·K a layer for a token that
attends to K others. Weights in matrix multiplications are counted, the head as well; embeddings are looked up, norms and
biases are nothing beside them. Attention counts in full, though half of a causal one is masked: so do the figures of others.

GPT-2 124M at 1,024 tokens: 6 × 123,532,032 + 12 × 12 × 12 × 64 × 1,024 = 854,438,400 a token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Config = Mapping[str, Any]
Side = Literal["encoder", "decoder"]

FORMULA = "6·N + 12·L·H·Q·T a token (N: weights in matrix multiplications, the head included)"


@dataclass(frozen=True)
class Stack:
    """Layers of one shape, one after the other."""

    side: Side
    layers: int
    hidden: int
    heads: int
    head_size: int
    key_heads: int
    """Heads that have keys and values of their own."""
    inner: int
    """Width of the feed-forward part."""
    gated: bool
    """Whether the feed-forward part multiplies two projections: three matrices, not two."""
    matrices: int
    """Weights of all matrices of one layer, without what reads the other stack."""
    vectors: int
    """Norms and biases of one layer."""
    cross: int = 0
    """Weights of the matrices with which one layer reads the encoder: half of them are multiplied with its tokens."""
    windows: tuple[int, ...] = ()
    """Tokens that each layer attends to, where that is bounded; 0 where it isn't."""
    norm: Literal["rms", "layer"] = "rms"

    @property
    def queries(self) -> int:
        """Width of all queries together."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of all keys together."""
        return self.key_heads * self.head_size

    def attended(self, tokens: int) -> int:
        """Tokens that one token attends to, summed over the layers."""
        return sum(min(tokens, window or tokens) for window in self.windows or (0,) * self.layers)


@dataclass(frozen=True)
class Architecture:
    """What a model is made of."""

    vocabulary: int
    hidden: int
    stacks: tuple[Stack, ...]
    tied: bool
    """Whether the head is the token embedding."""
    embeddings: int
    """Weights that are looked up: tokens, positions, token types."""
    others: int
    """Final norms, biases of the head, tables of relative positions."""
    head_matrices: int = 0
    """Weights between the last layer and the head."""
    head: int = field(init=False)
    """Weights of the head."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", self.vocabulary * self.hidden)

    @property
    def parameters(self) -> int:
        """All of them, tied ones once."""
        layers = sum(stack.layers * (stack.matrices + stack.cross + stack.vectors) for stack in self.stacks)
        return self.embeddings + layers + self.others + self.head_matrices + (0 if self.tied else self.head)

    @property
    def in_layers(self) -> int:
        """Weights of all layers' matrices."""
        return sum(stack.layers * (stack.matrices + stack.cross) for stack in self.stacks)

    @property
    def multiplied(self) -> int:
        """N: weights in matrix multiplications, the head included."""
        return self.in_layers + self.head_matrices + self.head

    def flops(self, tokens: int, source_tokens: int = 0) -> int:
        """To train on one sequence: of so many tokens, and for an encoder-decoder so many source tokens."""
        total = 6 * tokens * (self.head + self.head_matrices)
        both = len({stack.side for stack in self.stacks}) == 2
        for stack in self.stacks:
            own = source_tokens if both and stack.side == "encoder" else tokens
            per_pair = 12 * stack.queries
            total += 6 * own * stack.layers * stack.matrices + per_pair * own * stack.attended(own)
            if stack.cross:
                total += 3 * (own + source_tokens) * stack.layers * stack.cross
                total += per_pair * own * source_tokens * stack.layers
        return total

    def flops_per_token(self, sequence_length: int) -> int:
        """To train on one token of a sequence; an encoder-decoder's source is taken to be as long."""
        return self.flops(sequence_length, sequence_length) // sequence_length


def architecture(family: str, config: Config) -> Architecture | None:
    """Of a model type and its configuration, `vocab_size` and positions in it; None for a family that isn't known here."""
    return FAMILIES[family](config) if family in FAMILIES else None


def _size(config: Config, default: int, *names: str) -> int:
    """A field under any of its names."""
    return int(next((config[name] for name in names if config.get(name) is not None), default))


def _llama(config: Config) -> Architecture:
    return _llama_like({"vocab_size": 32000, "intermediate_size": 11008, **config}, query_norm=False)


def _qwen3(config: Config) -> Architecture:
    defaults = {"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32, "head_dim": 128}
    return _llama_like({**defaults, **config}, query_norm=True)


def _llama_like(config: Config, *, query_norm: bool) -> Architecture:
    """Rotary positions, RMS norms before each part, a gated feed-forward part; key heads may be fewer than heads."""
    hidden, vocabulary, inner = _size(config, 4096, "hidden_size"), config["vocab_size"], config["intermediate_size"]
    heads = _size(config, 32, "num_attention_heads")
    keys = _size(config, heads, "num_key_value_heads")
    size = _size(config, hidden // heads, "head_dim")
    layers = _size(config, 32, "num_hidden_layers")
    tied = bool(config.get("tie_word_embeddings", False))
    biases = (heads + 2 * keys) * size + hidden if config.get("attention_bias") else 0
    biases += 2 * inner + hidden if config.get("mlp_bias") else 0
    stack = Stack(
        side="decoder",
        layers=layers,
        hidden=hidden,
        heads=heads,
        head_size=size,
        key_heads=keys,
        inner=inner,
        gated=True,
        matrices=hidden * size * 2 * (heads + keys) + 3 * hidden * inner,
        vectors=2 * hidden + (2 * size if query_norm else 0) + biases,
    )
    return Architecture(vocabulary, hidden, (stack,), tied, embeddings=vocabulary * hidden, others=hidden)


def _gpt2(config: Config) -> Architecture:
    """Learned positions, layer norms and biases everywhere."""
    hidden, vocabulary = _size(config, 768, "n_embd", "hidden_size"), _size(config, 50257, "vocab_size")
    heads = _size(config, 12, "n_head", "num_attention_heads")
    inner = _size(config, 4 * hidden, "n_inner")
    positions = _size(config, 1024, "n_positions", "max_position_embeddings")
    stack = Stack(
        side="decoder",
        layers=_size(config, 12, "n_layer", "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        head_size=hidden // heads,
        key_heads=heads,
        inner=inner,
        gated=False,
        matrices=4 * hidden * hidden + 2 * hidden * inner,
        vectors=4 * hidden + 4 * hidden + inner + hidden,
        norm="layer",
    )
    tied = bool(config.get("tie_word_embeddings", True))
    return Architecture(
        vocabulary, hidden, (stack,), tied, embeddings=(vocabulary + positions) * hidden, others=2 * hidden
    )


def _bert(config: Config) -> Architecture:
    """An encoder with norms after each part, and a head of a dense layer, a norm and the tied embedding with a bias."""
    hidden, vocabulary = _size(config, 768, "hidden_size"), _size(config, 30522, "vocab_size")
    heads = _size(config, 12, "num_attention_heads")
    inner = _size(config, 3072, "intermediate_size")
    looked_up = vocabulary + _size(config, 512, "max_position_embeddings") + _size(config, 2, "type_vocab_size")
    stack = Stack(
        side="encoder",
        layers=_size(config, 12, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        head_size=hidden // heads,
        key_heads=heads,
        inner=inner,
        gated=False,
        matrices=4 * hidden * hidden + 2 * hidden * inner,
        vectors=4 * hidden + 4 * hidden + inner + hidden,
        norm="layer",
    )
    return Architecture(
        vocabulary,
        hidden,
        (stack,),
        tied=bool(config.get("tie_word_embeddings", True)),
        embeddings=looked_up * hidden,
        others=2 * hidden + 3 * hidden + vocabulary,
        head_matrices=hidden * hidden,
    )


def _modernbert(config: Config) -> Architecture:
    """An encoder with rotary positions, norms before each part, a gated feed-forward part, most layers with a window."""
    hidden, vocabulary = _size(config, 768, "hidden_size"), _size(config, 50368, "vocab_size")
    heads, layers = _size(config, 12, "num_attention_heads"), _size(config, 22, "num_hidden_layers")
    inner = _size(config, 1152, "intermediate_size")
    every, window = _size(config, 3, "global_attn_every_n_layers"), _size(config, 128, "local_attention")
    norm = 2 * hidden if config.get("norm_bias") else hidden
    biases = 4 * hidden if config.get("attention_bias") else 0
    biases += 2 * inner + hidden if config.get("mlp_bias") else 0
    stack = Stack(
        side="encoder",
        layers=layers,
        hidden=hidden,
        heads=heads,
        head_size=hidden // heads,
        key_heads=heads,
        inner=inner,
        gated=True,
        matrices=4 * hidden * hidden + 3 * hidden * inner,
        vectors=2 * norm + biases,
        windows=tuple(window if layer % every else 0 for layer in range(layers)),
        norm="layer",
    )
    head = norm + (hidden if config.get("classifier_bias") else 0)
    head += vocabulary if config.get("decoder_bias", True) else 0
    return Architecture(
        vocabulary,
        hidden,
        (stack,),
        tied=bool(config.get("tie_word_embeddings", True)),
        embeddings=vocabulary * hidden,
        others=norm + head,  # one norm behind the embeddings and one at the end, for the first layer lacks its first
        head_matrices=hidden * hidden,
    )


def _t5(config: Config) -> Architecture:
    """An encoder and a decoder, relative positions, RMS norms before each part, no biases; heads have a size of their own."""
    hidden, vocabulary = _size(config, 512, "d_model", "hidden_size"), _size(config, 32128, "vocab_size")
    heads, size = _size(config, 8, "num_heads", "num_attention_heads"), _size(config, 64, "d_kv", "head_dim")
    inner = _size(config, 2048, "d_ff")
    layers = _size(config, 6, "num_layers", "num_hidden_layers")
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    attention = 4 * hidden * heads * size

    def stack(side: Side, layers: int, norms: int, cross: int) -> Stack:
        return Stack(
            side=side,
            layers=layers,
            hidden=hidden,
            heads=heads,
            head_size=size,
            key_heads=heads,
            inner=inner,
            gated=gated,
            matrices=attention + (3 if gated else 2) * hidden * inner,
            vectors=norms * hidden,
            cross=cross,
        )

    tables = 2 * _size(config, 32, "relative_attention_num_buckets") * heads
    return Architecture(
        vocabulary,
        hidden,
        (
            stack("encoder", layers, norms=2, cross=0),
            stack("decoder", _size(config, layers, "num_decoder_layers"), norms=3, cross=attention),
        ),
        tied=True,  # transformers unties no T5: the field scales what goes into the head
        embeddings=vocabulary * hidden,
        others=2 * hidden + tables,
    )


FAMILIES: dict[str, Callable[[Config], Architecture]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "gpt2": _gpt2,
    "bert": _bert,
    "modernbert": _modernbert,
    "t5": _t5,
}
"""Model type, as transformers names it → what it is made of. A new family is one entry."""
