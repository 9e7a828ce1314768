"""Whether an MP3's own word on its length can be believed.

An MP3 has no header: its length stands, if at all, in a Xing or Info tag inside the first frame, next to the number
of bytes that it stands for. Concatenated, cut and badly tagged files keep the tag of another length.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

_HEAD_BYTES = 4096
_MOST_OFF_BYTES = 4096  # tags behind the sound
_MOST_OFF_SHARE = 0.01


@dataclass(frozen=True)
class LengthTag:
    """How many sample frames the tag claims, and whether its byte count is, within 1 %, that of the file."""

    claimed_frames: int
    holds: bool


def length_tag(handle: IO[bytes], size: int) -> LengthTag | None:
    """The Xing or Info tag in an MP3's first frame; None without one."""
    handle.seek(0)
    head = handle.read(10)
    start = 0
    if len(head) == 10 and head[:3] == b"ID3":
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    handle.seek(start)
    head = handle.read(_HEAD_BYTES)
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at < 0 or len(head) < at + 16:
        return None
    flags, frames, tagged_bytes = struct.unpack(">III", head[at + 4 : at + 16])
    if flags & 3 != 3:
        return None
    per_frame = 1152 if head[1] & 0x08 else 576  # MPEG 1, or the lower rates of MPEG 2
    off = abs(size - start - tagged_bytes)
    return LengthTag(frames * per_frame, off <= max(_MOST_OFF_BYTES, _MOST_OFF_SHARE * tagged_bytes))
