"""The training river: which recording comes when, decoded by Ray tasks.

The order of a run is a pure function of (seed, epoch): a position in it is all that a restart needs, every world size
sees the same global batches, and no row is dropped or doubled between ranks. That is why each worker draws its own
share from this order instead of Ray Data's `streaming_split`, which drops remainders and keeps no position; and what is
left of Ray Data without it, a scheduling loop in the worker's own process and two actors that wake a hundred times a
second each, took a step's time.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from distill import pool, storage, tables
from distill.audio import REASONS, AudioError, open_audio, read_mono
from distill.errors import UserError
from distill.padding import fit_length
from distill.patience import patiently
from distill.shares import share, share_size
from distill.text_bank import TextPlan

if TYPE_CHECKING:
    from distill.mel import LogMel

# A block of decoded clips is held in the object store whole: 16 clips of 10 s at 48 kHz are 31 MB. Smaller blocks cost
# more scheduling than decoding.
BLOCK_BYTES = 32_000_000
# What a step takes next is there, on its device, when it asks for it.
BATCHES_READY = 2
# An undecodable row's place is taken by another row of the manifest, so that batches keep their size.
SUBSTITUTES = 8
# Threads that read in this process what no task is asked for.
READERS = 4
# What went wrong travels with a batch, whose columns are numbers.
REASON_OF = tuple(REASONS)


Item = TypeVar("Item")


@dataclass(frozen=True)
class Order:
    """Which row of the manifest stands at which place of the run.

    Attributes:
        rows: rows of the manifest.
        batch_size: recordings of a global batch, over all workers.
        epochs: passes over the manifest. The rows that do not fill a last batch differ from epoch to epoch.
        seed: of the shuffle.
    """

    rows: int
    batch_size: int
    epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass."""
        return self.rows // self.batch_size

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.steps_per_epoch * self.epochs

    def rows_of(self, epoch: int) -> np.ndarray:
        """The rows of an epoch in the order they are seen: int64 [steps_per_epoch × batch_size]."""
        return _shuffled(self.rows, self.seed, epoch)[: self.steps_per_epoch * self.batch_size]

    def share(self, step: int, rank: int, world: int) -> np.ndarray:
        """The rows of one worker in one step: int64 [`shares.share_size`]."""
        epoch, within = divmod(step, self.steps_per_epoch)
        batch = self.rows_of(epoch)[within * self.batch_size : (within + 1) * self.batch_size]
        return batch[share(self.batch_size, rank, world)]


@lru_cache(maxsize=4)
def _shuffled(rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)


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
    def of(cls, mel: LogMel, seed: int) -> Features:
        """The clips that a checkpoint's features are made of."""
        return cls(mel.sample_rate_hz, mel.clip_samples, mel.padding, seed)


@dataclass(frozen=True)
class Clips:
    """How a row becomes a clip and a text: what a decoding task needs, a few numbers a row.

    Attributes:
        paths: absolute paths or URLs, [rows]. An Arrow column: a decoding task gets all of them, and reads what it
            needs in the object store instead of unpickling a million strings.
        start_s, end_s: the span of each recording, float64 [rows]; NaN in `end_s` for all of it.
        text_plan: what texts a row may draw; without the texts themselves.
        features: of the encoder.
    """

    paths: pa.LargeStringArray
    start_s: np.ndarray
    end_s: np.ndarray
    text_plan: TextPlan
    features: Features

    @classmethod
    def of(cls, recordings: pa.Table, table_url: str, text_plan: TextPlan, features: Features) -> Clips:
        """The clips of a `tables.RECORDINGS` table that was read from `table_url`.

        Raises:
            UserError: a row has no path.
        """
        if missing := recordings["path"].null_count:
            raise UserError(f"{table_url}: {missing} of {len(recordings)} rows have no path")
        urls = [storage.absolute(tables.resolve_path(path, table_url)) for path in recordings["path"].to_pylist()]
        starts = np.nan_to_num(np.asarray(recordings["start_s"].to_pylist(), dtype=np.float64))
        return cls(
            pa.array(urls, pa.large_string()),
            starts,
            np.asarray(recordings["end_s"].to_pylist(), dtype=np.float64),
            replace(text_plan, texts=[]),
            features,
        )

    @property
    def per_block(self) -> int:
        """Clips that one task decodes."""
        return max(1, BLOCK_BYTES // (4 * self.features.clip_samples))

    def clip(self, row: int, rng: np.random.Generator | None) -> np.ndarray:
        """One clip of a row: float32 [clip_samples], cropped at random, or its beginning without `rng`.

        Raises:
            AudioError: nothing in the span could be decoded.
        """
        start, end = float(self.start_s[row]), float(self.end_s[row])
        length, rate = self.features.clip_samples, self.features.sample_rate_hz
        length_s = length / rate
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
            samples = read_mono(reader, start, min(end, start + length_s), rate)
        if not len(samples):
            raise AudioError("too-short", f"no samples between {start:.2f} s and {end:.2f} s")
        return fit_length(samples[:length], length, self.features.padding)

    def training_row(self, row: int, epoch: int) -> dict[str, Any]:
        """A row as training sees it in one epoch; the same for the same (seed, epoch, row).

        Storage that fails is waited for before the row's place is given to another.

        Returns:
            `wave` float32 [clip_samples], `text` number in the bank, `species` number, `row` the row the clip is of,
            `failed` the row it stands in for, or -1, and `reason` that one's place in `REASON_OF`, or -1.
        """
        rng = np.random.default_rng()

        def asked_for() -> np.ndarray:
            nonlocal rng
            rng = np.random.default_rng([self.features.seed, epoch, row])  # another try crops at the same place
            return self.clip(row, rng)

        try:
            return self._seen(patiently(asked_for), row, rng)
        except AudioError as error:
            bad = {"failed": row, "reason": REASON_OF.index(error.reason)}
        for _ in range(SUBSTITUTES - 1):
            candidate = int(rng.integers(len(self.paths)))
            try:
                return self._seen(self.clip(candidate, rng), candidate, rng) | bad
            except AudioError:
                continue
        # So much is bad that no draw met a good one. Whether that fails the run, the trainer says, which counts them.
        return self._seen(np.zeros(self.features.clip_samples, np.float32), row, rng) | bad

    def _seen(self, wave: np.ndarray, row: int, rng: np.random.Generator) -> dict[str, Any]:
        return {
            "wave": wave,
            "text": self.text_plan.draw(row, rng),
            "species": int(self.text_plan.species_of_row[row]),
            "row": row,
            "failed": -1,
            "reason": -1,
        }


def training_batches(
    clips: Any, clips_per_block: int, order: Order, rank: int, world: int, first_step: int, device: str
) -> Iterator[dict[str, Any]]:
    """One worker's share of every global batch from `first_step` to the end of the run.

    Args:
        clips: an object-store reference to `Clips`.
        clips_per_block: clips that one task decodes.
        order: of the run.
        rank, world: of this worker.
        first_step: the step to go on from.
        device: where the tensors go.

    Yields:
        torch tensors: `wave` float32 [b, clip_samples], and int64 [b] `text`, `species`, `row`, `failed`, `reason`
        (see `Clips.training_row`).
    """
    import ray
    import torch

    def decode(places: list[tuple[int, int]]) -> dict[str, np.ndarray]:
        source: Clips = ray.get(clips)
        decoded = [source.training_row(row, epoch) for row, epoch in places]
        return {name: np.asarray([one[name] for one in decoded]) for name in decoded[0]}

    places = (
        (int(row), step // order.steps_per_epoch)
        for step in range(first_step, order.steps)
        for row in order.share(step, rank, world)
    )
    blocks = iter(lambda: list(itertools.islice(places, clips_per_block)), [])
    # Every CPU has a block of some worker's at work, and the next one waits for it.
    ahead = 2 + -(-int(ray.cluster_resources().get("CPU", 1)) // world)
    batches = _batched(pool.in_order(decode, blocks, ahead), share_size(order.batch_size, rank, world))
    tensors = ({name: torch.from_numpy(column).to(device) for name, column in one.items()} for one in batches)
    yield from _ready(tensors, BATCHES_READY)


def _batched(blocks: Iterable[dict[str, np.ndarray]], size: int) -> Iterator[dict[str, np.ndarray]]:
    """Columns cut anew into so many rows; in memory of this process, not in the object store's, which is read only."""
    held: list[dict[str, np.ndarray]] = []
    for block in blocks:
        held.append(block)
        have = sum(len(one["row"]) for one in held)
        if have < size:
            continue
        joined = {name: np.concatenate([one[name] for one in held]) for name in block}
        for start in range(0, have - size + 1, size):
            yield {name: column[start : start + size] for name, column in joined.items()}
        held = [{name: column[have // size * size :] for name, column in joined.items()}]


def _ready(items: Iterator[Item], count: int) -> Iterator[Item]:
    """The same items, so many of them made ahead by a thread."""
    thread = ThreadPoolExecutor(1)
    try:
        waiting = deque(thread.submit(next, items, None) for _ in range(count))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


def undecodable(clips: Clips, rows: Iterable[int]) -> dict[int, str]:
    """Those of some rows whose beginning cannot be decoded now, with the word of `REASONS` that says why."""

    def reason(row: int) -> str | None:
        try:
            clips.clip(row, None)
        except AudioError as error:
            return error.reason
        return None

    asked = list(rows)
    with ThreadPoolExecutor(READERS) as readers:
        return {row: why for row, why in zip(asked, readers.map(reason, asked), strict=True) if why}


def embed_clips(
    clips: Clips,
    embed: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    batch_size: int,
    failed: dict[int, str] | None = None,
) -> Any:
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
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            waves = list(readers.map(read, some.tolist()))
            good = [i for i, wave in enumerate(waves) if wave is not None]
            if good:
                parts.append(embed(np.stack([waves[i] for i in good])))  # type: ignore[misc]
                kept.append(some[good])
    if not parts:
        return np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
    return np.concatenate(parts), np.concatenate(kept)
