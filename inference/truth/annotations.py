"""What people heard in recordings: Raven selection tables, Audacity labels, BirdNET's and plain tables, as one table.

    Raven      tab-separated, a row a selection: Begin Time (s), End Time (s), often Begin File or Begin Path, File
               Offset (s), and columns of the annotator's own, one of which names the species (Raven Pro 1.6 User's
               Manual, chapter 6). A selection that two views show is there twice, under one number.
    Audacity   start⇥end⇥label without a header; a line that begins with a backslash holds the label's frequencies
    BirdNET    CSV with Start (s), End (s), Scientific name, Common name, Confidence, File
    plain      CSV, TSV or Parquet with recording, start_s, end_s, scientific_name

The form is known by the header, not by the file's ending.
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from songsight.datasets import files
from songsight.datasets.taxonomy import Taxonomy, name_key
from songsight.errors import UserError
from songsight.store import urls

ANNOTATIONS = pa.schema(
    [
        pa.field("recording", pa.string()),
        pa.field("start_s", pa.float64()),  # null: nothing was found in the recording, see `read`
        pa.field("end_s", pa.float64()),
        pa.field("scientific_name", pa.string()),  # null: heard, but not named
    ]
)

_START = ("begin time (s)", "start (s)", "start_s", "start_time")
_END = ("end time (s)", "end (s)", "end_s", "end_time")
_RECORDING = ("begin path", "begin file", "recording", "file", "filepath", "path")
_SPECIES = (
    "scientific_name",
    "scientific name",
    "species",
    "species code",
    "species_code",
    "ebird_code",
    "common name",
    "annotation",
    "label",
)
_OFFSET, _SELECTION = "file offset (s)", "selection"
_TABLES = r"\.(txt|tsv|csv|parquet)$"
_TABLE_NAME = re.compile(r"(\.Table\.\d+)?(\.BirdNET)?(\.selections?)?(\.table)?(\.results)?\.(txt|tsv|csv)$", re.I)
_AUDACITY = re.compile(r"\s*\d+([.,]\d+)?\t\s*\d+([.,]\d+)?(\t.*)?$")


@dataclass(frozen=True)
class _Sheet:
    """A file's cells: `header` None for labels of Audacity; each row with its line number."""

    name: str
    header: list[str] | None
    rows: list[tuple[int, list[str]]]


def read(
    path: str, species_column: str | None = None, taxonomy: Taxonomy | None = None, with_empty: bool = False
) -> pa.Table:
    """Reads annotations.

    Args:
        path: a table, or a folder of them (all below it that have one of the four forms); any URL.
        species_column: the column that names the species; the first known one if not given (`Species`,
            `Scientific name`, `Species Code`, `Common Name`, `Annotation`, `Label`, …).
        taxonomy: turns codes and common names into scientific names; a label that it does not have stays as it is.
            BirdNET's `Turdus merula_Eurasian Blackbird` is the part before the underscore with or without it.
        with_empty: a table of one recording that lists nothing says that nothing is there: keep that, as a row with
            the recording alone.

    Returns:
        `ANNOTATIONS`, sorted by recording and start. `recording` is what the table says (`Begin Path`, else `Begin
        File`, with forward slashes), or else the table's own path below `path` without its endings
        (`a/x.Table.1.selections.txt` is of `a/x`): `matched` joins that to an archive's paths. Times count from the
        recording's beginning.

    Raises:
        UserError: nothing is there, nothing has one of the forms, a column is missing, a time is no number, or a
            table of several files lacks `File Offset (s)`: Raven's times then count from the first file's beginning.
    """
    folder = files.Folder(path)
    rows: list[dict[str, Any]] = []
    found = 0
    for name in folder.tables(_TABLES):
        sheet = _sheet(folder.open(name), name, species_column)
        if sheet is None:
            continue
        found += 1
        read_rows = _rows(sheet, folder.open(name), species_column, taxonomy)
        if not read_rows and with_empty:
            read_rows = [{"recording": _recording_of(name)}]
        rows += read_rows
    if not found:
        raise UserError(
            f"{path}: no annotations are there; wanted Raven selection tables (tab-separated with Begin Time (s) and "
            "End Time (s)), Audacity labels, BirdNET's CSV, or a table with recording, start_s, end_s, scientific_name"
        )
    table = pa.Table.from_pylist(rows, ANNOTATIONS)
    return table.sort_by([("recording", "ascending"), ("start_s", "ascending"), ("end_s", "ascending")])


def matched(annotations: pa.Table, recordings: Iterable[str]) -> tuple[pa.Table, list[str]]:
    """Puts the paths of an archive into `recording`.

    A name means the recording with that path; else the only one whose path ends in it, with or without its ending;
    else the only one of the same base name, with or without its ending.

    Args:
        annotations: of `read`.
        recordings: paths in the archive.

    Returns:
        (the rows of the recordings that were found; the names of the others, sorted).
    """
    whole: dict[str, set[str]] = defaultdict(set)
    for recording in recordings:
        parts = recording.split("/")
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            whole[tail].add(recording)
            whole[posixpath.splitext(tail)[0]].add(recording)

    def find(name: str) -> str | None:
        tail = posixpath.splitext(name)[0]
        for key in (name, tail, posixpath.basename(name), posixpath.basename(tail)):
            if len(whole.get(key, ())) == 1:
                return next(iter(whole[key]))
        return None

    names = annotations["recording"].to_pylist()
    place = {name: find(name) for name in set(names)}
    table = annotations.set_column(0, "recording", pa.array([place[name] for name in names], pa.string()))
    keep = pa.array([place[name] is not None for name in names], pa.bool_())
    return table.filter(keep), sorted(name for name, found in place.items() if found is None)


def _sheet(url: str, name: str, species_column: str | None) -> _Sheet | None:
    """The file's cells, or None where it has none of the forms."""
    if name.lower().endswith(".parquet"):
        table = files.read_rows(url)
        lines = [[("" if value is None else str(value)) for value in row.values()] for row in table.to_pylist()]
        header = list(table.column_names)
    else:
        data = urls.read_bytes(url)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")  # Raven writes the encoding of the machine that it runs on
        if _is_audacity(text):
            labels = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
            return _Sheet(name, None, [(n, line.split("\t")) for n, line in labels if not line.startswith("\\")])
        first = text.partition("\n")[0]
        delimiter = max("\t,;", key=first.count)
        header, *lines = list(csv.reader(io.StringIO(text), delimiter=delimiter)) or [[]]
    if _first(header, _START) is None or _first(header, _END) is None:
        return None
    named = _first(header, (species_column.lower(),) if species_column else _SPECIES) is not None
    if not named and _first(header, _START[:1]) is None:
        return None  # Raven's table that lacks the column is an error; another table of times is of something else
    return _Sheet(name, header, [(number, row) for number, row in enumerate(lines, 2) if any(map(str.strip, row))])


def _is_audacity(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and all(line.startswith("\\") or _AUDACITY.match(line) for line in lines)


def _rows(sheet: _Sheet, url: str, species_column: str | None, taxonomy: Taxonomy | None) -> list[dict[str, Any]]:
    if sheet.header is None:
        return [_audacity_row(sheet.name, url, number, row, taxonomy) for number, row in sheet.rows]
    header = sheet.header
    at_species = _first(header, (species_column.lower(),) if species_column else _SPECIES)
    if at_species is None:
        wanted = f"column {species_column!r}" if species_column else "column that names the species, such as Species"
        raise UserError(f"{url} has no {wanted} (it has {', '.join(name for name in header if name)})")
    at_start, at_end = _first(header, _START), _first(header, _END)
    at_file, at_offset, at_selection = (_first(header, each) for each in (_RECORDING, (_OFFSET,), (_SELECTION,)))
    result, seen, named = [], set(), set()
    for number, row in sheet.rows:
        selection = _cell(row, at_selection)
        if selection and selection in seen:
            continue  # another view of the same selection
        seen.add(selection)
        start_s, end_s = _seconds(url, number, row, at_start), _seconds(url, number, row, at_end)
        if end_s < start_s:
            raise UserError(f"{url}, line {number}: ends at {end_s:g} s, before it starts at {start_s:g} s")
        if _cell(row, at_offset):
            start_s, end_s = (offset := _seconds(url, number, row, at_offset)), offset + end_s - start_s
        recording = _cell(row, at_file).replace("\\", "/") or _recording_of(sheet.name)
        named.add(recording)
        name = _name(_cell(row, at_species), taxonomy)
        result.append({"recording": recording, "start_s": start_s, "end_s": end_s, "scientific_name": name})
    if len(named) > 1 and at_offset is None and header[at_start or 0].strip().lower() == _START[0]:
        raise UserError(
            f"{url} is of {len(named)} files and has no column 'File Offset (s)': its times count from the beginning "
            "of the first file; let Raven add that measurement"
        )
    return result


def _audacity_row(name: str, url: str, number: int, row: list[str], taxonomy: Taxonomy | None) -> dict[str, Any]:
    start_s, end_s = _seconds(url, number, row, 0), _seconds(url, number, row, 1)
    label = _name(_cell(row, 2), taxonomy)
    return {"recording": _recording_of(name), "start_s": start_s, "end_s": end_s, "scientific_name": label}


def _name(label: str, taxonomy: Taxonomy | None) -> str | None:
    """The scientific name that a label means."""
    if taxonomy is not None:
        for part in (label, *label.split("_")):
            key = name_key(part)
            entry = taxonomy.by_code.get(part) or taxonomy.by_scientific.get(key) or taxonomy.by_common.get(key)
            if key and entry:
                return entry["scientific_name"]
    binomial, underscore, _ = label.partition("_")
    return (binomial if underscore and " " in binomial else label) or None


def _first(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Where the first of these columns is; headers are compared in lower case."""
    lower = [name.strip().lower() for name in header]
    return next((lower.index(name) for name in names if name in lower), None)


def _cell(row: list[str], index: int | None) -> str:
    return row[index].strip() if index is not None and index < len(row) else ""


def _seconds(url: str, number: int, row: list[str], index: int | None) -> float:
    text = _cell(row, index)
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise UserError(f"{url}, line {number}: a time should be a number of seconds (got {text!r})") from None


def _recording_of(name: str) -> str:
    return _TABLE_NAME.sub("", name)
