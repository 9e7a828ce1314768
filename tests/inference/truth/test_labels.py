from __future__ import annotations

import numpy as np
import pyarrow as pa

from inference.truth import labels
from inference.truth.annotations import ANNOTATIONS


def test_labels_by_recording() -> None:
    rows = [
        {"recording": "a/1", "start_s": 1.0, "end_s": 2.0, "scientific_name": "x"},
        {"recording": "a/1", "start_s": 3.0, "end_s": 4.0, "scientific_name": None},  # heard, but not named
        {"recording": "quiet.wav"},
        {"recording": "elsewhere", "start_s": 1.0, "end_s": 2.0, "scientific_name": "x"},
    ]
    heard = pa.Table.from_pylist(rows, ANNOTATIONS)
    found, strangers = labels.by_recording(heard, ["a/1.wav", "b/1.wav", "b/quiet.wav"])
    assert found == {"a/1.wav": [(1, 2, "x")], "b/quiet.wav": []}
    assert strangers == ["elsewhere"]


def test_a_hit_is_right_where_enough_of_the_song_is_in_its_window() -> None:
    heard = {"a": [(2.8, 5.0, "X"), (9.0, 9.1, "Strix aluco")]}
    recordings, species = ["a"] * 5 + ["b"], ["xx", "xx", "yy", "Strix aluco", "xx", "xx"]
    starts = np.array([0.0, 3.0, 3.0, 6.5, 4.6, 3.0])
    right = labels.truth(recordings, starts, starts + 3, species, heard, {"x": "xx", "strix aluco": "Strix aluco"}, 0.5)
    # 0.2 s, all, another species, the whole of a call of 0.1 s, 0.4 s, another recording.
    assert list(right) == [False, True, False, True, False, False]
