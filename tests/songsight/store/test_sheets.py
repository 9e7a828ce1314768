"""Tables as spreadsheets, R and text editors write them."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from songsight.errors import UserError
from songsight.store import sheets

TABLE = "id,name,note\n007,Gänsesäger,two\n8,Bussard,\n"
ROWS = [{"id": "007", "name": "Gänsesäger", "note": "two"}, {"id": "8", "name": "Bussard", "note": None}]


def read(folder: Path, content: bytes, name: str = "t.csv") -> pa.Table:
    (folder / name).write_bytes(content)
    return sheets.read(str(folder / name), ("id", "name"), ("id",))


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (codecs.BOM_UTF8 + TABLE.encode(), "UTF-8"),
        (TABLE.encode("utf-16"), "UTF-16"),
        (codecs.BOM_UTF16_BE + TABLE.encode("utf-16-be"), "UTF-16"),
        (TABLE.encode("utf-16-le"), "UTF-16-LE"),
        (TABLE.encode("utf-16-be"), "UTF-16-BE"),
        (TABLE.encode("utf-32"), "UTF-32"),
        (TABLE.encode("utf-32-be"), "UTF-32-BE"),
        (TABLE.encode("latin-1"), "Windows-1252"),
        (TABLE.replace("\n", "\r").encode("mac-roman"), "MacRoman"),
        (TABLE.replace("\n", "\r").encode("latin-1"), "Windows-1252"),
        (gzip.compress(TABLE.encode("utf-16")), "UTF-16"),
    ],
)
def test_encodings_with_marks_and_without(
    tmp_path: Path, content: bytes, seen: str, caplog: pytest.LogCaptureFixture
) -> None:
    table = read(tmp_path, content)
    guessed = [f"{tmp_path / 't.csv'} is not UTF-8: read as {seen}"] if seen in ("Windows-1252", "MacRoman") else []
    assert caplog.messages == guessed
    assert table.to_pylist() == ROWS
    assert sheets.seen(table) == f"read as {seen}, separated by commas"


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("\ufeffsep=;\r\nid;name;note\r\n1;a;b\r\n", [("1", "a", "b")]),
        ('"sep=^"\nid^name^note\n1^a,b^c;d\n', [("1", "a,b", "c;d")]),
        ("\n\nid|name|note\n1|a|b\n", [("1", "a", "b")]),
        ("id,name,note,,\n1,a,b,,\n,,,,\n", [("1", "a", "b")]),
        ("id,name,note\n1,a\n2,b,c,,,\n\n", [("1", "a", None), ("2", "b", "c")]),  # Excel forgets blank cells, or adds
        ("id;name;note\n1;a;'b, c'\n2;d;1,5\n", [("1", "a", "'b, c'"), ("2", "d", "1,5")]),
        ('id,name,note\n1,"a ""b""\nc","d,e"\n', [("1", 'a "b"\nc', "d,e")]),
        ('id\tname\tnote\n1\t"a\tb\n2\t"c" d\te\n', [("1", '"a', "b"), ("2", '"c" d', "e")]),  # unquoted, as Raven is
        ('id\tname\tnote\n1\t"a\tb\n2\tc"\td\n', [("1", '"a', "b"), ("2", 'c"', "d")]),
        (" id , name , note \r1,a,b\r", [("1", "a", "b")]),
        ('"na,me";id;name;note\nx;1;a;b\n', [("1", "a", "b")]),
        ("id,name,note,id,\n1,a,b,1,\n", [("1", "a", "b")]),
        ("id;name;notes, if any, or none, at all\n1;a;b\n", [("1", "a", "b")]),
        ("id;name;a, b, c\n1;a;1,5, or 2,5\n", [("1", "a", "1,5, or 2,5")]),
        ('"id","name","note"\n"1","a","so \\"b\\", c"\n', [("1", "a", 'so "b", c')]),  # R
        ('"id"\t"name"\t"note"\n"1"\t"a"\t"\\"b\\""\n', [("1", "a", '"b"')]),
        ("id,name,note\n1, ,b\n ,\t,\u00a0\n", [("1", None, "b")]),
        (
            "\ufeffid,name,note\n1,a,b\n\ufeffid,name,note\n2,c,d\n\x1a",
            [("1", "a", "b"), ("2", "c", "d")],
        ),  # copy a + b
        (f"id,name,note\n1,{'a' * 3_000_000},b\n", [("1", "a" * 3_000_000, "b")]),
    ],
)
def test_separators_blank_cells_quotes_and_line_ends(tmp_path: Path, content: str, rows: list[tuple]) -> None:
    table = read(tmp_path, content.encode(), "t.txt")
    first = table.column_names.index("id")
    assert [tuple(row.values()) for row in table.select(range(first, first + 3)).to_pylist()] == rows


def test_utf_16_without_a_mark_is_told_by_its_header(tmp_path: Path) -> None:
    table = read(tmp_path, ("id,name\n" + "1,欧乌鸫\n" * 300).encode("utf-16-le"))
    assert (len(table), table["name"][299].as_py()) == (300, "欧乌鸫")


@pytest.mark.parametrize(
    "content",
    [
        "Turdus merula\nParus major\n",
        "# of the garden\r\n\r\nTurdus merula;;\r\nParus major;;\r\n;;\r\n",
        'sep=;\n"Turdus merula"\n"Parus major"\n',
        "common_name\tscientific_name\t\nBlackbird\tTurdus merula\t\nGreat Tit\tParus major\t\n\tNA\t\n",
    ],
)
def test_a_list_of_names_is_lines_or_a_column(tmp_path: Path, content: str) -> None:
    (tmp_path / "list.txt").write_text(content, encoding="utf-16", newline="")
    assert sheets.names(str(tmp_path / "list.txt")) == ["Turdus merula", "Parus major"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,name\n1,сова\n".encode("cp1251"), "neither UTF-8 nor Windows-1252, see byte 0xF1 of line 2"),
        (
            "id,name\n1,Gänsesäger\n".encode() + b"2,K\xe4uze\n",
            "neither UTF-8 nor Windows-1252, see byte 0xE4 of line 3",
        ),
        (TABLE.encode("utf-16")[:-1], "it begins as UTF-16"),
        (b"id,name\n1,a\n\0\0\0\0\0\0\0\0\0\0", "it holds zero bytes"),
        (b"PK\x03\x04\x14\0\x06\0", "a workbook or another zip file; save its sheet as CSV"),
        (b"<html><table>", "it is HTML or XML"),
        (b'id,name\n1,"a, b\n2,c, d\n', "its quotation marks do not pair: unexpected end of data, line 2"),
        (b'id,name,note\n"1","a",b\n2,c,"d" e\n', "expected after '\"', line 3, separated by commas"),
        (b"id,name\n1,0,5\n", "line 2 has 3 cells, the header 2 (separated by commas)"),
        (b'"id" "name"\n1 a\n', '(it has "id" "name"), read as UTF-8, not separated by tabs, semicolons, bars, commas'),
        (b"id,name,note,note\n1,a,b,c\n", "has column 'note' twice"),
        (b"\n \n", "it is empty"),
        (b"id,name\n,\n", "has no rows"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "t.csv") in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parquet_by_its_ending_or_its_first_bytes(tmp_path: Path) -> None:
    for name in ("t.parquet", "t.txt"):
        pq.write_table(pa.table({"id": ["1"], "name": ["a"], "more": [2]}), tmp_path / name)
        table = sheets.read(str(tmp_path / name), ("id",), columns=["id", "none"])
        assert (table.to_pylist(), sheets.seen(table)) == ([{"id": "1"}], "")
