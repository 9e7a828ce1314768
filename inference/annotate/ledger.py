"""What a run keeps about itself while it is unfinished, so that a stopped one goes on where it was.

    <out>/.state/<run_id>/
        begun                    hits that lie beside it are this run's
        inventory.parquet        headers that were read; inventory-….parquet while they are
        before.json, .parquet    run.json and recordings of the rounds before, while tables change
        hits/<unit>.parquet      rows of a finished unit, not yet published
        units/<unit>.json        the unit's outcome: it is finished when this file is there
        …/<unit>+<piece>.…       the same of spans that are finished while the rest of the unit is not: see `journal`
        tries/<command>/<unit>/… starts of a unit, and what it was at: see `Tries`

Each file is written whole or not at all, and the outcome last. What lies under a unit without an outcome is void.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from songsight.store import tables, urls
from songsight.store.retry import persistently

READING_THREADS = 16
_PIECE = "+"  # between the name of a unit and that of a piece of it
_TEXTS_PER_CHUNK = 500

FILES = pa.schema(
    [
        ("unit", pa.string()),
        ("path", pa.string()),
        ("version", pa.string()),
        ("windows", pa.int64()),
        ("silent", pa.int64()),
        ("hits", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("spans", pa.list_(pa.list_(pa.int64(), 2))),  # (first window, windows)
        ("note", pa.string()),
    ]
)
"""One row for each recording of a unit."""

PARTS = pa.schema([("unit", pa.string()), ("site", pa.string()), ("date", pa.string()), ("rows", pa.int64())])
"""One row for each partition that a unit has hits for, or embeddings."""

CODES = pa.schema(
    [("unit", pa.string())] + [(name, pa.int64()) for name in ("windows", "species", "images", "of_images")]
)
"""One row a unit: `codes.Kept` of its sign codes."""


@dataclass(frozen=True)
class Outcomes:
    """What became of finished units.

    Attributes:
        files: `FILES`.
        parts: `PARTS` of hits.
        heard: `PARTS` of embeddings.
        codes: `CODES`.
    """

    files: pa.Table
    parts: pa.Table
    heard: pa.Table
    codes: pa.Table

    def of(self, units: pa.Array) -> Outcomes:
        """Those of some units."""
        return Outcomes(*(table.filter(pc.is_in(table["unit"], units)) for table in vars(self).values()))

    def __add__(self, other: Outcomes) -> Outcomes:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Outcomes(*(pa.concat_tables(pair) for pair in pairs))


class Gathering:
    """Collects outcome texts as columns."""

    def __init__(self) -> None:
        self._texts: list[dict[str, Any]] = []
        self._done = Outcomes(*(schema.empty_table() for schema in (FILES, PARTS, PARTS, CODES)))

    def add(self, text: str) -> None:
        """Takes one unit's outcome."""
        self._texts.append(json.loads(text))
        if len(self._texts) == _TEXTS_PER_CHUNK:
            self._flush()

    def outcomes(self) -> Outcomes:
        """All that were added."""
        self._flush()
        return self._done

    def _flush(self) -> None:
        def parts(name: str) -> pa.Table:
            rows = [
                {"unit": text["unit"], "site": site, "date": date, "rows": rows}
                for text in self._texts
                for site, date, rows in text.get(name, ())
            ]
            return pa.Table.from_pylist(rows, PARTS)

        files = [{"unit": text["unit"]} | file for text in self._texts for file in text["files"]]
        codes = [{"unit": text["unit"]} | text["codes"] for text in self._texts if "codes" in text]
        self._done += Outcomes(
            pa.Table.from_pylist(files, FILES), parts("parts"), parts("heard"), pa.Table.from_pylist(codes, CODES)
        )
        self._texts.clear()


def gather(texts: Iterable[str]) -> Outcomes:
    """Outcome texts as columns."""
    gathering = Gathering()
    for text in texts:
        gathering.add(text)
    return gathering.outcomes()


@dataclass(frozen=True)
class Ledger:
    """The state of one run.

    Attributes:
        out: URL of the results.
        run_id: of the run.
    """

    out: str
    run_id: str

    @property
    def url(self) -> str:
        """The state's folder."""
        return urls.join(self.out, ".state", self.run_id)

    def begin(self) -> None:
        """Says, before the first hit, whose hits there will be."""
        persistently(lambda: urls.write_bytes(urls.join(self.url, "begun"), b""))

    def began(self) -> bool:
        """Whether the run is unfinished."""
        return persistently(lambda: urls.exists(urls.join(self.url, "begun")))

    def keep(self, name: str, table: pa.Table) -> None:
        """Writes a table of the run's own, such as `inventory`."""
        persistently(lambda: tables.write_table(urls.join(self.url, f"{name}.parquet"), table))

    def keep_part(self, name: str, table: pa.Table) -> None:
        """Writes a part of such a table that is not complete yet."""
        self.keep(f"{name}-{uuid.uuid4().hex}", table)

    def kept(self, name: str) -> pa.Table | None:
        """Reads such a table; None where there is none."""
        url = urls.join(self.url, f"{name}.parquet")
        if not persistently(lambda: urls.exists(url)):
            return None
        return persistently(lambda: read_parquet(url))

    def kept_parts(self, name: str) -> list[pa.Table]:
        """Reads such a table and the parts of one; rows may be in several."""
        fs, path = urls.filesystem(self.url)
        there = persistently(lambda: sorted(fs.ls(path, detail=False)) if fs.exists(path) else [])
        names = [one.rsplit("/", 1)[-1] for one in there]
        wanted = [one for one in names if one == f"{name}.parquet" or (one[: len(name) + 1] == f"{name}-")]
        return [persistently(lambda one=one: read_parquet(urls.join(self.url, one))) for one in wanted]  # type: ignore[misc]

    def finish(self, unit: str, staged: dict[str, pa.Table], outcome: dict[str, Any]) -> str:
        """Writes a unit's rows, table by table, then its outcome, whose text is returned."""
        for name, table in staged.items():
            if len(table):
                url = self.staged(name, unit)
                persistently(lambda url=url, table=table: tables.write_table(url, table))  # type: ignore[misc]
        text = json.dumps({"unit": unit} | outcome)
        persistently(lambda: urls.write_bytes(self._outcome(unit), text.encode()))
        return text

    def pieces(self, unit: str) -> list[tuple[str, dict[str, Any]]]:
        """Name and outcome of each piece of a unit that is there."""
        fs, path = urls.filesystem(urls.join(self.url, "units"))
        there = persistently(lambda: sorted(fs.ls(path, detail=False)) if fs.exists(path) else [])
        names = [one.rsplit("/", 1)[-1].removesuffix(".json") for one in there if one.endswith(".json")]
        return [
            (name, json.loads(persistently(lambda name=name: fs.cat_file(f"{path}/{name}.json"))))  # type: ignore[misc]
            for name in names
            if name.startswith(unit + _PIECE)
        ]

    @staticmethod
    def piece_name(unit: str, digest: str) -> str:
        """The name of a piece, which goes wherever a unit's does."""
        return f"{unit}{_PIECE}{digest}"

    def read_staged(self, name: str, unit: str) -> pa.Table:
        """A unit's rows of a table, not yet published."""
        return persistently(lambda: read_parquet(self.staged(name, unit)))

    def _outcome(self, unit: str) -> str:
        return urls.join(self.url, "units", f"{unit}.json")

    def staged(self, name: str, unit: str) -> str:
        """Where a unit's rows of a table lie until they are published."""
        return urls.join(self.url, name, f"{unit}.parquet")

    def finished(self) -> Outcomes:
        """What earlier starts of the run finished, in the order of the names; no pieces of units that are finished."""
        fs, path = urls.filesystem(urls.join(self.url, "units"))
        names = persistently(lambda: sorted(fs.ls(path, detail=False)) if fs.exists(path) else [])
        names = [name for name in names if name.endswith(".json")]
        whole = {name for name in names if _PIECE not in name.rsplit("/", 1)[-1]}
        names = [name for name in names if name in whole or f"{name.rpartition(_PIECE)[0]}.json" not in whole]
        with ThreadPoolExecutor(READING_THREADS) as pool:
            return gather(pool.map(lambda name: persistently(lambda: fs.cat_file(name)).decode(), names))

    def remove(self) -> None:
        """Deletes the state: the results are complete."""
        persistently(lambda: urls.remove(urls.join(self.out, ".state")))


class Tries:
    """Keeps a unit that ends its whole process, by a decoder's crash or by all the memory, from doing so for ever.

    A start of a unit is noted. Behind `BEFORE_CARE` starts without an outcome, each recording is noted before it is
    opened; one that `BEFORE_GIVING_UP` starts ended at is passed over from then on. Only starts by the same command
    count: where the whole command was killed, no recording is to blame.

    Args:
        ledger: of the run.
        unit: the unit's name.
        command: a name of the command's own.

    Attributes:
        again: whether there was a start before.
        careful: whether each recording is noted.
        hopeless: recordings to pass over.
    """

    BEFORE_CARE = 2
    BEFORE_GIVING_UP = 2

    def __init__(self, ledger: Ledger, unit: str, command: str) -> None:
        self._folder = urls.join(ledger.url, "tries", command, unit)
        fs, path = urls.filesystem(self._folder)
        starts = persistently(lambda: fs.ls(path, detail=False) if fs.exists(path) else [])
        self.again = bool(starts)
        self.careful = len(starts) >= self.BEFORE_CARE
        ends: dict[str, int] = {}
        for name in starts:
            if at := persistently(lambda name=name: fs.cat_file(name)).decode():  # type: ignore[misc]
                ends[at] = ends.get(at, 0) + 1
        self.hopeless = {at for at, count in ends.items() if count >= self.BEFORE_GIVING_UP}
        self._mine = urls.join(self._folder, uuid.uuid4().hex)
        self.at("")

    def at(self, path: str) -> None:
        """Notes which recording comes next; "" where none is at work any more."""
        persistently(lambda: urls.write_bytes(self._mine, path.encode()))

    def done(self) -> None:
        """Takes the note of this start back: the unit is finished, and may be done again where its outcome is lost."""
        persistently(lambda: urls.remove_file(self._mine))


def read_parquet(url: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file of our own, by range reads; all columns if none are given."""
    import pyarrow.parquet as pq

    with urls.open_read(url) as handle:
        return pq.ParquetFile(pa.PythonFile(handle)).read(columns)
