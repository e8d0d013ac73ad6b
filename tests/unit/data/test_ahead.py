"""What is read ahead is what would have been read, and an error in it ends the training, not the thread."""

from collections.abc import Iterator

import pytest
import torch
from conditions import eventually
from trainyard_trainer.data.ahead import Ahead
from trainyard_trainer.data.batch import Batch


def a_batch(number: int) -> Batch:
    tokens = torch.full((1, 2), number)
    return Batch({"input_ids": tokens}, tokens)


class Reading:
    """Remembers which global batches were read; one is damaged."""

    def __init__(self, damaged: int | None = None) -> None:
        self.read: list[int] = []
        self.damaged = damaged

    def __call__(self, number: int) -> Iterator[Batch]:
        self.read.append(number)
        if number == self.damaged:
            raise OSError("damaged")
        yield a_batch(number)


def numbers(ahead: Ahead, *wanted: int) -> list[int]:
    return [int(batch.labels[0, 0]) for number in wanted for batch in ahead.micro_batches(number)]


def test_the_next_batch_is_read_before_it_is_asked_for() -> None:
    reading = Reading()
    ahead = Ahead(reading)
    assert numbers(ahead, 1) == [1]
    eventually(lambda: reading.read == [1, 2], 20, "the second is not read")
    assert numbers(ahead, 2) == [2]
    eventually(lambda: reading.read == [1, 2, 3], 20, "the third is not read")


def test_after_another_batch_than_the_next_all_is_as_if_it_had_been_the_next() -> None:
    assert numbers(Ahead(Reading()), 1, 2, 7, 8, 3) == [1, 2, 7, 8, 3]


def test_nothing_is_read_after_the_last() -> None:
    reading = Reading()
    ahead = Ahead(reading)
    assert len(list(ahead.micro_batches(5, last=True))) == 1
    assert numbers(ahead, 9) == [9]
    assert reading.read[:2] == [5, 9]


def test_what_can_not_be_read_is_an_error_when_it_is_wanted() -> None:
    ahead = Ahead(Reading(damaged=2))
    assert numbers(ahead, 1) == [1]
    with pytest.raises(OSError, match="damaged"):
        numbers(ahead, 2)
