"""The same command on an archive that has changed: it does what is new, and says what became of the rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from inference.annotate import annotator
from tests.conftest import World
from tests.jobs.annotating import archives
from tests.jobs.test_annotate import run

OPTIONS: dict[str, object] = {"min_score": -1.0, "top_k": 2, "hop_s": 1.0, "site": "1"}


def asked_again(archive: Path, gallery_dir: Path, model_dir: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which has to be over before anything heavy is imported."""
    words = [
        word
        for pair in {"--min-score": "-1", "--top-k": "2", "--hop-s": "1", "--site": "1", "--precision": "fp32"}.items()
        for word in pair
    ]
    places = ["--archive", archive, "--gallery", gallery_dir, "--model", model_dir, "--out", out]
    program = (
        "import sys; from jobs import cli; cli.main(sys.argv[1:]);"
        "print(sorted({'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)))"
    )
    begin = time.monotonic()
    said = subprocess.run(
        [sys.executable, "-c", program, "annotate", *map(str, places), *words],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    print(f"said so in {time.monotonic() - begin:.2f} s")
    assert said.stdout.splitlines()[-1:] == ["[]"], (said.returncode, said.stderr)
    return said


def test_an_archive_that_grows(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "archive"
    archives.fill(archive, 0, 6)
    (archive / "site-0" / "notes.txt").write_text("batteries changed")
    (archive / "site-1" / "pointer.wav").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    )
    out = tmp_path / "out"
    first = run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS)
    assert (first["files_found"], first["annotated"], first["quarantined"]) == (7, 6, 1)

    # Again at once: nothing to do, in a second, with no Ray and no torch.
    said = asked_again(archive, gallery_dir, model_dir, out)
    assert f"already holds this run ({first['run_id']}): nothing to do" in said.stdout

    # A version with other options has another mark for the same command: it looks closely once, and so do we.
    (out / "run.json").write_text(json.dumps(first | {"stamp": "of another version"}))
    assert run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS) == first
    assert "nothing to do" in capsys.readouterr().out

    # Two more recordings; one of the old ones becomes another; one goes away.
    archives.fill(archive, 6, 2)
    changed = archive / "site-2" / "20240514_050100.wav"
    assert changed.exists()
    archives.sing(changed, 11.0, 99)
    gone = archive / "site-0" / "20240514_050000.wav"
    kept = [row for row in archives.rows(out) if row["recording"] == "site-0/20240514_050000.wav"]
    gone.unlink()
    annotated: list[str] = []
    real = annotator.encode_unit

    def noted(unit: annotator.Unit, facts: object) -> str:
        annotated.extend(span.path for span in unit.spans)
        return real(unit, facts)  # type: ignore[arg-type]

    annotator.encode_unit = noted
    capsys.readouterr()
    try:
        second = run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS)
    finally:
        annotator.encode_unit = real
    said_now = capsys.readouterr()
    assert "since the last run: 2 added, 1 changed, 0 to be tried again, 1 gone" in said_now.err
    assert "keeps its rows, such as site-0/20240514_050000.wav" in said_now.err
    assert set(annotated) == {"site-0/20240514_050300.wav", "site-1/20240515_050300.wav", "site-2/20240514_050100.wav"}
    assert second["run_id"] == first["run_id"]
    assert (second["files_found"], second["annotated"], second["quarantined"], second["gone"]) == (8, 7, 1, 1)

    fresh = run(world, gallery_dir, model_dir, tmp_path / "fresh", archive=archive, **OPTIONS)
    assert fresh["run_id"] == first["run_id"]
    archives.assert_same([row for row in archives.rows(out) if row not in kept], archives.rows(tmp_path / "fresh"))
    assert kept
    seen = [row for row in pq.read_table(out / "recordings").to_pylist() if row["path"] != kept[0]["recording"]]
    assert seen == pq.read_table(tmp_path / "fresh" / "recordings").to_pylist()
    for name in ("quarantine",):
        assert pq.read_table(out / name).equals(pq.read_table(tmp_path / "fresh" / name))
    for key in ("files_found", "annotated", "quarantined", "windows", "hours"):
        assert second[key] == fresh[key]
    assert not (out / ".state").exists()


def test_detections_are_made_anew_and_nothing_else(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archives.fill(archive, 0, 2, seconds=8.0)
    options = {"min_score": -1.0, "top_k": 1, "archive": archive}
    first = run(world, gallery_dir, model_dir, out, **options)
    assert not (out / "detections").exists()
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    for gap_s in (0.0, 5.0, 5.0, None):
        record = run(world, gallery_dir, model_dir, out, merge_gap_s=gap_s, **options)
        assert "nothing to do" in capsys.readouterr().out
        assert (record["run_id"], record["round"]) == (first["run_id"], 1)
        made = list(out.glob("detections/*.parquet"))
        assert len(made) == (gap_s is not None)
        for path in made:
            rows = pq.read_table(path).to_pylist()
            assert len(rows) == record["detections"]
            assert sum(row["windows"] for row in rows) == record["hits"]
            # Windows of 3 s and a song's end: with 5 s between them allowed, each species is one detection a recording.
            assert gap_s == 0 or len({(row["recording"], row["scientific_name"]) for row in rows}) == len(rows)
        hits = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet") if path not in made}
        assert hits == files
        assert "detections" in record or gap_s is None


@pytest.mark.slow
def test_killed_while_tables_changed_and_then_nothing_is_new(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was added is gone again: the run before is complete, and says so."""
    from inference.annotate import publish

    archive, out = tmp_path / "archive", tmp_path / "out"
    archives.fill(archive, 0, 2, seconds=8.0)
    first = run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS)
    rows = archives.rows(out)
    archives.fill(archive, 2, 1, seconds=8.0)

    class Stopped(Exception):
        pass

    real = publish.tables.write_table

    def stop(url: str, *args: object) -> None:
        if "/quarantine/" in url:
            raise Stopped
        real(url, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(publish.tables, "write_table", stop)
        with pytest.raises(Stopped):
            run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS)
    assert not (out / "run.json").exists()
    assert len(archives.rows(out)) > len(rows)
    (archive / "site-2" / "20240514_050100.wav").unlink()
    again = run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS)
    assert archives.rows(out) == rows
    for key in ("run_id", "files_found", "annotated", "hits", "windows"):
        assert again[key] == first[key]
    assert not (out / ".state").exists()


def test_a_stopped_run_whose_archive_grew_meanwhile(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from inference.annotate import publish

    archive, out = tmp_path / "archive", tmp_path / "out"
    archives.fill(archive, 0, 4, seconds=75.0)

    class Stopped(Exception):
        pass

    def stop(*args: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(publish, "publish", stop)
        with pytest.raises(Stopped):
            run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS)
    outcomes = sorted((out / ".state").rglob("units/*.json"))
    assert len(outcomes) > 2
    outcomes[0].unlink()
    archives.fill(archive, 4, 2)
    record = run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS)
    # Both starts are one run of MLflow, and it has ended.
    mine = [
        one
        for one in mlflow.search_runs(search_all_experiments=True, output_format="list")
        if one.data.params.get("out") == str(out)
    ]
    assert [(one.info.run_id, one.info.status) for one in mine] == [(record["mlflow_run"], "FINISHED")]
    assert mine[0].data.metrics["hits"] == record["hits"]
    run(world, gallery_dir, model_dir, tmp_path / "fresh", archive=archive, **OPTIONS)
    archives.assert_same(archives.rows(out), archives.rows(tmp_path / "fresh"))


def test_what_could_not_be_reached_is_tried_again(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archives.fill(archive, 0, 2)
    there = archive / "site-0" / "elsewhere.wav"
    there.symlink_to(tmp_path / "disk" / "a.wav")  # of a disk that is not mounted
    first = run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS)
    assert (first["annotated"], first["quarantined"], first["to_retry"]) == (2, 1, 1)
    assert "1 could not be reached: the same command tries them again" in capsys.readouterr().out
    said = asked_again(archive, gallery_dir, model_dir, out)
    assert "nothing to do" in said.stdout
    assert "1 recordings still cannot be reached" in said.stderr
    assert json.loads((out / "run.json").read_text()) == first
    archives.sing(tmp_path / "disk" / "a.wav", 7.0, 5)
    second = run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS)
    assert (second["annotated"], second["quarantined"], second["to_retry"]) == (3, 0, 0)
    assert "elsewhere.wav" in {Path(row["recording"]).name for row in archives.rows(out)}


def test_mlflow_may_fail_when_the_results_are_there(
    world: World,
    gallery_dir: Path,
    model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    archive, out = tmp_path / "archive", tmp_path / "out"
    archives.fill(archive, 0, 1, seconds=4.0)

    def fail(*args: object) -> None:
        raise mlflow.MlflowException("the server\nis gone")

    monkeypatch.setattr(mlflow, "log_metrics", fail)
    record = run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS)
    assert record["annotated"] == 1
    assert not (out / ".state").exists()
    said = capsys.readouterr()
    assert "the results are complete, but MLflow did not take their figures: the server is gone" in said.err
    assert f"results: {out}" in said.out


def test_a_dry_run_knows_an_untouched_model(
    world: World, gallery_dir: Path, clap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs import annotate

    annotate.main(
        annotate.Options(
            archive=str(world.archive),
            gallery=str(gallery_dir),
            model=str(clap),
            out=str(tmp_path / "out"),
            dry_run=True,
            precision="bf16",
        )
    )
    said = capsys.readouterr().out
    assert "to annotate: 4 recordings" in said
    assert "windows/s each (their encoder's pace" in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_there_is_to_do(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs import annotate

    archive, out = tmp_path / "archive", tmp_path / "out"
    archives.fill(archive, 0, 6)
    shutil.copy(world.archive / "site-a" / "empty.wav", archive / "site-1" / "empty.wav")
    shutil.copy(world.archive / "site-a" / "half.wav", archive / "site-1" / "half.wav")
    options = annotate.Options(
        archive=str(archive),
        gallery=str(gallery_dir),
        model=str(model_dir),
        out=str(out),
        dry_run=True,
        site="1",
        precision="fp32",
    )
    capsys.readouterr()
    annotate.main(options)
    said = capsys.readouterr().out
    assert "8 recordings in the archive, 0 other files skipped" in said
    assert "to annotate: 7 recordings, 0.04 h, 3 sites: site-1 (3), site-0 (2), site-2 (2)" in said
    assert "start: 2024-05-14 05:00 to 2024-05-15 05:02" in said
    assert "6 by a clock without a zone: give --timezone" in said
    assert "quarantine: 1 empty, such as site-1/empty.wav (0 bytes)" in said
    assert "in part: 1 cut short, such as site-1/half.wav (the header promises 65.00 s" in said
    assert "windows/s each (their encoder's pace" in said
    assert not out.exists()
    record = run(world, gallery_dir, model_dir, out, archive=archive, site="1")
    assert record["annotated"] == 7
    capsys.readouterr()
    annotate.main(options)
    said = capsys.readouterr().out
    assert "as before: 8 recordings" in said
    assert "left: nothing" in said
    assert json.loads((out / "run.json").read_text()) == record
