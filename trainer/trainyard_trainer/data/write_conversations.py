"""Conversations, and preferences among them, as shards: what the tokenizer's template writes, with what the assistant says
beside the tokens.

Of pairs, what was chosen lies as any conversation does, and what was not in a folder within. Single responses that are good or
not lie likewise, each beside one that answers another prompt, by which KTO measures how far the policy has gone.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..errors import PermanentError
from .conversations import ChatTokens, Message, Rating, UnusableError
from .corpus import FOLDERS, Kept, Split
from .shards import DESIRABLE, MARGINS, REJECTED, RESPONSES, ShardWriter, token_dtype
from .tokenizer import load_tokenizer

_Sided = tuple[Kept, list[list[Message]], float]
"""A document, its conversations, and the figure that goes with them."""


def write_conversations(
    documents: Iterator[Kept], format: str, folder: Path, shard_tokens: int, tell: Callable[[int, int], None]
) -> dict[Split, ShardWriter]:
    """Tokenise documents of a format that has roles into the shards of their split, with the tokenizer in the folder.

    `tell(documents, tokens)` hears how many are done.
    """
    chat = ChatTokens(folder / "tokenizer")
    dtype = token_dtype(load_tokenizer(folder / "tokenizer").get_vocab_size())
    figures: dict[Split, list[float]] = {split: [] for split in FOLDERS}
    with ExitStack() as open_files:

        def writers(split: Split, *below: str) -> tuple[ShardWriter, ShardWriter]:
            place = folder.joinpath(FOLDERS[split], *below)
            tokens = ShardWriter(place, dtype, shard_tokens)
            responses = ShardWriter(place / RESPONSES, np.dtype("u1"), shard_tokens)
            return open_files.enter_context(tokens), open_files.enter_context(responses)

        places = [()] if format == "conversations" else [(), (REJECTED,)]
        sides = [{split: writers(split, *place) for split in FOLDERS} for place in places]
        splits = {split: tokens for split, (tokens, _) in sides[0].items()}
        for document, conversations, figure in _READ[format](documents):
            figures[document.split].append(figure)
            for side, messages in zip(sides, conversations, strict=True):
                to_tokens, to_responses = side[document.split]
                tokens, learned = _encode(chat, messages, document)
                to_tokens.write(tokens, document.num_bytes)
                to_responses.write(learned, document.num_bytes)
            tell(sum(it.num_documents for it in splits.values()), sum(it.num_tokens for it in splits.values()))
    for split, each in figures.items():
        place = folder / FOLDERS[split] / REJECTED
        if format == "unpaired":
            np.save(place / DESIRABLE, np.array(each, dtype=bool))
        elif any(each):
            np.save(place / MARGINS, np.array(each, dtype=np.float32))
    return splits


def _encode(chat: ChatTokens, messages: list[Message], document: Kept) -> tuple[list[int], list[int]]:
    try:
        return chat.encode(messages)
    except UnusableError as error:
        raise PermanentError(
            f"prepare.chatTemplate: {error}: {document.text[:200]}; give another template, or leave such rows out"
        ) from None


def _conversations(documents: Iterator[Kept]) -> Iterator[_Sided]:
    for document in documents:
        yield document, [json.loads(document.text)], 0.0


def _preferences(documents: Iterator[Kept]) -> Iterator[_Sided]:
    """With their margins."""
    for document in documents:
        said = json.loads(document.text)
        yield document, said["sides"], said["margin"]


def _unpaired(documents: Iterator[Kept]) -> Iterator[_Sided]:
    """Each beside its prompt with the response to the prompt before it in its split, the first with that to the one after it;
    and whether it is good.
    """
    before: dict[Split, Message] = {}
    first: dict[Split, tuple[Kept, Rating]] = {}

    def beside(document: Kept, said: Rating, other: Message) -> _Sided:
        messages = said["messages"]
        return document, [messages, [*messages[:-1], other]], float(said["desirable"])

    for document in documents:
        said: Rating = json.loads(document.text)
        if document.split not in before:
            first[document.split] = document, said
        else:
            if document.split in first:
                yield beside(*first.pop(document.split), said["messages"][-1])
            yield beside(document, said, before[document.split])
        before[document.split] = said["messages"][-1]
    for document, said in first.values():
        yield beside(document, said, said["messages"][-1])


_READ = {"conversations": _conversations, "preferences": _preferences, "unpaired": _unpaired}
