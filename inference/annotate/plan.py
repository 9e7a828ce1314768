"""What there is to do: every span of every usable recording, as columns, and units of work made from them one by one.

A plan is made again by each start of a command, from the inventory and from what earlier starts finished. Spans depend
on a recording's length and the window options alone, so that a finished span is known again however the archive has
grown since; which spans share a unit may differ from start to start.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inference.annotate.ledger import Outcomes
from inference.archive.spans import (
    LARGEST_UNIT_S,
    SMALLEST_UNIT_S,
    UNITS_OF_A_SMALL_ARCHIVE,
    Span,
    Unit,
    Windows,
    span_windows,
)

FACTS = [
    *("path", "size_bytes", "etag_or_mtime", "duration_s", "sample_rate_hz"),
    *("site", "start_utc", "start_local", "latitude", "longitude"),
]
"""Columns of the inventory that annotators need."""

_FIRST_BITS = 40


@dataclass(frozen=True)
class Plan:
    """Spans in the order of the recordings.

    Attributes:
        seen: the inventory, `archive.SEEN`.
        windows: how recordings are cut.
        file_S: row of `seen`, int64 [spans].
        first_S, count_S: the span's windows, int64 [spans].
        unit_S: number of the unit that a span is in, int64 [spans], -1 for finished ones.
        accepted: names of the finished units that hold.
    """

    seen: pa.Table
    windows: Windows
    file_S: np.ndarray
    first_S: np.ndarray
    count_S: np.ndarray
    unit_S: np.ndarray
    accepted: pa.Array

    @property
    def units(self) -> int:
        """Units that are yet to be done."""
        return int(self.unit_S.max(initial=-1)) + 1

    @property
    def todo_windows(self) -> int:
        """Windows in them."""
        return int(self.count_S[self.unit_S >= 0].sum())

    @property
    def todo_s(self) -> float:
        """Seconds of sound in those windows."""
        left = self.unit_S >= 0
        file, first, count = (some[left] for some in (self.file_S, self.first_S, self.count_S))
        durations_s = self.seen["duration_s"].take(file).to_numpy()
        heard = self.windows.heard_s
        return float((heard(durations_s, first + count) - heard(durations_s, first)).sum())

    def each(self) -> Iterator[tuple[Unit, pa.Table]]:
        """The units that are yet to be done, each with `FACTS` of its recordings."""
        known = self.seen.select(FACTS)
        todo = np.flatnonzero(self.unit_S >= 0)
        bounds = np.flatnonzero(np.diff(self.unit_S[todo], prepend=-1, append=self.units))
        for begin, end in itertools.pairwise(bounds):
            at = todo[begin:end]
            files, which = np.unique(self.file_S[at], return_inverse=True)
            facts = known.take(files)
            paths = facts["path"].to_pylist()
            spans = tuple(
                Span(paths[w], int(first), int(count))
                for w, first, count in zip(which, self.first_S[at], self.count_S[at], strict=True)
            )
            text = repr((self.windows, spans))
            yield Unit(hashlib.sha256(text.encode()).hexdigest()[:16], spans), facts


def make(seen: pa.Table, windows: Windows, outcomes: Outcomes) -> Plan:
    """Plans an inventory.

    An earlier outcome holds if all of its recordings are still what they were and none of its spans is another
    outcome's: an annotator that outlived its killed driver may have left such. The spans of others are done again.

    Args:
        seen: `archive.SEEN`; rows with a `reason` have no spans.
        windows: how recordings are cut.
        outcomes: what earlier starts of the same run finished.
    """
    usable = np.flatnonzero(pc.equal(seen["reason"], "").to_numpy(zero_copy_only=False))
    durations_F = seen["duration_s"].take(usable).to_numpy()
    total_F = windows.counts(durations_F)
    size = span_windows(windows)
    spans_F = -(-total_F // size)
    which = np.repeat(np.arange(len(usable)), spans_F)
    number = np.arange(len(which)) - np.repeat(np.cumsum(spans_F) - spans_F, spans_F)
    first_S = number * size
    count_S = np.minimum(size, total_F[which] - first_S)
    file_S = usable[which]

    taken, accepted = _finished(seen, file_S, first_S, count_S, outcomes.files)
    unit_S = np.full(len(file_S), -1, np.int64)
    left = count_S[~taken]
    if len(left):
        # By what the windows stand for, so that a hop other than the window's length makes no larger units.
        total_s = float(left.sum()) * windows.hop_s
        unit_s = min(LARGEST_UNIT_S, max(SMALLEST_UNIT_S, total_s / UNITS_OF_A_SMALL_ARCHIVE))
        per_unit = max(1, round(unit_s / windows.hop_s))
        number_L = (np.cumsum(left) - left) // per_unit
        # What must be decoded from its start stays in one unit: cut in several it would cost the square of its length.
        whole_L = pc.fill_null(seen["sequential"], False).to_numpy()[file_S[~taken]]
        first_L = np.unique(file_S[~taken], return_index=True, return_inverse=True)
        number_L = np.where(whole_L, number_L[first_L[1]][first_L[2]], number_L)
        unit_S[~taken] = np.unique(number_L, return_inverse=True)[1]
    return Plan(seen, windows, file_S, first_S, count_S, unit_S, accepted)


def _finished(
    seen: pa.Table, file_S: np.ndarray, first_S: np.ndarray, count_S: np.ndarray, files: pa.Table
) -> tuple[np.ndarray, pa.Array]:
    """Which spans are finished, bool [spans], and the names of the units that hold."""
    taken_S = np.zeros(len(file_S), bool)
    if not len(files) or not len(file_S):
        return taken_S, pa.array([], pa.string())
    units_N = files["unit"].combine_chunks().dictionary_encode()
    unit_N = units_N.indices.to_numpy()
    row_N = pc.fill_null(pc.index_in(files["path"], seen["path"].combine_chunks()), -1).to_numpy()
    same_N = (row_N >= 0) & pc.fill_null(
        pc.equal(files["version"], versions(seen).take(pa.array(np.maximum(row_N, 0)))), False
    ).to_numpy()

    spans = files["spans"].combine_chunks()
    parent_T = pc.list_parent_indices(spans).to_numpy()
    first_T, many_T = pc.list_flatten(spans).flatten().to_numpy().reshape(-1, 2).T
    keys_S = (file_S << _FIRST_BITS) | first_S  # rising
    keys_T = (row_N[parent_T].astype(np.int64) << _FIRST_BITS) | first_T
    at_T = np.minimum(np.searchsorted(keys_S, keys_T), len(keys_S) - 1)
    right_T = (keys_S[at_T] == keys_T) & (count_S[at_T] == many_T) & same_N[parent_T]

    holds_U = np.ones(len(units_N.dictionary), bool)
    holds_U[unit_N[~same_N]] = False
    holds_U[unit_N[parent_T[~right_T]]] = False
    unit_T = unit_N[parent_T]
    if len(np.unique(at_T[holds_U[unit_T]])) < holds_U[unit_T].sum():
        for unit in np.flatnonzero(holds_U):  # some span is in two units: the first one has it
            mine = at_T[unit_T == unit]
            holds_U[unit] = not taken_S[mine].any()
            taken_S[mine] |= holds_U[unit]
    taken_S[at_T[holds_U[unit_T]]] = True
    return taken_S, units_N.dictionary.filter(pa.array(holds_U))


def versions(files: pa.Table) -> pa.ChunkedArray:
    """What tells that a recording is still the same: its size, and its etag or time."""
    return pc.binary_join_element_wise(files["size_bytes"].cast(pa.string()), files["etag_or_mtime"], ":")
