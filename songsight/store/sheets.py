"""Tables that people give: Parquet, or text as a spreadsheet, R or Raven wrote it.

Of text, encoding, separator and line ends are found out: UTF-8, UTF-16, UTF-32 with a byte order mark or without, else
Windows-1252 (of which Latin-1 is a part) or, where lines end as on old Macs, MacRoman, which is a guess and told; tabs,
commas, semicolons, bars, or what a first line `sep=;` says. Errors name what was seen, so that a wrong guess can be
told from a wrong table.
"""

from __future__ import annotations

import codecs
import csv
import functools
import gzip
import io
import itertools
import logging
import re
import statistics
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from songsight.errors import UserError
from songsight.store import urls

Row = tuple[int, list[str]]
"""The number of the line that a row begins in, and its cells."""

# Commas last, where several would do: those of decimals and of words are there beside another separator.
SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}

_MARKS = (  # UTF-32's begins with that of UTF-16
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_UNMARKED = ("UTF-32-LE", "UTF-32-BE", "UTF-16-LE", "UTF-16-BE")
_NO_TEXT = {
    b"PK\x03\x04": "a workbook or another zip file; save its sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save its sheet as CSV UTF-8",
    b"<": "HTML or XML; save it as CSV UTF-8",
}
# Languages that Windows-1252 is for have no four such letters in a row, as most Cyrillic or Chinese words do, nor those
# two, which are UTF-8's.
_NOT_WESTERN = re.compile(rb"[\xa1-\xff]{4}|[\xc2\xc3][\x80-\xbf]")
_SEP_LINE = re.compile(r'\s*"?sep=(.)"?[\t,;| ]*(\r\n|\r|\n|$)', re.IGNORECASE)
# Most letters beyond ASCII: those of MacRoman, and the small ones of Windows-1252.
_MACS, _WINDOWS = re.compile(rb"[\x80-\x9f]"), re.compile(rb"[\xe0-\xff]")
_HEAD, _HEAD_ROWS = 1 << 16, 50
_MOST_BYTES = (1 << 31) - 1
_SEEN = b"seen"


def read(
    url: str,
    required: Iterable[str] = (),
    text: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    without: Sequence[str] = (),
) -> pa.Table:
    """Reads a Parquet file or a text table, which may be gzipped.

    Args:
        url: the file; Parquet is known by its ending or its first bytes.
        required: columns that must be there.
        text: columns to keep as text where their look would make them numbers or dates: "00123" is an id.
        columns: of a Parquet file, those to read where it has them; all if not given.
        without: columns of a Parquet file that are not read.

    Returns:
        The table; a text table's columns are typed by their look, blank cells null. Columns without a name that
        several have are left out, as are rows without a cell. `seen` tells how text was read.

    Raises:
        UserError: not a table, no rows, required columns missing, or several columns of one name that differ.
    """
    try:
        if url.lower().endswith((".parquet", ".pq")):
            with urls.open_read(url) as handle:
                table = _parquet(pa.PythonFile(handle), columns, without)
        else:
            data = contents(url)
            is_parquet = data.startswith(b"PAR1")
            table = _parquet(pa.BufferReader(data), columns, without) if is_parquet else _typed(data, url, text)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(url, error) from None
    table = _once(table, url)
    require(url, table.column_names, required, seen(table))
    if len(table) == 0:
        raise UserError(f"{url} has no rows")
    return table


def seen(table: pa.Table) -> str:
    """How a table of `read` was written: `read as UTF-16, separated by semicolons`; blank for Parquet."""
    return (table.schema.metadata or {}).get(_SEEN, b"").decode()


def require(where: str, have: Sequence[str], required: Iterable[str], seen: str = "") -> None:
    """Checks that a table has its columns.

    Raises:
        UserError: naming the missing ones, those that are there, and how the table was read.
    """
    missing = [column for column in dict.fromkeys(required) if column not in have]
    if missing:
        said = f"(it has {', '.join(have)})" + (f", {seen}" if seen else "")
        raise UserError(f"{where} has no column {', '.join(map(repr, missing))} {said}")


def names(url: str) -> list[str]:
    """The names of a list of species: a table's `scientific_name`, or a name a line, without comments (`# …`).

    Raises:
        UserError: it cannot be read.
    """
    data, column = contents(url), "scientific_name"
    text = "" if data.startswith(b"PAR1") else decoded(data, url)[0]
    if not text or column in map(str.strip, rows(text, url)[0][0][1]):
        found = read(url, [column], [column])[column].to_pylist()
    else:
        # Of a sheet with one column, blank ones are left behind it.
        found = [line.strip(' "' + "".join(SEPARATORS)) for line in _SEP_LINE.sub("", text, count=1).splitlines()]
    return [name for name in found if name and not name.startswith("#")]


def contents(url: str) -> bytes:
    """A file's bytes, unpacked where they are gzipped.

    Raises:
        UserError: they cannot be read.
    """
    try:
        data = urls.read_bytes(url)
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(url, error) from None


def decoded(data: bytes, url: str) -> tuple[str, str]:
    """A file's text and the encoding that it is in.

    Raises:
        UserError: it is no text, or in an encoding that is none of those above.
    """
    for start, what in _NO_TEXT.items():
        if data[:64].lstrip().startswith(start):
            raise _unreadable(url, f"it is {what}")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data:
        encoding = next((name for name in _UNMARKED if _is_ascii(data[:_HEAD].decode(name, "replace"))), None)
        if encoding is None:
            raise _unreadable(url, "it holds zero bytes, which text has not")
    is_macs = b"\r" in data and b"\n" not in data and len(_MACS.findall(data)) >= len(_WINDOWS.findall(data))
    old = "MacRoman" if is_macs else "Windows-1252"
    fault = None
    for name in (encoding,) if encoding else ("UTF-8", old):
        if name == old and _NOT_WESTERN.search(data):
            break
        try:
            text = data.decode(name)
        except UnicodeDecodeError as error:
            fault = fault or (error.start, f"0x{data[error.start]:02X}")
            continue
        if name == old:
            _say(f"{url} is not UTF-8: read as {name}")
        # Joined files have their marks inside, and DOS's end of file behind them where Windows joined them.
        return text.replace("\ufeff", "").rstrip("\x1a"), name
    at, byte = fault or (0, "")
    line = (data[:at].count(b"\n") or data[:at].count(b"\r")) + 1
    which = f"it begins as {encoding}" if encoding else f"it is neither UTF-8 nor {old}"
    raise _unreadable(url, f"{which}, see byte {byte} of line {line}; save it as UTF-8")


@functools.cache
def _say(line: str) -> None:
    """A line on stderr, once: what is only a guess."""
    logging.getLogger(__name__).warning(line)


def rows(text: str, url: str) -> tuple[list[Row], str]:
    """The rows of a text that have something in a cell, the header first, and what separates cells, for error lines.

    Raises:
        UserError: there are none, or quotation marks do not pair.
    """
    told = _SEP_LINE.match(text)
    separator = told[1] if told else max(SEPARATORS, key=lambda sign: _columns(text[:_HEAD], sign))
    first = len(text[: told.end()].splitlines()) + 1 if told else 1
    found = _quoted(text[told.end() :] if told else text, separator, first, url)
    if not found:
        raise _unreadable(url, "it is empty")
    one_column = f"not separated by {', '.join(SEPARATORS.values())}"
    return found, _how(separator) if len(found[0][1]) > 1 else one_column


def fitted(row: Row, width: int, url: str, how: str) -> list[str]:
    """A row's cells, as many as the header has: spreadsheets leave out blank ones at the end, or add some.

    Raises:
        UserError: it has more that are not blank.
    """
    number, cells = row
    if any(cell.strip() for cell in cells[width:]):
        raise _unreadable(url, f"line {number} has {len(cells)} cells, the header {width} ({how})")
    return [cell if cell.strip() else "" for cell in [*cells, *[""] * (width - len(cells))][:width]]


def _unreadable(url: str, error: object) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{url} is not a readable Parquet or CSV table: {reason}")


def _how(separator: str) -> str:
    return f"separated by {SEPARATORS.get(separator, repr(separator))}"


def _is_ascii(start: str) -> bool:
    """Whether most of the first line is, the header: the cells below it may be in any letters."""
    line = re.split(r"[\r\n]", start.lstrip(), maxsplit=1)[0]
    return "\0" not in line and 2 * sum(map(str.isascii, line)) > len(line)


def _columns(head: str, separator: str) -> tuple[int, int]:
    """How many columns a separator makes: the header's cells with something in them, if most rows have as many."""
    found = [row for _, row in itertools.islice(_rows(head, separator, 1, csv.QUOTE_MINIMAL, False), _HEAD_ROWS)]
    named = sum(bool(cell.strip()) for cell in found[0]) if found else 0
    return min([named, *([statistics.median_low(map(len, found[1:]))] if found[1:] else [])]), named


def _quoted(text: str, separator: str, first: int, url: str) -> list[Row]:
    """The rows: with quotation marks as spreadsheets have them, with R's and MySQL's \\", or with none that mean so."""
    fault = ""
    for body in dict.fromkeys((text, text.replace('\\"', '""'))):
        try:
            found = list(_rows(body, separator, first, csv.QUOTE_MINIMAL))
        except csv.Error as error:
            fault = fault or str(error)
            continue
        # Raven quotes nothing: a mark is a sign like others, and two of them may seem to hold the lines between them.
        if separator != "\t" or not any("\t" in cell and cell.splitlines()[1:] for _, row in found for cell in row):
            return found
    found = list(_rows(text, separator, first, csv.QUOTE_NONE))
    width = len(found[0][1])
    for _, cells in found[:1] if separator == "\t" else found:
        if width > 1 and (len(cells) > width or any(cell[1:] and cell[0] == cell[-1] == '"' for cell in cells)):
            raise _unreadable(url, f"its quotation marks do not pair: {fault}, {_how(separator)}")
    return found


def _rows(text: str, separator: str, first: int, quoting: int, strict: bool = True) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=strict)  # type: ignore[arg-type]
    number = first
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield number, cells
            number = first + reader.line_num
    except csv.Error as error:
        raise csv.Error(f"{error}, line {number}") from None


def _parquet(file: pa.NativeFile, columns: Sequence[str] | None, without: Sequence[str]) -> pa.Table:
    stored = pq.ParquetFile(file)
    names = stored.schema_arrow.names
    return stored.read(columns or ([name for name in names if name not in without] if {*names} & {*without} else None))


def _typed(data: bytes, url: str, text: Sequence[str]) -> pa.Table:
    import pyarrow.csv

    content, encoding = decoded(data, url)
    found, how = rows(content, url)
    header = [name.strip() for name in found[0][1]]
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(header)
    # Joined tables have their headers inside.
    writer.writerows(fitted(row, len(header), url, how) for row in found[1:] if row[1] != found[0][1])
    clean = sink.getvalue().encode()
    # In one block, whose values all have a say in the columns' types.
    table = pyarrow.csv.read_csv(
        io.BytesIO(clean),
        read_options=pyarrow.csv.ReadOptions(block_size=min(len(clean) + 1, _MOST_BYTES)),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in text}, strings_can_be_null=True
        ),
    )
    return table.replace_schema_metadata({_SEEN: f"read as {encoding}, {how}"})


def _once(table: pa.Table, url: str) -> pa.Table:
    """The table with each name once: columns that say the same, or have no name, are left out."""
    at: dict[str, int] = {}
    for number, name in enumerate(table.column_names):
        if name and name in at and not table.column(at[name]).equals(table.column(number)):
            raise UserError(f"{url} has column {name!r} twice")
        at.setdefault(name, number)
    if table.column_names.count("") > 1:
        at.pop("")
    return table.select(list(at.values()))
