"""The training river: which recording comes when, decoded by Ray Data.

The order of a run is a pure function of (seed, epoch): a position in it is all that a restart needs, every world size
sees the same global batches, and no row is dropped or doubled between ranks. That is why each worker draws its own
share from this order instead of `streaming_split`, which drops remainders and keeps no position.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from ray.data._internal.execution.execution_callback import ExecutionCallback

from distill import storage, tables
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
# One execution of Ray Data plans all its tasks up front: a long run is cut into executions of this many.
BLOCKS_PER_EXECUTION = 4000
# An undecodable row's place is taken by another row of the manifest, so that batches keep their size.
SUBSTITUTES = 8
# Threads that read in this process what Ray Data is not asked for.
READERS = 4
# What went wrong travels with a batch, whose columns are numbers.
REASON_OF = tuple(REASONS)


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
    size = share_size(order.batch_size, rank, world)
    steps_per_execution = max(1, BLOCKS_PER_EXECUTION * clips_per_block // size)

    for begin in range(first_step, order.steps, steps_per_execution):
        steps = min(steps_per_execution, order.steps - begin)

        def rows_at(places: np.ndarray, begin: int = begin) -> tuple[np.ndarray, np.ndarray]:
            steps_of = begin + places // size
            rows = [order.share(int(s), rank, world)[int(p) % size] for s, p in zip(steps_of, places, strict=True)]
            return steps_of // order.steps_per_epoch, np.asarray(rows)

        yield from _decoded(clips, steps * size, clips_per_block, size, rows_at, device)


class _Unhurried(ExecutionCallback):
    """Lets Ray Data's scheduling loop breathe.

    While all that may be buffered is buffered, the loop has no task to wait for and spins, in this process and under
    the interpreter's lock that training needs: a sampling profiler found it busy for two thirds of the time.
    """

    def on_execution_step(self, executor: Any) -> None:
        """Called by the loop at each of its rounds; while tasks decode, it waits for them by itself."""
        decoding = any(operator.num_active_tasks() for operator in executor._topology)
        time.sleep(0.01 if decoding else 0.05)


def _decoded(
    clips: Any,
    count: int,
    clips_per_block: int,
    batch_size: int,
    rows_at: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    device: str,
) -> Iterator[dict[str, Any]]:
    import ray

    def decode(batch: Any) -> Any:
        source: Clips = ray.get(clips)
        epochs, rows = rows_at(batch["id"])
        decoded = [source.training_row(int(row), int(epoch)) for epoch, row in zip(epochs, rows, strict=True)]
        return {
            name: np.stack([one[name] for one in decoded])
            if name == "wave"
            else np.array([one[name] for one in decoded], np.int64)
            for name in decoded[0]
        }

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # To poll a task's own memory is to read the maps of all the object store's pages, each second.
    context.memory_usage_poll_interval_s = None
    if _Unhurried not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(_Unhurried)
    blocks = max(1, -(-count // clips_per_block))
    dataset = ray.data.range(count, override_num_blocks=blocks).map_batches(decode, batch_size=None)
    yield from dataset.iter_torch_batches(batch_size=batch_size, prefetch_batches=2, device=device)


def undecodable(clips: Clips, rows: Iterable[int]) -> dict[int, str]:
    """Those of some rows whose beginning cannot be decoded now, with the word of `REASONS` that says why."""
    from concurrent.futures import ThreadPoolExecutor

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
    from concurrent.futures import ThreadPoolExecutor

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
