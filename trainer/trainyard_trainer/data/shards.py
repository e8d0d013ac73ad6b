"""Token shards of one split: little-endian uint16 or uint32 tokens, written once in a stream, then memory-mapped.

    index.json          {dtype, shards: [{file, tokens}], bytes, documents}
    documents.idx       u64 a document: the position after its last token, counted over all shards
    shard-00000.bin …   tokens and nothing else, at most shardTokens each; a document may cross into the next shard

uint16 halves disk and page cache for every vocabulary of up to 65,536. `bytes` are those of the documents' text in
UTF-8, the denominator of bits per byte.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import PermanentError

TARGETS = "targets"
"""Within a split's folder, the same of what is to be said about each document, where it has pairs."""
RESPONSES = "responses"
"""Within a split's folder of conversations: 1 for each token that is the assistant's, 0 for each that it is told."""
REJECTED = "rejected"
"""Within a split's folder of preferences, the same of the responses that were not chosen."""
MARGINS = "margins.npy"
"""Within that folder, fp32: by how much each response that was chosen is better, where rows say so."""
DESIRABLE = "desirable.npy"
"""Within that folder, where its responses are to other prompts: of each that is to its own prompt, whether it is good."""
_INDEX = "index.json"
_DOCUMENTS = "documents.idx"


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest type that holds every token of the vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class ShardWriter:
    """Writes a split's folder, document by document. Complete once the `with` block has ended."""

    def __init__(self, folder: Path, dtype: np.dtype[np.unsignedinteger], shard_tokens: int) -> None:
        folder.mkdir(parents=True)
        self.num_tokens = 0
        self.num_bytes = 0
        self.num_documents = 0
        self.num_shards = 0
        self._folder = folder
        self._dtype = dtype
        self._shard_tokens = shard_tokens
        self._documents: BinaryIO = (folder / _DOCUMENTS).open("xb")
        self._shard: BinaryIO | None = None

    def write(self, tokens: Sequence[int], num_bytes: int) -> None:
        """Append a document of `num_bytes` bytes of text."""
        values = np.asarray(tokens, dtype=self._dtype)
        while len(values):
            room = self.num_shards * self._shard_tokens - self.num_tokens
            shard = self._shard if self._shard and room else self._next_shard()
            part, values = np.split(values, [room or self._shard_tokens])
            shard.write(part.tobytes())
            self.num_tokens += len(part)
        self.num_bytes += num_bytes
        self.num_documents += 1
        self._documents.write(self.num_tokens.to_bytes(8, "little"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self._write_index()
        for file in filter(None, (self._shard, self._documents)):
            file.close()

    def _next_shard(self) -> BinaryIO:
        if self._shard is not None:
            self._shard.close()
        self._shard = (self._folder / f"shard-{self.num_shards:05}.bin").open("xb")
        self.num_shards += 1
        return self._shard

    def _write_index(self) -> None:
        full, rest = divmod(self.num_tokens, self._shard_tokens)
        lengths = [self._shard_tokens] * full + [rest] * (rest > 0)
        index = {
            "dtype": self._dtype.str,
            "shards": [{"file": f"shard-{number:05}.bin", "tokens": tokens} for number, tokens in enumerate(lengths)],
            "bytes": self.num_bytes,
            "documents": self.num_documents,
        }
        (self._folder / _INDEX).write_text(json.dumps(index, indent=1))


class TokenShards:
    """One split, memory-mapped and read-only; its length is its tokens."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / _INDEX).read_bytes())
        dtype = np.dtype(index["dtype"])
        self.num_bytes: int = index["bytes"]
        self.num_documents: int = index["documents"]
        self.document_ends = _map(folder / _DOCUMENTS, np.dtype("<u8"), self.num_documents)
        """u64 (num_documents,): the position after each document's last token."""
        self._shards = [_map(folder / shard["file"], dtype, shard["tokens"]) for shard in index["shards"]]
        self._ends = np.cumsum([len(shard) for shard in self._shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def document(self, number: int) -> NDArray[np.int64]:
        """A copy of a document's tokens, its end included."""
        start = int(self.document_ends[number - 1]) if number else 0
        return self.window(start, int(self.document_ends[number]) - start)

    def window(self, start: int, length: int) -> NDArray[np.int64]:
        """A copy of tokens start … start + length - 1, across shards, shape (length,)."""
        if not 0 <= start <= start + length <= len(self):
            raise IndexError(f"tokens {start} to {start + length} of a split that has {len(self)}")
        tokens = np.empty(length, dtype=np.int64)
        number = int(np.searchsorted(self._ends, start, side="right"))
        filled = 0
        while filled < length:
            shard = self._shards[number]
            offset = start + filled - (int(self._ends[number]) - len(shard))
            part = shard[offset : offset + length - filled]
            tokens[filled : filled + len(part)] = part
            filled += len(part)
            number += 1
        return tokens


def _map(path: Path, dtype: np.dtype, length: int) -> np.memmap:
    """The file as an array; its size must be what the index says, or an earlier write or copy was cut off."""
    size = path.stat().st_size if path.exists() else 0
    if size != length * dtype.itemsize:
        raise PermanentError(
            f"{path}: has {size} bytes where {_INDEX} says {length * dtype.itemsize}; the prepared data is damaged, "
            "delete the prepare stage's folder and run it again"
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=(length,))
