"""Write the folder `model/` that transformers' Auto class for the model's kind and AutoTokenizer open: weights in fp32
safetensors, configuration, tokenizer. One process; the folder appears whole, by one rename.
"""

import shutil

from trainyard_api.protocol import Artifact
from trainyard_api.storage import sync_folder
from transformers.utils.logging import disable_progress_bar

from ..artifacts import write_artifact
from ..checkpoint.trained import load_trained
from ..data.special_tokens import add_tokens
from ..group import Group


def export(group: Group) -> Artifact:
    """The artifact of `model/`."""
    disable_progress_bar()
    trained = load_trained(group.inputs["model"])
    final, temporary = group.output / "model", group.output / "model.tmp"
    for leftover in (final, temporary):
        shutil.rmtree(leftover, ignore_errors=True)
    trained.model.save_pretrained(temporary)
    shutil.copytree(trained.tokenizer, temporary, dirs_exist_ok=True)
    add_tokens(temporary, trained.added_tokens)
    temporary.rename(final)
    sync_folder(group.output)
    parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    return write_artifact(group, metrics={"parameters": parameters}, files=["model"], details={"model": "model"})
