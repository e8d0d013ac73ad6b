"""The tokenizer writes every text and gives it back."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from trainyard_trainer.data.tokenizer import END_OF_TEXT, END_OF_TEXT_ID, save_tokenizer, token_bytes, train_tokenizer

TEXTS = st.one_of(
    st.text(),
    st.binary().map(lambda raw: raw.decode(errors="replace")),
    st.lists(st.sampled_from([END_OF_TEXT, " ", "\n", "\r", "\0", "the", "🦜", "\u202e", "\ufffd"])).map("".join),
)


@cache
def trained() -> tuple[Tokenizer, list[bytes]]:
    tokenizer = train_tokenizer(iter(["the parrot is no more, the parrot has ceased to be 🦜🦜 "] * 3), vocab_size=300)
    with TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, Path(folder, "tokenizer"))
        return tokenizer, token_bytes(Path(folder, "tokenizer"))


@given(TEXTS)
def test_any_text_comes_back_as_it_was(text: str) -> None:
    tokenizer, table = trained()
    tokens = tokenizer.encode(text).ids
    assert tokenizer.decode(tokens, skip_special_tokens=False) == text
    assert b"".join(table[token] for token in tokens) == text.encode()


@given(TEXTS)
def test_no_text_holds_an_end_of_text(text: str) -> None:
    assert END_OF_TEXT_ID not in trained()[0].encode(text).ids


def test_all_bytes_and_the_end_of_text_are_in_the_vocabulary() -> None:
    tokenizer, table = trained()
    assert tokenizer.token_to_id(END_OF_TEXT) == END_OF_TEXT_ID
    assert {bytes([byte]) for byte in range(256)} <= set(table)
    assert len(set(table)) == tokenizer.get_vocab_size()
