"""Curves as a TensorBoard event file, written without TensorFlow or TensorBoard.

The file is a row of records: length, its checksum, the bytes, theirs; each record is a protocol
buffer ``Event``. Both forms are fixed and small.
"""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from interloom.core.errors import MissingError
from interloom.core.files import written_whole
from interloom.ports.catalog import Metric

_VERSION = b"brain.Event:2"
_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8


def write_events(folder: Path, points: Iterable[Metric], *, wall_s: float) -> Path:
    """Write the points of curves as one event file, whole or not at all.

    Args:
        folder: What TensorBoard is pointed at; made if need be.
        points: Those without a step are results, not curves, and are left out.
        wall_s: Seconds since 1970 that every event is said to be of.

    Raises:
        MissingError: There is no point of any curve.
    """
    curves = [point for point in points if point.step is not None]
    if not curves:
        raise MissingError("there are no curves to export: the run has trained nothing yet")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"events.out.tfevents.{int(wall_s)}.interloom"
    with written_whole(target) as partial, partial.open("wb") as file:
        _record(file, _event(wall_s, _text(3, _VERSION)))
        for point in curves:
            value = _text(1, point.name.encode()) + b"\x15" + struct.pack("<f", point.value)
            step = b"\x10" + _varint(point.step or 0)
            _record(file, _event(wall_s, step + _text(5, _text(1, value))))
    return target


def _record(file: BinaryIO, data: bytes) -> None:
    length = struct.pack("<Q", len(data))
    file.write(length + _masked_crc(length) + data + _masked_crc(data))


def _event(wall_s: float, rest: bytes) -> bytes:
    return b"\x09" + struct.pack("<d", wall_s) + rest


def _text(number: int, data: bytes) -> bytes:
    """A field of a length and bytes."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC_TABLE = _table()


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C, turned and shifted as the format wants it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    masked = ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF
    return struct.pack("<I", masked)
