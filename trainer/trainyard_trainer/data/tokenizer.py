"""A byte-level BPE tokenizer (Sennrich et al. 2016 on bytes, as GPT-2 has it), trained on the corpus itself.

All 256 bytes are in the vocabulary, so every text can be written and comes back as it was; there is no unknown token
and no normalisation. The end-of-text token ends each document. Where a document's own text spells it out it is
ordinary text: a document can't pretend to end. Training has no randomness (ties go by token number), so the same text
gives the same file, byte by byte.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEMPLATE_FILE = "chat_template.jinja"
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE_FILE,
)
"""What a folder may have of a tokenizer; without the first two it has none."""
PLAIN_TEMPLATE = """\
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- '<|assistant|>\\n' }}
{%- generation %}{{ message['content'] + eos_token }}{% endgeneration %}
{{- '\\n' }}
{%- else %}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>\\n' }}
{%- endif %}"""
"""A chat template for tokenizers that have none. Its role marks are ordinary text, so no model needs more tokens."""
END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
"""Special tokens are numbered first, then the bytes, then the merges."""


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of `vocab_size` entries, or fewer where the text has no more pairs that occur twice."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, of ours or any other, for whole texts: what spells a special token is ordinary text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def copy_tokenizer(folder: Path, to: Path) -> None:
    """The files of a tokenizer, as they are."""
    to.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, to / name)


def write_template(given: str | None, folder: Path) -> None:
    """Put a chat template beside a tokenizer; one that has none of its own gets the plain one if none is given."""
    configured = json.loads((folder / "tokenizer_config.json").read_bytes()).get("chat_template")
    if given is not None or not (configured or (folder / TEMPLATE_FILE).exists()):
        (folder / TEMPLATE_FILE).write_text(given or PLAIN_TEMPLATE)


def template_of(folder: Path) -> str:
    """The chat template that a tokenizer's folder has. KeyError if it has none."""
    if (file := folder / TEMPLATE_FILE).exists():
        return file.read_text()
    return str(json.loads((folder / "tokenizer_config.json").read_bytes())["chat_template"])


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the folder that transformers' `AutoTokenizer.from_pretrained` opens."""
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=1))


def token_bytes(folder: Path) -> list[bytes] | None:
    """The bytes that each token stands for, by token number, none for special ones; None if the tokenizer isn't byte-level BPE.

    Needs no `tokenizers`.
    """
    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
    if tokenizer["model"]["type"] != "BPE" or (tokenizer["decoder"] or {}).get("type") != "ByteLevel":
        return None
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    byte_of = {letter: byte for byte, letter in enumerate(_byte_letters())}
    table = [b""] * (max([*vocabulary.values(), *special]) + 1)
    for letters, number in vocabulary.items():
        if number not in special:
            table[number] = bytes(byte_of[letter] for letter in letters)
    return table


def _byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte: itself where it prints, else the next one from U+0100."""
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in prints else chr(next(others)) for byte in range(256)]
