"""Files that exist, paths that resolve, splits and ids."""

from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from songsight.datasets import assemble, files
from songsight.errors import UserError
from songsight.store import tables
from songsight.store.tables import RECORDINGS, resolve_path
from tests.songsight.datasets import layouts


def test_present_looks_below_the_folder_and_elsewhere(tmp_path: Path) -> None:
    for name in ("set/a/x.wav", "elsewhere/y.wav", "beside.wav"):
        layouts.sound(tmp_path / name)
    folder = files.Folder(str(tmp_path / "set"))
    elsewhere = tmp_path / "elsewhere"
    paths = ["a/x.wav", "a/none.wav", str(elsewhere / "y.wav"), str(elsewhere / "none.wav"), "../beside.wav"]
    paths += ["nowhere/at/all.wav", "https://example.org/z.wav", None, "a", "", str(tmp_path / "elsewhere")]
    here, missing = assemble.present(pa.table({"path": paths}), folder)
    assert here["path"].to_pylist() == [
        str(tmp_path / "set" / "a" / "x.wav"),
        str(elsewhere / "y.wav"),
        str(tmp_path / "beside.wav"),
        "https://example.org/z.wav",
    ]
    assert missing["row"].to_pylist() == [2, 4, 6, 8, 9, 10, 11]
    assert missing["path"].null_count == 2
    assert assemble.unchecked(here) == 1


@pytest.mark.parametrize("out", ["set/t.parquet", "t.parquet", "elsewhere/deep/t.parquet", "set/a/t.parquet"])
def test_paths_resolve_from_wherever_the_table_is(tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.sound(tmp_path / "set" / "a" / "x.wav")
    monkeypatch.chdir(tmp_path)
    frames = [[{"path": "a/x.wav", "time_s": 0.5}]]
    table = pa.table({"path": ["a/x.wav"], "frames": pa.array(frames, RECORDINGS.field("frames").type)})
    here, _ = assemble.present(table, files.Folder("set"))
    (row,) = assemble.relative(here, out).to_pylist()
    assert Path(resolve_path(row["path"], out)).samefile(tmp_path / "set" / "a" / "x.wav")
    assert row["path"].startswith("/") == (out in ("elsewhere/deep/t.parquet",))
    assert row["frames"][0]["path"] == row["path"]


def test_paths_on_another_filesystem() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/songsight-assemble/set/a/x.wav", b"1")
    folder = files.Folder("memory://songsight-assemble/set")
    here, missing = assemble.present(pa.table({"path": ["a/x.wav", "a/y.wav"]}), folder)
    assert len(missing) == 1
    out = "memory://songsight-assemble/t.parquet"
    (path,) = assemble.relative(here, out)["path"].to_pylist()
    assert path == "set/a/x.wav"
    assert fs.exists(resolve_path(path, out))
    (path,) = assemble.relative(here, "/elsewhere/t.parquet")["path"].to_pylist()
    assert path == "memory://songsight-assemble/set/a/x.wav"


def test_splits_are_drawn_by_file_and_stay(tmp_path: Path) -> None:
    layouts.sound(tmp_path / "x.wav")
    folder = files.Folder(str(tmp_path))
    paths = [f"{folder.url}/{number // 2}.wav" for number in range(4000)]
    shares = {"train": 8.0, "val": 1.0, "test": 1.0}
    table = assemble.with_split(pa.table({"path": paths}), shares, folder)
    splits = table["split"].to_pylist()
    assert splits[::2] == splits[1::2]
    counts = {name: splits.count(name) / len(splits) for name in shares}
    assert counts == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.03)
    grown = assemble.with_split(pa.table({"path": [f"{folder.url}/new.wav", *paths]}), shares, folder)
    assert grown["split"].to_pylist()[1:] == splits


def test_a_split_of_its_own_is_kept(tmp_path: Path) -> None:
    layouts.sound(tmp_path / "x.wav")
    rows = pa.table({"path": ["/a", "/b"], "split": ["test", None]})
    table = assemble.with_split(rows, {"train": 1.0}, files.Folder(str(tmp_path)))
    assert table["split"].to_pylist() == ["test", "train"]


def test_ids_are_there_once_each() -> None:
    tables.check_ids(pa.table({"recording_id": ["a", "b"]}), "recording_id")
    with pytest.raises(UserError, match=r"recording_id .*: a \(3 rows\), b \(2 rows\)$"):
        tables.check_ids(pa.table({"recording_id": ["a", "a", "b", "a", "b", "c"]}), "recording_id")
    with pytest.raises(UserError, match="recording_id is empty in 1 rows"):
        tables.check_ids(pa.table({"recording_id": ["a", None]}), "recording_id")


def test_fingerprint_is_the_contents() -> None:
    table = pa.table({"a": [1, 2, 3], "b": [["x"], None, []]})
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert tables.fingerprint(chunked) == tables.fingerprint(table)
    assert len(tables.fingerprint(table)) == 64
    for other in (table.slice(1), table.rename_columns(["a", "c"]), table.set_column(0, "a", pa.array([1, 2, 4]))):
        assert tables.fingerprint(other) != tables.fingerprint(table)
