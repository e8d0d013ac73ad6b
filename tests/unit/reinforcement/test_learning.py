"""What tokens are given, how responses are compared, and that learning finds the best of several arms."""

import pytest
import torch
from torch import Tensor
from trainyard_trainer.data.batch import IGNORED
from trainyard_trainer.reinforcement import advantages, losses
from trainyard_trainer.reinforcement.learning import of_groups, rewards_of_tokens
from trainyard_trainer.reinforcement.rows import RolloutBatch

NONE = torch.zeros(2, 5)


def batch(**given: Tensor) -> RolloutBatch:
    """Two responses, of three and of two tokens, after prompts of one and of two."""
    labels = torch.tensor([[IGNORED, 7, 8, 9, IGNORED], [IGNORED, IGNORED, 7, 0, IGNORED]])
    told = {
        "counts": torch.tensor([[True], [True]]),
        "rewards": torch.tensor([[5.0], [-1.0]]),
        "truncated": torch.tensor([[True], [False]]),
        **dict.fromkeys(("rolled_out", "old", "reference", "advantages", "values", "returns"), NONE),
    }
    return RolloutBatch({}, labels, labels, **(told | given))  # type: ignore[arg-type]


def test_the_last_token_is_given_the_reward_and_each_pays_for_going_away() -> None:
    old = torch.tensor([[9.0, -1.0, -2.0, -3.0, 9.0], [9.0, 9.0, -0.5, -0.5, 9.0]])
    reference = torch.full((2, 5), -1.0)
    given = rewards_of_tokens(batch(old=old, reference=reference), kl=0.1)
    wanted = [[0, -0.0, 0.1, 5 + 0.2, 0], [0, 0, -0.05, -1 - 0.05, 0]]
    assert given.flatten().tolist() == pytest.approx([each for row in wanted for each in row])


def test_a_response_that_does_not_count_is_given_nothing() -> None:
    given = rewards_of_tokens(batch(counts=torch.tensor([[False], [True]])), kl=0.1)
    assert given[0].abs().sum() == 0
    assert given[1].tolist() == [0, 0, 0, -1, 0]


def test_generalised_advantages_lie_where_the_response_does() -> None:
    values = torch.tensor([[7.0, 1.0, 2.0, 3.0, 7.0], [7.0, 7.0, 0.0, 0.0, 7.0]])
    it = batch(values=values)
    found, returns = advantages.generalised(rewards_of_tokens(it, kl=0.0), values, it.counted, 1.0, 0.95)
    assert found[0].tolist() == pytest.approx([0, 3.755, 2.9, 2.0, 0], abs=1e-5)
    assert (found + values * it.counted)[0].tolist() == pytest.approx(returns[0].tolist())


@pytest.mark.parametrize("advantage", ["Group", "Centred", "LeaveOneOut", "Batch"])
def test_who_does_not_count_changes_nothing_for_others(advantage: str) -> None:
    rewards, counts = torch.tensor([[1.0, 99.0, 0.0, 0.0, 1.0]]), torch.tensor([[True, False, True, True, True]])
    found = of_groups(rewards, counts, advantage)
    alone = of_groups(rewards[counts][None], torch.ones(1, 4, dtype=torch.bool), advantage)
    assert torch.equal(found[counts], alone[0])
    assert found[0, 1] == 0


def test_a_response_alone_is_compared_with_nobody() -> None:
    assert of_groups(torch.tensor([[3.0, 9.0]]), torch.tensor([[True, False]]), "Group").tolist() == [[0, 0]]


@pytest.mark.parametrize("advantage", ["Group", "Centred", "LeaveOneOut"])
def test_the_best_of_four_arms_is_found(advantage: str) -> None:
    torch.manual_seed(0)
    payoffs = torch.tensor([0.1, 0.3, 0.9, 0.5])
    logits = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(150):
        drawn_PG = torch.multinomial(logits.detach().softmax(0), 64, replacement=True).view(8, 8)
        rewards_PG = torch.bernoulli(payoffs[drawn_PG])
        compared_PG = of_groups(rewards_PG, torch.ones(8, 8, dtype=torch.bool), advantage)
        old_PG = logits.detach().log_softmax(0)[drawn_PG]
        for _ in range(2):
            ratios_PG = (logits.log_softmax(0)[drawn_PG] - old_PG).exp()
            optimizer.zero_grad()
            losses.clipped(ratios_PG, compared_PG, 0.2, 0.28).mean().backward()
            optimizer.step()
    assert logits.softmax(0)[2] > 0.9, logits.softmax(0)
