"""Prompts that responses are drawn to: in any form, or refused by the row."""

from pathlib import Path

import pytest
from trainyard_trainer.collecting.drawing import read_prompts
from trainyard_trainer.errors import PermanentError


def test_a_prompt_is_a_text_or_turns(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "Hi"}\n\n'
        '{"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]}\n'
    )
    one, other = read_prompts(file)
    assert [(turn.role, turn.content) for turn in one] == [("user", "Hi")]
    assert [turn.role for turn in other] == ["system", "user"]


BAD = {
    "no such file": (None, r"collect\.draw\.prompts: .*No such file.*correct the path"),
    "no rows": ("\n", r"no row; give prompts"),
    "a row that is none": ('{"prompt": "Hi"}\n{"text": "Hi"}\n', r"prompts\.jsonl:2: neither `prompt` nor `messages`"),
    "no JSON": ("Hi\n", r"prompts\.jsonl:1: neither"),
    "no role": ('{"messages": [{"role": "tool", "content": "x"}]}\n', r"prompts\.jsonl:1: neither"),
}


@pytest.mark.parametrize(("text", "error"), BAD.values(), ids=BAD.keys())
def test_what_is_none_is_refused_by_the_row(tmp_path: Path, text: str | None, error: str) -> None:
    file = tmp_path / "prompts.jsonl"
    if text is not None:
        file.write_text(text)
    with pytest.raises(PermanentError, match=error):
        read_prompts(file)
