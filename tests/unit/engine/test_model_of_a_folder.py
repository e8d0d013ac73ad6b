"""A model that the user has in a folder, with its tokenizer: taken as it is, in every family, or refused with the remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from preparing import MANY, put, run_prepare
from tokenizers import Tokenizer
from training import TINY, a_job
from trainyard_api.objectives import OBJECTIVES
from trainyard_api.training_stages import ModelSettings, PretrainStage
from trainyard_trainer.data.objectives.choose import completed
from trainyard_trainer.data.special_tokens import add_tokens, special_tokens
from trainyard_trainer.data.tokenizer import copy_tokenizer
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.group import Group
from trainyard_trainer.models.build import build_model, model_config
from trainyard_trainer.models.origin import Origin, origin
from transformers import BertModel, DistilBertConfig, DistilBertForMaskedLM


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each family; `plain`, prepared with a tokenizer of its own; and data with the tokenizer of each folder."""
    storage = tmp_path_factory.mktemp("storage")
    put(storage / "texts", MANY)
    run_prepare(storage, {"path": "texts"}, out="plain")
    for family, settings in FAMILIES.items():
        tokens, added = completed(special_tokens(storage / "plain/tokenizer"), family, 16)
        config = model_config(
            ModelSettings.model_validate(settings), vocab_size=tokens.size, end_of_text=0, sequence_length=16
        )
        build_model(config, seed=3).save_pretrained(storage / family)
        copy_tokenizer(storage / "plain/tokenizer", storage / family)
        add_tokens(storage / family, added)
        run_prepare(storage, {"path": "texts"}, out=f"for-{family}", tokenizer={"path": family})
    return storage


def begun(storage: Path, data: str, **settings: Any) -> Origin:
    stage = PretrainStage.model_validate(TINY | settings)
    job = a_job("pretrain", storage / "base", stage.wire(), {})
    return origin(stage, storage / data, Group(job, 1, 0, 1, 0, storage / "base", {}), lambda _: None)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_taken_with_its_weights_and_tokens(storage: Path, family: str) -> None:
    found = begun(storage, f"for-{family}", model={"path": family})
    there = build_model(found.config, seed=3)
    for (name, ours), theirs in zip(found.first().named_parameters(), there.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert found.first().config._attn_implementation == "sdpa"
    assert found.objective == OBJECTIVES[family][0]
    assert found.added == []
    tokenizer = Tokenizer.from_file(str(storage / family / "tokenizer.json"))
    assert found.tokens.size == found.config.vocab_size == tokenizer.get_vocab_size()
    if family in ("bert", "modernbert"):
        assert found.tokens.mask == tokenizer.token_to_id("<|mask|>")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def of_another_type(folder: Path) -> None:
    DistilBertForMaskedLM(DistilBertConfig(vocab_size=300, dim=8, n_layers=1, n_heads=1, hidden_dim=8)).save_pretrained(
        folder
    )


def without_head(folder: Path) -> None:
    BertModel.from_pretrained(folder).save_pretrained(folder)


def pickled(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def short(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8}))


def few_tokens(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 256}))


MISTAKES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no configuration": (no_config, r"model\.path: .*config\.json can't be read .*save_pretrained"),
    "another type of model": (
        of_another_type,
        r"model\.path: .*holds a distilbert; what can be trained is llama, qwen3",
    ),
    "a model without the head that is trained": (without_head, r"no weights for cls\.predictions.*as BertForMaskedLM"),
    "weights that are a pickle": (pickled, r"model\.path: transformers can't open .*safetensors"),
    "no tokenizer": (no_tokenizer, r"model\.path: broken has no tokenizer\.json; write it with"),
    "fewer positions than a row has": (
        short,
        r"sequenceLength: 16 is more than the 8 positions that the model of broken",
    ),
    "fewer tokens than the text has": (few_tokens, r"that of broken has 256 tokens, and \d+ are needed"),
}


@pytest.mark.parametrize(("damage", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_is_wrong_with_a_folder_is_said(storage: Path, damage: Callable[[Path], None], message: str) -> None:
    shutil.rmtree(storage / "broken", ignore_errors=True)
    shutil.copytree(storage / "bert", storage / "broken")
    damage(storage / "broken")
    with pytest.raises(PermanentError, match=message):
        begun(storage, "for-bert", model={"path": "broken"}).first()


def test_a_folder_that_is_not_there_is_said(storage: Path) -> None:
    with pytest.raises(PermanentError, match=r"pretrain\.model\.path: .*nowhere is no folder"):
        begun(storage, "plain", model={"path": "nowhere"})


def test_the_data_must_have_the_tokens_of_the_folder(storage: Path) -> None:
    message = (
        r"model\.path: bert was trained on other tokens than pretrain\.data has; prepare corpus with the tokenizer of"
    )
    with pytest.raises(PermanentError, match=message):
        begun(storage, "plain", model={"path": "bert"})


def test_an_objective_that_does_not_go_with_the_folder_is_refused(storage: Path) -> None:
    message = (
        r"pretrain\.objective: MaskedLM is for bert, modernbert, and the model is a t5; use SpanCorruption or Sequence"
    )
    with pytest.raises(PermanentError, match=message):
        begun(storage, "for-t5", model={"path": "t5"}, objective="MaskedLM")
