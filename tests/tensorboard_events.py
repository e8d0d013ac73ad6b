"""Reading TensorBoard's events, with every checksum: what `telemetry.events` has written."""

import struct

from trainyard_trainer.telemetry.events import crc32c


def read_scalars(content: bytes) -> list[tuple[int, dict[str, float]]]:
    """(step, tag → value) of each record behind the header."""
    records = []
    while content:
        [length] = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12])[0] == masked(content[:8])
        record, content = content[12 : 12 + length], content[12 + length :]
        assert struct.unpack("<I", content[:4])[0] == masked(record)
        records.append(record)
        content = content[4:]
    assert fields(records[0])[3] == [b"brain.Event:2"]
    return [_scalars(fields(record)) for record in records[1:]]


def masked(content: bytes) -> int:
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def fields(message: bytes) -> dict[int, list[object]]:
    """Field number → its values, as protobuf has them on the wire."""
    found: dict[int, list[object]] = {}
    while message:
        number, kind = message[0] >> 3, message[0] & 7
        message = message[1:]
        value: object
        if kind == 0:
            value, message = _varint(message)
        elif kind == 2:
            length, message = _varint(message)
            value, message = message[:length], message[length:]
        else:
            size, form = {1: (8, "<d"), 5: (4, "<f")}[kind]
            value, message = struct.unpack(form, message[:size])[0], message[size:]
        found.setdefault(number, []).append(value)
    return found


def _varint(message: bytes) -> tuple[int, bytes]:
    value, shift = 0, 0
    for position, byte in enumerate(message):
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, message[position + 1 :]
    raise AssertionError("cut off")


def _scalars(event: dict[int, list[object]]) -> tuple[int, dict[str, float]]:
    [step], [summary] = event[2], event[5]
    values = [fields(each) for each in fields(summary)[1]]  # type: ignore[arg-type]
    return step, {each[1][0].decode(): each[2][0] for each in values}  # type: ignore[attr-defined,misc,return-value]
