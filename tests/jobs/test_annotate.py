from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from inference.annotate import publish
from jobs import annotate, cli
from songsight.reasons import REASONS
from songsight.store import tables, urls
from tests import checkpoints
from tests.conftest import World

WINDOW_S = 3.0


def run(world: World, gallery_dir: Path, model_dir: Path, out: Path, **options: object) -> dict:
    annotate.main(
        annotate.Options(
            archive=str(options.pop("archive", world.archive)),
            gallery=str(gallery_dir),
            model=str(model_dir),
            out=str(out),
            **({"precision": "fp32"} | options),  # type: ignore[arg-type]
        )
    )
    return json.loads((out / "run.json").read_text())


@pytest.fixture(scope="module")
def annotated(world: World, gallery_dir: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("annotated") / "out"
    run(world, gallery_dir, model_dir, out, min_score=-1.0, top_k=2, timezone="+02:00")
    return out


def test_every_file_is_accounted_for(annotated: Path) -> None:
    record = json.loads((annotated / "run.json").read_text())
    counts = {key: record[key] for key in ("files_found", "annotated", "quarantined", "partial", "skipped")}
    assert counts == {"files_found": 6, "annotated": 3, "quarantined": 3, "partial": 1, "skipped": 1}
    assert record["precision"] == "fp32"
    assert 0 < record["first_window_s"] < record["elapsed_s"] + 600
    seen = {row["path"]: row for row in pq.read_table(annotated / "recordings").to_pylist()}
    assert {path: row["status"] for path, row in seen.items()} == {
        "site-a/20240514_053000.wav": "annotated",
        "site-a/short.flac": "annotated",
        "site-a/half.wav": "partial",
        "site-a/silence.wav": "quarantined",
        "site-a/empty.wav": "quarantined",
        "site-a/pointer.wav": "quarantined",
    }
    quarantine = {row["path"]: row["reason"] for row in pq.read_table(annotated / "quarantine").to_pylist()}
    assert quarantine == {
        "site-a/silence.wav": "silent",
        "site-a/empty.wav": "empty",
        "site-a/pointer.wav": "pointer",
    }


def test_hits_have_the_tables_columns_and_the_clock(annotated: Path) -> None:
    hits = publish.read_hits(str(annotated))
    assert hits.schema.names == [*tables.HITS.names, "date"]
    assert hits.drop_columns("date").schema.equals(tables.HITS)
    assert set(hits["date"].to_pylist()) == {"2024-05-14", "unknown"}
    in_order = hits.sort_by([("start_s", "ascending"), ("rank", "ascending")]).to_pylist()
    rows = [row for row in in_order if row["recording"].endswith("053000.wav")]
    assert len(rows) == 22 * 2  # 65 s in windows of 3 s, two species each
    assert [row["start_s"] for row in rows[::2]] == pytest.approx([WINDOW_S * number for number in range(22)])
    assert rows[-1]["end_s"] == pytest.approx(65.0)
    assert rows[0]["start_utc"].isoformat() == "2024-05-14T03:30:00+00:00"
    assert (rows[2]["start_utc"] - rows[0]["start_utc"]).total_seconds() == WINDOW_S
    assert {row["rank"] for row in rows} == {1, 2}
    for row in rows:
        assert row["images"][0]["score"] == pytest.approx(row["score"], abs=1e-6)
        assert row["images"][0]["image_id"]
        assert row["probability"] is None


def test_scores_are_the_models_own(annotated: Path, gallery_dir: Path, model_dir: Path, world: World) -> None:
    """A window through the job equals the same window through the model by hand."""
    import torch

    from inference.match import gallery
    from inference.match.bridge import bridged
    from songsight.audio.reader import read_mono
    from songsight.models import student

    model, shown = student.load(str(model_dir)), gallery.read(str(gallery_dir))
    wave = read_mono(str(world.archive / "site-a" / "20240514_053000.wav"), 30.0, 33.0, 16000)
    vector = model.embed(torch.from_numpy(wave[None])).numpy()
    temperature = 1 / model.log_scale.exp().item()
    cosines = shown.vectors @ bridged(vector, shown.name_vectors, annotate.Options.bridge, temperature)[0]
    row = next(
        row
        for row in pq.read_table(annotated / "hits").to_pylist()
        if row["recording"].endswith("053000.wav") and row["start_s"] == 30.0 and row["rank"] == 1
    )
    assert row["score"] == pytest.approx(cosines.max(), abs=1e-5)
    assert row["scientific_name"] == shown.species[cosines.argmax()]


def test_hours_are_those_heard(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 65 s eleven windows of 3 s, of 32.5 s five and one of 2.5 s, of 1 s one; the silent 7 s are quarantined."""
    record = run(world, gallery_dir, model_dir, tmp_path / "out", window_s=3.0, hop_s=6.0)
    assert record["hours"] * 3600 == pytest.approx(33 + 17.5 + 1, abs=0.01)
    assert record["audio_hours_per_hour"] * record["elapsed_s"] == pytest.approx(33 + 17.5 + 1, abs=0.01)
    assert "0.01 h, " in capsys.readouterr().out
    assert record["windows"] == 11 + 6 + 1 + 2


def test_the_same_command_again_does_nothing(
    annotated: Path, world: World, gallery_dir: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in annotated.rglob("*.parquet")}
    run(world, gallery_dir, model_dir, annotated, min_score=-1.0, top_k=2, timezone="+02:00")
    assert "already holds this run" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in annotated.rglob("*.parquet")} == before


def test_a_stopped_run_goes_on_and_ends_the_same(
    annotated: Path,
    world: World,
    gallery_dir: Path,
    model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a run leaves that is killed after some units: their hits and outcomes, no tables, no run.json."""
    out = tmp_path / "out"
    # A finished run removes its state: take it before it goes.
    removed = urls.remove
    state = tmp_path / "state"

    def keep_state(url: str) -> None:
        if url.endswith(".state") and Path(url).is_dir():
            shutil.copytree(url, state)
        removed(url)

    urls.remove = keep_state
    try:
        first = run(world, gallery_dir, model_dir, out, min_score=-1.0, top_k=2, timezone="+02:00")
    finally:
        urls.remove = removed
    units = sorted(state.rglob("units/*.json"))
    assert len(units) > 1
    shutil.rmtree(out)
    shutil.copytree(state, out / ".state")
    for lost in units[::2]:  # their hits are there: the kill came before the outcome
        (out / ".state" / lost.relative_to(state)).unlink()
    capsys.readouterr()
    again = run(world, gallery_dir, model_dir, out, min_score=-1.0, top_k=2, timezone="+02:00")
    assert (
        f"{len(units) - len(units[::2])} units were annotated by an earlier start, {len(units[::2])} are"
        in capsys.readouterr().err
    )
    for key in ("run_id", "files_found", "annotated", "quarantined", "windows", "hits"):
        assert again[key] == first[key]
    keys = ["recording", "start_s", "rank"]
    sort = [(key, "ascending") for key in keys]
    assert pq.read_table(out / "hits").sort_by(sort).equals(pq.read_table(annotated / "hits").sort_by(sort))


def test_another_run_is_not_mixed_in(
    annotated: Path, world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path
) -> None:
    from songsight.errors import UserError

    with pytest.raises(UserError, match=r"--out .* holds run"):
        run(world, gallery_dir, model_dir, annotated, min_score=0.5)


def test_another_model_or_gallery_is_another_run(
    annotated: Path, world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path
) -> None:
    """Also where the weights are the same and the features are not, or the vectors are and what hits show is not."""
    from safetensors.numpy import load_file, save_file

    from songsight.errors import UserError

    words: dict[str, object] = {"min_score": -1.0, "top_k": 2, "timezone": "+02:00"}

    def refused(model: Path, gallery: Path) -> bool:
        try:
            run(world, gallery, model, annotated, **words)
        except UserError as error:
            return f"--out {annotated} holds run" in str(error)
        return False

    twin, deaf, moved, renamed = (tmp_path / name for name in ("twin", "deaf", "moved", "renamed"))
    for folder in (twin, deaf):
        shutil.copytree(model_dir, folder)
    assert not refused(twin, gallery_dir)  # a copy elsewhere is the same model
    weights = load_file(twin / "model.safetensors")
    save_file(weights | {"head.bias": weights["head.bias"] + 0.01}, twin / "model.safetensors")
    heard = json.loads((deaf / "preprocessor_config.json").read_text())
    (deaf / "preprocessor_config.json").write_text(json.dumps(heard | {"frequency_max": 5000}))
    assert refused(twin, gallery_dir)
    assert refused(deaf, gallery_dir)
    for folder, column, value in ((moved, "path", "elsewhere.jpg"), (renamed, "common_name", "Owl")):
        shutil.copytree(gallery_dir, folder)
        assert not refused(model_dir, folder)
        images = pq.read_table(folder / "images.parquet")
        number = images.schema.get_field_index(column)
        pq.write_table(
            images.set_column(number, column, [[value] * len(images)]).cast(images.schema), folder / "images.parquet"
        )
        assert refused(model_dir, folder)


def test_every_reader_reads_the_same(annotated: Path) -> None:
    """pandas, pyarrow and DuckDB, by the lines that docs/annotate.md gives."""
    import duckdb
    import pandas

    expected = sorted(
        (row["recording"], row["start_s"], row["rank"], row["scientific_name"], row["site"], str(row["date"]))
        for row in publish.read_hits(str(annotated)).to_pylist()
    )
    columns = ["recording", "start_s", "rank", "scientific_name", "site", "date"]
    framed = pandas.read_parquet(annotated / "hits")[columns].astype({"date": str, "site": str})
    assert sorted(framed.itertuples(index=False, name=None)) == expected
    arrow = pq.read_table(annotated / "hits").select(columns).to_pylist()
    assert sorted(tuple(str(v) if k == "date" else v for k, v in row.items()) for row in arrow) == expected
    asked = duckdb.sql(
        f"select {', '.join(columns)} from read_parquet('{annotated}/hits/**/*.parquet') where site = 'site-a'"
    ).fetchall()
    assert sorted((*row[:-1], str(row[-1])) for row in asked) == expected
    assert {row[4] for row in expected} == {"site-a"}


def test_species_lists_and_scores_filter(world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    listed = tmp_path / "species.txt"
    listed.write_text("Parus major_Great Tit\nStrix aluco\nNomen nudum\n")
    run(world, gallery_dir, model_dir, tmp_path / "a", min_score=-1.0, species_list=str(listed), hop_s=6.0)
    hits = pq.read_table(tmp_path / "a" / "hits").to_pylist()
    assert {hit["scientific_name"] for hit in hits} == {"Parus major", "Strix aluco"}
    threshold = float(np.median([hit["score"] for hit in hits]))
    run(world, gallery_dir, model_dir, tmp_path / "b", min_score=threshold, species_list=str(listed), hop_s=6.0)
    fewer = pq.read_table(tmp_path / "b" / "hits").to_pylist()
    assert 0 < len(fewer) < len(hits)
    assert all(hit["score"] >= threshold for hit in fewer)


def test_bad_input_is_one_line_and_writes_nothing(
    world: World,
    gallery_dir: Path,
    model_dir: Path,
    teacher_dir: Path,
    clap: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from jobs import gallery

    other = checkpoints.open_clip_dir(tmp_path / "other", width=32)
    gallery.main(gallery.Options(images=str(world.images), teacher=str(other), out=str(tmp_path / "narrow")))
    twin = checkpoints.open_clip_dir(tmp_path / "twin", seed=1)
    gallery.main(gallery.Options(images=str(world.images), teacher=str(twin), out=str(tmp_path / "twin-gallery")))
    (tmp_path / "silent").mkdir()
    (tmp_path / "silent" / "notes.txt").write_text("nothing")
    (tmp_path / "species.txt").write_text("Nomen nudum\n")
    for name, text in (("foreign", '{"steps": 3}'), ("corrupt", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'untouched.db'}")
    good = {
        "--archive": world.archive,
        "--gallery": gallery_dir,
        "--model": model_dir,
        "--out": tmp_path / "out",
    }
    cases: list[tuple[dict[str, object], str]] = [
        ({"--archive": "/no/such/archive"}, "--archive: no such folder: /no/such/archive"),
        ({"--archive": tmp_path / "silent"}, "holds no recording (1 other files)"),
        ({"--archive": world.recordings}, "is a file; give the folder"),
        ({"--gallery": tmp_path / "narrow"}, "the gallery has vectors of width 32"),
        ({"--gallery": tmp_path / "twin-gallery"}, "embed the photographs with the model's own teacher"),
        ({"--gallery": tmp_path}, "no gallery is there"),
        ({"--model": clap, "--score": "prototype"}, "an untouched ClapModel scores by its texts"),
        ({"--model": teacher_dir}, "this folder is not a songsight model"),
        ({"--model": "/no/model"}, "--model /no/model: no such folder"),
        ({"--hop-s": 0}, "--hop-s should be greater than 0 (got 0)"),
        ({"--hop-s": "inf"}, "--hop-s should be finite"),
        ({"--window-s": 1e-6}, "--window-s should be at least"),
        ({"--window-s": -1}, "--window-s should be greater than 0"),
        ({"--window-s": 99}, "--window-s 99 is longer than the 3 s"),
        ({"--min-score": 2}, "--min-score should be a cosine"),
        ({"--top-k": 0}, "--top-k should be greater than 0"),
        ({"--timezone": "Mars/Olympus"}, "--timezone: 'Mars/Olympus' is not a time zone"),
        ({"--species-list": tmp_path / "species.txt"}, "none of its 1 names is a species of the gallery"),
        ({"--species-list": "/no/list"}, "--species-list: no such file"),
        ({"--actors": "many"}, "--actors should be a number"),
        ({"--species-list": tmp_path}, f"--species-list: {tmp_path} is a folder; give the file"),
        ({"--calibration": tmp_path}, f"--calibration: {tmp_path} is a folder; give the file"),
        ({"--range": tmp_path}, f"--range: {tmp_path} is a folder; give the file"),
        ({"--out": world.recordings}, f"--out {world.recordings}: {world.recordings} is a file; give a folder"),
        ({"--out": world.recordings / "a"}, f"{world.recordings} is a file; give a folder"),
        ({"--out": "/proc/annotated"}, "--out /proc/annotated: cannot be written: "),
        ({"--out": tmp_path / "foreign"}, "is not the run.json of a songsight run (it has no run_id)"),
        ({"--out": tmp_path / "corrupt"}, "run.json cannot be read as JSON"),
    ]
    capsys.readouterr()
    for changed, message in cases:
        words = [str(word) for pair in (good | changed).items() for word in pair]
        with pytest.raises(SystemExit) as stop:
            cli.main(["annotate", *words])
        said = capsys.readouterr()
        assert stop.value.code == 2
        assert said.err.startswith("songsight annotate: error: "), said.err
        assert message in said.err
        assert len(said.err.splitlines()) == 1
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "untouched.db").exists()


ODD_AUDIO = Path(__file__).parents[1] / "inference" / "annotate" / "odd_audio.csv"


def test_every_real_damaged_file_has_its_fate(
    shared: Path, gallery_dir: Path, model_dir: Path, world: World, tmp_path: Path
) -> None:
    """The table says of each file what becomes of it, and why."""
    with open(ODD_AUDIO, newline="", encoding="utf-8") as handle:
        expected = {row["file"]: (row["fate"], row["reason"] or None) for row in csv.DictReader(handle)}
    files = {path.relative_to(shared / "odd_audio").as_posix() for path in (shared / "odd_audio").rglob("*.*")}
    assert set(expected) == files
    record = run(world, gallery_dir, model_dir, tmp_path / "odd", archive=shared / "odd_audio")
    rows = {row["path"]: row for row in pq.read_table(tmp_path / "odd" / "recordings").to_pylist()}
    assert {path: (row["status"], row["reason"]) for path, row in rows.items()} == expected
    assert record["files_found"] == record["annotated"] + record["quarantined"] == len(files)
    quarantine = pq.read_table(tmp_path / "odd" / "quarantine").to_pylist()
    assert {row["path"] for row in quarantine} == {
        path for path, (fate, _) in expected.items() if fate == "quarantined"
    }
    assert {row["reason"] for row in rows.values() if row["reason"]} <= set(REASONS)
    assert all(row["detail"] for row in quarantine)
    assert all(row["windows"] > 0 for row in rows.values() if row["status"] != "quarantined")


def test_the_report_shows_the_hits(annotated: Path, world: World, tmp_path: Path) -> None:
    import base64
    import io
    import re

    import soundfile
    from PIL import Image

    from jobs import report

    report.main(report.Options(annotated=str(annotated), out=str(tmp_path / "r.html"), title="A <test>"))
    page = (tmp_path / "r.html").read_text()
    assert "A &lt;test&gt;" in page
    hits = pq.read_table(annotated / "hits").to_pylist()
    assert all(name in page for name in {hit["scientific_name"] for hit in hits})
    sound = re.search(r"data:audio/mpeg;base64,([^\"]+)", page)
    assert sound
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound[1])))
    assert rate == 16000
    best = min(hits, key=lambda hit: (-hit["score"], hit["recording"], hit["start_s"]))
    assert len(samples) / rate == pytest.approx(best["end_s"] - best["start_s"], abs=0.2)
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) * rate / len(samples) == pytest.approx(1300, abs=20)  # the archive's tone
    picture = re.search(r"data:image/webp;base64,([^\"]+)", page)
    assert picture
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture[1]))).convert("L"), float)
    loudest = pixels.mean(axis=1).argmax()
    assert (1 - loudest / len(pixels)) * 8000 == pytest.approx(1300, abs=150)
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page)  # self-contained
