from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import annotate
from songsight.errors import UserError
from tests import checkpoints
from tests.conftest import World
from tests.jobs.annotating import archives

HOW = {"min_score": -1.0, "top_k": 2, "bridge": 0.25}
KEYS = [("recording", "ascending"), ("start_s", "ascending"), ("rank", "ascending")]


def run(out: Path, gallery: Path, **options: object) -> dict:
    words = {"gallery": str(gallery), "out": str(out)} | HOW | options
    if "archive" in options:
        words = {"precision": "fp32"} | words
    annotate.main(annotate.Options(**words))  # type: ignore[arg-type]
    return json.loads((out / "run.json").read_text())


@pytest.fixture(scope="module")
def kept(world: World, gallery_dir: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that kept its embeddings as float16."""
    out = tmp_path_factory.mktemp("kept") / "out"
    archive, model = str(world.archive), str(model_dir)
    run(out, gallery_dir, archive=archive, model=model, timezone="+02:00", embeddings="float16")
    return out


def hits(out: Path) -> list[dict]:
    return pq.read_table(out / "hits").sort_by(KEYS).to_pylist()


def test_the_embeddings_are_the_models_own(kept: Path, model_dir: Path, world: World) -> None:
    import torch

    from songsight.audio.reader import read_mono
    from songsight.models import student

    model = student.load(str(model_dir))
    wave = read_mono(str(world.archive / "site-a" / "20240514_053000.wav"), 30.0, 33.0, 16000)
    expected = model.embed(torch.from_numpy(wave[None])).numpy()[0]
    table = pq.read_table(kept / "embeddings")
    assert table.schema.names == ["recording", "start_s", "end_s", "embedding", "site", "date"]
    rows = [r for r in table.to_pylist() if r["recording"].endswith("053000.wav") and r["start_s"] == 30]
    assert len(rows) == 1
    np.testing.assert_allclose(rows[0]["embedding"], expected, atol=5e-4)
    # One row a window that has hits: silence has none.
    assert len(table) == len({(hit["recording"], hit["start_s"]) for hit in hits(kept)})


def test_a_rematch_has_the_hits_of_the_run_that_kept_them(kept: Path, gallery_dir: Path, tmp_path: Path) -> None:
    record = run(tmp_path / "again", gallery_dir, from_embeddings=str(kept), merge_gap_s=0.0)
    first = json.loads((kept / "run.json").read_text())
    for key in ("files_found", "annotated", "quarantined", "partial", "skipped", "hours", "hits", "window_s"):
        assert record[key] == first[key]
    for before, after in zip(hits(kept), hits(tmp_path / "again"), strict=True):
        assert after["score"] == pytest.approx(before["score"], abs=2e-3)
        assert [image["image_id"] for image in after["images"]][:1] == [
            image["image_id"] for image in before["images"]
        ][:1]
        for name in ("recording", "site", "start_utc", "start_s", "end_s", "rank", "scientific_name", "model"):
            assert after[name] == before[name]
    # 65 s in units of which none is longer than a minute: a species of every window is one detection all the same.
    merged = pq.read_table(tmp_path / "again" / "detections").to_pylist()
    assert record["detections"] == len(merged)
    assert sum(one["windows"] for one in merged) == record["hits"]
    assert len({one["recording"] for one in merged}) == 3
    for name in ("recordings", "quarantine"):
        assert pq.read_table(kept / name).equals(pq.read_table(tmp_path / "again" / name))
    # Again at once: nothing to do, with no Ray and no torch.
    words = ["annotate", "--from-embeddings", kept, "--gallery", gallery_dir, "--out", tmp_path / "again"]
    words += ["--merge-gap-s", "0", "--min-score", "-1", "--top-k", "2", "--bridge", "0.25"]
    program = (
        "import sys; from jobs import cli; cli.main(sys.argv[1:]);"
        "print(sorted({'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True)
    assert f"already holds this run ({record['run_id']}): nothing to do" in said.stdout, said.stderr
    assert said.stdout.splitlines()[-1] == "[]"


def test_a_stopped_rematch_goes_on(
    kept: Path, gallery_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from songsight.store import urls

    removed: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(urls, "remove", lambda url: removed.append(url))
        run(tmp_path / "again", gallery_dir, from_embeddings=str(kept))
    whole = hits(tmp_path / "again")
    units = sorted((tmp_path / "again" / ".state").rglob("units/*.json"))
    assert len(units) > 1
    lost = units[0]
    lost.unlink()
    (lost.parents[1] / "hits" / f"{lost.stem}.parquet").unlink()
    (tmp_path / "again" / "run.json").unlink()
    capsys.readouterr()
    run(tmp_path / "again", gallery_dir, from_embeddings=str(kept))
    assert f"{len(units) - 1} of {len(units)} row groups" in capsys.readouterr().err
    assert hits(tmp_path / "again") == whole


@pytest.mark.slow
def test_a_source_that_grew_is_matched_where_it_did(
    gallery_dir: Path,
    model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files are added and one changes, while one matching of the source is done and another one is stopped."""
    from inference.annotate import publish

    archive, source = tmp_path / "archive", tmp_path / "source"
    archives.fill(archive, 0, 4, seconds=8.0)
    hear = {"archive": str(archive), "model": str(model_dir), "embeddings": "float16", "site": "1"}
    run(source, gallery_dir, **hear)
    done, stopped = tmp_path / "done", tmp_path / "stopped"
    first = run(done, gallery_dir, from_embeddings=str(source))

    class Stopped(Exception):
        pass

    def stop(*args: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(publish, "publish", stop)
        with pytest.raises(Stopped):
            run(stopped, gallery_dir, from_embeddings=str(source))
    assert list((stopped / ".state").rglob("units/*.json"))

    archives.fill(archive, 4, 1, seconds=8.0)
    archives.sing(archive / "site-1" / "20240515_050000.wav", 5.0, 77)
    assert run(source, gallery_dir, **hear)["round"] == 2
    fresh = run(tmp_path / "fresh", gallery_dir, from_embeddings=str(source))
    capsys.readouterr()
    annotate.main(
        annotate.Options(gallery=str(gallery_dir), out=str(done), from_embeddings=str(source), dry_run=True, **HOW)
    )  # type: ignore[arg-type]
    assert "as before: " in capsys.readouterr().out
    assert json.loads((done / "run.json").read_text()) == first
    second = run(done, gallery_dir, from_embeddings=str(source))
    # 8 s in windows of 3 s are three; the changed one has two.
    assert (first["windows"], second["windows"], second["round"]) == (12, 14, 2)
    assert second["windows_per_s"] * second["elapsed_s"] == pytest.approx(5)
    run(stopped, gallery_dir, from_embeddings=str(source))
    for out in (done, stopped):
        archives.assert_same(archives.rows(out), archives.rows(tmp_path / "fresh"))
        seen = [pq.read_table(one / "recordings").to_pylist() for one in (out, tmp_path / "fresh")]
        assert seen[0] == seen[1]
    assert second["run_id"] == first["run_id"] == fresh["run_id"]

    # Made anew under the same name, which its round does not tell: all of it is matched again.
    shutil.rmtree(source)
    archives.fill(archive, 5, 1, seconds=8.0)
    run(source, gallery_dir, **hear)
    third = run(done, gallery_dir, from_embeddings=str(source))
    assert third["windows"] == 17
    run(tmp_path / "last", gallery_dir, from_embeddings=str(source))
    archives.assert_same(archives.rows(done), archives.rows(tmp_path / "last"))


def test_a_dry_run_matches_nothing(
    kept: Path, gallery_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = annotate.Options(gallery=str(gallery_dir), out=str(out), from_embeddings=str(kept), dry_run=True, **HOW)  # type: ignore[arg-type]
    annotate.main(options)
    said = capsys.readouterr().out
    record = json.loads((kept / "run.json").read_text())
    windows = len(pq.read_table(kept / "embeddings"))
    assert f"kept: {record['hours']:.2f} h in {windows} windows of 3 s every 3 s, as float16" in said
    assert f"left: {record['hours']:.2f} h of sound, {windows} windows in " in said
    assert not out.exists()


def test_the_record_is_its_own(kept: Path, gallery_dir: Path, tmp_path: Path) -> None:
    begin = time.time()
    record = run(tmp_path / "out", gallery_dir, from_embeddings=str(kept))
    first = json.loads((kept / "run.json").read_text())
    assert record["begun_at"] >= begin > first["begun_at"]
    for key in ("first_window_s", "steady_windows_per_s", "steady_between", "precision", "codes"):
        assert key in first
        assert record[key] is None
    assert record["mlflow_run"] != first["mlflow_run"]


def test_another_species_list_needs_no_archive(
    kept: Path, gallery_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "species.txt").write_text("Strix aluco\n")
    record = json.loads((kept / "run.json").read_text())
    moved = tmp_path / "kept"
    shutil.copytree(kept, moved)
    record["archive"] = record["encoder"]["model"] = "/gone"
    (moved / "run.json").write_text(json.dumps(record))
    run(tmp_path / "owls", gallery_dir, from_embeddings=str(moved), species_list=str(tmp_path / "species.txt"))
    found = hits(tmp_path / "owls")
    assert {hit["scientific_name"] for hit in found} == {"Strix aluco"}
    assert {hit["model"] for hit in found} == {"/gone"}


def test_sign_codes_are_small_and_their_loss_is_measured(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "coded"
    record = run(out, gallery_dir, archive=str(world.archive), model=str(model_dir), embeddings="binary")
    shares = record["codes"]
    assert 0 < shares["windows"] <= record["windows"]
    assert 0 <= shares["same_best_species"] <= 1
    assert 0.5 < shares["recall_of_images"] <= 1  # ten of twelve photographs
    assert "sign codes, measured on" in capsys.readouterr().out
    column = pq.read_table(out / "embeddings").schema.field("embedding").type
    assert column == pa.binary(6)  # 48 numbers
    run(tmp_path / "again", gallery_dir, from_embeddings=str(out))
    scores = [[hit["score"] for hit in hits(one) if hit["rank"] == 1] for one in (out, tmp_path / "again")]
    assert len(scores[0]) == len(scores[1])
    assert np.abs(np.subtract(*scores)).max() < 0.3


def test_bad_input_is_one_line(kept: Path, world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    from jobs import gallery

    twin = checkpoints.open_clip_dir(tmp_path / "twin", seed=1)
    gallery.main(gallery.Options(images=str(world.images), teacher=str(twin), out=str(tmp_path / "twin-gallery")))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "run.json").write_text(json.dumps({"run_id": "x", "embeddings": "none"}))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text(json.dumps({"run_id": "x", "embeddings": "float16"}))
    cases: list[tuple[dict[str, object], str]] = [
        ({"gallery": tmp_path / "twin-gallery"}, "embed the photographs with the model's own teacher"),
        ({"from_embeddings": str(tmp_path)}, "no finished run is there"),
        ({"from_embeddings": str(tmp_path / "plain")}, "this run kept no embeddings"),
        ({"archive": "x"}, "--archive: with --from-embeddings the earlier run has decided it"),
        ({"model": "x"}, "--model: with --from-embeddings"),
        ({"embeddings": "binary"}, "kept already"),
        ({"site": "1"}, "--site: with --from-embeddings the earlier run has decided it"),
        ({"precision": "bf16"}, "--precision: with --from-embeddings no encoder is at work"),
        ({"batch_size": 8}, "--batch-size: with --from-embeddings no encoder is at work"),
        ({"gpus_per_actor": 1.0}, "--gpus-per-actor: with --from-embeddings no encoder is at work"),
        ({"from_embeddings": str(tmp_path / "foreign")}, "is not the run.json of a songsight run"),
        ({"bridge": 2.0}, "--bridge should be from 0 to 1"),
    ]
    for changed, message in cases:
        with pytest.raises(UserError, match=message):
            run(tmp_path / "out", **({"gallery": gallery_dir, "from_embeddings": str(kept)} | changed))  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--archive and --model are needed"):
        run(tmp_path / "out", gallery_dir, archive=str(world.archive))
