"""Conversations: from rows of JSONL to messages, and from messages to tokens that are the assistant's or not.

A chat template (Jinja, as tokenizers bring it) writes a conversation as text. What messages say is encoded apart from what the
template writes around it, and as ordinary text: no message can end its turn, or pretend to be somebody else's, by spelling out
a special token. A prompt is encoded in the same pieces before a response is drawn, so that is what training sees, too.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from ..errors import PermanentError
from .special_tokens import special_tokens, token_names
from .tokenizer import load_tokenizer, template_of

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_FIRST_MARK = 0xF0000
"""Of a plane of Unicode for private use: what stands in a text for what messages say."""
_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


class Message(TypedDict):
    """What one side says."""

    role: str
    """system, user or assistant."""
    content: str


class Preference(TypedDict):
    """What one row of preferences says."""

    sides: tuple[list[Message], list[Message]]
    """The conversation that was chosen and the one that was not, alike up to the last response."""
    margin: float
    """By how much what was chosen is better; 0 where the row has none."""


class Rating(TypedDict):
    """What one row says of a single response."""

    messages: list[Message]
    desirable: bool
    """Whether the last response is good."""


class UnusableError(Exception):
    """A conversation that is left out; str(e) is the reason, under which it is counted."""


def conversation(row: dict[str, Any]) -> list[Message]:
    """The messages of a row, up to the last that the assistant says.

    `messages` as [{role, content}], `conversations` as [{from, value}], `prompt` with `completion` or `response`, `instruction`
    with `input` and `output`. Raises UnusableError if there is nothing to learn from it, KeyError if it is none of these.
    """
    messages = [Message(role=role, content=content.strip()) for role, content in _said(row)]
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages:
        raise UnusableError("without response")
    asked = next((each for each in messages if each["role"] != "system"), None)
    if asked is None or asked["role"] != "user" or not asked["content"]:
        raise UnusableError("without prompt")
    if not all(each["content"] for each in messages):
        raise UnusableError("with an empty message")
    return messages


def _said(row: dict[str, Any]) -> list[tuple[str, str]]:
    """(role, content) of each message."""
    if listed := row.get("messages", row.get("conversations")):
        found = [(each.get("role", each.get("from")), each.get("content", each.get("value"))) for each in listed]
        if not all(isinstance(content, str) for _, content in found):
            raise UnusableError("with a message that is no text")
        if unknown := [role for role, _ in found if role not in _ROLES]:
            raise UnusableError(f"with the role {unknown[0]!r}")
        return [(_ROLES[role], content) for role, content in found]
    system = [("system", row["system"])] if row.get("system") else []
    if "instruction" in row:
        asked = "\n\n".join(filter(None, [row["instruction"], row.get("input")]))
        return [*system, ("user", asked), ("assistant", row["output"] or "")]
    response = row["completion"] if "completion" in row else row["response"]
    return [*system, ("user", row["prompt"] or ""), ("assistant", response or "")]


def preference(row: dict[str, Any]) -> Preference:
    """What a row prefers.

    `prompt`, `chosen` and `rejected` as texts or lists of messages; `chosen` and `rejected` as whole conversations, in lists or
    as hh-rlhf writes them; with a `margin` or without. Raises UnusableError if there is nothing to prefer, KeyError if it is
    none of these.
    """
    before = row.get("prompt", [])
    before = [{"role": "user", "content": before}] if isinstance(before, str) else before
    sides = [conversation({"messages": [*before, *_response(row[side])]}) for side in ("chosen", "rejected")]
    chosen, rejected = sides
    if chosen[:-1] != rejected[:-1]:
        raise UnusableError("with responses to different prompts")
    if chosen == rejected:
        raise UnusableError("with equal responses")
    margin = row.get("margin") or 0.0
    if not isinstance(margin, int | float) or not 0 <= margin < math.inf:
        raise UnusableError("with a margin that is no number from 0 on")
    return Preference(sides=(chosen, rejected), margin=float(margin))


def rating(row: dict[str, Any]) -> Rating:
    """A conversation with a `label`, true if its last response is good.

    Raises UnusableError if there is nothing to learn from it, KeyError if it is no such row.
    """
    label = row["label"]
    if not isinstance(label, bool):
        raise UnusableError("with a label that is neither true nor false")
    return Rating(messages=conversation(row), desirable=label)


def _response(given: Any) -> list[dict[str, Any]]:
    """What a side of a pair holds, as messages."""
    if not isinstance(given, str):
        return list(given)
    if not given.lstrip().startswith("Human:"):
        return [{"role": "assistant", "content": given}]
    _, *turns = re.split(r"(?:^|\n\n)(Human|Assistant): ?", given.lstrip())
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said} for who, said in zip(turns[::2], turns[1::2], strict=True)]


@dataclass(frozen=True)
class _Piece:
    text: str
    said: bool
    """By a message; else by the template."""
    learned: bool


class ChatTokens:
    """Conversations as the tokens of one tokenizer."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the tokenizer's, with the template that it is to use."""
        self.template = template_of(folder)
        self._names = token_names(folder)
        special = special_tokens(folder)
        self._begin, self._end = special.begin, special.end
        self._text = load_tokenizer(folder)
        self._marked = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._of_template: dict[str, list[int]] = {}

    def encode(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Tokens, and for each 1 if the assistant says it, else 0; up to the last that it says."""
        tokens, learned = self._encode(self._pieces(messages))
        return tokens[: _last(learned)], learned[: _last(learned)]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of what the assistant is to answer."""
        return self._encode(self._split(messages, [], add_generation_prompt=True))[0]

    def reply(self, content: str) -> list[int]:
        """Tokens of what a user says to the assistant, from after the end of text with which it has ended, up to where it is to
        speak again.
        """
        messages = [
            Message(role=role, content=said)
            for role, said in (("user", "?"), ("assistant", "!"), ("user", content.strip()))
        ]
        pieces = self._split(messages, self._spans(_marked(messages)), add_generation_prompt=True)
        said = [number for number, piece in enumerate(pieces) if piece.said]
        tokens = [token for piece in pieces[said[1] + 1 :] for token in self._tokens(piece)]
        return tokens[1:] if tokens[:1] == [self._end] else tokens

    def _encode(self, pieces: Sequence[_Piece]) -> tuple[list[int], list[int]]:
        tokens: list[int] = []
        learned: list[int] = []
        for piece in pieces:
            part = self._tokens(piece)
            tokens += part
            learned += [int(piece.learned)] * len(part)
        if tokens[:1] == [self._begin]:  # every document is read after that anyway
            return tokens[1:], learned[1:]
        return tokens, learned

    def _tokens(self, piece: _Piece) -> list[int]:
        return self._text.encode(piece.text, add_special_tokens=False).ids if piece.said else self._around(piece.text)

    def _around(self, text: str) -> list[int]:
        if text not in self._of_template:
            self._of_template[text] = self._marked.encode(text, add_special_tokens=False).ids
        return self._of_template[text]

    def _pieces(self, messages: Sequence[Message]) -> list[_Piece]:
        """A conversation in pieces. Raises UnusableError if the template refuses it."""
        try:
            return self._split(messages, self._spans(_marked(messages)))
        except TemplateError as error:
            raise UnusableError(f"refused by the template ({error})") from None

    def _spans(self, marked: Sequence[Message]) -> list[tuple[int, int]]:
        """From where to where the assistant speaks, in the text of a conversation of marks."""
        if _GENERATION.search(self.template):
            return self._render(marked)[1]
        spans = []
        whole, _ = self._render(marked)
        for number, each in enumerate(marked):
            if each["role"] == "assistant":
                before, _ = self._render(marked[:number], add_generation_prompt=True)
                after, _ = self._render(marked[: number + 1])
                if not (after.startswith(before) and whole.startswith(after)):
                    raise PermanentError(
                        "prepare.chatTemplate: what the assistant says can't be told apart, for the template writes earlier "
                        "messages otherwise when others follow; mark it with {% generation %} … {% endgeneration %}"
                    )
                spans.append((len(before), len(after)))
        return spans

    def _split(
        self, messages: Sequence[Message], spans: Sequence[tuple[int, int]], *, add_generation_prompt: bool = False
    ) -> list[_Piece]:
        """The text of a conversation, cut where the template and messages, and where the assistant and others, take turns."""
        text, _ = self._render(_marked(messages), add_generation_prompt=add_generation_prompt)
        marks = [at for at, letter in enumerate(text) if 0 <= ord(letter) - _FIRST_MARK < len(messages)]
        cuts = sorted(
            {0, len(text), *(at for mark in marks for at in (mark, mark + 1)), *(at for span in spans for at in span)}
        )
        pieces = []
        for start, end in pairwise(cuts):
            learned = any(first <= start and end <= last for first, last in spans)
            said = start in marks
            what = messages[ord(text[start]) - _FIRST_MARK]["content"] if said else text[start:end]
            pieces.append(_Piece(what, said, learned))
        whole, _ = self._render(messages, add_generation_prompt=add_generation_prompt)
        if "".join(piece.text for piece in pieces) != whole:
            raise PermanentError(
                "prepare.chatTemplate: the template does not write what messages say as it is, once each; give one that does"
            )
        return pieces

    def _render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        mask = _GENERATION.search(self.template) is not None
        render: Any = render_jinja_template
        texts, spans = render(
            [list(messages)],
            chat_template=self.template,
            return_assistant_tokens_mask=mask,
            add_generation_prompt=add_generation_prompt,
            **self._names,
        )
        return texts[0], [tuple(each) for each in spans[0]] if mask else []


def _marked(messages: Sequence[Message]) -> list[Message]:
    """The same, with a mark in the place of what each says."""
    return [Message(role=each["role"], content=chr(_FIRST_MARK + number)) for number, each in enumerate(messages)]


def _last(learned: Sequence[int]) -> int:
    """The position after the last 1."""
    return max((at + 1 for at, each in enumerate(learned) if each), default=0)
