"""What a recording's header claims, checked against the bytes that are there.

A recorder that loses power leaves a header that was written before the sound: a data chunk of size zero, of the size
that was planned, or of whatever 32 bits make of more than 4 GiB. libsndfile believes some of these claims; here
they are compared with the file's size, by reading chunk headers only.

Specs: RIFF/WAVE (Microsoft, 1991) and its big-endian twin RIFX, RF64 (EBU Tech 3306), Sony Wave64, AIFF (Apple, 1989).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO

from songsight.reasons import AudioError

_POINTERS = (b"version https://git-lfs", b"/annex/objects/", b"../.git/annex/")
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
_MAX_CHUNKS = 1000  # a header with more is damaged; each costs a read
_SIZE_UNKNOWN = 0xFFFFFFFF
_TAIL_BYTES = 1 << 16
_FORMS = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM")
_METADATA = re.compile(rb"guan|wamd|bext|iXML|LIST|id3 |ID3 |ANNO|AUTH|COMT|NAME")
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
    pieces: tuple[tuple[int, int], ...]  # offset and bytes that are held of each data chunk
    claimed_frames: int
    data_size_wrong: bool  # the data chunk's own size is no use: the sound runs on behind it
    left_out: int = 0  # further data chunks, of another format

    @property
    def held_frames(self) -> int:
        """Sample frames in all pieces."""
        return sum(held for _, held in self.pieces) // self.frame_bytes

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of sound that is in several chunks."""
        found, left_out = len(self.pieces), self.left_out
        if self.subtype is None:
            found, left_out = 1, left_out + found - 1
        read = f"{found} data chunks, read as one recording"
        passed = f"{left_out} further data chunk{'s' * (left_out > 1)} not read: of another format, or compressed"
        return tuple(text for text, there in ((read, found > 1), (passed, left_out)) if there)

    def with_more(self, chunk: Chunk, same_format: bool) -> PcmLayout:
        """The sound with that of a further data chunk, where it is of the same format."""
        if not same_format:
            return replace(self, left_out=self.left_out + 1)
        whole = chunk.held_bytes - chunk.held_bytes % self.frame_bytes
        more = chunk.claimed_bytes // self.frame_bytes
        return replace(self, pieces=(*self.pieces, (chunk.offset, whole)), claimed_frames=self.claimed_frames + more)

    @property
    def subtype(self) -> str | None:
        """libsndfile's name of the sample format; None for formats that are compressed or unknown to it."""
        bits, odd = divmod(self.frame_bytes * 8, self.channels)  # 12 and 20 bits are kept in 16 and 24
        return _SUBTYPES.get((self.tag, bits)) if self.bits <= bits and not odd else None


def chunks(handle: IO[bytes], size: int) -> Iterator[Chunk]:
    """Walks the chunks of a RIFF, RIFX, RF64, W64 or AIFF file by their headers; contents are skipped, not read.

    Yields nothing for any other file. Of WAV files that were joined end to end it walks all. Where a size leads
    nowhere, being wrong or of a file that was cut short, it goes on with the chunks that the file ends with.
    """
    handle.seek(0)
    head = handle.read(40)
    if head[:16] == _W64_RIFF:
        form, position = _Form("<", 24, 8), 40
    elif head[:4] in _FORMS:
        form, position = _Form(">" if head[:4] in (b"RIFX", b"FORM") else "<", 8, 2), 12
    else:
        return
    data_bytes = None
    for _ in range(_MAX_CHUNKS):
        chunk = _chunk_at(handle, position, size, form, data_bytes)
        if chunk is None:
            return
        if chunk.name in _FORMS:  # another file begins
            position = chunk.offset + 4
            continue
        if chunk.name == b"ds64":  # EBU Tech 3306: riff, data and fact sizes, then a table of other chunks'
            content = _content(handle, chunk, 16)
            data_bytes = struct.unpack("<Q", content[8:16])[0] if len(content) == 16 else None
        yield chunk
        behind = _behind(handle, chunk, size, form)
        if behind is None:
            yield from _last_chunks(handle, chunk.offset, size, form)
            return
        if behind >= size:
            return
        position = behind


@dataclass(frozen=True)
class _Form:
    """How chunks are written: byte order, bytes of a header, and what a chunk's end is rounded up to."""

    order: str
    header_bytes: int
    align: int


def _chunk_at(handle: IO[bytes], position: int, size: int, form: _Form, data_bytes: int | None = None) -> Chunk | None:
    """The chunk that begins at a position; None where none can. Wave64's names are GUIDs, any bytes."""
    handle.seek(position)
    header = handle.read(form.header_bytes)
    if len(header) < form.header_bytes or not (form.header_bytes == 24 or _is_name(header[:4])):
        return None
    if form.header_bytes == 24:
        claimed = struct.unpack("<Q", header[16:24])[0] - 24
    else:
        claimed = struct.unpack(f"{form.order}I", header[4:8])[0]
        if claimed == _SIZE_UNKNOWN and header[:4] == b"data" and data_bytes is not None:
            claimed = data_bytes
    start = position + form.header_bytes
    return Chunk(header[:4], start, claimed, min(claimed, max(0, size - start))) if claimed >= 0 else None


def _behind(handle: IO[bytes], chunk: Chunk, size: int, form: _Form) -> int | None:
    """Where the chunk behind another one is, past the end of the file where none follows; None where the other's size
    is wrong."""
    end = chunk.offset + chunk.claimed_bytes
    rounded = _rounded(chunk, form)
    if end > size or rounded >= size:
        return None if end > size else rounded
    place = _whole_chunk_behind(handle, chunk, size, form)
    return rounded if place is None and _chunk_at(handle, rounded, size, form) is not None else place


def _rounded(chunk: Chunk, form: _Form) -> int:
    end = chunk.offset + chunk.claimed_bytes
    return end + -(end if form.align == 8 else chunk.claimed_bytes) % form.align


def _whole_chunk_behind(handle: IO[bytes], chunk: Chunk, size: int, form: _Form) -> int | None:
    """Where a chunk that the file holds all of begins: at the other's end rounded up, at its very end, since some
    writers forget the padding, or behind room that was kept free."""
    end = chunk.offset + chunk.claimed_bytes
    for place in (_rounded(chunk, form), end, None):
        if place is None:
            handle.seek(end)
            block = handle.read(_TAIL_BYTES)
            place = end + len(block) - len(block.lstrip(b"\0"))
        following = _chunk_at(handle, place, size, form)
        if following is not None and following.offset + following.claimed_bytes <= size + 1:
            return place
    return None


def _last_chunks(handle: IO[bytes], begin: int, size: int, form: _Form) -> list[Chunk]:
    """Chunks of metadata that a file ends with, found from behind: their sizes lead to its very end."""
    begin = max(begin, size - _TAIL_BYTES)
    handle.seek(begin)
    tail = handle.read(size - begin)
    for match in _METADATA.finditer(tail):
        found: list[Chunk] = []
        position: int | None = begin + match.start()
        while position is not None and position < size:
            chunk = _chunk_at(handle, position, size, form)
            if chunk is None:
                break
            found.append(chunk)
            position = _behind(handle, chunk, size, form)
        else:
            if position is not None:
                return found
    return []


def pcm_layout(handle: IO[bytes], size: int) -> PcmLayout | None:
    """Where the samples of a WAV, RIFX, RF64, W64 or AIFF file lie, and how many are claimed and held.

    None when the file is none of these, or lacks its format or its data chunk.
    """
    handle.seek(0)
    magic = handle.read(16)
    form: tuple[int, int, int, int, int] | None = None  # tag, bits, channels, rate, frame_bytes
    first: tuple[int, int, int, int, int] | None = None
    layout: PcmLayout | None = None
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
            if layout is None:
                layout, first = _layout(handle, size, magic, form, chunk, aiff_frames), form
                if layout.data_size_wrong or layout.container == "AIFF":
                    break
            else:
                layout = layout.with_more(chunk, form == first)
    return layout


def is_chained_ogg(handle: IO[bytes], size: int) -> bool:
    """Whether an Ogg file's last page is of another stream than its first (RFC 3533), so that its time is not all."""
    handle.seek(0)
    first = handle.read(18)
    handle.seek(max(0, size - _OGG_PAGE_BYTES))
    tail = handle.read(_OGG_PAGE_BYTES)
    at = tail.rfind(b"OggS\0")
    return first[:4] == b"OggS" and at >= 0 and tail[at + 14 : at + 18] != first[14:18]


def refuse_hopeless(head: bytes, size: int) -> None:
    """Raises for what no decoder need be asked about."""
    if size == 0:
        raise AudioError("empty", "0 bytes")
    if any(head.startswith(start) for start in _POINTERS):
        raise AudioError("pointer", "a git-LFS or git-annex pointer, not the file itself: fetch it with git")
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
    big_endian = magic[:4] in (b"RIFX", b"FORM")
    written = _Form(">" if big_endian else "<", 8, 2)
    wrong = container in ("WAV", "RF64") and (
        claimed == _SIZE_UNKNOWN or (claimed + frame_bytes <= rest and not _chunk_follows(handle, size, chunk, written))
    )
    if wrong or claimed > rest:  # then what the file ends with is metadata, or sound
        behind = _last_chunks(handle, offset, size, written)
        held = behind[0].offset - 8 - offset if behind else rest
        claimed = held if wrong else claimed
    return PcmLayout(
        container=container,
        tag=tag,
        bits=bits,
        channels=channels,
        sample_rate_hz=rate,
        frame_bytes=frame_bytes,
        big_endian=big_endian,
        pieces=((offset, held - held % frame_bytes),),
        claimed_frames=claimed // frame_bytes,
        data_size_wrong=wrong,
    )


def _chunk_follows(handle: IO[bytes], size: int, chunk: Chunk, form: _Form) -> bool:
    """Whether what lies behind a chunk can be another chunk, or padding: if not, the chunk's size is wrong."""
    if _whole_chunk_behind(handle, chunk, size, form) is not None:
        return True
    for position in (_rounded(chunk, form), chunk.offset + chunk.claimed_bytes):
        handle.seek(position)
        header = handle.read(8)
        if len(header) < 8 or (not any(header) and _is_padding(handle, position, size, chunk.claimed_bytes)):
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
