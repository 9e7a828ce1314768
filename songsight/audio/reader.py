"""Any span of any recording, as float32 samples, at the price of that span.

    with open_audio("s3://bucket/site7/20190522_000000.wav") as reader:
        minute = read_mono(reader, 60.0, 120.0, 48_000)

`probe` reads headers only. A file that cannot be used raises `AudioError`, whose `reason` is a word of `REASONS`;
no broken file raises anything else. A file that is cut short yields what it holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from types import TracebackType
from typing import IO

import numpy as np
import soxr

from songsight import reasons
from songsight.audio import channels, flac
from songsight.audio.decoders import AvDecoder, RangeHandle, SoundFileDecoder
from songsight.audio.header import (
    is_chained_ogg,
    pcm_layout,
    refuse_broken_link,
    refuse_hopeless,
    refuse_without_samples,
)
from songsight.audio.mp3 import length_tag
from songsight.audio.names import AUDIO_EXTENSIONS, is_audio_path
from songsight.errors import UserError
from songsight.reasons import REASONS, AudioError, StorageError
from songsight.store import urls

__all__ = [
    "AUDIO_EXTENSIONS",
    "REASONS",
    "AudioError",
    "AudioInfo",
    "Reader",
    "StorageError",
    "is_audio_path",
    "is_silent",
    "open_audio",
    "probe",
    "read_mono",
]

_HEAD_BYTES = 512
_LIBSNDFILE_MAGIC = (b"caff", b".snd", b"fLaC")
_SAMPLE_RATES_HZ = range(100, 10_000_001)
_LARGEST = 1e15  # whose square a spectrum's float32 still holds; full scale is 1
_MARGIN_FRAMES = 256  # at the lower of the two rates: more than half of the resampler's filter


@dataclass(frozen=True)
class AudioInfo:
    """What a recording holds, as far as its header and its size can tell.

    `frames` counts the sample frames (one sample of each channel) that the file can hold; compressed formats
    whose headers only estimate may yield fewer. `claimed_duration_s` is what the header says; `truncated` is whether
    that is more than there is. `format` is container/subtype in libsndfile's or FFmpeg's names, `decoder` is
    "soundfile" or "pyav". `sequential` is whether a span costs the whole file before it: the
    container's seeks miss, or, in an MP3 without a length, walk through all packets.
    """

    frames: int
    sample_rate_hz: int
    channels: int
    format: str
    decoder: str
    truncated: bool
    claimed_duration_s: float
    sequential: bool = False

    @property
    def duration_s(self) -> float:
        """Seconds of sound that the file can hold."""
        return self.frames / self.sample_rate_hz


class Reader:
    """One open recording. Use it as a context manager, from one thread at a time.

    Args:
        url: a local path or any URL that `songsight.store.urls` knows.
        known_frames: what an earlier `probe` of the same file said, which spares an MP3 or a FLAC without a length
            from being walked through again.
        block_bytes: fetched at a time from an object store.

    Attributes:
        info: what the recording holds.
        notes: what to know of its sound, as far as it was read.

    Raises:
        AudioError: the file cannot be used; see `REASONS`.
        UserError: the URL's scheme is unknown.
    """

    def __init__(self, url: str, known_frames: int | None = None, block_bytes: int = urls.WINDOW_BLOCK_BYTES) -> None:
        self.url = url
        self.notes: list[str] = []
        self._block_bytes = block_bytes
        self._known_frames = known_frames
        self._handle: IO[bytes] | None = None
        self._decoder: SoundFileDecoder | AvDecoder | None = None
        self._fallback: Callable[[], SoundFileDecoder | AvDecoder] | None = None
        try:
            self._open()
        except (AudioError, UserError):
            self.close()
            raise
        except Exception as error:  # storage libraries raise what they like: botocore's errors are no OSErrors
            self.close()
            raise reasons.from_storage(error) from None

    def read(self, start_s: float = 0.0, end_s: float | None = None) -> np.ndarray:
        """The samples of a span: float32 [frames, channels], full scale ±1.

        Args:
            start_s: seconds from the start of the file.
            end_s: seconds from the start of the file; None reads to the end, which loads all of it.

        Returns:
            Frames round(start_s · rate) to round(end_s · rate), fewer (or none) where the file ends before.

        Raises:
            AudioError: nothing at all could be decoded, a sample is not finite, or the storage failed.
            ValueError: the span is negative.
        """
        start = round(start_s * self.info.sample_rate_hz)
        stop = self.info.frames if end_s is None else round(end_s * self.info.sample_rate_hz)
        return self.read_frames(start, stop)

    def read_frames(self, start: int, stop: int) -> np.ndarray:
        """Like `read`, from frame `start` up to, not including, frame `stop`."""
        if start < 0 or stop < start:
            raise ValueError(f"a span from frame {start} to {stop}")
        stop = min(stop, self.info.frames)
        if start >= stop:
            return np.zeros((0, self.info.channels), np.float32)
        try:
            samples = self._decode(start, stop)
        except OSError as error:
            raise reasons.from_storage(error) from None
        # Of NaN no comparison holds.
        if len(samples) and not (samples.min() > -_LARGEST and samples.max() < _LARGEST):
            raise AudioError("not-finite", f"NaN, infinite or absurd samples between frames {start} and {stop}")
        return samples

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        path = urls.filesystem(self.url)[1]
        local = not urls.is_remote(self.url)
        if local and os.path.islink(path) and not os.path.exists(path):
            refuse_broken_link(os.readlink(path))
        self._handle = urls.open_read(self.url, self._block_bytes)
        self._size = self._handle.seek(0, os.SEEK_END)
        self._handle.seek(0)
        refuse_hopeless(self._handle.read(_HEAD_BYTES), self._size)
        self._path = path if local else None
        self._pieces = [(0, self._size)]
        self._layout = pcm_layout(self._handle, self._size)
        refuse_without_samples(self._handle, self._layout, self._size)
        self.notes += self._layout.notes if self._layout is not None else ()
        self._tag = length_tag(self._handle, self._size) if self._layout is None else None
        self._flac_frames = 0
        self._handle.seek(0)
        magic = self._handle.read(4)
        if magic == b"OggS":
            self._counts = is_chained_ogg(self._handle, self._size)
        else:
            self._counts = self._tag is None or not self._tag.holds
        # libsndfile reads uncompressed sound and FLAC best. Its seeks in Ogg miss by some 100 samples, and in MP3 it
        # believes wrong lengths, writes to stderr and takes other containers for MP3: there it comes second.
        its_own = self._layout is not None or magic in _LIBSNDFILE_MAGIC
        first, second = (self._libsndfile, self._pyav) if its_own else (self._pyav, self._libsndfile)
        try:
            self._decoder = first()
        except AudioError as error:
            self._decoder = _second(second, error)
            self._fallback = None
        else:
            self._fallback = second
        self.info = self._describe()

    def _libsndfile(self) -> SoundFileDecoder:
        assert self._handle is not None
        layout = self._layout
        if layout is not None and layout.subtype and (layout.data_size_wrong or len(layout.pieces) > 1):
            return SoundFileDecoder(RangeHandle(self._handle, layout.pieces), raw=layout)
        decoder = SoundFileDecoder(self._source())
        if decoder.format.startswith("FLAC/"):
            # A header that was never brought up to date, as after a power cut, tells none or another file's length.
            self._flac_frames = max(0, decoder.frames)
            # To look into the file's midst costs little where it is local, or headers are all that is read; what was
            # counted before need not be looked at.
            look = self._known_frames != decoder.frames and (
                self._path is not None or self._block_bytes <= urls.HEADER_BLOCK_BYTES
            )
            told = flac.numbers(self._handle, self._size, look)
            wrong = told.end not in (None, decoder.frames) or not told.rise
            self._counts = wrong or decoder.frames < 0 or (self._known_frames or 0) > decoder.frames
            if self._counts:
                decoder.close()
                self._pieces = flac.without_inner_headers(self._handle, self._size)
                raise AudioError("unreadable", "libsndfile: the FLAC header tells another length than its frames")
        return decoder

    def _pyav(self) -> AvDecoder:
        return AvDecoder(self._source(), self._size, self._known_frames if self._counts else None, count=self._counts)

    def _source(self) -> str | RangeHandle:
        assert self._handle is not None
        return self._path if self._path and len(self._pieces) == 1 else RangeHandle(self._handle, self._pieces)

    def _describe(self) -> AudioInfo:
        assert self._decoder is not None
        decoder, layout = self._decoder, self._layout
        if decoder.sample_rate_hz not in _SAMPLE_RATES_HZ:
            raise AudioError("unreadable", f"the header claims a sample rate of {decoder.sample_rate_hz} Hz")
        frames = claimed = decoder.frames
        if layout is not None and layout.subtype is not None:
            claimed = max(layout.claimed_frames, frames)
            frames = min(frames, layout.held_frames)
        elif self._tag is not None and not self._tag.holds and decoder.format.startswith("MP3/"):
            claimed = max(self._tag.claimed_frames, frames)
        claimed = self._flac_frames or claimed
        return AudioInfo(
            frames=frames,
            sample_rate_hz=decoder.sample_rate_hz,
            channels=decoder.channels,
            format=decoder.format,
            decoder=decoder.name,
            truncated=claimed > frames,
            claimed_duration_s=claimed / decoder.sample_rate_hz,
            sequential=isinstance(decoder, AvDecoder) and decoder.sequential,
        )

    def _decode(self, start: int, stop: int) -> np.ndarray:
        if self._decoder is None:
            raise ValueError("the reader is closed")
        try:
            return self._decoder.read(start, stop)
        except AudioError as error:
            if self._fallback is None:
                raise
            other = _second(self._fallback, error)
            self._fallback = None
            if other.sample_rate_hz != self.info.sample_rate_hz:
                other.close()
                raise
        self._decoder.close()
        self._decoder = other
        self.info = self._describe()
        return other.read(start, stop)


def open_audio(url: str, known_frames: int | None = None) -> Reader:
    """Opens a recording for reading spans; see `Reader`."""
    return Reader(url, known_frames)


def probe(url: str) -> AudioInfo:
    """What a recording holds, from its headers, which are all that is read.

    Raises:
        AudioError: the file cannot be used; see `REASONS`.
        UserError: the URL's scheme is unknown.
    """
    with Reader(url, block_bytes=urls.HEADER_BLOCK_BYTES) as reader:
        return reader.info


def read_mono(
    source: str | Reader,
    start_s: float = 0.0,
    end_s: float | None = None,
    sample_rate_hz: int = 48_000,
    channel: str = channels.MEAN,
) -> np.ndarray:
    """A span as one channel at one rate: float32 [samples], full scale ±1.

    The samples lie on the grid of the whole resampled recording: a little sound on either side of the span is
    resampled with it and trimmed, so that spans read one by one join without a seam.

    Args:
        source: an open reader, or the path or URL of a recording.
        start_s: seconds from the start of the file.
        end_s: seconds from the start of the file; None reads to the end, which loads all of it.
        sample_rate_hz: the rate of the result.
        channel: mean, left, right, loudest, or a number from 1. Where the mean cancels, the loudest; the reader's
            `notes` then say so.

    Returns:
        round(end_s · rate) − round(start_s · rate) samples, fewer (or none) where the file ends before.

    Raises:
        AudioError: the file cannot be used; see `REASONS`.
        ValueError: the span is negative.
    """
    if isinstance(source, str):
        with Reader(source) as reader:
            return read_mono(reader, start_s, end_s, sample_rate_hz, channel)
    channels.require(channel, source.info.channels)
    rate = source.info.sample_rate_hz
    if rate == sample_rate_hz:
        return _mixed(source, source.read(start_s, end_s), channel)
    end_s = source.info.duration_s if end_s is None else end_s
    first, last = round(start_s * sample_rate_hz), round(end_s * sample_rate_hz)
    if first < 0 or last < first:
        raise ValueError(f"a span from {start_s} s to {end_s} s")
    # One step of either rate: where the grids of input and output samples meet.
    step_in, step_out = rate // gcd(rate, sample_rate_hz), sample_rate_hz // gcd(rate, sample_rate_hz)
    margin = -(-_MARGIN_FRAMES * rate // min(rate, sample_rate_hz))
    steps = max(0, first * step_in // step_out - margin) // step_in
    stop = -(-last * step_in // step_out) + margin
    native = _mixed(source, source.read_frames(steps * step_in, stop), channel)
    if len(native) == 0:
        return native
    skip = first - steps * step_out
    if is_silent(native):  # the resampler would ring at both ends of what a dead microphone left
        held = round(len(native) * step_out / step_in) - skip
        return np.full(max(0, min(last - first, held)), native[0], np.float32)
    resampled = soxr.resample(native, rate, sample_rate_hz, quality="HQ")
    return resampled[skip : skip + last - first]


def is_silent(samples: np.ndarray) -> bool:
    """Whether samples of any shape are digital silence: one constant value, as a dead microphone leaves it."""
    return samples.size == 0 or bool((samples == samples.flat[0]).all())


def _second(make: Callable[[], SoundFileDecoder | AvDecoder], first: AudioError) -> SoundFileDecoder | AvDecoder:
    """The second decoder, after the first has failed; its own failure tells what both had to say."""
    if first.reason != "unreadable" or isinstance(first, StorageError):
        raise first
    try:
        return make()
    except AudioError as second:
        raise AudioError(second.reason, f"{first.detail}; {second.detail}") from None


def _mixed(reader: Reader, samples: np.ndarray, channel: str) -> np.ndarray:
    mixed, note = channels.mix(samples, channel)
    if note and note not in reader.notes:
        reader.notes.append(note)
    return mixed
