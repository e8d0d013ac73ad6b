"""TensorBoard's file format, held against published values and against what TensorBoard itself has written."""

from tensorboard_events import read_scalars
from trainyard_trainer.telemetry.events import crc32c, header, scalars, texts


def test_the_checksum_is_castagnolis() -> None:
    """The vectors of RFC 3720, B.4, and of every catalogue of CRCs."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_scalars_read_back() -> None:
    written = header(1.5) + scalars(7, 2.5, {"loss": 2.5, "seconds/data": 0.25}) + scalars(300, 3.5, {"loss": -1.0})
    assert read_scalars(written) == [(7, {"loss": 2.5, "seconds/data": 0.25}), (300, {"loss": -1.0})]


def test_a_record_is_to_the_byte_what_tensorboard_writes() -> None:
    """TensorBoard 2.21.0's RecordWriter on Event(wall_time=2.5, step=7, summary=[loss 2.5])."""
    written = "1a00000000000000129bd82d09000000000000044010072a0d0a0b0a046c6f73731500002040591517a5"
    assert scalars(7, 2.5, {"loss": 2.5}) == bytes.fromhex(written)


def test_a_text_is_to_the_byte_what_tensorboard_has_for_its_plugin_of_texts() -> None:
    """TensorBoard 2.21.0's protobufs of an Event with a DT_STRING tensor of shape [1] and the plugin's name."""
    written = "09000000000000044010072a220a200a0568696e7473420d080712041202080142032d20614a080a060a0474657874"
    assert texts(7, 2.5, {"hints": "- a"})[12:-4] == bytes.fromhex(written)
