"""What songsight 0.1 left on disk goes on being read: folders, models, a calibration, a store, and what was stopped.

`fixtures/make_v0_1.py` says what there is and how it was made. Each command here is the one that made its folder, word
by word (`commands.json`), so that options, run identities and fingerprints have to hold too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import cli

HOME = Path("/tmp/songsight-0.1-fixture")  # the paths in the files are below it
PACKED = Path(__file__).parent / "fixtures" / "v0_1" / "results.tar.xz"
CLOSE = 1e-3
TRAINED_STEPS = 72
HEARD_BEFORE = "heard before"

Key = tuple[str, float, float, str]


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


Songsight = Callable[..., Said]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The folder, empty, and no other process in it that asked for it in the same way."""
    while True:
        folder.mkdir(exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        if folder.exists() and os.fstat(held).st_ino == folder.stat().st_ino:
            break
        os.close(held)  # the one before us removed it
    try:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield
    finally:
        shutil.rmtree(folder)
        os.close(held)


@pytest.fixture(scope="module")
def commands(ray_started: None) -> Iterator[dict[str, list[str]]]:
    """A fresh copy of all that there is, and the command that each folder is of."""
    store = f"sqlite:///{HOME / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    with alone(HOME), pytest.MonkeyPatch.context() as patch:
        with tarfile.open(PACKED) as archive:
            archive.extractall(HOME, filter="fully_trusted")
        patch.setenv("MLFLOW_TRACKING_URI", store)
        mlflow.set_tracking_uri(store)
        yield json.loads((HOME / "commands.json").read_text())
    mlflow.set_tracking_uri(before)


@pytest.fixture
def songsight(capsys: pytest.CaptureFixture[str]) -> Songsight:
    """Gives a command."""

    def give(*words: object) -> Said:
        code: Any = 0
        capsys.readouterr()
        try:
            cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return give


def done(said: Said) -> Said:
    assert said.code == 0, said.err
    return said


def refused(said: Said, message: str) -> None:
    assert said.code == 2, said
    assert message in said.err
    assert len(said.err.splitlines()) == 1, said.err


def instead(words: list[str], **options: object) -> list[str]:
    """A command with other values of some of its options."""
    changed = list(words)
    for name, value in options.items():
        changed[changed.index("--" + name.replace("_", "-")) + 1] = str(value)
    return changed


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())


def hits(out: Path) -> dict[Key, dict[str, Any]]:
    """The hits by recording, window and species."""
    rows = pq.read_table(out / "hits").to_pylist()
    found = {(row["recording"], row["start_s"], row["end_s"], row["scientific_name"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def assert_same(
    one: dict[Key, dict[str, Any]], other: dict[Key, dict[str, Any]], name: str = "score", atol: float = CLOSE
) -> None:
    """Equal hits, but for the last digits of their scores."""
    assert one.keys() == other.keys()
    for key, row in one.items():
        for same in ("site", "date", "start_utc", "common_name", "method", "padded"):
            assert row[same] == other[key][same]
    np.testing.assert_allclose([row[name] for row in one.values()], [other[key][name] for key in one], atol=atol)


def files(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def status(run_id: str) -> str:
    return mlflow.MlflowClient().get_run(run_id).info.status


@pytest.mark.parametrize("name", ["finished", "calibrated", "coded", "zero-shot", "matched"])
def test_a_finished_run_has_nothing_left_to_do(name: str, commands: dict[str, list[str]], songsight: Songsight) -> None:
    before, run_id = files(HOME / name), record(HOME / name)["run_id"]
    # Told by names and times; and, with other words for the same, by the fingerprints of model and gallery.
    for more in ([], ["--actors", "1"]):
        said = done(songsight(*commands[name], *more))
        assert f"already holds this run ({run_id}): nothing to do" in said.out
    assert files(HOME / name) == before


def test_the_tables_have_their_columns(commands: dict[str, list[str]]) -> None:
    expected = {
        "hits": "run_id recording site start_utc start_s end_s rank scientific_name common_name score probability "
        "images model method padded date",
        "detections": "run_id recording site start_utc start_s end_s scientific_name common_name windows score_max "
        "score_mean probability_max image model method",
        "embeddings": "recording start_s end_s embedding site date",
        "quarantine": "path stage reason detail size_bytes",
    }
    for name, columns in expected.items():
        assert sorted(pq.read_table(HOME / "finished" / name).column_names) == sorted(columns.split())
    seen = {row["path"]: row["status"] for row in pq.read_table(HOME / "finished" / "recordings").to_pylist()}
    assert len(seen) == 12
    assert seen["site-a/empty.wav"] == "quarantined"
    assert seen["site-b/cut-short.wav"] == "partial"


@pytest.mark.parametrize("name", ["finished", "int8"])
def test_a_page_is_drawn(name: str, commands: dict[str, list[str]], tmp_path: Path, songsight: Songsight) -> None:
    words = ["--annotated", HOME / name, "--out", tmp_path / "page.html", "--per-species", 1, "--most-species", 2]
    done(songsight("report", *words))
    assert record(HOME / name)["run_id"] in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(("name", "atol"), [("finished", 2e-3), ("coded", 0.3)])
def test_kept_vectors_are_matched_again(
    name: str, atol: float, commands: dict[str, list[str]], tmp_path: Path, songsight: Songsight
) -> None:
    words = ["--from-embeddings", HOME / name, "--gallery", HOME / "gallery", "--out", tmp_path / "again"]
    done(songsight("annotate", *words, "--min-score", -1, "--top-k", 4))
    assert_same(hits(tmp_path / "again"), hits(HOME / name), atol=atol)


def test_an_unfinished_run_goes_on_where_it_was(commands: dict[str, list[str]], songsight: Songsight) -> None:
    """Two of its units are finished, and a piece of a third one; what was heard then is not heard again."""
    out = HOME / "unfinished"
    (state,) = (out / ".state").iterdir()
    run_id = (state / "mlflow_run").read_text()
    names = {path.stem for path in (state / "units").glob("*.json")}
    units = {name for name in names if "+" not in name}
    holding = units | {name for name in names if name.partition("+")[0] not in units}
    assert len(holding) == len(units) + 1 == 3
    heard = 0
    for name in holding:
        staged = state / "hits" / f"{name}.parquet"
        table = pq.read_table(staged)
        heard += len(table)
        column = table.schema.get_field_index("common_name")
        pq.write_table(table.set_column(column, "common_name", pa.array([HEARD_BEFORE] * len(table))), staged)

    done(songsight(*commands["unfinished"]))
    made, undisturbed = hits(out), hits(HOME / "finished")
    before = [key for key, row in made.items() if row["common_name"] == HEARD_BEFORE]
    assert len(before) == heard < len(made)
    for key in before:
        made[key]["common_name"] = undisturbed[key]["common_name"]
    assert_same(made, undisturbed)
    told, wanted = record(out), record(HOME / "finished")
    for name in ("run_id", "files_found", "annotated", "quarantined", "partial", "skipped", "windows", "hits", "hours"):
        assert told[name] == wanted[name]
    assert told["detections"] == wanted["detections"]
    assert len(pq.read_table(out / "embeddings")) == len(pq.read_table(HOME / "finished" / "embeddings"))
    assert not (out / ".state").exists()
    assert (told["mlflow_run"], status(run_id)) == (run_id, "FINISHED")


def test_what_was_added_to_an_archive_is_annotated_and_that_alone(
    commands: dict[str, list[str]], songsight: Songsight
) -> None:
    out = HOME / "grown"
    before, earlier = hits(out), files(out)
    assert record(out)["round"] == 2
    done(songsight(*commands["grown"]))
    after = hits(out)
    assert {key: row for key, row in after.items() if key in before} == before
    added = {key[0] for key in after.keys() - before.keys()}
    assert added == {"site-b/20240516_050300.wav", "site-a/20240516_050400.wav"}
    assert len(after) == len(before) + 2 * 2 * 4  # two windows each, and four species
    kept = {path: data for path, data in earlier.items() if path.parent.name.startswith("date=")}
    assert kept.items() <= files(out).items()
    told = record(out)
    assert (told["round"], told["annotated"], told["files_found"], told["windows"]) == (3, 5, 5, 10)
    # What an earlier version wrote and what this one writes is one table.
    for name in ("hits", "embeddings"):
        assert len({pq.read_schema(path).remove_metadata() for path in (out / name).rglob("*.parquet")}) == 1


def test_tables_that_were_half_written_are_completed(commands: dict[str, list[str]], songsight: Songsight) -> None:
    """Killed in its second round, with the hits filed and the table of recordings not; two recordings came since."""
    out = HOME / "half-written"
    before = hits(out)
    (state,) = (out / ".state").iterdir()
    assert (state / "before.json").exists()
    run_id = (state / "mlflow_run").read_text()
    done(songsight(*commands["half-written"]))
    after = hits(out)
    assert_same({key: row for key, row in after.items() if key in before}, before)
    told = record(out)
    assert (told["round"], told["annotated"], told["hits"], len(after)) == (2, 5, 40, 40)
    assert not (out / ".state").exists()
    assert (told["mlflow_run"], status(run_id)) == (run_id, "FINISHED")


def test_a_calibration_holds_for_its_model_and_gallery(
    commands: dict[str, list[str]], tmp_path: Path, songsight: Songsight
) -> None:
    done(songsight(*instead(commands["calibrated"], out=tmp_path / "again")))
    made, wanted = hits(tmp_path / "again"), hits(HOME / "calibrated")
    assert record(tmp_path / "again")["fingerprints"] == record(HOME / "calibrated")["fingerprints"]
    assert_same(made, wanted)
    assert_same(made, wanted, "probability", atol=5e-3)
    assert np.ptp([row["probability"] for row in made.values()]) > 0.1

    done(songsight(*instead(commands["calibration.json"], out=tmp_path / "fitted.json")))
    fitted, kept = (json.loads(path.read_text()) for path in (tmp_path / "fitted.json", HOME / "calibration.json"))
    assert fitted["made_with"] == kept["made_with"]
    assert fitted["species"].keys() == kept["species"].keys()
    for name, line in fitted["species"].items():
        np.testing.assert_allclose(line, kept["species"][name], rtol=0.01)


# These two are of what comes: version 0.1 still has this precision, and fails them.
def test_a_precision_that_is_gone_is_refused(
    commands: dict[str, list[str]], tmp_path: Path, songsight: Songsight
) -> None:
    before = files(HOME / "int8")
    refused(songsight(*instead(commands["int8"], out=tmp_path / "new")), "--precision")
    assert not (tmp_path / "new").exists()
    refused(songsight(*commands["int8"], "--actors", "1"), "--precision")
    assert files(HOME / "int8") == before


def test_a_run_in_a_precision_that_is_gone_is_not_gone_on_with(
    commands: dict[str, list[str]], songsight: Songsight
) -> None:
    for name in ("int8", "int8-unfinished"):
        words = list(commands[name])
        at = words.index("--precision")
        before = files(HOME / name)
        said = {
            "int8": "was annotated with --precision int8, which is gone",
            "int8-unfinished": "holds another, unfinished run",
        }
        refused(songsight(*words[:at], *words[at + 2 :]), f"--out {HOME / name} {said[name]}")
        assert files(HOME / name) == before


def test_a_registered_model_embeds_paths(commands: dict[str, list[str]]) -> None:
    expected = json.loads((HOME / "expected.json").read_text())
    for name in ("models:/songsight/1", "models:/songsight@candidate"):
        vectors = mlflow.pyfunc.load_model(name).predict(expected["paths"])
        assert vectors.shape == (2, 48)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        if name.endswith("/1"):
            np.testing.assert_allclose(vectors, expected["vectors"], atol=CLOSE)


def test_a_registered_model_is_the_one_that_a_run_names(commands: dict[str, list[str]], songsight: Songsight) -> None:
    said = done(songsight(*instead(commands["finished"], model="models:/songsight/1")))
    assert f"already holds this run ({record(HOME / 'finished')['run_id']}): nothing to do" in said.out


def test_a_model_is_measured_as_it_was(commands: dict[str, list[str]], tmp_path: Path, songsight: Songsight) -> None:
    out = tmp_path / "evaluation"
    done(songsight(*instead(commands["evaluation-a"], out=out)))
    made, kept = (json.loads((path / "evaluation.json").read_text()) for path in (out, HOME / "evaluation-a"))
    assert made["fingerprints"] == kept["fingerprints"]
    assert made["audio_to_image_mAP"] == pytest.approx(kept["audio_to_image_mAP"], abs=0.02)
    done(songsight("evaluate", "--compare", HOME / "evaluation-a", out, "--resamples", 100, "--out", tmp_path / "both"))
    rows = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert rows
    assert {row["more_than_noise"] for row in rows}.isdisjoint({"yes", "for these species"})


def test_kept_evaluations_are_compared(commands: dict[str, list[str]], songsight: Songsight) -> None:
    folders = [HOME / "evaluation-a", HOME / "evaluation-b"]
    runs = ["runs:/" + json.loads((folder / "evaluation.json").read_text())["run_id"] for folder in folders]
    for two in (folders, runs):
        said = done(songsight("evaluate", "--compare", *two, "--resamples", 100))
        assert "8 recordings in both, 0 in A alone" in said.out
        assert "| distilled | mAP |" in said.out


@pytest.mark.slow
def test_a_stopped_training_goes_on_under_its_run(commands: dict[str, list[str]], songsight: Songsight) -> None:
    out = HOME / "stopped"
    run_id = json.loads((out / ".train" / "training.json").read_text())["mlflow_run"]
    assert status(run_id) == "RUNNING"
    done(songsight(*commands["stopped"]))
    client = mlflow.MlflowClient()
    assert status(run_id) == "FINISHED"
    assert min(point.value for point in client.get_metric_history(run_id, "resumed_from_step")) >= 20
    losses = [point.step for point in client.get_metric_history(run_id, "loss")]
    assert sorted(set(losses)) == list(range(1, TRAINED_STEPS + 1))
    assert losses.count(1) == 1  # it did not begin anew
    assert (out / "model.safetensors").exists()
    assert not (out / ".train").exists()
    version = client.get_model_version_by_alias("songsight", "candidate")
    assert (str(version.version), version.run_id) == ("2", run_id)
    said = done(songsight(*commands["stopped"]))
    assert f"{out} already holds this model: nothing to do" in said.out
    for name in ("model", "untrained"):
        assert "already holds this model: nothing to do" in done(songsight(*commands[name])).out
