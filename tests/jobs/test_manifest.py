"""`songsight manifest`, as a person runs it."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args, get_type_hints

import pyarrow.parquet as pq
import pytest

from inference.archive import listing
from jobs import cli
from jobs.distilling import splits
from jobs.manifest import Options
from songsight.datasets import SOURCES
from songsight.models import prompts
from songsight.store import tables
from songsight.store.tables import IMAGES, RECORDINGS, read_table, resolve_path
from tests.songsight.datasets import layouts, public_bucket

REPOSITORY = Path(__file__).parents[2]
SHARED = Path(os.environ.get("SONGSIGHT_SHARED", REPOSITORY.parent / "shared"))


def run(*words: object) -> None:
    cli.main(["manifest", *map(str, words)])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line on stderr of a run that ends with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        run(*words)
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("songsight manifest: error: ")
    return line


def test_every_source_is_offered() -> None:
    assert set(get_args(get_type_hints(Options)["source"])) == set(SOURCES)


def test_help_answers_at_once_without_the_libraries() -> None:
    script = "import sys\nfrom jobs import cli\ntry:\n    cli.main(['manifest', '--help'])\nfinally:\n"
    script += "    print([name for name in ('pyarrow', 'pandas', 'duckdb', 'fsspec') if name in sys.modules])"
    started_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert time.perf_counter() - started_s < 10  # under a second on a machine that does nothing else
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--source {folder,csv," in done.stdout


@pytest.mark.parametrize(
    ("source", "table", "rows", "species", "splits"),
    [
        ("inatsounds", "recordings", 4, 1, "train 2, val 2"),
        ("ssw60", "recordings", 2, 1, "test 1, train 1"),
        ("ssw60", "images", 2, 1, "train 1, val 1"),
        ("xeno-canto", "recordings", 4, 1, "none 4"),
        ("animalspeak", "recordings", 3, 1, "test 1, train 2"),
        ("birdset", "recordings", 6, 2, "test 2, test_5s 3, train 1"),
    ],
)
def test_published_data_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, table: str, rows: int, species: int, splits: str
) -> None:
    root = getattr(layouts, source.replace("-", "_"))(tmp_path / "data")
    out = tmp_path / "table.parquet"
    taxonomy = layouts.ebird(tmp_path / "ebird.csv")
    run("--source", source, "--root", root, "--table", table, "--out", out, "--taxonomy", taxonomy)
    said = capsys.readouterr().out.splitlines()
    schema = RECORDINGS if table == "recordings" else IMAGES
    written = pq.read_table(out)
    assert written.schema.names[: len(schema)] == schema.names
    assert [field.type for field in written.schema][: len(schema)] == [field.type for field in schema]
    assert said[:3] == [f"{table}: {rows} rows of {species} species", f"splits: {splits}", "missing files: 0"]
    assert f"fingerprint: sha256:{tables.fingerprint(written)}" in said
    assert said[-1] == f"written: {out}"
    for path in written["path"].to_pylist():
        assert not path.startswith("/")
        assert Path(resolve_path(path, str(out))).is_file()


@pytest.mark.parametrize("source", ["birdset", "xeno_canto", "inatsounds", "ssw60", "animalspeak", "folder"])
def test_distill_reads_what_was_made(tmp_path: Path, source: str) -> None:
    root = tmp_path / "data"
    if source == "folder":
        for split in ("train", "valid"):
            layouts.sound(root / split / "Turdus merula" / f"{split}.wav")
    else:
        getattr(layouts, source)(root)
    words = ("--source", source.replace("_", "-"), "--root", root, "--out", tmp_path / "t.parquet")
    run(*words, "--split", "train", "--taxonomy", layouts.ebird(tmp_path / "ebird.csv"))
    table = read_table(str(tmp_path / "t.parquet"), "--recordings", ("path", "scientific_name"), RECORDINGS)
    # The rows that a training takes: their sound is there, and a text can be written about each.
    parts = splits.for_training(table, "t.parquet", batch_size=1, eval_recordings=1000, seed=0)
    train, held = parts.train, parts.val
    assert len(train)
    assert len(held) == {"inatsounds": 2, "folder": 1}.get(source, 0)
    for row in [*train.to_pylist(), *held.to_pylist()]:
        assert Path(resolve_path(row["path"], str(tmp_path / "t.parquet"))).is_file()
        assert prompts.text(row, "taxon").endswith(" ".join(row["scientific_name"].split()[:2]))


def test_missing_files_are_counted_and_listed_until_they_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = layouts.ssw60(tmp_path / "ssw60")
    (root / "audio_ml" / "55046651.wav").unlink()
    out = tmp_path / "recordings.parquet"
    run("--source", "ssw60", "--root", root, "--out", out)
    listed = tmp_path / "recordings.missing.csv"
    assert f"missing files: 1, listed in {listed}" in capsys.readouterr().out
    with listed.open() as handle:
        (row,) = csv.DictReader(handle)
    assert row["recording_id"] == "audio_ml/55046651"
    assert row["path"] == str(root / "audio_ml" / "55046651.wav")
    assert pq.read_table(out)["recording_id"].to_pylist() == ["audio_ml/45516191"]

    layouts.sound(root / "audio_ml" / "55046651.wav")
    run("--source", "ssw60", "--root", root, "--out", out)
    assert len(pq.read_table(out)) == 2
    assert not listed.exists()


def test_birdset_without_a_taxonomy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.parquet"
    run("--source", "birdset", "--root", layouts.birdset(tmp_path / "data"), "--out", out)
    said = capsys.readouterr().out
    assert "recordings: 6 rows of 0 species" in said
    assert "rows without a scientific name: 6\neBird codes without names: 2; --taxonomy with species_code" in said


def test_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A species on each channel of a file; rows that name none get `--channel`, and without any there is no column."""
    (tmp_path / "a.wav").write_bytes(b"")
    out, table = tmp_path / "r.parquet", tmp_path / "rows.csv"
    table.write_text("path,scientific_name,track\na.wav,Parus major,1\na.wav,Parus major,right\na.wav,Parus ater,\n")
    words = ("--source", "csv", "--root", table, "--out", out)
    run(*words, "--columns", "channel=track", "--channel", "loudest")
    made = pq.read_table(out)
    assert made["channel"].to_pylist() == ["1", "right", "loudest"]
    assert len(set(made["recording_id"].to_pylist())) == 3
    assert made.column_names[: len(RECORDINGS)] == RECORDINGS.names
    run(*words)
    assert "channel" not in pq.read_table(out).column_names
    run(*words, "--channel", "2")
    assert pq.read_table(out)["channel"].to_pylist() == ["2"] * 3
    capsys.readouterr()
    said = refused(capsys, *words, "--channel", "0")
    assert "--channel should be mean, left, right, loudest or a channel's number from 1 (got 0)" in said
    table.write_text("path,scientific_name,channel\na.wav,Parus major,A\n")
    assert f"{table}: column channel should be mean, left" in refused(capsys, *words)
    said = refused(capsys, "--source", "inat-photos", "--root", tmp_path, "--out", out, "--channel", "left")
    assert "--channel is for tables of recordings, not of images" in said


def test_rows_without_a_path_and_rows_of_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.sound(tmp_path / "a.wav")
    paths = ["a.wav", "", "a.wav", "https://example.org/b.wav", "", "gone.wav"]
    rows = [{"path": path, "scientific_name": "Turdus merula"} for path in paths]
    table, out = layouts.table(tmp_path / "t.csv", rows), tmp_path / "recordings.parquet"
    run("--source", "csv", "--root", table, "--out", out)
    said = capsys.readouterr().out.splitlines()
    assert f"missing files: 3, listed in {tmp_path / 'recordings.missing.csv'}" in said
    assert "of these without a path: 2" in said
    assert "web addresses, not checked: 1" in said
    assert pq.read_table(out)["path"].to_pylist() == ["a.wav", "a.wav", "https://example.org/b.wav"]
    with (tmp_path / "recordings.missing.csv").open() as handle:
        listed = [(row["row"], row["path"]) for row in csv.DictReader(handle)]
    assert listed == [("2", ""), ("5", ""), ("6", str(tmp_path / "gone.wav"))]


def test_captions_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.sound(tmp_path / "a.wav")
    captions = [("A robin sings.", "Turdus migratorius"), ("Another song of it.", "")]
    rows = [{"path": "a.wav", "caption": first, "caption2": second} for first, second in captions]
    table, out = layouts.table(tmp_path / "train.csv", rows), tmp_path / "t.parquet"
    run("--source", "animalspeak", "--root", table, "--out", out)
    said = capsys.readouterr().out
    assert "recordings: 2 rows of 0 species" in said
    assert "rows without a scientific name: 2; their captions may say it, but distill reads the column alone\n" in said
    read = read_table(str(out), "recordings", ["path", "scientific_name"], RECORDINGS).to_pylist()
    assert [row["captions"] for row in read] == [["A robin sings.", "Turdus migratorius"], ["Another song of it."]]
    assert [row["split"] for row in read] == ["train", "train"]


def test_splits_by_other_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("valid/Turdus merula/a.wav", "Validation/Turdus merula/b.wav", "train/Turdus merula/c.wav"):
        layouts.sound(tmp_path / "folder" / name)
    run("--source", "folder", "--root", tmp_path / "folder", "--out", tmp_path / "t.parquet")
    said = capsys.readouterr().out
    (blank,) = [line for line in said.splitlines() if line.startswith("columns without values: ")]
    assert set(RECORDINGS.names) - set(blank.partition(": ")[2].split(", ")) == {
        *("recording_id", "path", "scientific_name", "genus", "species", "split")
    }
    assert "splits: train 1, val 2\n" in said
    assert "no job takes" not in said

    names = ["Training", "dev", " eval ", "", "fold 1", "fold 1"]
    rows = [
        {"path": f"{place}.wav", "scientific_name": "Turdus merula", "split": name} for place, name in enumerate(names)
    ]
    for row in rows:
        layouts.sound(tmp_path / row["path"])
    table = layouts.table(tmp_path / "t.csv", rows)
    run("--source", "csv", "--root", table, "--out", tmp_path / "t.parquet", "--split", "valid")
    assert pq.read_table(tmp_path / "t.parquet")["split"].to_pylist() == [
        *("train", "val", "test", "val", "fold 1", "fold 1")
    ]
    assert "splits that no job takes: fold 1 2 (" in capsys.readouterr().out


def test_folder_with_taxonomy_and_drawn_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "sounds"
    for name in ("Townsends_Warbler/a.wav", "Junco hyemalis/b.wav", "Parus major/c.wav", "Blue Tit/d.wav"):
        layouts.sound(root / name)
    words = ("--source", "folder", "--root", root, "--taxonomy", layouts.ebird(tmp_path / "ebird.csv"))
    run(*words, "--out", tmp_path / "t.parquet", "--split", "train=1,test=1")
    said = capsys.readouterr().out
    assert "recordings: 4 rows of 3 species" in said
    assert f"not in the taxonomy: 2 species (Blue Tit, Parus major), listed in {tmp_path / 't.unknown.csv'}\n" in said
    assert (tmp_path / "t.unknown.csv").read_text().split() == [
        '"name","rows"',
        '"Blue',
        'Tit",1',
        '"Parus',
        'major",1',
    ]
    assert "rows without a scientific name: 1\n" in said
    rows = {row["path"]: row for row in pq.read_table(tmp_path / "t.parquet").to_pylist()}
    assert rows["sounds/Townsends_Warbler/a.wav"]["scientific_name"] == "Setophaga townsendi"
    assert rows["sounds/Townsends_Warbler/a.wav"]["family"] == "Parulidae"
    assert rows["sounds/Junco hyemalis/b.wav"]["common_name"] == "Dark-eyed Junco"
    assert {row["split"] for row in rows.values()} <= {"train", "test"}

    run(*words, "--out", tmp_path / "u.parquet", "--split", "train")
    assert set(pq.read_table(tmp_path / "u.parquet")["split"].to_pylist()) == {"train"}


def test_hidden_files_and_pipes_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "my sounds::2024"
    species = root / "Parus major"
    for name in ("a.wav", "._a.wav", ".old/b.wav", "$RECYCLE.BIN/c.wav"):
        layouts.sound(species / name)
    layouts.sound(root / ".Trashes" / "Parus major" / "d.wav")
    os.mkfifo(species / "pipe.wav")
    run("--source", "folder", "--root", root.as_uri(), "--out", (tmp_path / "a table.parquet").as_uri())
    assert "skipped: 5 files that are hidden or no regular files\n" in capsys.readouterr().out
    written = pq.read_table(tmp_path / "a table.parquet")["path"].to_pylist()
    assert written == ["my sounds::2024/Parus major/a.wav"]
    found = listing.listing(root.as_uri())
    assert (found.table["path"].to_pylist(), found.skipped) == (["Parus major/a.wav"], 5)  # the archive's view


def test_the_same_data_gives_the_same_table_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prints = []
    for home in ("one", "two"):
        root = layouts.inatsounds(tmp_path / home / "data")
        run("--source", "inatsounds", "--root", root, "--out", tmp_path / home / "t.parquet", "--parts", "train")
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fingerprint")]
        prints.append(line)
    assert prints[0] == prints[1]


def test_photographs_for_the_species_of_a_recordings_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = layouts.inat_photos(tmp_path / "inat")
    rows = [{"path": "a.wav", "scientific_name": name} for name in ("Turdus migratorius", "Nemo nemo")]
    species = layouts.table(tmp_path / "species.csv", rows)
    words = ("--source", "inat-photos", "--root", root, "--out", tmp_path / "images.parquet")
    words += ("--taxonomy", layouts.ebird(tmp_path / "ebird.csv"))
    run(*words, "--species-list", species, "--licenses", "CC0", "cc-by", "--per-species", 2)
    said = capsys.readouterr().out
    assert "images: 2 rows of 1 species" in said
    assert "without a photograph: 1 species (Nemo nemo)" in said
    images = read_table(str(tmp_path / "images.parquet"), "images", ["path"], IMAGES).to_pylist()
    assert {row["path"] for row in images} == {
        "s3://inaturalist-open-data/photos/100/medium.jpg",
        "s3://inaturalist-open-data/photos/102/medium.jpg",
    }
    assert {(row["kingdom"], row["genus"], row["species"]) for row in images} == {("Animalia", "Turdus", "migratorius")}
    assert {row["common_name"] for row in images} == {"American Robin"}

    (tmp_path / "species.txt").write_text("Turdus merula\n\n")
    run(*words, "--species-list", tmp_path / "species.txt")
    assert pq.read_table(tmp_path / "images.parquet")["image_id"].to_pylist() == ["105"]


def test_a_public_bucket_is_read_by_those_who_have_no_account(tmp_path: Path) -> None:
    objects = {f"{name}.csv.gz": layouts.inat_bytes(name) for name in layouts.INAT_FILES}
    (tmp_path / "species.txt").write_text("Turdus merula\n")
    command = [sys.executable, "-m", "jobs.manifest", "--source", "inat-photos", "--out", str(tmp_path / "t.parquet")]
    command += ["--root", "s3://inaturalist-open-data", "--species-list", str(tmp_path / "species.txt")]
    nobody = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FSSPEC_"))}
    nobody |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": str(tmp_path / "none")}
    nobody |= {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
    somebody = nobody | {"AWS_ACCESS_KEY_ID": "ada", "AWS_SECRET_ACCESS_KEY": "lark"}
    for environment, signed in ((nobody, False), (somebody, True)):
        with public_bucket.serve("inaturalist-open-data", objects) as (endpoint, asked):
            env = environment | {"AWS_ENDPOINT_URL": endpoint}
            done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=env, check=False)
        assert done.returncode == 0, done.stderr
        assert asked
        assert {one is not None for one in asked} == {signed}
        (row,) = pq.read_table(tmp_path / "t.parquet").to_pylist()
        assert (row["image_id"], row["license"], row["rights_holder"]) == ("105", "CC0", 'Ada "the" Lark')


def test_bad_input_is_one_line_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = tmp_path / "a.wav"
    layouts.sound(sound)
    rows = [{"file": "a.wav", "species": "Turdus merula"}, {"file": "b.wav", "species": "Turdus merula"}]
    table = layouts.table(tmp_path / "t.csv", rows)
    twice = layouts.table(
        tmp_path / "twice.csv", [{"recording_id": "x", "path": "a.wav", "scientific_name": "Turdus merula"}] * 2
    )
    gone = layouts.table(tmp_path / "gone.csv", [{"path": "no.wav", "scientific_name": "Turdus merula"}])
    text = layouts.table(
        tmp_path / "text.csv", [{"path": "a.wav", "scientific_name": "Turdus merula", "latitude": "north"}]
    )
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out" / "t.parquet"
    before = set(tmp_path.iterdir())
    to_csv = ("--out", out, "--source", "csv", "--root")

    def said(*words: object) -> str:
        return refused(capsys, *words)

    assert "no such file or folder" in said(*to_csv, tmp_path / "nowhere.csv")
    assert "holds no files" in said("--source", "folder", "--root", tmp_path / "empty", "--out", out)
    assert "has no column 'path', 'scientific_name' (it has file, species)" in said(*to_csv, table)
    assert "has no column 'kind' (it has" in said(*to_csv, table, "--columns", "scientific_name=kind,path=file")
    assert "has no column 'name'" in said(*to_csv, table, "--columns", "name=species")
    assert "should be pairs" in said(*to_csv, table, "--columns", "species")
    assert "recording_id should be there once each: x (2 rows)" in said(*to_csv, twice)
    assert "none of its 1 files is there" in said(*to_csv, gone)
    assert "'latitude' should be double" in said(*to_csv, text)
    assert "--out should end in .parquet" in said("--source", "csv", "--root", table, "--out", tmp_path / "t2.csv")
    assert "--columns is not for --source folder" in said(
        "--source", "folder", "--root", tmp_path, "--out", out, "--columns", "path=file"
    )
    assert "has no images, only recordings" in said(
        "--source", "inatsounds", "--root", tmp_path, "--out", out, "--table", "images"
    )
    assert "--columns has path twice: path=file and path=species" in said(
        *to_csv, table, "--columns", "path=file,path=species"
    )
    assert "--split should be pairs such as train=0.8 test=0.2 (got 'test')" in said(
        *to_csv, table, "--split", "train=0.8,test"
    )
    assert "share of train should be a number" in said(*to_csv, table, "--split", "train=most")
    assert "greater than 0" in said(*to_csv, table, "--split", "train=1,test=0")
    assert "no such file" in said(*to_csv, table, "--taxonomy", tmp_path / "no.csv")
    assert "did you mean --columns?" in said(*to_csv, table, "--colums", "x=y")
    assert "--per-species should be greater than 0" in said(
        "--source", "inat-photos", "--root", tmp_path, "--out", out, "--per-species", 0
    )
    assert set(tmp_path.iterdir()) == before


def test_python_m_runs_the_same_job(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.manifest", "--source", "folder", "--root", str(tmp_path / "nowhere")]
    command += ["--out", str(tmp_path / "t.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 2
    assert done.stderr == f"songsight manifest: error: no such file or folder: {tmp_path / 'nowhere'}\n"


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no real sounds in {SHARED} (set SONGSIGHT_SHARED)")
class TestRealData:
    def test_table_of_recordings(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "recordings.parquet"
        run("--source", "csv", "--root", SHARED / "data" / "recordings.csv", "--out", out)
        said = capsys.readouterr().out
        assert "recordings: 94 rows of 44 species" in said
        assert "missing files: 0" in said
        table = read_table(str(out), "recordings", ["path", "scientific_name"], RECORDINGS)
        assert all(Path(resolve_path(path, str(out))).is_file() for path in table["path"].to_pylist())
        # Dates alone, with no time: no moment is made up.
        assert table["recorded_at"].null_count == 94
        assert "2013-09-21" in table["recorded_at_as_given"].to_pylist()

    @pytest.mark.parametrize(
        ("folder", "table", "rows"), [("species_audio", "recordings", 94), ("species_images", "images", 78)]
    )
    def test_folders_with_names_from_the_table(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str, table: str, rows: int
    ) -> None:
        data = SHARED / "data"
        words = ("--source", "folder", "--root", data / folder, "--table", table, "--out", tmp_path / "t.parquet")
        run(*words, "--taxonomy", data / "recordings.csv")
        said = capsys.readouterr().out
        assert f"{table}: {rows} rows of 44 species" in said
        assert "without a scientific name" not in said
        with (data / f"{table}.csv").open() as handle:
            listed = {row["path"]: row["scientific_name"] for row in csv.DictReader(handle)}
        read = pq.read_table(tmp_path / "t.parquet").to_pylist()
        assert {os.path.relpath(row["path"], data): row["scientific_name"] for row in read} == listed

        run(*words)
        assert f"rows without a scientific name: {rows}; a --taxonomy with common names" in capsys.readouterr().out
