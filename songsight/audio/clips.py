"""A row of a table becomes a clip of an encoder: the span's beginning, or a crop of it, at its rate and length."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from songsight.audio.channels import MEAN, parse
from songsight.audio.padding import fit_length
from songsight.audio.reader import AudioError, open_audio, read_mono
from songsight.errors import UserError
from songsight.store import tables
from songsight.store import urls as storage
from songsight.store.retry import patiently

READERS = 4
"""Threads that read in this process."""


class Hearing(Protocol):
    """What an encoder's features say of its clips, such as `models.mel.LogMel`."""

    sample_rate_hz: int
    clip_samples: int
    padding: str


@dataclass(frozen=True)
class Features:
    """What a clip of one encoder is.

    Attributes:
        sample_rate_hz, clip_samples: rate and length.
        padding: how shorter clips are filled up, see `padding.fit_length`.
        seed: of crops and draws.
    """

    sample_rate_hz: int
    clip_samples: int
    padding: str
    seed: int

    @classmethod
    def of(cls, mel: Hearing, seed: int) -> Features:
        """The clips that a checkpoint's features are made of."""
        return cls(mel.sample_rate_hz, mel.clip_samples, mel.padding, seed)


@dataclass(frozen=True)
class Clips:
    """How a row becomes a clip: what a decoding task needs, a few numbers a row.

    Attributes:
        paths: absolute paths or URLs, [rows]. An Arrow column: a decoding task gets all of them, and reads what it
            needs in the object store instead of unpickling a million strings.
        start_s, end_s: the span of each recording, float64 [rows]; NaN in `end_s` for all of it.
        features: of the encoder.
        channels: which channel of each recording is heard, see `channels.parse`, [rows]; null or None for the mean.
    """

    paths: pa.LargeStringArray
    start_s: np.ndarray
    end_s: np.ndarray
    features: Features
    channels: pa.LargeStringArray | None = None

    @classmethod
    def of(cls, recordings: pa.Table, table_url: str, features: Features) -> Clips:
        """The clips of a `tables.RECORDINGS` table that was read from `table_url`.

        Raises:
            UserError: a row has no path, or a channel that there cannot be.
        """
        if missing := recordings["path"].null_count:
            raise UserError(f"{table_url}: {missing} of {len(recordings)} rows have no path")
        urls = [storage.absolute(tables.resolve_path(path, table_url)) for path in recordings["path"].to_pylist()]
        starts = np.nan_to_num(np.asarray(recordings["start_s"].to_pylist(), dtype=np.float64))
        return cls(
            pa.array(urls, pa.large_string()),
            starts,
            np.asarray(recordings["end_s"].to_pylist(), dtype=np.float64),
            features,
            channels_of(recordings, table_url),
        )

    def clip(self, row: int, rng: np.random.Generator | None) -> np.ndarray:
        """One clip of a row: float32 [clip_samples], cropped at random, or its beginning without `rng`.

        Raises:
            AudioError: nothing in the span could be decoded.
        """
        start, end = float(self.start_s[row]), float(self.end_s[row])
        length, rate = self.features.clip_samples, self.features.sample_rate_hz
        length_s = length / rate
        channel = self.channels[row].as_py() if self.channels is not None else None
        try:
            reader = open_audio(str(self.paths[row]))
        except UserError as error:  # a scheme that nothing here reads: the row is bad, not the run
            raise AudioError("unreadable", str(error)) from None
        with reader:
            lasts = reader.info.duration_s
            end = lasts if np.isnan(end) else min(end, lasts)
            if not 0 <= start < end:
                raise AudioError(
                    "too-short", f"no sound from {start:.2f} s to {end:.2f} s: the file lasts {lasts:.2f} s"
                )
            if rng is not None and end - start > length_s:
                start += rng.uniform(0, end - start - length_s)
            samples = read_mono(reader, start, min(end, start + length_s), rate, channel or MEAN)
        if not len(samples):
            raise AudioError("too-short", f"no samples between {start:.2f} s and {end:.2f} s")
        return fit_length(samples[:length], length, self.features.padding)


def channels_of(recordings: pa.Table, what: str) -> pa.LargeStringArray | None:
    """The column `channel` of a table of recordings, as `channels.parse` gives it; None where it has none.

    Args:
        recordings: whose column may be of numbers.
        what: the table's name, for the error line.

    Raises:
        UserError: a value that is no channel.
    """
    if "channel" not in recordings.column_names:
        return None
    given = recordings["channel"].to_pylist()
    named = {one for one in given if one is not None and one == one and str(one).strip()}  # no NaN
    known = {one: parse(one, f"{what}: column channel") for one in named}
    return pa.array([known.get(one) for one in given], pa.large_string()) if known else None


def undecodable(clips: Clips, rows: Iterable[int]) -> dict[int, str]:
    """Those of some rows whose beginning cannot be decoded now, with the word of `REASONS` that says why."""

    def reason(row: int) -> str | None:
        try:
            clips.clip(row, None)
        except AudioError as error:
            return error.reason
        return None

    asked = list(rows)
    with ThreadPoolExecutor(READERS) as pool:
        return {row: why for row, why in zip(asked, pool.map(reason, asked), strict=True) if why}


def embed_clips(
    clips: Clips,
    embed: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    batch_size: int,
    failed: dict[int, str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Embeds the beginnings of rows in this process, for the small held-out sets that training looks at.

    Args:
        clips: the rows' clips.
        embed: float32 [b, clip_samples] → float32 [b, width].
        rows: which, int64 [n].
        batch_size: clips in one call of `embed`.
        failed: takes the rows that cannot be decoded, with the word of `REASONS` that says why.

    Returns:
        (embeddings float32 [m, width], rows int64 [m]): rows that cannot be decoded are left out, m ≤ n.
    """

    def read(row: int) -> np.ndarray | None:
        try:
            return patiently(lambda: clips.clip(row, None))
        except AudioError as error:
            if failed is not None:
                failed[row] = error.reason
            return None

    parts, kept = [], []
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            waves = list(pool.map(read, some.tolist()))
            good = [i for i, wave in enumerate(waves) if wave is not None]
            if good:
                parts.append(embed(np.stack([waves[i] for i in good])))  # type: ignore[misc]
                kept.append(some[good])
    if not parts:
        return np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
    return np.concatenate(parts), np.concatenate(kept)
