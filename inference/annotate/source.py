"""An earlier run that kept its embeddings, which `songsight annotate --from-embeddings` matches again.

Nothing heavy is imported, so that a run that has nothing to do can say so at once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from inference.annotate import record
from inference.annotate.record import Record
from songsight.errors import UserError
from songsight.store import urls

_NEEDED = ("round", "window_s", "hop_s", "hours", "archive", "encoder", "fingerprints")


@dataclass(frozen=True)
class Source:
    """An earlier run that kept its embeddings.

    Attributes:
        url: of its results.
        record: its `run.json`.
    """

    url: str
    record: Record

    @property
    def encoder(self) -> dict[str, Any]:
        """What the record says of the model: `model`, `width`, `method`, `teacher_fingerprint`, `temperature`."""
        return self.record.encoder

    def mark(self) -> str:
        """A hash of the record, another one each time that the run's tables have changed."""
        return hashlib.sha256(json.dumps(self.record.as_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def table(self, name: str) -> pa.Table:
        """One of its tables, such as `recordings`."""
        import pyarrow.dataset as ds

        filesystem, root = urls.arrow_filesystem(self.url)
        return ds.dataset(f"{root}/{name}", filesystem=filesystem, format="parquet").to_table()


def read(url: str, option: str = "--from-embeddings") -> Source:
    """Reads what an earlier run says of itself.

    Raises:
        UserError: there is no finished run at the URL, or it kept no embeddings.
    """
    found = record.finished(url, option, ())
    if found.embeddings == "none":
        raise UserError(f"{option} {url}: this run kept no embeddings; annotate the archive with --embeddings once")
    return Source(urls.absolute(url), record.finished(url, option, _NEEDED))


def differing(now: pa.Table, before: pa.Table) -> pa.Array:
    """Paths of the recordings of which two `tables.RECORDINGS_SEEN` say different things, or one of them nothing.

    Args:
        now, before: one row a recording each; `hits` are not looked at.
    """
    at = pc.index_in(now["path"], before["path"])
    same = pc.is_valid(at)
    for name in now.column_names:
        if name != "hits":
            one, other = now[name], before[name].take(at)
            equal = pc.fill_null(pc.equal(one, other), False)
            same = pc.and_(same, pc.or_(equal, pc.and_(pc.is_null(one), pc.is_null(other))))
    gone = before["path"].filter(pc.invert(pc.is_in(before["path"], now["path"])))
    return pa.chunked_array([*now["path"].filter(pc.invert(same)).chunks, *gone.chunks], pa.string()).combine_chunks()


def with_hits(recordings: pa.Table, before: pa.Table, done: pa.Table, again: pa.Array) -> pa.Table:
    """A `tables.RECORDINGS_SEEN` with hits as a matching counts them.

    Args:
        recordings: of the source.
        before: as an earlier matching left them.
        done: path and hits, any number of rows a recording, of this matching.
        again: paths that were matched now, whether they had hits or not.
    """
    kept = before.filter(pc.invert(pc.is_in(before["path"], again))).select(["path", "hits"])
    counted = pa.concat_tables([kept, done.select(["path", "hits"])]).group_by("path").aggregate([("hits", "sum")])
    hits = pc.fill_null(counted["hits_sum"].take(pc.index_in(recordings["path"], counted["path"])), 0)
    return recordings.set_column(recordings.schema.get_field_index("hits"), "hits", hits.cast(pa.int64()))
