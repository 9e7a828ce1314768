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

from inference import annotator
from tests.conftest import World
from tests.jobs import archives
from tests.jobs.test_annotate import run

OPTIONS: dict[str, object] = {"min_score": -1.0, "top_k": 2, "hop_s": 1.0, "site": "1"}


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
    assert f"already holds this run ({first['run_id']}): nothing to do" in said.stdout

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


def test_a_stopped_run_whose_archive_grew_meanwhile(
    world: World, gallery_dir: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference import publish

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
    run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS)
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
    archives.sing(tmp_path / "disk" / "a.wav", 7.0, 5)
    second = run(world, gallery_dir, model_dir, out, archive=archive, **OPTIONS)
    assert (second["annotated"], second["quarantined"], second["to_retry"]) == (3, 0, 0)
    assert "elsewhere.wav" in {Path(row["recording"]).name for row in archives.rows(out)}


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
