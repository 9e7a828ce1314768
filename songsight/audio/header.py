"""What a recording's header claims, checked against the bytes that are there.

A recorder that loses power leaves a header that was written before the sound: a data chunk of size zero, of the size
that was planned, or of whatever 32 bits make of more than 4 GiB. libsndfile believes some of these claims; here
they are compared with the file's size, by reading chunk headers only.

Specs: RIFF/WAVE (Microsoft, 1991) and its big-endian twin RIFX, RF64 (EBU Tech 3306), Sony Wave64, AIFF (Apple, 1989).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from songsight.reasons import AudioError

_POINTERS = (b"version https://git-lfs", b"/annex/objects/", b"../.git/annex/")
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_MAX_CHUNKS = 1000  # a header with more is damaged; each costs a read
_SIZE_UNKNOWN = 0xFFFFFFFF
_PADDING_BYTES = 1 << 20  # so many zero bytes behind a chunk's end are taken for room that was kept free
_SUBTYPES = {(1, 8): "PCM_U8", (1, 16): "PCM_16", (1, 24): "PCM_24", (1, 32): "PCM_32"}
_SUBTYPES |= {(3, 32): "FLOAT", (3, 64): "DOUBLE", (6, 8): "ALAW", (7, 8): "ULAW"}


@dataclass(frozen=True)
class Chunk:
    """One chunk: its four-byte name, where its content starts, and how long the header says and the file has it."""

    name: bytes
    offset: int
    claimed_bytes: int
    held_bytes: int


@dataclass(frozen=True)
class PcmLayout:
    """Uncompressed sound inside a WAV, RF64, W64 or AIFF file."""

    container: str
    tag: int  # WAVE format tag: 1 PCM, 3 float, 6 A-law, 7 mu-law
    bits: int
    channels: int
    sample_rate_hz: int
    frame_bytes: int
    big_endian: bool
    data_offset: int
    claimed_frames: int
    held_frames: int
    data_size_wrong: bool  # the data chunk's own size is no use: the sound runs on behind it

    @property
    def subtype(self) -> str | None:
        """libsndfile's name of the sample format; None for formats that are compressed or unknown to it."""
        bits, odd = divmod(self.frame_bytes * 8, self.channels)  # 12 and 20 bits are kept in 16 and 24
        return _SUBTYPES.get((self.tag, bits)) if self.bits <= bits and not odd else None


def chunks(handle: IO[bytes], size: int) -> Iterator[Chunk]:
    """Walks the chunks of a RIFF, RIFX, RF64, W64 or AIFF file by their headers; contents are skipped, not read.

    Yields nothing for any other file. A chunk that runs past the end of the file is the last one; so is the first
    whose name is not text, since behind a wrong size there is no telling where the next chunk starts.
    """
    handle.seek(0)
    head = handle.read(40)
    wide = head[:16] == _W64_RIFF
    if wide:
        position, order, header_bytes, align = 40, "<", 24, 8
    elif head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"):
        order = ">" if head[:4] in (b"RIFX", b"FORM") else "<"
        position, header_bytes, align = 12, 8, 2
    else:
        return
    long_sizes: dict[bytes, int] = {}
    for _ in range(_MAX_CHUNKS):
        handle.seek(position)
        header = handle.read(header_bytes)
        if len(header) < header_bytes or not _is_name(header[:4]):
            return
        name = header[:4]
        if wide:
            claimed = struct.unpack("<Q", header[16:24])[0] - header_bytes
        else:
            claimed = struct.unpack(f"{order}I", header[4:8])[0]
            if claimed == _SIZE_UNKNOWN:
                claimed = long_sizes.get(name, claimed)
        if claimed < 0:
            return
        start = position + header_bytes
        if name == b"ds64":  # EBU Tech 3306: riff, data and fact sizes, then a table of other chunks'
            content = handle.read(min(claimed, 16))
            if len(content) == 16:
                long_sizes[b"data"] = struct.unpack("<Q", content[8:16])[0]
        yield Chunk(name, start, claimed, min(claimed, max(0, size - start)))
        position = start + claimed
        position += -position % align if wide else claimed % 2
        if position >= size:
            return


def pcm_layout(handle: IO[bytes], size: int) -> PcmLayout | None:
    """Where the samples of a WAV, RIFX, RF64, W64 or AIFF file lie, and how many are claimed and held.

    None when the file is none of these, or lacks its format or its data chunk.
    """
    handle.seek(0)
    magic = handle.read(16)
    form: tuple[int, int, int, int, int] | None = None  # tag, bits, channels, rate, frame_bytes
    big_endian = magic[:4] in (b"RIFX", b"FORM")
    aiff_frames = 0
    for chunk in chunks(handle, size):
        if chunk.name == b"fmt " and chunk.held_bytes >= 16:
            form = _wave_format(_content(handle, chunk, 40), ">" if big_endian else "<")
        elif chunk.name == b"COMM" and magic[:4] == b"FORM" and chunk.held_bytes >= 18:
            content = _content(handle, chunk, 22)
            channels, aiff_frames, bits = struct.unpack(">hIh", content[:8])
            if content[18:22] not in (b"", b"NONE", b"twos"):
                return None  # AIFF-C with a codec: libsndfile's matter
            form = (1, bits, channels, round(_extended(content[8:18])), channels * ((bits + 7) // 8))
        elif chunk.name in (b"data", b"SSND") and form is not None and min(form[2:]) > 0:
            return _layout(handle, size, magic, form, chunk, aiff_frames)
    return None


def refuse_hopeless(head: bytes, size: int) -> None:
    """Raises for what no decoder need be asked about."""
    if size == 0:
        raise AudioError("empty", "0 bytes")
    if any(head.startswith(start) for start in _POINTERS):
        raise AudioError("pointer", "a git-LFS or git-annex pointer, not the sound: fetch it with git")
    if not any(head):
        raise AudioError("unreadable", f"starts with {len(head)} zero bytes: space reserved and never written")


def refuse_broken_link(target: str) -> None:
    """Raises for a symbolic link to content that git-annex keeps elsewhere."""
    if "annex/objects" in target:
        raise AudioError("pointer", "a git-annex link, whose content is not here: fetch it with git annex get")


def refuse_without_samples(handle: IO[bytes], layout: PcmLayout | None, size: int) -> None:
    """Raises for a RIFF file whose header is there and whose sound is not."""
    if layout is not None:
        if layout.claimed_frames == 0:
            raise AudioError("empty", "a header without samples")
        if layout.held_frames == 0:
            raise AudioError("truncated", f"the header promises {layout.claimed_frames} frames, the file holds none")
        return
    handle.seek(0)
    head = handle.read(12)
    if head[:4] in (b"RIFF", b"RIFX") and (len(head) < 12 or head[8:12] == b"WAVE"):
        promised = int.from_bytes(head[4:8], "big" if head[:4] == b"RIFX" else "little") + 8
        if promised > size:
            raise AudioError("truncated", f"the header promises {promised} bytes, the file ends after {size}")


def _layout(
    handle: IO[bytes], size: int, magic: bytes, form: tuple[int, int, int, int, int], chunk: Chunk, aiff_frames: int
) -> PcmLayout:
    tag, bits, channels, rate, frame_bytes = form
    container = {b"RF64": "RF64", b"BW64": "RF64", b"FORM": "AIFF", b"riff": "W64"}.get(magic[:4], "WAV")
    offset, claimed, held = chunk.offset, chunk.claimed_bytes, chunk.held_bytes
    if container == "AIFF":
        offset, held = offset + 8, max(0, held - 8)  # SSND starts with its own offset and block size
        claimed = aiff_frames * frame_bytes
        held = min(held, claimed)
    rest = max(0, size - offset)
    wrong = container in ("WAV", "RF64") and (
        claimed == _SIZE_UNKNOWN or (claimed + frame_bytes <= rest and not _chunk_follows(handle, size, chunk))
    )
    if wrong:
        claimed = held = rest
    return PcmLayout(
        container=container,
        tag=tag,
        bits=bits,
        channels=channels,
        sample_rate_hz=rate,
        frame_bytes=frame_bytes,
        big_endian=magic[:4] in (b"RIFX", b"FORM"),
        data_offset=offset,
        claimed_frames=claimed // frame_bytes,
        held_frames=held // frame_bytes,
        data_size_wrong=wrong,
    )


def _chunk_follows(handle: IO[bytes], size: int, chunk: Chunk) -> bool:
    """Whether what lies behind a chunk can be another chunk, or padding: if not, the chunk's size is wrong."""
    end = chunk.offset + chunk.claimed_bytes
    for position in (end + chunk.claimed_bytes % 2, end):  # some writers forget the padding byte
        handle.seek(position)
        header = handle.read(8)
        if len(header) < 8 or (not any(header) and _is_padding(handle, position, size, chunk.claimed_bytes)):
            return True
        following = struct.unpack("<I", header[4:])[0]
        if _is_name(header[:4]) and position + 8 + following <= size + 1:
            return True
    return False


def _is_padding(handle: IO[bytes], position: int, size: int, claimed_bytes: int) -> bool:
    """Whether zero bytes are room that was kept free, and not the silence that a recording begins with.

    They are if nothing else follows them. A long run of them is, too, unless the header claims no sound at all: then it
    was never brought up to date, and what stands behind the zeros is the sound.
    """
    handle.seek(position)
    left = min(_PADDING_BYTES, size - position)
    while left > 0:
        block = handle.read(min(left, 1 << 16))
        if any(block):
            return False
        if not block:
            break
        left -= len(block)
    return bool(claimed_bytes) or size - position <= _PADDING_BYTES


def _is_name(name: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in name)


def _content(handle: IO[bytes], chunk: Chunk, limit: int) -> bytes:
    handle.seek(chunk.offset)
    return handle.read(min(chunk.held_bytes, limit))


def _wave_format(content: bytes, order: str) -> tuple[int, int, int, int, int]:
    tag, channels, rate, _, frame_bytes, bits = struct.unpack(f"{order}HHIIHH", content[:16])
    if tag == 0xFFFE and len(content) >= 26:  # WAVE_FORMAT_EXTENSIBLE: the real tag opens the sub-format's GUID
        tag = struct.unpack(f"{order}H", content[24:26])[0]
    return tag, bits, channels, rate, frame_bytes


def _extended(ten_bytes: bytes) -> float:
    """AIFF's sample rate: an 80-bit IEEE 754 number, whose mantissa has an explicit leading one."""
    exponent, mantissa = struct.unpack(">HQ", ten_bytes)
    power = (exponent & 0x7FFF) - 16383 - 63
    return float(mantissa) * 2.0**power if -64 <= power <= 0 else 0.0
