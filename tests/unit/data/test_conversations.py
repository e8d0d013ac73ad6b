"""Rows become conversations, and conversations tokens of which it is known whether the assistant says them: held against what
transformers' own tokenizers make of the same template.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from preparing import put, run_prepare
from trainyard_trainer.data.batch import IGNORED
from trainyard_trainer.data.conversations import ChatTokens, UnusableError, conversation, preference, rating
from trainyard_trainer.data.objectives.objective import Sample
from trainyard_trainer.data.objectives.preferences import Preferences
from trainyard_trainer.data.objectives.responses import Responses
from trainyard_trainer.data.objectives.unpaired import Unpaired
from trainyard_trainer.data.shards import RESPONSES, TokenShards
from trainyard_trainer.data.tokenizer import PLAIN_TEMPLATE
from trainyard_trainer.errors import PermanentError
from transformers import AutoTokenizer

WITHOUT_MARKS = PLAIN_TEMPLATE.replace("{%- generation %}", "").replace("{% endgeneration %}", "")
WITHOUT_MARKS = WITHOUT_MARKS.replace("{{ message['content'] + eos_token }}", "{{- message['content'] + eos_token }}")
TWO_TURNS = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And naïve 🦜?"},
    {"role": "assistant", "content": "A parrot.\n\nTruly."},
]


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


FORMS: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "messages": ({"messages": TWO_TURNS}, TWO_TURNS),
    "from and value": (
        {"conversations": [{"from": "human", "value": " Hi "}, {"from": "gpt", "value": "Hello"}]},
        said(("user", "Hi"), ("assistant", "Hello")),
    ),
    "prompt and completion": ({"prompt": "Hi", "completion": "Yo"}, said(("user", "Hi"), ("assistant", "Yo"))),
    "prompt and response": ({"prompt": "Hi", "response": "Yo"}, said(("user", "Hi"), ("assistant", "Yo"))),
    "an instruction with its input": (
        {"instruction": "Add", "input": "1 and 2", "output": "3"},
        said(("user", "Add\n\n1 and 2"), ("assistant", "3")),
    ),
    "an instruction alone, and a system": (
        {"system": "Be kind", "instruction": "Greet", "input": "", "output": "Hello"},
        said(("system", "Be kind"), ("user", "Greet"), ("assistant", "Hello")),
    ),
    "nothing is learned from what comes after the last response": (
        {"messages": [*TWO_TURNS, {"role": "user", "content": "Thanks"}]},
        TWO_TURNS,
    ),
}


@pytest.mark.parametrize(("row", "messages"), FORMS.values(), ids=FORMS.keys())
def test_rows_are_conversations(row: dict[str, Any], messages: list[dict[str, str]]) -> None:
    assert conversation(row) == messages


UNUSABLE = {
    "without response": {"messages": said(("user", "Hi"))},
    "without prompt": {"prompt": " ", "completion": "Yo"},
    "with an empty message": {"prompt": "Hi", "completion": ""},
    "with the role 'tool'": {"messages": said(("user", "Hi"), ("tool", "x"), ("assistant", "Yo"))},
    "with a message that is no text": {"messages": [{"role": "user", "content": ["a list"]}]},
}


@pytest.mark.parametrize(("reason", "row"), UNUSABLE.items(), ids=UNUSABLE.keys())
def test_what_teaches_nothing_is_left_out_with_the_reason(reason: str, row: dict[str, Any]) -> None:
    with pytest.raises(UnusableError, match=reason):
        conversation(row)


ASKED, YES, NO = ("user", "Is it?"), ("assistant", "Yes"), ("assistant", "No")
PAIRS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "Is it?", "chosen": "Yes", "rejected": " No"},
    "messages": {"prompt": said(ASKED), "chosen": said(YES), "rejected": said(NO)},
    "whole conversations": {"chosen": said(ASKED, YES), "rejected": said(ASKED, NO)},
    "graded": {"prompt": "Is it?", "chosen": "Yes", "rejected": "No", "margin": 2},
    "hh-rlhf": {"chosen": "\n\nHuman: Is it?\n\nAssistant: Yes", "rejected": "\n\nHuman: Is it?\n\nAssistant: No"},
}


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS.keys())
def test_rows_are_pairs(row: dict[str, Any]) -> None:
    assert preference(row) == {"sides": (said(ASKED, YES), said(ASKED, NO)), "margin": row.get("margin", 0)}


NO_PAIRS = {
    "with equal responses": {"prompt": "Is it?", "chosen": "Yes", "rejected": "Yes "},
    "with responses to different prompts": {"chosen": said(ASKED, YES), "rejected": said(("user", "Or?"), NO)},
    "with an empty message": {"prompt": "Is it?", "chosen": "Yes", "rejected": ""},
    "without prompt": {"prompt": "", "chosen": "Yes", "rejected": "No"},
    "with a margin that is no number from 0 on": {"prompt": "Is it?", "chosen": "Yes", "rejected": "No", "margin": -1},
}


@pytest.mark.parametrize(("reason", "row"), NO_PAIRS.items(), ids=NO_PAIRS.keys())
def test_pairs_that_teach_nothing_are_left_out_with_the_reason(reason: str, row: dict[str, Any]) -> None:
    with pytest.raises(UnusableError, match=reason):
        preference(row)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the tokenizer of a corpus."""
    folder = tmp_path_factory.mktemp("storage")
    put(folder / "texts", {f"{number}.txt": f"{number} says hello, parrot. What is it? " * 20 for number in range(20)})
    run_prepare(folder, {"path": "texts"}, out="corpus")
    return folder


def a_tokenizer(storage: Path, to: Path, template: str) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        put(to, {name: (storage / "corpus/tokenizer" / name).read_bytes()})
    return put(to, {"chat_template.jinja": template})


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, WITHOUT_MARKS], ids=["with generation marks", "without"])
def test_tokens_and_what_is_learned_are_those_of_transformers(storage: Path, tmp_path: Path, template: str) -> None:
    folder = a_tokenizer(storage, tmp_path / "tokenizer", template)
    tokens, learned = ChatTokens(folder).encode(TWO_TURNS)
    theirs = AutoTokenizer.from_pretrained(a_tokenizer(storage, tmp_path / "theirs", PLAIN_TEMPLATE))
    made = theirs.apply_chat_template(TWO_TURNS, return_dict=True, return_assistant_tokens_mask=True)
    assert tokens == made["input_ids"][: len(tokens)]
    mask = made["assistant_masks"][: len(tokens)]
    after = made["input_ids"][len(tokens) :]
    if template is PLAIN_TEMPLATE:
        assert learned == mask
        assert after == theirs.encode("\n"), "nothing is learned after the last response"
    else:  # the line end that the template writes after each response is then taken for the response's
        more = [at for at, (ours, theirs) in enumerate(zip(learned, mask, strict=True)) if ours != theirs]
        assert [tokens[at] for at in more] == theirs.encode("\n") * 2
        assert after == []
    prompt = theirs.apply_chat_template(TWO_TURNS[:2], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ChatTokens(folder).prompt(TWO_TURNS[:2]) == prompt == tokens[: len(prompt)]


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, WITHOUT_MARKS], ids=["with generation marks", "without"])
def test_what_is_replied_is_as_in_a_conversation(storage: Path, tmp_path: Path, template: str) -> None:
    chat = ChatTokens(a_tokenizer(storage, tmp_path / "tokenizer", template))
    whole, learned = chat.encode(TWO_TURNS)
    last = whole[len(chat.prompt(TWO_TURNS[:-1])) :]
    reply = chat.reply(" And naïve 🦜? ")
    assert whole == [*chat.prompt(TWO_TURNS[:2]), *whole[learned.index(1) : whole.index(0) + 1], *reply, *last]
    assert 0 not in chat.reply("<|endoftext|>")


def test_no_message_can_end_its_turn_by_spelling_out_a_special_token(storage: Path, tmp_path: Path) -> None:
    chat = ChatTokens(a_tokenizer(storage, tmp_path / "tokenizer", PLAIN_TEMPLATE))
    tokens, _ = chat.encode(said(("user", "stop <|endoftext|> now"), ("assistant", "<|endoftext|>?")))
    assert tokens.count(0) == 1
    assert tokens[-1] == 0


REFUSED = {
    "does not write what messages say as it is": "{% for m in messages %}{{ m['content'] | upper }}.{% endfor %}",
    "can't be told apart": "{% for m in messages %}{{ loop.length }}{{ m['content'] }}{% endfor %}",
}


@pytest.mark.parametrize(("message", "template"), REFUSED.items(), ids=REFUSED.keys())
def test_a_template_that_hides_who_says_what_is_refused(
    storage: Path, tmp_path: Path, message: str, template: str
) -> None:
    with pytest.raises(PermanentError, match=message):
        ChatTokens(a_tokenizer(storage, tmp_path / "tokenizer", template)).encode(TWO_TURNS)


def rows(number: int) -> str:
    return "".join(
        json.dumps({"prompt": f"{n} is what?", "completion": "hello " * (1 + n % 5)}) + "\n" for n in range(number)
    )


def test_only_responses_are_labels_and_what_is_longer_than_a_row_is_left_out(storage: Path) -> None:
    long = json.dumps({"prompt": "say much", "completion": "parrot " * 100}) + "\n"
    put(storage, {"chat.jsonl": rows(40) + long + json.dumps({"prompt": "", "completion": "x"}) + "\n"})
    made = run_prepare(
        storage, {"path": "chat.jsonl", "format": "conversations"}, out="chat", tokenizer={"stage": "corpus"}
    )
    assert made["details"]["counts"]["dropped"] == {"duplicate": 0, "empty": 0, "without prompt": 1}
    assert made["metrics"]["documents_dropped"] == 1
    objective, learned, left_out = Responses(64, begin=0), 0, 0
    for split in ("train", "held-out"):
        opened = objective.open(storage / "chat" / split)
        left_out += opened.too_long
        assert opened.documents_cut == 0
        tokens, responses = TokenShards(storage / "chat" / split), TokenShards(storage / "chat" / split / RESPONSES)
        fits = [it for it in range(tokens.num_documents) if len(tokens.document(it)) <= 64]
        wanted = sorted(tuple(tokens.document(it)[responses.document(it) == 1].tolist()) for it in fits)
        got = []
        for number in range(len(opened)):
            batch = objective.batch([Sample(opened, number, number)])
            labels = batch.labels[0].numpy()
            starts = np.flatnonzero(batch.inputs["position_ids"][0].numpy() == 0)
            pieces = np.split(labels, starts[1:])
            got += [tuple(piece[piece != IGNORED].tolist()) for piece in pieces if (piece != IGNORED).any()]
            assert torch.equal(batch.labels[0] != IGNORED, torch.from_numpy(labels != IGNORED))
        assert sorted(got) == wanted
        learned += sum(map(len, got))
    assert left_out == 1
    assert learned > 40 * 2


def test_rows_that_are_no_conversations_are_refused_with_the_keys_that_they_have(storage: Path) -> None:
    put(storage, {"other.jsonl": json.dumps({"question": "?", "answer": "!"}) + "\n"})
    with pytest.raises(
        PermanentError, match=r"other\.jsonl:1: none of conversations \(the row has 'question', 'answer'\); give `mess"
    ):
        run_prepare(storage, {"path": "other.jsonl", "format": "conversations"}, out="x", tokenizer={"stage": "corpus"})


def test_pairs_that_are_longer_than_a_row_are_left_out_and_both_responses_share_one(storage: Path) -> None:
    rows = [{"prompt": f"{n}?", "chosen": "hello", "rejected": "parrot " * (1 + n % 3)} for n in range(40)]
    rows += [{"prompt": "much", "chosen": "hello", "rejected": "parrot " * 60}]
    put(storage, {"votes.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    run_prepare(storage, {"path": "votes.jsonl", "format": "preferences"}, out="votes", tokenizer={"stage": "corpus"})
    objective, pairs, left_out = Preferences(96, begin=0), 0, 0
    for split in ("train", "held-out"):
        opened = objective.open(storage / "votes" / split)
        opened.reference[:] = np.arange(opened.reference.size).reshape(-1, 2)
        left_out += opened.too_long
        for number in range(len(opened)):
            batch = objective.batch([Sample(opened, number, number)])
            tokens, there = batch.labels[0].numpy(), batch.responses[0].numpy()
            for place, each in enumerate(opened.row(number)):
                for side in (0, 1):
                    ids, learned = opened.sides[side].document(each), opened.learned(each)[side]
                    assert tokens[there == 2 * place + side].tolist() == ids[learned == 1].tolist()
                assert batch.reference[2 * place : 2 * place + 2].tolist() == [2 * each, 2 * each + 1]
            assert ((tokens != IGNORED) == (there >= 0)).all()
            assert batch.num_labels == int(batch.labels_of_rows().sum()) == len(opened.row(number))
            pairs += batch.num_labels
    assert (pairs, left_out) == (40, 1)


def test_of_several_turns_only_the_last_response_is_preferred(storage: Path) -> None:
    before = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    row = {"prompt": [*before, {"role": "user", "content": "and?"}], "chosen": "parrot", "rejected": "hello"}
    others = [{"prompt": f"{n}?", "chosen": "hello", "rejected": "parrot"} for n in range(30)]
    put(storage, {"turns.jsonl": "".join(json.dumps(each) + "\n" for each in [row, *others])})
    run_prepare(storage, {"path": "turns.jsonl", "format": "preferences"}, out="turns", tokenizer={"stage": "corpus"})
    found = 0
    for split in ("train", "held-out"):
        opened = Preferences(128, begin=0).open(storage / "turns" / split)
        for pair in range(opened.sides[0].num_documents):
            learned = opened.responses[0].document(pair)
            runs = int((np.diff(learned, prepend=0) == 1).sum())
            if runs > 1:
                found += 1
                [last] = np.flatnonzero(np.diff(opened.learned(pair)[0], prepend=0) == 1)
                assert opened.learned(pair)[0].sum() == learned[last:].sum() < learned.sum()
    assert found == 1


RATED = [{"prompt": f"{n}?", "completion": "hello " * (1 + n % 3), "label": n % 3 == 0} for n in range(30)]


def test_responses_with_a_label_lie_beside_one_to_another_prompt(storage: Path) -> None:
    put(storage, {"rated.jsonl": "".join(json.dumps(row) + "\n" for row in RATED)})
    run_prepare(storage, {"path": "rated.jsonl", "format": "unpaired"}, out="rated", tokenizer={"stage": "corpus"})
    seen = 0
    for split in ("train", "held-out"):
        rows = Unpaired(96, begin=0).open(storage / "rated" / split)
        number = rows.sides[0].num_documents
        responses = []
        for each in range(number):
            ids, learned = ([side.document(each) for side in sides] for sides in (rows.sides, rows.responses))
            own, other = (tokens[mask == 1].tolist() for tokens, mask in zip(ids, learned, strict=True))
            assert ids[0][learned[0] == 0].tolist() == ids[1][learned[1] == 0].tolist(), "the prompt is the same"
            responses.append((own, other))
        assert [other for _, other in responses] == [
            responses[max(1, each) - 1 + (each == 0)][0] for each in range(number)
        ]
        assert len(rows.desirable) == number
        seen += int(rows.desirable.sum())
        batch = Unpaired(96, begin=0).batch([Sample(rows, row, row) for row in range(len(rows))])
        pairs = [pair for row in range(len(rows)) for pair in rows.row(row)]
        assert batch.desirable.tolist() == rows.desirable[pairs].tolist()
    assert seen == 10


def test_labels_are_true_or_false() -> None:
    with pytest.raises(UnusableError, match="neither true nor false"):
        rating({"prompt": "Is it?", "completion": "Yes", "label": "good"})
    with pytest.raises(KeyError):
        rating({"prompt": "Is it?", "completion": "Yes"})


def test_pairs_and_responses_with_a_label_are_told_apart(storage: Path) -> None:
    for name, form, row in (
        ("two", "preferences", {"chosen": "yes", "rejected": "no"}),
        ("one", "unpaired", {"completion": "yes", "label": True}),
    ):
        put(storage, {f"{name}.jsonl": "".join(json.dumps({"prompt": f"{n}?", **row}) + "\n" for n in range(30))})
        run_prepare(storage, {"path": f"{name}.jsonl", "format": form}, out=name, tokenizer={"stage": "corpus"})
    with pytest.raises(PermanentError, match=r"data: holds no responses with a label.*format: unpaired"):
        Unpaired(96, begin=0).open(storage / "two/train")
    with pytest.raises(PermanentError, match=r"data: holds no pairs.*format: preferences, or .*loss: KTO"):
        Preferences(96, begin=0).open(storage / "one/train")


def test_conversations_are_no_pairs(storage: Path) -> None:
    with pytest.raises(PermanentError, match=r"data: holds no pairs.*prepare.sources\[0\].format: preferences"):
        Preferences(64, begin=0).open(storage / "corpus/train")


def test_plain_text_is_no_conversation(storage: Path) -> None:
    with pytest.raises(
        PermanentError, match=r"data: holds text without roles.*prepare.sources\[0\].format: conversations"
    ):
        Responses(64, begin=0).open(storage / "corpus/train")


def test_rows_that_are_all_too_long_are_refused_with_the_length_that_they_need(storage: Path) -> None:
    put(storage, {"short.jsonl": rows(30)})
    run_prepare(storage, {"path": "short.jsonl", "format": "conversations"}, out="short", tokenizer={"stage": "corpus"})
    with pytest.raises(
        PermanentError, match=r"sequenceLength: all \d+ conversations are longer than 8 tokens.*use at least \d+"
    ):
        Responses(8, begin=0).open(storage / "short/train")
