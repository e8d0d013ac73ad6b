"""Responses for people to compare, drawn from models: of each prompt so many, of all models in turn.

A model is in memory at a time. Each response has a seed of its own, from the run's, the prompt's number and its own, so what is
drawn does not depend on what was drawn before it.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trainyard_api.collect_settings import CollectStage
from trainyard_api.objectives import CONVERSING

from ..checkpoint.trained import TrainedModel, load_trained
from ..data.conversations import ChatTokens
from ..data.fetched import fetch_file
from ..data.special_tokens import special_tokens
from ..data.tokenizer import load_tokenizer
from ..errors import PermanentError
from ..group import Group
from .items import Item, Message, Response


def draw_items(stage: CollectStage, group: Group, tell: Callable[[int, int], None]) -> list[Item]:
    """The items of all prompts. `tell(done, of)` hears of each response."""
    settings = stage.draw
    assert settings
    root, field = group.job.storage_uri, "collect.draw.prompts"
    prompts = read_prompts(fetch_file(settings.prompts, root, field, lambda _: tell(0, 1)))
    places = [(number, place) for number in range(len(prompts)) for place in range(settings.responses)]
    drawn: dict[tuple[int, int], Response] = {}
    for each, model in enumerate(settings.models):
        trained = load_trained(group.inputs[f"draw.models[{each}]"])
        writer = _Writer(trained, f"draw.models[{each}]")
        for number, place in places:
            if place % len(settings.models) != each:
                continue
            temperature = settings.temperatures[place % len(settings.temperatures)]
            seed = _seed(group.job.seed, number, place)
            text = writer.write(prompts[number], temperature, settings.max_new_tokens, seed)
            drawn[number, place] = Response(text=text, model=model, temperature=temperature, seed=seed)
            tell(len(drawn), len(places))
    return [
        Item(
            id=f"{number:06}-{hashlib.sha256(json.dumps([it.model_dump() for it in turns]).encode()).hexdigest()[:8]}",
            prompt=turns[0].content if len(turns) == 1 and turns[0].role == "user" else turns,
            responses=tuple(drawn[number, place] for place in range(settings.responses)),
        )
        for number, turns in enumerate(prompts)
    ]


def read_prompts(path: Path) -> list[tuple[Message, ...]]:
    """The turns before the response, of each row. PermanentError names the row that has none."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"collect.draw.prompts: {path}: {error}; put JSONL there, or correct the path") from None
    for number, line in enumerate(filter(str.strip, lines), 1):
        try:
            row = json.loads(line)
            turns = row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
            found.append(tuple(Message.model_validate(turn) for turn in turns))
        except (ValueError, KeyError, TypeError) as error:
            raise PermanentError(
                f"collect.draw.prompts: {path}:{number}: neither `prompt` nor `messages` ({error}); mend or remove the row"
            ) from None
    if not found:
        raise PermanentError(f"collect.draw.prompts: {path}: no row; give prompts to draw responses to")
    return found


class _Writer:
    """One model, as it answers."""

    def __init__(self, trained: TrainedModel, field: str) -> None:
        if trained.objective not in CONVERSING:
            raise PermanentError(
                f"collect.{field}: was trained on {trained.objective}, and answers nothing; name an sft or dpo stage"
            )
        self._trained, self._field = trained, field
        self._chat = ChatTokens(trained.tokenizer)
        self._tokenizer = load_tokenizer(trained.tokenizer)
        self._begin = special_tokens(trained.tokenizer).begin
        if torch.cuda.is_available():
            trained.model.to("cuda")

    def write(self, turns: tuple[Message, ...], temperature: float, max_new_tokens: int, seed: int) -> str:
        """A response to these turns."""
        told = [{"role": turn.role, "content": turn.content} for turn in turns]
        tokens = [self._begin, *self._chat.prompt(told)]  # type: ignore[arg-type]
        room = self._trained.sequence_length - len(tokens)
        if room < 1:
            raise PermanentError(
                f"collect.draw.prompts: {turns[-1].content[:40]!r}… has {len(tokens)} tokens, and the context of the model in "
                f"{self._field} is {self._trained.sequence_length}; shorten it"
            )
        model: Any = self._trained.model
        torch.manual_seed(seed)
        prompt_BT = torch.tensor([tokens], device=model.device)
        with torch.no_grad():
            written_BT = model.generate(
                prompt_BT,
                attention_mask=torch.ones_like(prompt_BT),
                max_new_tokens=min(max_new_tokens, room),
                do_sample=True,
                temperature=temperature,
                top_k=0,
                pad_token_id=self._trained.end_of_text,
            )
        return self._tokenizer.decode(written_BT[0, len(tokens) :].tolist()).strip()


def _seed(seed: int, number: int, place: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {number} {place}".encode()).digest()[:4]) % 2**31
