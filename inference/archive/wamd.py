"""Wildlife Acoustics' own metadata: the chunk `wamd` that Song Meters and Echo Meters write into WAV files.

A list of entries, each a number, a length and a value (little-endian uint16, uint32, bytes; mostly text). The maker has
not published it; numbers and formats are those that the open reader of the GUANO project (guano-py) has found in use.
"""

from __future__ import annotations

import re
import struct
from datetime import datetime

from inference.archive import clocks

_MODEL, _TIMESTAMP, _FIRST_POSITION = 0x01, 0x05, 0x06


def parse(content: bytes) -> dict[int, str]:
    """The texts of a chunk by their numbers; a damaged chunk gives those before the damage."""
    entries: dict[int, str] = {}
    position = 0
    while position + 6 <= len(content):
        number, size = struct.unpack_from("<HI", content, position)
        value = content[position + 6 : position + 6 + size]
        if len(value) < size:
            break
        entries[number] = value.split(b"\0", 1)[0].decode("utf-8", "replace").strip()
        position += 6 + size
    return entries


def model(entries: dict[int, str]) -> str:
    """The recorder's model, such as SM4."""
    return entries.get(_MODEL, "")


def start(entries: dict[int, str]) -> datetime | None:
    """When the recording started, with its offset if there is one: `2014-04-02 22:59:14-05:00`, or `-5:00`."""
    return clocks.said(entries.get(_TIMESTAMP, ""))


def position(entries: dict[int, str]) -> tuple[str, str] | None:
    """Latitude and longitude in signed degrees, as text: `WGS84,45.1,N,73.2,W,12` or `WGS84,45.1,-73.2`."""
    _, *values = [value.strip() for value in entries.get(_FIRST_POSITION, "").split(",")]
    if len(values) >= 4 and re.fullmatch("[NS]", values[1]) and re.fullmatch("[EW]", values[3]):
        south, west = values[1] == "S", values[3] == "W"
        return ("-" if south else "") + values[0], ("-" if west else "") + values[2]
    return (values[0], values[1]) if len(values) >= 2 else None
