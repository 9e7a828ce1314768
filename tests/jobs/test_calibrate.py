from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import annotate, calibrate
from songsight.errors import UserError
from songsight.store import tables
from tests.conftest import World

KEYS = [("recording", "ascending"), ("start_s", "ascending"), ("rank", "ascending")]
DAWN = "site-a/20240514_053000.wav"


def hits(out: Path) -> list[dict]:
    return pq.read_table(out / "hits").sort_by(KEYS).to_pylist()


@pytest.fixture(scope="module")
def trial(world: World, gallery_dir: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that kept every species of every window, and its vectors."""
    out = tmp_path_factory.mktemp("trial") / "out"
    annotate.main(
        annotate.Options(
            archive=str(world.archive),
            gallery=str(gallery_dir),
            model=str(model_dir),
            out=str(out),
            min_score=-1.0,
            top_k=4,
            timezone="+00:00",
            embeddings="float16",
        )
    )
    return out


@pytest.fixture(scope="module")
def labels(trial: Path) -> Path:
    """Somebody heard an owl for half of one recording, and nothing in another."""
    rows = [
        {"path": DAWN, "start_s": 0.0, "end_s": 30.0, "scientific_name": "Strix aluco"},
        {"path": DAWN, "start_s": 40.0, "end_s": 50.0, "scientific_name": "Great Tit"},
        {"path": "site-a/half.wav", "start_s": 3.0, "end_s": 9.0, "scientific_name": "Parus major"},
    ]
    url = trial.parent / "labels.parquet"
    tables.write_table(str(url), pa.Table.from_pylist(rows))
    return url


@pytest.fixture(scope="module")
def fitted(trial: Path, labels: Path) -> Path:
    out = trial.parent / "calibration.json"
    calibrate.main(calibrate.Options(annotated=str(trial), labels=str(labels), out=str(out)))
    return out


def test_the_fit_is_that_of_the_labelled_windows(
    trial: Path, labels: Path, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from inference.match import calibration

    measured = calibrate.main(calibrate.Options(annotated=str(trial), labels=str(labels), out=str(fitted)))
    said = capsys.readouterr().out
    assert "| calibrated |" in said
    rows = [hit for hit in hits(trial) if hit["recording"] in (DAWN, "site-a/half.wav")]
    spans = {
        (DAWN, "Strix aluco"): (0, 30),
        (DAWN, "Parus major"): (40, 50),
        ("site-a/half.wav", "Parus major"): (3, 9),
    }
    right = np.array(
        [
            min(hit["end_s"], end) - max(hit["start_s"], start) >= 0.5
            for hit in rows
            for start, end in [spans.get((hit["recording"], hit["scientific_name"]), (0, -9))]
        ]
    )
    assert (measured["hits"], measured["right"], measured["recordings"]) == (len(rows), int(right.sum()), 2)
    scores = np.array([hit["score"] for hit in rows])
    assert measured["brier_score_as_probability"] == pytest.approx(np.mean((scores.clip(0, 1) - right) ** 2))
    found = calibration.read(str(fitted))
    p = calibration.probability(found.lines([hit["scientific_name"] for hit in rows]), scores)
    assert p.mean() == pytest.approx(right.mean(), abs=0.02)  # a logistic fit keeps the mean
    assert found.top_k == 4
    assert Image.open(fitted.with_suffix(".png")).width > 300


def test_labels_of_joined_tables_with_codes_teach_the_same_and_what_is_not_used_is_said(
    trial: Path, labels: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same labels from two Excel's: selections that start again in each recording, decimal commas, codes."""
    lines = ["sep=;", "Selection;Begin Time (s);Delta Time (s);Begin File;Code;;"]
    number = {DAWN: 0, "site-a/half.wav": 0}
    for row in pq.read_table(labels).to_pylist():
        number[row["path"]] += 1
        length = f"{row['end_s'] - row['start_s']}".replace(".", ",")
        code = {"Strix aluco": "007", "Great Tit": "GT", "Parus major": "GT"}[row["scientific_name"]]
        start = str(row["start_s"]).replace(".", ",")
        lines.append(f"{number[row['path']]};{start};{length};{row['path']};{code};;")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "all.csv").write_text("\r\n".join(lines), encoding="utf-16")
    (tmp_path / "labels" / "read me.txt").write_text("Who heard what.")
    for name in ("nowhere", "elsewhere"):
        (tmp_path / "labels" / f"{name}.txt").write_text("0\t1\t007\n")
    (tmp_path / "names.csv").write_text("label\tscientific_name\t\n007\tStrix aluco\t\nGT\tParus major\t\n")
    how = {"labels": str(tmp_path / "labels"), "names": str(tmp_path / "names.csv"), "label_column": "Code"}
    calibrate.main(calibrate.Options(annotated=str(trial), out=str(tmp_path / "c.json"), **how))
    again, first = (json.loads(url.read_text()) for url in (tmp_path / "c.json", fitted))
    assert again == first
    line, strangers = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--labels: not used: {tmp_path / 'labels' / 'read me.txt'} has no columns that say when")
    assert strangers == f"--labels: not used, for no one recording of {trial} is meant: elsewhere, nowhere"


def test_hits_carry_probabilities_that_filter(
    trial: Path, fitted: Path, gallery_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from inference.match import calibration

    how = {"from_embeddings": str(trial), "gallery": str(gallery_dir), "min_score": -1.0, "top_k": 4}
    annotate.main(annotate.Options(out=str(tmp_path / "all"), calibration=str(fitted), merge_gap_s=0.0, **how))  # type: ignore[arg-type]
    everything = hits(tmp_path / "all")
    found = calibration.read(str(fitted))
    expected = calibration.probability(
        found.lines([hit["scientific_name"] for hit in everything]), np.array([hit["score"] for hit in everything])
    )
    np.testing.assert_allclose([hit["probability"] for hit in everything], expected, atol=1e-5)
    merged = pq.read_table(tmp_path / "all" / "detections").to_pylist()
    assert max(one["probability_max"] for one in merged) == pytest.approx(expected.max(), abs=1e-5)
    assert "calibration" in json.loads((tmp_path / "all" / "run.json").read_text())["fingerprints"]

    distinct = np.unique(expected)  # a steady tone has many equal scores: not one of those
    widest = int(np.diff(distinct).argmax())
    threshold = float(distinct[widest : widest + 2].mean())
    annotate.main(
        annotate.Options(out=str(tmp_path / "some"), calibration=str(fitted), min_probability=threshold, **how)  # type: ignore[arg-type]
    )
    kept = [(h["recording"], h["start_s"], h["rank"]) for h in everything if h["probability"] >= threshold]
    assert [(h["recording"], h["start_s"], h["rank"]) for h in hits(tmp_path / "some")] == kept

    annotate.main(annotate.Options(out=str(tmp_path / "none"), **how))  # type: ignore[arg-type]
    assert {hit["probability"] for hit in hits(tmp_path / "none")} == {None}

    refused: list[tuple[dict, str]] = [
        ({"score": "prototype"}, "another score"),
        ({"bridge": 0.5}, "another bridge"),
        ({"calibration": "/no/file.json"}, "--calibration: no such file"),
        ({"min_probability": 1.5}, "--min-probability should be from 0 to 1"),
        ({"calibration": None, "min_probability": 0.5}, "--min-probability needs --calibration"),
    ]
    for changed, message in refused:
        with pytest.raises(UserError, match=message):
            annotate.main(
                annotate.Options(**({"out": str(tmp_path / "no"), "calibration": str(fitted)} | how | changed))  # type: ignore[arg-type]
            )
        assert not (tmp_path / "no").exists()


def test_a_range_table_weighs_scores(trial: Path, fitted: Path, gallery_dir: Path, tmp_path: Path) -> None:
    """The recording begins at 05:30 on 14 May; the others' clocks are not known."""
    rows = [
        {"scientific_name": "Strix aluco", "latitude": 50.5, "longitude": 8.5, "month": 12, "weight": 0.5},
        {"scientific_name": "Parus major", "latitude": 50.5, "longitude": 8.5, "month": 5, "weight": 0.2},
    ]
    url = tmp_path / "range.csv"
    import pyarrow.csv

    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), url)
    how = {"from_embeddings": str(trial), "gallery": str(gallery_dir), "min_score": -1.0, "top_k": 4} | {
        "range": str(url),
        "latitude": 50.2,
        "longitude": 8.9,
    }
    annotate.main(annotate.Options(out=str(tmp_path / "out"), **how))  # type: ignore[arg-type]
    plain = {(h["recording"], h["start_s"], h["scientific_name"]): h["score"] for h in hits(trial)}
    temperature = json.loads((trial / "run.json").read_text())["encoder"]["temperature"]
    weighed = {(h["recording"], h["start_s"], h["scientific_name"]): h["score"] for h in hits(tmp_path / "out")}
    weight = {
        (True, "Strix aluco"): 0.0,
        (True, "Parus major"): 0.2,
        (False, "Strix aluco"): 0.5,
        (False, "Parus major"): 0.2,
    }
    for key, score in plain.items():
        by = weight.get((key[0] == DAWN, key[2]), 1.0)
        if by == 0:
            assert key not in weighed
        else:
            assert weighed[key] == pytest.approx(score + temperature * np.log(by), abs=2e-3)

    refused: list[tuple[dict, str]] = [
        ({"latitude": 60.0}, "no cell holds --latitude 60 --longitude 8.9"),
        ({"latitude": None}, "--longitude needs the other coordinate and --range"),
        ({"range": None}, "needs the other coordinate and --range"),
        ({"latitude": 95.0}, "--latitude should be degrees from -90 to 90"),
        ({"range": "/no/range.csv"}, "--range: no such file"),
        ({"calibration": str(fitted)}, "another range"),
    ]
    for changed, message in refused:
        with pytest.raises(UserError, match=message):
            annotate.main(annotate.Options(**({"out": str(tmp_path / "no")} | how | changed)))  # type: ignore[arg-type]
        assert not (tmp_path / "no").exists()


def test_labels_that_teach_nothing_are_one_line(trial: Path, tmp_path: Path) -> None:
    url = str(tmp_path / "labels.parquet")
    for path, end_s, name, message in (
        ("elsewhere.wav", 1.0, "x", "none of the 1 recordings"),
        (DAWN, 1.0, "Corvus corax", "none of the 88 hits are right"),
        (DAWN, 9.0, "Strix aluco", "two labelled recordings"),
    ):
        row = {"path": path, "start_s": 0.0, "end_s": end_s, "scientific_name": name}
        tables.write_table(url, pa.Table.from_pylist([row]))
        with pytest.raises(UserError, match=message):
            calibrate.main(calibrate.Options(annotated=str(trial), labels=url, out=str(tmp_path / "c.json")))
        assert not (tmp_path / "c.json").exists()
