"""What is kept of a rank's output."""

from trainyard_trainer.agent.last_words import LastWords

CRASH = """Fatal Python error: Segmentation fault

Thread 0x00007f0a4b3fc740 (most recent call first):
  File "/lib/trainyard_trainer/stopping.py", line 60 in _watch

Current thread 0x00007f0a4b3fc741 (most recent call first):
  File "/lib/ctypes/__init__.py", line 519 in string_at
  File "/lib/trainyard_trainer/data/shards.py", line 40 in load
  File "/lib/trainyard_trainer/a.py", line 1 in one
  File "/lib/trainyard_trainer/b.py", line 2 in two
  File "/lib/trainyard_trainer/c.py", line 3 in three

Extension modules: numpy.core, torch._C (total: 2)"""


def words_of(*lines: str) -> LastWords:
    words = LastWords()
    for line in lines:
        words.hear(line)
    return words


def test_the_last_lines_are_kept_each_up_to_a_length() -> None:
    words = words_of(*(f"{n} {'x' * 1000}" for n in range(100)))
    assert [line.split()[0] for line in words.lines] == [str(n) for n in range(80, 100)]
    assert {len(line) for line in words.lines} == {300}
    assert words.crashed_in == ""


def test_of_a_crash_the_thread_that_crashed_comes_last() -> None:
    words = words_of(*(str(n) for n in range(30)), *CRASH.splitlines())
    assert words.lines[-6:] == [
        "29",
        "Fatal Python error: Segmentation fault",
        "  string_at (/lib/ctypes/__init__.py:519)",
        "  load (/lib/trainyard_trainer/data/shards.py:40)",
        "  one (/lib/trainyard_trainer/a.py:1)",
        "  two (/lib/trainyard_trainer/b.py:2)",
    ]
    assert len(words.lines) == 20
    assert words.crashed_in == "string_at (data/shards.py:40)"


def test_a_crash_outside_of_python_code_says_so_much() -> None:
    words = words_of("Fatal Python error: Aborted", "", "<no Python frame>")
    assert (words.lines, words.crashed_in) == (["Fatal Python error: Aborted"], "")
