"""What a folder, a table and a moment are to every adapter."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from songsight.datasets import files
from songsight.errors import UserError
from tests.songsight.datasets import layouts


def test_folder_lists_files_and_leaves_hidden_ones_out(tmp_path: Path) -> None:
    for name in ("a/x.wav", "a/._x.wav", ".git/y.wav", "z.csv"):
        layouts.sound(tmp_path / name)
    folder = files.Folder(str(tmp_path))
    assert folder.files == {"a/x.wav", "z.csv"}
    assert folder.table is None


def test_a_table_as_root_is_read_alone_and_its_folder_listed(tmp_path: Path) -> None:
    layouts.sound(tmp_path / "a" / "x.wav")
    layouts.table(tmp_path / "one.csv", [{"path": "a/x.wav"}])
    layouts.table(tmp_path / "two.csv", [{"path": "a/x.wav"}])
    folder = files.Folder(str(tmp_path / "one.csv"))
    assert folder.tables(r"\.csv$") == ["one.csv"]
    assert "a/x.wav" in folder.files


def test_folder_on_another_filesystem() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/songsight-files/a/x.wav", b"1")
    folder = files.Folder("memory://songsight-files/")
    assert folder.files == {"a/x.wav"}
    assert folder.open("a/x.wav") == "memory://songsight-files/a/x.wav"


def test_empty_and_absent_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file or folder: .*nowhere"):
        files.Folder(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no files"):
        _ = files.Folder(str(tmp_path)).files


def test_locate_prefers_the_exact_path_then_its_end_and_guesses_nothing(tmp_path: Path) -> None:
    for name in ("a/x.wav", "b/x.wav", "c/d/y.wav"):
        layouts.sound(tmp_path / name)
    folder = files.Folder(str(tmp_path))
    assert folder.locate("b/x.wav") == "b/x.wav"
    assert folder.locate("d/y.wav") == "c/d/y.wav"
    assert folder.locate("elsewhere/y.wav") == "c/d/y.wav"
    assert folder.locate("x.wav") == "x.wav"  # two of them
    assert folder.locate("s3://b/x.wav") == "s3://b/x.wav"


@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
def test_delimiters_index_columns_and_text(tmp_path: Path, delimiter: str) -> None:
    rows = [{"": 0, "id": "007", "n": "2.5", "note": "two\nlines"}, {"": 1, "id": "8", "n": "", "note": "NA"}]
    path = layouts.table(tmp_path / "t.csv", rows, delimiter)
    table = files.read_rows(str(path), text=["id"])
    assert table.to_pylist() == [{"id": "007", "n": 2.5, "note": "two\nlines"}, {"id": "8", "n": None, "note": None}]
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert files.read_rows(str(tmp_path / "t.csv.gz"), text=["id"]).equals(table)


def test_parquet_leaves_the_sound_itself_out(tmp_path: Path) -> None:
    pq.write_table(pa.table({"audio": [b"RIFF"], "path": ["a.wav"]}), tmp_path / "t.parquet")
    assert files.read_rows(str(tmp_path / "t.parquet")).column_names == ["path"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1,2\n", r"has no column 'path', 'species' \(it has a, b\), read as UTF-8, separated by commas"),
        (b"path,species\n", "has no rows"),
        (b"", "not a readable Parquet or CSV table: it is empty"),
        (b"path,path,species\n1,2,3\n", "has column 'path' twice"),
        (b"path,species\n1,2\n1,2,3\n", "line 3 has 3 cells, the header 2"),
    ],
)
def test_bad_tables_are_told_apart(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        files.read_rows(str(tmp_path / "t.csv"), ["path", "species"], ["path", "species"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2019-05-04 05:10:00+00:00", datetime(2019, 5, 4, 5, 10, tzinfo=UTC)),
        ("2019-05-04T05:10:00-0400", datetime(2019, 5, 4, 9, 10, tzinfo=UTC)),
        ("2019-05-04 05:10:00 +0200", datetime(2019, 5, 4, 3, 10, tzinfo=UTC)),
        ("2019-05-04T05:10:00Z", datetime(2019, 5, 4, 5, 10, tzinfo=UTC)),
        ("2019-05-04 05:10:00", None),
        ("2019-05-04", None),
        ("2019-00-00", None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_time_with_its_offset_is_a_moment(value: str | None, moment: datetime | None) -> None:
    assert files.utc(value) == moment


def test_split_in_name() -> None:
    assert files.split_in_name("d/HSN_metadata_test_5s.parquet") == "test_5s"
    assert files.split_in_name("animalspeak-eval.csv") == "eval"
    assert files.split_in_name("HSN/test_5s-00000-of-00001.parquet") == "test_5s"
    assert files.split_in_name("contest.csv") is None
