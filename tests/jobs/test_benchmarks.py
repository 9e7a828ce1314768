"""`songsight evaluate --benchmark`, as a person runs it, on small data sets in the published layouts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from jobs import cli, evaluate
from tests.inference.benchmarks import layouts


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", *map(str, words)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_ssw60_makes_its_gallery_and_the_whole_table(
    model_dir: Path, tmp_path: Path, ray_started: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = layouts.ssw60(tmp_path / "ssw60")
    out = tmp_path / "out"
    evaluate.main(evaluate.Options(model=str(model_dir), benchmark="ssw60", data=str(root), out=str(out), k=1))
    said = capsys.readouterr().out
    assert "12 photographs of 3 species" in said
    info = json.loads((out / "gallery" / "gallery.json").read_text())
    assert info["images"] == 12
    table = json.loads((out / "table.json").read_text())
    assert "distilled" in json.dumps(table)
    assert (out / "recordings.parquet").is_file()


@pytest.mark.parametrize("name", ["birdset", "inatsounds", "beans", "soundscapes"])
def test_sounds_with_labels_are_named_every_way(
    name: str,
    model_dir: Path,
    gallery_dir: Path,
    tmp_path: Path,
    ray_started: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mlflow

    root = getattr(layouts, name)(tmp_path / name)
    words = ["--model", model_dir, "--data", root, "--out", tmp_path / "out"]
    if name == "soundscapes":
        words += ["--annotations", root / "annotations"]
    else:
        words += ["--benchmark", name]
    if name != "inatsounds":
        words += ["--taxonomy", layouts.ebird(tmp_path / "ebird.csv")]
    if name in ("birdset", "inatsounds"):
        words += ["--gallery", gallery_dir]
    cli.main(["evaluate", *map(str, words)])

    said = capsys.readouterr().out
    parts = {"birdset": ["table"], "inatsounds": ["table"], "soundscapes": ["table"]}
    parts |= {"beans": ["beans_watkins", "beans_enabirds"]}
    for part in parts[name]:
        rows = json.loads((tmp_path / "out" / f"{part}.json").read_text())
        by_method = {row["method"]: row for row in rows}
        wanted = ["chance", "base", "distilled"]
        wanted += ["distilled_images"] if name in ("birdset", "inatsounds") else []
        wanted += ["probe_before", "probe_after"] if name != "soundscapes" else []
        assert list(by_method) == wanted
        several = part not in ("beans_watkins",) and name != "inatsounds"
        main_measure = "cmAP" if several else "top1"
        for method in wanted[1:]:
            row = by_method[method]
            assert 0 <= row[f"{main_measure}_low"] <= row[main_measure] <= row[f"{main_measure}_high"] <= 1
            assert f"| {method} |" in said
        # Species are tones of their own, and no step was trained: a probe on the tower tells them apart.
        if "probe_after" in by_method and not several:
            assert by_method["probe_after"]["top1"] == by_method["probe_before"]["top1"] == 1
        with (tmp_path / "out" / f"{part}.csv").open() as handle:
            assert [row["method"] for row in csv.DictReader(handle)] == wanted
    if name == "inatsounds":
        assert by_method["distilled"]["classes"] == 3
        assert 0 <= by_method["distilled"]["audio_to_image_mAP"] <= 1
    if name == "beans":
        assert by_method["distilled"]["mAP"] == pytest.approx(by_method["distilled"]["cmAP"] * 2 / 3)  # OTHR is nowhere
    last = mlflow.search_runs(search_all_experiments=True, order_by=["start_time DESC"], max_results=1)
    assert any(column.endswith(f"{main_measure}.distilled") for column in last.columns)


def test_options_that_do_not_go_together_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "missing --data" in refused(capsys, "--model", "m", "--benchmark", "ssw60")
    words = ("--model", "m", "--benchmark", "beans", "--data", tmp_path)
    assert "--annotations is not for --benchmark beans" in refused(capsys, *words, "--annotations", "x")
    assert "--recordings is not for --benchmark" in refused(capsys, *words, "--recordings", "x")
    assert "missing --recordings; or give --benchmark and --data" in refused(capsys, "--model", "m", "--gallery", "g")
    assert "no such file or folder" in refused(capsys, "--model", "m", "--benchmark", "beans", "--data", tmp_path / "x")
