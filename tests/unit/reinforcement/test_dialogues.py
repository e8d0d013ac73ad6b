"""What an environment answers becomes part of a response, within the tokens that it may have."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from preparing import put, run_prepare
from torch import Tensor
from trainyard_trainer.data.conversations import ChatTokens
from trainyard_trainer.data.special_tokens import special_tokens
from trainyard_trainer.data.tokenizer import load_tokenizer
from trainyard_trainer.reinforcement.dialogues import Answering, Dialogue, Speaking
from trainyard_trainer.reinforcement.generating import Drawn
from trainyard_trainer.reinforcement.user_functions import Environment

LONGEST = 60
ENVIRONMENT = """
def higher(prompts, turns, answers, **_):
    return [None if said[-1] == wanted else f"not {said[-1]}" for said, wanted in zip(turns, answers)]

def shouts(turns, **_):
    return ["NO! " * 40 for _ in turns]

def raises(**_):
    raise RuntimeError("no idea")
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder, with a template."""
    folder = tmp_path_factory.mktemp("storage")
    put(folder, {"chat.jsonl": "".join(f'{{"prompt": "{n}?", "completion": "{n}"}}\n' for n in range(50))})
    put(folder, {"environment.py": ENVIRONMENT})
    put(folder / "texts", {f"{n}.txt": f"{n} is the number, and not {n + 1}. " * 9 for n in range(20)})
    run_prepare(folder, {"path": "texts"}, out="corpus", tokenizer={"vocabSize": 300})
    run_prepare(folder, {"path": "chat.jsonl", "format": "conversations"}, out="chat", tokenizer={"stage": "corpus"})
    return folder / "chat/tokenizer"


class Answers:
    """Says the digits 0, 1, 2 … one after the other in the turns of each dialogue, read from what was said before."""

    def __init__(self, tokenizer: Path) -> None:
        self.tokens = special_tokens(tokenizer)
        self._tokenizer = load_tokenizer(tokenizer)
        self.rows: list[int] = []

    def __call__(self, tokens_PT: Tensor, mask_PT: Tensor, uniform_BN: Tensor) -> Drawn:
        self.rows.append(len(uniform_BN))
        copies = len(uniform_BN) // len(tokens_PT)
        said = []
        for row, uniform_N in enumerate(uniform_BN):
            read = tokens_PT[row // copies][mask_PT[row // copies] == 1].tolist()
            turn = str(self._tokenizer.decode(read[1:]).count("not "))
            tokens = [*self._tokenizer.encode(turn).ids, self.tokens.end][: int((~uniform_N.isnan()).sum())]
            said.append(tokens + [self.tokens.end] * (LONGEST - len(tokens)))
        return Drawn(torch.tensor(said), torch.full((len(said), LONGEST), -0.5))


@pytest.fixture
def answers(tokenizer: Path) -> Answers:
    return Answers(tokenizer)


@pytest.fixture
def environment(tokenizer: Path, request: pytest.FixtureRequest) -> Iterator[Environment]:
    made = Environment(f"{tokenizer.parent.parent}/environment.py:{request.param}", "rollout.environment.function", 20)
    yield made
    made.close()


def talk(tokenizer: Path, answers: Answers, environment: Environment, turns: int) -> tuple[list[Dialogue], str]:
    text = load_tokenizer(tokenizer)
    chat = ChatTokens(tokenizer)
    prompt = chat.prompt([{"role": "user", "content": "Which?"}])
    wanted = [text.encode(each).ids for each in ("0", "2", "9")]
    dialogues = [Dialogue(prompt, each, np.linspace(0, 0.9, LONGEST)) for each in wanted]
    speak = Speaking(answers, answers.tokens, text.decode)
    speak(dialogues, copies=3)
    return dialogues, Answering(environment, turns, chat, text.decode)(dialogues, speak)


@pytest.mark.parametrize("environment", ["higher"], indirect=True)
def test_they_speak_in_turns_until_all_is_said(tokenizer: Path, answers: Answers, environment: Environment) -> None:
    dialogues, trouble = talk(tokenizer, answers, environment, turns=3)
    assert trouble == ""
    assert [each.turns for each in dialogues] == [
        ["0"],
        ["0", "not 0", "1", "not 1", "2"],
        ["0", "not 0", "1", "not 1", "2"],
    ]
    assert answers.rows == [3, 2, 2]
    chat, text, end = ChatTokens(tokenizer), load_tokenizer(tokenizer), answers.tokens.end
    response = dialogues[1].response()
    said = [[*text.encode(each).ids, end] for each in "012"]
    assert response.tokens == [*said[0], *chat.reply("not 0"), *said[1], *chat.reply("not 1"), *said[2]]
    assert response.own(response.tokens) == [token for each in said for token in each]
    assert response.own(response.log_probabilities) == [-0.5] * 6
    assert sum(response.log_probabilities) == -3
    assert not any(each.truncated or each.failed for each in dialogues)


@pytest.mark.parametrize("environment", ["higher"], indirect=True)
def test_it_has_no_more_tokens_than_it_may_have(tokenizer: Path, answers: Answers, environment: Environment) -> None:
    dialogues, _ = talk(tokenizer, answers, environment, turns=64)
    assert not dialogues[0].truncated
    assert dialogues[2].truncated
    assert len(dialogues[2].tokens) <= LONGEST
    assert dialogues[2].turns[-1].isdigit()


@pytest.mark.parametrize("environment", ["shouts"], indirect=True)
def test_what_leaves_no_room_for_an_answer_is_not_heard(
    tokenizer: Path, answers: Answers, environment: Environment
) -> None:
    dialogues, _ = talk(tokenizer, answers, environment, turns=4)
    assert [(each.turns, each.truncated, len(each.response().tokens)) for each in dialogues] == [(["0"], True, 2)] * 3


@pytest.mark.parametrize("environment", ["raises"], indirect=True)
def test_what_it_can_not_answer_is_known(tokenizer: Path, answers: Answers, environment: Environment) -> None:
    dialogues, trouble = talk(tokenizer, answers, environment, turns=4)
    assert all(each.over and each.failed for each in dialogues)
    assert trouble == "rollout.environment.function: RuntimeError: no idea"
