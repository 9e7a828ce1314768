"""Tables as jobs read them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from songsight.errors import UserError
from songsight.store import tables

ROW = {"path": "a.wav", "scientific_name": "Turdus merula"}


def read(url: Path) -> pa.Table:
    return tables.read_table(str(url), "--recordings", ("path", "scientific_name"), tables.RECORDINGS)


def written(url: Path, content: bytes | pa.Table | None) -> Path:
    if isinstance(content, bytes):
        url.write_bytes(content)
    elif content is not None:
        pq.write_table(content, url)
    return url


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.parquet", None, "no such file: URL"),
        ("t.parquet", b"path,scientific_name", "URL is not a readable Parquet or CSV table: "),
        ("t.csv", b"path,scientific_name\n1,2\n1,2,3\n", "URL is not a readable Parquet or CSV table: "),
        ("t.csv", b"", "URL is not a readable Parquet or CSV table: "),
        (
            "t.parquet",
            pa.table({"file": ["a.wav"]}),
            "URL has no column 'path', 'scientific_name' (it has file)",
        ),
        ("t.csv", b"path,path,scientific_name\na,b,c\n", "URL has column 'path' twice"),
        ("t.csv", b"path^scientific_name\na^b\n", "URL has no column 'path', 'scientific_name' (it has path^scient"),
        ("t.csv", b"path,scientific_name\n", "URL has no rows"),
        ("t.parquet", pa.Table.from_pylist([ROW]).slice(0, 0), "URL has no rows"),
        (
            "t.parquet",
            pa.Table.from_pylist([ROW | {"start_s": "soon"}]),
            "URL: column 'start_s' should be double: ",
        ),
        (
            "t.parquet",
            pa.Table.from_pylist([ROW | {"captions": 3}]),
            "URL: column 'captions' should be list<",
        ),
        (
            "t.csv",
            b"recording_id,path,scientific_name\n7,a,c\n8,b,c\n7,d,c\n",
            "URL: recording_id should be there once each: 7 (2 rows)",
        ),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes | pa.Table | None, said: str
) -> None:
    url = written(tmp_path / name, content)
    with pytest.raises(UserError) as caught:
        read(url)
    assert str(caught.value).startswith(f"--recordings: {said.replace('URL', str(url))}")
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a readable Parquet or CSV table"):
        read(tmp_path)


def test_a_csv_has_nulls_for_blank_cells_and_ids_as_they_are_written(tmp_path: Path) -> None:
    content = (
        b"recording_id,path,scientific_name,split,start_s,weight\n007,a.wav,Turdus merula,,,\n8,b.wav,,val,1.5,2\n"
    )
    first, second = read(written(tmp_path / "t.csv", content)).to_pylist()
    assert (first["recording_id"], second["recording_id"]) == ("007", "8")
    assert (first["split"], second["split"]) == (None, "val")
    assert (first["start_s"], second["start_s"]) == (None, 1.5)
    assert second["scientific_name"] is None
    assert (first["weight"], second["weight"]) == (None, 2)


def test_numbers_may_have_decimal_commas_but_no_thousands(tmp_path: Path) -> None:
    content = b"path;scientific_name;start_s;latitude\na.wav;Turdus merula;1,5;-52,516\nb.wav;Turdus merula;0;,25\n"
    table = read(written(tmp_path / "t.csv", content))
    assert (table["start_s"].to_pylist(), table["latitude"].to_pylist()) == ([1.5, 0], [-52.516, 0.25])
    for wrong in (b"1,234,567", b"1,234.5"):
        with pytest.raises(UserError, match=r"column 'start_s' should be double.*separated by semicolons"):
            read(written(tmp_path / "t.csv", content.replace(b"1,5", wrong)))


def test_rows_may_lack_ids(tmp_path: Path) -> None:
    assert read(written(tmp_path / "t.parquet", pa.Table.from_pylist([ROW, ROW])))["recording_id"].null_count == 2


def test_other_tables_may_have_an_id_in_several_rows(tmp_path: Path) -> None:
    schema = pa.schema([("recording_id", pa.string()), ("method", pa.string())])
    rows = pa.table({"recording_id": ["a", "a"], "method": ["x", "y"]})
    url = str(written(tmp_path / "t.parquet", rows))
    assert tables.read_table(url, "--queries", schema.names, schema).equals(rows)


def test_a_time_written_as_a_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("path,scientific_name,recorded_at\na.wav,Parus major,20240514\n")
    with pytest.raises(UserError, match="column 'recorded_at' should be a time such as"):
        tables.read_table(str(tmp_path / "r.csv"), "--recordings", ("path",), tables.RECORDINGS)
