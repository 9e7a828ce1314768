"""What people heard against what was hit: which hits are right."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from inference.truth.annotations import matched

Labels = dict[str, list[tuple[float, float, str]]]
"""Labels by recording: (start in seconds, end, label)."""


def by_recording(heard: pa.Table, recordings: Iterable[str]) -> tuple[Labels, list[str]]:
    """Labels by the recordings of an archive.

    A recording that the annotations name is taken as listened to from end to end: where no label of a species is, it
    did not sing. One without a label is there with none.

    Args:
        heard: `inference.truth.annotations.ANNOTATIONS`, those without a label included.
        recordings: paths in the archive.

    Returns:
        (the labels; the names in `heard` that mean none of the recordings, or several, sorted).
    """
    found: Labels = {}
    table, strangers = matched(heard, recordings)
    for row in table.to_pylist():
        rows = found.setdefault(row["recording"], [])
        if row["start_s"] is not None and row["end_s"] is not None and row["scientific_name"]:
            rows.append((row["start_s"], row["end_s"], row["scientific_name"]))
    return found, strangers


def truth(
    recordings: list[str],
    starts_s: np.ndarray,
    ends_s: np.ndarray,
    species: list[str],
    labels: Labels,
    name_of: dict[str, str],
    least_s: float,
) -> np.ndarray:
    """Whether a hit's species is labelled in its window, bool [hits].

    Args:
        recordings, starts_s, ends_s, species: of each hit.
        labels: see `by_recording`.
        name_of: labels in lower case to scientific names.
        least_s: seconds of a label that should lie in the window; all of it where it is shorter.
    """
    sung: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for recording, rows in labels.items():
        for start, end, label in rows:
            name = name_of.get(label.lower(), label)
            sung.setdefault((recording, name), []).append((start, end))
    spans = {key: np.array(rows) for key, rows in sung.items()}
    right = np.zeros(len(species), bool)
    for hit, key in enumerate(zip(recordings, species, strict=True)):
        if key in spans:
            start_L, end_L = spans[key].T
            shared = np.minimum(ends_s[hit], end_L) - np.maximum(starts_s[hit], start_L)
            right[hit] = bool((shared >= np.minimum(least_s, end_L - start_L) - 1e-9).any())
    return right
