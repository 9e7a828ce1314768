"""Turns a data set into the recordings or images table.

    songsight manifest --source folder --root sounds --out recordings.parquet --taxonomy ebird.csv
    songsight manifest --source csv --root birds.csv --columns scientific_name=species --out recordings.parquet
    songsight manifest --source inatsounds --root s3://my-bucket/inatsounds --out s3://my-bucket/recordings.parquet
    songsight manifest --source ssw60 --root ssw60 --table images --out images.parquet
    songsight manifest --source inat-photos --root s3://inaturalist-open-data \\
        --species-list recordings.parquet --licenses CC0 CC-BY --out images.parquet

Rows whose file does not exist, or that name none, are left out, counted, and listed beside the table in
`recordings.missing.csv`. Web addresses are not asked for; their number is printed. Names that the taxonomy lacks are
listed in `recordings.unknown.csv`.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.shared.options import flag, note, require_positive
from songsight.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from songsight.datasets.files import Folder


@dataclass(frozen=True)
class Options:
    """The options of `songsight manifest`. Lists are written with spaces or commas between their items."""

    source: Literal["folder", "csv", "inatsounds", "ssw60", "xeno-canto", "animalspeak", "birdset", "inat-photos"]
    """The data set's layout. `folder` is a folder a species, `csv` any table with a row a file."""
    root: str
    """The data set's folder, or its table; a path or any URL that fsspec knows."""
    out: str
    """The Parquet file to write."""
    table: Literal["recordings", "images"] | None = None
    """Which table to make, where the data set has both; recordings unless it has only images."""
    parts: tuple[str, ...] = ()
    """The data set's own parts to take, such as `test_5s` of birdset or `video_ml` of ssw60."""
    columns: tuple[str, ...] = ()
    """For csv: songsight's column and the table's, as in `scientific_name=species path=file`."""
    taxonomy: str | None = None
    """A CSV or Parquet table with scientific_name and ranks, common names or eBird codes, to fill in what rows lack."""
    split: tuple[str, ...] = ()
    """The split of rows that have none: one name, or shares drawn by file, as in `train=0.8 val=0.1 test=0.1`."""
    channel: str | None = None
    """The channel that is heard of recordings whose row names none: mean, left, right, loudest, or a number from 1."""
    species_list: str | None = None
    """For inat-photos: the species, as a table with scientific_name (a recordings table, say) or a name a line."""
    licenses: tuple[str, ...] = ()
    """For inat-photos: the licenses to take, such as `CC0 CC-BY`; any unless given."""
    quality_grade: Literal["research", "needs_id", "casual", "any"] = "research"
    """For inat-photos: how far the identification is agreed on."""
    per_species: int = 20
    """For inat-photos: the most photographs a species gets."""


@dataclass(frozen=True)
class _Manifest:
    """The table that is made, and what is not in it.

    Attributes:
        kind: recordings or images.
        table: to be written.
        missing: the rows whose file is not there, or that name none.
        unknown: how many rows have a name that the taxonomy lacks, by name.
        notes: what the user should know of how the rows were read: a line each.
    """

    kind: str
    table: pa.Table
    missing: pa.Table
    unknown: dict[str, int]
    notes: Sequence[str]


def main(options: Options) -> None:
    """Reads the data set, leaves out and lists what is missing, and writes the table.

    Raises:
        UserError: bad options, a data set that is not laid out as its source says, or nothing to write.
    """
    from songsight.audio import channels
    from songsight.datasets import SOURCES, assemble, files, taxonomy
    from songsight.store import tables, urls

    urls.require_writable_file(options.out, "--out")
    source = SOURCES[options.source]
    kind = options.table or source.tables[0]
    _check(options, source.asks, source.tables)
    require_positive(per_species=options.per_species)
    channel = channels.parse(options.channel, "--channel") if options.channel else None
    shares = _shares(_items(options.split))
    species = _species(options.species_list) if options.species_list else []
    taxa = taxonomy.read(options.taxonomy) if options.taxonomy else None
    folder = files.Folder(options.root)

    given = {
        "table": kind,
        "parts": _items(options.parts),
        "columns": _pairs("--columns", options.columns),
        "taxonomy": taxa,
        "species_list": species,
        "licenses": _items(options.licenses),
        "quality_grade": options.quality_grade,
        "per_species": options.per_species,
    }
    if not source.lists_files:
        note(f"streaming {options.root}: the whole of it, which from the bucket takes a while")
    table = source.read(folder, **{name: given[name] for name in source.asks})
    missing = table.slice(0, 0)
    if source.lists_files:
        table, missing = _present(table, folder)
    # Behind the missing ones: rows that name no file may have nothing to tell their ids apart by.
    tables.check_ids(table, f"{kind[:-1]}_id")
    table, unknown = taxonomy.fill(table, taxa)
    table = assemble.plain_splits(table)
    if kind == "recordings":
        table = assemble.with_channel(table, channel, options.root)
    if shares:
        table = assemble.with_split(table, shares, folder)
    table = assemble.relative(table, options.out)
    table = tables.conform(table, tables.RECORDINGS if kind == "recordings" else tables.IMAGES)
    notes = [*_passed_over(folder), *(source.notes(folder, table, taxa) if source.notes else ())]

    made = _Manifest(kind, table, missing, unknown, notes)
    _write(made, options.out)
    _report(made, options.out, species, options.taxonomy)


def _present(table: pa.Table, folder: Folder) -> tuple[pa.Table, pa.Table]:
    """The rows whose file is there, and the others.

    Raises:
        UserError: none is there.
    """
    from songsight.datasets import assemble

    present, missing = assemble.present(table, folder)
    if len(present) == 0:
        first = missing["path"][0].as_py() or "a row without a path"
        raise UserError(f"{folder.root}: none of its {len(missing):,} files is there (the first: {first})")
    return present, missing


def _passed_over(folder: Folder) -> list[str]:
    """What of the folder no row may name."""
    files, closed = folder.passed_over.files, folder.passed_over.closed
    said = [f"skipped: {files:,} files that are hidden or no regular files"] if files else []
    return said + ([f"{len(closed)} folders may not be looked into, such as {closed[0]}"] if closed else [])


def _beside(out: str, name: str) -> str:
    """The list with a name beside the table."""
    return f"{out.removesuffix('.parquet')}.{name}.csv"


def _write(made: _Manifest, out: str) -> None:
    """Writes the table and its lists. The lists first: were one to fail, no table would seem complete."""
    import pyarrow as pa

    from songsight.store import tables

    shown = ("row", f"{made.kind[:-1]}_id", "path", "scientific_name", "source")
    missing = made.missing.select([name for name in shown if name in made.missing.column_names])
    _write_list(_beside(out, "missing"), missing)
    unknown = {"name": list(made.unknown), "rows": list(made.unknown.values())}
    _write_list(_beside(out, "unknown"), pa.table(unknown))
    tables.write_table(out, made.table)


def _report(made: _Manifest, out: str, species: list[str], taxonomy: str | None) -> None:
    """Prints what was made, and what the user may miss in it.

    Args:
        made: as it was written.
        out: where.
        species: that were asked for.
        taxonomy: what `--taxonomy` names.
    """
    from songsight.datasets import assemble, files
    from songsight.store import tables

    table, missing = made.table, made.missing
    names = [name for name in table["scientific_name"].to_pylist() if name]
    print(f"{made.kind}: {len(table):,} rows of {len(set(names)):,} species")
    print(f"splits: {_counts(splits := table['split'].to_pylist())}")
    print(f"missing files: {len(missing):,}" + (f", listed in {_beside(out, 'missing')}" if len(missing) else ""))
    if pathless := missing["path"].null_count:
        print(f"of these without a path: {pathless:,}")
    if on_the_web := assemble.unchecked(table):
        print(f"web addresses, not checked: {on_the_web:,}")
    if others := [split for split in splits if split and split not in files.SPLITS.values()]:
        print(f"splits that no job takes: {_counts(others)} (distill takes train and val, evaluate train and test)")
    if len(names) < len(table):
        print(f"rows without a scientific name: {len(table) - len(names):,}{_advice(table, taxonomy)}")
    for line in made.notes:
        print(line)
    if made.unknown:
        print(f"not in the taxonomy: {_some(list(made.unknown))}, listed in {_beside(out, 'unknown')}")
    if absent := sorted(set(species) - set(names)):
        print(f"without a photograph: {_some(absent)}")
    schema = tables.RECORDINGS if made.kind == "recordings" else tables.IMAGES
    if blank := [name for name in schema.names if table[name].null_count == len(table)]:
        print(f"columns without values: {', '.join(blank)}")
    print(f"fingerprint: sha256:{tables.fingerprint(table)}")
    print(f"written: {out}")


def _check(options: Options, asks: tuple[str, ...], offered: tuple[str, ...]) -> None:
    """Refuses options that the source would not heed."""
    if not options.out.endswith(".parquet"):
        raise UserError(f"--out should end in .parquet (got {options.out})")
    if options.table and options.table not in offered:
        raise UserError(f"--source {options.source} has no {options.table}, only {' and '.join(offered)}")
    if options.channel and (options.table or offered[0]) == "images":
        raise UserError("--channel is for tables of recordings, not of images")
    for name in ("parts", "columns", "species_list", "licenses", "quality_grade", "per_species"):
        if name not in asks and getattr(options, name) != getattr(Options, name):
            raise UserError(f"{flag(name)} is not for --source {options.source}")


def _items(words: tuple[str, ...]) -> list[str]:
    return [item for word in words for item in word.split(",") if item]


def _pairs(name: str, words: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in _items(words):
        left, equals, right = item.partition("=")
        if not (left and equals and right):
            example = "train=0.8 test=0.2" if name == "--split" else "scientific_name=species"
            raise UserError(f"{name} should be pairs such as {example} (got {item!r})")
        if left in pairs:
            raise UserError(f"{name} has {left} twice: {left}={pairs[left]} and {item}")
        pairs[left] = right
    return pairs


def _shares(items: list[str]) -> dict[str, float]:
    """`["train"]` → all of it; `["train=0.8", "test=0.2"]` → as they say."""
    from songsight.datasets import files

    if len(items) == 1 and "=" not in items[0]:
        return {files.plain_split(items[0]) or items[0]: 1.0}
    shares: dict[str, float] = {}
    for name, share in _pairs("--split", tuple(items)).items():
        try:
            number = float(share)
        except ValueError:
            raise UserError(f"--split: the share of {name} should be a number (got {share!r})") from None
        if not 0 < number < float("inf"):
            raise UserError(f"--split: the share of {name} should be greater than 0 (got {share})")
        shares[files.plain_split(name) or name] = number
    return shares


def _species(url: str) -> list[str]:
    """The scientific names of a table, or of a text file with a name a line."""
    from songsight.datasets import files
    from songsight.store import sheets

    folder = files.Folder(url)
    if folder.table is None:
        raise UserError(f"--species-list should be a file (got the folder {url})")
    is_list = url.lower().endswith(".txt")
    found = sheets.names(url) if is_list else files.read_rows(url, ["scientific_name"])["scientific_name"].to_pylist()
    names = sorted({name for name in found if name})
    if not names:
        raise UserError(f"--species-list: {url} names no species")
    return names


def _write_list(url: str, rows: pa.Table) -> None:
    """Writes a list beside the table; where there is nothing to list, removes an earlier run's."""
    import pyarrow.csv

    from songsight.store import urls

    if len(rows):
        sink = io.BytesIO()
        pyarrow.csv.write_csv(rows, sink)
        urls.write_bytes(url, sink.getvalue())
    elif urls.exists(url):
        urls.remove_file(url)


def _counts(values: list[str | None]) -> str:
    counts = Counter(value or "none" for value in values)
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def _advice(table: pa.Table, taxonomy: str | None) -> str:
    """What may give a name to the rows that have none."""
    import pyarrow.compute as pc

    nameless = table.filter(pc.is_null(table["scientific_name"]))
    if nameless["common_name"].null_count < len(nameless):
        return "" if taxonomy else "; a --taxonomy with common names may know them"
    if "captions" in table.column_names and pc.any(pc.greater(pc.list_value_length(nameless["captions"]), 0)).as_py():
        return "; their captions may say it, but distill reads the column alone"
    return ""


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names):,} species ({shown}{', …' if len(names) > 3 else ''})"


if __name__ == "__main__":
    from jobs.cli import command

    command("manifest")
