"""The random streams of a rank (dropout, and whatever else draws): one seed to start, plain tensors to save.

Each rank has its own streams. At the same world size they go on from the checkpoint, bit for bit; at another one the
saved streams have no owner, and new ones are derived from (seed, step, rank).
"""

import hashlib
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_streams(seed: int, step: int, rank: int) -> None:
    """Start the streams of Python, NumPy and torch (all devices) for a rank that begins after `step`."""
    derived = int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:8], "little") >> 1
    random.seed(derived)
    np.random.seed(derived % 2**32)
    torch.manual_seed(derived)


def generator_of(*numbers: int) -> np.random.Generator:
    """A stream that follows from these numbers alone, and disturbs no other."""
    key = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key)))


def save_streams() -> dict[str, Tensor]:
    """The state of every stream of this rank, as tensors without any pickled object."""
    _, words, gauss = random.getstate()
    numpy: dict[str, Any] = dict(np.random.get_state(legacy=False))
    streams = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": _doubles(gauss is not None, gauss or 0.0),
        "numpy": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
        "numpy_position": torch.tensor([numpy["state"]["pos"], numpy["has_gauss"]]),
        "numpy_gauss": _doubles(numpy["gauss"]),
    }
    if torch.cuda.is_available():
        streams["cuda"] = torch.cuda.get_rng_state()
    return streams


def restore_streams(streams: dict[str, Tensor]) -> None:
    """Go on where `save_streams` was called."""
    has_gauss, gauss = streams["python_gauss"].tolist()
    random.setstate((3, tuple(streams["python"].tolist()), gauss if has_gauss else None))
    position, has_cached = streams["numpy_position"].tolist()
    keys = streams["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_cached, streams["numpy_gauss"].item()))
    torch.set_rng_state(streams["torch"])
    if "cuda" in streams and torch.cuda.is_available():
        torch.cuda.set_rng_state(streams["cuda"])


def _doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
