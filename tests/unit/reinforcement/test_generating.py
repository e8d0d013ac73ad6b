"""Drawing from a model: what each row says follows from its own probabilities and numbers, whatever is drawn beside it."""

import pytest
import torch
from tiny_decoders import MODELS, model_of
from torch import Tensor
from trainyard_trainer.reinforcement.generating import Drawn, draw, pick

END, LONGEST = 0, 12
PROMPTS = [[3], [4, 5, 6, 7, 8], [9, 2, 1]]


def drawn(name: str, prompts: list[list[int]], uniform_BN: Tensor, temperature: float = 0.7) -> Drawn:
    longest = max(map(len, prompts))
    tokens = torch.tensor([[END] * (longest - len(each)) + each for each in prompts])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts])
    return draw(model_of(name), tokens, mask, uniform_BN, temperature, END)


def numbers(rows: int) -> Tensor:
    return torch.rand(rows, LONGEST, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


@pytest.mark.parametrize("name", MODELS)
def test_a_row_draws_the_same_alone_and_beside_others(name: str) -> None:
    uniform_BN = numbers(3)
    together = drawn(name, PROMPTS, uniform_BN)
    for row, prompt in enumerate(PROMPTS):
        alone = drawn(name, [prompt], uniform_BN[row : row + 1])
        said = until_end(alone.tokens[0].tolist())
        assert until_end(together.tokens[row].tolist()) == said
        assert together.log_probabilities[row, : len(said)].tolist() == pytest.approx(
            alone.log_probabilities[0, : len(said)].tolist(), abs=1e-5
        )


@pytest.mark.parametrize("name", MODELS)
def test_responses_to_a_prompt_are_as_if_it_was_asked_as_often(name: str) -> None:
    uniform_BN = numbers(6)
    asked_once = drawn(name, PROMPTS, uniform_BN)
    asked_often = drawn(name, [prompt for prompt in PROMPTS for _ in range(2)], uniform_BN)
    assert torch.equal(asked_once.tokens, asked_often.tokens)
    assert torch.allclose(asked_once.log_probabilities, asked_often.log_probabilities, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_are_those_of_reading_what_was_drawn(name: str) -> None:
    found = drawn(name, PROMPTS, numbers(3))
    for row, prompt in enumerate(PROMPTS):
        said = until_end(found.tokens[row].tolist())
        with torch.no_grad():
            logits = model_of(name)(torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1]
        read = torch.log_softmax(logits / 0.7, 1).gather(1, torch.tensor(said)[:, None])[:, 0]
        assert found.log_probabilities[row, : len(said)].tolist() == pytest.approx(read.tolist(), abs=1e-5)
        assert found.log_probabilities[row, len(said) :].abs().sum() == 0


def test_tokens_are_as_frequent_as_they_are_likely() -> None:
    rows = 20_000
    uniform_BN = torch.rand(rows, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = drawn("llama", [PROMPTS[1]], uniform_BN).tokens[:, 0]
    with torch.no_grad():
        likely = torch.softmax(model_of("llama")(torch.tensor([PROMPTS[1]])).logits[0, -1] / 0.7, 0)
    frequent = torch.bincount(found, minlength=11) / rows
    assert (frequent - likely).abs().max() < 5 * (0.25 / rows) ** 0.5


def test_after_its_end_a_row_says_nothing_more_and_all_ended_none_goes_on() -> None:
    found = drawn("llama", PROMPTS, numbers(3), temperature=3.0)
    for tokens in found.tokens.tolist():
        said = until_end(tokens)
        assert set(tokens[len(said) :]) <= {END}
    assert max(len(until_end(tokens)) for tokens in found.tokens.tolist()) == found.tokens.shape[1]


def test_a_row_without_numbers_says_no_more() -> None:
    uniform_BN = numbers(3)
    whole = drawn("llama", PROMPTS, uniform_BN)
    cut_BN = uniform_BN.clone()
    cut_BN[0, 2:] = cut_BN[2, :] = torch.nan
    cut = drawn("llama", PROMPTS, cut_BN)
    assert cut.tokens[0, :2].tolist() == whole.tokens[0, :2].tolist()
    assert cut.tokens[0, 2:].tolist() == [END] * (cut.tokens.shape[1] - 2)
    assert cut.tokens[1].tolist() == whole.tokens[1, : cut.tokens.shape[1]].tolist()
    assert cut.tokens[2].tolist() == [END] * cut.tokens.shape[1]
    assert cut.log_probabilities[2].abs().sum() == 0


@pytest.mark.parametrize("vocabulary", [1, 2, 11, 1000, 1009])
def test_what_is_picked_is_the_first_token_up_to_which_probabilities_add_up_to_more(vocabulary: int) -> None:
    random = torch.Generator().manual_seed(vocabulary)
    logits_BV = 5 * torch.randn(500, vocabulary, generator=random)
    logits_BV[:, vocabulary // 2 + 1 :] -= torch.where(torch.rand(500, 1, generator=random) < 0.5, torch.inf, 0)
    uniform_B = torch.rand(500, generator=random, dtype=torch.float64)
    uniform_B[0], uniform_B[1:20] = 0, 1 - 2**-53
    tokens_B, log_probabilities_B = pick(logits_BV, uniform_B)
    exact_BV = torch.softmax(logits_BV.double(), 1)
    picked_B = exact_BV.gather(1, tokens_B[:, None])[:, 0]
    assert (picked_B > 0).all()
    assert log_probabilities_B.tolist() == pytest.approx(picked_B.log().tolist(), abs=1e-5)
    up_to_B = exact_BV.cumsum(1).gather(1, tokens_B[:, None])[:, 0]
    assert (uniform_B <= up_to_B + 1e-6).all()
    assert (uniform_B >= up_to_B - picked_B - 1e-6).all()
