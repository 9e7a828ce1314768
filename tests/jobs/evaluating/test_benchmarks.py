"""`songsight evaluate --benchmark`, as a person runs it, on small data sets in the published layouts."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from sklearn import metrics as sk

from jobs import cli, evaluate
from tests.inference.benchmarks import layouts

LABELLED = {
    "birdset": ["table"],
    "birdset_cut": ["table"],
    "inatsounds": ["table"],
    "beans": ["beans_watkins", "beans_enabirds"],
    "soundscapes": ["table"],
}


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", *map(str, words)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def by_method(path: Path) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in json.loads(path.read_text())}


def test_ssw60_makes_its_gallery_once_and_the_whole_table(
    model_dir: Path, tmp_path: Path, ray_started: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = layouts.ssw60(tmp_path / "ssw60")
    out = tmp_path / "out"
    options = {"model": str(model_dir), "benchmark": "ssw60", "data": str(root), "k": 1, "resamples": 20}
    evaluate.main(evaluate.Options(**options, out=str(out), save_scores=str(tmp_path / "scores.npz")))
    said = capsys.readouterr().out
    assert "12 photographs of 3 species" in said
    info = json.loads((out / "gallery" / "gallery.json").read_text())
    assert info["images"] == 12
    kept = np.load(tmp_path / "scores.npz")
    assert kept["scores"].shape == (3, 12)
    own = [
        sk.average_precision_score(kept["image_species"] == name, row)
        for name, row in zip(kept["query_species"], kept["scores"], strict=True)
    ]
    table = by_method(out / "table.json")
    assert table["distilled"]["mAP"] == pytest.approx(np.mean(own))
    assert (out / "recordings.parquet").is_file()

    before = (out / "gallery" / "gallery.json").stat().st_mtime_ns
    evaluate.main(evaluate.Options(**options, out=str(out)))
    assert "embedded already" in capsys.readouterr().err
    assert (out / "gallery" / "gallery.json").stat().st_mtime_ns == before
    assert by_method(out / "table.json")["distilled"]["mAP"] == table["distilled"]["mAP"]

    # The same gallery, asked for one of its collections.
    part = options | {"parts": ("images_nabirds",), "gallery": str(out / "gallery")}
    again = tmp_path / "nabirds.npz"
    evaluate.main(evaluate.Options(**part, out=str(tmp_path / "part"), save_scores=str(again)))
    one = np.load(again)
    assert sorted(one["image_id"]) == sorted(f"images_nabirds/0{s}{n}2" for s in range(3) for n in (2, 3))
    columns = [kept["image_id"].tolist().index(name) for name in one["image_id"]]
    assert np.allclose(one["scores"], kept["scores"][:, columns], atol=1e-5)


def test_a_benchmark_of_which_nothing_can_be_decoded_is_said(
    model_dir: Path, tmp_path: Path, ray_started: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = layouts.beans(tmp_path / "beans")
    sounds = list(root.rglob("*.wav"))
    assert sounds
    for sound in sounds:
        sound.write_text("batteries changed")
    words = [
        "--model",
        model_dir,
        "--benchmark",
        "beans",
        "--data",
        root,
        "--taxonomy",
        layouts.ebird(tmp_path / "e.csv"),
    ]
    said = refused(capsys, *words).splitlines()[-1]
    assert said == f"songsight evaluate: error: --data {root}: none of the test clips of beans_watkins can be decoded"


@pytest.mark.parametrize("name", list(LABELLED))
def test_sounds_with_labels_are_named_every_way(
    name: str,
    model_dir: Path,
    gallery_dir: Path,
    tmp_path: Path,
    ray_started: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, out = getattr(layouts, name)(tmp_path / name), tmp_path / "out"
    words: list[object] = ["--model", model_dir, "--data", root, "--out", out, "--resamples", 30]
    if name == "soundscapes":
        words += ["--annotations", root / "annotations"]
    else:
        words += ["--benchmark", name.partition("_")[0]]
    if name != "inatsounds":
        words += ["--taxonomy", layouts.ebird(tmp_path / "ebird.csv")]
    shown = name in ("birdset", "inatsounds")
    words += ["--gallery", gallery_dir] if shown else []
    words += ["--save-scores", tmp_path / "saved.npz"] if name != "beans" else []
    cli.main(["evaluate", *map(str, words)])

    said = capsys.readouterr().out
    record = json.loads((out / "benchmark.json").read_text())
    for part in LABELLED[name]:
        rows = by_method(out / f"{part}.json")
        wanted = ["chance", "base", "distilled"]
        wanted += ["distilled_images"] if shown else []
        wanted += ["probe_before", "probe_after"] if name not in ("soundscapes", "birdset_cut") else []
        assert list(rows) == wanted
        kept = np.load(out / ("scores.npz" if part == "table" else f"{part}.scores.npz"))
        several = bool(kept["several"])
        assert several == (part != "beans_watkins" and name != "inatsounds")
        for method in wanted[1:]:
            assert f"| {method} |" in said
            recomputed(rows[method], kept, method)
        # Species are tones of their own, and no step was trained: a probe on the tower tells them apart.
        if "probe_after" in rows and not several:
            assert rows["probe_after"]["top1"] == rows["probe_before"]["top1"] == 1
        with (out / f"{part}.csv").open() as handle:
            assert [row["method"] for row in csv.DictReader(handle)] == wanted
    page = (out / "benchmark.html").read_text()
    assert "<th>method</th>" in page
    pictures = sorted(path.name for path in (out / "pictures").iterdir())
    for part in record["parts"]:
        kinds = ["macro", "micro"] if part not in ("inatsounds", "beans_watkins") else ["macro"]
        assert [f"{part}_precision_recall_{kind}.png" in pictures for kind in kinds] == [True] * len(kinds)
        assert page.count("data:image/png;base64,") == len(pictures)
    run = mlflow.get_run(record["run_id"])
    wanted_prints = {"teacher", "model", "base", *record["parts"]} | ({"photographs"} if shown else set())
    assert set(record["fingerprints"]) == wanted_prints
    assert {f"fingerprint.{one}" for one in wanted_prints} <= set(run.data.tags)
    artifacts = {file.path for file in mlflow.artifacts.list_artifacts(run_id=record["run_id"])}
    assert {"benchmark.json", "benchmark.html", "pictures"} <= artifacts
    assert {part["scores"] for part in record["parts"].values()} <= artifacts
    if name == "beans":
        enabirds = by_method(out / "beans_enabirds.json")["distilled"]
        assert enabirds["mAP"] == pytest.approx(enabirds["cmAP"] * 2 / 3)  # OTHR is nowhere
        assert enabirds["calls_in_no_window"] == 0
        assert (enabirds["units"], enabirds["recordings"]) == (8, 2)
    else:
        saved = np.load(tmp_path / "saved.npz")
        assert saved["scores"].dtype == np.float32
        assert saved["scores"].shape == saved["present"].shape == (len(saved["units"]), len(saved["classes"]))
        columns = [saved["classes"].tolist().index(one) for one in kept["classes"]]
        assert np.allclose(saved["scores"][:, columns], kept["scores.distilled"])
        assert (saved["present"][:, columns] == kept["present"]).all()
    if name == "inatsounds":
        files_find_photographs(out, record)
    if name == "birdset_cut":
        assert rows["distilled"]["recordings"] == 2
        assert rows["distilled"]["cmAP_low"] < rows["distilled"]["cmAP_high"]
    if name == "soundscapes":
        assert (rows["distilled"]["unnamed"], rows["distilled"]["undecodable"]) == (1, 0)


def recomputed(row: dict[str, Any], kept: Any, method: str) -> None:
    """Finds a row's figures again in the kept scores, with scikit-learn."""
    scores, present = kept[f"scores.{method}"], kept["present"]
    columns = np.flatnonzero(present.any(axis=0))
    precision = [sk.average_precision_score(present[:, c], scores[:, c]) for c in columns]
    if kept["several"]:
        assert row["cmAP"] == pytest.approx(np.mean(precision))
        judged = [c for c in columns if not present[:, c].all()]
        area = [sk.roc_auc_score(present[:, c], scores[:, c]) for c in judged]
        assert row["AUROC"] == pytest.approx(np.mean(area))
        labelled = present.any(axis=1)
        right = [
            own[there].max() > own[~there].max() if not there.all() else True
            for own, there in zip(scores[labelled], present[labelled], strict=True)
        ]
        assert row["top1"] == pytest.approx(np.mean(right))
        return
    assert row["mAP"] == pytest.approx(np.mean(precision))
    asked = present.any(axis=1)
    label, place = present[asked].argmax(axis=1), kept[f"place.{method}"][asked]
    named = np.where(place == 1, label, -1)
    assert row["top1"] == pytest.approx(sk.recall_score(label, named, labels=columns, average="macro"))
    assert row["accuracy"] == pytest.approx((place == 1).mean())


def files_find_photographs(out: Path, record: dict[str, Any]) -> None:
    """The retrieval tables of files, recomputed from each query's own result; and the row of the table of names."""
    import pyarrow.parquet as pq

    rows = by_method(out / "retrieval" / "table.json")
    assert {"random_projection", "text_mapping", "zero_shot_chain", "distilled_bridged", "ceiling"} < set(rows)
    queries = pq.read_table(out / "retrieval" / "queries.parquet").to_pandas()
    for method, row in rows.items():
        own = queries[queries["method"] == method]
        assert len(own) == 6
        assert row["mAP"] == pytest.approx(own["average_precision"].mean())
        assert row["recall_at_1"] == pytest.approx((own["first_rank"] <= 1).mean())
    macro = rows["distilled"]["macro_mAP"]
    by_species = queries[queries["method"] == "distilled"].groupby("scientific_name")["average_precision"].mean()
    assert macro == pytest.approx(by_species.mean())
    naming = by_method(out / "table.json")["distilled"]
    assert naming["audio_to_image_mAP"] == macro
    assert (naming["classes"], naming["missing"]) == (3, 0)
    assert record["parts"]["inatsounds"]["retrieval"] == "retrieval"
    assert (out / "retrieval" / "evaluation.html").is_file()


def test_two_runs_of_a_benchmark_are_compared(
    model_dir: Path, gallery_dir: Path, tmp_path: Path, ray_started: None, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from songsight.models import student

    other = student.load(str(model_dir))
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in other.head.parameters():
            weight.copy_(torch.randn_like(weight))
    student.save(other, str(tmp_path / "other"), card="# a card")
    root = layouts.inatsounds(tmp_path / "inat")
    for side, model in (("a", model_dir), ("b", tmp_path / "other")):
        words = ["--model", model, "--benchmark", "inatsounds", "--data", root, "--gallery", gallery_dir]
        cli.main(["evaluate", *map(str, words), "--resamples", "20", "--out", str(tmp_path / side)])
    capsys.readouterr()
    compared = ["--compare", tmp_path / "a", tmp_path / "b", "--resamples", 50, "--out", tmp_path / "c"]
    cli.main(["evaluate", *map(str, compared)])
    said = capsys.readouterr().out
    assert "6 units of 6 recordings in both, 0 units in A alone" in said
    rows = json.loads((tmp_path / "c" / "comparison_inatsounds.json").read_text())
    a, b = (by_method(tmp_path / side / "table.json") for side in "ab")
    for row in rows:
        assert row["a"] == pytest.approx(a[row["method"]][row["measure"]])
        assert row["b"] == pytest.approx(b[row["method"]][row["measure"]])
        assert row["difference"] == pytest.approx(row["b"] - row["a"])
    # The base is the same: what it says cannot differ.
    assert {row["more_than_noise"] for row in rows if row["method"] in ("base", "probe_before")} == {"no"}
    assert "the same in both: base" in said
    of_files = json.loads((tmp_path / "c" / "comparison_inatsounds_retrieval.json").read_text())
    found = [by_method(tmp_path / side / "retrieval" / "table.json")["distilled"]["mAP"] for side in "ab"]
    own = next(row for row in of_files if (row["method"], row["measure"]) == ("distilled", "mAP"))
    assert (own["a"], own["b"]) == (pytest.approx(found[0]), pytest.approx(found[1]))
    runs = [f"runs:/{json.loads((tmp_path / side / 'benchmark.json').read_text())['run_id']}" for side in "ab"]
    assert evaluate.main(evaluate.Options(compare=tuple(runs), resamples=50))["inatsounds"]["units"] == 6
    mixed = ("--compare", tmp_path / "a", tmp_path / "a" / "retrieval")
    assert "no evaluation is there" in refused(capsys, *mixed)


def test_options_that_do_not_go_together_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "missing --data" in refused(capsys, "--model", "m", "--benchmark", "ssw60")
    words = ("--model", "m", "--benchmark", "beans", "--data", tmp_path)
    assert "--annotations is not for --benchmark beans" in refused(capsys, *words, "--annotations", "x")
    assert "--recordings is not for --benchmark" in refused(capsys, *words, "--recordings", "x")
    assert "missing --recordings; or give --benchmark and --data" in refused(capsys, "--model", "m", "--gallery", "g")
    assert "no such file or folder" in refused(capsys, "--model", "m", "--benchmark", "beans", "--data", tmp_path / "x")


def test_options_that_would_change_nothing_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    field = layouts.soundscapes(tmp_path / "field")
    words = ("--model", "m", "--data", field, "--annotations", field / "annotations")
    assert "--k is not for --benchmark raven: there is no kNN" in refused(capsys, *words, "--k", 3)
    assert "--bridge is not for --benchmark raven" in refused(capsys, *words, "--bridge", 0.5)
    assert "--checks is for recordings and photographs" in refused(capsys, *words, "--checks", "all")
    assert "--trained-on is for recordings" in refused(capsys, *words, "--trained-on", "x")
    inat = ("--model", "m", "--benchmark", "inatsounds", "--data", layouts.inatsounds(tmp_path / "inat"))
    assert "--k is not for --benchmark inatsounds without --gallery" in refused(capsys, *inat, "--k", 3)
    beans = ("--model", "m", "--benchmark", "beans", "--data", layouts.beans(tmp_path / "beans"))
    said = refused(capsys, *beans, "--save-scores", tmp_path / "s.npz")
    assert "name it by --parts (here are watkins, enabirds)" in said
