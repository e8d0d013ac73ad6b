"""Text that a model writes after prompts."""

from typing import Any

import torch
from tokenizers import Tokenizer
from trainyard_api.objectives import CONVERSING
from trainyard_api.stages import SampleSettings

from ..checkpoint.trained import TrainedModel
from ..data.conversations import ChatTokens, Message
from ..data.special_tokens import special_tokens
from ..errors import PermanentError


def write_samples(trained: TrainedModel, settings: SampleSettings, seed: int) -> list[dict[str, str]]:
    """[{prompt, text}]: what follows each prompt, which begins a document, up to an end of text or the model's context. A model
    of conversations is told each prompt, and answers.

    The seed decides.
    """
    tokenizer = Tokenizer.from_file(str(trained.tokenizer / "tokenizer.json"))
    return [
        {"prompt": prompt, "text": _continue(trained, tokenizer, prompt, settings, seed + number)}
        for number, prompt in enumerate(settings.prompts)
    ]


def _continue(trained: TrainedModel, tokenizer: Tokenizer, prompt: str, settings: SampleSettings, seed: int) -> str:
    asked = (
        ChatTokens(trained.tokenizer).prompt([Message(role="user", content=prompt)])
        if trained.objective in CONVERSING
        else tokenizer.encode(prompt, add_special_tokens=False).ids
    )
    tokens = [special_tokens(trained.tokenizer).begin, *asked]
    room = trained.sequence_length - len(tokens)
    if room < 1:
        raise PermanentError(
            f"evaluate.samples.prompts: {prompt[:40]!r}… has {len(tokens) - 1} tokens, and the model's context is "
            f"{trained.sequence_length}; shorten it"
        )
    torch.manual_seed(seed)
    draw = {"do_sample": True, "temperature": settings.temperature, "top_k": 0} if settings.temperature else {}
    prompt_BT = torch.tensor([tokens], device=trained.model.device)
    generate: Any = trained.model.generate
    written_BT = generate(
        prompt_BT,
        attention_mask=torch.ones_like(prompt_BT),
        max_new_tokens=min(settings.max_new_tokens, room),
        pad_token_id=trained.end_of_text,
        **draw,
    )
    return tokenizer.decode(written_BT[0, len(tokens) :].tolist())
