"""Where the frames of a FLAC file lie in time, and whether it is several streams, one behind the other (RFC 9639).

Each frame has a number. In what a recorder wrote after a pause, and in files that were joined end to end, the numbers
start again: neither they nor the header's count of samples then tell how much sound there is.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import IO

_STREAMINFO = tuple(b"fLaC" + last + b"\0\0\x22" for last in (b"\0", b"\x80"))  # the first block of every header
_HEADER_BYTES = 42
_LOOKS = (0.13, 0.29, 0.47, 0.66, 0.83)  # where in the file: no number of equal parts looks like one stream there
_FRAME_BYTES = 1 << 15  # of the largest frame, where the header does not tell
_LARGEST_FRAME_BYTES = 1 << 20  # eight channels of 24 bits
_SCAN_BYTES = 1 << 20
_BLOCK_SIZES = {1: 192} | {code: 144 << code for code in range(2, 6)} | {code: 1 << code for code in range(8, 16)}
_MOST_OVER, _ODD_BYTES = 1.25, 256  # of the bytes of samples that were not compressed: the headers of small blocks
_CRC8_POLYNOMIAL = 0x107


@dataclass(frozen=True)
class Numbers:
    """What the numbers of a FLAC's frames say.

    Attributes:
        end: the sample behind the last frame, which is counted whole; None where none was found.
        rise: whether frames further on in the file are further on in the recording, as far as was looked.
    """

    end: int | None
    rise: bool


def numbers(handle: IO[bytes], size: int, look: bool) -> Numbers:
    """Reads the tail of a FLAC file and, to `look`, five small pieces in its midst."""
    handle.seek(0)
    head = handle.read(_HEADER_BYTES)
    if head[:8] not in _STREAMINFO or len(head) < _HEADER_BYTES:
        return Numbers(None, True)  # behind a tag: FFmpeg's matter
    block, channels = struct.unpack(">H", head[10:12])[0], (head[20] >> 1 & 7) + 1
    reach = 2 * (int.from_bytes(head[15:18], "big") or _FRAME_BYTES) + 64

    def frames(offset: int, length: int) -> list[tuple[int, int, int]]:
        handle.seek(max(0, offset))
        data = handle.read(length)
        return [(max(0, offset) + at, first, end) for at, first, end in _frames(data, channels, block)]

    last = frames(size - reach, reach) or frames(size - 2 * _LARGEST_FRAME_BYTES, 2 * _LARGEST_FRAME_BYTES)
    if not last:
        return Numbers(None, True)
    if not _in_a_row(last):  # unless the header has a wrong size of block
        block, stated = Counter(end - first for _, first, end in last).most_common(1)[0][0], block
        said = frames(last[0][0], size)
        block, last = (block, said) if _in_a_row(said) else (stated, last)
    looks = [found[0] for share in _LOOKS if look and (found := _in_a_row(frames(int(share * size), reach)))]
    seen = sorted({*looks, last[-1]})
    firsts = [first for _, first, _ in seen]
    again = any(first == 0 for _, first, _ in last[1:]) or firsts != sorted(set(firsts))
    # What lies before a frame cannot be larger than the samples that it counts.
    begin, sample_bytes = _behind_header(handle, 0, size), channels * ((head[20] & 1) * 2 + (head[21] >> 7) + 1)
    again |= any(at - begin > _MOST_OVER * first * sample_bytes + _ODD_BYTES for at, first, _ in seen)
    return Numbers((_in_a_row(last) or last)[-1][2], not again)


def _in_a_row(frames: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Frames of which one follows on the other: none of them is a frame by chance."""
    pairs = [pair for pair in pairwise(frames) if pair[0][2] == pair[1][1]]
    return list(dict.fromkeys(chain.from_iterable(pairs)))


def without_inner_headers(handle: IO[bytes], size: int) -> list[tuple[int, int]]:
    """Offset and length, in bytes, of the pieces of a FLAC file that make one stream: the headers of joined ones lie
    between. All of the file is read."""
    bounds = [0]
    for offset in _headers(handle, size):
        if offset >= max(bounds[-1], 1):
            bounds += [offset, _behind_header(handle, offset, size)]
    bounds.append(size)
    return [(begin, end - begin) for begin, end in zip(bounds[::2], bounds[1::2], strict=True)]


def _headers(handle: IO[bytes], size: int) -> Iterator[int]:
    for start in range(0, size, _SCAN_BYTES):
        handle.seek(start)
        data = handle.read(_SCAN_BYTES + len(_STREAMINFO[0]) - 1)
        at = data.find(b"fLaC")
        while at >= 0:
            if data.startswith(_STREAMINFO, at):
                yield start + at
            at = data.find(b"fLaC", at + 1)


def _behind_header(handle: IO[bytes], offset: int, size: int) -> int:
    """Where the metadata blocks of a stream end."""
    position, last = offset + 4, False
    while not last and position < size:
        handle.seek(position)
        block = handle.read(4)
        last = block[0] >= 0x80
        position += 4 + int.from_bytes(block[1:], "big")
    return min(position, size)


def _frames(data: bytes, channels: int, block: int) -> Iterator[tuple[int, int, int]]:
    """Of each frame header in the data: where it is, the frame's first sample, and the sample behind its last."""
    at = data.find(b"\xff")
    while 0 <= at < len(data) - 5:
        if data[at + 1] in (0xF8, 0xF9) and (found := _frame(data[at : at + 16], channels, block)):
            yield at, *found
        at = data.find(b"\xff", at + 1)


def _frame(data: bytes, channels: int, block: int) -> tuple[int, int] | None:
    """The samples of the frame whose header (RFC 9639, 9.1) begins the data, if its checksum is right."""
    size_code, rate_code, coded = data[2] >> 4, data[2] & 0x0F, data[3] >> 4
    if size_code == 0 or rate_code == 15 or coded > 10 or (coded + 1 if coded < 8 else 2) != channels or data[3] & 1:
        return None
    ones = 8 - (~data[4] & 0xFF).bit_length()  # the number is coded like UTF-8, with up to seven bytes
    size_at = 4 + max(1, ones)
    rate_at = size_at + {6: 1, 7: 2}.get(size_code, 0)
    behind = rate_at + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if ones in (1, 8) or behind >= len(data) or _crc8(data[:behind]) != data[behind]:
        return None
    number = data[4] & (0x7F >> ones)
    for byte in data[5:size_at]:
        number = number << 6 | byte & 0x3F
    length = _BLOCK_SIZES.get(size_code) or int.from_bytes(data[size_at:rate_at], "big") + 1
    first = number if data[1] == 0xF9 else number * block  # of variable blocks the number is that of the sample
    return first, first + length


def _crc8(data: bytes) -> int:
    rest = 0
    for byte in data:
        rest ^= byte
        for _ in range(8):
            rest = rest << 1 ^ (_CRC8_POLYNOMIAL if rest & 0x80 else 0)
    return rest
