"""From staged rows of finished units to the tables that people read.

    <out>/hits/site=north/date=2024-05-14/part-0001-000.parquet
    <out>/recordings/<run_id>.parquet, <out>/quarantine/<run_id>.parquet
    <out>/run.json                                         written last: it says that all of it is complete

One file a site and day, or several where it would be large: a reader opens as few files as there are partitions, not
one a unit. When recordings are added later their hits come in further parts, numbered by the round; nothing that
lies there is touched, but for rows of recordings that have changed since. Every file is written whole or not at all,
and each step leaves the same when it is repeated, so that publishing can be killed and started again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from inference.annotate import accounting, record
from inference.annotate.ledger import Ledger, read_parquet
from inference.annotate.record import Record
from inference.archive import sites
from inference.match import embeddings
from songsight import pool
from songsight.store import lease, tables, urls
from songsight.store.retry import persistently

PART_ROWS = 500_000
"""Rows of a file, about: it is sorted, and written, in memory."""
LARGE_PART_ROWS = {"embeddings": 16 * embeddings.ROWS_PER_GROUP}
"""The same of tables whose rows are large: 100 MB of float16 at width 768."""
TASK_ROWS = 500_000
"""Partitions are put together in tasks of at least so many rows."""
ROW_GROUPS = {"embeddings": embeddings.ROWS_PER_GROUP}

ORDER = [("recording", "ascending"), ("start_s", "ascending"), ("rank", "ascending")]

Group = tuple[list[tuple[str, str]], list[list[str]]]


def earlier(ledger: Ledger) -> tuple[Record | None, pa.Table]:
    """What an earlier run completed: its `run.json`, None where none ever ended, and its `tables.RECORDINGS_SEEN`.

    While tables change `run.json` is away and the ledger keeps both as they were.
    """
    if found := record.read(ledger.out):
        return found, persistently(lambda: read_parquet(recordings_url(ledger)))
    found = record.read_file(urls.join(ledger.url, "before.json"), "--out")
    recordings = ledger.kept("before")
    if found is None or recordings is None:
        return None, tables.RECORDINGS_SEEN.empty_table()
    return found, recordings


def withdraw(ledger: Ledger) -> None:
    """Takes `run.json` away while tables change; see `earlier`."""
    url = record.url_of(ledger.out)
    if found := record.read(ledger.out):
        ledger.keep("before", persistently(lambda: read_parquet(recordings_url(ledger))))
        text = found.as_bytes()
        persistently(lambda: urls.write_bytes(urls.join(ledger.url, "before.json"), text))
        persistently(lambda: urls.remove_file(url))


def recordings_url(ledger: Ledger) -> str:
    """Where the table of recordings lies."""
    return urls.join(ledger.out, "recordings", f"{ledger.run_id}.parquet")


def publish(
    ledger: Ledger,
    recordings: pa.Table,
    parts: pa.Table,
    round_number: int,
    replaced: pa.Array,
    say: Callable[[int], None],
    heard: pa.Table | None = None,
) -> None:
    """Writes all tables but `run.json`.

    Args:
        ledger: of the run.
        recordings: `tables.RECORDINGS_SEEN` of all rounds.
        parts, round_number, replaced, say: see `publish_hits`.
        heard: `ledger.PARTS` of the embeddings, where the run keeps them.
    """
    lease.check()
    withdraw(ledger)
    publish_hits(ledger, "hits", parts, round_number, replaced, say)
    if next(_parts(urls.join(ledger.out, "hits")), None) is None:
        write_empty(ledger.out, "hits", tables.HITS)
    if heard is not None:
        publish_hits(ledger, "embeddings", heard, round_number, replaced, say)
    lease.check()
    quarantine_url = urls.join(ledger.out, "quarantine", f"{ledger.run_id}.parquet")
    persistently(lambda: tables.write_table(quarantine_url, accounting.quarantine(recordings)))
    persistently(lambda: tables.write_table(recordings_url(ledger), recordings))


def publish_hits(
    ledger: Ledger, name: str, parts: pa.Table, round_number: int, replaced: pa.Array, say: Callable[[int], None]
) -> int:
    """Files the staged rows of finished units by site and date.

    Args:
        ledger: of the run.
        name: of the table, such as `hits`; staged tables have a column `date` besides the published ones.
        parts: `ledger.PARTS` of the units that hold.
        round_number: 1 for a first run, one more each time that recordings were added; part of the files' names.
        replaced: recordings whose rows of earlier rounds are void.
        say: called with the rows filed so far.

    Returns:
        How many files were written.
    """
    root = urls.join(ledger.out, name)
    _clear(root, round_number)
    groups = list(_groups(parts))
    written = rows = 0
    for files, count in _each(ledger, name, groups, round_number):
        written, rows = written + files, rows + count
        say(rows)
        lease.check()
    if len(replaced):
        _drop(root, round_number, replaced, ROW_GROUPS.get(name))
    return written


def _groups(parts: pa.Table) -> Iterator[Group]:
    """Partitions, by site and date, in groups of some size, each with the units that have rows for it."""
    keys: list[tuple[str, str]] = []
    units: list[list[str]] = []
    size = 0
    ordered = parts.sort_by([("site", "ascending"), ("date", "ascending"), ("unit", "ascending")])
    for batch in ordered.to_batches():
        for row in batch.to_pylist():
            key = (row["site"], row["date"])
            if not keys or keys[-1] != key:
                if size >= TASK_ROWS:
                    yield keys, units
                    keys, units, size = [], [], 0
                keys.append(key)
                units.append([])
            units[-1].append(row["unit"])
            size += row["rows"]
    if keys:
        yield keys, units


def _each(ledger: Ledger, name: str, groups: list[Group], round_number: int) -> Iterator[tuple[int, int]]:
    """Puts each group together: here if it is the only one, else by Ray tasks."""
    if len(groups) <= 1:
        for group in groups:
            yield _put_together(ledger, name, group, round_number)
        return
    yield from pool.tasks(lambda group: _put_together(ledger, name, group, round_number), groups)


def _put_together(ledger: Ledger, name: str, group: Group, round_number: int) -> tuple[int, int]:
    """Writes the partitions of a group; returns how many files and rows."""
    files = rows = 0
    most = LARGE_PART_ROWS.get(name, PART_ROWS)
    held: dict[str, pa.Table] = {}
    for (site, date), units in zip(*group, strict=True):
        held = {unit: held[unit] for unit in units if unit in held}  # the next day often begins in the same unit
        folder = urls.join(ledger.out, name, sites.partition(site, date))
        pending: list[pa.Table] = []
        number = 0
        for at, unit in enumerate(units, 1):
            if unit not in held:
                held[unit] = ledger.read_staged(name, unit)
            table = held[unit]
            mine = pc.and_(pc.equal(table["site"], site), pc.equal(table["date"], date))
            pending.append(table.filter(mine))
            if at < len(units):
                del held[unit]
            if at == len(units) or sum(map(len, pending)) >= most:
                part = pa.concat_tables(pending)
                part = part.sort_by([key for key in ORDER if key[0] in part.column_names])
                part = part.drop_columns(["site", "date"])
                url = urls.join(folder, f"part-{round_number:04}-{number:03}.parquet")
                persistently(lambda url=url, part=part: tables.write_table(url, part, ROW_GROUPS.get(name)))  # type: ignore[misc]
                files, rows, number, pending = files + 1, rows + len(part), number + 1, []
    return files, rows


def _parts(root: str) -> Iterator[tuple[str, int]]:
    """URL and round of every file of a table."""
    fs, path = urls.filesystem(root)
    found = persistently(lambda: fs.find(path) if fs.exists(path) else [])
    for file in found:
        if named := re.search(r"/part-(\d{4,})-\d+\.parquet$", file):
            yield urls.join(root, file[len(path.rstrip("/")) + 1 :]), int(named[1])


def _clear(root: str, round_number: int) -> None:
    """Removes what a killed publishing of this round left, and the table without rows of an archive without a hit."""
    for url, number in _parts(root):
        if number >= round_number or not number:
            persistently(lambda url=url: urls.remove_file(url))  # type: ignore[misc]


def _drop(root: str, round_number: int, recordings: pa.Array, row_group_size: int | None) -> None:
    """Takes recordings' rows out of the parts of earlier rounds."""
    for url, number in _parts(root):
        if number >= round_number:
            continue
        held = persistently(lambda url=url: read_parquet(url, ["recording"]))  # type: ignore[misc]
        if not pc.any(pc.is_in(held["recording"], recordings)).as_py():
            continue
        table = persistently(lambda url=url: read_parquet(url))  # type: ignore[misc]
        kept = table.filter(pc.invert(pc.is_in(table["recording"], recordings)))
        if not len(kept):
            persistently(lambda url=url: urls.remove_file(url))  # type: ignore[misc]
        elif len(kept) < len(table):
            persistently(lambda url=url, kept=kept: tables.write_table(url, kept, row_group_size))  # type: ignore[misc]


def write_empty(out: str, name: str, schema: pa.Schema) -> None:
    """A table without rows, for an archive without a hit: readers find its columns."""
    columns = pa.schema([field for field in schema if field.name not in ("site", "date")])
    folder = urls.join(out, name, sites.partition(sites.UNKNOWN, sites.UNKNOWN))
    persistently(lambda: tables.write_table(urls.join(folder, "part-0000-000.parquet"), columns.empty_table()))


def read_hits(out: str, columns: list[str] | None = None, name: str = "hits") -> pa.Table:
    """A published table, with `site` and `date` as text whatever they look like, `site` in its usual place.

    Args:
        out: URL of the results.
        columns: to read; all if not given.
        name: of the table.
    """
    import pyarrow.dataset as ds

    filesystem, root = urls.arrow_filesystem(urls.join(out, name))
    keys = pa.schema([("site", pa.string()), ("date", pa.string())])
    found = ds.dataset(root, filesystem=filesystem, format="parquet", partitioning=ds.partitioning(keys, flavor="hive"))
    if columns is None and name == "hits":
        first = [field for field in tables.HITS.names if field in found.schema.names]
        columns = [*first, *(field for field in found.schema.names if field not in first)]
    return found.to_table(columns)
