"""What of a unit is finished, kept piece by piece while the rest is at work, so that a killed process loses seconds.

A unit is an hour of sound, or a whole recording where that can be decoded from its start alone. Every `PIECE_S` the
spans that are finished meanwhile go to the ledger as a piece: the same files as a unit's, named by the unit and by what
is in it. The unit's own files take their place when all of it is done. An annotator that is given a unit which another
one died over takes that one's pieces over; the next start of a command knows their spans as finished.
"""

from __future__ import annotations

import bisect
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from inference.annotate.ledger import Ledger
from inference.archive.spans import Span, Unit
from inference.match import codes

PIECE_S = 2.0
ORDER = [(name, "ascending") for name in ("site", "date", "recording", "start_s", "rank")]

Filed = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class End:
    """The end of one span: how many windows it gave, or why it ended early.

    Attributes:
        path: the recording.
        windows: that were decoded.
        silent: of them, windows of digital silence.
        reason, detail: why it ended early; "" where it did not.
        span: which one; None where windows come from somewhere else than a recording.
        note: what to know of its sound.
    """

    path: str
    windows: int
    silent: int
    reason: str = ""
    detail: str = ""
    span: Span | None = None
    note: str = ""


class Journal:
    """Collects a unit's rows in the order of its windows.

    Args:
        ledger: of the run.
        unit: what is at work.
        versions: of its recordings, by path.
        hits_schema: of the rows of hits.
        filed: gives a table of embeddings the site and day that it is filed under.
        writer: a thread that writes while the encoder goes on.
        again: whether the unit was begun before, by the same command.

    Attributes:
        kept: what its sign codes keep, where there are such.
    """

    def __init__(
        self,
        ledger: Ledger,
        unit: Unit,
        versions: dict[str, str],
        hits_schema: pa.Schema,
        filed: Filed,
        writer: ThreadPoolExecutor,
        again: bool,
    ) -> None:
        self.kept = codes.NONE_KEPT
        self._ledger, self._unit, self._versions = ledger, unit, versions
        self._schema, self._filed, self._writer = hits_schema, filed, writer
        self._windows = 0
        self._ends: list[End] = []
        self._through: list[int] = []  # how many of the windows to embed come before the end of each span
        self._hits: list[list[dict[str, Any]]] = []  # of each embedded window
        self._heard: list[pa.Table] = []
        self._closed = 0  # spans that are in pieces
        self._writing: Future[str] | None = None
        self._at = time.monotonic()
        self._earlier: list[tuple[dict[str, Any], dict[str, pa.Table]]] = []
        self._taken: set[Span] = set()
        if again and unit.spans:
            self._take_over()

    @property
    def left(self) -> tuple[Span, ...]:
        """The unit's spans that no piece holds yet."""
        return tuple(span for span in self._unit.spans if span not in self._taken)

    def _take_over(self) -> None:
        """Takes the pieces over that an earlier start of the unit left; none that holds a span another one has."""
        for name, outcome in self._ledger.pieces(self._unit.name):
            spans = {Span(file["path"], *span) for file in outcome["files"] for span in file["spans"]}
            if not spans & self._taken and spans <= set(self._unit.spans):
                self._taken |= spans
                staged = {"hits": outcome["parts"], "embeddings": outcome["heard"]}
                tables = {kind: self._ledger.read_staged(kind, name) for kind, parts in staged.items() if parts}
                self._earlier.append((outcome, tables))

    def decoded(self) -> None:
        """A window was decoded, of the span whose end comes next."""
        self._windows += 1

    def ended(self, end: End) -> None:
        """A span is decoded."""
        self._ends.append(end)
        self._through.append(self._windows)

    def heard(self, embeddings: pa.Table) -> None:
        """The next windows were embedded, and their vectors are to be kept."""
        self._heard.append(embeddings)

    def matched(self, hits: list[list[dict[str, Any]]]) -> None:
        """The hits of the next windows. Now and then a piece is written."""
        self._hits += hits
        busy = self._writing is not None and not self._writing.done()
        if self._unit.spans and not busy and time.monotonic() - self._at >= PIECE_S:
            self._close_piece()

    def _close_piece(self) -> None:
        closed = bisect.bisect_right(self._through, len(self._hits))
        if closed == self._closed:
            return
        self._check()
        spans = [end.span for end in self._ends[self._closed : closed]]
        first = self._through[self._closed - 1] if self._closed else 0
        tables, outcome = self._result(self._closed, closed, first, self._through[closed - 1])
        if self._closed:
            outcome["codes"] = vars(codes.NONE_KEPT)  # they are in the first piece
        name = self._ledger.piece_name(self._unit.name, hashlib.sha256(repr(spans).encode()).hexdigest()[:8])
        self._writing = self._writer.submit(self._ledger.finish, name, tables, outcome)
        self._closed, self._at = closed, time.monotonic()

    def _check(self) -> None:
        """Raises what writing the last piece raised."""
        if self._writing is not None:
            self._writing.result()

    def finish(self) -> str:
        """Writes the unit's files in the place of its pieces'; returns its outcome as JSON."""
        self._check()
        tables, outcome = self._result(0, len(self._ends), 0, len(self._hits))
        for earlier, held in self._earlier:
            outcome["files"] += earlier["files"]
            outcome["codes"] = vars(codes.Kept(**outcome["codes"]) + codes.Kept(**earlier["codes"]))
            for kind, table in held.items():
                tables[kind] = pa.concat_tables([tables[kind], table]) if kind in tables else table
        if self._earlier:
            tables["hits"] = tables["hits"].sort_by(ORDER)
            outcome |= _parts(tables)
        # Its pieces are void now, and stay until the run ends: should this annotator have outlived its driver, the next
        # one may have taken them already.
        return self._ledger.finish(self._unit.name, tables, outcome)

    def _result(self, begin: int, end: int, first: int, last: int) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        """Tables and outcome of spans begin … end - 1, whose windows are first … last - 1."""
        files: dict[str, dict[str, Any]] = {}
        for one in self._ends[begin:end]:
            nothing = {"windows": 0, "silent": 0, "hits": 0, "reason": "", "detail": "", "note": ""}
            file = files.setdefault(
                one.path, {"path": one.path, "version": self._versions[one.path], "spans": []} | nothing
            )
            file["windows"] += one.windows
            file["silent"] += one.silent
            file["note"] = file["note"] or one.note
            if not file["reason"]:
                file["reason"], file["detail"] = one.reason, one.detail
            if one.span is not None:
                file["spans"].append((one.span.first, one.span.count))
        hits = [hit for some in self._hits[first:last] for hit in some]
        for hit in hits:
            files[hit["recording"]]["hits"] += 1
        tables = {"hits": pa.Table.from_pylist(hits, self._schema).sort_by(ORDER)}
        if self._heard:
            self._heard = [pa.concat_tables(self._heard)]
            tables["embeddings"] = self._filed(self._heard[0].slice(first, last - first))
        return tables, {"codes": vars(self.kept), "files": list(files.values())} | _parts(tables)


def _parts(tables: dict[str, pa.Table]) -> dict[str, list[tuple[str, str, int]]]:
    """(site, day, rows) of each partition of the hits, and of the embeddings."""
    found = {}
    for kind, name in (("hits", "parts"), ("embeddings", "heard")):
        counts: dict[tuple[str, str], int] = defaultdict(int)
        if kind in tables:
            counted = tables[kind].group_by(["site", "date"]).aggregate([([], "count_all")])
            counts |= {(row["site"], row["date"]): row["count_all"] for row in counted.to_pylist()}
        found[name] = [(site, date, rows) for (site, date), rows in counts.items()]
    return found
