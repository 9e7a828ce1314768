"""The two decoders behind `songsight.audio.reader`: libsndfile for what it can read, PyAV (FFmpeg) for the rest.

Both present the same few members: `frames` (as far as the header can be believed), `sample_rate_hz`, `channels`,
`format`, `read(start, stop)` and `close()`. `read` returns what is there, float32 [frames, channels], possibly fewer
frames than asked. libsndfile stops at the first damage with an `AudioError`; FFmpeg reads on behind it, and raises one
only when it decoded nothing at all.
"""

from __future__ import annotations

import bisect
import io
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from typing import IO, Any

import av
import numpy as np
import soundfile

from songsight import reasons
from songsight.audio.header import PcmLayout
from songsight.reasons import AudioError

_BLOCK_FRAMES = 1 << 20
_UNKNOWN_FRAMES = 1 << 62  # libsndfile reports 2^63 - 1 where a FLAC header leaves the count open


class RangeHandle(io.RawIOBase):
    """Pieces of a seekable handle as one file, which remembers the first error of the storage below it.

    libsndfile calls back into Python for bytes, and an exception cannot pass through C: it would be printed and
    taken for the end of the file. Kept here, a lost connection does not look like a short recording.

    Args:
        handle: stays open as long as this.
        pieces: offset and length of each, in bytes.
    """

    def __init__(self, handle: IO[bytes], pieces: Sequence[tuple[int, int]]) -> None:
        self._handle, self._position = handle, 0
        self._ends = list(itertools.accumulate(length for _, length in pieces))
        self._shifts = [offset + length - end for (offset, length), end in zip(pieces, self._ends, strict=True)]
        self._length = self._ends[-1]
        self.error: Exception | None = None

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer from the present position, fewer bytes at the end only; 0 there or after an error."""
        wanted, filled = min(len(buffer), self._length - self._position), 0
        while filled < wanted and self.error is None:
            piece = bisect.bisect_right(self._ends, self._position)
            try:
                self._handle.seek(self._position + self._shifts[piece])
                data = self._handle.read(min(wanted - filled, self._ends[piece] - self._position))
            except Exception as error:
                self.error = error
                return 0
            buffer[filled : filled + len(data)] = data
            self._position += len(data)
            filled += len(data)
            if not data:
                break
        return max(0, filled)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves inside the pieces; nothing is fetched."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The position inside the pieces."""
        return self._position

    def seekable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True

    def raise_error(self) -> None:
        """Raises the remembered storage error, as an `AudioError`."""
        if self.error is not None:
            raise reasons.from_storage(self.error)


class SoundFileDecoder:
    """libsndfile over a local path or a handle.

    Args:
        source: a local path (fastest: no call back into Python), or a handle that stays open as long as this.
        raw: samples without a believable header; `source` is then a handle that holds these samples only.

    Raises:
        AudioError: unreadable.
    """

    name = "soundfile"

    def __init__(self, source: str | RangeHandle, raw: PcmLayout | None = None) -> None:
        self._handle = source if isinstance(source, RangeHandle) else None
        options: dict[str, Any] = {}
        if raw is not None:
            endian = "BIG" if raw.big_endian else "LITTLE"
            options = {"format": "RAW", "subtype": raw.subtype, "endian": endian}
            options |= {"samplerate": raw.sample_rate_hz, "channels": raw.channels}
        try:
            self._file = soundfile.SoundFile(os.fsencode(source) if isinstance(source, str) else source, **options)
        except soundfile.LibsndfileError as error:
            self._raise_storage_error()
            raise AudioError("unreadable", f"libsndfile: {error.error_string}") from None
        except (RuntimeError, TypeError, ValueError) as error:
            raise AudioError("unreadable", f"libsndfile: {error}") from None
        self._raise_storage_error()
        self.frames: int = self._file.frames if self._file.frames < _UNKNOWN_FRAMES else -1
        self.sample_rate_hz: int = self._file.samplerate
        self.channels: int = self._file.channels
        container = raw.container if raw is not None else self._file.format
        self.format = f"{container}/{self._file.subtype}"
        self._position = 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames start..stop (see the module's docstring)."""
        blocks = []
        position, self._position = self._position, -1  # unknown, should this raise
        try:
            if start != position:
                self._file.seek(start)
                position = start
            while position < stop:
                wanted = min(stop - position, _BLOCK_FRAMES)
                block = self._file.read(wanted, dtype="float32", always_2d=True)
                position += len(block)
                blocks.append(block)
                if len(block) < wanted:
                    break
        except (soundfile.SoundFileError, RuntimeError) as error:
            self._raise_storage_error()
            raise AudioError("unreadable", f"libsndfile: {getattr(error, 'error_string', error)}") from None
        self._raise_storage_error()
        self._position = position
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.channels), np.float32)

    def close(self) -> None:
        """Closes libsndfile's side; the handle is the caller's."""
        self._file.close()

    def _raise_storage_error(self) -> None:
        if self._handle is not None:
            self._handle.raise_error()


# What PyAV raises over broken files: streams that appear late, for example, are an IndexError.
_ERRORS = (av.FFmpegError, OSError, ValueError, IndexError, RuntimeError)
# Demuxers that read nothing but their own file: FFmpeg's playlists (hls, concat, dash) would open what they name.
_DEMUXERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpegts,ogg,tak,tta,w64,wav,wv"
# Containers whose seeks land on the very sample that decoding from the start would: measured, not promised.
# Ogg and Matroska are missing on purpose; there, going back starts over and going ahead decodes on.
_EXACT = ("mov", "wav", "w64", "aiff", "flac", "caf", "mp3", "aac", "wv")
_SEEK_AHEAD_S = 10.0  # nearer than this, decoding on is about as fast as seeking
_PREROLL_S = 0.5  # codecs need some packets before their output settles after a seek
_COUNTED = ("mp3", "flac", "ogg")
_NO_LENGTH = ("aac",)  # bare packets, whose length FFmpeg guesses from the first few
_FAR_TICKS = 1 << 60
_LEAST_GAP_S = 0.005  # less between two time stamps is their rounding
_LEAST_BITS_PER_S = 300  # no audio codec goes lower; a header that claims so much time for so few bytes is wrong


class AvDecoder:
    """PyAV over a local path or a handle; keeps its position, so that reading forward decodes each packet once.

    Args:
        source: a local path, or a handle that stays open as long as this.
        size: the file's bytes.
        frames: the length, where it was counted before.
        count: whether to walk all packets of an MP3, FLAC or Ogg for the length: the header has none or a wrong one.

    Raises:
        AudioError: unreadable, or no-audio for a file without an audio track.
    """

    name = "pyav"

    def __init__(self, source: str | RangeHandle, size: int, frames: int | None = None, count: bool = False) -> None:
        self._source, self._size = source, size
        self.decoded_frames = 0  # over all reads; a measure of the work done
        self._container = self._open()
        streams = self._container.streams.audio
        if not streams:
            self.close()
            raise AudioError("no-audio", "the file has no audio track")
        self._stream = streams[0]
        codec = self._stream.codec_context
        if codec is None or not codec.sample_rate or not codec.channels:
            self.close()
            raise AudioError("unreadable", "FFmpeg knows no decoder, sample rate or channels for the audio track")
        self.sample_rate_hz: int = codec.sample_rate
        self.channels: int = codec.channels
        container = self._container.format.name.split(",")[0]
        self.format = f"{container.upper()}/{codec.name.upper()}"
        self.exact = container in _EXACT
        self._first_pts: int | None = None
        self._restart()
        count = count and container in _COUNTED
        self.frames = self._claimed_frames()
        if container == "flac":
            end = self._count() or self.frames
            self.frames = max(end, frames or self._count(seek=False)) if count else end
            self.exact = self.frames == end  # else the frames' numbers, which seeks go by, start again inside the file
        elif count and frames is not None:
            self.frames = frames
        elif count or container in _NO_LENGTH or self.frames == 0:
            self.frames = self._count()
        self.sequential = not self.exact or (count and container == "mp3")

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames start..stop (see the module's docstring)."""
        kept_from = self._kept[0][0] if self._kept else self._position
        far = start - self._position > _SEEK_AHEAD_S * self.sample_rate_hz
        if start < kept_from or (far and self.exact):
            self._go_to(start)
        # What lies before this span is dropped on the way, or running to a far one would fill the memory; the span
        # itself stays for the next, which may overlap it.
        while self._position < stop:
            block = next(self._blocks, None)
            if block is None:
                break
            self._kept.append((self._position, block))
            self._position += len(block)
            while self._kept and self._kept[0][0] + len(self._kept[0][1]) < start:
                self._kept.pop(0)
        self._raise_storage_error()
        parts = [
            block[max(0, start - position) : stop - position]
            for position, block in self._kept
            if position < stop and position + len(block) > start
        ]
        if not parts and self.decoded_frames == 0:
            raise AudioError("unreadable", f"FFmpeg decoded nothing{self._why()}")
        return np.concatenate(parts) if parts else np.zeros((0, self.channels), np.float32)

    def close(self) -> None:
        """Closes FFmpeg's side; the handle is the caller's."""
        self._container.close()

    def _open(self) -> Any:
        if isinstance(self._source, RangeHandle):
            self._source.seek(0)
        self._last_error = ""
        try:
            container = av.open(self._source, options={"format_whitelist": _DEMUXERS}, metadata_errors="replace")
        except _ERRORS as error:
            self._raise_storage_error()
            raise AudioError("unreadable", f"FFmpeg: {getattr(error, 'strerror', None) or error}") from None
        for stream in container.streams.audio[:1]:
            if stream.codec_context is not None:
                stream.codec_context.thread_count = 1  # the cores are shared out by Ray
        return container

    def _claimed_frames(self) -> int:
        """The stream's duration in frames by its header; 0 where that is missing or absurd."""
        seconds = 0.0
        if self._stream.duration and self._stream.time_base:
            seconds = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration:
            seconds = self._container.duration / av.time_base
        if seconds <= 0 or self._size * 8 < seconds * _LEAST_BITS_PER_S:
            return 0
        return round(seconds * self.sample_rate_hz)

    def _count(self, seek: bool = True) -> int:
        """The frames that the packets stand for, without decoding them: by the last one's time, or by their sum."""
        first, end, ticks = None, 0, 0
        try:
            for packet in self._container.demux(self._stream):
                ticks += packet.duration or (0 if seek else self._ticks(packet))
                if packet.pts is not None:
                    end = max(end, packet.pts + (packet.duration or 0))
                if first is None and packet.pts is not None:
                    first = packet.pts
                    # FFmpeg walks the rest by itself, far faster, when asked for a time past the end.
                    if self.exact and seek:
                        self._container.seek(_FAR_TICKS, stream=self._stream, backward=True)
        except _ERRORS:
            self._raise_storage_error()  # otherwise the end of what can be read
        if self.exact and seek and first is not None:
            ticks = end - first
        frames = round(ticks * (self._stream.time_base or 0) * self.sample_rate_hz)
        self._reopen()
        return frames

    def _ticks(self, packet: Any) -> int:
        """What a packet without a duration holds: FFmpeg puts several frames into one where a stream was cut."""
        try:
            samples = sum(frame.samples for frame in packet.decode()) if packet.size else 0
        except _ERRORS:
            return 0
        return round(samples / self.sample_rate_hz / (self._stream.time_base or 1))

    def _restart(self) -> None:
        self._position = 0
        self._kept: list[tuple[int, np.ndarray]] = []
        self._blocks = self._decode()

    def _go_to(self, start: int) -> None:
        """Moves to a packet safely before a frame: by the container's index if it is exact, else from the start."""
        target = start - int(_PREROLL_S * self.sample_rate_hz)
        if self.exact and target > 0:
            if self._first_pts is None:
                self._reopen()
                next(self._blocks, None)
            first = self._first_pts or 0
            ticks = math.floor(target / self.sample_rate_hz / self._stream.time_base) + first
            try:
                self._container.seek(ticks, stream=self._stream, backward=True)
                self._restart()
                frame = next(self._frames(), None)
            except _ERRORS:
                frame = None
            if frame is not None and frame.pts is not None:
                position = self._position_of(frame)
                if 0 <= position <= start:
                    # The first frame after a seek lacks its predecessor's overlap: it tells the time and is dropped.
                    self._position = position + frame.samples
                    return
        self._reopen()

    def _reopen(self) -> None:
        self._container.close()
        self._container = self._open()
        self._stream = self._container.streams.audio[0]
        self._restart()

    def _decode(self) -> Iterator[np.ndarray]:
        """The sound from the present packet on; what damage took out becomes silence, so that the rest keeps time."""
        for frame in self._frames():
            if frame.sample_rate != self.sample_rate_hz:
                self._last_error = "the sample rate changes inside the file"
                return
            if self._first_pts is None:
                self._first_pts = frame.pts or 0
            yield from self._silence_before(frame)
            try:
                samples = _samples(frame, self.channels)
            except _ERRORS as error:
                self._last_error = str(error)
                continue
            self.decoded_frames += len(samples)
            yield samples

    def _silence_before(self, frame: Any) -> Iterator[np.ndarray]:
        """Second by second, what is missing between the last frame and this one, by its time stamp."""
        if frame.pts is None or not self.exact:
            return  # Ogg's first time stamps, for one, are off by half a packet
        position = self._position_of(frame)
        if position - self._position < _LEAST_GAP_S * self.sample_rate_hz or position > self.frames:
            return  # rounding, or a time stamp that is itself damaged
        while self._position < position:
            yield np.zeros((min(position - self._position, self.sample_rate_hz), self.channels), np.float32)

    def _position_of(self, frame: Any) -> int:
        return round((frame.pts - (self._first_pts or 0)) * self._stream.time_base * self.sample_rate_hz)

    def _frames(self) -> Iterator[Any]:
        """Decoded frames to the end of what can be read; a packet that fails is left out."""
        packets = self._container.demux(self._stream)
        while True:
            packet = None
            try:
                packet = next(packets, None)
                frames = packet.decode() if packet is not None else None
            except av.EOFError:
                return
            except _ERRORS as error:
                self._last_error = str(getattr(error, "strerror", None) or error)
                if packet is None:
                    return  # the container itself is broken here
                continue
            if frames is None:
                return
            yield from frames

    def _why(self) -> str:
        return f": {self._last_error}" if self._last_error else ""

    def _raise_storage_error(self) -> None:
        if isinstance(self._source, RangeHandle):
            self._source.raise_error()


def _samples(frame: Any, channels: int) -> np.ndarray:
    """An FFmpeg frame as float32 [frames, channels], full scale ±1."""
    count = frame.layout.nb_channels
    if frame.format.is_planar and count >= 8:
        # PyAV looks for a null pointer behind FFmpeg's list of planes, which has none from eight on: it crashes.
        frame = av.AudioResampler(format="flt").resample(frame)[0]
    if frame.format.name == "s64":  # the one format that PyAV does not convert
        array = np.frombuffer(frame.planes[0], np.int64, frame.samples * count)
    else:
        array = frame.to_ndarray()
    samples = array.T if frame.format.is_planar else array.reshape(-1, count)
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, which the reader reports
        scaled: np.ndarray = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        scaled = (scaled - 128) / 128
    elif samples.dtype.kind == "i":
        scaled /= float(1 << (8 * samples.dtype.itemsize - 1))
    if count != channels:  # a broadcast that switches between mono and stereo
        scaled = np.repeat(scaled.mean(axis=1, keepdims=True), channels, axis=1)
    return np.ascontiguousarray(scaled)
