"""Rows of an encoder and a decoder: what is read beside what is to be said about it, document by document.

Documents see themselves alone: in the encoder, in the decoder up to each position, and from the decoder into the encoder. The
encoder's rows are packed to their width; the decoder's are as wide as the widest of a batch needs, in eights.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..batch import IGNORED, PADDING, Batch

Tokens = NDArray[np.int64]
_WIDTH = 8
"""The decoder's width is a multiple of it."""


def batch_of_pairs(rows: Sequence[Sequence[tuple[Tokens, Tokens]]], length: int, start: int, pad: int) -> Batch:
    """Rows of (read, said); `start` is what the decoder reads before the first token that it says."""
    width = max(sum(len(said) for _, said in row) for row in rows)
    width += -width % _WIDTH
    read_BT, read_segments_BT = np.full((len(rows), length), pad), np.full((len(rows), length), PADDING)
    labels_BU, said_segments_BU = np.full((len(rows), width), IGNORED), np.full((len(rows), width), PADDING)
    inputs_BU = np.full((len(rows), width), pad)
    for number, row in enumerate(rows):
        at = after = 0
        for segment, (read, said) in enumerate(row):
            here, there = slice(at, at + len(read)), slice(after, after + len(said))
            read_BT[number, here], read_segments_BT[number, here] = read, segment
            labels_BU[number, there], said_segments_BU[number, there] = said, segment
            inputs_BU[number, there] = [start, *said[:-1]]
            at, after = here.stop, there.stop
    inputs = {
        "input_ids": read_BT,
        "segment_ids": read_segments_BT,
        "decoder_input_ids": inputs_BU,
        "decoder_segment_ids": said_segments_BU,
    }
    return Batch({name: torch.from_numpy(each) for name, each in inputs.items()}, torch.from_numpy(labels_BU))
