"""The prepare stage on real files: what it makes, and that it makes it again the same."""

import hashlib
from pathlib import Path

import pytest
from preparing import MANY, put, run_prepare, texts
from trainyard_trainer.data import corpus
from trainyard_trainer.data.shards import TokenShards
from trainyard_trainer.data.tokenizer import token_bytes
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.evaluation.baselines import unigram_bits_per_byte, zlib_bits_per_byte


def test_every_document_is_on_one_side_once_and_comes_back_whole(tmp_path: Path) -> None:
    put(tmp_path / "in", MANY)
    artifact = run_prepare(tmp_path, {"path": "in"}, shardTokens=1024)
    train, held_out = (texts(tmp_path / "out", split) for split in ("train", "held-out"))
    assert sorted(train + held_out) == sorted(MANY.values())
    assert train
    assert held_out
    assert not set(train) & set(held_out)
    for split, folder in (("train", "train"), ("heldOut", "held-out")):
        shards, recorded = TokenShards(tmp_path / "out" / folder), artifact["details"]["splits"][split]
        assert recorded["tokens"] == len(shards)
        assert recorded["bytes"] == shards.num_bytes == sum(len(t.encode()) for t in texts(tmp_path / "out", folder))
        assert recorded["documents"] == shards.num_documents
    assert len(list((tmp_path / "out/train").glob("shard-*.bin"))) > 1
    assert not list((tmp_path / "out").glob("building-*"))


def test_text_markdown_and_jsonl_are_read_from_folders_and_sub_folders(tmp_path: Path) -> None:
    put(
        tmp_path / "in",
        {
            "a/readme.md": "# Title\n",
            "a/b/notes": "plain\n",
            "rows.jsonl": '\ufeff{"text": "row one"}\n\n{"text": "row two", "other": 1}\n',
            "z.txt": "\ufefftext",
        },
    )
    artifact = run_prepare(tmp_path, {"path": "in"}, heldOutFraction=0.5)
    found = texts(tmp_path / "out", "train") + texts(tmp_path / "out", "held-out")
    assert sorted(found) == ["# Title\n", "plain\n", "row one", "row two", "text"]
    assert artifact["details"]["counts"]["files"] == 4


def test_the_format_and_the_text_field_may_be_given(tmp_path: Path) -> None:
    put(tmp_path / "in", {"rows.log": '{"body": "one"}\n{"body": "two"}\n{"body": "three"}\n{"body": "four"}\n'})
    run_prepare(tmp_path, {"path": "in/rows.log", "format": "jsonl", "textField": "body"}, heldOutFraction=0.5)
    assert sorted(texts(tmp_path / "out", "train") + texts(tmp_path / "out", "held-out")) == [
        "four",
        "one",
        "three",
        "two",
    ]


def test_what_is_dropped_and_repaired_is_counted(tmp_path: Path) -> None:
    put(
        tmp_path / "in",
        {
            **MANY,
            "copy-of-3.txt": MANY["d03.txt"],
            "another-copy-of-3.md": MANY["d03.txt"],
            "empty.txt": "",
            "empty.jsonl": "",
            "blank.txt": " \n\t\n",
            "latin-1.txt": "Gruß aus Köln".encode("latin-1"),
            "surrogate.jsonl": '{"text": "half \\ud83d of a parrot"}\n',
        },
    )
    artifact = run_prepare(tmp_path, {"path": "in"})
    assert artifact["details"]["counts"] | {"kept": None} == {
        "files": 37,
        "documents": 37,
        "kept": None,
        "dropped": {"empty": 3, "duplicate": 2},
        "repaired": 2,
    }
    assert sum(artifact["details"]["counts"]["kept"].values()) == 32
    assert artifact["metrics"]["documents_repaired"] == 2
    found = texts(tmp_path / "out", "train") + texts(tmp_path / "out", "held-out")
    assert "Gru\ufffd aus K\ufffdln" in found
    assert any(text.startswith("half \ufffd") for text in found)


def test_a_document_that_spells_the_end_of_text_does_not_end(tmp_path: Path) -> None:
    put(tmp_path / "in", {**MANY, "sly.txt": "one <|endoftext|> two"})
    run_prepare(tmp_path, {"path": "in"})
    assert "one <|endoftext|> two" in texts(tmp_path / "out", "train") + texts(tmp_path / "out", "held-out")


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("here", "there"):
        put(tmp_path / name / "in", MANY)
        artifact = run_prepare(
            tmp_path / name, {"path": "in"}, {"builtin": "python-docs"}, tokenizer={"vocabSize": 2000}
        )
        digests.append({file: entry["sha256"] for file, entry in artifact["files"].items()})
        for file, digest in digests[-1].items():
            assert hashlib.sha256((tmp_path / name / "out" / file).read_bytes()).hexdigest() == digest
    assert digests[0] == digests[1]
    assert {"tokenizer/tokenizer.json", "train/shard-00000.bin", "held-out/index.json"} <= set(digests[0])


def test_more_data_moves_no_document_to_the_other_side(tmp_path: Path) -> None:
    put(tmp_path / "in", MANY)
    run_prepare(tmp_path, {"path": "in"}, out="before")
    put(tmp_path / "in", {f"a{number}.txt": f"more text {number}" for number in range(30)})
    run_prepare(tmp_path, {"path": "in"}, out="after")
    for split in ("train", "held-out"):
        assert set(texts(tmp_path / "before", split)) < set(texts(tmp_path / "after", split))


def test_what_an_earlier_attempt_left_half_made_is_replaced(tmp_path: Path) -> None:
    put(tmp_path / "in", MANY)
    put(tmp_path / "out", {"building-1/train/shard-00000.bin": b"half", "train/shard-00099.bin": b"old"})
    run_prepare(tmp_path, {"path": "in"}, attempt=2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "artifact.json",
        "held-out",
        "tokenizer",
        "train",
    ]
    assert not (tmp_path / "out/train/shard-00099.bin").exists()


def test_another_run_of_the_name_takes_the_artifact_only_if_the_documents_are_the_same(tmp_path: Path) -> None:
    put(tmp_path / "in", MANY)
    first = run_prepare(tmp_path, {"path": "in"})
    assert run_prepare(tmp_path, {"path": "in"}, run_uid="another") == first
    put(tmp_path / "in", {"new.txt": "one document more"})
    with pytest.raises(PermanentError, match="the documents have changed"):
        run_prepare(tmp_path, {"path": "in"}, run_uid="another")


def test_a_sample_of_a_large_corpus_trains_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "SAMPLE_BYTES", 200_000)
    survey = corpus.Survey()
    documents = [corpus.Kept(f"{number} " * 40_000, 0, "train") for number in range(20)]
    survey.num_bytes["train"] = sum(len(document.text) for document in documents)
    size = sum(map(len, corpus.sample(iter(documents), survey)))
    assert 0 < size <= 200_000 + 4 * 65_536
    assert size == sum(map(len, corpus.sample(reversed(documents), survey)))


def test_python_docs_are_at_hand_and_their_baselines_are_sane(tmp_path: Path) -> None:
    artifact = run_prepare(tmp_path, {"builtin": "python-docs"}, heldOutFraction=0.15, tokenizer={"vocabSize": 4096})
    details, out = artifact["details"], tmp_path / "out"
    assert (details["vocab_size"], details["dtype"]) == (4096, "uint16")
    assert sum(details["splits"][split]["bytes"] for split in ("train", "heldOut")) > 400_000
    held_out, table = TokenShards(out / "held-out"), token_bytes(out / "tokenizer")
    text = b"".join(table[token] for token in held_out.window(0, len(held_out)))
    assert text.decode() == "".join(texts(out, "held-out"))
    unigram = unigram_bits_per_byte(TokenShards(out / "train"), held_out, details["vocab_size"])
    zipped = zlib_bits_per_byte(held_out, table)
    assert 1.5 < unigram < 4.5
    assert 1.5 < zipped < 4.5


def test_the_tokenizer_of_another_stage_is_taken_as_it_is(tmp_path: Path) -> None:
    put(tmp_path / "in", MANY)
    put(tmp_path / "other", {f"{number}.txt": f"<|endoftext|> fremde Wörter {number}\n" for number in range(9)})
    run_prepare(tmp_path, {"path": "in"}, out="corpus")
    artifact = run_prepare(tmp_path, {"path": "other"}, tokenizer={"stage": "corpus"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out/tokenizer" / name).read_bytes() == (tmp_path / "corpus/tokenizer" / name).read_bytes()
    assert sorted(texts(tmp_path / "out", "train") + texts(tmp_path / "out", "held-out")) == [
        f"<|endoftext|> fremde Wörter {number}\n" for number in range(9)
    ]
    assert list(artifact["inputs"]) == ["tokenizer.stage"]


def test_transformers_opens_the_tokenizer(tmp_path: Path) -> None:
    put(tmp_path / "in", MANY)
    run_prepare(tmp_path, {"path": "in"})
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out/tokenizer"))
    assert tokenizer.eos_token_id == 0
    assert tokenizer.decode(tokenizer("naïve 🦜\n  text").input_ids) == "naïve 🦜\n  text"
