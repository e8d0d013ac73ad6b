"""Users' own functions, which reward responses or answer them: each in a process of its own, which may fail or hang and costs
no more than its answer.

A function is named `module:function`, or `path/to/file.py:function`. It is called with keyword arguments, each a list of one
value a response, and gives a list of as many: numbers if it rewards, texts if it is an environment. None says that it can't
tell a reward, or has no more to say. It may be a coroutine function. What it prints goes to the rank's log.

    def right(prompts, completions, answers, **_):
        return [float(wanted in said) for wanted, said in zip(answers, completions)]

The process speaks JSON, a line for each call, on its standard input and output: `python -m …user_functions FUNCTION`.
"""

import asyncio
import importlib
import importlib.util
import inspect
import json
import math
import os
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from ..errors import PermanentError

T = TypeVar("T")


class Given(NamedTuple, Generic[T]):
    """What a function gives for each response, None where it has nothing, and why it is at fault that it has not."""

    values: list[T | None]
    trouble: str


class _UserFunction(ABC, Generic[T]):
    """A user's function, in a process that begins at once, and again with the first call after one that had to be killed."""

    GIVES: ClassVar[str]
    """What it is to give for each response."""

    def __init__(self, name: str, field: str, timeout_seconds: float) -> None:
        """`field` is where the user has named it. PermanentError if there is no such function."""
        self.field = field
        self._name, self._timeout = name, timeout_seconds
        self._process: subprocess.Popen[str] | None = None
        self._start()

    def __call__(self, **columns: Sequence[Any]) -> Given[T]:
        """For each response. A function that raises, hangs, or gives something else than asked for costs its answer."""
        number = len(next(iter(columns.values())))
        if self._process is None:
            self._start()
        said = self._ask(json.dumps(columns))
        if isinstance(said, str):
            return Given([None] * number, said)
        if "error" in said:
            return Given([None] * number, said["error"])
        given = said["given"]
        if not isinstance(given, list):
            return Given([None] * number, f"gave {given}; give a list of one {self.GIVES} each")
        if len(given) != number:
            what = f"gave {len(given)} for {number} responses; give a list of one {self.GIVES} each"
            return Given([None] * number, what)
        values = [None if each is None else self._value(each) for each in given]
        unknown = [each for each, known in zip(given, values, strict=True) if known is None and each is not None]
        return Given(values, f"gave {unknown[0]!r}, which is no {self.GIVES}" if unknown else "")

    @abstractmethod
    def _value(self, given: Any) -> T | None:
        """None if it is not what is to be given."""

    def close(self) -> None:
        """End its process."""
        if self._process:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()
            self._process = None

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, self._name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self._read()
        if isinstance(said, str) or "error" in said:
            self.close()
            raise PermanentError(f"{self.field}: {self._name}: {said if isinstance(said, str) else said['error']}")

    def _ask(self, line: str) -> dict[str, Any] | str:
        assert self._process
        assert self._process.stdin
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError as error:
            self.close()
            return f"its process has ended ({error})"
        return self._read()

    def _read(self) -> dict[str, Any] | str:
        """Its next line, or why there is none: it is killed then."""
        assert self._process
        assert self._process.stdout
        late = threading.Event()

        def kill() -> None:
            late.set()
            if self._process:
                self._process.kill()

        timer = threading.Timer(self._timeout, kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if line and not late.is_set():
            return dict(json.loads(line))
        code = None if late.is_set() else self._process.wait()
        self.close()
        return f"gave nothing within {self._timeout:g} s" if code is None else f"its process has ended with code {code}"


class RewardFunction(_UserFunction[float]):
    """Says how good responses are."""

    GIVES = "finite number"

    def _value(self, given: Any) -> float | None:
        """True is 1, as in Python."""
        return float(given) if isinstance(given, (int, float)) and math.isfinite(given) else None


class Environment(_UserFunction[str]):
    """Answers responses, so that the model speaks again, until there is nothing more to say."""

    GIVES = "text or None"

    def _value(self, given: Any) -> str | None:
        return given if isinstance(given, str) else None


def load(name: str) -> Callable[..., Any]:
    """The function that a name leads to; ValueError says what is wrong with it."""
    place, _, attribute = name.rpartition(":")
    if not place:
        raise ValueError("names no function; write module:function or path/to/file.py:function")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert spec
        assert spec.loader
        if not Path(place).is_file():
            raise ValueError(f"there is no file {place}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"{place} has no function {attribute}")
    return function  # type: ignore[no-any-return]


def main(name: str) -> None:
    """Answer until the input ends. The first line says whether the function is there."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the function prints is for the log

    def answer(**said: Any) -> None:
        print(json.dumps(said), file=answers, flush=True)

    try:
        function = load(name)
    except Exception as error:
        answer(error=_named(error))
        return
    answer(ready=True)
    for line in sys.stdin:
        try:
            given = function(**json.loads(line))
            if inspect.isawaitable(given):
                given = asyncio.run(_awaited(given))
            answer(given=_plain(given))
        except Exception as error:
            answer(error=_named(error))


def _plain(given: Any) -> Any:
    """A list of Python's own numbers, whatever library they are of; of anything else than a list, how it is written."""
    listed = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(listed, (list, tuple)):
        return repr(given)
    return [each.item() if hasattr(each, "item") else each for each in listed]


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _named(error: Exception) -> str:
    return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main(sys.argv[1])
