"""A tokenizer from a folder, as other projects write it; and pairs."""

import json
from pathlib import Path
from typing import Any

import pytest
from preparing import MANY, put, run_prepare
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from trainyard_trainer.data.shards import TARGETS, TokenShards
from trainyard_trainer.data.special_tokens import special_tokens
from trainyard_trainer.data.tokenizer import token_bytes
from trainyard_trainer.errors import PermanentError

NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def a_wordpiece(folder: Path, **names: str) -> Path:
    """As BERT has it, with truncation that a whole document must not meet."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        MANY.values(), trainers.WordPieceTrainer(vocab_size=200, special_tokens=[*NAMES.values()], show_progress=False)
    )
    tokenizer.enable_truncation(16)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(names or NAMES))
    return folder


def test_documents_are_written_whole_in_the_tokens_of_a_folder(tmp_path: Path) -> None:
    folder = a_wordpiece(tmp_path / "models/bert")
    put(tmp_path / "in", MANY)
    artifact = run_prepare(tmp_path, {"path": "in"}, tokenizer={"path": "models/bert"})
    tokens = special_tokens(tmp_path / "out/tokenizer")
    assert (tokens.begin, tokens.end, tokens.pad, tokens.mask) == (2, 3, 0, 4)
    assert artifact["details"]["eot_id"] == 3
    assert artifact["details"]["vocab_size"] == tokens.size
    assert token_bytes(tmp_path / "out/tokenizer") is None
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out/tokenizer" / name).read_bytes() == (folder / name).read_bytes()
    for split in ("train", "held-out"):
        shards = TokenShards(tmp_path / "out" / split)
        for number in range(shards.num_documents):
            document = shards.document(number).tolist()
            assert document[-1] == 3
            assert len(document) > 16 or min(map(len, MANY.values())) < 100
            assert not {2, 3} & set(document[:-1])


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a folder that is not there": ({"path": "nowhere"}, r"prepare\.tokenizer\.path: .*nowhere is no folder"),
    "a folder without a tokenizer": (
        {"path": "in"},
        r"tokenizer\.path: .*has no tokenizer\.json and no tokenizer_config",
    ),
    "no token to end with": ({"path": "endless"}, r"tokenizer\.path: .*names neither eos_token nor sep_token"),
}


@pytest.mark.parametrize(("tokenizer", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_is_wrong_with_a_tokenizer_is_said(tmp_path: Path, tokenizer: dict[str, Any], message: str) -> None:
    put(tmp_path / "in", MANY)
    a_wordpiece(tmp_path / "endless", pad_token="[PAD]")
    with pytest.raises(PermanentError, match=message):
        run_prepare(tmp_path, {"path": "in"}, tokenizer=tokenizer)


def test_pairs_stay_together(tmp_path: Path) -> None:
    rows = {f"question {number} of many": f"answer {number}" for number in range(40)}
    lines = [json.dumps({"q": question, "a": answer}) for question, answer in rows.items()]
    put(
        tmp_path / "in",
        {"pairs.jsonl": "\n".join([*lines, lines[0], json.dumps({"q": "question 0 of many", "a": "?"})])},
    )
    artifact = run_prepare(tmp_path, {"path": "in", "textField": "q", "targetField": "a"})
    assert artifact["details"]["counts"]["dropped"] == {"empty": 0, "duplicate": 1}
    tokenizer = Tokenizer.from_file(str(tmp_path / "out/tokenizer/tokenizer.json"))
    found = []
    for split in ("train", "held-out"):
        sources, targets = TokenShards(tmp_path / "out" / split), TokenShards(tmp_path / "out" / split / TARGETS)
        assert sources.num_documents == targets.num_documents
        for number in range(sources.num_documents):
            texts = [each.document(number).tolist() for each in (sources, targets)]
            assert all(text[-1] == 0 for text in texts)
            found.append(tuple(tokenizer.decode(text[:-1]) for text in texts))
    assert sorted(found) == sorted([*rows.items(), ("question 0 of many", "?")])
    assert f"{TARGETS}/index.json" in {file.partition("/")[2] for file in artifact["files"]}


def test_a_row_without_a_target_is_said(tmp_path: Path) -> None:
    put(tmp_path / "in", {"pairs.jsonl": '{"q": "one", "a": "two"}\n{"q": "three"}\n'})
    with pytest.raises(PermanentError, match=r"pairs\.jsonl:2: no text under the key 'a'.*sources\[0\]\.targetField"):
        run_prepare(tmp_path, {"path": "in", "textField": "q", "targetField": "a"})
    put(tmp_path / "texts", {"notes.txt": "no rows"})
    with pytest.raises(PermanentError, match=r"targetField: .*notes\.txt is no JSONL"):
        run_prepare(tmp_path, {"path": "texts", "targetField": "a"})
