"""Scalars and texts in TensorBoard's file format: records of length, content and their CRC-32C, each a protobuf `Event`.

Written here in forty lines: the `tensorboard` package would bring 60 MB (gRPC, NumPy, a server) into the image for them, and
writes to folders alone, while these bytes go where metrics.jsonl goes. Each attempt has a file of its own; TensorBoard itself
drops what an earlier one has of steps that were done again.
"""

import struct
from collections.abc import Mapping

_MASK = 0xA282EAD8
_POLYNOMIAL = 0x82F63B78
_STRING = 7
"""DT_STRING of TensorFlow's types."""


def _table() -> list[int]:
    table = []
    for byte in range(256):
        rest = byte
        for _ in range(8):
            rest = rest >> 1 ^ (_POLYNOMIAL if rest & 1 else 0)
        table.append(rest)
    return table


_TABLE = _table()


def crc32c(content: bytes) -> int:
    """Castagnoli's checksum (RFC 3720, B.4)."""
    rest = 0xFFFFFFFF
    for byte in content:
        rest = _TABLE[(rest ^ byte) & 0xFF] ^ rest >> 8
    return rest ^ 0xFFFFFFFF


def header(seconds: float) -> bytes:
    """What a file begins with. `seconds` are since 1970."""
    return _record(struct.pack("<Bd", 0x09, seconds) + _field(3, b"brain.Event:2"))


def scalars(step: int, seconds: float, values: Mapping[str, float]) -> bytes:
    """The record of a step's values, by tag."""
    summary = b"".join(
        _field(1, _field(1, tag.encode()) + struct.pack("<Bf", 0x15, value)) for tag, value in values.items()
    )
    return _record(struct.pack("<Bd", 0x09, seconds) + b"\x10" + _varint(step) + _field(5, summary))


def texts(step: int, seconds: float, values: Mapping[str, str]) -> bytes:
    """The record of texts in Markdown, by tag, as TensorBoard's plugin for texts reads them: a tensor of one string each."""
    plugin = _field(1, _field(1, b"text"))
    one = b"\x08" + _varint(_STRING) + _field(2, _field(2, b"\x08\x01"))
    summary = b"".join(
        _field(1, _field(1, tag.encode()) + _field(8, one + _field(8, value.encode())) + _field(9, plugin))
        for tag, value in values.items()
    )
    return _record(struct.pack("<Bd", 0x09, seconds) + b"\x10" + _varint(step) + _field(5, summary))


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _masked(length) + content + _masked(content)


def _masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def _field(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes, text or a message."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    content = b""
    while number > 0x7F:
        content += bytes([number & 0x7F | 0x80])
        number >>= 7
    return content + bytes([number])
