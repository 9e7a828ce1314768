from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from jobs import demo
from songsight.errors import UserError
from songsight.store import tables


def write(
    folder: Path, hits: list[tuple[str, float, float, str]], songs: list[tuple[str, float, float, str, float]]
) -> None:
    rows = [
        {"recording": path, "start_s": start, "end_s": end, "scientific_name": name, "score": 0.9}
        for path, start, end, name in hits
    ]
    tables.write_table(str(folder / "annotated" / "hits" / "a.parquet"), pa.Table.from_pylist(rows, tables.HITS))
    names = ("path", "start_s", "end_s", "scientific_name", "snr_db")
    labels = [dict(zip(names, song, strict=True)) for song in songs]
    tables.write_table(str(folder / "labels.parquet"), pa.Table.from_pylist(labels))


def test_hits_are_right_where_their_species_sings_in_their_window(tmp_path: Path) -> None:
    write(
        tmp_path,
        hits=[
            ("a.wav", 0, 3, "x"),  # right
            ("a.wav", 3, 6, "x"),  # the song reaches 0.4 s into it: wrong
            ("a.wav", 0, 3, "y"),  # another species: wrong
            ("b.wav", 0, 3, "x"),  # another recording: wrong
            ("a.wav", 9, 12, "z"),  # right
        ],
        songs=[("a.wav", 1.0, 3.4, "x", 10.0), ("a.wav", 10.0, 11.0, "z", 0.0), ("a.wav", 20.0, 22.0, "z", 0.0)],
    )
    found = demo.score_hits(tmp_path / "annotated", tmp_path / "labels.parquet")
    assert found["precision"] == pytest.approx(2 / 5)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["recall_by_snr_db"] == {"0": 0.5, "10": 1.0}
    assert (found["hits"], found["songs"]) == (5, 3)


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty and not of an earlier demo"):
        demo.main(demo.Options(out=str(tmp_path), cache=str(tmp_path / "cache")))
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.slow
def test_a_small_world_from_songs_to_the_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.demo", "--species", "12", "--epochs", "2"]
    command += ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    env = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    ran = subprocess.run(command, capture_output=True, text=True, env=env, timeout=500, cwd=Path(__file__).parents[2])
    assert ran.returncode == 0, ran.stderr
    out = tmp_path / "out"
    for name in ("teacher", "base", "model", "gallery", "archive", "annotated"):
        assert (out / name).is_dir()
    assert (out / "recordings.parquet").stat().st_size
    assert (out / "images.parquet").stat().st_size
    summary = json.loads((out / "summary.json").read_text())
    wanted = {"random_projection", "text_mapping", "zero_shot_chain", "frozen_head", "distilled", "ceiling"}
    assert wanted <= summary["audio_to_image_mAP"].keys()
    assert 0 < summary["knn_before"] <= 1
    assert 0 < summary["knn_after"] <= 1
    assert "http" not in re.sub(r"https?://www\.w3\.org\S*", "", (out / "report.html").read_text())
    assert re.search(r"19 files in = 16 annotated \+ 3 quarantined", ran.stdout)

    refused = subprocess.run([*command[:3], "--species", "9999", "--out", str(tmp_path / "no")], capture_output=True)
    assert refused.returncode == 2
    assert b"there are names for" in refused.stderr
