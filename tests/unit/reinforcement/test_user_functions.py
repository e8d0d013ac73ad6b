"""Users' functions, in real processes: whatever they do, training goes on, and knows why a reward or an answer is missing."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.reinforcement.user_functions import Environment, RewardFunction

FUNCTIONS = """
import asyncio, os, time

def right(prompts, completions, answer, **_):
    print("a word for the log")
    return [float(a == c) for a, c in zip(answer, completions)]

async def later(completions, **_):
    await asyncio.sleep(0.01)
    return [len(each) for each in completions]

def raises(completions, **_):
    raise RuntimeError("no idea")

def hangs_at_first(completions, **_):
    if completions[0] == "hang":
        time.sleep(60)
    return [1] * len(completions)

def dies(completions, **_):
    os._exit(3)

def too_few(completions, **_):
    return [1]

def no_list(completions, **_):
    return 0.5

def of_another_library(completions, **_):
    import numpy
    return [numpy.float32(1), numpy.int64(2)]

def unsure(completions, **_):
    return [1, None, float("nan")]

def again(turns, **_):
    return [None if said[-1] == "right" else "again" for said in turns]

def counts(turns, **_):
    return [len(said) for said in turns]

number = 3
"""

Make = Callable[..., RewardFunction]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    file, made = tmp_path / "functions.py", []
    file.write_text(FUNCTIONS)

    def make(name: str, seconds: float = 20) -> RewardFunction:
        made.append(RewardFunction(f"{file}:{name}", "grpo.rewards[0].function", seconds))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_function_is_told_of_all_columns(make: Make) -> None:
    right = make("right")
    for _ in range(2):
        given = right(prompts=["1 + 1", "2 + 2"], completions=["2", "5"], answer=["2", "4"])
        assert given == ([1.0, 0.0], "")


def test_a_coroutine_function_is_awaited(make: Make) -> None:
    assert make("later")(prompts=["", ""], completions=["ab", "abc"]) == ([2.0, 3.0], "")


def test_numbers_may_be_of_another_library(make: Make) -> None:
    assert make("of_another_library")(completions=["a", "b"]) == ([1.0, 2.0], "")


def test_one_of_a_module(make: Make) -> None:
    function = RewardFunction("operator:length_hint", "grpo.rewards[0].function", 20)
    try:
        assert function(completions=["a"]).trouble.startswith("TypeError: ")
    finally:
        function.close()


TROUBLE = {
    "raises": "RuntimeError: no idea",
    "dies": "its process has ended with code 3",
    "too_few": "gave 1 for 2 responses; give a list of one finite number each",
    "no_list": "gave 0.5; give a list of one finite number each",
}


@pytest.mark.parametrize(("name", "why"), TROUBLE.items())
def test_what_gives_no_rewards_says_why_and_is_asked_again(make: Make, name: str, why: str) -> None:
    function = make(name)
    for _ in range(2):
        assert function(prompts=["", ""], completions=["a", "b"]) == ([None, None], why)


def test_what_hangs_is_killed_and_begun_anew(make: Make) -> None:
    function = make("hangs_at_first", seconds=2)
    assert function(completions=["hang"]) == ([None], "gave nothing within 2 s")
    assert function(completions=["go on"]) == ([1.0], "")


def test_a_reward_that_is_no_number_is_none(make: Make) -> None:
    given = make("unsure")(completions=["a", "b", "c"])
    assert given == ([1.0, None, None], "gave nan, which is no finite number")


def test_an_environment_answers_with_texts_or_has_no_more_to_say(make: Make, tmp_path: Path) -> None:
    turns = [["wrong"], ["wrong", "again", "right"]]
    answers = {}
    for name in ("again", "counts"):
        environment = Environment(f"{tmp_path / 'functions.py'}:{name}", "grpo.rollout.environment.function", 20)
        answers[name] = environment(turns=turns)
        environment.close()
    assert answers["again"] == (["again", None], "")
    assert answers["counts"] == ([None, None], "gave 1, which is no text or None")


def test_no_process_is_left(make: Make) -> None:
    function = make("right")
    assert function._process
    pid = function._process.pid
    function.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


MISTAKES = {
    "functions.py:right": "there is no file functions.py",
    "right": "names no function; write module:function or path/to/file.py:function",
    "nowhere.at_all:right": "ModuleNotFoundError: No module named 'nowhere'",
    "operator:right": "operator has no function right",
}


@pytest.mark.parametrize(("name", "why"), MISTAKES.items())
def test_a_function_that_is_not_there(name: str, why: str) -> None:
    with pytest.raises(PermanentError) as refused:
        RewardFunction(name, "grpo.rewards[0].function", 20)
    assert str(refused.value) == f"grpo.rewards[0].function: {name}: {why}"


def test_one_that_is_no_function(make: Make) -> None:
    with pytest.raises(PermanentError, match="has no function number"):
        make("number")
