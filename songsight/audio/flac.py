"""How much sound a FLAC file really holds, found in its last frame instead of its header (RFC 9639).

The header's count of samples is written when a recording is closed: after a power cut it is zero or that of another
recording. Each frame, though, carries its own number, so the last one tells the length for one read of the file's tail.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import IO

from songsight.audio.mp3 import id3_bytes

_TAIL_BYTES = (1 << 16, 1 << 21)  # the second try covers the largest frame of eight channels of 24 bits
_BLOCK_SIZES = {1: 192} | {code: 144 << code for code in range(2, 6)} | {code: 1 << code for code in range(8, 16)}


def _crc8_table() -> bytes:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value << 1) ^ (0x107 if value & 0x80 else 0)
        table.append(value)
    return bytes(table)


_CRC8 = _crc8_table()


@dataclass(frozen=True)
class FlacLength:
    """Sample frames: what the header claims (0: it does not say) and what the last frame shows (None: not found).

    The last frame is counted whole even if the file ends inside it, so `held_frames` may be one block too many.
    """

    claimed_frames: int
    held_frames: int | None


@dataclass(frozen=True)
class _FrameHeader:
    variable: bool
    number: int  # of the frame, or of its first sample where `variable`
    block_size: int


def flac_length(handle: IO[bytes], size: int) -> FlacLength | None:
    """The claimed and the held length of a native FLAC file; None for any other file."""
    start = id3_bytes(handle)  # tagging programs put one in front of `fLaC`
    handle.seek(start)
    head = handle.read(42)
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F != 0:
        return None  # RFC 9639, 8.2: STREAMINFO comes first
    largest_block = struct.unpack(">H", head[10:12])[0]
    channels = (head[20] >> 1 & 7) + 1
    claimed = (head[21] & 0x0F) << 32 | struct.unpack(">I", head[22:26])[0]
    for tail_bytes in _TAIL_BYTES:
        offset = max(start, size - tail_bytes)
        handle.seek(offset)
        headers = _frame_headers(handle.read(size - offset), channels)
        if headers:
            return FlacLength(claimed, _end(headers, largest_block))
        if offset == start:
            break
    return FlacLength(claimed, None)


def _end(headers: list[_FrameHeader], largest_block: int) -> int:
    """The sample behind the last frame. A header that follows on its predecessor is preferred to one by chance."""
    # With fixed blocks a header gives the frame's number, and only the very last block may be shorter.
    block = max([largest_block, *(header.block_size for header in headers)])
    spans = [
        (first, first + header.block_size)
        for header in headers
        for first in (header.number if header.variable else header.number * block,)
    ]
    for before, (first, end) in reversed(list(itertools.pairwise(spans))):
        if before[1] == first:
            return end
    return spans[-1][1]


def _frame_headers(data: bytes, channels: int) -> list[_FrameHeader]:
    found = []
    position = data.find(b"\xff")
    while 0 <= position < len(data) - 5:
        if data[position + 1] in (0xF8, 0xF9):
            header = _frame_header(data[position : position + 16], channels)
            if header is not None:
                found.append(header)
        position = data.find(b"\xff", position + 1)
    return found


def _frame_header(data: bytes, channels: int) -> _FrameHeader | None:
    """A frame header (RFC 9639, 9.1) at the start of the data, if there is one and its checksum is right."""
    size_code, rate_code = data[2] >> 4, data[2] & 0x0F
    channel_code = data[3] >> 4
    coded_channels = channel_code + 1 if channel_code < 8 else 2
    if size_code == 0 or rate_code == 15 or channel_code > 10 or coded_channels != channels or data[3] & 1:
        return None
    number, at = _coded_number(data)
    extra = {6: 1, 7: 2}.get(size_code, 0)
    end = at + extra + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if number is None or end >= len(data):
        return None
    crc = 0
    for byte in data[:end]:
        crc = _CRC8[crc ^ byte]
    if crc != data[end]:
        return None
    block = int.from_bytes(data[at : at + extra], "big") + 1 if extra else _BLOCK_SIZES[size_code]
    return _FrameHeader(variable=data[1] == 0xF9, number=number, block_size=block)


def _coded_number(data: bytes) -> tuple[int | None, int]:
    """The frame's or sample's number, coded like UTF-8 with up to seven bytes, and where the next field starts."""
    first = data[4]
    if first < 0x80:
        return first, 5
    length = 8 - (~first & 0xFF).bit_length()  # leading ones
    rest = data[5 : 4 + length]
    if length < 2 or length > 7 or len(rest) < length - 1 or any(byte & 0xC0 != 0x80 for byte in rest):
        return None, 5
    number = first & ((1 << (7 - length)) - 1) if length < 7 else 0
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, 4 + length
