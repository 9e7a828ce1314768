"""What people heard in recordings: Raven selection tables, Audacity labels, BirdNET's and plain tables, as one table.

    Raven      tab-separated, a row a selection: Begin Time (s), End Time (s) or Delta Time (s), often Begin File or
               Begin Path, File Offset (s), and columns of the annotator's own, one of which names the species (Raven
               Pro 1.6 User's Manual, chapter 6). A selection that two views show is there twice, under one number.
               Columns can be hidden, tables joined, headers written anew by R (Begin.Time..s.).
    Audacity   start⇥end⇥label without a header; a line that begins with a backslash holds the label's frequencies
    BirdNET    CSV with Start (s), End (s), Scientific name, Common name, Confidence, File
    plain      CSV, TSV or Parquet with recording, start_s, end_s, scientific_name

The form is known by the header, not by the file's ending.
"""

from __future__ import annotations

import math
import posixpath
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from songsight.datasets import files
from songsight.datasets.taxonomy import Taxonomy, name_key
from songsight.errors import UserError
from songsight.store import sheets

ANNOTATIONS = pa.schema(
    [
        pa.field("recording", pa.string()),
        pa.field("start_s", pa.float64()),  # null: nothing was found in the recording, see `read`
        pa.field("end_s", pa.float64()),
        pa.field("scientific_name", pa.string()),  # null: heard, but not named
    ]
)

# As `_key` has them.
_START = ("begin time s", "start s", "start time", "start time s", "start")
_END = ("end time s", "end s", "end time", "end")
_LENGTH, _OFFSET, _SELECTION = ("delta time s",), ("file offset s",), ("selection", "selec")
_VIEW, _CHANNEL = ("view",), ("channel",)
_RAVENS = {_START[0], _SELECTION[0]}
_RECORDING = (
    *("begin path", "begin file", "recording", "file", "filepath", "file path", "path", "sound files", "sound file"),
    *("audio file", "filename", "file name", "audio filename", "recording id"),
)
_NAMES = ("scientific name", "species", "species code", "ebird code", "species ebird code", "common name")
_LABELS = ("annotation", "label")
_BLANK = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
_TABLES = r"(?i)\.(txt|tsv|tab|csv|dat|selections|parquet|pq|xls[xmb]?|ods|numbers)(\.(gz|zip|bz2|xz|zst))?$"
_TABLE_NAME = re.compile(
    r"(\.Table\.\d+)?(\.BirdNET)?(\.selections?)?(\.table)?(\.results)?\.(txt|tsv|tab|csv|dat|selections)(\.gz)?$", re.I
)
_AUDACITY = re.compile(r"\s*\d+([.,]\d+)?\t\s*\d+([.,]\d+)?(\t.*)?$")
_WANTED = (
    "wanted Raven selection tables (with Begin Time (s) and End Time (s)), Audacity labels, BirdNET's CSV, or a table "
    "with recording, start_s, end_s, scientific_name"
)


_Places = dict[tuple[str, ...], int | None]


@dataclass(frozen=True)
class _Sheet:
    """A file's cells below one header.

    Attributes:
        name: the file, below its folder.
        url: the file, for error lines.
        header: the columns as `_key` has them; those of Audacity, which writes none, by their place.
        rows: each with its line number.
        told: its columns and how it was read, for error lines.
    """

    name: str
    url: str
    header: list[str]
    rows: list[sheets.Row]
    told: str

    def at(self, names: Sequence[str]) -> int | None:
        """Where the first of these columns is.

        Raises:
            UserError: it is there twice, and says different things.
        """
        name = next((name for name in names if name in self.header), None)
        if name is None:
            return None
        first, *others = [number for number, each in enumerate(self.header) if each == name]
        for other in others:
            if any(_cell(row, first) != _cell(row, other) for _, row in self.rows):
                raise UserError(f"{self.url} has column {name!r} twice {self.told}")
        return first


def read(
    path: str, species_column: str | None = None, taxonomy: Taxonomy | None = None, with_empty: bool = False
) -> tuple[pa.Table, list[str]]:
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
        (`ANNOTATIONS`, sorted by recording and start; why each other file of the folder is not used). `recording` is
        what the table says (`Begin Path`, else `Begin File`, with forward slashes), or else the table's own path below
        `path` without its endings (`a/x.Table.1.selections.txt` is of `a/x`): `matched` joins that to an archive's
        paths. Times count from the recording's beginning.

    Raises:
        UserError: nothing is there; no file can be used, because it has none of the forms, a column is missing, a time
            is no number, or it is of several files and lacks `File Offset (s)`: Raven's times then count from the first
            file's beginning.
    """
    folder = files.Folder(path)
    rows: list[dict[str, Any]] = []
    unused: list[str] = []
    names = folder.tables(_TABLES)
    for name in names:
        try:
            found = _of_file(folder.open(name), name, species_column, taxonomy)
        except UserError as error:
            unused.append(str(error))
            continue
        rows += found or ([{"recording": _recording_of(name)}] if with_empty else [])
    if len(unused) == len(names):
        if folder.table:
            raise UserError(unused[0])
        raise UserError(f"{path}: no annotations are there; {_WANTED}" + (f" (such as {unused[0]})" if unused else ""))
    table = pa.Table.from_pylist(rows, ANNOTATIONS)
    return table.sort_by([("recording", "ascending"), ("start_s", "ascending"), ("end_s", "ascending")]), unused


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


def _of_file(url: str, name: str, species_column: str | None, taxonomy: Taxonomy | None) -> list[dict[str, Any]]:
    """The calls of one file.

    Raises:
        UserError: it has none of the forms, or cannot be used.
    """
    parts = _sheets(url, name, _key(species_column or _LABELS[-1]))
    if len(parts) > 1 and any(part.rows and part.at(_RECORDING) is None for part in parts):
        raise UserError(
            f"{url} is {len(parts)} tables joined, without a column that says what recording each is of: Begin Path or "
            "Begin File"
        )
    return [row for part in parts for row in _calls(part, species_column, taxonomy)]


def _sheets(url: str, name: str, label: str) -> list[_Sheet]:
    """The file's tables: one, or several where such were joined with their headers.

    Audacity's one column for labels has no name: it is called `label`, whatever other tables call theirs.
    """
    if name.lower().endswith((".parquet", ".pq")):
        table = files.read_rows(url)
        lines = [["" if value is None else str(value) for value in row.values()] for row in table.to_pylist()]
        found = [(1, table.column_names), *enumerate(lines, 2)]
        told = how = ""
    else:
        text, encoding = sheets.decoded(sheets.contents(url), url)
        if _is_audacity(text):
            labels = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
            cells = [(number, line.split("\t")) for number, line in labels if not line.startswith("\\")]
            return [_Sheet(name, url, ["start s", "end s", label], cells, "")]
        found, how = sheets.rows(text, url)
        told = f", read as {encoding}, {how}"
    parts: list[_Sheet] = []
    for number, row in found:
        if not parts or _is_header(row):
            columns = textwrap.shorten(", ".join(filter(None, row)), 300, placeholder=" …")
            parts.append(_Sheet(name, url, [_key(cell) for cell in row], [], f"(it has {columns}){told}"))
        else:
            width = len(parts[-1].header)
            parts[-1].rows.append((number, sheets.fitted((number, row), width, url, how)))
    return parts


def _is_header(row: list[str]) -> bool:
    header = {_key(cell) for cell in row if cell[:1].isalpha()}
    return not header.isdisjoint((*_START, *_OFFSET)) and not header.isdisjoint((*_END, *_LENGTH))


def _is_audacity(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and all(line.startswith("\\") or _AUDACITY.match(line) for line in lines)


def _calls(sheet: _Sheet, species_column: str | None, taxonomy: Taxonomy | None) -> list[dict[str, Any]]:
    """A table's rows, those of one selection in several views once."""
    places = (_START, _END, _LENGTH, _OFFSET, _RECORDING, _SELECTION, _VIEW, _CHANNEL)
    at: _Places = {names: sheet.at(names) for names in places}
    begin = at[_START] if at[_OFFSET] is None else at[_OFFSET]
    if begin is None or (at[_LENGTH] is None and (at[_START] is None or at[_END] is None)):
        raise UserError(
            f"{sheet.url} has no columns that say when a call begins and ends, such as Begin Time (s) and End Time (s) "
            f"{sheet.told}"
        )
    at_species = _species(sheet, species_column)
    calls: list[dict[str, Any]] = []
    alike: dict[tuple[Any, ...], list[tuple[set[str], dict[str, Any]]]] = defaultdict(list)
    numbers: dict[str, set[str]] = defaultdict(set)
    loose: set[str] = set()
    for number, row in sheet.rows:
        start_s, end_s = _span(sheet.url, number, row, at)
        recording = _cell(row, at[_RECORDING]).replace("\\", "/") or _recording_of(sheet.name)
        name = _name(next(filter(None, (_cell(row, column) for column in at_species)), ""), taxonomy)
        selection = _cell(row, at[_SELECTION])
        if not _cell(row, at[_OFFSET]):
            loose.add(recording)
        numbers[recording].add(selection)
        view = _cell(row, at[_VIEW]) and f"{_cell(row, at[_VIEW])} of {_cell(row, at[_CHANNEL])}"
        call = {"recording": recording, "start_s": start_s, "end_s": end_s, "scientific_name": name}
        same = alike[recording, selection or ("" if view else f"line {number}"), start_s, end_s]
        if not _is_seen(call, view, same):
            same.append(({view}, call))
            calls.append(call)
    # Raven counts through all files of a table; in one that was joined of a table a file, each has a selection 1.
    if loose and len(numbers) > 1 and _START[0] in sheet.header and not all("1" in numbers[each] for each in loose):
        raise UserError(
            f"{sheet.url} is of {len(numbers)} files and has no column 'File Offset (s)': its times count from the "
            "beginning of the first file; let Raven add that measurement"
        )
    return calls


def _is_seen(call: dict[str, Any], view: str, same: list[tuple[set[str], dict[str, Any]]]) -> bool:
    """Whether a row is one of these in another view, which it is added to, as is its name where that had none.

    What has the number and the time of another is another call if the view is the same, or the name is not: tables may
    have been joined. Of rows whose view is hidden those that say the same are one.
    """
    for views, other in same:
        names = {call["scientific_name"], other["scientific_name"]} - {None}
        if len(names) <= 1 and (not view or view not in views):
            views.add(view)
            other["scientific_name"] = next(iter(names), None)
            return True
    return False


def _species(sheet: _Sheet, species_column: str | None) -> list[int]:
    """The columns that name the species, of which the first with something in it counts."""
    asked = [(_key(species_column),)] if species_column else [(name,) for name in _NAMES]
    found = [at for names in asked if (at := sheet.at(names)) is not None]
    if not found and not species_column and (at := sheet.at(_LABELS)) is not None:
        found = [at]
    if not found and (sheet.rows or not _RAVENS & {*sheet.header}):
        wanted = f"column {species_column!r}" if species_column else "column that names the species, such as Species"
        raise UserError(f"{sheet.url} has no {wanted} {sheet.told}")
    return found


def _span(url: str, number: int, row: list[str], at: _Places) -> tuple[float, float]:
    """Beginning and end of a row's call, seconds from the recording's beginning."""
    has_end = bool(_cell(row, at[_START]) and _cell(row, at[_END]))
    start_s = _seconds(url, number, row, at[_START if _cell(row, at[_START]) else _OFFSET])
    end_s = _seconds(url, number, row, at[_END]) if has_end else start_s + _seconds(url, number, row, at[_LENGTH])
    if end_s < start_s:
        raise UserError(f"{url}, line {number}: ends at {end_s:g} s, before it starts at {start_s:g} s")
    if _cell(row, at[_OFFSET]):
        start_s, end_s = (offset := _seconds(url, number, row, at[_OFFSET])), offset + end_s - start_s
    return start_s, end_s


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


def _key(name: str) -> str:
    """A column's name in words: `Begin Time (s)`, `Begin.Time..s.` and `begin_time_s` are one."""
    return re.sub(r"[\W_]+", " ", name.lower()).strip()


def _cell(row: list[str], index: int | None) -> str:
    text = row[index].strip() if index is not None and index < len(row) else ""
    return "" if text in _BLANK else text


def _seconds(url: str, number: int, row: list[str], index: int | None) -> float:
    text = _cell(row, index)
    try:
        seconds = float(text.replace(",", "."))
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise UserError(f"{url}, line {number}: a time should be a number of seconds (got {text!r})")
    return seconds


def _recording_of(name: str) -> str:
    return _TABLE_NAME.sub("", name)
